"""Masks of objects in a photo, from those over their boxes."""

from keras_sepvit.runtime.masks import paste, paste_all


class ObjectMasks:
    """Objects' masks in a photo, pasted one by one as they are gone through.

    All of them at once take much memory: 100 in a photo of 12 megapixels 1.2 GB. `masks[rows]`
    are those of rows, a slice or an array.

    Args:
        masks: float32 (n, side, side) of 0..1, each over its box.
        boxes: (n, 4), (left, top, right, bottom) in the photo's pixels; may reach beyond it.
        photo_size: (height, width) of the photo.
    """

    def __init__(self, masks, boxes, photo_size):
        self._masks, self._boxes, self._size = masks, boxes, tuple(photo_size)

    def __len__(self):
        return len(self._masks)

    def __getitem__(self, rows):
        return ObjectMasks(self._masks[rows], self._boxes[rows], self._size)

    def __iter__(self):
        """The masks, bool (height, width)."""
        for mask, box in zip(self._masks, self._boxes, strict=True):
            yield paste(mask, box, self._size)

    def pasted(self):
        """All masks, bool (n, height, width)."""
        return paste_all(self._masks, self._boxes, self._size)
