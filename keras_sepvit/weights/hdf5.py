"""Reads Keras's weights files, `.weights.h5` and `.keras`, by the names of variables.

Keras itself reads such a file layer by layer in the order of the model, and
assigns what it has read before it finds that the rest does not fit. Here a file
becomes a mapping from variable paths to arrays that can be compared first.

Such a file has names for layers, but numbers for their variables. Those of the backbone are
known; those of any other layer, the model tells that the file is for.
"""

import collections
import contextlib
import dataclasses
import math
import pathlib
import re
import shutil
import tempfile
import zipfile
import zlib

import keras
import ml_dtypes
import numpy as np

from keras_sepvit import names
from keras_sepvit.weights.files import (
    HDF5_KIND,
    KERAS_KIND,
    StoredArray,
    check_expansion,
    check_file,
    damaged,
    numbered,
)

_WEIGHTS_MEMBER = "model.weights.h5"


@contextlib.contextmanager
def open_keras(path):
    """Opens a `.keras` file for its weights; see `open_h5`."""
    check_file(path)
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                check_expansion(path, archive.getinfo(_WEIGHTS_MEMBER).file_size)
                extracted = pathlib.Path(folder, _WEIGHTS_MEMBER)
                with archive.open(_WEIGHTS_MEMBER) as source, extracted.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
        except KeyError as error:
            raise ValueError(
                f"The weights file '{path}' is a zip archive without `{_WEIGHTS_MEMBER}`, and so "
                "not a model saved by Keras 3."
            ) from error
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise damaged(path, KERAS_KIND, error) from error
        with _open_h5(extracted, path) as arrays:
            yield arrays


@contextlib.contextmanager
def open_h5(path):
    """Opens a `.weights.h5` file.

    Yields:
        Dict of `SavedVariable`s by the path of the variable, without the names of
        models: `"stage1_block1/attn/dsa_qkv/kernel"`. State other than weights
        (optimizers, random seeds) is left out. The last parts of paths in a head are
        guesses; see `named_by`.

    Raises:
        ValueError: if the file is damaged, or no file of Keras 3.
        FileNotFoundError: if there is none.
    """
    check_file(path)
    with _open_h5(path, path) as arrays:
        yield arrays


@contextlib.contextmanager
def _open_h5(path, shown_path):
    import h5py  # as Keras does, only when needed

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise damaged(shown_path, HDF5_KIND, error) from error
    with file:
        try:
            datasets = _datasets(file, shown_path)
            if datasets and not any("name" in d.parent.attrs for d in datasets.values()):
                raise ValueError(
                    f"The weights file '{shown_path}' does not tell the names of layers, so that "
                    "an old version of Keras must have written it. Load it with "
                    "`model.load_weights` of Keras, and save it again."
                )
            check_expansion(path, sum(dataset.nbytes for dataset in datasets.values()))
            arrays = {}
            for name, dataset in datasets.items():
                stored = _stored(file, name, dataset)
                if stored.name in arrays and not names.parse(stored.name).is_head:
                    raise ValueError(
                        f"The weights file '{shown_path}' has several weights named "
                        f"'{stored.name}', which cannot be told apart. Save the SepViT models in "
                        "it one by one."
                    )
                arrays[numbered(stored.name, arrays)] = stored
        except (OSError, RuntimeError, KeyError) as error:
            raise damaged(shown_path, HDF5_KIND, error) from error
        if not arrays:
            raise ValueError(
                f"The weights file '{shown_path}' is an HDF5 file without the layers of a Keras 3 "
                f"model. At its top: {', '.join(sorted(file)[:8]) or 'nothing'}."
            )
        yield arrays


def _datasets(file, shown_path):
    """The layers' datasets by their name in the file, in which all data must be."""
    import h5py

    links, found = [], {}
    file.visititems_links(lambda name, link: links.append((name, link)))
    for name, link in links:
        if not isinstance(link, h5py.HardLink):
            raise ValueError(
                f"The weights file '{shown_path}' has a link to other data at '{name}', which was "
                "not followed: a file of weights must hold them itself. Save them again."
            )
        item, parts = file[name], name.split("/")
        if not isinstance(item, h5py.Dataset) or len(parts) < 2 or parts[-2] != "vars":
            continue
        told = parts[-1] in (names.WINDOW_GRID, names.ANCHOR_SCALE)
        if parts[0] == "optimizer" or "seed_generator" in parts or told:
            continue
        if item.shape is None or item.external or item.is_virtual:
            raise OSError(f"the data of '{name}' is not in the file")
        found[name] = item
    return found


@dataclasses.dataclass(frozen=True)
class SavedVariable(StoredArray):
    """A `StoredArray` in a file of Keras.

    Attributes:
        place: For each group above it the attribute, or name in a list, that it was saved
            from, and the name of the layer there; None of lists.
        number: Its name among the variables of its layer, mostly a number.
    """

    place: tuple
    number: str


def _stored(file, name, dataset):
    *groups, _, number = name.split("/")
    place, layers = [], []
    for depth, group in enumerate(groups, start=1):
        item = file["/".join(groups[:depth])]
        layer = item["vars"].attrs.get("name") if "vars" in item else None
        place.append((group, layer if layer is None else str(layer)))
        # A model leaves no trace in the paths of the variables of its layers.
        if "vars" in item and "layers" not in item:
            layers.append(group if layer is None else str(layer))  # some heads have no name
    path = "/".join([*layers, _variable_name("/".join(layers), groups, number)])
    bfloat16 = dataset.attrs.get("dtype") == "bfloat16"  # HDF5 has no such type: two raw bytes

    def read():
        return np.asarray(dataset[()]).view(ml_dtypes.bfloat16) if bfloat16 else dataset[()]

    dtype = "bfloat16" if bfloat16 else dataset.dtype.name
    grid = _window_grid(dataset) if names.parse(path).is_window_token else None
    scale = _anchor_scale(file, groups) if names.parse(path).is_of_anchors else None
    return SavedVariable(
        path, dataset.shape, dtype, read, tuple(place), number, grid=grid, anchor_scale=scale
    )


def _anchor_scale(file, groups):
    """That of the innermost model around a dataset that has one; else None."""
    for depth in range(len(groups), -1, -1):
        recorded = file.get("/".join([*groups[:depth], "vars", names.ANCHOR_SCALE]))
        if recorded is not None:
            return float(recorded[()])
    return None


def _window_grid(tokens):
    """The grid recorded beside a dataset of window tokens, (1, windows, 1, channels)."""
    recorded = tokens.parent.get(names.WINDOW_GRID)
    if recorded is None:
        return None
    grid = tuple(map(int, np.ravel(recorded[()])))
    if len(grid) != 2 or min(grid) < 1 or math.prod(grid) != math.prod(tokens.shape[1:2]):
        raise OSError(f"'{tokens.name}' has the shape {tokens.shape} and a grid of {grid}")
    return grid


def _variable_name(layer, groups, number):
    """The name of a layer's variable; in heads that of the most common layers."""
    if not names.parse(f"{layer}/{number}").is_head:
        known = names.variables(layer)
    elif groups and "norm" in groups[-1]:
        known = ("gamma", "beta", "moving_mean", "moving_variance")
    else:
        known = ("kernel", "bias")
    return known[int(number)] if number.isdecimal() and int(number) < len(known) else number


def named_by(model, variables, arrays):
    """The arrays of a file by the names that a model has for them.

    An array takes the path of the model's variable that Keras would save in its place, if the
    layers there have the same names; else, in heads, of the variable of the same number in the
    layer of the same path.

    Args:
        model: The model.
        variables: Its weights by path.
        arrays: Dict of `StoredArray`s by path.

    Returns:
        A new dict; without arrays that are state of the model, but no weights.
    """
    paths = {id(variable): path for path, variable in variables.items()}
    named, others = {}, {}
    for path, stored in arrays.items():
        variable = _variable_at(model, stored) if isinstance(stored, SavedVariable) else None
        if id(variable) in paths:
            named[paths[id(variable)]] = stored
        elif variable is None:
            others[path] = stored
    for path, stored in others.items():
        if isinstance(stored, SavedVariable) and names.parse(path).is_head:
            layer = stored.name.rpartition("/")[0]
            siblings = [name for name in variables if name.rpartition("/")[0] == layer]
            if stored.number.isdecimal() and int(stored.number) < len(siblings):
                path = siblings[int(stored.number)]
        named[numbered(path, named)] = stored
    return named


def _variable_at(model, stored):
    """The variable that a model saves in the place of one in a file; None if none is there."""
    found = model
    for group, name in stored.place:
        if isinstance(found, (list, tuple, dict)):
            found = _saved_names(found).get(group)
        elif group.startswith("__"):  # no place of Keras's, but one that a file may name
            return None
        else:
            try:
                found = getattr(found, group, None)
            except Exception:  # a property may raise anything
                return None
        if name is not None and not _has_name(found, name):
            return None
    if not hasattr(found, "save_own_variables"):
        return None
    saved = {}
    found.save_own_variables(saved)
    variable = saved.get(stored.number)
    return variable if isinstance(variable, keras.Variable) else None


def _saved_names(layers):
    """The members of a list or dict by the names that Keras saves them under."""
    counts, named = collections.Counter(), {}
    for layer in layers.values() if isinstance(layers, dict) else layers:
        if isinstance(layer, (list, tuple, dict)):
            name = "container"
        elif hasattr(layer, "save_own_variables"):
            name = _class_name(layer)
        else:
            continue
        named[f"{name}_{counts[name]}" if counts[name] else name] = layer
        counts[name] += 1
    return named


def _has_name(layer, name):
    """Whether a layer has a name, or both are automatic: those count up in a process."""
    own = str(getattr(layer, "name", None))
    automatic = re.compile(rf"(.*{_class_name(layer)})(?:_\d+)?")
    matches = automatic.fullmatch(own), automatic.fullmatch(name)
    return own == name or (all(matches) and matches[0][1] == matches[1][1])


def _class_name(layer):
    """The name of a layer's class in snake case, as Keras writes it."""
    name = re.sub(r"\W+", "", type(layer).__name__)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
