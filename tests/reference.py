"""Numbers of the authors' PyTorch code to agree with, and the weights behind them.

`tests/data/*.npz` was computed with the authors' code, in float32 on a CPU, on
weights and images that both sides make from the same seeds, so that no weights
are stored. `tests/data/state_dict_shapes.json` holds the keys and shapes of the
authors' state dicts, in their order and in PyTorch's layout.

`official_classification_{lite,tiny}.npz`, on `inputs(0, (2, 224, 224, 3))`:
`logits` before softmax, and, for stages 1 to 4, `stagek_shape` and `stagek`,
the map after the stage's last block (before the final norm), sampled by
`sample_stage`.

`official_dense_tiny_{224x224,250x333}.npz`, on `inputs(1, (1, H, W, 3))`: for
levels 2 to 5 `Pk_shape`, `Pk`, sampled by `sample_level`, `Pk_mean` and `Pk_std`.
"""

import functools
import json
import math
import zlib
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"


@functools.cache
def state_dict_shapes():
    """Shapes by form ("classification", "dense"), variant and key."""
    return json.loads((DATA / "state_dict_shapes.json").read_text())


def state_dict(form, variant):
    """The seeded weights of a variant as the authors' state dict.

    Args:
        form: "classification" or "dense".
        variant: "lite" (classification only), "tiny", "small" or "base".

    Returns:
        Dict of float32 NumPy arrays in PyTorch's layout, in the authors' order.
    """
    return {
        key: seeded_value(key, tuple(shape))
        for key, shape in state_dict_shapes()[form][variant].items()
    }


def seeded_value(key, shape):
    """The array of one key of a state dict, in PyTorch's layout."""
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    noise = noise.astype("float32")
    if "norm" in key and key.endswith("weight"):
        value = 1 + 0.1 * noise
    elif key.endswith("bias"):
        value = 0.1 * noise
    elif key.endswith("win_tokens"):
        value = 0.5 * noise
    else:
        value = noise / math.sqrt(math.prod(shape[1:]))
    return value.astype("float32")


def inputs(seed, shape):
    """Seeded normalised images of shape (batch, height, width, 3), float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def load_expected(name):
    """The arrays of `tests/data/<name>.npz` as a dict."""
    with np.load(DATA / f"{name}.npz") as arrays:
        return dict(arrays)


def sample_stage(stage_map):
    """The positions and channels of a stage's map that the classification files hold."""
    step = max(stage_map.shape[1] // 7, 1)
    return stage_map[:, ::step, ::step, :: stage_map.shape[-1] // 16]


def sample_level(level_map):
    """The positions and channels of a pyramid level that the dense files hold."""
    _, height, width, channels = level_map.shape
    return level_map[:, :: max(height // 7, 1), :: max(width // 9, 1), :: channels // 16]
