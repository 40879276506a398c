"""Norm and GELU."""

import math

import keras
from keras import ops

from keras_sepvit.functional.forms import converter
from keras_sepvit.functional.tensors import cast, tensor


def layer_norm(norm, x):
    """`norm(x)`, in fewer passes over the tensor.

    Args:
        norm: A built `keras.layers.LayerNormalization` over the last axis.
        x: Tensor of shape (..., channels).

    Returns:
        Tensor of the shape of `x`.
    """
    if keras.config.backend() == "torch":
        import torch

        # Under mixed policies gamma and beta are float32. CUDA's kernel wants one dtype and
        # computes in float32 inside; the CPU's adds up their gradients in the dtype of x.
        gamma = tensor(norm.gamma)
        dtype = gamma.dtype if x.device.type == "cpu" else x.dtype
        gamma, beta = cast(gamma, dtype), cast(norm.beta, dtype)
        y = torch.nn.functional.layer_norm(cast(x, dtype), x.shape[-1:], gamma, beta, norm.epsilon)
        return cast(y, x.dtype)
    if converter() == "litert":
        return norm(x)
    dtype = keras.backend.result_type(x.dtype, "float32")
    gamma, beta = ops.cast(norm.gamma, dtype), ops.cast(norm.beta, dtype)
    centered = ops.cast(x, dtype)
    centered = centered - ops.mean(centered, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centered), axis=-1, keepdims=True)
    return ops.cast(centered * (ops.rsqrt(variance + norm.epsilon) * gamma) + beta, x.dtype)


def gelu(x):
    """Exact (erf) GELU in the form that each backend computes and exports best.

    TensorFlow's own exact GELU emits `Erfc`, which ONNX and TensorRT converters
    do not know; this form also matches the pattern that TensorFlow fuses into
    the matrix product before it. LiteRT's converter knows another product of the
    same factors, and none else, as its operator.
    """
    if keras.config.backend() == "tensorflow":
        if converter() == "litert":
            return (0.5 * x) * (1.0 + ops.erf(x * math.sqrt(0.5)))
        return x * (0.5 * (1.0 + ops.erf(x * math.sqrt(0.5))))
    if keras.config.backend() == "torch":
        import torch

        return torch.nn.functional.gelu(x)
    return ops.gelu(x, approximate=False)
