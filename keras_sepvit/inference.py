"""Predictions with Keras models, as `keras_sepvit.runtime` makes them with exported files."""

import dataclasses
import os
import pathlib

import keras
import numpy as np

import keras_sepvit.classification.classifier as classifier
from keras_sepvit import __version__, scores
from keras_sepvit.detection import prediction as detection
from keras_sepvit.detection.detector import Detector, is_detector
from keras_sepvit.detection.mask_rcnn import MaskRCNN
from keras_sepvit.instances.segmenter import is_instance_segmenter
from keras_sepvit.record import (
    OF_WHOLE_PHOTOS,
    RUN_RECORD_NAME,
    Record,
    attach,
    check_crop,
    check_interpolation,
    read_record,
)
from keras_sepvit.runtime import (
    ImageClassifier,
    ImageDetector,
    ImageInstanceSegmenter,
    ImageSegmenter,
)
from keras_sepvit.runtime import labels as naming
from keras_sepvit.runtime.detector import THRESHOLD
from keras_sepvit.segmentation.prediction import segment
from keras_sepvit.segmentation.segmenter import is_segmenter
from keras_sepvit.validation import positive_int, refuse_path, window_pair
from keras_sepvit.weights.files import check_file

_CLASSIFIER, _SEGMENTER, _DETECTOR = "image classifier", "segmenter", "detector"
_INSTANCE_SEGMENTER = "instance segmenter"
_TASKS = {
    _CLASSIFIER: "classification",
    _SEGMENTER: "segmentation",
    _DETECTOR: "detection",
    _INSTANCE_SEGMENTER: "instances",
}
_MOST_CLASSES = 255  # of class maps
_OUTPUTS = {
    _CLASSIFIER: "(batch, classes)",
    _SEGMENTER: f"(batch, height, width, classes) of the same size, of up to {_MOST_CLASSES} "
    "classes",
}


class KerasPredictor(ImageClassifier):
    """An image classifier of Keras, with the methods of `keras_sepvit.runtime.Predictor`.

    A model without a Normalization or Rescaling layer gets images normalised with
    ImageNet's mean and deviation; logits get a softmax, a single one a sigmoid. What the
    arguments do not say, the model's record does, if it has one.

    Args:
        model: A Keras model of one image input, (batch, height, width, channels), and one
            output, (batch, classes); or the path of its `.keras` file, as `load_model` takes it.
        labels: The names of the classes: a text file with one a line, or a sequence of
            strings. By default the record's, else ImageNet's for 1000 classes, else their
            numbers.
        image_size: (height, width) of the images, for a model that takes any.
        crop: Share of a photo's shorter side that the centre crop keeps, above 0 and at
            most 1. By default the record's, else 0.875.
        interpolation: `"bicubic"` or `"bilinear"`, of the resize of photos. By default the
            record's, else `"bicubic"`.
        activation: What makes probabilities of the outputs: `"softmax"`, `"sigmoid"`, or
            `"none"` where they are probabilities. By default the record or the model tells.
        batch_size: Images computed at a time.

    Attributes:
        image_shape: (height, width, channels) of the images.
        class_names: The name of each class.
        crop: Share of a photo's shorter side that the centre crop keeps.
        interpolation: `"bicubic"` or `"bilinear"`, of the resize of photos.
        record: The model's `Record`; None if it has none.

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
        crop=None,
        interpolation=None,
        activation=None,
        batch_size=16,
    ):
        self._model = model = load_model(model) if isinstance(model, (str, os.PathLike)) else model
        if is_detector(model):
            raise ValueError(
                "The model is a detector, no image classifier. Objects in photos are found by "
                "`keras_sepvit.inference.KerasDetector` and `keras_sepvit.detection.detect`."
            )
        self.image_shape = image_shape(model, image_size)
        self._follow(getattr(model, "record", None), crop, interpolation)
        if labels is None and self.record is not None:
            labels = self.record.class_names
        self.class_names = _class_names(labels, model.outputs[0].shape[-1])
        _, self._activation = scores.activations(model, activation)
        self._batch_size = positive_int("batch_size", batch_size)

    def _probabilities(self, images):
        inputs = scores.preprocess(self._model, images)
        found = [np.empty((0, len(self.class_names)), "float32")]
        for start in range(0, len(inputs), self._batch_size):
            outputs = self._model.predict_on_batch(inputs[start : start + self._batch_size])
            found.append(scores.probabilities(outputs, self._activation))
        return np.concatenate(found)


class KerasSegmenter(ImageSegmenter):
    """A segmenter of Keras, with the methods of what `keras_sepvit.runtime.Predictor` makes of one.

    Args:
        model: A Keras model from images to logits of their size, such as a `SemanticFPN` or
            `UPerNet`; or the path of its `.keras` file, as `load_model` takes it. Without a
            Normalization or Rescaling layer it gets images normalised with ImageNet's mean and
            deviation.
        labels: The names of the classes, as for `KerasPredictor`. By default the record's, else
            their numbers.

    Attributes:
        image_shape: (height, width, 3) of the images, with None for any.
        class_names: The name of each class.
        record: The model's `Record`; None if it has none.

    Raises:
        ValueError: if the model is no segmenter as above, or has another number of classes.
    """

    def __init__(self, model, labels=None):
        _open_in(self, model, labels, _SEGMENTER)

    def segment(self, photo):
        (class_map,) = segment(self._model, [photo])
        return class_map

    def _answers(self, images):
        return self._model.predict(scores.preprocess(self._model, images), verbose=0)


class KerasDetector(ImageDetector):
    """A detector of Keras, with the methods of what `keras_sepvit.runtime.Predictor` makes of one.

    Args:
        model: A detector of this package, such as a `RetinaNet`; or the path of its `.keras` file,
            as `load_model` takes it. Without a Normalization or Rescaling layer it gets images
            normalised with ImageNet's mean and deviation.
        labels: The names of the classes, as for `KerasPredictor`. By default the record's, else
            their numbers.

    Attributes:
        image_shape: (height, width, 3) of the images, with None for any.
        class_names: The name of each class.
        record: The model's `Record`; None if it has none.

    Raises:
        ValueError: if the model is no detector as above, or has another number of classes.
    """

    def __init__(self, model, labels=None):
        _open_in(self, model, labels, _DETECTOR)

    def detect(self, photo, threshold=THRESHOLD):
        (found,) = detection.detect(self._model, [photo], threshold, self.class_names)
        return found

    def _answers(self, images):
        given = images if len(images) else np.zeros((1, *images.shape[1:]), "float32")
        # One at a time: the maps of a large image fill the memory.
        answers = [detection.predict(self._model, image[np.newaxis]) for image in given]
        return {
            name: np.concatenate([answer[name] for answer in answers])[: len(images)]
            for name in answers[0]
        }


class KerasInstanceSegmenter(ImageInstanceSegmenter, KerasDetector):
    """An instance segmenter of Keras, with the methods of what `keras_sepvit.runtime.Predictor`
    makes of one.

    Args:
        model: A `MaskRCNN`, or the path of its `.keras` file; as for `KerasDetector`.
        labels: As for `KerasDetector`.

    Attributes, Raises:
        As `KerasDetector`.
    """

    def __init__(self, model, labels=None):
        _open_in(self, model, labels, _INSTANCE_SEGMENTER)


def _open_in(predictor, model, labels, kind):
    """Gives a predictor of whole photos its model, a Keras model or a path, and attributes."""
    predictor._model = model = load_model(model) if isinstance(model, (str, os.PathLike)) else model
    (_, *image_shape), (*_, classes) = _shapes(model, kind)
    predictor.image_shape = tuple(image_shape)
    predictor.record = getattr(model, "record", None)
    if labels is None and predictor.record is not None:
        labels = predictor.record.class_names
    numbered = naming.numbered(classes)
    predictor.class_names = numbered if labels is None else naming.class_names(labels, classes)


def load_model(path):
    """The Keras model in a file, not compiled, with its record.

    Args:
        path: A `.keras` file. Its record is that in the file, else that of the training
            folder that it lies in; see `attach_record_of`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file or the record cannot be read.
    """
    check_file(path)
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # what Keras raises depends on where the file is broken
        raise ValueError(f"{path} cannot be loaded as a Keras model: {error}") from error
    attach_record_of(path, model)
    return model


def attach_record(model, class_names=None, *, crop=None, interpolation=None, activation=None):
    """Gives a model of Keras, of any task, a record of how it is evaluated, for its `.keras` files.

    Predictions, evaluations and exports of the model, and of the files that it is saved to from
    then on, follow it. The models of a training run have theirs.

    Args:
        model: As for `KerasPredictor`, `KerasSegmenter`, `KerasDetector` or
            `KerasInstanceSegmenter`, but no path.
        class_names: The names of the classes, in order: as `labels` there.
        crop, interpolation: As for `KerasPredictor`; by default not known. As the next, of
            classifiers only.
        activation: What makes probabilities of the outputs, as there.

    Returns:
        The `Record`, which is the model's attribute `record`.

    Raises:
        ValueError: if the model is none of them, or an argument does not go with it.

    Example:

    ```python
    attach_record(model, class_names=["cat", "dog"], crop=1.0)
    model.save("pets.keras")
    KerasPredictor("pets.keras").top("photo.jpg")
    ```
    """
    refuse_path("model", model)
    maps = [len(tensor.shape) for tensor in model.outputs] == [4]
    kind = _kind_of(model, maps)
    (_, *size, channels), (*_, classes) = _shapes(model, kind)
    if class_names is not None:
        class_names = tuple(naming.class_names(class_names, classes))
    if kind == _CLASSIFIER:
        activation = scores.activations(model, activation)[0]
    else:
        if (crop, interpolation, activation) != (None, None, None):
            raise ValueError(
                "`crop`, `interpolation` and `activation` are for classifiers; the model is "
                f"{OF_WHOLE_PHOTOS[_TASKS[kind]]}. Leave them out."
            )
        interpolation, activation = "bilinear", "linear" if maps else None
    normalized = "imagenet" if channels == 3 else "unknown"
    record = Record(
        task=_TASKS[kind],
        image_size=tuple(size),
        channels=channels,
        pixels="0..255" if scores.normalizes_images(model) else normalized,
        crop=None if crop is None else check_crop(crop),
        interpolation=interpolation and check_interpolation(interpolation),
        activation=activation,
        class_names=class_names,
        version=__version__,
    )
    attach(model, record)
    return record


def attach_record_of(path, model):
    """Gives a model the record of its file: that in it, else of the folder that it lies in.

    A folder tells by the `record.json` that `keras-sepvit train` writes, or names of classes by
    a `classes.txt`.
    """
    beside, names = (pathlib.Path(path).with_name(n) for n in (RUN_RECORD_NAME, "classes.txt"))
    record = getattr(model, "record", None) or read_record(path)
    if record is None and beside.is_file():
        record = Record.from_json(beside.read_text(encoding="utf-8"), beside)
    if record is not None:
        attach(model, record)
    elif names.is_file():
        record = attach_record(model)  # whose names are checked where they are used
        attach(model, dataclasses.replace(record, class_names=tuple(naming.read_names(names))))


def image_shape(model, image_size=None):
    """(height, width, channels) of the images for a classifier, segmenter or detector.

    Args:
        model: A Keras model.
        image_size: (height, width), for a model that takes any; None for the model's own, or for
            that of a detector's record.

    Raises:
        ValueError: if the model is none of them, or takes images of another size.
    """
    kind = _kind_of(model, is_segmenter(model))
    if is_detector(model) and image_size is None:
        image_size = detection.image_size(model)
    (_, height, width, channels), _ = _shapes(model, kind)
    if channels not in (1, 3):
        raise ValueError(f"The model takes images of {channels} channels; expected 1 or 3.")
    if image_size is None and None in (height, width):
        raise ValueError("The model takes images of any size: say which with `image_size`.")
    image_size = None if image_size is None else window_pair("image_size", image_size)
    height, width = height or image_size[0], width or image_size[1]
    if image_size not in (None, (height, width)):
        raise ValueError(
            f"`image_size`: the model takes images of {height} x {width}. Received: "
            f"{image_size[0]} x {image_size[1]}."
        )
    return height, width, channels


def _kind_of(model, gives_maps):
    if is_instance_segmenter(model):
        return _INSTANCE_SEGMENTER
    return _DETECTOR if is_detector(model) else _SEGMENTER if gives_maps else _CLASSIFIER


def _shapes(model, kind):
    """Shapes of the one input and the one output of a model of a kind; refuses others.

    Of a detector's output the number of classes alone, behind None.
    """
    inputs = [tensor.shape for tensor in model.inputs]
    outputs = [tensor.shape for tensor in model.outputs]
    if kind in (_DETECTOR, _INSTANCE_SEGMENTER):
        expected = Detector if kind == _DETECTOR else MaskRCNN
        if not isinstance(model, expected):
            example = "RetinaNet" if kind == _DETECTOR else "MaskRCNN"
            raise ValueError(
                f"The model is no {kind} of keras_sepvit, such as a `{example}`. Received: "
                f"`{getattr(model, 'name', type(model).__name__)}`."
            )
        return inputs[0], (None, model.num_classes)
    fits = [*map(len, inputs + outputs)] == [4, 4 if kind == _SEGMENTER else 2]
    if fits and kind == _SEGMENTER:
        fits = inputs[0][1:3] == outputs[0][1:3] and outputs[0][-1] <= _MOST_CLASSES
        fits = fits and not hasattr(model, "pyramid_outputs")  # features of any size
    if not fits:
        raise ValueError(
            f"The model is no {kind}: expected one input (batch, height, width, channels) "
            f"and one output {_OUTPUTS[kind]}. Received: {inputs} and {outputs}."
        )
    return inputs[0], outputs[0]


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
