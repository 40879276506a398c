"""Regions of interest: the maps' values in boxes (RoIAlign), and the masks that boxes cut out.

Boxes are (left, top, right, bottom) in pixels of the images, and computed with in float32.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from keras_sepvit import selection
from keras_sepvit.detection.decoding import rows_of
from keras_sepvit.validation import positive_int

# Boxes as wide as this, but under its double, are of the finest level (mmdetection's
# `finest_scale`).
_FINEST_SCALE = 56


def roi_levels(rois, count=4):
    """The level of a pyramid that each box is of (FPN, arXiv 1612.03144, section 4.2).

    Args:
        rois: (..., 4), float.
        count: Number of levels.

    Returns:
        (...), int32: 0, the finest, for boxes of less area than 112 x 112, one more for each
        doubling of the side, and at most `count - 1`.
    """
    left, top, right, bottom = ops.split(ops.cast(rois, "float32"), 4, axis=-1)
    area = ops.maximum(right - left, 0.0) * ops.maximum(bottom - top, 0.0)
    scale = ops.sqrt(area) / _FINEST_SCALE + 1e-6
    # Compared, not by logarithms: what is exactly double belongs to the next level.
    reached = [ops.cast(scale >= 2.0**level, "int32") for level in range(1, count)]
    return ops.sum(ops.concatenate([ops.zeros_like(left, "int32"), *reached], axis=-1), axis=-1)


def roi_align(features, rois, size, strides=(4, 8, 16, 32), sampling_ratio=2):
    """The maps' values in boxes, each brought to the same size: RoIAlign (arXiv 1703.06870).

    As in mmdetection with `aligned=True`: a box has `size` x `size` cells, a cell the mean of
    `sampling_ratio` x `sampling_ratio` samples, each interpolated bilinearly between the centres
    of the map's places. Samples further than one place outside of the map are 0. All values of
    one corner of one sample are taken at a time, which bounds the memory.

    Args:
        features: List of maps (batch, height, width, channels), float, fine to coarse.
        rois: (batch, n, 4), float; has no gradient. Each box is cut from the map of its
            `roi_levels`.
        size: Cells along a side.
        strides: Pixels of a place, by map.
        sampling_ratio: Samples of a cell along a side.

    Returns:
        (batch * n, size, size, channels), of the dtype of the maps; summed in float32.
    """
    channels = features[0].shape[-1]
    sides = [ops.shape(level)[1:3] for level in features]
    starts = [0]
    for height, width in sides:
        starts.append(starts[-1] + height * width)
    table = ops.concatenate(
        [
            ops.reshape(level, (-1, height * width, channels))
            for level, (height, width) in zip(features, sides, strict=True)
        ],
        axis=1,
    )

    rois = ops.stop_gradient(ops.cast(rois, "float32"))
    level = roi_levels(rois, len(features))

    def of_level(values, dtype="int32"):
        values = ops.cast(ops.stack(values), dtype)
        return ops.expand_dims(selection.take_rows(values, level), -1)

    height, width = (of_level(values) for values in zip(*sides, strict=True))
    stride = of_level(strides, "float32")
    _, n, _ = ops.shape(rois)
    first = ops.expand_dims(of_level(starts[:-1]), -1)
    left, top, right, bottom = ops.split(rois, 4, axis=-1)
    rows = _corners(top / stride, bottom / stride, height, size, sampling_ratio)
    columns = _corners(left / stride, right / stride, width, size, sampling_ratio)

    width, cells = ops.expand_dims(width, -1), n * size * size
    rows = [(first + ops.expand_dims(x, 3) * width, ops.expand_dims(s, 3)) for x, s in rows]
    columns = [(ops.expand_dims(x, 2), ops.expand_dims(s, 2)) for x, s in columns]
    parts = [
        (ops.reshape(row + column, (-1, cells)), ops.reshape(down * across, (-1, cells, 1)))
        for row, down in rows
        for column, across in columns
    ]
    values = ops.reshape(selection.sum_of_rows(table, parts), (-1, size, size, channels))
    return ops.cast(values, table.dtype)


def _corners(start, end, side, size, ratio):
    """The places along a side between which samples are interpolated, and their shares.

    Args:
        start, end: (batch, n, 1), float: of the boxes, in places.
        side: (batch, n, 1), int32: of the boxes' maps.
        size, ratio: Cells, and samples of a cell.

    Returns:
        List of pairs (batch, n, size), int32 and float32, two for each sample of a cell.
    """
    side = ops.cast(side, "float32")
    cells, step = ops.arange(size, dtype="float32"), (end - start) / size
    corners = []
    for sample in range(ratio):
        at = start - 0.5 + (cells + (sample + 0.5) / ratio) * step
        is_near = (at >= -1.0) & (at <= side)
        # Boxes that are not finite are nowhere, rather than at places that there are not.
        at = ops.where(is_near, ops.minimum(ops.maximum(at, 0.0), side - 1), 0.0)
        low = ops.floor(at)
        weight, share = ops.cast(is_near, "float32") / ratio, at - low
        high = ops.minimum(low + 1, side - 1)
        for place, part in ((low, 1 - share), (high, share)):
            corners.append((ops.cast(place, "int32"), part * weight))
    return corners


@keras.saving.register_keras_serializable(package="keras_sepvit")
class RoIAlign(layers.Layer):
    """`roi_align` as a layer of no weights.

    Args:
        size, strides, sampling_ratio: As there.
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`. Boxes keep their dtype, and
            the output has that of the maps.

    Call arguments:
        features, rois: As there.
    """

    def __init__(
        self,
        size: int,
        strides: Sequence[int] = (4, 8, 16, 32),
        sampling_ratio: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "autocast": False})
        self.size = positive_int("size", size)
        self.strides = tuple(positive_int("strides", stride) for stride in strides)
        self.sampling_ratio = positive_int("sampling_ratio", sampling_ratio)

    def build(self, *input_shapes):
        pass

    def call(self, features, rois):
        return roi_align(features, rois, self.size, self.strides, self.sampling_ratio)

    def compute_output_spec(self, features, rois):
        batch, n, _ = rois.shape
        boxes = None if None in (batch, n) else batch * n
        shape = (boxes, self.size, self.size, features[0].shape[-1])
        return keras.KerasTensor(shape, features[0].dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "size": self.size,
            "strides": self.strides,
            "sampling_ratio": self.sampling_ratio,
        }


def mask_targets(masks, boxes, rois, rows, size=28):
    """What boxes cut out of the masks of objects, as mmdetection's `BitmapMasks` do it.

    There a cell is the mean of samples a pixel or less apart, each interpolated between pixels,
    which makes it the mean of the pixel around it. Here a cell is the mean of all that is covered
    of it, or of the pixel around its centre where that is larger.

    Args:
        masks: (batch, m, side, side), 0..255: what objects cover of their own boxes.
        boxes: (batch, m, 4), float: these boxes.
        rois: (batch, n, 4), float.
        rows: (batch, n), ints of 0 to m - 1: the object of each.
        size: Cells along a side.

    Returns:
        (batch, n, size, size), float32: 1 in cells of which at least half is covered, and 0.
    """
    side, rows = masks.shape[-1], ops.cast(rows, "int32")
    own, roi = (ops.split(ops.cast(x, "float32"), 4, axis=-1) for x in (rows_of(boxes, rows), rois))
    across, down = (_cell_shares(own[axis::2], roi[axis::2], side, size) for axis in (0, 1))
    covered = ops.cast(rows_of(masks, rows), "float32") / 255
    means = ops.matmul(ops.matmul(down, covered), ops.transpose(across, (0, 1, 3, 2)))
    return ops.cast(means >= 0.5, "float32")


def _cell_shares(own, roi, side, size):
    """How much places of a mask count in cells: (batch, n, size, side), with sums of at most 1.

    Args:
        own, roi: (start, end) of the mask's box and of the cells', (batch, n, 1).
        side, size: Number of places and of cells.
    """
    scale = side / ops.maximum(own[1] - own[0], 1e-6)  # places of a pixel
    cell = (roi[1] - roi[0]) / size
    middle = roi[0] - own[0] + (ops.arange(size, dtype="float32") + 0.5) * cell
    half = ops.maximum(cell, 1.0) / 2
    start, end = (ops.expand_dims(x * scale, -1) for x in (middle - half, middle + half))
    places = ops.arange(side, dtype="float32")
    shared = ops.minimum(end, places + 1) - ops.maximum(start, places)
    return ops.maximum(shared, 0.0) / ops.expand_dims(2 * half * scale, -1)
