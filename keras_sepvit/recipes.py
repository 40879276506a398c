"""All recipes by name, and reading them from files.

recipe = load_recipe("imagenet_t", ["data.data_dir=/data", "batch_size=256"])
"""

import pathlib
import types

from keras_sepvit.classification import recipes as classification
from keras_sepvit.training.recipe import Recipe, changed_recipe, check_choice, read_settings

RECIPES = types.MappingProxyType({**classification.RECIPES})

# By the key `task`, which files of version 0.1.0 lack.
_CLASSES = {"classification": classification.ClassificationRecipe}


def load_recipe(source, overrides=()):
    """A recipe by name or from a YAML file, with changes.

    Args:
        source: A name in `RECIPES`, the path of a YAML file whose keys are those of the task's
            recipe, or a `Recipe`. A YAML file may start from a named recipe with the key
            `recipe`.
        overrides: Changes as `"key=value"`, such as `"optimizer.learning_rate=5e-4"`.

    Returns:
        A new `Recipe` of its task, checked.

    Raises:
        FileNotFoundError: if `source` is neither a name nor a file.
        ValueError: for unknown keys, values of a wrong type or out of range, and values that a
            recipe leaves to the user (such as `model.weights` of `finetune`) and are not given.
    """
    if isinstance(source, Recipe):
        return changed_recipe(source, overrides=overrides)
    if source in RECIPES:
        return changed_recipe(RECIPES[source], overrides=overrides, name=source)
    path = pathlib.Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"Unknown recipe: {str(source)!r} is neither a file nor one of {', '.join(RECIPES)}."
        )
    settings = read_settings(path)
    name = settings.pop("recipe", None)
    if name is None:
        task = settings.get("task", "classification")
        check_choice("task", task, tuple(_CLASSES))
        base = _CLASSES[task]()
    elif name in RECIPES:
        base = RECIPES[name]
    else:
        raise ValueError(
            f"The recipe '{path}' starts from an unknown `recipe`: {name!r}. Expected one of "
            f"{', '.join(RECIPES)}."
        )
    return changed_recipe(base, settings, overrides, name=str(source))
