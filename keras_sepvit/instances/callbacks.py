"""Average precision by boxes and by masks in the logs of a plain `fit`."""

import numpy as np

from keras_sepvit.detection.callbacks import AveragePrecision
from keras_sepvit.instances.scores import InstanceScores
from keras_sepvit.runtime.masks import encode
from keras_sepvit.runtime.object_masks import ObjectMasks


class MaskAveragePrecision(AveragePrecision):
    """Adds COCO's `val_AP`, `val_AP50`, `val_mask_AP` and `val_mask_AP50`, in percent, to the logs.

    As `keras_sepvit.detection.AveragePrecision`, for a `MaskRCNN`. Masks are compared at the size
    of the images: those of the data where they are at least half covered. An object whose mask is
    all zeros is neither found nor missed by masks.

    Args:
        data: As there; targets have `"masks"` (images, boxes, side, side), too, uint8.
        batch_size: As there.

    Raises:
        As there.
    """

    _logged = {
        **AveragePrecision._logged,
        **{"val_mask_AP": "mask_ap", "val_mask_AP50": "mask_ap50"},
    }
    _new_scores = InstanceScores

    def _add(self, scores, truth, found, image_size):
        rows = truth["labels"] >= 0
        crops = truth["masks"][rows]
        shares = np.float32(crops) / 255
        masks = [
            encode(mask) if crop.any() else None
            for crop, mask in zip(
                crops, ObjectMasks(shares, truth["boxes"][rows], image_size), strict=True
            )
        ]
        truth = {"boxes": truth["boxes"], "labels": truth["labels"], "masks": masks}
        kept = found["labels"] >= 0
        found = {key: found[key][kept] for key in ("boxes", "labels", "confidence", "masks")}
        found["masks"] = ObjectMasks(found["masks"], found["boxes"], image_size)
        scores.add(truth, found, photo_size=image_size)
