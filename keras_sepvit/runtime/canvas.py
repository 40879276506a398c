"""Photos on canvases, and the way back for boxes and class maps."""

import dataclasses
import functools

import numpy as np

from keras_sepvit.configs import MEAN_COLOUR
from keras_sepvit.geometry import interpolation
from keras_sepvit.runtime.images import read_photo

_BAND = 2**18  # logits of a photo that are interpolated at once


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

    def to_photo(self, boxes, inside=True):
        """Boxes (n, 4) of the canvas, (left, top, right, bottom), on the photo.

        Args:
            boxes: The boxes.
            inside: Whether they are clipped to the photo.
        """
        vertical, horizontal = self.scale
        height, width = self.photo_size
        boxes = np.asarray(boxes, "float32") / np.float32(
            [horizontal, vertical, horizontal, vertical]
        )
        if not inside:
            return boxes
        return np.clip(boxes, 0, np.float32([width, height, width, height]))

    def class_map(self, answer):
        """The photo's classes, uint8 (height, width), from the canvas's.

        Logits are interpolated bilinearly to the photo's own size first; of a class map the
        nearest pixels are taken.

        Args:
            answer: Logits (canvas height, canvas width, classes), or a class map, ints (canvas
                height, canvas width).

        Raises:
            ValueError: for an answer of another size than the canvas.
        """
        answer = np.asarray(answer)
        if answer.shape[:2] != self.canvas_size:
            raise ValueError(
                f"The answer for a canvas of {self.canvas_size} must have its size. "
                f"Received: {answer.shape}."
            )
        if answer.ndim == 2:
            low, high, share = self._rows
            row = np.where(share < 0.5, low, high)
            low, high, share = self._columns
            return answer[row[:, np.newaxis], np.where(share < 0.5, low, high)].astype("uint8")
        classes = np.empty(self.photo_size, "uint8")
        for start, band in self.bands(answer):
            classes[start : start + len(band)] = band.argmax(axis=-1)
        return classes

    def bands(self, logits):
        """The canvas's logits at the photo's own size, interpolated bilinearly.

        Args:
            logits: Array (canvas height, canvas width, classes).

        Returns:
            Generator of the number of a row of the photo, and of float32 (rows, width, classes)
            from that row on: few at a time, which stay in the processor's cache.
        """
        height, width = self.size
        logits = np.asarray(logits, "float32")[:height, :width]
        step = max(_BAND // (self.photo_size[1] * logits.shape[-1]), 1)
        for start in range(0, self.photo_size[0], step):
            low, high, share = (values[start : start + step] for values in self._rows)
            band = _between(logits[low], logits[high], share[:, np.newaxis, np.newaxis])
            low, high, share = self._columns
            yield start, _between(band[:, low], band[:, high], share[:, np.newaxis])

    @functools.cached_property
    def _rows(self):
        return interpolation(self.size[0], self.photo_size[0])

    @functools.cached_property
    def _columns(self):
        return interpolation(self.size[1], self.photo_size[1])


def _between(before, behind, share):
    between = behind - before
    between *= share
    between += before
    return between


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


def turned(canvas_size, photo_sizes):
    """Whether a canvas is turned by a quarter for a photo: where one lies and the other stands.

    Args:
        canvas_size: (height, width) of the canvas as it is for most photos.
        photo_sizes: (height, width) of a photo, or ints (..., 2) of many.

    Returns:
        bool, or (...) of them. A square canvas is never turned, nor one for a square photo.
    """
    height, width = np.moveaxis(np.asarray(photo_sizes), -1, 0)
    return (canvas_size[0] - canvas_size[1]) * (height - width) < 0


def read_canvas(path, height, width):
    """Reads an image file as segmenters and detectors take it, fitted into a canvas.

    Args:
        path: An image file of a kind that Pillow reads.
        height, width: Size of the result in pixels.

    Returns:
        uint8 array of shape (height, width, 3).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as an image.
    """
    photo = read_photo(path)
    return fit_into(photo.shape[:2], (height, width)).place(photo)
