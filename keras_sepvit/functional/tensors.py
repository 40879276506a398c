"""The operations of `keras.ops` of the same names that blocks are made of.

On torch they are the tensor's own: Keras looks for symbolic tensors in the arguments of each call,
which for one small picture takes longer than all arithmetic.
"""

import keras
from keras import ops


def shape(x):
    """`ops.shape(x)`."""
    return x.shape if keras.config.backend() == "torch" else ops.shape(x)


def reshape(x, shape):
    """`ops.reshape(x, shape)`."""
    return x.reshape(shape) if keras.config.backend() == "torch" else ops.reshape(x, shape)


def transpose(x, axes):
    """`ops.transpose(x, axes)`; of symbolic tensors too, for windows in functional models."""
    if keras.config.backend() == "torch" and not isinstance(x, keras.KerasTensor):
        return x.permute(axes)
    return ops.transpose(x, axes)


def split(x, parts, axis):
    """`ops.split(x, parts, axis)`, into so many equal parts."""
    return x.chunk(parts, axis) if keras.config.backend() == "torch" else ops.split(x, parts, axis)


def zeros_like(x):
    """`ops.zeros_like(x)`."""
    return x.new_zeros(x.shape) if keras.config.backend() == "torch" else ops.zeros_like(x)


def concatenate(parts, axis):
    """`ops.concatenate(parts, axis)`."""
    if keras.config.backend() == "torch":
        import torch

        return torch.cat(parts, axis)
    return ops.concatenate(parts, axis)


def cast(x, dtype):
    """`ops.cast(x, dtype)` of a tensor or a variable to the dtype of another tensor."""
    if keras.config.backend() == "torch":
        x = tensor(x)
        return x if x.dtype == dtype else x.to(dtype)
    return ops.cast(x, dtype)


def tensor(x):
    """The tensor of a variable; of a layer with an adapter (`enable_lora`) a kernel is one."""
    return x.value if isinstance(x, keras.Variable) else x


def is_half(x):
    """Whether a tensor is of float16 or bfloat16."""
    return keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16")
