"""keras_sepvit: the Separable Vision Transformer (SepViT) for Keras 3.

`import keras_sepvit` imports neither Keras nor a backend. Public names and submodules
are imported at their first use.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING

from keras_sepvit.default_backend import choose_backend
from keras_sepvit.registration import register_with_keras

__version__ = "0.1.0"

if TYPE_CHECKING:  # for editors and type checkers; at run time `__getattr__` does it
    from keras_sepvit.attention import SeparableAttention
    from keras_sepvit.backbone import SepViTBackbone
    from keras_sepvit.block import SepViTBlock
    from keras_sepvit.classification.classifier import (
        SepViT,
        SepViTB,
        SepViTLite,
        SepViTS,
        SepViTT,
        decode_predictions,
        preprocess_input,
    )
    from keras_sepvit.configs import SepViTConfig, variant_config
    from keras_sepvit.conversion import convert
    from keras_sepvit.layers import MLP, PEG, DropPath, PatchEmbedding
    from keras_sepvit.weights.load import LoadReport, load_weights
    from keras_sepvit.weights.pytorch import save_pytorch
    from keras_sepvit.weights.registry import register_weights
    from keras_sepvit.weights.warm_start import WarmStartReport, warm_start

_MODULES = {
    "SeparableAttention": "attention",
    "SepViTBackbone": "backbone",
    "SepViTBlock": "block",
    "SepViT": "classification.classifier",
    "SepViTB": "classification.classifier",
    "SepViTLite": "classification.classifier",
    "SepViTS": "classification.classifier",
    "SepViTT": "classification.classifier",
    "decode_predictions": "classification.classifier",
    "preprocess_input": "classification.classifier",
    "SepViTConfig": "configs",
    "variant_config": "configs",
    "DropPath": "layers",
    "MLP": "layers",
    "PatchEmbedding": "layers",
    "PEG": "layers",
    "convert": "conversion",
    "LoadReport": "weights.load",
    "WarmStartReport": "weights.warm_start",
    "load_weights": "weights.load",
    "register_weights": "weights.registry",
    "save_pytorch": "weights.pytorch",
    "warm_start": "weights.warm_start",
}

_PACKAGES = (
    *("complexity", "detection", "export", "hub", "instances", "runtime", "segmentation"),
    *("training", "weights"),
)

__all__ = [*_MODULES]

choose_backend()  # before the first import of Keras
register_with_keras()


def __getattr__(name):
    if name in _MODULES:
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
        return globals().setdefault(name, getattr(module, name))
    submodule = f"{__name__}.{name}"
    if not name.startswith("_") and importlib.util.find_spec(submodule):
        return importlib.import_module(submodule)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*__all__, *_PACKAGES, "__version__"])
