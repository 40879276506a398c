"""Semantic segmentation: networks, loss, recipes, the trainer's task, class maps of photos.

Names are imported at their first use, as in `keras_sepvit.classification`.
"""

from keras_sepvit.lazy import lazy_names

_MODULES = {
    "Segmentation": "task",
    "SegmentationRecipe": "recipes",
    "MeanIoU": "callbacks",
    "SegmentationReport": "report",
    "SegmentationScores": "scores",
    "SemanticFPN": "semantic_fpn",
    "UPerNet": "upernet",
    "evaluate": "evaluation",
    "segment": "prediction",
    "segmentation_losses": "losses",
}

__all__ = [*_MODULES]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
