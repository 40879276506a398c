"""The boxes of many photos, as their files have them and as they are trained on. With NumPy."""

import dataclasses
import pathlib

import numpy as np

from keras_sepvit.detection.segmentations import is_rectangle
from keras_sepvit.validation import counted

# Photos with a shorter side are not trained on, nor boxes with a shorter one (mmdetection).
LEAST_PHOTO = 32
LEAST_BOX = 1

# What boxes may reach out of their photos without a word, in pixels: files have two digits.
_ROUNDING = 0.01

_COLUMNS = ("boxes", "labels", "crowd", "area")
_OF_MASKS = ("masks", "mask_boxes")


@dataclasses.dataclass(frozen=True)
class PhotoBoxes:
    """Photos of a split and their boxes, one photo's after the other's.

    Attributes:
        file: The file of the boxes, for messages.
        folder: The folder of the photos.
        paths: Their files as paths from there.
        image_ids: What the file calls them, ints or strings.
        sizes: int32 (photos, 2), (height, width), upright.
        starts: int64 (photos + 1,): the boxes of photo n are those from `starts[n]` on, and before
            `starts[n + 1]`.
        boxes: float32 (boxes, 4), (left, top, right, bottom) in pixels of the photo.
        labels: int32 (boxes,), from 0.
        crowd: bool (boxes,), whether it is around a group of objects.
        area: float32 (boxes,), of the object; in COCO's files that of its mask.
        class_names: Names of the classes by label.
        category_ids: What the file calls them, ints.
        notes: What to say of them; a tuple of sentences.
        masks: Object (boxes,), as `segmentations.Segmentations` has them; None where they have not
            been read.
        mask_boxes: float32 (boxes, 4), the box around each mask, NaN without one; None likewise.
    """

    file: pathlib.Path
    folder: pathlib.Path
    paths: list
    image_ids: list
    sizes: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    class_names: tuple
    category_ids: tuple
    notes: tuple = ()
    masks: np.ndarray = None
    mask_boxes: np.ndarray = None

    def __len__(self):
        return len(self.paths)

    @property
    def photos(self):
        """The number of each box's photo, int64 (boxes,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @property
    def most(self):
        """The largest number of boxes in a photo."""
        return int(np.diff(self.starts).max(initial=0))

    def of(self, number):
        """Dict of the `"boxes"`, `"labels"`, `"crowd"` and `"area"` of a photo."""
        own = slice(self.starts[number], self.starts[number + 1])
        return {key: getattr(self, key)[own] for key in _COLUMNS}

    def masks_of(self, number):
        """The masks of a photo's boxes."""
        return self.masks[self.starts[number] : self.starts[number + 1]]

    def take(self, numbers):
        """The photos of these numbers, in rising order, with their boxes."""
        chosen = np.zeros(len(self), bool)
        chosen[numbers] = True
        kept = dataclasses.replace(self, **self._of_boxes(chosen[self.photos]))
        return dataclasses.replace(
            kept,
            paths=[self.paths[number] for number in numbers],
            image_ids=[self.image_ids[number] for number in numbers],
            sizes=self.sizes[chosen],
            starts=np.append(0, np.cumsum(np.diff(kept.starts)[chosen])),
        )

    def noted(self, *notes):
        """The same, with more to say of it; empty sentences are left out."""
        return dataclasses.replace(self, notes=(*self.notes, *filter(None, notes)))

    def for_evaluation(self):
        """All as it is in the file; a note tells what is odd there."""
        flat = _shortest(self.boxes) <= 0
        odd = (
            _count(self._reaching_out, "box", "reaching out of the photo"),
            _count(flat, "box", "without area, which nothing can find"),
        )
        return self.noted(_sentence("as in the file", *odd), self._of_masks())

    def for_training(self, keep_empty=False):
        """What can be learned from, with notes on what is left out and clipped.

        Left out are crowds, and boxes without area or with a side under 1 pixel in their photo;
        photos without any box in the file or with a side under 32 pixels, too, unless `keep_empty`.
        Boxes are clipped to their photos.
        """
        clipped = np.clip(self.boxes, 0, self._sides)
        flat, shortest = _shortest(self.boxes) <= 0, _shortest(clipped)
        outside = ~flat & (shortest <= 0)
        small = ~flat & ~outside & (shortest < LEAST_BOX)
        kept = ~(self.crowd | flat | outside | small)
        left_out = [
            _count(self.crowd, "crowd"),
            _count(flat & ~self.crowd, "box", "without area"),
            _count(outside & ~self.crowd, "box", "outside of its photo"),
            _count(small & ~self.crowd, "box", f"with a side under {LEAST_BOX} pixel"),
        ]
        reaching = _count(self._reaching_out & kept, "box", "to the photo")
        result = dataclasses.replace(self, boxes=clipped.astype("float32"))
        if self.masks is not None:
            masks = np.where(self._with_mask, self.masks, None)
            result = dataclasses.replace(result, masks=masks)
        result = dataclasses.replace(result, **result._of_boxes(kept))
        if not keep_empty:
            empty = np.diff(self.starts) == 0
            tiny = ~empty & (self.sizes.min(axis=1) < LEAST_PHOTO)
            left_out += [
                _count(empty, "photo", "without boxes"),
                _count(tiny, "photo", f"with a side under {LEAST_PHOTO} pixels"),
            ]
            result = result.take(np.flatnonzero(~empty & ~tiny))
        return result.noted(
            _sentence("left out", *left_out), _sentence("clipped", reaching), result._of_masks()
        )

    @property
    def _sides(self):
        """What the sides of each box may be at most, int32 (boxes, 4)."""
        return self.sizes[self.photos][:, [1, 0, 1, 0]]

    @property
    def _reaching_out(self):
        low, high = self.boxes[:, :2].min(axis=1), (self.boxes - self._sides)[:, 2:].max(axis=1)
        return (low < -_ROUNDING) | (high > _ROUNDING)

    @property
    def _with_mask(self):
        """Which boxes have a mask that shows something inside of them; bool (boxes,)."""
        boxes = np.clip(self.boxes, 0, self._sides)
        low = np.maximum(boxes[:, :2], self.mask_boxes[:, :2])
        high = np.minimum(boxes[:, 2:], self.mask_boxes[:, 2:])
        return (high > low).all(axis=1)  # not where they are NaN

    def _of_masks(self):
        """A sentence on the masks, or none."""
        if self.masks is None:
            return ""
        none = np.isnan(self.mask_boxes[:, 0])
        reaching = (self.mask_boxes[:, :2].min(axis=1) < -1) | (
            (self.mask_boxes - self._sides)[:, 2:].max(axis=1) > 1
        )
        rectangles = [*map(is_rectangle, self.masks)]
        return _sentence(
            "masks",
            _count(none, "object", "without one"),
            _count(~none & ~self._with_mask, "object", "whose mask shows nothing in its box"),
            _count(reaching, "mask", "reaching out of the photo"),
            _count(rectangles, "mask", "in the shape of a box"),
        )

    def _of_boxes(self, kept):
        """Attributes of the boxes that `kept`, bool (boxes,), tells."""
        counts = np.bincount(self.photos[kept], minlength=len(self))
        columns = _COLUMNS if self.masks is None else _COLUMNS + _OF_MASKS
        values = {key: getattr(self, key)[kept] for key in columns}
        return {**values, "starts": np.append(0, np.cumsum(counts))}


def in_order(photos, count, **columns):
    """Columns of boxes, each sorted by the photo, and `"starts"`, as `PhotoBoxes` has them.

    Args:
        photos: Ints (boxes,), the number of each box's photo.
        count: Number of photos.
        **columns: Arrays (boxes, ...).
    """
    photos = np.asarray(photos, "int64")
    order = np.argsort(photos, kind="stable")
    starts = np.append(0, np.cumsum(np.bincount(photos, minlength=count)))
    return {"starts": starts, **{key: column[order] for key, column in columns.items()}}


def _shortest(boxes):
    """The shorter side of each box (boxes, 4)."""
    return (boxes[:, 2:] - boxes[:, :2]).min(axis=1)


def _count(chosen, noun, what=""):
    number = int(np.count_nonzero(chosen))
    return f"{counted(number, noun)} {what}".rstrip() if number else ""


def _sentence(start, *parts):
    parts = [*filter(None, parts)]
    return f"{start}: {', '.join(parts)}" if parts else ""
