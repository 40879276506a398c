"""What an instance segmenter gets right and wrong, class by class."""

import numpy as np
from PIL import Image

from keras_sepvit.detection.report import DetectionReport, table
from keras_sepvit.instances.scores import InstanceScores
from keras_sepvit.runtime.masks import decode
from keras_sepvit.visualize import draw_instances


class InstanceReport(InstanceScores, DetectionReport):
    """`DetectionReport` with AP by masks, too; its photos have masks.

    Which objects are found, the confusion matrix and the worst photos go by boxes.

    Args:
        classes, class_names, category_ids: As for `DetectionReport`.
        masks_of: As for `InstanceScores`.
    """

    def __init__(self, classes, class_names=None, category_ids=None, masks_of=None):
        DetectionReport.__init__(self, classes, class_names, category_ids)
        self._masks_of = masks_of

    def _tables(self, results):
        masks = {
            name.removeprefix("mask_"): value
            for name, value in results.items()
            if name.startswith("mask_")
        }
        return ["boxes", *super()._tables(results), "masks", *table(masks, "mask", "masks")]

    def _aps(self, number, kind="bbox"):
        masks = super()._aps(number, "segm")
        return {**super()._aps(number), **{f"mask_{name}": masks[name] for name in masks}}

    def _curves(self):
        masks = self._curve("segm", "precision by recall of masks")
        return {**super()._curves(), "mask_precision_recall.png": masks}

    def _draw(self, image, part):
        size = image.shape[:2]
        masked = part.get("masked", np.ones(len(part["masks"]), bool))
        masks = [
            _resized(decode(mask), size) if has_one else None
            for mask, has_one in zip(part["masks"], masked, strict=True)
        ]
        confidence = part.get("confidence")
        return draw_instances(
            image, part["boxes"], part["labels"], masks, confidence, self.class_names
        )


def _resized(mask, size):
    """A mask, bool, at another (height, width)."""
    image = Image.fromarray(255 * mask.astype("uint8"))
    return np.asarray(image.resize(size[::-1], Image.Resampling.BOX)) >= 128
