"""Photos on canvases, and the way back for boxes and class maps."""

import dataclasses

import numpy as np

from keras_sepvit.configs import MEAN_COLOUR
from keras_sepvit.geometry import interpolation

_BAND = 64  # rows of a photo whose logits are in memory at once


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a photo lies on a canvas: resized, in the upper left corner.

    Attributes:
        photo_size: (height, width) of the photo.
        size: (height, width) of the photo on the canvas.
        canvas_size: (height, width) of the canvas.
    """

    photo_size: tuple
    size: tuple
    canvas_size: tuple

    @property
    def scale(self):
        """Factors (vertical, horizontal) from the photo to the canvas, of the rounded sizes."""
        return tuple(placed / side for placed, side in zip(self.size, self.photo_size, strict=True))

    def place(self, photo):
        """The canvas (height, width, 3), uint8, of a photo (height, width, 3), uint8."""
        from PIL import Image

        canvas = np.empty((*self.canvas_size, 3), "uint8")
        canvas[:] = MEAN_COLOUR
        height, width = self.size
        resized = Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR)
        canvas[:height, :width] = np.asarray(resized)
        return canvas

    def to_canvas(self, boxes):
        """Boxes (n, 4) of the photo, (left, top, right, bottom), on the canvas."""
        vertical, horizontal = self.scale
        return np.asarray(boxes, "float32") * np.float32(
            [horizontal, vertical, horizontal, vertical]
        )

    def to_photo(self, boxes):
        """Boxes (n, 4) of the canvas, (left, top, right, bottom), on the photo and inside it."""
        vertical, horizontal = self.scale
        height, width = self.photo_size
        boxes = np.asarray(boxes, "float32") / np.float32(
            [horizontal, vertical, horizontal, vertical]
        )
        return np.clip(boxes, 0, np.float32([width, height, width, height]))

    def class_map(self, logits):
        """The photo's classes, uint8 (height, width), from the canvas's logits.

        Logits are interpolated bilinearly to the photo's own size first.

        Args:
            logits: Array of shape (canvas height, canvas width, classes).
        """
        height, width = self.size
        rows, columns = (
            interpolation(side, photo_side)
            for side, photo_side in zip(self.size, self.photo_size, strict=True)
        )
        logits = np.asarray(logits)[:height, :width]
        classes = np.empty(self.photo_size, "uint8")
        for start in range(0, len(classes), _BAND):
            low, high, share = (values[start : start + _BAND] for values in rows)
            band = _between(logits[low], logits[high], share[:, np.newaxis, np.newaxis])
            low, high, share = columns
            band = _between(band[:, low], band[:, high], share[:, np.newaxis])
            classes[start : start + _BAND] = band.argmax(axis=-1)
        return classes


def _between(before, behind, share):
    return before + share * (behind - before)


def fit_into(photo_size, canvas_size):
    """The largest `Placement` of a photo on a canvas that keeps its proportions.

    Args:
        photo_size: (height, width) of the photo in pixels.
        canvas_size: (height, width) of the canvas in pixels.
    """
    scale = min(
        canvas_side / side for side, canvas_side in zip(photo_size, canvas_size, strict=True)
    )
    return Placement(tuple(photo_size), _scaled(photo_size, scale), tuple(canvas_size))


def fit_sides(photo_size, short, long):
    """The `Placement` of a photo that fills its canvas: as large as two sides allow.

    Args:
        photo_size: (height, width) of the photo in pixels.
        short, long: The most that the photo's shorter and longer side may become.
    """
    size = _scaled(photo_size, min(short / min(photo_size), long / max(photo_size)))
    return Placement(tuple(photo_size), size, size)


def _scaled(photo_size, scale):
    return tuple(max(int(side * scale + 0.5), 1) for side in photo_size)
