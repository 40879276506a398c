"""Compares the weights in a file with those of a model, and explains differences."""

import dataclasses
import math

import keras

from keras_sepvit.configs import DIGITS_CONFIG, VARIANTS
from keras_sepvit.names import parse
from keras_sepvit.names import variables as known_variables
from keras_sepvit.validation import counted

_SHOWN = 5  # differences in an error


@dataclasses.dataclass(frozen=True)
class WeightsSummary:
    """The architecture that names and shapes of weights give away.

    Attributes:
        hidden_dims: Channels of the stages.
        depths: Number of blocks of each stage.
        dense: Whether they are of the dense form.
        classes: Number of classes of the head; None without a head.
        others: Names of other layers behind the backbone, such as a detector's neck and head.
    """

    hidden_dims: tuple
    depths: tuple
    dense: bool
    classes: int | None
    others: tuple

    @classmethod
    def of(cls, weights):
        """The summary of arrays or variables by path; None if they are no SepViT's."""
        hidden_dims = []
        while (bias := weights.get(f"stage{len(hidden_dims) + 1}_embed/proj/bias")) is not None:
            hidden_dims.append(bias.shape[0])
        if not hidden_dims:
            return None
        depths = [0] * len(hidden_dims)
        for name in map(parse, weights):
            if name.part == "block" and name.stage <= len(depths):
                depths[name.stage - 1] = max(depths[name.stage - 1], name.block)
        dense = _is_dense(weights)
        # The bias first: a kernel that is quantised to 4 bits holds two classes in a number.
        head = weights.get("head/bias", weights.get("head/kernel"))
        classes = None if head is None or dense else head.shape[-1]
        others = {name.path.partition("/")[0] for name in map(parse, weights) if name.is_head}
        others = tuple(sorted(others - {"head"}))
        return cls(tuple(hidden_dims), tuple(depths), dense, classes, others)

    @property
    def variant(self):
        """Name of the variant of these channels and depths; None for any other."""
        for name, config in VARIANTS.items():
            if (config.hidden_dims, config.depths) == (self.hidden_dims, self.depths):
                return name
        return None

    def __str__(self):
        architecture = f"stages of {self.hidden_dims} channels and {self.depths} blocks"
        if self.variant:
            architecture = f"{self.variant} ({architecture})"
        form = "dense form" if self.dense else "classification form"
        head = counted(self.classes, "class") if self.classes else "no head in use"
        if self.others:
            head = f"with {', '.join(self.others[:_SHOWN])} behind it"
        return f"{architecture}, {form}, {head}"


@dataclasses.dataclass(frozen=True)
class Difference:
    """A weight that does not fit; a shape is None where there is none."""

    path: str
    file_shape: tuple | None
    model_shape: tuple | None

    def __str__(self):
        in_file = "not in the file" if self.file_shape is None else f"{self.file_shape} in the file"
        if self.model_shape is None:
            return f"{self.path}: {in_file}, not in the model"
        return f"{self.path}: {in_file}, {self.model_shape} in the model"


class Plan:
    """Which array of a file goes where in a model, by the rules of `load_weights`.

    Attributes:
        copied: `StoredArray`s by variable path.
        resized: `StoredArray`s with the grids (rows, columns) of the windows of the
            file and of the model, by variable path.
        assumed: Paths of copied window tokens whose grid the file does not tell, and
            which may be another than the model's.
        new: Paths of variables without a value in the file.
        unused: Paths of arrays without a variable in the model.
        differences: `Difference`s that no rule allows.
        other_form: Whether the file is of the dense form and the model is not:
            they share most names and shapes, but are different networks.
    """

    def __init__(self, model, variables, arrays):
        self.copied, self.resized = {}, {}
        self.assumed, self.new, self.unused, self.differences = [], [], [], []
        self._blocks = {layer.name: layer for layer in window_layers(model)}
        self._file_is_dense, self._model_is_dense = _is_dense(arrays), _is_dense(variables)
        self._model_has_head = any(parse(path).is_head for path in variables)
        self._file_psa = {name.layer for name in map(parse, arrays) if name.is_psa}
        self.other_form = self._file_is_dense and not self._model_is_dense

        for path, variable in variables.items():
            shape = tuple(variable.shape)
            stored = arrays.get(path)
            if stored is None:
                if self._may_be_new(path):
                    self.new.append(path)
                else:
                    self.differences.append(Difference(path, None, shape))
                continue
            grids = self._grids(path, stored, shape)
            if stored.shape == shape and (grids is None or grids[0] == grids[1]):
                self.copied[path] = stored
                if grids and stored.grid is None and len({*grids[0]}) > 1:
                    self.assumed.append(path)
            elif grids:
                self.resized[path] = (stored, *grids)
            else:
                self.differences.append(Difference(path, stored.shape, shape))
        for path, stored in arrays.items():
            if path in variables:
                continue
            if self._may_be_unused(path):
                self.unused.append(path)
            else:
                self.differences.append(Difference(path, stored.shape, None))

    @property
    def has_other_head(self):
        """Whether the file has layers behind its backbone that the model lacks."""
        return any(d.model_shape is None and parse(d.path).is_head for d in self.differences)

    def skip_head(self):
        """Lets the model keep the layers of its head that the file has not, or others of."""
        differing = [d for d in self.differences if parse(d.path).is_head]
        self.differences = [d for d in self.differences if d not in differing]
        layers = {difference.path.rpartition("/")[0] for difference in differing}
        for difference in differing:
            self._skip(difference)
        # The bias, too, of a layer whose kernel differs.
        for path in [path for path in self.copied if path.rpartition("/")[0] in layers]:
            del self.copied[path]
            self.new.append(path)
            self.unused.append(path)

    def skip_all(self):
        """Lets the model keep all weights that differ."""
        for difference in self.differences:
            self._skip(difference)
        self.differences = []

    def _skip(self, difference):
        if difference.model_shape is not None:
            self.new.append(difference.path)
        if difference.file_shape is not None:
            self.unused.append(difference.path)

    def _may_be_new(self, path):
        name = parse(path)
        if self._file_is_dense:
            return False
        if self._model_is_dense and name.part == "stage_norm":
            return True
        return name.is_psa and self._is_padded(name.layer) and name.layer not in self._file_psa

    def _may_be_unused(self, path):
        name = parse(path)
        if name.is_head:
            return self._model_is_dense or not self._model_has_head
        if self._model_is_dense and (name.part == "norm" or name.is_window_token):
            return True
        return name.is_psa and self._is_padded(name.layer) and not self._blocks[name.layer].has_psa

    def _is_padded(self, block):
        return block in self._blocks and self._blocks[block].pad

    def _grids(self, path, stored, model_shape):
        """(rows, columns) of a block's windows in file and model, of window tokens that fit.

        A file that does not tell, with another number of windows, has a square grid.
        """
        block = self._blocks.get(parse(path).layer) if parse(path).is_window_token else None
        if block is None or len(stored.shape) != 4:
            return None
        one, windows, also_one, channels = stored.shape
        if (one, also_one, channels) != (1, 1, model_shape[-1]) or not windows:
            return None
        grid, side = stored.grid, math.isqrt(windows)
        if grid is None and stored.shape == model_shape:
            grid = block.window_grid
        elif grid is None and side**2 == windows:
            grid = (side, side)
        return grid and (grid, block.window_grid)


def mismatch_message(model, variables, arrays, source, plan):
    """What the file is, what the model is, how they differ, and what to do.

    Args:
        model: The model.
        variables: Its variables by path.
        arrays: The file's `StoredArray`s by path.
        source: Path of the file.
        plan: The `Plan` that failed.
    """
    in_file, in_model = WeightsSummary.of(arrays), WeightsSummary.of(variables)
    names = ", ".join(stored.name for stored in list(arrays.values())[:_SHOWN])
    lines = [
        f"The weights in '{source}' do not fit model `{model.name}`. Nothing was loaded.",
        f"File: {in_file or f'no weights of SepViT, but {names}, ...'}.",
        f"Model: {in_model or 'no SepViT'}.",
    ]
    if plan.differences:
        lines.append(f"{counted(len(plan.differences), 'difference')}:")
        lines += [f"  {difference}" for difference in plan.differences[:_SHOWN]]
    if len(plan.differences) > _SHOWN:
        lines.append(f"  and {len(plan.differences) - _SHOWN} more.")
    return "\n".join([*lines, _advice(model, in_file, in_model, plan)])


def _advice(model, in_file, in_model, plan):
    if in_file is None or in_model is None:
        return (
            "Expected the weights of a SepViT model of this package, or of the authors' PyTorch "
            "code, and a model with SepViT's layers."
        )
    architecture = in_file.hidden_dims, in_file.depths
    if architecture != (in_model.hidden_dims, in_model.depths):
        variant = repr(in_file.variant) if in_file.variant else None
        if architecture == (DIGITS_CONFIG.hidden_dims, DIGITS_CONFIG.depths):
            variant = "keras_sepvit.configs.DIGITS_CONFIG"
        build = "SepViTBackbone.from_variant" if hasattr(model, "from_variant") else "SepViT"
        here = f", here `{build}({variant})`" if variant else ""
        return f"Build the model that the file was made for{here}, or use another file."
    if plan.other_form:
        return (
            "The dense form, for detection and segmentation, is a different network: it has no "
            "window tokens, and norms between its stages instead of one at the end. Load the file "
            "in `SepViTBackbone.from_variant(..., dense=True)`, or use classification weights."
        )
    names = [parse(difference.path) for difference in plan.differences]
    if all(name.is_head for name in names):
        same = f"classes={in_file.classes}" if in_file.classes else "include_top=False"
        if not all(name.path.startswith("head/") for name in names):
            same = "the layers that the file has behind its backbone"
        return f"Build the model with {same}, or pass skip_head_mismatch=True to keep its own head."
    own = [name.path.rpartition("/") for name in names if not name.is_head]
    if any(variable.startswith("lora_") for _, _, variable in own):
        return (
            "Load the weights before `enable_lora`: in files, the adapters of a layer are merged "
            "into its kernel."
        )
    if any(variable not in known_variables(layer) for layer, _, variable in own):
        return (
            "One of them is quantised. Quantise the model as that of the file was, or load "
            "weights that are not quantised, and quantise the model then."
        )
    if any(name.is_psa for name in names):
        return (
            "The numbers of windows differ: the file was made for another image or window size. "
            "Let windows scale with the image, as `SepViT` and `SepViTBackbone.from_variant` do "
            "by default, or build the model with pad_windows=True."
        )
    return "To load what fits and leave the rest, use `load_weights(..., partial=True)`."


def window_layers(model):
    """All layers of a model that cut maps into windows, also those of models in it.

    `SepViTBlock` is one. Any layer counts that tells the (rows, columns) of its windows,
    `window_grid`; of it are asked `pad`, whether any number of windows will do, and `has_psa`,
    whether it has the weights of attention among windows.
    """
    for layer in model.layers:
        if hasattr(layer, "window_grid"):
            yield layer
        elif isinstance(layer, keras.Model):
            yield from window_layers(layer)


def _is_dense(paths):
    """Whether the weights of these paths are of the dense form: its stages end with norms."""
    return any(parse(path).part == "stage_norm" for path in paths)
