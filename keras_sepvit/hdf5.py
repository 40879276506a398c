"""Reads Keras's weights files, `.weights.h5` and `.keras`, by the names of variables.

Keras itself reads such a file layer by layer in the order of the model, and
assigns what it has read before it finds that the rest does not fit. Here a file
becomes a mapping from variable paths to arrays that can be compared first.
"""

import contextlib
import pathlib
import re
import shutil
import tempfile
import zipfile
import zlib

import ml_dtypes
import numpy as np

from keras_sepvit.files import HDF5, ZIP, StoredArray, check_expansion, check_file, damaged

_H5_KIND = "a weights file of Keras (HDF5)"
_KERAS_KIND = "a model file of Keras (zip)"
_WEIGHTS_MEMBER = "model.weights.h5"


@contextlib.contextmanager
def open_keras(path):
    """Opens a `.keras` file for its weights; see `open_h5`."""
    check_file(path, _KERAS_KIND, ZIP)
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
            raise damaged(path, _KERAS_KIND, error) from error
        with _open_h5(extracted, path) as arrays:
            yield arrays


@contextlib.contextmanager
def open_h5(path):
    """Opens a `.weights.h5` file.

    Yields:
        Dict of `StoredArray`s by the path of the variable, without the names of
        models: `"stage1_block1/attn/dsa_qkv/kernel"`. State other than weights
        (optimizers, random seeds) is left out.

    Raises:
        ValueError: if the file is damaged, or no file of Keras 3.
        FileNotFoundError: if there is none.
    """
    check_file(path, _H5_KIND, HDF5)
    with _open_h5(path, path) as arrays:
        yield arrays


@contextlib.contextmanager
def _open_h5(path, shown_path):
    import h5py  # as Keras does, only when needed

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise damaged(shown_path, _H5_KIND, error) from error
    with file:
        try:
            datasets = _variables(file)
            arrays = {}
            for name, dataset in datasets.items():
                variable = _variable_path(file, name, shown_path)
                if variable in arrays:
                    raise ValueError(
                        f"The weights file '{shown_path}' has several weights named '{variable}', "
                        "which cannot be told apart. Save the SepViT models in it one by one."
                    )
                arrays[variable] = _stored(variable, dataset)
            check_expansion(path, sum(dataset.nbytes for dataset in datasets.values()))
        except (OSError, RuntimeError, KeyError) as error:
            raise damaged(shown_path, _H5_KIND, error) from error
        if not arrays:
            raise ValueError(
                f"The weights file '{shown_path}' is an HDF5 file without the layers of a Keras 3 "
                f"model. At its top: {', '.join(sorted(file)[:8]) or 'nothing'}."
            )
        yield arrays


def _variables(file):
    """The layers' datasets by their name in the file.

    Only data inside the file counts: `visititems` follows neither soft nor
    external links, and datasets kept in other files are refused.
    """
    import h5py

    found = {}

    def visit(name, item):
        parts = name.split("/")
        if not isinstance(item, h5py.Dataset) or len(parts) < 2 or parts[-2] != "vars":
            return
        if "layers" not in parts or "seed_generator" in parts:
            return
        if item.shape is None or item.external or item.is_virtual:
            raise OSError(f"the data of '{name}' is not in the file")
        found[name] = item

    file.visititems(visit)
    return found


def _variable_path(file, name, shown_path):
    """`layers/peg/proj/vars/0` as `stage1_peg/proj/kernel`.

    Groups are named after classes and attributes; the name of the layer is an
    attribute of its group `vars`. A functional model has its layers in a group
    `layers`, and leaves no trace in their variables' paths.
    """
    *groups, _, index = name.split("/")
    layers = []
    for depth in range(1, len(groups) + 1):
        group = file["/".join(groups[:depth])]
        if groups[depth - 1] == "layers" or "layers" in group:
            continue
        layer = group["vars"].attrs.get("name") if "vars" in group else None
        if layer is None:
            raise ValueError(
                f"The weights file '{shown_path}' does not tell the name of the layer of "
                f"'{name}', so that an old version of Keras must have written it. Load it with "
                "`model.load_weights` of Keras, and save it again."
            )
        layers.append(str(layer))
    return "/".join([*layers, _variable_name(layers, index)])


def _variable_name(layers, index):
    """The name of a layer's variable from its number, which is all that the file has."""
    if re.fullmatch(r"stage\d+_block\d+", layers[-1]):
        names = ("win_tokens",)
    elif layers[-1] == "attn":
        names = ("win_kernel", "win_bias")
    elif "norm" in layers[-1]:
        names = ("gamma", "beta")
    else:
        names = ("kernel", "bias")
    return names[int(index)] if index.isdecimal() and int(index) < len(names) else index


def _stored(name, dataset):
    if dataset.attrs.get("dtype") == "bfloat16":  # HDF5 has no such type: two raw bytes
        return StoredArray(
            name,
            dataset.shape,
            "bfloat16",
            lambda: np.asarray(dataset[()]).view(ml_dtypes.bfloat16),
        )
    return StoredArray(name, dataset.shape, dataset.dtype.name, lambda: dataset[()])
