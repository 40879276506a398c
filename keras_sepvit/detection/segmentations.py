"""Masks of objects as files have them, polygons and run lengths, checked. With NumPy.

Polygons become pixels as COCO's own evaluation makes them. Files are read with care before: its
functions take a list of four numbers for a box and four lists for four boxes, say, and coordinates
that are not finite or far outside for a reason to ask for all memory.

Source: https://cocodataset.org/#format-data.
"""

import collections

import numpy as np

from keras_sepvit.runtime.masks import as_text, coco_masks, decode
from keras_sepvit.training.masks import MASK_SIZE, cropped
from keras_sepvit.validation import counted

_NUMBER = {int, float}
_POLYGONS = "polygons, a list of lists x, y, x, y, ... in pixels, or run lengths, size and counts"

# Points further out, in sides of the photo, are moved nearer: outlines cost memory by their length.
_FAR = 10


class Segmentations:
    """Masks of the objects of a file, in the order in which they are added.

    A mask is a tuple of polygons, float64 (points, 2) each, in pixels of the upright photo; or a
    dict in COCO's compressed form, `"size"` [height, width] and `"counts"`, a string; None for
    an object without.

    Raises:
        ImportError: without faster-coco-eval.
    """

    def __init__(self):
        coco_masks()
        self._masks, self._boxes = [], []
        self._repaired = collections.Counter()

    def add(self, value, size):
        """Adds what a file says of an object's mask, repaired where its meaning is plain.

        Args:
            value: The value of `segmentation` in COCO's form; None for nothing.
            size: (height, width) of the photo.

        Raises:
            ValueError: for a value that cannot be right, saying what was expected.
        """
        size = [int(side) for side in size]
        if isinstance(value, dict) and "counts" in value:
            mask = _run_lengths(value, size) if value["counts"] else None
        elif not value:  # null, or an empty list, text or object
            mask = None
        elif isinstance(value, list):
            mask = self._polygons(value, size)
        else:
            raise ValueError(_POLYGONS)
        self._masks.append(mask)
        self._boxes.append(_box_around(mask))

    def columns(self):
        """`"masks"`, the masks, object (n,), and `"mask_boxes"`, float32 (n, 4): the box around
        each, (left, top, right, bottom), NaN without a mask."""
        masks = np.empty(len(self._masks), object)
        masks[:] = self._masks
        boxes = np.reshape(self._boxes, (-1, 4)).astype("float32")
        return {"masks": masks, "mask_boxes": boxes}

    @property
    def notes(self):
        """Sentences, one or none, on what was repaired."""
        repaired = +self._repaired  # those that are above 0
        parts = [f"{counted(count, 'mask')} {what}" for what, count in repaired.items()]
        return [f"repaired: {', '.join(parts)}"] if parts else []

    def _polygons(self, value, size):
        if type(value[0]) in _NUMBER:
            value = [value]
            # A box of four numbers is no mask.
            self._repaired["of one flat list, taken as a polygon"] += len(value[0]) > 4
        elif all(isinstance(pair, list) and len(pair) == 2 for pair in value) and len(value) > 2:
            value = [value]
        polygons = [_points(part) for part in value]
        whole = [points for points in polygons if len(points) > 2]
        lost = len(polygons) - len(whole)
        self._repaired["without its parts of less than three points"] += bool(whole and lost)
        far = _FAR * np.array(size[::-1])
        return tuple(np.clip(points, -far, far) for points in whole) or None


def compressed(mask, size):
    """A mask of `Segmentations` in COCO's compressed form.

    Args:
        mask: Its polygons or dict.
        size: (height, width) of the photo.

    Returns:
        Dict of `"size"`, [height, width], and `"counts"`, a string.
    """
    if isinstance(mask, dict):
        return mask
    library = coco_masks()
    height, width = map(int, size)
    parts = library.frPoly([points.ravel().tolist() for points in mask], height, width)
    return as_text(library.merge(parts) if len(parts) > 1 else parts[0])


def crop_of(mask, size, box):
    """A mask of `Segmentations` cropped to a box, as `keras_sepvit.training.masks.cropped` does.

    Args:
        mask: Its polygons or dict.
        size: (height, width) of the photo.
        box: (left, top, right, bottom) in its pixels.
    """
    corner = np.zeros(2)
    if not isinstance(mask, dict):
        # Only the part of the photo around the polygons: photos may have millions of pixels.
        around = np.reshape(_box_around(mask), (2, 2))
        corner, end = np.clip(np.floor(around) + ((-1, -1), (2, 2)), 0, size[::-1])
        if (end <= corner).any():
            return np.zeros((MASK_SIZE, MASK_SIZE), "uint8")
        mask, size = tuple(points - corner for points in mask), (end - corner)[::-1]
    return cropped(decode(compressed(mask, size)), np.subtract(box, np.tile(corner, 2)))


def is_rectangle(mask):
    """Whether a mask of `Segmentations` is one polygon, an upright rectangle."""
    if not isinstance(mask, tuple) or len(mask) != 1 or len(mask[0]) not in (4, 5):
        return False
    (points,) = mask
    on_edge = (points == points.min(axis=0)) | (points == points.max(axis=0))
    return on_edge.all() and len({*map(tuple, points)}) == 4


def _points(part):
    """float64 (points, 2) of a part of a file's polygons."""
    if not isinstance(part, list):
        raise ValueError(_POLYGONS)
    if part and all(isinstance(pair, list) and len(pair) == 2 for pair in part):
        part = [side for pair in part for side in pair]
    if not {*map(type, part)} <= _NUMBER:
        raise ValueError(_POLYGONS)
    if len(part) % 2:
        raise ValueError(
            f"an x and a y for each point, but a part has {counted(len(part), 'number')}"
        )
    points = np.array(part, "float64").reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("finite numbers")
    return points


def _run_lengths(value, size):
    """The compressed form of run lengths, whose sum must be the photo's pixels."""
    stated, counts = value.get("size"), value["counts"]
    if stated != size:
        raise ValueError(f"the size of its photo, {size} ([height, width], upright), not {stated}")
    library = coco_masks()
    expected = f"run lengths, 0 or more, which add up to the photo's {size[0] * size[1]:,} pixels"
    try:
        rle = {"size": size, "counts": counts}
        if isinstance(counts, list):
            rle = as_text(library.frUncompressedRLE([rle])[0])
        lengths = library.toUncompressedRLE([rle])[0]["counts"]
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(expected) from None
    if sum(lengths) != size[0] * size[1]:
        raise ValueError(f"{expected}, not to {sum(lengths):,}")
    return rle


def _box_around(mask):
    if mask is None:
        return np.full(4, np.nan)
    if isinstance(mask, dict):
        left, top, width, height = coco_masks().toBbox([mask])[0]
        return np.array([left, top, left + width, top + height])
    points = mask[0] if len(mask) == 1 else np.concatenate(mask)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])
