"""Loads weights files into models: compared first, assigned only if they fit."""

import contextlib
import dataclasses
import math
import os
import pathlib
import re
import urllib.parse
import warnings

import keras
import numpy as np
from keras import ops

from keras_sepvit.files import damaged
from keras_sepvit.hdf5 import open_h5, open_keras
from keras_sepvit.matching import Plan, mismatch_message
from keras_sepvit.pretrained import packaged_file, registered_weights
from keras_sepvit.pytorch import open_pytorch

_OPENERS = {
    ".h5": open_h5,
    ".keras": open_keras,
    ".pth": open_pytorch,
    ".pt": open_pytorch,
    ".bin": open_pytorch,
    ".safetensors": open_pytorch,
}
SUFFIXES = (".weights.h5", *tuple(_OPENERS)[1:])
_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What became of each weight of a file and of a model.

    Attributes:
        source: The file.
        assigned: Paths of the model's variables that took a value of the file.
        resized: Paths of the window tokens that took values interpolated
            between the file's, for another grid of windows.
        new: Paths of the variables that kept their initial values.
        unused: Names in the file of arrays that the model has no place for.
    """

    source: str
    assigned: tuple
    resized: tuple
    new: tuple
    unused: tuple

    def __str__(self):
        count = len(self.assigned) + len(self.resized)
        lines = [
            f"Loaded {count} of the model's {count + len(self.new)} weights from '{self.source}'."
        ]
        for names, what in (
            (self.resized, "window tokens resized to another grid of windows"),
            (self.new, "weights not in the file, kept at their initial values"),
            (self.unused, "arrays of the file not used"),
        ):
            if names:
                lines.append(f"{len(names)} {what}: {', '.join(names)}.")
        return "\n".join(lines)


def load_pretrained(model, weights, skip_head_mismatch=False):
    """Loads what the `weights` argument of a model's constructor stands for.

    Warns where weights were resized, left at their initial values or not used;
    an unused head alone, with `include_top=False`, is no reason.

    Args:
        model: A SepViT model.
        weights: A registered name, a path, as for `load_weights`, or an
            `https://` address followed by `#sha256=` and the file's checksum.
            What has to be downloaded is downloaded once.
        skip_head_mismatch: As for `load_weights`.

    Returns:
        A `LoadReport`.

    Raises:
        ValueError: for `"imagenet"`, for which no weights exist, other values,
            and the reasons of `load_weights`.
        FileNotFoundError: if there is no such file.
        OSError: if the download fails.
    """
    with _local_file(weights) as path:
        report = load_weights(model, path, skip_head_mismatch=skip_head_mismatch)
    only_head_unused = all(re.search(r"(^|\.)head[./]", name) for name in report.unused)
    if report.resized or report.new or not only_head_unused:
        warnings.warn(str(report), stacklevel=4)
    return report


def load_weights(model, source, skip_head_mismatch=False, partial=False):
    """Loads a weights file into a model, after checking that all of it fits.

    Beside weights of the same shapes, which are copied, these fit:

    - Window tokens of another number of windows, by bilinear interpolation over
      their grid; that of the file is taken to be square. Tokens of the same
      number are copied.
    - With `pad_windows=True`, a block that has more than one window in the model
      and one in the file: its PSA weights stay at their initial values. The
      other way round they are not used.
    - The classification form in the dense form, without window tokens, final
      norm and head. The norms of the stages, and the PSA weights of blocks with
      one window in the file, stay at their initial values.
    - A file with a head in a model without one.

    The report tells all of these. Nothing is assigned unless everything fits and
    has been read.

    Args:
        model: A SepViT classifier or `SepViTBackbone`.
        source: Path of a `.weights.h5` or `.keras` file with a SepViT model, or of
            a checkpoint of the authors' PyTorch code (`.pth`, `.pt`, `.bin`,
            which need torch, or `.safetensors`).
        skip_head_mismatch: Keep the model's head as it is if the file has none
            or one for another number of classes.
        partial: Load whatever has the right name and shape, and leave the rest.

    Returns:
        A `LoadReport`.

    Raises:
        ValueError: if the file is damaged, no weights file or does not fit the
            model, naming the first differences.
        FileNotFoundError: if there is no such file.
        ImportError: if the file needs a package that is not installed.
    """
    with open_weights(source) as arrays:
        return assign_weights(model, arrays, source, skip_head_mismatch, partial)


@contextlib.contextmanager
def open_weights(source):
    """Opens a weights file of any kind that `load_weights` takes.

    Yields:
        Dict of `StoredArray`s by the path of their variable, in Keras's layout.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            f"`source` must be the path of a weights file. Received: {type(source).__name__}."
        )
    opener = _OPENERS.get(pathlib.Path(source).suffix)
    if opener is None:
        raise ValueError(
            f"Unknown kind of weights file: '{source}'. Expected a name ending in one of "
            f"{', '.join(SUFFIXES)}."
        )
    with opener(source) as arrays:
        yield arrays


def assign_weights(model, arrays, source, skip_head_mismatch=False, partial=False):
    """`load_weights` from an open file; see there.

    Args:
        model: The model.
        arrays: Dict of `StoredArray`s by variable path.
        source: Path of the file, for messages.
        skip_head_mismatch, partial: As for `load_weights`.

    Returns:
        A `LoadReport`.
    """
    variables = _variables_by_path(model)
    plan = Plan(model, variables, arrays)
    if skip_head_mismatch:
        plan.skip_head()
    if partial:
        plan.skip_all()
    if plan.differences or plan.other_form or not plan.copied:
        raise ValueError(mismatch_message(model, variables, arrays, source, plan))

    values = {path: _read(stored, source) for path, stored in plan.copied.items()}
    for path, (stored, grid) in plan.resized.items():
        values[path] = _resize_tokens(_read(stored, source), grid)
    _warn_if_not_finite(values, source)
    for path, value in values.items():
        # A copy, since JAX may keep the memory that it is given, here the file's.
        variables[path].assign(np.array(value, order="C"))
    return LoadReport(
        source=str(source),
        assigned=tuple(plan.copied),
        resized=tuple(plan.resized),
        new=tuple(plan.new),
        unused=tuple(arrays[path].name for path in plan.unused),
    )


def _variables_by_path(model):
    if not isinstance(model, keras.Model) or not model.weights:
        raise ValueError(f"`model` must be a Keras model that has been built. Received: {model!r}.")
    variables = {}
    for variable in model.weights:
        if variable.path in variables:
            raise ValueError(
                f"Model `{model.name}` has several weights with the path '{variable.path}', which "
                "files cannot tell apart. Load weights into its parts before joining them."
            )
        variables[variable.path] = variable
    return variables


def _read(stored, source):
    """An array of a file, which must be of a floating type."""
    if stored.dtype not in _FLOATS:
        raise ValueError(
            f"The weights file '{source}' holds '{stored.name}' as {stored.dtype}. Expected one of "
            f"{', '.join(_FLOATS)}. Save the weights again without quantising them."
        )
    try:
        return stored.read()
    except Exception as error:  # the libraries for the formats raise many kinds
        raise damaged(source, "a weights file", error) from error


def _warn_if_not_finite(values, source):
    names = [path for path, value in values.items() if not np.isfinite(value).all()]
    if names:
        warnings.warn(
            f"The weights file '{source}' holds values that are NaN or infinite, in {len(names)} "
            f"arrays; the first is '{names[0]}'. The model's outputs will not be usable.",
            stacklevel=2,
        )


def _resize_tokens(tokens, grid):
    """Window tokens (1, windows, 1, channels) of a square grid, interpolated to another."""
    side, channels = math.isqrt(tokens.shape[1]), tokens.shape[-1]
    maps = np.asarray(tokens, "float32").reshape(1, side, side, channels)
    maps = ops.image.resize(maps, grid, interpolation="bilinear", data_format="channels_last")
    return ops.convert_to_numpy(maps).reshape(1, -1, 1, channels)


def _local_file(weights):
    """Context manager of the path of the file that a `weights` argument stands for."""
    if isinstance(weights, os.PathLike):
        return contextlib.nullcontext(weights)
    if not isinstance(weights, str):
        raise ValueError(
            "`weights` must be None, a registered name, a path or an address. "
            f"Received: {type(weights).__name__}."
        )
    registered = registered_weights()
    if weights in registered:
        entry = registered[weights]
        if entry.url is None:
            return packaged_file(entry)
        return contextlib.nullcontext(_download(f"{entry.url}#sha256={entry.sha256}"))
    if weights == "imagenet":
        raise ValueError(
            "`weights='imagenet'`: nobody has published ImageNet weights for SepViT. Use "
            "`weights=None` and train the model, or give the path of weights that you have: "
            f"{', '.join(SUFFIXES)}."
        )
    if "://" in weights:
        return contextlib.nullcontext(_download(weights))
    if pathlib.Path(weights).suffix in _OPENERS:
        return contextlib.nullcontext(weights)
    names = ", ".join(map(repr, registered))
    raise ValueError(
        f"Unknown `weights`: {weights!r}. Expected None, a registered name ({names}), the path of "
        f"a file ending in one of {', '.join(SUFFIXES)}, or an address "
        "'https://...#sha256=<checksum>' of one."
    )


def _download(weights):
    """The local copy of the file at `https://...#sha256=<checksum>`."""
    address, _, fragment = weights.partition("#")
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError(f"`weights` is downloaded over https:// only. Received: {weights!r}.")
    checksum = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment.lower())
    if not checksum:
        raise ValueError(
            "An address in `weights` needs the checksum of its file: '#sha256=' and 64 hexadecimal "
            f"digits at its end. Received: {weights!r}. If you trust the file, download it, and "
            "compute its checksum with `sha256sum`."
        )
    name = re.sub(r"[^\w.-]", "_", pathlib.PurePosixPath(parts.path).name)
    if pathlib.PurePosixPath(name).suffix not in _OPENERS:
        raise ValueError(
            f"The address in `weights` must be of a file ending in one of {', '.join(SUFFIXES)}. "
            f"Received: {weights!r}."
        )
    try:
        return keras.utils.get_file(
            # With the checksum: another file of the same name is another entry of the cache.
            f"{checksum[1]}-{name}",
            origin=address,
            file_hash=checksum[1],
            hash_algorithm="sha256",
            cache_subdir="models",
        )
    except ValueError as error:
        raise ValueError(
            f"The file at {address} does not have the checksum {checksum[1]}: it has changed, or "
            "the download was cut off. Nothing was loaded."
        ) from error
    except Exception as error:  # Keras raises this very class
        raise OSError(f"The weights at {address} cannot be downloaded: {error}") from error
