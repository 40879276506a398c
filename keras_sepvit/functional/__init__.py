"""The few operations whose best form differs between backends.

Everything else in the model code is plain `keras.ops`.
"""

from keras_sepvit.functional.activations import gelu, layer_norm
from keras_sepvit.functional.attention import (
    attention,
    attention_weights,
    merge_heads,
    split_heads,
)
from keras_sepvit.functional.convolutions import depthwise_conv3x3, padded_conv, same_conv
from keras_sepvit.functional.draws import uniform
from keras_sepvit.functional.eager import call, is_plain_call
from keras_sepvit.functional.forms import converter, forms_for
from keras_sepvit.functional.products import add_bias, linear, linear_gelu
from keras_sepvit.functional.tensors import (
    cast,
    concatenate,
    reshape,
    shape,
    split,
    transpose,
    zeros_like,
)

__all__ = [
    "add_bias",
    "attention",
    "attention_weights",
    "call",
    "cast",
    "concatenate",
    "converter",
    "depthwise_conv3x3",
    "forms_for",
    "gelu",
    "is_plain_call",
    "layer_norm",
    "linear",
    "linear_gelu",
    "merge_heads",
    "padded_conv",
    "reshape",
    "same_conv",
    "shape",
    "split",
    "split_heads",
    "transpose",
    "uniform",
    "zeros_like",
]
