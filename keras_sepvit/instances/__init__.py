"""Instance segmentation: objects' boxes and masks. The network is in `keras_sepvit.detection`.

Names are imported at their first use, as in `keras_sepvit.classification`.
"""

from keras_sepvit.lazy import lazy_names

_MODULES = {
    "InstanceRecipe": "recipes",
    "InstanceReport": "report",
    "InstanceScores": "scores",
    "InstanceSegmentation": "task",
    "MaskAveragePrecision": "callbacks",
    "evaluate": "evaluation",
}

__all__ = [*_MODULES]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
