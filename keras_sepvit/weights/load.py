"""Loads weights files into models: compared first, assigned only if they fit."""

import contextlib
import dataclasses
import os

import keras
import numpy as np
from keras import ops

from keras_sepvit.names import parse
from keras_sepvit.validation import counted, refuse_path
from keras_sepvit.warn import warn
from keras_sepvit.weights.fetch import local_file, locate
from keras_sepvit.weights.files import check_file, damaged, numbered, suffix_of
from keras_sepvit.weights.hdf5 import named_by, open_h5, open_keras
from keras_sepvit.weights.matching import Plan, mismatch_message
from keras_sepvit.weights.pytorch import open_pytorch

_OPENERS = {".h5": open_h5, ".keras": open_keras}  # all others are of PyTorch
_FLOATS = ("float16", "bfloat16", "float32", "float64")

# Weights of heads that a report lists where all of them are missing: those of one layer.
_LISTED = 10


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
        unused_head: Those of `unused` that are of a head, not of the backbone.
        part: Of a PyTorch checkpoint with several state dicts, such as `"model"` and
            `"model_ema"`, the keys of the one that was loaded: averaged weights where
            there are any. Else None.
    """

    source: str
    assigned: tuple[str, ...]
    resized: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]
    unused_head: tuple[str, ...] = ()
    part: str | None = None

    def __str__(self) -> str:
        count = len(self.assigned) + len(self.resized)
        part = f"'{self.part}' of " if self.part else ""
        lines = [
            f"Loaded {count} of the model's {count + len(self.new)} weights from "
            f"{part}'{self.source}'."
        ]
        has_head = any(map(_is_head, (*self.assigned, *self.resized)))
        for names, noun, what in (
            (self.resized, "set", "of window tokens resized to another grid of windows"),
            (self.new, "weight", "not in the file, kept at the initial values"),
            (self.unused, "array", "of the file not used"),
        ):
            if names:
                # Names in a file are not those of paths here.
                of_heads = self.unused_head if names is self.unused else filter(_is_head, names)
                heads = set(of_heads)
                listed = list(names)
                if not has_head and len(heads) > _LISTED:
                    listed = [name for name in names if name not in heads] + ["all of the heads"]
                lines.append(f"{counted(len(names), noun)} {what}: {', '.join(listed)}.")
        return "\n".join(lines)


def _is_head(path):
    return parse(path).is_head


def check_pretrained(weights: str | os.PathLike[str] | None) -> None:
    """Refuses what `load_pretrained` would, as far as can be told without a model and a download.

    Args:
        weights: As for `load_pretrained`, or None.
    """
    if weights is None:
        return
    source = locate(weights)
    if isinstance(source, (str, os.PathLike)):
        check_file(source)


def load_pretrained(
    model: keras.Model, weights: str | os.PathLike[str], skip_head_mismatch: bool = False
) -> LoadReport:
    """Loads what the `weights` argument of a model's constructor stands for.

    Warns where weights were resized, left at their initial values or not used;
    an unused head alone, with `include_top=False`, is no reason. Of a file with other layers
    behind the backbone than the model has, such as `Sequential([backbone, Dense(5)])`, the
    backbone is loaded.

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
    with local_file(weights) as path, open_weights(path) as arrays:
        report = assign_weights(model, arrays, path, skip_head_mismatch, skip_other_head=True)
    if report.resized or report.new or report.unused != report.unused_head:
        warn(str(report))
    return report


def load_weights(
    model: keras.Model,
    source: str | os.PathLike[str],
    skip_head_mismatch: bool = False,
    partial: bool = False,
) -> LoadReport:
    """Loads a weights file into a model, after checking that all of it fits.

    Beside weights of the same shapes, which are copied, these fit:

    - Window tokens of another grid of windows, by bilinear interpolation. Files
      of Keras tell the grid, but for old ones. Of others, tokens of the same number are
      copied, with a warning where the model's grid is not square; another number is
      that of a square grid.
    - With `pad_windows=True`, a block that has more than one window in the model
      and one in the file: its PSA weights stay at their initial values. The
      other way round they are not used.
    - The classification form in the dense form, without window tokens, final
      norm and head. The norms of the stages, and the PSA weights of blocks with
      one window in the file, stay at their initial values.
    - A file with a head, of any layers, in a model without one. What is no weight of the
      backbone is head.

    Detectors' heads are for anchors of one scale, which files of Keras tell, but for old ones.

    The report tells all of these. Nothing is assigned unless everything fits and
    has been read.

    Args:
        model: A SepViT classifier, `SepViTBackbone`, segmenter or detector.
        source: Path of a `.weights.h5` or `.keras` file with a SepViT model, or of
            a checkpoint of the authors' PyTorch code (`.pth`, `.pt`, `.bin`,
            which need torch, or `.safetensors`). Of one with averaged weights beside others
            (`model_ema` and `model`), the averaged are loaded; the report names them.
        skip_head_mismatch: Keep the model's head as it is if the file has none
            or another one, such as for another number of classes. Of a detector with another
            `anchor_scale` what fits is taken, with a warning.
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
    with _OPENERS.get(suffix_of(source), open_pytorch)(source) as arrays:
        yield arrays


def assign_weights(
    model, arrays, source, skip_head_mismatch=False, partial=False, skip_other_head=False
):
    """`load_weights` from an open file; see there.

    Args:
        model: The model.
        arrays: Dict of `StoredArray`s by variable path.
        source: Path of the file, for messages.
        skip_head_mismatch, partial: As for `load_weights`.
        skip_other_head: `skip_head_mismatch` where the file has layers behind its backbone
            that the model lacks.

    Returns:
        A `LoadReport`.
    """
    variables = variables_by_path(model)
    arrays = named_by(model, variables, arrays)
    plan = Plan(model, variables, arrays)
    if skip_head_mismatch or (skip_other_head and plan.has_other_head):
        plan.skip_head()
    if partial:
        plan.skip_all()
    if plan.differences or plan.other_form or not plan.copied:
        raise ValueError(mismatch_message(model, variables, arrays, source, plan))
    _check_anchors(model, plan, source, refuse=not (skip_head_mismatch or partial))

    values = {
        path: _read(stored, variables[path].dtype, source) for path, stored in plan.copied.items()
    }
    for path, (stored, *grids) in plan.resized.items():
        values[path] = _resize_tokens(_read(stored, variables[path].dtype, source), *grids)
    _warn_if_not_finite(values, source)
    if plan.assumed:
        warn(
            f"The weights file '{source}' does not tell the rows and columns of its windows; they "
            f"were taken to be those of the model, as for '{plan.assumed[0]}'. Window tokens of a "
            "model for images of another shape would be in the wrong places.",
        )
    for path, value in values.items():
        # A copy, since JAX may keep the memory that it is given, here the file's.
        variables[path].assign(np.array(value, order="C"))
    return LoadReport(
        source=str(source),
        assigned=tuple(plan.copied),
        resized=tuple(plan.resized),
        new=tuple(plan.new),
        unused=tuple(arrays[path].name for path in plan.unused),
        unused_head=tuple(arrays[path].name for path in plan.unused if parse(path).is_head),
        part=next(iter(plan.copied.values())).part,
    )


def variables_by_path(model):
    """The weights of a model by their paths; those of heads that share one are numbered.

    Raises:
        ValueError: if it is no built model, or has two backbones.
    """
    refuse_path("model", model)
    if not isinstance(model, keras.Model) or not model.weights:
        raise ValueError(f"`model` must be a Keras model that has been built. Received: {model!r}.")
    variables = {}
    for variable in model.weights:
        if variable.path in variables and not parse(variable.path).is_head:
            raise ValueError(
                f"Model `{model.name}` has several weights with the path '{variable.path}', which "
                "files cannot tell apart. Load weights into its parts before joining them."
            )
        variables[numbered(variable.path, variables)] = variable
    return variables


def _read(stored, dtype, source):
    """An array of a file for a variable: of any floating type, or of the variable's other one."""
    expected = _FLOATS if dtype in _FLOATS else (dtype,)
    if stored.dtype not in expected:
        raise ValueError(
            f"The weights file '{source}' holds '{stored.name}' as {stored.dtype}. Expected one of "
            f"{', '.join(expected)}. Save the weights again without quantising them."
        )
    try:
        return stored.read()
    except Exception as error:  # the libraries for the formats raise many kinds
        raise damaged(source, "a weights file", error) from error


def _warn_if_not_finite(values, source):
    names = [path for path, value in values.items() if not np.isfinite(value).all()]
    if names:
        warn(
            f"The weights file '{source}' holds values that are NaN or infinite, in {len(names)} "
            f"arrays; the first is '{names[0]}'. The model's outputs will not be usable.",
        )


def _check_anchors(model, plan, source, refuse):
    """Tells of heads for anchors of another scale, by which their boxes are too large or small."""
    scales = {stored.anchor_scale for stored in plan.copied.values()} - {None}
    own = getattr(model, "anchor_scale", None)
    if own is None or not scales or scales == {own}:
        return
    scale = min(scales - {own})
    message = (
        f"The weights file '{source}' is of a detector with anchor_scale={scale:g}, and model "
        f"`{model.name}` has anchor_scale={own:g}, where its boxes are of wrong sizes. Build the "
        f"model with anchor_scale={scale:g}"
    )
    if refuse:
        raise ValueError(f"{message}, or pass skip_head_mismatch=True to train it anew.")
    warn(f"{message}, or train it anew.")


def _resize_tokens(tokens, file_grid, grid):
    """Window tokens (1, windows, 1, channels) of one grid, interpolated to another."""
    channels = tokens.shape[-1]
    maps = np.asarray(tokens, "float32").reshape(1, *file_grid, channels)
    maps = ops.image.resize(maps, grid, interpolation="bilinear", data_format="channels_last")
    return ops.convert_to_numpy(maps).reshape(1, -1, 1, channels)
