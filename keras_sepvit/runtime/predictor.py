"""Classifies images with an exported model."""

import os
import pathlib
from typing import NamedTuple

import numpy as np

from keras_sepvit.runtime import labels as naming
from keras_sepvit.runtime.images import read_image
from keras_sepvit.runtime.litert import LiteRTModel
from keras_sepvit.runtime.onnx import OnnxModel

_MODELS = {".tflite": LiteRTModel, ".onnx": OnnxModel}

# The kinds of files that `Predictor` takes.
SUFFIXES = tuple(_MODELS)

# Integers with and without quantisation parameters; see the classes of models.
_INPUT_DTYPES = ("float32", "float16", "int8", "uint8", "int16")

# Of models that take batches of any size: enough to use the processor well.
_LARGEST_BATCH = 16

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


class Predictor:
    """An image classifier from a .tflite or .onnx file.

    The model must take one batch of images (float, or integers with or without
    quantisation parameters) in the layout (batch, height, width, channels), and
    give one (batch, classes) of probabilities. Images are numbers of 0..255: the
    normalisation is part of the model, as it is in one made with
    `include_preprocessing=True` or exported with `normalize=True`.

    One thread at a time may use a predictor.

    Args:
        path: The file.
        threads: Number of threads that a prediction may use; None for the
            runtime's own choice.
        labels: The names of the classes: a text file with one a line, or a
            sequence of strings. By default those in the file, else their numbers.

    Attributes:
        image_shape: (height, width, channels) of the images.
        class_names: The name of each class.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the runtime for this kind of file is not installed.
        ValueError: if the file is damaged, or no image classifier as above, and
            for `labels` that do not go with it.

    Example:

    ```python
    predictor = Predictor("digits.tflite")
    for prediction in predictor.top("seven.png", k=3):
        print(prediction.label, prediction.probability)
    ```
    """

    def __init__(self, path, threads=None, labels=None):
        _check_threads(threads)
        self._model = open_model(path, threads)
        self._batch_size, self.image_shape, self._classes = _signature(self._model, path)
        self.class_names = _class_names(labels, self._model.class_names, self._classes, path)

    def predict(self, images):
        """Probabilities of the classes.

        Args:
            images: Array of shape (count, height, width, channels), integers or
                floats of 0..255.

        Returns:
            float32 array of shape (count, classes).

        Raises:
            ValueError: for an array of another shape or type, and if the outputs
                are no probabilities.
        """
        images = _checked_images(images, self.image_shape)
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
            image = read_image(image, *self.image_shape)
        return best_classes(self.predict(np.asarray(image)[None])[0], self.class_names, k)


def open_model(path, threads=None):
    """The model in a .tflite or .onnx file, whatever it computes: a function of a batch.

    Arguments and errors are those of `Predictor`.
    """
    path = pathlib.Path(path)
    model_class = _MODELS.get(path.suffix.lower())
    if model_class is None:
        raise ValueError(
            f"Unknown kind of model file: '{path}'. Expected a name ending in "
            f"{' or '.join(SUFFIXES)}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"File not found: {path}.")
    return model_class(path, threads)


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
    """`images` as float32; refuses other shapes, and what are no real numbers."""
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
    return images.astype("float32")
