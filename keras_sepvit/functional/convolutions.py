"""Convolutions on maps with channels last."""

import keras
from keras import ops

from keras_sepvit.functional.products import add_bias
from keras_sepvit.functional.tensors import is_half, tensor


def padded_conv(conv, x, padding):
    """`conv(x)` with `padding` zeros on every side of the map.

    Args:
        conv: A built `keras.layers.Conv2D`, channels last, with valid padding.
        x: Tensor of shape (batch, height, width, channels).
        padding: Number of rows and columns to pad with.

    Returns:
        Tensor of shape (batch, new height, new width, conv.filters).
    """
    if keras.config.backend() == "torch":
        return _torch_conv(x, conv.kernel, conv.bias, stride=conv.strides, padding=padding)
    if padding:
        x = ops.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return _conv(conv, x)


def same_conv(conv, x):
    """`conv(x)`, of an odd kernel, without strides and padded to the size of the map.

    Args:
        conv: A built `keras.layers.Conv2D`, channels last, with `padding="same"`.
        x: Tensor of shape (batch, height, width, channels).

    Returns:
        Tensor of shape (batch, height, width, conv.filters).
    """
    if keras.config.backend() == "torch":
        return _torch_conv(x, conv.kernel, conv.bias, padding=conv.kernel_size[0] // 2)
    return _conv(conv, x)


def _conv(conv, x):
    if conv.bias is None or not is_half(x):
        return conv(x)
    kernel = ops.cast(conv.kernel, x.dtype)
    y = ops.conv(x, kernel, conv.strides, conv.padding, data_format="channels_last")
    return add_bias(y, conv.bias)


def depthwise_conv3x3(x, kernel):
    """3 x 3 depthwise convolution, padded with zeros to the input's size.

    XLA's CPU backend runs a grouped convolution fifty times slower than the nine
    shifted products it stands for, which it fuses into one loop. In float32 at least, as
    it would sum the kernel's gradient in half precision otherwise.

    Args:
        x: Tensor of shape (batch, height, width, channels).
        kernel: Tensor of shape (3, 3, channels, 1).

    Returns:
        Tensor of the shape of `x`.
    """
    backend = keras.config.backend()
    if backend == "torch":
        return _torch_conv(x, kernel, None, padding=1, groups=x.shape[-1])
    if backend == "jax":
        _, height, width, _ = x.shape
        dtype = keras.backend.result_type(x.dtype, "float32")
        kernel = ops.cast(kernel, dtype)
        padded = ops.cast(ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), dtype)
        y = sum(
            padded[:, row : row + height, column : column + width] * kernel[row, column, :, 0]
            for row in range(3)
            for column in range(3)
        )
        return ops.cast(y, x.dtype)
    if is_half(x):  # of TensorFlow's kernels for CPUs not all sum in float32
        x, kernel, dtype = ops.cast(x, "float32"), ops.cast(kernel, "float32"), x.dtype
        y = ops.depthwise_conv(x, kernel, padding="same", data_format="channels_last")
        return ops.cast(y, dtype)
    return ops.depthwise_conv(x, kernel, padding="same", data_format="channels_last")


def _torch_conv(x, kernel, bias, stride=(1, 1), padding=0, groups=1):
    """Channels-last convolution without the two copies that Keras makes around it."""
    import torch

    from keras_sepvit.functional.torch_convolutions import conv_of_patches, takes_patches

    kernel, bias = tensor(kernel), None if bias is None else tensor(bias)
    if groups == 1 and takes_patches(x, kernel, bias, stride, padding):
        return conv_of_patches(x, kernel, bias, stride, padding)
    x = x.permute(0, 3, 1, 2)
    # A depthwise kernel is (height, width, channels, 1).
    kernel = kernel.permute((3, 2, 0, 1) if groups == 1 else (2, 3, 0, 1))
    dtype = x.dtype
    if dtype == torch.bfloat16 and x.device.type == "cpu" and x.shape[3] == 1:
        # oneDNN leaves parts of the kernel's gradient as the memory was.
        x, kernel = x.float(), kernel.float()
        bias = None if bias is None else bias.float()
    y = torch.nn.functional.conv2d(x, kernel, bias, stride, padding, groups=groups)
    return y.to(dtype).permute(0, 2, 3, 1)
