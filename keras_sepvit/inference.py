"""Predictions with Keras models, as `keras_sepvit.runtime` makes them with exported files."""

import pathlib

import numpy as np

import keras_sepvit.classification.classifier as classifier
from keras_sepvit import scores
from keras_sepvit.record import (
    CROP,
    INTERPOLATION,
    RUN_RECORD_NAME,
    Record,
    check_crop,
    check_interpolation,
)
from keras_sepvit.runtime import ImageClassifier
from keras_sepvit.runtime import labels as naming

_BATCH_SIZE = 16


class KerasPredictor(ImageClassifier):
    """An image classifier of Keras, with the methods of `keras_sepvit.runtime.Predictor`.

    A model without a Normalization or Rescaling layer gets images normalised with
    ImageNet's mean and deviation; logits get a softmax, a single one a sigmoid.

    Args:
        model: A Keras model of one image input, (batch, height, width, channels), and one
            output, (batch, classes).
        labels: The names of the classes: a text file with one a line, or a sequence of
            strings. By default ImageNet's for 1000 classes, else their numbers.
        image_size: (height, width) of the images, for a model that takes any.
        crop: Share of a photo's shorter side that the centre crop keeps, above 0 and at
            most 1.
        interpolation: `"bicubic"` or `"bilinear"`, of the resize of photos.
        activation: What makes probabilities of the outputs: `"softmax"`, `"sigmoid"`, or
            `"none"` where they are probabilities. By default the model tells.

    Attributes:
        image_shape: (height, width, channels) of the images.
        class_names: The name of each class.
        crop: Share of a photo's shorter side that the centre crop keeps.
        interpolation: `"bicubic"` or `"bilinear"`, of the resize of photos.

    Raises:
        ValueError: if the model is no image classifier as above, or an argument does not go
            with it.
    """

    def __init__(
        self,
        model,
        labels=None,
        *,
        image_size=None,
        crop=CROP,
        interpolation=INTERPOLATION,
        activation=None,
    ):
        self._model = model
        self.image_shape = image_shape(model, image_size)
        self.class_names = _class_names(labels, model.outputs[0].shape[-1])
        self.crop, self.interpolation = check_crop(crop), check_interpolation(interpolation)
        self._activation = scores.missing_activation(model, activation)

    def _probabilities(self, images):
        inputs = scores.preprocess(self._model, images)
        outputs = self._model.predict(inputs, batch_size=_BATCH_SIZE, verbose=0)
        return scores.probabilities(outputs, self._activation)


def image_shape(model, image_size=None):
    """(height, width, channels) of the images for a classifier.

    Args:
        model: A Keras model.
        image_size: (height, width), for a model that takes any; None for the model's own.

    Raises:
        ValueError: if the model is no image classifier, or takes images of another size.
    """
    inputs = [tensor.shape for tensor in model.inputs]
    outputs = [tensor.shape for tensor in model.outputs]
    if [*map(len, inputs)] != [4] or [*map(len, outputs)] != [2]:
        raise ValueError(
            "The model is no image classifier: expected one input (batch, height, width, channels) "
            f"and one output (batch, classes). Received: {inputs} and {outputs}."
        )
    height, width, channels = inputs[0][1:]
    if channels not in (1, 3):
        raise ValueError(f"The model takes images of {channels} channels; expected 1 or 3.")
    if image_size is None and None in (height, width):
        raise ValueError("The model takes images of any size: say which with `image_size`.")
    height, width = height or image_size[0], width or image_size[1]
    if image_size not in (None, (height, width)):
        raise ValueError(
            f"`image_size`: the model takes images of {height} x {width}. Received: "
            f"{image_size[0]} x {image_size[1]}."
        )
    return height, width, channels


def evaluation_of_run(path):
    """How the trainer evaluated a model in its folder, as arguments of `KerasPredictor`.

    Args:
        path: A model, beside the `record.json` that `keras-sepvit train` writes, or beside
            a `classes.txt`; any other gives an empty dict.

    Returns:
        Dict of `labels`, `crop` and `interpolation`, as far as the record tells.
    """
    folder = pathlib.Path(path).parent
    path = folder / RUN_RECORD_NAME
    if not path.is_file():
        names = folder / "classes.txt"
        return {"labels": naming.read_names(names)} if names.is_file() else {}
    record = Record.from_json(path.read_text(encoding="utf-8"), path)
    found = {
        "labels": record.class_names,
        "crop": record.crop,
        "interpolation": record.interpolation,
    }
    return {name: value for name, value in found.items() if value is not None}


def _class_names(labels, classes):
    """The names of the classes: as given, ImageNet's, or their numbers."""
    if labels is not None:
        return naming.class_names(labels, classes)
    names = _imagenet_names() if classes == 1000 else None
    return names or naming.numbered(classes)


def _imagenet_names():
    """ImageNet's 1000 class names, which Keras downloads once; None if it cannot."""
    try:
        rows = classifier.decode_predictions(np.eye(1000), top=1)
    except Exception:  # Keras raises a plain Exception where the download fails
        return None
    return [name for ((_, name, _),) in rows]
