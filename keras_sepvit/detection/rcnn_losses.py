"""The losses of Mask R-CNN, of both stages."""

from keras import ops

from keras_sepvit.detection.losses import nan_if_wrong

LOSS_NAMES = ("rpn_class_loss", "rpn_box_loss", "class_loss", "box_loss", "mask_loss")

# Stands for a count of 0: a total of 0 by it is 0, and beside counts of 1 and more, as those of
# other devices are, it is nothing in float32.
_LEAST = 1e-8


def mask_rcnn_losses(targets, outputs):
    """The five losses of Mask R-CNN (arXiv 1703.06870, section 3), as in mmdetection 2.28.

    Args:
        targets: Dict of `"boxes"` (batch, boxes, 4), float: (left, top, right, bottom) in pixels,
            and `"labels"` (batch, boxes), ints from 0, -1 in rows of padding; and maybe `"masks"`
            (batch, boxes, side, side), uint8 of 0..255.
        outputs: What a `MaskRCNN` gives of images with targets.

    Returns:
        Dict of float32 scalars, a total and a weight by the names of `LOSS_NAMES`:
        cross-entropy of drawn anchors, with an object or without, and L1 of those with one, over
        their number, which counts at least one of each kind for each picture; cross-entropy of
        the classes of drawn proposals, and L1 of the boxes of those with an object, over their
        number; binary cross-entropy of the masks' pixels of those whose object has a mask, over
        their number. Totals of nothing are 0. The class losses are NaN for labels out of range,
        and for boxes of objects that are not finite; that of masks for masks of 0 and 1 alone,
        of which a step would learn that objects cover nothing.
    """
    outputs = {
        name: x if name.endswith(("labels", "valid")) else ops.cast(x, "float32")
        for name, x in outputs.items()
    }
    labels = outputs["rpn_labels"]
    kinds = [ops.sum(ops.cast(labels == kind, "float32"), axis=1) for kind in (0, 1)]
    anchors = sum(ops.sum(ops.maximum(kind, 1.0)) for kind in kinds)
    losses = _binary_cross_entropy(outputs["rpn_classes"], labels == 1)
    rpn_class_total = _sum_of(losses, labels >= 0)
    rpn_box_total = _box_total(outputs["rpn_boxes"], outputs["rpn_deltas"], labels == 1)

    logits, labels = outputs["classes"], outputs["roi_labels"]
    background = logits.shape[-1] - 1
    is_class = ops.expand_dims(labels, -1) == ops.arange(background + 1, dtype="int32")
    losses = -ops.sum(ops.where(is_class, ops.log_softmax(logits, axis=-1), 0.0), axis=-1)
    rois = _count(labels >= 0)
    class_total = _sum_of(losses, labels >= 0) + nan_if_wrong(targets, background)
    is_object = (labels >= 0) & (labels < background)
    box_total = _box_total(outputs["boxes"], outputs["roi_deltas"], is_object)

    valid = outputs["mask_valid"]
    losses = _binary_cross_entropy(outputs["masks"], outputs["mask_targets"] > 0)
    mask_total = _sum_of(ops.mean(losses, axis=(2, 3)), valid)
    if "masks" in targets:
        masks = ops.cast(targets["masks"], "int32")  # of which there may be none
        is_wrong = ops.any(masks == 1) & ops.logical_not(ops.any(masks > 1))
        mask_total = mask_total + ops.where(is_wrong, float("nan"), 0.0)
    return {
        "rpn_class_loss": (rpn_class_total, anchors),
        "rpn_box_loss": (rpn_box_total, anchors),
        "class_loss": (class_total, rois),
        "box_loss": (box_total, rois),
        "mask_loss": (mask_total, _count(valid)),
    }


def _count(chosen):
    return ops.maximum(ops.sum(ops.cast(chosen, "float32")), _LEAST)


def _sum_of(losses, chosen):
    return ops.sum(ops.where(chosen, losses, 0.0))


def _binary_cross_entropy(logits, is_one):
    return ops.softplus(ops.where(is_one, -logits, logits))


def _box_total(boxes, deltas, is_object):
    """L1 of the boxes of objects, which are the first: there are fewer boxes than labels."""
    errors = ops.sum(ops.abs(boxes - deltas), axis=-1)
    return _sum_of(errors, is_object[:, : boxes.shape[1]])
