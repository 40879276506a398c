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

# The recipe of a folder that takes a recipe's place.
_OF_FOLDERS = "photos"


def load_recipe(source, overrides=()):
    """A recipe by name or from a YAML file, with changes.

    Args:
        source: A name in `RECIPES`; the path of a YAML file whose keys are those of the task's
            recipe, and which may start from a named recipe with the key `recipe`; a folder of
            class folders, for the recipe `photos` of it; or a `Recipe`.
        overrides: Changes as `"key=value"`, such as `"optimizer.learning_rate=5e-4"`.

    Returns:
        A new `Recipe` of its task, checked.

    Raises:
        FileNotFoundError: if `source` is neither a name nor a file.
        ValueError: for unknown keys, values of a wrong type or out of range, and values that a
            recipe leaves to the user (such as `model.weights` of `finetune`) and are not given.
    """
    for text in overrides:
        if "=" not in text and pathlib.Path(text).expanduser().is_dir():
            raise ValueError(
                f"'{text}' is a folder, and changes are written key=value. To train on it, write "
                f"data.name=folder:{text}, or name it in the place of the recipe."
            )
    if isinstance(source, Recipe):
        return changed_recipe(source, overrides=overrides)
    if is_folder(source, overrides):
        # Not as it is typed: `photos/` is `photos`.
        overrides = [f"data.name=folder:{pathlib.Path(source)}", *overrides]
        return changed_recipe(RECIPES[_OF_FOLDERS], overrides=overrides, name=_OF_FOLDERS)
    if source == _OF_FOLDERS and not _names_data(overrides):
        raise ValueError(
            f"The recipe '{source}' is for a folder of photos, with a folder for each class in it, "
            f"and there is none called '{source}' here. Name the folder in the recipe's place, as "
            "in: keras-sepvit train FOLDER. Or add data.name=folder:FOLDER."
        )
    if source in RECIPES:
        return changed_recipe(RECIPES[source], overrides=overrides, name=source)
    path = pathlib.Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"Unknown recipe: {str(source)!r} is neither a file or folder nor one of "
            f"{', '.join(RECIPES)}."
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


def is_folder(source, overrides=()):
    """Whether what `load_recipe` takes is a folder of class folders.

    Names of recipes come first, but for that of folders without any other data.
    """
    taken = source in RECIPES and (source != _OF_FOLDERS or _names_data(overrides))
    return bool(source) and not taken and pathlib.Path(source).expanduser().is_dir()


def _names_data(overrides):
    return any(text.startswith("data.name=") for text in overrides)
