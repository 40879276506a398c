"""RoIAlign from its definition: NumPy."""

import numpy as np


def reference_roi_align(maps, rois, size, strides=(4, 8, 16, 32), ratio=0):
    """Values of boxes (n, 4) of one picture in its maps (height, width, channels): (n, size, size,
    channels), float32.

    A cell has `ratio` samples along a side; with 0, mmdetection's default, as many as a box has
    places in it, and a box without area is 0.
    """
    rois = np.float32(rois)
    sides = np.maximum(rois[:, 2:] - rois[:, :2], 0)
    scale = np.sqrt(sides.prod(axis=1))
    levels = np.clip(np.floor(np.log2(scale / np.float32(56) + 1e-6)), 0, len(maps) - 1)
    regions = []
    for roi, level in zip(rois, levels.astype(int), strict=True):
        left, top, right, bottom = roi / strides[level] - 0.5
        height, width, _ = maps[level].shape
        rows = _shares(top, bottom, height, size, ratio)
        columns = _shares(left, right, width, size, ratio)
        x = np.tensordot(rows, maps[level], axes=(1, 0))
        regions.append(np.tensordot(columns, x, axes=(1, 1)).swapaxes(0, 1))
    return np.stack(regions).astype("float32")


def _shares(start, end, side, size, ratio):
    """What each place of a side counts in each cell: (size, side)."""
    ratio = ratio or int(np.ceil((end - start) / size))
    shares = np.zeros((size, side), "float32")
    for cell in range(size):
        for sample in range(ratio):
            at = start + (cell + (sample + 0.5) / ratio) * (end - start) / size
            if not -1 <= at <= side:
                continue
            at = np.clip(at, 0, side - 1)
            low = int(at)
            shares[cell, low] += (1 - (at - low)) / ratio
            shares[cell, min(low + 1, side - 1)] += (at - low) / ratio
    return shares
