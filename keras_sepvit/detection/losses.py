"""The losses of RetinaNet. Without TensorFlow, unlike the task."""

from keras import ops

from keras_sepvit.detection.assignment import NEUTRAL, assign, visible_objects
from keras_sepvit.detection.boxes import encode

# Of the focal loss (arXiv 1708.02002, section 5.1): the weight of positives, and the power.
_ALPHA, _GAMMA = 0.25, 2


def retinanet_losses(targets, outputs, anchors):
    """Focal loss of the classes and L1 loss of the boxes, of all anchors of a batch.

    Args:
        targets: Dict of `"boxes"` (batch, boxes, 4), float: (left, top, right, bottom) in pixels;
            `"labels"` (batch, boxes), ints from 0, -1 in rows of padding; and maybe `"sizes"`
            (batch, 2), ints: (height, width) of each picture on its canvas. Anchors outside of
            it, padded by itself, count nowhere; without sizes all do.
        outputs: What a `RetinaNet` gives: dict of `"classes"` and `"boxes"`, maps by level.
        anchors: Its `Anchors`.

    Returns:
        Dict of `"class_loss"` and `"box_loss"` to the sum over the anchors, and the sum over the
        pictures of the number of positive ones, at least 1 for each. float32 scalars. The box
        loss of a batch without objects is 0. The class loss is NaN for labels out of range, and
        for boxes of objects that are not finite.
    """
    levels, weight = level_losses(targets, outputs, anchors)
    class_total, box_total = map(sum, zip(*levels, strict=True))
    classes = outputs["classes"][0].shape[-1] // anchors.per_place
    class_total = class_total + nan_if_wrong(targets, classes)
    return {"class_loss": (class_total, weight), "box_loss": (box_total, weight)}


def nan_if_wrong(targets, classes):
    """0; NaN for labels that there are not, and boxes that are not finite.

    Compiled steps can raise no error, and would learn something else.
    """
    labels = ops.cast(targets["labels"], "int32")
    known = ops.all((labels >= -1) & (labels < classes))
    finite = ops.all(ops.isfinite(ops.cast(targets["boxes"], "float32")), axis=-1)
    return ops.where(known & ops.all(finite | (labels < 0)), 0.0, float("nan"))


def level_losses(targets, outputs, anchors):
    """As `retinanet_losses`: (class total, box total) of each level, and the weight."""
    map_sizes = [ops.shape(level)[1:3] for level in outputs["classes"]]
    by_level = anchors.boxes(map_sizes)
    labels, deltas = _targets(targets, ops.concatenate(by_level), anchors, map_sizes)
    found = ops.cast(labels >= 0, "float32")
    totals, start = [], 0
    for classes, boxes, level in zip(outputs["classes"], outputs["boxes"], by_level, strict=True):
        end = start + ops.shape(level)[0]
        logits = ops.reshape(classes, (-1, end - start, classes.shape[-1] // anchors.per_place))
        errors = ops.abs(ops.reshape(boxes, (-1, end - start, 4)) - deltas[:, start:end])
        totals.append(
            (
                _focal_loss(ops.cast(logits, "float32"), labels[:, start:end]),
                ops.sum(ops.sum(errors, axis=-1) * found[:, start:end]),
            )
        )
        start = end
    return totals, ops.sum(ops.maximum(ops.sum(found, axis=1), 1.0))


def _targets(targets, anchors, settings, map_sizes):
    """The label of each anchor, `NEGATIVE` or `NEUTRAL`; and its deltas, where it has a label."""
    # The whole map's, where sizes are not told: all anchors are inside.
    canvas = [side * settings.strides[0] for side in map_sizes[0]]
    boxes, labels, sizes = visible_objects(targets, canvas)
    rows = assign(anchors, settings.inside(map_sizes, sizes), boxes, labels)
    found, row = rows >= 0, ops.maximum(rows, 0)
    labels = ops.where(found, ops.take_along_axis(labels, row, axis=1), rows)
    boxes = ops.take_along_axis(boxes, row[..., None], axis=1)
    # The anchor itself where there is no box, whose logarithms may be none.
    deltas = encode(anchors, ops.where(found[..., None], boxes, anchors))
    return ops.stop_gradient(labels), ops.stop_gradient(deltas)


def _focal_loss(logits, labels):
    """The sum over all anchors with a label, and negative ones."""
    is_class = labels[..., None] == ops.arange(logits.shape[-1], dtype="int32")
    # The chance of the wrong answer is the sigmoid of it.
    wrong = ops.where(is_class, -logits, logits)
    share = ops.where(is_class, _ALPHA, 1 - _ALPHA)
    losses = share * ops.sigmoid(wrong) ** _GAMMA * ops.softplus(wrong)
    return ops.sum(ops.where(labels == NEUTRAL, 0.0, ops.sum(losses, axis=-1)))
