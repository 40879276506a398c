"""Weights in files: of Keras and of the authors' PyTorch code, by path, address or name.

Stands below the network, of which it imports nothing.
"""

from keras_sepvit.weights.load import LoadReport, check_pretrained, load_pretrained, load_weights
from keras_sepvit.weights.pytorch import save_pytorch
from keras_sepvit.weights.registry import register_weights, registered_weights

__all__ = [
    "LoadReport",
    "check_pretrained",
    "load_pretrained",
    "load_weights",
    "register_weights",
    "registered_weights",
    "save_pytorch",
]
