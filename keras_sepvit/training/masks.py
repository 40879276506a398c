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
    left, top, right, bottom = np.float64(box)
    if not (right > left and bottom > top):
        return np.zeros((MASK_SIZE, MASK_SIZE), "uint8")
    height, width = np.shape(bitmap)
    first_row, first_column = int(np.clip(top, 0, height)), int(np.clip(left, 0, width))
    last_row, last_column = int(np.clip(bottom, 0, height)), int(np.clip(right, 0, width))
    part = bitmap[first_row : last_row + 1, first_column : last_column + 1]
    rows = _cells(part, top - first_row, bottom - first_row)
    shares = _cells(rows.T, left - first_column, right - first_column).T
    return np.rint(255 * shares).astype("uint8")


def _cells(values, low, high):
    """Means of values over equal parts of low..high along their first axis, nothing beyond."""
    edges = np.linspace(low, high, MASK_SIZE + 1)
    sums = np.zeros((len(values) + 2, values.shape[1]))
    np.cumsum(values, axis=0, out=sums[1:-1])
    sums[-1] = sums[-2]
    places = np.clip(edges, 0, len(values))
    whole = places.astype(int)
    share = (places - whole)[:, None]
    return np.diff((1 - share) * sums[whole] + share * sums[whole + 1], axis=0) * (
        MASK_SIZE / (high - low)
    )
