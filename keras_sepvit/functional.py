"""The few operations whose best form differs between backends.

Everything else in the model code is plain `keras.ops`.
"""

import math

import keras
from keras import ops


def gelu(x):
    """Exact (erf) GELU in the form that each backend computes and exports best.

    TensorFlow's own exact GELU emits `Erfc`, which ONNX and TensorRT converters
    do not know; this form also matches the pattern that TensorFlow fuses into
    the matrix product before it.
    """
    if keras.config.backend() == "tensorflow":
        return x * (0.5 * (1.0 + ops.erf(x * math.sqrt(0.5))))
    return ops.gelu(x, approximate=False)


def attention(query, key, value):
    """Scaled dot-product attention, with its softmax in float32.

    Args:
        query: Tensor of shape (batch, heads, queries, head_dim).
        key: Tensor of shape (batch, heads, keys, head_dim).
        value: Tensor of shape (batch, heads, keys, value_dim).

    Returns:
        Tensor of shape (batch, heads, queries, value_dim).
    """
    if keras.config.backend() == "torch":
        from torch.nn.functional import scaled_dot_product_attention

        return scaled_dot_product_attention(query, key, value)
    return ops.matmul(ops.cast(attention_weights(query, key), value.dtype), value)


def attention_weights(query, key):
    """The float32 weights, of shape (batch, heads, queries, keys), of `attention`."""
    scores = ops.matmul(query * query.shape[-1] ** -0.5, ops.transpose(key, (0, 1, 3, 2)))
    scores = ops.cast(scores, "float32")
    if scores.shape[-1] == 1:
        return ops.exp(scores - scores)  # one key: Keras would warn about a softmax
    return ops.softmax(scores, axis=-1)


def split_heads(x, num_heads):
    """(batch, tokens, channels) to (batch, heads, tokens, head_dim)."""
    _, tokens, channels = ops.shape(x)
    x = ops.reshape(x, (-1, tokens, num_heads, channels // num_heads))
    return ops.transpose(x, (0, 2, 1, 3))


def merge_heads(x):
    """(batch, heads, tokens, head_dim) to (batch, tokens, channels)."""
    _, heads, tokens, head_dim = ops.shape(x)
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, tokens, heads * head_dim))
