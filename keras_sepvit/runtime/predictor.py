"""Classifies images with an exported model."""

import os
import pathlib
from typing import NamedTuple

import numpy as np

from keras_sepvit.configs import IMAGENET_MEAN, IMAGENET_VARIANCE
from keras_sepvit.record import (
    CROP,
    INTERPOLATION,
    PIXELS,
    check_crop,
    check_interpolation,
)
from keras_sepvit.runtime import labels as naming
from keras_sepvit.runtime.images import read_image
from keras_sepvit.runtime.litert import LiteRTModel
from keras_sepvit.runtime.onnx import CPU, OnnxModel
from keras_sepvit.warn import warn

_MODELS = {".tflite": LiteRTModel, ".onnx": OnnxModel}

# The kinds of files that `Predictor` takes.
SUFFIXES = tuple(_MODELS)

# Integers with and without quantisation parameters; see the classes of models.
_INPUT_DTYPES = ("float32", "float16", "int8", "uint8", "int16")

# Of models that take batches of any size: enough to use the processor well.
_LARGEST_BATCH = 16

# Of images that a user has normalised, by 255 or by ImageNet's mean and deviation.
_LARGEST_NORMALISED = 3

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


class ImageClassifier:
    """What all classifiers of images share, whatever runs them.

    Attributes:
        image_shape: (height, width, channels) of the images.
        class_names: The name of each class.
        crop: Share of a photo's shorter side that the centre crop keeps.
        interpolation: `"bicubic"` or `"bilinear"`, of the resize of photos.
        record: The model's `Record`; None if it has none.
    """

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
        return self._probabilities(_checked_images(images, self.image_shape))

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
    """An image classifier from a .tflite or .onnx file.

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
            most 1, instead of the record's.
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

    def __init__(
        self,
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
        self._model = open_model(path, threads, providers, delegates)
        self._batch_size, self.image_shape, self._classes = _signature(self._model, path)
        self.class_names = _class_names(labels, self._model.class_names, self._classes, path)
        record = self._model.record
        if record is not None and record.activation not in ("softmax", "sigmoid"):
            raise ValueError(
                f"{path} gives {'logits' if record.activation else 'features'}, no probabilities. "
                "Export a classifier with `probabilities=True`, which adds a softmax."
            )
        self._pixels = _checked_pixels(pixels, record, path, self.image_shape[-1])
        self._follow(record, crop, interpolation)

    def _probabilities(self, images):
        if self._pixels == "imagenet":
            images = (images - np.float32(IMAGENET_MEAN)) / np.sqrt(np.float32(IMAGENET_VARIANCE))
        size = self._batch_size or _LARGEST_BATCH
        outputs = [np.empty((0, self._classes), "float32")]
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            # A batch of fixed size is filled up, and what that adds cut off.
            missing = self._batch_size - len(batch) if self._batch_size else 0
            padded = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
            outputs.append(self._model(padded)[: len(batch)])
        probabilities = np.concatenate(outputs)
        if probabilities.size and not (
            -_ROUNDING <= probabilities.min() and probabilities.max() <= 1 + _ROUNDING
        ):
            raise ValueError(
                "The model's outputs are no probabilities: they are between "
                f"{probabilities.min():g} and {probabilities.max():g}. Export the model with "
                "`probabilities=True`, which adds a softmax."
            )
        return probabilities


def open_model(path, threads=None, providers=None, delegates=None):
    """The model in a .tflite or .onnx file, whatever it computes: a function of a batch.

    It takes images as the file does; nothing is normalised. `outputs` gives the outputs
    by name. Arguments and errors are those of `Predictor`.
    """
    _check_threads(threads)
    path = pathlib.Path(path)
    model_class = _MODELS.get(path.suffix.lower())
    if model_class is None:
        raise ValueError(
            f"Unknown kind of model file: '{path}'. Expected a name ending in "
            f"{' or '.join(SUFFIXES)}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"File not found: {path}.")
    if model_class is LiteRTModel:
        if providers is not None:
            raise ValueError(f"`providers` are ONNX Runtime's. {path} runs with LiteRT.")
        return LiteRTModel(path, threads, delegates or ())
    if delegates is not None:
        raise ValueError(f"`delegates` are LiteRT's. {path} runs with ONNX Runtime.")
    return OnnxModel(path, threads, CPU if providers is None else providers)


def best_classes(probabilities, names, k):
    """The `k` most probable classes as `Prediction`s, the most probable first.

    Args:
        probabilities: Array of shape (classes,).
        names: The name of each class.
        k: How many; all if there are fewer classes.
    """
    order = np.argsort(-probabilities, kind="stable")[:k]
    return [Prediction(int(i), names[i], float(probabilities[i])) for i in order]


def _check_threads(threads):
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ValueError(f"`threads` must be a positive integer. Received: threads={threads!r}.")


def _first(*values):
    """The first that is not None."""
    return next(value for value in values if value is not None)


def _checked_pixels(pixels, record, path, channels):
    """What a file takes, of `PIXELS`: as given, as its record says, or numbers of 0..255."""
    known = PIXELS[:2] if channels == 3 else PIXELS[:1]
    if pixels is not None and pixels not in known:
        raise ValueError(
            f"Unknown `pixels`: {pixels!r}. Expected one of {', '.join(map(repr, known))} for "
            f"images of {channels} channels."
        )
    pixels = _first(pixels, record and record.pixels, "0..255")
    if pixels not in known:
        raise ValueError(
            f"{path} does not tell what pixels it takes: the model that it was exported from has "
            "no Normalization or Rescaling layer. Put one in front of the model, or give `pixels`."
        )
    return pixels


def _signature(model, path):
    """Batch size (None for any), image shape and number of classes of a model."""
    inputs, outputs = model.input_shapes, model.output_shapes
    if [*map(len, inputs)] != [4] or [*map(len, outputs)] != [2]:
        raise ValueError(
            f"{path} is no image classifier: expected one input (batch, height, width, channels) "
            f"and one output (batch, classes). Received: {inputs} and {outputs}."
        )
    batch_size, height, width, channels = inputs[0]
    classes = outputs[0][1]
    if None in (height, width, classes):
        raise ValueError(
            f"{path} takes images of any size or gives any number of classes: its input is "
            f"{inputs[0]}, its output {outputs[0]}. Export it for one size of images."
        )
    if channels not in (1, 3):
        raise ValueError(
            f"{path} takes images of the shape {inputs[0][1:]}; expected (height, width, "
            "channels), with 1 or 3 channels."
        )
    (dtype,) = model.input_dtypes
    if dtype not in _INPUT_DTYPES:
        raise ValueError(
            f"{path} takes images as {dtype}; expected one of {', '.join(_INPUT_DTYPES)}."
        )
    return batch_size, (height, width, channels), classes


def _class_names(labels, in_file, classes, path):
    if labels is not None:
        return naming.class_names(labels, classes)
    if in_file is None:
        return naming.numbered(classes)
    if len(in_file) != classes:
        raise ValueError(
            f"{path} holds {len(in_file)} class names for its {classes} classes. Give the right "
            "ones as `labels`."
        )
    return in_file


def _checked_images(images, image_shape):
    """`images` as float32; refuses other shapes, and what are no finite real numbers."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1:] != image_shape:
        expected = ", ".join(map(str, image_shape))
        raise ValueError(
            f"`images` must have the shape (count, {expected}). Received an array of shape "
            f"{images.shape}. `keras_sepvit.runtime.read_image` reads image files at a size."
        )
    if images.dtype.kind not in "uif":
        raise ValueError(
            f"`images` must be integers or floats of 0..255. Received: {images.dtype}."
        )
    images = images.astype("float32")
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    if not finite.all():
        raise ValueError(
            f"`images` must be finite. Received NaN or infinite values in {np.sum(~finite)} of "
            f"{len(images)} images; the first is images[{finite.argmin()}]."
        )
    if images.size and 0 < (largest := np.abs(images).max()) <= _LARGEST_NORMALISED:
        warn(
            f"`images` are taken as 0..255, but no value exceeds {largest:.3g}, which is nearly "
            "black. Multiply images of 0..1 by 255, and do not normalise them."
        )
    return images
