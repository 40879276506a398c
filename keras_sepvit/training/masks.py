"""Masks of objects as they travel to training: cropped to their boxes, of one size. With NumPy."""

import numpy as np

# Rows and columns of a cropped mask: four for each of the 28 that mask heads predict.
MASK_SIZE = 112


def cropped(bitmap, box):
    """The part of a bitmap in a box, as shares of the cells of a grid over the box.

    Args:
        bitmap: bool (height, width).
        box: (left, top, right, bottom) in pixels of the bitmap, of any fractions; beyond the
            bitmap is nothing.

    Returns:
        uint8 (112, 112): the covered share of each cell, 255 for all of it. Zeros for a box
        without area.
    """
    left, top, right, bottom = map(float, box)
    if not (right > left and bottom > top):
        return np.zeros((MASK_SIZE, MASK_SIZE), "uint8")
    height, width = np.shape(bitmap)
    rows, row_shares = _shares(top, bottom, height)
    columns, column_shares = _shares(left, right, width)
    part = np.asarray(bitmap[rows, columns], "float32")
    return np.rint(255 * (row_shares @ part @ column_shares.T)).astype("uint8")


def _shares(low, high, side):
    """Pixels from `low` to `high`, a slice; float32 (112, pixels): the share of a cell in each."""
    first, last = np.clip((np.floor(low), np.ceil(high)), 0, side).astype(int)
    edges = np.linspace(low, high, MASK_SIZE + 1)[:, np.newaxis]
    pixels = np.arange(first, last)
    common = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    shares = np.maximum(common, 0) * (MASK_SIZE / (high - low))
    return slice(first, last), shares.astype("float32")
