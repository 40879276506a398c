"""Convolutions on torch as products of patches with the kernel as it lies in memory.

A convolution of oneDNN brings the kernel into its own order on every call, and its gradient back:
three passes over it, which takes longer than to gather the patches where the output has few
positions.
"""

import torch

from keras_sepvit.functional.eager import is_eager_on_cpu


def takes_patches(x, kernel, bias, stride, padding):
    """Whether `conv_of_patches` is the faster way: in float32 on CPUs, run operator by operator.

    Graphs that torch captures keep the convolution: they are for batches of any size.
    """
    if x.dtype != torch.float32 or bias is None or not is_eager_on_cpu(x):
        return False
    if torch.is_autocast_enabled("cpu"):  # in the forward pass alone
        return False
    height, width = _output_size(x.shape, kernel.shape, stride, padding)
    # Up to so many positions for each channel patches are faster: in training up to three times, in
    # inference from 1.1 times to 8 times, at one position.
    positions = 10 if torch.is_grad_enabled() else 2
    return len(x) * height * width <= positions * kernel.shape[3]


def conv_of_patches(x, kernel, bias, stride, padding):
    """The convolution of a map of channels last.

    Args:
        x: Tensor of shape (batch, height, width, channels).
        kernel: Tensor of shape (kernel height, kernel width, channels, filters).
        bias: Tensor of shape (filters,).
        stride: Pair of numbers.
        padding: Zeros on each side of the map.

    Returns:
        Tensor of shape (batch, new height, new width, filters).
    """
    return _ConvOfPatches.apply(x, kernel, bias, stride, padding)


class _ConvOfPatches(torch.autograd.Function):
    """Gathers the patches a second time in the backward pass: they take no memory until then."""

    @staticmethod
    def forward(x, kernel, bias, stride, padding):
        rows = _patches(x, kernel.shape, stride, padding)
        y = torch.addmm(bias, rows, kernel.reshape(-1, kernel.shape[3]))
        return y.reshape(len(x), *_output_size(x.shape, kernel.shape, stride, padding), -1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, kernel, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, kernel)

    @staticmethod
    def backward(ctx, gradient):
        x, kernel = ctx.saved_tensors
        of_rows = gradient.reshape(-1, kernel.shape[3])
        of_x = of_kernel = of_bias = None
        if ctx.needs_input_grad[0]:
            of_patches = of_rows @ kernel.reshape(-1, kernel.shape[3]).T
            of_x = _unpatch(of_patches, x, kernel.shape, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            rows = _patches(x, kernel.shape, ctx.stride, ctx.padding)
            of_kernel = (rows.T @ of_rows).reshape(kernel.shape)
        if ctx.needs_input_grad[2]:
            of_bias = of_rows.sum(0)
        return of_x, of_kernel, of_bias, None, None


def _output_size(shape, kernel_shape, stride, padding):
    return tuple(
        (side + 2 * padding - extent) // step + 1
        for side, extent, step in zip(shape[1:3], kernel_shape, stride, strict=False)
    )


def _patches(x, kernel_shape, stride, padding):
    """Matrix of (batch * new height * new width, kernel height * kernel width * channels)."""
    height, width, channels, _ = kernel_shape
    if padding:
        x = torch.nn.functional.pad(x, (0, 0, padding, padding, padding, padding))
    patches = x.unfold(1, height, stride[0]).unfold(2, width, stride[1])
    # (batch, rows, columns, channels, height, width)
    return patches.permute(0, 1, 2, 4, 5, 3).reshape(-1, height * width * channels)


def _unpatch(patches, x, kernel_shape, stride, padding):
    """Adds up what patches have for each value of the map `x`."""
    batch, height, width, channels = x.shape
    rows, columns = _output_size(x.shape, kernel_shape, stride, padding)
    patches = patches.reshape(batch, rows, columns, *kernel_shape[:3])
    sums = x.new_zeros(batch, height + 2 * padding, width + 2 * padding, channels)
    for row in range(kernel_shape[0]):
        for column in range(kernel_shape[1]):
            places = sums[:, row :: stride[0], column :: stride[1]][:, :rows, :columns]
            places += patches[:, :, :, row, column]
    return sums[:, padding : padding + height, padding : padding + width]
