"""The folder of a run: its files, whose it is, and the state to go on from."""

import contextlib
import copy
import dataclasses
import functools
import pathlib
import zipfile

from keras_sepvit.files import remove_leftovers, replacing
from keras_sepvit.training.checkpoint import (
    check_shared,
    fingerprint,
    load_checkpoint,
    read_header,
)
from keras_sepvit.training.settings import read_recipe, read_settings, save_recipe
from keras_sepvit.validation import counted


class RunFolder:
    """Where a run writes, and what a stopped one goes on from.

    Args:
        path: The folder; need not exist.
        recipe: The `Recipe` of the run.

    Attributes:
        recipe: The same, with what was decided for a stopped run that goes on.

    Raises:
        ValueError: if the folder is a file, or has the checkpoint of a run that a recipe has
            trained which differs in what decides the training (naming the keys).
    """

    def __init__(self, path, recipe):
        self.path = pathlib.Path(path)
        self.recipe = recipe
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"The output folder '{self.path}' is a file.")
        if self.checkpoint.exists() and (self.path / "recipe.yaml").exists():
            self._check_recipe()

    def __truediv__(self, name):
        return self.path / name

    def __str__(self):
        return str(self.path)

    @property
    def checkpoint(self):
        """The file with the state to go on from."""
        return self.path / "checkpoint.npz"

    def check_data(self, source):
        """Refuses other data than those of the run that goes on here.

        Args:
            source: The `Source` of training now.

        Returns:
            What to keep of them in the run's progress.

        Raises:
            ValueError: telling the numbers, and the classes that are new or gone.
        """
        names = source.class_names and list(source.class_names)
        data = {"images": source.size, "classes": source.classes, "class_names": names}
        old = data
        if self.checkpoint.exists():
            # `resume` tells what is wrong with a file that is none.
            with contextlib.suppress(OSError, KeyError, ValueError, zipfile.BadZipFile):
                old = read_header(self.checkpoint)["progress"].get("data", data)
        if old == data:
            return data
        there, here = ({*(facts["class_names"] or ())} for facts in (old, data))
        changes = (("new", here - there), ("gone", there - here))
        told = [f"{what}: {', '.join(sorted(some)[:5])}" for what, some in changes if some]
        if not told and old["class_names"] != names:
            told = ["the classes are in another order"]
        raise ValueError(
            f"'{self}' holds a run on other data: {_described(old)}, where {source.name} now has "
            f"{'; '.join([_described(data), *told])}. Give this run another output folder; with "
            f"model.weights={self / 'best.keras'} it begins with what that one has learned."
        )

    def prepare(self, texts):
        """Makes the folder, with the recipe and other texts (dict of file name to text)."""
        self.path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.path)
        save_recipe(self.recipe, self.path / "recipe.yaml")
        for name, text in texts.items():
            with replacing(self.path / name) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def resume(self, model, distribution):
        """Gives a model the state of the checkpoint.

        Returns:
            The progress of the run, or None where there is no checkpoint.

        Raises:
            ValueError: for a checkpoint that does not fit, or that not all processes see.
        """
        path = self.checkpoint
        distribution.gather(0)  # until the first process has written it
        check_shared(path, distribution.gather(fingerprint(path)))
        if not path.exists():
            return None
        progress = load_checkpoint(path, model)
        distribution.vary_seeds(model)
        return progress

    def _check_recipe(self):
        task = read_settings(self.path / "recipe.yaml").get("task", "classification")  # of 0.1.0
        if task != self.recipe.task:
            raise ValueError(
                f"'{self.path}' holds a run of {task}, and this one is of {self.recipe.task}. Go "
                f"on with that one by --task {task}, or give this run another output folder."
            )
        old = read_recipe(self.path / "recipe.yaml", type(self.recipe))
        self.recipe = copy.deepcopy(self.recipe)
        for key in self.recipe.AUTOMATIC:
            *parents, name = key.split(".")
            new_part, old_part = (
                functools.reduce(getattr, parents, recipe) for recipe in (self.recipe, old)
            )
            if getattr(new_part, name) is None:
                setattr(new_part, name, getattr(old_part, name))
        differing = [
            f"{key} ({there} there, {here} here)"
            for key, there, here in _differences(old, self.recipe)
            if key not in self.recipe.MAY_CHANGE
        ]
        if differing:
            raise ValueError(
                f"'{self.path}' holds a run with another recipe; it differs in "
                f"{', '.join(differing)}. Give this run another output folder, or remove that one."
            )


def check_apart(output, *sources):
    """Refuses a folder inside of that of data, where its pictures would be taken for data.

    Args:
        output: Path of the folder that is written to.
        sources: `Source`s, or None.

    Raises:
        ValueError: naming both folders.
    """
    for source in sources:
        data = getattr(source, "folder", None)
        if data is not None and output.resolve().is_relative_to(data.resolve()):
            raise ValueError(
                f"The output folder '{output}' lies among the pictures of '{data}': its own would "
                "be taken for data. Give an output folder elsewhere."
            )


def _described(data):
    return f"{counted(data['images'], 'image')} of {counted(data['classes'], 'class')}"


def _differences(old, new):
    """Keys whose values differ between two recipes, with both, such as `epochs`."""

    def flat(settings, prefix=""):
        for key, value in settings.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    old, new = dict(flat(dataclasses.asdict(old))), dict(flat(dataclasses.asdict(new)))
    return [(key, old[key], new[key]) for key in new if new[key] != old[key]]
