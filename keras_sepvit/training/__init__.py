"""Training: recipes, data, the trainer and evaluation. Needs the extra `train`.

    from keras_sepvit.training import Trainer, load_recipe

    Trainer(load_recipe("digits"), "runs/digits").train()

The engine trains any `Task`; each task has a package of its own, such as
`keras_sepvit.classification`. Names are imported at their first use: data and trainer need
TensorFlow, whatever the backend, and recipes do not.
"""

from keras_sepvit.lazy import lazy_names

_MODULES = {
    "LayerwiseAdamW": "training.optimizer",
    "RECIPES": "recipes",
    "Recipe": "training.recipe",
    "Report": "training.task",
    "Scores": "training.task",
    "Task": "training.task",
    "Trainer": "training.trainer",
    "TrainingModel": "training.model",
    "TrainingResult": "training.result",
    "WarmupCosine": "training.schedule",
    "WarmupPolynomial": "training.schedule",
    "WarmupSteps": "training.schedule",
    "evaluate": "training.evaluation",
    "evaluation_batches": "training.pipeline",
    "load_recipe": "recipes",
    "open_source": "training.sources.labelled",
    "save_recipe": "training.settings",
    "training_stream": "training.pipeline",
}

__all__ = [*_MODULES]

__getattr__, __dir__ = lazy_names(__name__, _MODULES, within="keras_sepvit")
