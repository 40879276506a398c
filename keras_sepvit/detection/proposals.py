"""The boxes of the two stages of a Mask R-CNN: proposals of the first, detections of the second."""

from typing import Any

import keras
from keras import ops

from keras_sepvit import selection
from keras_sepvit.detection.anchors import Anchors
from keras_sepvit.detection.boxes import clip, decode
from keras_sepvit.detection.decoding import (
    detections,
    in_order,
    level_candidates,
    rows_of,
    suppress,
)
from keras_sepvit.detection.layers import (
    OnAnchors,
    WithoutWeights,
    detections_spec,
    suppression_settings,
)
from keras_sepvit.validation import positive_int

# What the second stage's deltas are divided by (mmdetection's `target_stds`).
DEVIATIONS = (0.1, 0.1, 0.2, 0.2)

# Pairs of a proposal and a class that a picture's detections are chosen from: the best by score.
PAIRS = 2000


def rpn_proposals(
    outputs, anchors, image_size, sizes=None, candidates=1000, count=1000, iou_threshold=0.7
):
    """The boxes that a region proposal network finds (arXiv 1506.01497), of whatever class.

    Of each level the best are looked at and clipped to the picture; those without width or height
    go, as in mmdetection 2.28, then those that overlap a better one of their level, and the best
    of all levels stay. All of it is float32; no gradient goes through it.

    Args:
        outputs: What an `RPNHead` gives: dict of `"classes"` and `"boxes"`, maps by level.
        anchors: The `Anchors` of the levels.
        image_size: (height, width) of the images in pixels, numbers or tensors.
        sizes: int (batch, 2): (height, width) of the pictures on them, which boxes are clipped
            to; by default `image_size`.
        candidates: Boxes of a level that are looked at.
        count: Proposals of a picture.
        iou_threshold: A box goes if a better one of its level, itself not gone, overlaps it by
            more than this intersection over union.

    Returns:
        Boxes (batch, count, 4), float32, the best first, of zeros behind the last; and their
        scores (batch, count), float32, -1 behind the last.
    """
    outputs = keras.tree.map_structure(ops.stop_gradient, outputs)
    levels = []
    for number, (boxes, logits, labels) in enumerate(
        level_candidates(outputs, anchors, image_size, sizes, candidates)
    ):
        has_area = ops.all(boxes[..., 2:] > boxes[..., :2], axis=-1)
        levels.append((boxes, ops.where(has_area, logits, -float("inf")), labels + number))
    boxes, logits, numbers = in_order(levels)
    kept = suppress(boxes, numbers, logits > -float("inf"), iou_threshold, count)
    found = detections(kept, boxes, ops.sigmoid(logits), numbers)
    return ops.maximum(found["boxes"], 0.0), found["confidence"]


def roi_detections(
    outputs,
    rois,
    scores,
    image_size,
    sizes=None,
    score_threshold=0.05,
    iou_threshold=0.5,
    max_detections=100,
):
    """Detections from a box head's answers to proposals.

    As in mmdetection 2.28, but chosen from a picture's best 2,000 pairs of a proposal and a class.
    Classes are those of the softmax, the last the background; each class moves the box in its own
    way. Suppression is within a class. Of equal scores the lower (proposal, class) goes first.

    Args:
        outputs: What a `BoxHead` gives: dict of `"classes"`, logits (batch * n, classes + 1), and
            `"boxes"`, deltas (batch * n, classes * 4).
        rois, scores: The proposals (batch, n, 4), and (batch, n), below 0 where there is none.
        image_size, sizes: As for `rpn_proposals`.
        score_threshold, iou_threshold, max_detections: As for `retinanet_detections`.

    Returns:
        As `retinanet_detections`.
    """
    if sizes is None:
        sizes = ops.expand_dims(ops.stack([image_size[0], image_size[1]]), 0)
    _, n, _ = rois.shape
    classes = outputs["classes"].shape[-1] - 1
    shares = ops.softmax(ops.cast(outputs["classes"], "float32"), axis=-1)[:, :classes]
    shares = ops.reshape(shares, (-1, n, classes))
    shares = ops.where(ops.expand_dims(scores, -1) < 0, -1.0, shares)
    shares = ops.reshape(shares, (-1, n * classes))
    shares, pairs = selection.top_k(shares, min(n * classes, PAIRS))
    deltas = rows_of(ops.reshape(outputs["boxes"], (-1, n * classes, 4)), pairs)
    boxes = clip(decode(rows_of(rois, pairs // classes), deltas, DEVIATIONS), sizes)
    labels = pairs % classes
    kept = suppress(boxes, labels, shares > score_threshold, iou_threshold, max_detections)
    return detections(kept, boxes, shares, labels)


def masks_of_labels(masks, labels):
    """Of each box the mask of its class.

    Args:
        masks: (batch * n, height, width, classes), float.
        labels: (batch, n), ints; of those below 0 it is the first class's.

    Returns:
        (batch, n, height, width).
    """
    _, height, width, classes = masks.shape
    count = labels.shape[1]
    # A flat `take`: a product with the labels as one-hot vectors would go through all classes.
    labels = ops.reshape(ops.maximum(labels, 0), (-1, 1))
    places = ops.arange(ops.shape(labels)[0] * height * width, dtype="int32") * classes
    places = ops.reshape(places, (-1, height * width)) + labels
    own = selection.take_rows(ops.reshape(masks, (-1,)), ops.reshape(places, (-1,)))
    return ops.reshape(own, (-1, count, height, width))


@keras.saving.register_keras_serializable(package="keras_sepvit")
class Proposals(OnAnchors):
    """`rpn_proposals` as a layer of no weights.

    Args:
        anchors, candidates, **kwargs: As for `OnAnchors`.
        count: As there.

    Call arguments:
        outputs: As there.
        images: The images, for their size.
    """

    def __init__(
        self, anchors: Anchors | dict, candidates: int = 1000, count: int = 1000, **kwargs: Any
    ) -> None:
        super().__init__(anchors, candidates, **kwargs)
        self.settings["count"] = positive_int("count", count)

    def call(self, outputs, images):
        return rpn_proposals(outputs, self.anchors, ops.shape(images)[1:3], **self.settings)

    def compute_output_spec(self, outputs, images):
        shape = images.shape[0], self.settings["count"]
        return keras.KerasTensor((*shape, 4), "float32"), keras.KerasTensor(shape, "float32")


@keras.saving.register_keras_serializable(package="keras_sepvit")
class RoIDetections(WithoutWeights):
    """`roi_detections` as a layer of no weights.

    Args:
        score_threshold, iou_threshold, max_detections: As there.
        **kwargs: As for `WithoutWeights`.

    Call arguments:
        outputs, rois, scores: As there.
        images: The images, for their size.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        max_detections: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.settings = suppression_settings(score_threshold, iou_threshold, max_detections, PAIRS)

    def call(self, outputs, rois, scores, images):
        return roi_detections(outputs, rois, scores, ops.shape(images)[1:3], **self.settings)

    def compute_output_spec(self, outputs, rois, scores, images):
        return detections_spec(images.shape[0], self.settings["max_detections"])


@keras.saving.register_keras_serializable(package="keras_sepvit")
class DetectedMasks(WithoutWeights):
    """Masks of detections: the sigmoid of their class's logits, 0 where there is none.

    Args:
        **kwargs: As for `WithoutWeights`.

    Call arguments:
        masks: Logits (batch * n, height, width, classes).
        labels: (batch, n), ints, -1 where there is no detection.

    Output: (batch, n, height, width), float32 in 0..1.
    """

    def call(self, masks, labels):
        is_detection = ops.reshape(labels >= 0, (-1, labels.shape[1], 1, 1))
        return ops.where(is_detection, ops.sigmoid(masks_of_labels(masks, labels)), 0.0)

    def compute_output_spec(self, masks, labels):
        return keras.KerasTensor((*labels.shape, *masks.shape[1:3]), "float32")
