"""Dense layers as products of two matrices, and the sum with a bias."""

import keras
from keras import ops

from keras_sepvit.functional.activations import gelu
from keras_sepvit.functional.tensors import cast, is_half, reshape, shape
from keras_sepvit.functional.torch_products import torch_product


def linear(dense, x):
    """`dense(x)`, computed as one product of two matrices with the bias inside.

    On rank-2 tensors TensorFlow fuses bias and GELU into the product; torch adds
    the bias inside it. A layer that is quantised is called as it is.

    Args:
        dense: A built `keras.layers.Dense` without activation.
        x: Tensor of shape (..., channels).

    Returns:
        Tensor of shape (..., dense.units).
    """
    return _product(dense, x)


def linear_gelu(dense, x):
    """`gelu(linear(dense, x))`, in one pass where the backend can.

    Args:
        dense, x: As for `linear`.

    Returns:
        Tensor of shape (..., dense.units).
    """
    return _product(dense, x, with_gelu=True)


def _product(dense, x, with_gelu=False):
    if len(x.shape) == 2:
        return _product_of_rows(dense, x, with_gelu)
    sides = shape(x)
    rows = _product_of_rows(dense, reshape(x, (-1, sides[-1])), with_gelu)
    return reshape(rows, (-1, *sides[1:-1], dense.units))


def _product_of_rows(dense, x, with_gelu):
    plain = dense.quantization_mode is None
    if plain and keras.config.backend() == "torch":
        bias, kernel = cast(dense.bias, x.dtype), cast(dense.kernel, x.dtype)
        return torch_product(x)(x, kernel, bias, gelu=with_gelu)
    if plain and is_half(x):
        y = add_bias(ops.matmul(x, ops.cast(dense.kernel, x.dtype)), dense.bias)
    else:
        y = dense(x)
    return gelu(y) if with_gelu else y


def add_bias(x, bias):
    """`x + bias` along the last axis, with a gradient that is exact in half precision too.

    The CPU kernels of TensorFlow and JAX add up the gradient of a bias in the dtype of `x`, and
    a sum in bfloat16 stands still from 256 times its terms on.

    Args:
        x: Tensor of shape (..., channels).
        bias: Tensor or variable of shape (channels,).

    Returns:
        Tensor of the shape and dtype of `x`.
    """
    if keras.config.backend() == "torch":
        return x + cast(bias, x.dtype)
    if not is_half(x):
        return ops.add(x, bias)
    if keras.config.backend() == "tensorflow":
        return _tensorflow_add_bias(x, bias)
    return ops.cast(ops.cast(x, "float32") + ops.cast(bias, "float32"), x.dtype)


def _tensorflow_add_bias(x, bias):
    """The same with three passes less over `x` than with casts around the sum."""
    import tensorflow as tf

    @tf.custom_gradient
    def add(x, bias):
        def gradients(upstream):
            rows = tf.reshape(upstream, (-1, tf.shape(upstream)[-1]))
            return upstream, tf.reduce_sum(tf.cast(rows, tf.float32), 0)

        return tf.nn.bias_add(x, tf.cast(bias, x.dtype)), gradients

    return add(x, ops.cast(bias, "float32"))
