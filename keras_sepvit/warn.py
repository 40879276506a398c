"""Warnings, told of the line of the user's that led to them."""

import os
import sys
import warnings

_PACKAGE = os.path.dirname(__file__) + os.sep

# Of images that a user has normalised, by 255 or by ImageNet's mean and deviation.
_LARGEST_NORMALISED = 3


def warn(message):
    """Warns at the first line outside of this package, whatever called what in it."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def warn_if_normalised(images):
    """Warns of images, an array, that should be of 0..255 and are nearly black, if so."""
    largest = max(abs(float(images.min())), abs(float(images.max()))) if images.size else 0
    if 0 < largest <= _LARGEST_NORMALISED:
        warn(
            f"`images` are taken as 0..255, but no value exceeds {largest:.3g}, which is nearly "
            "black. Multiply images of 0..1 by 255, and do not normalise them."
        )
