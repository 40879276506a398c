"""The tensors in checkpoints of PyTorch and safetensors files, whatever network they are of.

No code in a checkpoint is run.
"""

import contextlib
import pickle
import re
import zipfile

from keras_sepvit.lazy import require
from keras_sepvit.weights.files import (
    SAFETENSORS_KIND,
    TORCH_KIND,
    StoredArray,
    check_expansion,
    damaged,
)

# Where the weights lie in a checkpoint of PyTorch training code: those averaged over the
# training, with which its results are measured, before the last ones.
_AVERAGED_KEYS = ("model_ema", "state_dict_ema", "ema_state_dict", "ema")
_STATE_DICT_KEYS = ("model", "state_dict", "model_state_dict", "params", "net", "module")
# The counter that `torch.optim.swa_utils.AveragedModel` keeps beside the weights.
_COUNTER = "n_averaged"

# Data that training code stores beside weights: loaded as a `_StandIn`, which does nothing.
_STAND_INS = re.compile(
    r"argparse\.Namespace|collections\.defaultdict|typing\.\w+|_codecs\.encode|omegaconf\..*"
    r"|pathlib\.(_local\.)?(Pure)?(Posix|Windows)?Path"
    r"|numpy\.(dtype|ndarray|dtypes\.\w+|_?core\.multiarray\.(scalar|_reconstruct))"
    r"|builtins\.(dict|list|set|tuple|int|float|str|bool|bytes|complex|object|slice)|datetime\.\w+"
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
    torch = require("torch", "convert", f"'{path}'")
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


def load_checkpoint(path):
    """The tensors of a checkpoint by key, read from the file when they are used."""
    require("torch", "convert", f"'{path}'")
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
    """The state dict in a checkpoint, and under which keys where there are several."""
    import torch

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
def open_safetensors(path):
    """Opens a safetensors file: its tensors by key, read when they are used."""
    safetensors = require("safetensors", "convert", f"'{path}'")
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
