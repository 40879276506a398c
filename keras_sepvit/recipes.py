"""All recipes by name, and reading them from files.

recipe = load_recipe("imagenet_t", ["data.data_dir=/data", "batch_size=256"])
"""

import pathlib
import types

from keras_sepvit.classification import recipes as classification
from keras_sepvit.detection import recipes as detection
from keras_sepvit.instances import recipes as instances
from keras_sepvit.segmentation import recipes as segmentation
from keras_sepvit.training.recipe import Recipe, check_choice
from keras_sepvit.training.settings import changed_recipe, read_settings

RECIPES = types.MappingProxyType(
    {
        **classification.RECIPES,
        **segmentation.RECIPES,
        **detection.RECIPES,
        **instances.RECIPES,
    }
)

# By the key `task`, which files of version 0.1.0 lack.
_CLASSES = {
    "classification": classification.ClassificationRecipe,
    "segmentation": segmentation.SegmentationRecipe,
    "detection": detection.DetectionRecipe,
    "instances": instances.InstanceRecipe,
}

# The recipe of a folder that takes a recipe's place, by task.
_OF_FOLDERS = {
    "classification": "photos",
    "segmentation": "finetune_segmenter",
    "detection": "finetune_detector",
    "instances": "finetune_instances",
}


def load_recipe(source, overrides=(), task=None):
    """A recipe by name or from a YAML file, with changes.

    Args:
        source: A name in `RECIPES`, also with hyphens; the path of a YAML file whose keys are
            those of the task's recipe, and which may start from a named recipe with the key
            `recipe`; a folder, for the recipe `photos`, `finetune_segmenter`, `finetune_detector`
            or `finetune_instances` of it; or a `Recipe`.
        overrides: Changes as `"key=value"`, such as `"optimizer.learning_rate=5e-4"`.
        task: What a folder is for: `"classification"`, by default, of class folders, or
            `"segmentation"` of `images/` and `masks/`, `"detection"` of pictures and boxes in
            COCO's or YOLO's form, or `"instances"` of those with polygons or masks. That of any
            other `source`, if given.

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
    if task is not None:
        check_choice("task", task, tuple(_CLASSES))
    if is_folder(source, overrides):
        name = _OF_FOLDERS[task or "classification"]
        # Not as it is typed: `photos/` is `photos`.
        overrides = [f"data.name=folder:{pathlib.Path(source)}", *overrides]
        return changed_recipe(RECIPES[name], overrides=overrides, name=name)
    recipe = _load(source, overrides)
    if task not in (None, recipe.task):
        raise ValueError(
            f"The recipe {str(source)!r} is one of {recipe.task}. Received: task={task!r}. Leave "
            "it out."
        )
    return recipe


def _load(source, overrides):
    if isinstance(source, Recipe):
        return changed_recipe(source, overrides=overrides)
    name = recipe_name(source)
    if name in _OF_FOLDERS.values() and not _names_data(overrides):
        of = RECIPES[name].task
        how = "" if of == "classification" else f"--task {of} "
        raise ValueError(
            f"The recipe '{name}' is for a folder of photos, and there is none called '{source}' "
            f"here. Name the folder in the recipe's place, as in: keras-sepvit train {how}FOLDER. "
            "Or add data.name=folder:FOLDER."
        )
    if name is not None:
        return changed_recipe(RECIPES[name], overrides=overrides, name=name)
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


def recipe_name(source):
    """The name in `RECIPES` of what `load_recipe` takes; None of a file or a folder."""
    name = str(source).replace("-", "_")
    return name if name in RECIPES else None


def is_folder(source, overrides=()):
    """Whether what `load_recipe` takes is a folder.

    Names of recipes come first, but for those of folders without any other data.
    """
    if isinstance(source, Recipe) or not source:
        return False
    name = recipe_name(source)
    taken = name is not None and (name not in _OF_FOLDERS.values() or _names_data(overrides))
    return not taken and pathlib.Path(source).expanduser().is_dir()


def _names_data(overrides):
    return any(text.startswith("data.name=") for text in overrides)
