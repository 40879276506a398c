"""Colours of classes."""

import functools

import numpy as np

from keras_sepvit.validation import positive_int

_MOST = 255  # 255 itself is no class


def palette(classes):
    """The colours of classes: uint8 (classes, 3).

    A class has the same colour whatever the number of classes, at most 255.

    Raises:
        ValueError: for another number.
    """
    if positive_int("classes", classes) > _MOST:
        raise ValueError(f"`classes` must be at most {_MOST}. Received: classes={classes}.")
    return _colours()[:classes]


@functools.cache
def _colours():
    """255 colours, each as far from those before it as one can be."""
    levels = np.rint(np.linspace(0, 255, 8)).astype("int64")
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[np.ptp(grid, axis=1) > 70]  # no greys, which photos are full of
    chosen = [np.array([255, 73, 36])]
    distances = np.full(len(grid), np.iinfo("int64").max)
    while len(chosen) < _MOST:
        # Green counts most for the eye. In integers, so that all machines choose alike.
        new = np.sum((2, 4, 3) * (grid - chosen[-1]) ** 2, axis=1)
        distances = np.minimum(distances, new)
        chosen.append(grid[distances.argmax()])
    return np.array(chosen, "uint8")
