"""Classification: recipes, the trainer's task, evaluation. Needs the extra `train`.

Names are imported at their first use, as in `keras_sepvit.training`.
"""

from keras_sepvit.lazy import lazy_names

_MODULES = {
    "BatchAugmentation": "mixing",
    "Classification": "task",
    "ClassificationRecipe": "recipes",
    "ClassificationReport": "report",
    "ClassificationScores": "scores",
    "EvalTransform": "images",
    "TrainTransform": "images",
    "evaluate": "evaluation",
}

__all__ = [*_MODULES]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
