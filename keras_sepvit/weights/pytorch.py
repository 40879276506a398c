"""Weights in the form of the authors' PyTorch code: one table, read both ways."""

import contextlib
import dataclasses
import os
import re

import keras
import ml_dtypes
import numpy as np
from keras import ops

from keras_sepvit.files import replacing
from keras_sepvit.lazy import require
from keras_sepvit.names import WeightName, parse
from keras_sepvit.validation import refuse_path
from keras_sepvit.weights.checkpoints import load_checkpoint, open_safetensors
from keras_sepvit.weights.files import PYTORCH_SUFFIXES, check_file, suffix_of

# Variables of a layer: (name in PyTorch, name in Keras, axes of the PyTorch array
# in Keras's order, or None where the layouts agree).
_DENSE = (("weight", "kernel", (1, 0)), ("bias", "bias", None))
_CONV = (("weight", "kernel", (2, 3, 1, 0)), ("bias", "bias", None))
_DEPTHWISE = (("weight", "kernel", (2, 3, 0, 1)), ("bias", "bias", None))
_NORM = (("weight", "gamma", None), ("bias", "beta", None))
_TOKENS = (("win_tokens", "win_tokens", None),)

# The module in the authors' code, the part and inner layer here, its variables; in the order of
# the authors' state dict. PyTorch counts stages and blocks from 0, Keras from 1.
TABLE = (
    ("norm_list.{stage}", "stage_norm", "", _NORM),
    ("patch_embeds.{stage}.proj", "embed", "proj/", _CONV),
    ("patch_embeds.{stage}.norm", "embed", "norm/", _NORM),
    ("pos_block.{stage}.proj.0", "peg", "proj/", _DEPTHWISE),
    ("blocks.{stage}.{block}", "block", "", _TOKENS),
    ("blocks.{stage}.{block}.norm1", "block", "norm1/", _NORM),
    ("blocks.{stage}.{block}.norm2", "block", "norm2/", _NORM),
    ("blocks.{stage}.{block}.mlp.fc1", "block", "mlp/fc1/", _DENSE),
    ("blocks.{stage}.{block}.mlp.fc2", "block", "mlp/fc2/", _DENSE),
    ("blocks.{stage}.{block}.attn.DSA_qkv", "block", "attn/dsa_qkv/", _DENSE),
    ("blocks.{stage}.{block}.attn.win_tokens_norm", "block", "attn/win_tokens_norm/", _NORM),
    ("blocks.{stage}.{block}.attn.PSA_qk", "block", "attn/psa_qk/", _DENSE),
    ("blocks.{stage}.{block}.attn.proj", "block", "attn/proj/", _DENSE),
    ("norm", "norm", "", _NORM),
    ("head", "head", "head/", _DENSE),
)

# Of necks and heads: names of variables in PyTorch and in Keras, of norms and of other layers;
# and the axes of arrays by their rank, those of transposed convolutions too.
_TASK_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_TASK_LAYER = {"weight": "kernel", "bias": "bias"}
_TASK_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}
_BATCHES = "num_batches_tracked"  # PyTorch's norms count batches, which nothing uses

# What mmdetection has in front of the heads of Mask R-CNN's regions: theirs, and how they begin.
_ROI_HEAD = "roi_head."
_OF_ROI_HEAD = ("bbox_head/shared_fcs_", "bbox_head/fc_", "mask_head/")

# The first dense layer on a region and its places, which PyTorch has behind the channels.
_ON_REGION = "bbox_head/shared_fcs_0/kernel"
_REGION = 7 * 7

_PREFIX = re.compile(r"^(?:(?:module|backbone|_orig_mod)\.)+")

# Classes of the head that the authors' dense form carries without using it.
_DENSE_FORM_CLASSES = 1000

_LUCIDRAINS_KEY = re.compile(r"layers\.\d+\.2\.layers\.\d+\.0\.(window_tokens|to_qkv\.weight)")
_LUCIDRAINS_ERROR = (
    "holds the SepViT of the `vit-pytorch` package (vit_pytorch.sep_vit), which is a different "
    "network, so that its weights fit none of the models here: it has one window token a block "
    "(shared by all windows, and not normed) instead of one a window; the positional encoding "
    "before a stage's blocks instead of after the first; no norm in the patch embeddings; queries, "
    "keys and values without bias; no shortcuts inside the attention; a norm of each head's "
    "window tokens instead of one of all channels; and a norm at the end of each stage but the "
    "last. Train the model here, or use the authors' weights."
)


def to_keras(key):
    """The variable path of a key of the authors' state dict, and the axes of its array.

    Args:
        key: Such as `"blocks.0.0.attn.DSA_qkv.weight"`.

    Returns:
        `("stage1_block1/attn/dsa_qkv/kernel", (1, 0))`: a Keras array is the
        PyTorch array with its axes in this order, or as it is with None. None
        if the state dict of the authors' code has no such key.
    """
    row, match = _row(key)
    if match is None:
        return None
    _, part, inner, axes = _ROWS[row]
    numbers = {name: int(number) + 1 for name, number in match.groupdict().items()}
    name = WeightName(part, numbers.get("stage"), numbers.get("block"), inner)
    return name.path, axes


def _task_to_keras(key):
    """The variable path of a key of a neck or head; None of any other.

    A number belongs to the name before it: `neck.lateral_convs.0.conv.weight` is
    `neck/lateral_convs_0/conv/kernel`.
    """
    key = re.sub(r"\.(?=\d+\.)", "_", key.removeprefix(_ROI_HEAD))
    layer, _, variable = key.replace(".", "/").rpartition("/")
    name = (_TASK_NORM if layer.endswith("/bn") else _TASK_LAYER).get(variable)
    return f"{layer}/{name}" if name and parse(layer + "/").is_task_part else None


def _task_to_pytorch(path):
    """The key of a variable of a neck or head; None of one that PyTorch's have not."""
    layer, _, variable = path.rpartition("/")
    names = _TASK_NORM if layer.endswith("/bn") else _TASK_LAYER
    key = next((theirs for theirs, ours in names.items() if ours == variable), None)
    prefix = _ROI_HEAD if path.startswith(_OF_ROI_HEAD) else ""
    return key and prefix + re.sub(r"_(?=\d+(?:[._]|$))", ".", layer.replace("/", ".")) + f".{key}"


def to_pytorch(model):
    """The weights of a model as the state dict of the authors' code.

    A model of the classification form with its head loads in the authors' code
    with `strict=True`. So does one of the dense form: the authors' dense state
    dict also holds a `norm` and a `head` that are never used, and they are
    written as ones and zeros. So do segmenters and detectors, in models of mmsegmentation and
    mmdetection.

    Args:
        model: A SepViT classifier, `SepViTBackbone`, segmenter or detector.

    Returns:
        Dict of NumPy arrays in PyTorch's layout, in the authors' order. Values
        of bfloat16, which NumPy lacks, become float32.

    Raises:
        ValueError: if the model has weights that the authors' code does not,
            such as those of `window_tokens="depthwise_conv"`.
    """
    refuse_path("model", model)
    arrays, task, foreign = {}, {}, []
    for variable in model.weights:
        name = parse(variable.path)
        if name.is_task_part:
            key, axes = _task_to_pytorch(name.path), _TASK_AXES.get(len(variable.shape))
        else:
            key, axes = _FROM_KERAS.get((name.part, name.inner), (None, None))
        if key is None:
            foreign.append(variable.path)
            continue
        key = key.format(stage=(name.stage or 1) - 1, block=(name.block or 1) - 1)
        array = ops.convert_to_numpy(variable)
        if array.dtype == ml_dtypes.bfloat16:
            array = array.astype("float32")
        if axes is not None:
            array = array.transpose(np.argsort(axes))
        if name.path == _ON_REGION:
            array = _regrouped(array, _REGION)
        (task if name.is_task_part else arrays)[key] = np.ascontiguousarray(array)
        if key.endswith("running_var"):
            task[key.replace("running_var", _BATCHES)] = np.array(0)
    if foreign:
        raise ValueError(
            f"Model `{model.name}` has {len(foreign)} weights that the authors' PyTorch code has "
            f"not: {', '.join(foreign[:5])}{', ...' if len(foreign) > 5 else ''}. Only SepViT "
            "models without other layers, with learned or zero window tokens, can be written."
        )
    if "norm_list.3.weight" in arrays:
        channels = arrays["norm_list.3.weight"].shape[0]
        dtype = arrays["norm_list.3.weight"].dtype
        arrays["norm.weight"] = np.ones(channels, dtype)
        arrays["norm.bias"] = np.zeros(channels, dtype)
        arrays["head.weight"] = np.zeros((_DENSE_FORM_CLASSES, channels), dtype)
        arrays["head.bias"] = np.zeros(_DENSE_FORM_CLASSES, dtype)
    arrays = dict(sorted(arrays.items(), key=lambda item: _authors_order(item[0])))
    if task:
        arrays = {f"backbone.{key}": array for key, array in arrays.items()}
    return {**arrays, **task}  # necks and heads in the order of the model's layers


def save_pytorch(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Writes the weights of a model for the authors' PyTorch code.

    Args:
        model: A SepViT classifier, `SepViTBackbone`, segmenter or detector; see `to_pytorch`.
        path: A `.pth`, `.pt` or `.bin` file (needs torch), or `.safetensors`.
            It is replaced only when all is written.

    Raises:
        ValueError: for another suffix, a folder that does not exist, and weights
            that the authors' code does not have.
        ImportError: if torch or safetensors is not installed.
    """
    suffix = suffix_of(path)
    if suffix not in PYTORCH_SUFFIXES:
        raise ValueError(
            f"Cannot write '{path}' for PyTorch. Expected a name ending in one of "
            f"{', '.join(PYTORCH_SUFFIXES)}."
        )
    if suffix == ".safetensors":
        from_numpy = require("safetensors.numpy", "convert", f"'{path}'").save_file
    else:
        torch = require("torch", "convert", f"'{path}'")
    arrays = to_pytorch(model)
    with replacing(path) as temporary:
        if suffix == ".safetensors":
            from_numpy(arrays, temporary, metadata={"format": "pt"})
        else:
            torch.save({key: torch.from_numpy(array) for key, array in arrays.items()}, temporary)


@contextlib.contextmanager
def open_pytorch(path):
    """Opens a PyTorch checkpoint (`.pth`, `.pt`, `.bin`) or a `.safetensors` file.

    A checkpoint is a state dict, or holds one under `"model"`, `"state_dict"` or another
    usual key; averaged weights (`"model_ema"` and the like) come before others;
    the prefixes `module.`, `backbone.` and `_orig_mod.` of keys are dropped, and any other
    that all keys share. No code in a checkpoint is run.

    Yields:
        Dict of `StoredArray`s by variable path, those of necks and heads of mmsegmentation too;
        any other key stays as it is.

    Raises:
        ValueError: if the file is damaged or holds something else.
        FileNotFoundError: if there is none.
        ImportError: if torch or safetensors is not installed.
    """
    check_file(path)
    if suffix_of(path) == ".safetensors":
        with open_safetensors(path) as tensors:
            yield _by_variable_path(tensors, path)
    else:
        yield _by_variable_path(load_checkpoint(path), path)


def _by_variable_path(tensors, path):
    """`StoredArray`s in PyTorch's layout by key as such in Keras's layout by path."""
    if any(_LUCIDRAINS_KEY.search(key) for key in tensors):
        raise ValueError(f"The weights file '{path}' {_LUCIDRAINS_ERROR}")
    arrays = {}
    shared = _shared_prefix(tensors)
    for key, stored in tensors.items():
        plain_key = _PREFIX.sub("", key[len(shared) :])
        if plain_key.endswith(_BATCHES):
            continue
        variable, axes = to_keras(plain_key) or (plain_key, None)
        if task := _task_to_keras(plain_key):
            variable, axes = task, _TASK_AXES.get(len(stored.shape))
        if variable in arrays:
            raise ValueError(
                f"The weights file '{path}' has two values for '{plain_key}': "
                f"'{arrays[variable].name}' and '{key}'. Save only one of the two models in it."
            )
        if axes is not None and len(axes) == len(stored.shape):
            if variable == _ON_REGION:
                stored = _with_places_first(stored)
            stored = _transposed(stored, axes)
        arrays[variable] = stored
    return arrays


def _shared_prefix(keys):
    """What stands in front of all keys, such as `"net."`; empty where keys are known without."""
    shared = os.path.commonprefix([key.split(".") for key in keys])  # of lists, too
    for length in range(len(shared) + 1):
        prefix = "".join(f"{part}." for part in shared[:length])
        if any(to_keras(_PREFIX.sub("", key[len(prefix) :])) for key in keys):
            return prefix
    return ""


def _transposed(stored, axes):
    return dataclasses.replace(
        stored,
        shape=tuple(stored.shape[axis] for axis in axes),
        read=lambda: stored.read().transpose(axes),
    )


def _with_places_first(stored):
    """The stored kernel of `_ON_REGION`, (units, inputs), with its inputs as Keras has them."""
    channels = stored.shape[-1] // _REGION
    return dataclasses.replace(stored, read=lambda: _regrouped(stored.read(), channels))


def _regrouped(kernel, first):
    """A dense kernel (units, inputs) whose inputs are groups, `first` of them: members first.

    So channels that stand before places are put behind them, with `first` channels, and the other
    way round.
    """
    units = len(kernel)
    return kernel.reshape(units, first, -1).swapaxes(1, 2).reshape(units, -1)


# The table by variable: the key in PyTorch, part and inner path in Keras, and the axes.
_ROWS = [
    (f"{module}.{name}", part, f"{inner}{variable}", axes)
    for module, part, inner, variables in TABLE
    for name, variable, axes in variables
]
_FROM_KERAS = {(part, inner): (key, axes) for key, part, inner, axes in _ROWS}
_PATTERNS = [
    re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(key))) for key, *_ in _ROWS
]


def _row(key):
    """Number of the row of `_ROWS` that a key is of, and the match with its numbers, or Nones."""
    matches = ((row, pattern.fullmatch(key)) for row, pattern in enumerate(_PATTERNS))
    return next(((row, match) for row, match in matches if match), (None, None))


def _authors_order(key):
    """A sort key that puts a state dict in the authors' order: by module, stage, block, row."""
    root = key.partition(".")[0]
    section = next(i for i, (module, *_) in enumerate(TABLE) if module.split(".")[0] == root)
    row, match = _row(key)
    return section, *map(int, match.groups()), row
