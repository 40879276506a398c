"""Which object each anchor is to find, as mmdetection's `MaxIoUAssigner` decides it."""

from keras import ops

from keras_sepvit.detection.boxes import clip, overlap, with_area

NEGATIVE = -1  # an anchor that is to find nothing
NEUTRAL = -2  # one that no loss counts


def assign(anchors, valid, boxes, labels, positive=0.5, negative=0.4, least=0.0):
    """The true box of each anchor, for one picture or a batch.

    An anchor takes the box that it overlaps most (of equal ones the first) if that is by
    `positive` or more, and none below `negative`. Then each box also takes all anchors that
    overlap it as much as its best one does, if that is by `least` or more, and at all; of several
    boxes the last.

    The boxes are gone through one by one up to the last that is none of padding, so that of arrays
    with all pairs of anchors and boxes, 77 MB for 191,970 and 100, there is none.

    Args:
        anchors: (..., anchors, 4), float; axes in front, if any, are those of a batch.
        valid: (..., anchors), bool: others are neutral and taken by no box.
        boxes: (..., boxes, 4), float: (left, top, right, bottom), in rows of padding anything.
        labels: (..., boxes), ints; -1 in rows of padding.
        positive, negative, least: Intersections over union, 0..1.

    Returns:
        (..., anchors), int32: the row of the box, `NEGATIVE` or `NEUTRAL`.
    """
    # Areas ahead of the loop: a compiler might round them in two ways in it, and equal ones differ.
    places = with_area([ops.cast(anchors[..., side], "float32") for side in range(4)])
    boxes = with_area(ops.split(ops.cast(boxes, "float32"), 4, axis=-1))
    boxes, labels = ops.concatenate(boxes, axis=-1), ops.cast(labels, "int32")
    valid = ops.cast(valid, "bool")
    none = ops.full_like(ops.cast(valid, "int32"), NEGATIVE)
    highest = ops.zeros_like(ops.cast(valid, "float32"))
    count = ops.max(ops.where(labels >= 0, ops.arange(ops.shape(labels)[-1]) + 1, 0))

    def is_left(row, highest, nearest, taken):
        return row < count

    def add(row, highest, nearest, taken):
        box = ops.split(ops.take(boxes, row, axis=-2), 5, axis=-1)
        counts = valid & (ops.expand_dims(ops.take(labels, row, axis=-1), -1) >= 0)
        shares = ops.where(counts, overlap(places, box), 0.0)
        best = ops.max(shares, axis=-1, keepdims=True)
        ties = (shares == best) & (best > 0) & (best >= least)
        nearest = ops.where(shares > highest, row, nearest)
        return row + 1, ops.maximum(highest, shares), nearest, ops.where(ties, row, taken)

    start = (ops.zeros((), "int32"), highest, none, none)
    _, highest, nearest, taken = ops.while_loop(is_left, add, start)
    unsure = ops.where(highest < negative, NEGATIVE, NEUTRAL)
    rows = ops.where(highest >= positive, nearest, unsure)
    rows = ops.where(taken >= 0, taken, rows)
    return ops.where(valid, rows, NEUTRAL)


def visible_objects(targets, canvas_size):
    """The objects of a batch that can be found.

    Args:
        targets: As for `retinanet_losses`.
        canvas_size: (height, width) of the images, ints or scalar tensors: the size of each
            picture where the targets have no sizes.

    Returns:
        Boxes (batch, boxes + 1, 4), float32: there may be none at all, so there is a row of padding
        more. Labels (batch, boxes + 1), int32, -1 also for boxes of which nothing is in their
        picture, or that have no area: coarse anchors reach out of pictures, and would take them.
        Sizes (batch, 2) of the pictures.
    """
    boxes = ops.pad(ops.cast(targets["boxes"], "float32"), ((0, 0), (0, 1), (0, 0)))
    labels = ops.pad(ops.cast(targets["labels"], "int32"), ((0, 0), (0, 1)), constant_values=-1)
    sizes = targets.get("sizes")
    if sizes is None:
        sizes = ops.expand_dims(ops.stack([canvas_size[0], canvas_size[1]]), 0)
        sizes = ops.tile(sizes, (ops.shape(labels)[0], 1))
    inside = clip(boxes, sizes)
    visible = ops.all(inside[..., 2:] > inside[..., :2], axis=-1)
    return boxes, ops.where(visible, labels, -1), sizes
