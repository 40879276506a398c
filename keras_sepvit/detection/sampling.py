"""What a step of Mask R-CNN trains on: anchors and proposals drawn at random, with their objects.

A fixed number of slots for each picture, as shapes are static: those with an object come first,
and at the end some may be empty.
"""

import keras
from keras import ops

from keras_sepvit import selection
from keras_sepvit.detection.assignment import NEGATIVE, NEUTRAL, assign, visible_objects
from keras_sepvit.detection.boxes import encode
from keras_sepvit.detection.decoding import rows_of
from keras_sepvit.detection.proposals import DEVIATIONS
from keras_sepvit.detection.rois import mask_targets

# Label of an empty slot.
EMPTY = -1


def draw(rows, count, positives, seed):
    """Places drawn at random without replacement, as mmdetection's `RandomSampler` does.

    Up to `positives` of those with an object, and as many negative ones as slots are left.

    Args:
        rows: (batch, n), int32: what `assign` gives.
        count: Number of slots of a picture.
        positives: How many of them may have an object.
        seed: A `keras.random.SeedGenerator`, or an int for the same draw each time.

    Returns:
        Places (batch, count), int32, of slots with an object first; and what `rows` has there,
        `NEUTRAL` in empty slots, which are the last.
    """
    keys = keras.random.uniform(ops.shape(rows), dtype="float32", seed=seed)
    drawn, places = [], []
    for are_meant, most in ((rows >= 0, positives), (rows == NEGATIVE, count)):
        own = ops.where(are_meant, keys, -1.0)
        # There may be fewer places than slots.
        own = ops.pad(own, ((0, 0), (0, most)), constant_values=-1.0)
        own, highest = selection.top_k(own, most)
        drawn.append(own >= 0)
        places.append(ops.minimum(highest, ops.shape(rows)[1] - 1))
    found = ops.sum(ops.cast(drawn[0], "int32"), axis=1, keepdims=True)
    slots = ops.expand_dims(ops.arange(count, dtype="int32"), 0)
    order = ops.where(slots < found, slots, positives + slots - found)
    places, is_drawn = (rows_of(ops.concatenate(x, axis=1), order) for x in (places, drawn))
    return places, ops.where(is_drawn, rows_of(rows, places), NEUTRAL)


def sample_anchors(targets, outputs, anchors, image_size, seed, count=256):
    """The anchors that the region proposal network is trained on, half of them with an object.

    Args:
        targets: As for `mask_rcnn_losses`.
        outputs: What an `RPNHead` gives: dict of `"classes"` and `"boxes"`, maps by level.
        anchors: The `Anchors`.
        image_size: (height, width) of the images.
        seed: As for `draw`.
        count: Anchors of a picture.

    Returns:
        Dict of `"rpn_classes"`, logits, and `"rpn_labels"`, int32, 1 for an object, 0 for none,
        `EMPTY` (batch, count); `"rpn_boxes"`, deltas, and `"rpn_deltas"`, what they should be
        (batch, count / 2, 4), of the first of these anchors, where those with an object are.
    """
    map_sizes = [ops.shape(level)[1:3] for level in outputs["classes"]]
    by_level = anchors.boxes(map_sizes)
    own = ops.concatenate(by_level)
    boxes, labels, sizes = visible_objects(targets, image_size)
    valid = anchors.inside(map_sizes, sizes)
    rows = assign(own, valid, boxes, labels, positive=0.7, negative=0.3, least=0.3)
    positives = count // 2
    places, rows = draw(rows, count, positives, seed)
    classes, deltas = (
        ops.concatenate(
            [
                ops.reshape(x, (-1, ops.shape(level)[0], values))
                for x, level in zip(outputs[name], by_level, strict=True)
            ],
            axis=1,
        )
        for name, values in (("classes", 1), ("boxes", 4))
    )
    labels = ops.where(rows >= 0, 1, ops.where(rows == NEUTRAL, EMPTY, 0))
    first, rows = places[:, :positives], rows[:, :positives]
    return {
        "rpn_classes": ops.squeeze(rows_of(classes, places), -1),
        "rpn_labels": labels,
        "rpn_boxes": rows_of(deltas, first),
        "rpn_deltas": _deltas(selection.take_rows(own, first), boxes, rows),
    }


def sample_rois(targets, proposals, scores, classes, image_size, seed, count=512):
    """The proposals that the second stage is trained on, a quarter of them with an object.

    The true boxes are among them (mmdetection's `add_gt_as_proposals`).

    Args:
        targets: As for `mask_rcnn_losses`.
        proposals, scores: What `rpn_proposals` gives.
        classes: Number of classes, which is the label of the background.
        image_size: (height, width) of the images.
        seed: As for `draw`.
        count: Proposals of a picture.

    Returns:
        Dict of `"rois"` (batch, count, 4), float32; `"roi_labels"` (batch, count), int32, `EMPTY`
        in empty slots, whose box is of zeros; and of the first of them, where those with an object
        are, `"roi_deltas"` (batch, count / 4, 4), float32, `"mask_targets"` (batch, count / 4, 28,
        28), float32, 0 or 1, and `"mask_valid"` (batch, count / 4), bool: whether its object has a
        mask.
    """
    boxes, labels, _ = visible_objects(targets, image_size)
    # Without the true boxes: each would be the best of its object, and what else ties gone.
    rows = assign(proposals, scores >= 0, boxes, labels, positive=0.5, negative=0.5, least=0.5)
    itself = ops.broadcast_to(ops.arange(ops.shape(labels)[1], dtype="int32"), ops.shape(labels))
    rows = ops.concatenate([ops.where(labels >= 0, itself, NEUTRAL), rows], axis=1)
    positives = count // 4
    places, rows = draw(rows, count, positives, seed)
    rois = rows_of(ops.concatenate([boxes, proposals], axis=1), places)
    rois = ops.where(ops.expand_dims(rows == NEUTRAL, -1), 0.0, rois)
    own = rows_of(labels, ops.maximum(rows, 0))
    labels = ops.where(rows >= 0, own, ops.where(rows == NEUTRAL, EMPTY, classes))
    first, rows = rois[:, :positives], rows[:, :positives]
    masks = ops.pad(targets["masks"], ((0, 0), (0, 1), (0, 0), (0, 0)))  # as the boxes are
    objects = ops.maximum(rows, 0)
    has_mask = ops.max(ops.cast(masks, "int32"), axis=(2, 3)) > 0
    return {
        "rois": rois,
        "roi_labels": labels,
        "roi_deltas": _deltas(first, boxes, rows, DEVIATIONS),
        "mask_targets": mask_targets(masks, boxes, first, objects),
        "mask_valid": (rows >= 0) & rows_of(has_mask, objects),
    }


def _deltas(anchors, boxes, rows, deviations=(1.0, 1.0, 1.0, 1.0)):
    """What makes the anchors (batch, n, 4) the boxes in their rows; zeros where there is none."""
    found = ops.expand_dims(rows >= 0, -1)
    # Any box with area, where there may be none: its logarithms are finite.
    unit = ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0])
    anchors = ops.where(found, anchors, unit)
    boxes = ops.where(found, rows_of(boxes, ops.maximum(rows, 0)), unit)
    return encode(anchors, boxes, deviations)
