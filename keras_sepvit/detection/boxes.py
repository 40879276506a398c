"""Boxes: how much two overlap, and their coding as deltas of anchors.

A box is (left, top, right, bottom) in pixels, without "+ 1" anywhere: its width is right - left.
All is computed in float32, whatever the dtype policy.
"""

import math

from keras import ops

# Widths and heights change by at most this factor (mmdetection's `wh_ratio_clip`).
_MOST_GROWTH = math.log(1000 / 16)

# Sides in pixels that no box goes below in logarithms.
_LEAST_SIDE = 1e-6


def intersection_over_union(a, b):
    """Of each box of one set with each of another.

    Args:
        a: (..., n, 4), float.
        b: (..., m, 4), float; axes in front broadcast.

    Returns:
        (..., n, m), float32 in 0..1; 0 for two boxes without area.
    """
    b = ops.swapaxes(ops.cast(b, "float32"), -1, -2)
    # Not indexed: that drops axes, which mobile delegates cannot.
    return overlap(
        with_area(ops.split(ops.cast(a, "float32"), 4, axis=-1)),
        with_area(ops.split(b, 4, axis=-2)),
    )


def with_area(sides):
    """Left, top, right and bottom of boxes, and their areas."""
    left, top, right, bottom = sides
    area = ops.maximum(right - left, 0.0) * ops.maximum(bottom - top, 0.0)
    return left, top, right, bottom, area


def overlap(a, b):
    """Intersection over union of boxes as `with_area` gives them; their shapes broadcast."""
    width = ops.minimum(a[2], b[2]) - ops.maximum(a[0], b[0])
    height = ops.minimum(a[3], b[3]) - ops.maximum(a[1], b[1])
    shared = ops.maximum(width, 0.0) * ops.maximum(height, 0.0)
    union = a[4] + b[4] - shared
    return ops.where(union > 0, shared / ops.where(union > 0, union, 1.0), 0.0)


def encode(anchors, boxes, deviations=(1.0, 1.0, 1.0, 1.0)):
    """Boxes as deltas of anchors (R-CNN, arXiv 1311.2524, appendix C).

    Args:
        anchors: (..., n, 4), float, with width and height above 0.
        boxes: (..., n, 4), float.
        deviations: What the four deltas are divided by.

    Returns:
        (..., n, 4), float32: the centre's way right and down in widths and heights of the anchor,
        and the logarithms of the ratios of widths and heights.
    """
    centres, sides = _centres_and_sides(anchors)
    box_centres, box_sides = _centres_and_sides(boxes)
    deltas = ops.concatenate(
        [(box_centres - centres) / sides, ops.log(ops.maximum(box_sides, _LEAST_SIDE) / sides)],
        axis=-1,
    )
    return deltas / ops.convert_to_tensor(deviations, "float32")


def decode(anchors, deltas, deviations=(1.0, 1.0, 1.0, 1.0)):
    """The boxes that deltas of anchors stand for: undoes `encode`.

    Args:
        anchors: (..., n, 4), float.
        deltas: (..., n, 4), float. Widths and heights change by a factor of at most 1000 / 16.
        deviations: As for `encode`.

    Returns:
        (..., n, 4), float32.
    """
    centres, sides = _centres_and_sides(anchors)
    deltas = ops.cast(deltas, "float32") * ops.convert_to_tensor(deviations, "float32")
    centres = centres + deltas[..., :2] * sides
    growth = ops.clip(deltas[..., 2:], -_MOST_GROWTH, _MOST_GROWTH)
    halves = ops.exp(growth) * sides * 0.5
    return ops.concatenate([centres - halves, centres + halves], axis=-1)


def clip(boxes, sizes):
    """Boxes without what is outside of their pictures.

    Args:
        boxes: (..., n, 4), float.
        sizes: (..., 2), ints: (height, width) of each picture, or of all.

    Returns:
        (..., n, 4), float32.
    """
    sizes = ops.cast(ops.convert_to_tensor(sizes), "float32")
    limits = ops.concatenate([sizes[..., 1:], sizes[..., :1]] * 2, axis=-1)
    boxes = ops.cast(boxes, "float32")
    return ops.minimum(ops.maximum(boxes, 0.0), ops.expand_dims(limits, -2))


def _centres_and_sides(boxes):
    boxes = ops.cast(boxes, "float32")
    corners, opposite = boxes[..., :2], boxes[..., 2:]
    return (corners + opposite) * 0.5, opposite - corners
