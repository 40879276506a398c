"""The folder of a run: its files, whose it is, and the state to go on from."""

import copy
import dataclasses
import functools
import pathlib

from keras_sepvit.files import remove_leftovers, replacing
from keras_sepvit.training.checkpoint import check_shared, fingerprint, load_checkpoint
from keras_sepvit.training.recipe import read_recipe, save_recipe


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

    def check_apart(self, *sources):
        """Refuses a folder inside of that of data, where its pictures would be taken for data.

        Args:
            sources: `Source`s, or None.

        Raises:
            ValueError: naming both folders.
        """
        for source in sources:
            data = getattr(source, "folder", None)
            if data is not None and self.path.resolve().is_relative_to(data.resolve()):
                raise ValueError(
                    f"The output folder '{self}' lies among the pictures of '{data}': its own "
                    "would be taken for data. Give an output folder elsewhere."
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
            key for key in _differences(old, self.recipe) if key not in self.recipe.MAY_CHANGE
        ]
        if differing:
            raise ValueError(
                f"'{self.path}' holds a run with another recipe; it differs in "
                f"{', '.join(differing)}. Give this run another output folder, or remove that one."
            )


def _differences(old, new):
    """The keys whose values differ between two recipes, such as `optimizer.learning_rate`."""

    def flat(settings, prefix=""):
        for key, value in settings.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    old, new = dict(flat(dataclasses.asdict(old))), dict(flat(dataclasses.asdict(new)))
    return [key for key in new if new[key] != old[key]]
