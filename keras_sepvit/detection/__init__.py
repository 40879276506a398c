"""Detection of objects: networks, losses, decoding, scores of detections.

Names are imported at their first use, as in `keras_sepvit.classification`.
"""

from keras_sepvit.lazy import lazy_names

_MODULES = {
    "Anchors": "anchors",
    "AveragePrecision": "callbacks",
    "Detection": "task",
    "DetectionRecipe": "recipes",
    "DetectionReport": "report",
    "DetectionScores": "scores",
    "Detections": "layers",
    "MaskRCNN": "mask_rcnn",
    "RetinaNet": "retinanet",
    "detect": "prediction",
    "evaluate": "evaluation",
    "mask_rcnn_losses": "rcnn_losses",
    "retinanet_losses": "losses",
}

__all__ = [*_MODULES]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
