"""Classifies images with an exported model."""

import os
from typing import NamedTuple

import numpy as np

from keras_sepvit.record import (
    CROP,
    INTERPOLATION,
    OF_WHOLE_PHOTOS,
    check_crop,
    check_interpolation,
)
from keras_sepvit.runtime.detector import FileDetector
from keras_sepvit.runtime.files import Hinted, ImageFile, checked_images, open_model
from keras_sepvit.runtime.images import read_image
from keras_sepvit.runtime.instances import FileInstanceSegmenter
from keras_sepvit.runtime.segmenter import FileSegmenter

# What `Predictor` makes of a file by the task in its record; else a classifier.
_FILES = {
    "segmentation": FileSegmenter,
    "detection": FileDetector,
    "instances": FileInstanceSegmenter,
}

# Rounding may take a probability that far out of 0..1.
_ROUNDING = 1e-2


class Prediction(NamedTuple):
    """A class that an image may show.

    Attributes:
        number: Number of the class, from 0.
        label: Its name.
        probability: 0..1.
    """

    number: int
    label: str
    probability: float


class ImageClassifier(Hinted):
    """What all classifiers of images share, whatever runs them.

    Attributes:
        image_shape: (height, width, channels) of the images.
        class_names: The name of each class.
        crop: Share of a photo's shorter side that the centre crop keeps.
        interpolation: `"bicubic"` or `"bilinear"`, of the resize of photos.
        record: The model's `Record`; None if it has none.
    """

    hint = "It is a classifier: `top(image)` gives the most probable classes of an image."

    def _follow(self, record, crop, interpolation):
        """Reads photos as given, else as a record says, else as in the evaluation on ImageNet."""
        self.record = record
        self.crop = check_crop(_first(crop, record and record.crop, CROP))
        self.interpolation = check_interpolation(
            _first(interpolation, record and record.interpolation, INTERPOLATION)
        )

    def predict(self, images):
        """Probabilities of the classes.

        Args:
            images: Array of shape (count, height, width, channels), integers or
                floats of 0..255.

        Returns:
            float32 array of shape (count, classes).

        Raises:
            ValueError: for an array of another shape or type, values that are not
                finite, and if the outputs are no probabilities. A warning tells of
                images that are not of 0..255.
        """
        return self._probabilities(checked_images(images, self.image_shape))

    def read_image(self, path):
        """An image file as `predict` takes it: uint8 array of `image_shape`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it cannot be read as an image.
        """
        return read_image(path, *self.image_shape, self.crop, self.interpolation)

    def top(self, image, k=5):
        """The most probable classes of one image, the most probable first.

        Args:
            image: An image file, which `read_image` resizes and crops; or an array
                of shape (height, width, channels), numbers of 0..255.
            k: How many classes to return; all if there are fewer.

        Returns:
            List of `Prediction`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for a file that is no image, an array of another shape, and
                a `k` below 1.
        """
        if k < 1:
            raise ValueError(f"`k` must be at least 1. Received: k={k!r}.")
        if isinstance(image, (str, os.PathLike)):
            image = self.read_image(image)
        return best_classes(self.predict(np.asarray(image)[None])[0], self.class_names, k)


class Predictor(ImageClassifier):
    """An image classifier from a .tflite or .onnx file; a `FileSegmenter`, `FileDetector` or
    `FileInstanceSegmenter` from files of such.

    The model must take one batch of images (float, or integers with or without
    quantisation parameters) in the layout (batch, height, width, channels), and
    give one (batch, classes) of probabilities. Files that `keras_sepvit.export` writes
    hold a record of how images go in (`keras_sepvit.record.Record`), which is followed.
    Others are taken to want numbers of 0..255, and photos as in the evaluation on
    ImageNet.

    One thread at a time may use a predictor.

    Args:
        path: The file.
        threads: Number of threads that a prediction may use; None for the
            runtime's own choice.
        labels: The names of the classes: a text file with one a line, or a
            sequence of strings. By default those in the file, else their numbers.
        pixels: What the model takes, instead of what the file's record says: `"0..255"`,
            or `"imagenet"` for images normalised with ImageNet's mean and deviation.
        crop: Share of a photo's shorter side that the centre crop keeps, above 0 and at
            most 1, instead of the record's. As the next, of classifiers only.
        interpolation: `"bicubic"` or `"bilinear"`, instead of the record's.
        providers: For .onnx files, ONNX Runtime's execution providers, the preferred
            ones first; the CPU's by default.
        delegates: For .tflite files, paths of libraries of LiteRT delegates.

    Attributes:
        image_shape: (height, width, channels) of the images.
        class_names: The name of each class.
        crop: Share of a photo's shorter side that the centre crop keeps.
        interpolation: `"bicubic"` or `"bilinear"`, of the resize of photos.
        record: The file's `Record`; None if it has none.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the runtime for this kind of file is not installed.
        ValueError: if the file is damaged, or no image classifier as above; if its record
            says that it gives no probabilities, or not what it takes; and for arguments
            that do not go with it.

    Example:

    ```python
    predictor = Predictor("digits.tflite")
    for prediction in predictor.top("seven.png", k=3):
        print(prediction.label, prediction.probability)
    ```
    """

    def __new__(
        cls,
        path,
        threads=None,
        labels=None,
        *,
        pixels=None,
        crop=None,
        interpolation=None,
        providers=None,
        delegates=None,
    ):
        model = open_model(path, threads, providers, delegates)
        record = model.record
        if record is not None and record.task in _FILES:
            if (crop, interpolation) != (None, None):
                raise ValueError(
                    f"{path} is {OF_WHOLE_PHOTOS[record.task]}'s, into whose images photos are "
                    "fitted whole: leave out `crop` and `interpolation`."
                )
            return _FILES[record.task](path, model, labels, pixels)
        if record is not None and record.activation not in ("softmax", "sigmoid"):
            raise ValueError(
                f"{path} gives {'logits' if record.activation else 'features'}, no probabilities. "
                "Export a classifier with `probabilities=True`, which adds a softmax."
            )
        predictor = super().__new__(cls)
        answers = {(2,): "one output (batch, classes)"}
        predictor._file = file = ImageFile(path, model, pixels, "image classifier", answers)
        predictor.image_shape = file.image_shape
        predictor.class_names = file.class_names(labels, *file.output_shape)
        predictor._follow(record, crop, interpolation)
        return predictor

    def _probabilities(self, images):
        probabilities = self._file(images)
        if probabilities.size and not (
            -_ROUNDING <= probabilities.min() and probabilities.max() <= 1 + _ROUNDING
        ):
            raise ValueError(
                "The model's outputs are no probabilities: they are between "
                f"{probabilities.min():g} and {probabilities.max():g}. Export the model with "
                "`probabilities=True`, which adds a softmax."
            )
        return probabilities


def best_classes(probabilities, names, k):
    """The `k` most probable classes as `Prediction`s, the most probable first.

    Args:
        probabilities: Array of shape (classes,).
        names: The name of each class.
        k: How many; all if there are fewer classes.
    """
    order = np.argsort(-probabilities, kind="stable")[:k]
    return [Prediction(int(i), names[i], float(probabilities[i])) for i in order]


def _first(*values):
    """The first that is not None."""
    return next(value for value in values if value is not None)
