"""Training: recipes, data, the trainer and evaluation. Needs the extra `train`.

    from keras_sepvit.training import Trainer, load_recipe

    Trainer(load_recipe("digits"), "runs/digits").train()

Names are imported at their first use: data and trainer need TensorFlow, whatever the backend,
and recipes do not.
"""

import importlib

_MODULES = {
    "BatchAugmentation": "mixing",
    "LayerwiseAdamW": "optimizer",
    "RECIPES": "recipe",
    "Recipe": "recipe",
    "Trainer": "trainer",
    "TrainingModel": "model",
    "TrainingResult": "trainer",
    "WarmupCosine": "schedule",
    "evaluate": "evaluation",
    "load_recipe": "recipe",
    "open_source": "sources",
    "save_recipe": "recipe",
}

__all__ = [*_MODULES]


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})
