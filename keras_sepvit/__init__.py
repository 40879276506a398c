"""keras_sepvit: the Separable Vision Transformer (SepViT) for Keras 3."""

from keras_sepvit.default_backend import choose_backend

choose_backend()  # before the first import of Keras

from keras_sepvit.attention import SeparableAttention
from keras_sepvit.backbone import SepViTBackbone
from keras_sepvit.block import SepViTBlock
from keras_sepvit.classifier import (
    SepViT,
    SepViTB,
    SepViTLite,
    SepViTS,
    SepViTT,
    decode_predictions,
    preprocess_input,
)
from keras_sepvit.configs import SepViTConfig, get_config
from keras_sepvit.layers import MLP, PEG, DropPath, PatchEmbedding
from keras_sepvit.pretrained import register_weights
from keras_sepvit.weights import LoadReport, load_weights

__version__ = "0.1.0"
