"""Weights in the form of the authors' PyTorch code: one table, read both ways."""

import contextlib
import dataclasses
import importlib
import os
import pickle
import re
import zipfile

import keras
import ml_dtypes
import numpy as np
from keras import ops

from keras_sepvit.files import replacing
from keras_sepvit.names import WeightName, parse
from keras_sepvit.weights.files import (
    PYTORCH_SUFFIXES,
    SAFETENSORS_KIND,
    TORCH_KIND,
    StoredArray,
    check_expansion,
    check_file,
    damaged,
    suffix_of,
)

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

# Where the weights lie in a checkpoint of PyTorch training code: those averaged over the
# training, with which its results are measured, before the last ones.
_AVERAGED_KEYS = ("model_ema", "state_dict_ema", "ema_state_dict", "ema")
_STATE_DICT_KEYS = ("model", "state_dict", "model_state_dict", "params", "net", "module")
# The counter that `torch.optim.swa_utils.AveragedModel` keeps beside the weights.
_COUNTER = "n_averaged"
_PREFIX = re.compile(r"^(?:(?:module|backbone|_orig_mod)\.)+")

# Data that training code stores beside weights: loaded as a `_StandIn`, which does nothing.
_STAND_INS = re.compile(
    r"argparse\.Namespace|collections\.defaultdict|typing\.\w+|_codecs\.encode|omegaconf\..*"
    r"|pathlib\.(_local\.)?(Pure)?(Posix|Windows)?Path"
    r"|numpy\.(dtype|ndarray|dtypes\.\w+|_?core\.multiarray\.(scalar|_reconstruct))"
    r"|builtins\.(dict|list|set|tuple|int|float|str|bool|bytes|complex|object|slice)|datetime\.\w+"
)

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


def to_pytorch(model):
    """The weights of a model as the state dict of the authors' code.

    A model of the classification form with its head loads in the authors' code
    with `strict=True`. So does one of the dense form: the authors' dense state
    dict also holds a `norm` and a `head` that are never used, and they are
    written as ones and zeros.

    Args:
        model: A SepViT classifier or `SepViTBackbone`.

    Returns:
        Dict of NumPy arrays in PyTorch's layout, in the authors' order. Values
        of bfloat16, which NumPy lacks, become float32.

    Raises:
        ValueError: if the model has weights that the authors' code does not,
            such as those of `window_tokens="depthwise_conv"`.
    """
    arrays, foreign = {}, []
    for variable in model.weights:
        name = parse(variable.path)
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
        arrays[key] = np.ascontiguousarray(array)
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
    return dict(sorted(arrays.items(), key=lambda item: _authors_order(item[0])))


def save_pytorch(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Writes the weights of a model for the authors' PyTorch code.

    Args:
        model: A SepViT classifier or `SepViTBackbone`; see `to_pytorch`.
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
        from_numpy = _import("safetensors.numpy", path).save_file
    else:
        torch = _import("torch", path)
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
        Dict of `StoredArray`s by variable path; a key that the authors' state
        dict does not have stays as it is.

    Raises:
        ValueError: if the file is damaged or holds something else.
        FileNotFoundError: if there is none.
        ImportError: if torch or safetensors is not installed.
    """
    check_file(path)
    if suffix_of(path) == ".safetensors":
        with _open_safetensors(path) as tensors:
            yield _by_variable_path(tensors, path)
    else:
        yield _by_variable_path(_load_checkpoint(path), path)


def _by_variable_path(tensors, path):
    """`StoredArray`s in PyTorch's layout by key as such in Keras's layout by path."""
    if any(_LUCIDRAINS_KEY.search(key) for key in tensors):
        raise ValueError(f"The weights file '{path}' {_LUCIDRAINS_ERROR}")
    arrays = {}
    shared = _shared_prefix(tensors)
    for key, stored in tensors.items():
        plain_key = _PREFIX.sub("", key[len(shared) :])
        variable, axes = to_keras(plain_key) or (plain_key, None)
        if variable in arrays:
            raise ValueError(
                f"The weights file '{path}' has two values for '{plain_key}': "
                f"'{arrays[variable].name}' and '{key}'. Save only one of the two models in it."
            )
        if axes is not None and len(axes) == len(stored.shape):
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


class _StandIn:
    """Takes the place of any class or function in a checkpoint, and of what it would make."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __hash__(self):
        return id(self)


def _plain_dict(*_):
    return {}  # torch fills no others


def _load_with_stand_ins(path):
    """What `torch.load` gives of a file, without running any code of it."""
    torch = _import("torch", path)
    is_zip, stand_ins = zipfile.is_zipfile(path), {}
    while True:
        allowed = [(stand_in, name) for name, stand_in in stand_ins.items()]
        try:
            with torch.serialization.safe_globals(allowed):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except pickle.UnpicklingError as error:
            refused = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
            name = refused[1] if refused else ""
            name = name if "." in name else f"builtins.{name}"
            if name in stand_ins or not _STAND_INS.fullmatch(name):
                raise
            is_dict = name == "collections.defaultdict"
            stand_ins[name] = _plain_dict if is_dict else type("StandIn", (_StandIn,), {})


def _load_checkpoint(path):
    """The tensors of a checkpoint by key, read from the file when they are used."""
    _import("torch", path)
    try:
        checkpoint = _load_with_stand_ins(path)
    except Exception as error:  # torch raises many kinds for damaged files
        if not isinstance(error, pickle.UnpicklingError) and "TorchScript" not in str(error):
            raise damaged(path, TORCH_KIND, error) from error
        # Without torch's advice, which is to load the file in the unsafe way.
        reason = re.search(r"error: ([^\n]*)", str(error))
        raise ValueError(
            f"The weights file '{path}' holds Python objects other than tensors, which could run "
            "code when loaded, or is damaged; it was not loaded. If you trust its source, load it "
            "with torch and save its state dict alone: `torch.save(model.state_dict(), path)`."
            f"{f' torch said: {reason[1]}' if reason else ''}"
        ) from error
    state_dict, part = _state_dict(checkpoint, path)
    check_expansion(path, sum(t.numel() * t.element_size() for t in state_dict.values()))
    return {key: _stored_tensor(key, tensor, part) for key, tensor in state_dict.items()}


def _state_dict(checkpoint, path):
    import torch

    """The state dict in a checkpoint, and under which keys where there are several."""
    state_dict, keys, several = checkpoint, [], False
    while found := _containers(state_dict):
        several = several or len(found) > 1
        keys.append(found[0])
        state_dict = state_dict[found[0]]
    if isinstance(state_dict, dict):
        state_dict = {key: value for key, value in state_dict.items() if key != _COUNTER}
    if not isinstance(state_dict, dict) or not state_dict:
        raise ValueError(
            f"The weights file '{path}' holds no state dict but "
            f"{'an empty' if state_dict == {} else 'a'} {type(state_dict).__name__}. {_EXPECTED}"
        )
    others = [
        repr(key)
        for key, value in state_dict.items()
        if not (isinstance(key, str) and torch.is_tensor(value))
    ]
    if others:
        raise ValueError(
            f"The weights file '{path}' holds no state dict: {len(others)} of its "
            f"{len(state_dict)} entries are no named tensors: {', '.join(others[:5])}. {_EXPECTED}"
        )
    return state_dict, ".".join(keys) if several else None


def _containers(checkpoint):
    """Keys of what may be a state dict in a checkpoint, averaged weights first."""
    if not isinstance(checkpoint, dict):
        return []
    known = (*_AVERAGED_KEYS, *_STATE_DICT_KEYS)
    return [key for key in known if isinstance(checkpoint.get(key), dict) and checkpoint[key]]


_EXPECTED = (
    "Expected a dict of tensors, or one with such a dict under "
    f"{' or '.join(map(repr, _STATE_DICT_KEYS))}."
)


def _stored_tensor(key, tensor, part):
    def read():
        if dtype == "bfloat16":  # which NumPy lacks; float32 holds it exactly
            return tensor.detach().float().numpy()
        return tensor.detach().numpy()

    dtype = str(tensor.dtype).removeprefix("torch.")
    return StoredArray(key, tuple(tensor.shape), dtype, read, part=part)


@contextlib.contextmanager
def _open_safetensors(path):
    safetensors = _import("safetensors", path)
    try:
        file = safetensors.safe_open(path, framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise damaged(path, SAFETENSORS_KIND, error) from error
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    with file:
        tensors = {}
        for key in file.keys():  # noqa: SIM118 (not a dict)
            part = file.get_slice(key)
            dtype = part.get_dtype()
            tensors[key] = StoredArray(
                key,
                tuple(part.get_shape()),
                names.get(dtype, dtype),
                lambda key=key: file.get_tensor(key),
            )
        yield tensors


def _import(module, path):
    """An optional module, or an error that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"'{path}' needs {package}, which is not installed. Install it with "
            "`pip install keras-sepvit[convert]`."
        ) from error


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
