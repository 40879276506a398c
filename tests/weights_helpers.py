"""What the test modules of weights share: tiny classifiers, their files, and loads."""

import warnings

import numpy as np
import pytest
from helpers import TINY, randomize, to_numpy

from keras_sepvit import SepViT
from keras_sepvit.weights import load_weights, save_pytorch
from keras_sepvit.weights.pytorch import to_pytorch

CLASSES = 5
PSA_WEIGHTS = [
    "attn/psa_qk/bias",
    "attn/psa_qk/kernel",
    "attn/win_tokens_norm/beta",
    "attn/win_tokens_norm/gamma",
]
SUFFIXES = (".weights.h5", ".keras", ".pth", ".safetensors")


def classifier(config=TINY, classes=CLASSES, seed=None, **kwargs):
    model = SepViT(config, classes=classes, **kwargs)
    if seed is not None:
        randomize(model, seed)
    return model


def values(model):
    return {variable.path: to_numpy(variable) for variable in model.weights}


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(actual[path], value, err_msg=path)


def save_h5(model, path):
    model.save_weights(path)
    return path


def write(model, path):
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    elif path.suffix == ".keras":
        model.save(path)
    else:
        save_pytorch(model, path)


def save_torch(arrays, path):
    """Writes a state dict of NumPy arrays as PyTorch does."""
    import torch

    torch.save({key: torch.from_numpy(array) for key, array in arrays.items()}, path)
    return path


def torch_source():
    """A random classifier, and its weights as PyTorch tensors."""
    import torch

    model = classifier(seed=7)
    return model, {key: torch.from_numpy(array) for key, array in to_pytorch(model).items()}


def load_quietly(model, path, **kwargs):
    """`load_weights`, which must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return load_weights(model, path, **kwargs)


def refused(model, path, match, error=ValueError, **kwargs):
    """The message of the error of `load_weights`, which must leave the model as it was."""
    before = values(model)
    with pytest.raises(error, match=match) as caught:
        load_weights(model, path, **kwargs)
    assert_same(values(model), before)
    return str(caught.value)
