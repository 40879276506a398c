"""COCO's average precision and recall of boxes and of masks. Without Keras."""

import numpy as np

from keras_sepvit.detection.scores import DetectionScores
from keras_sepvit.runtime.masks import encode


class InstanceScores(DetectionScores):
    """COCO's twelve numbers of boxes in photos, and the same of masks.

    An object without a usable mask is neither found nor missed by masks: those of its class in its
    box do not count, as in a crowd.

    Args:
        classes: Number of classes.
        masks_of: For `update`: function of a photo's `image_id` that gives the list of its true
            objects' masks, in the order of their boxes: COCO's compressed RLEs, dicts of `size`
            [height, width] and `counts`, a string; None for an object without.

    Results are those of `DetectionScores`, and of masks `mask_ap`, `mask_ap50` and so on. By
    masks, detections are small or large by the areas of theirs, objects as by boxes by their
    `"area"`.

    Raises:
        ImportError: without faster-coco-eval.
    """

    _truth = {**DetectionScores._truth, "masks": "object", "masked": "bool"}
    _found = {**DetectionScores._found, "masks": "object"}

    def __init__(self, classes, masks_of=None):
        super().__init__(classes)
        self._masks_of = masks_of

    def _truth_of(self, examples, number, image_id):
        truth = super()._truth_of(examples, number, image_id)
        return {**truth, "masks": self._masks_of(image_id)}

    def add(self, truth, found, image=None, name="", image_id=None, photo_size=None):
        """Adds a photo.

        Args:
            truth: As for `DetectionScores`, and `"masks"`, as `masks_of` gives them, for all but
                padding.
            found: As for `DetectionScores`, and `"masks"`: bool (n, height, width) in the photo,
                or anything that gives n of these one by one.
            image, name, image_id, photo_size: As for `DetectionScores`; one of image and
                photo_size is needed.

        Returns:
            The `Picture`. Its masks are RLEs; of an object without, its box, and `"masked"` false.

        Raises:
            ValueError: for another number of masks, or those of another size, and as
                `DetectionScores`.
        """
        size = tuple(image.shape[:2] if photo_size is None else photo_size)
        kept = np.asarray(truth["labels"]) >= 0
        masks = truth["masks"]
        _check_masks("truth", len(masks), kept.sum(), [m["size"] for m in masks if m], size)
        boxes = np.asarray(truth["boxes"], "float64").reshape(-1, 4)[kept]
        masked = np.zeros(len(kept), bool)
        masked[kept] = [mask is not None for mask in masks]
        shown = [mask or _of_box(box, size) for mask, box in zip(masks, boxes, strict=True)]
        rows = np.full(len(kept), None)
        rows[kept] = _objects(shown)
        truth = {**truth, "masks": rows, "masked": masked}
        if "masks" not in found:
            raise ValueError("`found` must have masks: those of an instance segmenter.")
        found = {**found, "masks": _objects([encode(mask) for mask in found["masks"]])}
        sizes = [mask["size"] for mask in found["masks"]]
        _check_masks("found", len(sizes), len(found["labels"]), sizes, size)
        return super().add(truth, found, image, name, image_id, photo_size)

    def result(self):
        masks = self.evaluated("segm").scores
        return {
            **super().result(),
            **{f"mask_{name.lower()}": value for name, value in masks.items()},
        }

    def counts(self):
        truths = [picture.truth for picture in self._pictures]
        without = sum(int((~truth["crowd"] & ~truth["masked"]).sum()) for truth in truths)
        return {**super().counts(), "without_mask": without}


def _check_masks(what, count, expected, sizes, size):
    """Refuses another number of masks than of labels, and those of another size."""
    if count != expected:
        raise ValueError(
            f"`{what}` must have masks for each of {expected} labels. Received: {count}."
        )
    wrong = [other for other in sizes if tuple(other) != size]
    if wrong:
        raise ValueError(
            f"`{what}` must have masks of the photo's size, {size}, (height, width). Received: "
            f"{tuple(wrong[0])}."
        )


def _objects(values):
    """An object array (n,) of a list of dicts."""
    array = np.empty(len(values), "object")
    array[:] = values
    return array


def _of_box(box, size):
    """The RLE of all pixels that a box touches."""
    mask = np.zeros(size, bool)
    left, top = np.floor(box[:2]).clip(0).astype(int)
    right, bottom = np.ceil(box[2:]).clip(0).astype(int)
    mask[top:bottom, left:right] = True
    return encode(mask)
