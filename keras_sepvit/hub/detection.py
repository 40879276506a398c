"""What detectors of KerasHub and KerasCV lack: suppression by class, and boxes of the photo."""

import os
from collections.abc import Iterable

import keras
import numpy as np
from keras import layers, ops
from keras.utils import bounding_boxes

from keras_sepvit.detection.decoding import class_wise_detections
from keras_sepvit.hub.dense import check_multiples_of_32
from keras_sepvit.hub.registration import register
from keras_sepvit.runtime.canvas import fit_into
from keras_sepvit.runtime.images import open_image
from keras_sepvit.validation import check_choice, check_rate, positive_int, refuse_path, window_pair

BOX_FORMATS = (
    "xyxy",
    "yxyx",
    "xywh",
    "center_xywh",
    "center_yxhw",
    "rel_xyxy",
    "rel_yxyx",
    "rel_xywh",
    "rel_center_xywh",
)


@register
class ClassWiseNonMaxSuppression(layers.Layer):
    """A `prediction_decoder` for detectors of KerasHub and KerasCV that tells classes apart.

    Those of the libraries keep one class a box, and let a box suppress those of other
    classes; KerasCV's needs torchvision under PyTorch. This one suppresses within each
    class, in `keras.ops`, and clips boxes to the image where it knows its size.

    Args:
        bounding_box_format: Format of the boxes that come in and go out, as
            `keras.utils.bounding_boxes.convert_format` names it; that of the detector.
        from_logits: Whether class predictions are logits (of RetinaNet), not
            probabilities (of KerasCV's YOLOV8).
        iou_threshold: A box goes if a better one of its class overlaps it by more.
        confidence_threshold: Scores at or below it do not count. 0.05 is usual for
            average precision; what people are shown starts higher.
        max_detections: Detections of an image.
        candidates: How many pairs of a box and a class are looked at, the best ones.
        labels_key: The key of the labels in the result: `"labels"` for KerasHub,
            `"classes"` for KerasCV.
        dtype: By default float32 whatever the global policy: half precision would round
            boxes to whole pixels and more.
        **kwargs: `name` and so on of `keras.layers.Layer`.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        bounding_box_format,
        from_logits=True,
        iou_threshold=0.5,
        confidence_threshold=0.05,
        max_detections=100,
        candidates=1000,
        labels_key="labels",
        dtype="float32",
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        self.bounding_box_format = check_choice(
            "bounding_box_format", bounding_box_format, BOX_FORMATS
        )
        self.from_logits = from_logits
        self.iou_threshold = check_rate("iou_threshold", iou_threshold)
        self.confidence_threshold = check_rate("confidence_threshold", confidence_threshold)
        self.max_detections = positive_int("max_detections", max_detections)
        self.candidates = positive_int("candidates", candidates)
        self.labels_key = check_choice("labels_key", labels_key, ("labels", "classes"))
        self.built = True

    def call(self, box_prediction, class_prediction, images=None, image_shape=None):
        """The detections among scored boxes.

        Args:
            box_prediction: (batch, boxes, 4), in `bounding_box_format`.
            class_prediction: (batch, boxes, classes).
            images: The images (batch, height, width, channels), for their size.
            image_shape: Or that size as (height, width, channels).

        Returns:
            Dict of `"boxes"` (batch, max_detections, 4), `"confidence"` and labels
            (batch, max_detections), the best first, padded with -1; and
            `"num_detections"` (batch,). Boxes of which nothing lies in the image are none.
        """
        if images is not None:
            image_shape = ops.shape(images)[1:]
        height, width = (None, None) if image_shape is None else image_shape[:2]
        scores = ops.cast(class_prediction, "float32")
        scores = ops.sigmoid(scores) if self.from_logits else scores
        boxes = bounding_boxes.convert_format(
            ops.cast(box_prediction, "float32"),
            source=self.bounding_box_format,
            target="xyxy",
            height=height,
            width=width,
        )
        if height is not None:
            sides = ops.cast(ops.stack([width, height, width, height]), "float32")
            boxes = ops.minimum(ops.maximum(boxes, 0.0), sides)
        has_area = ops.all(boxes[..., 2:] > boxes[..., :2], axis=-1, keepdims=True)
        scores = ops.where(has_area, scores, -1.0)
        boxes, scores, labels, number = class_wise_detections(
            boxes,
            scores,
            score_threshold=self.confidence_threshold,
            iou_threshold=self.iou_threshold,
            max_detections=self.max_detections,
            candidates=self.candidates,
        )
        formatted = bounding_boxes.convert_format(
            boxes, source="xyxy", target=self.bounding_box_format, height=height, width=width
        )
        return {
            "boxes": ops.where(labels[..., None] < 0, -1.0, formatted),
            "confidence": scores,
            self.labels_key: labels,
            "num_detections": number,
        }

    def get_config(self):
        return {
            **super().get_config(),
            "bounding_box_format": self.bounding_box_format,
            "from_logits": self.from_logits,
            "iou_threshold": self.iou_threshold,
            "confidence_threshold": self.confidence_threshold,
            "max_detections": self.max_detections,
            "candidates": self.candidates,
            "labels_key": self.labels_key,
        }


def detect(detector, photos, threshold=0.3, image_size=None, batch_size=8):
    """Finds objects in photos of any size, with a detector of KerasHub or KerasCV.

    A photo is resized to fit into the detector's images, keeping its proportions, in
    the upper left corner; the rest has ImageNet's mean colour. Boxes are those of the
    photo.

    Args:
        detector: A detector whose images are RGB of 0..255.
        photos: List of image files, or of arrays (height, width, 3) of 0..255.
        threshold: Least confidence.
        image_size: The side, or (height, width), of the images of a detector that takes
            any size; a multiple of 32.
        batch_size: Photos predicted at a time, at most.

    Returns:
        A dict for each photo: `"boxes"` float32 (n, 4), (left, top, right, bottom) in
        pixels of the photo, `"labels"` int32 (n,), `"confidence"` float32 (n,), the best
        first.

    Raises:
        ValueError: for a model that is no detector, a detector of dynamic size without
            `image_size`, an array of another shape or range, and files that are no images.
        FileNotFoundError: if a file does not exist.
    """
    canvas_size = _canvas_size(detector, image_size)
    if isinstance(photos, (str, os.PathLike)) or not isinstance(photos, Iterable):
        raise ValueError(
            "`photos` must be a list of image files or arrays, also for a single one. "
            f"Received: {photos!r}."
        )
    pictures = [_picture(photo) for photo in photos]
    batch_size = min(positive_int("batch_size", batch_size), max(len(pictures), 1))
    placements = [fit_into(picture.shape[:2], canvas_size) for picture in pictures]
    found = []
    for start in range(0, len(pictures), batch_size):
        batch = slice(start, start + batch_size)
        canvases = [
            placement.place(picture)
            for placement, picture in zip(placements[batch], pictures[batch], strict=True)
        ]
        canvases += [np.zeros_like(canvases[0])] * (batch_size - len(canvases))  # one compilation
        predictions = detector.predict(np.stack(canvases), verbose=0)
        boxes = bounding_boxes.convert_format(
            ops.convert_to_tensor(predictions["boxes"]),
            source=detector.bounding_box_format,
            target="xyxy",
            height=canvas_size[0],
            width=canvas_size[1],
        )
        labels = predictions["labels" if "labels" in predictions else "classes"]
        for placement, *prediction in zip(
            placements[batch],
            ops.convert_to_numpy(boxes),
            ops.convert_to_numpy(labels),
            ops.convert_to_numpy(predictions["confidence"]),
            strict=False,  # without those of the fill
        ):
            found.append(_of_photo(placement, *prediction, threshold))
    return found


def _of_photo(placement, boxes, labels, confidence, threshold):
    boxes = placement.to_photo(boxes)
    in_photo = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # not in the padding
    chosen = np.flatnonzero((labels >= 0) & (confidence >= threshold) & in_photo)
    chosen = chosen[np.argsort(-confidence[chosen], kind="stable")]
    return {
        "boxes": boxes[chosen],
        "labels": labels[chosen].astype("int32"),
        "confidence": confidence[chosen].astype("float32"),
    }


def _canvas_size(detector, image_size):
    refuse_path("detector", detector)
    if not hasattr(detector, "bounding_box_format"):
        raise ValueError(
            "`detector` must be a detector of KerasHub or KerasCV, which have a "
            f"`bounding_box_format`. Received: {type(detector).__name__}."
        )
    static = keras.tree.flatten(detector.inputs)[0].shape[1:3]
    if image_size is None:
        if None in static:
            raise ValueError(
                "`detector` takes images of any size, so that `image_size` must tell the (height, "
                "width) to detect at: usually that of its training images."
            )
        return tuple(static)
    image_size = window_pair("image_size", image_size)
    check_multiples_of_32("image_size", image_size)
    if any(side not in (None, given) for side, given in zip(static, image_size, strict=True)):
        raise ValueError(
            f"`detector` takes images of {static[0]} x {static[1]} alone. "
            f"Received: image_size={image_size}. Leave it out."
        )
    return image_size


def _picture(photo):
    if isinstance(photo, (str, os.PathLike)):
        return np.asarray(open_image(photo))
    if not isinstance(photo, np.ndarray):
        raise ValueError(
            "`photos` must be a list of image files or NumPy arrays. Received one of type "
            f"{type(photo).__name__}."
        )
    if photo.ndim != 3 or photo.shape[-1] != 3 or not photo.size:
        raise ValueError(
            "`photos` must be image files or RGB arrays of shape (height, width, 3) of 0..255. "
            f"Received an array of shape {photo.shape}."
        )
    if photo.dtype.kind == "f":
        low, high = photo.min(), photo.max()
        if not (0 <= low and high <= 255) or (high <= 1 and not np.isin(photo, (0, 1)).all()):
            raise ValueError(
                "`photos` must hold numbers of 0..255. Received an array of "
                f"{photo.dtype} from {low:g} to {high:g}. Undo its normalisation first."
            )
    return np.clip(np.rint(photo), 0, 255).astype("uint8")
