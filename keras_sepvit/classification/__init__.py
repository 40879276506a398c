"""Classification: recipes, the trainer's task, evaluation. Needs the extra `train`.

Names are imported at their first use, as in `keras_sepvit.training`.
"""

import importlib

_MODULES = {
    "BatchAugmentation": "mixing",
    "Classification": "task",
    "ClassificationRecipe": "recipes",
    "ClassificationScores": "scores",
    "EvalTransform": "images",
    "TrainTransform": "images",
    "evaluate": "evaluation",
}

__all__ = [*_MODULES]


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})
