"""Photos on canvases of a fixed size, and the way back for boxes."""

import dataclasses

import numpy as np

# ImageNet's mean colour: zero once normalised.
MEAN_COLOUR = (124, 116, 104)


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


def fit_into(photo_size, canvas_size):
    """The largest `Placement` of a photo on a canvas that keeps its proportions.

    Args:
        photo_size: (height, width) of the photo in pixels.
        canvas_size: (height, width) of the canvas in pixels.
    """
    scale = min(
        canvas_side / side for side, canvas_side in zip(photo_size, canvas_size, strict=True)
    )
    size = tuple(max(int(side * scale + 0.5), 1) for side in photo_size)
    return Placement(tuple(photo_size), size, tuple(canvas_size))
