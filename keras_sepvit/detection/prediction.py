"""Objects in photos, in pixels of the photos."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_sepvit.configs import MEAN_COLOUR
from keras_sepvit.detection.detector import Detector, convert_boxes
from keras_sepvit.runtime import labels as naming
from keras_sepvit.runtime.canvas import fit_into, fit_sides, turned
from keras_sepvit.runtime.detector import THRESHOLD, check_threshold, each, in_photo, named
from keras_sepvit.runtime.images import check_photos, read_photo
from keras_sepvit.scores import preprocess
from keras_sepvit.validation import check_sides, positive_int, refuse_path

# Of the evaluation on COCO: what a photo's shorter and longer side become at most.
_SIDES = (800, 1333)

# Sides of images for a model of any size: each shape is compiled anew by XLA.
_MULTIPLE = 32


def detect(
    model: keras.Model,
    photos: Iterable[str | os.PathLike[str] | Any],
    threshold: float = THRESHOLD,
    class_names: Sequence[str] | str | os.PathLike[str] | None = None,
    max_detections: int | None = None,
    batch_size: int = 1,
    sides: tuple[int, int] | None = None,
) -> list[dict[str, Any]]:
    """The objects in photos.

    Photos are fitted whole into the images that the model takes, in the upper left corner, with
    ImageNet's mean colour beside or below them: those of a model of one size; of one of any size
    those of its record, turned by a quarter for photos that stand where these lie. Without a
    record a photo becomes as large as `sides` allow, with that colour up to the next multiples of
    32: compiled anew for each size, on TensorFlow and JAX.

    Args:
        model: A detector of this package, such as a `RetinaNet` or `MaskRCNN`. Without a
            Normalization or Rescaling layer it gets images normalised with ImageNet's mean and
            deviation.
        photos: Image files of any kind that Pillow reads, or uint8 arrays (height, width, 3); of
            grey (height, width) or (height, width, 1); with transparency, which is dropped,
            (height, width, 4).
        threshold: Objects have scores above it, 0..1; and above the model's `score_threshold`.
        class_names: Names of the classes in order, or a text file with one a line; by default
            those of the model's record, else `"class 0"` and so on.
        max_detections: Most objects of a photo, the best; at most, and by default, the model's.
        batch_size: Images predicted at a time; of one shape, for a model of any size.
        sides: The most that a photo's shorter and longer side may become, for a model of any
            size. By default its record's image size, or (800, 1333), those of the evaluation on
            COCO.

    Returns:
        For each photo a dict of `"boxes"` (n, 4), float32 (left, top, right, bottom) in pixels of
        the upright photo; `"labels"` (n,), int32; `"confidence"` (n,), float32 of 0..1,
        descending; `"names"`, a list of n strings; and of a `MaskRCNN` `"masks"`, bool (n, height,
        width): the objects' pixels in the upright photo.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for what is no photo, naming it; another model; an argument out of its range.
    """
    check_photos(photos)
    detector = PhotoDetector(model, batch_size, sides)
    threshold = check_threshold(threshold)
    most = detector.most
    if max_detections is not None and positive_int("max_detections", max_detections) > most:
        raise ValueError(
            f"`max_detections` must be at most the model's, {most}. Received: {max_detections}. "
            "Build the model with more."
        )
    if class_names is None:
        class_names = getattr(getattr(model, "record", None), "class_names", None)
    if class_names is not None:
        class_names = naming.class_names(class_names, model.num_classes)
    found = dict(detector.detections(enumerate(photos), threshold))
    return [
        named({name: rows[:max_detections] for name, rows in found[key].items()}, class_names)
        for key in sorted(found)
    ]


class PhotoDetector:
    """A model, and the way in which photos are put to it.

    Args:
        model, batch_size, sides: As for `detect`.

    Attributes:
        classes: Number of classes.
        most: Most objects of a photo.
        shapes: The (height, width) of images that the model has had, a set.

    Raises:
        ValueError: for another model, or an argument out of its range.
    """

    def __init__(self, model, batch_size=1, sides=None):
        refuse_path("model", model)
        if not isinstance(model, Detector):
            raise ValueError(
                "`model` must be a detector of keras_sepvit, such as a `RetinaNet`. Received: "
                f"`{getattr(model, 'name', type(model).__name__)}`."
            )
        self.classes, self.most = model.num_classes, model.decoding["max_detections"]
        self.shapes = set()
        self._model = model
        self._batch_size = positive_int("batch_size", batch_size)
        self._sides = None if sides is None else check_sides(sides)
        self._canvas = image_size(model)
        if self._sides and None not in model.input_shape[1:3]:
            raise ValueError(
                "`sides` is for models of any image size. The model takes images of "
                f"{self._canvas[0]} x {self._canvas[1]}. Received: sides={sides}."
            )

    def detections(self, photos, threshold=0.0):
        """The objects in photos, predicted in batches of images of one shape.

        Args:
            photos: Iterable of pairs of a key and a photo, as `detect` takes it.
            threshold: Objects have scores above it.

        Returns:
            Generator of pairs of a key and a dict of `"boxes"`, `"labels"` and `"confidence"`, as
            `detect` gives them, and of a `MaskRCNN` `"masks"`, `ObjectMasks`; in the order in
            which they are ready: that of the photos for a `batch_size` of 1.
        """
        waiting = {}  # batches by the shape of their images
        for key, photo in photos:
            photo = read_photo(photo)
            placement, shape = self._placement(photo.shape[:2])
            batch = waiting.setdefault(shape, [])
            batch.append((key, placement, placement.place(photo)))
            if len(batch) == self._batch_size:
                yield from self._predict(shape, waiting.pop(shape), threshold)
        for shape, batch in waiting.items():
            yield from self._predict(shape, batch, threshold)

    def _placement(self, photo_size):
        """Where a photo of a size lies, and the (height, width) of the image."""
        if self._sides or self._canvas is None:
            placement = fit_sides(photo_size, *(self._sides or _SIDES))
            return placement, tuple(-(-side // _MULTIPLE) * _MULTIPLE for side in placement.size)
        canvas = self._canvas
        if None in self._model.input_shape[1:3] and turned(canvas, photo_size):
            canvas = canvas[::-1]
        return fit_into(photo_size, canvas), canvas

    def _predict(self, shape, batch, threshold):
        self.shapes.add(shape)
        images = np.empty((len(batch), *shape, 3), "uint8")
        images[:] = MEAN_COLOUR
        for image, (_, _, placed) in zip(images, batch, strict=True):
            image[: len(placed), : placed.shape[1]] = placed
        answers = each(predict(self._model, images))
        for answer, (key, placement, _) in zip(answers, batch, strict=True):
            yield key, in_photo(answer, placement, threshold)


def image_size(model):
    """(height, width) of a detector's images: its own, else its record's; None for any."""
    record = getattr(model, "record", None)
    for size in (model.input_shape[1:3], record and record.image_size):
        if size is not None and None not in size:
            return tuple(size)
    return None


def predict(model, images):
    """A detector's answers for a batch of images of 0..255, arrays by name; boxes as corners.

    Args:
        model: The `Detector`.
        images: Array (batch, height, width, 3).
    """
    answers = model.predict_on_batch(preprocess(model, images))
    answers = {name: keras.ops.convert_to_numpy(x) for name, x in answers.items()}
    own = model.bounding_box_format
    if own != "xyxy":
        boxes = convert_boxes(answers["boxes"], own, "xyxy", *images.shape[1:3])
        is_detection = answers["labels"][..., np.newaxis] >= 0
        answers["boxes"] = np.where(is_detection, keras.ops.convert_to_numpy(boxes), -1)
    return answers
