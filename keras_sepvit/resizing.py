"""Maps at another size, as PyTorch resizes them, on each backend."""

import keras
from keras import ops

from keras_sepvit.geometry import interpolation


def resize_bilinear(x, size):
    """A map between whose positions is interpolated, at another size.

    As in PyTorch with `align_corners=False`: pixels are areas, and nothing is smoothed where
    the map gets smaller. Computed in float32 at least.

    Args:
        x: Tensor of shape (batch, height, width, channels).
        size: The new (height, width), ints or scalar tensors.

    Returns:
        Tensor of shape (batch, *size, channels), of the dtype of `x`.
    """
    if all(isinstance(side, int) for side in size) and tuple(size) == tuple(x.shape[1:3]):
        return x
    wide = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
    backend = keras.config.backend()
    if backend == "torch":
        return ops.cast(_torch_resize(wide, size, "bilinear"), x.dtype)
    if backend == "tensorflow":
        import tensorflow as tf

        return ops.cast(tf.image.resize(wide, ops.stack(size), "bilinear"), x.dtype)
    for axis, new_side in enumerate(size, start=1):
        # Not as products with matrices, as JAX does it: they would be the most of a head's work.
        low, high, share = interpolation(x.shape[axis], new_side)
        share = share.reshape([-1 if axis == 1 else 1, -1 if axis == 2 else 1, 1])
        start = ops.take(wide, low, axis=axis)
        wide = start + share * (ops.take(wide, high, axis=axis) - start)
    return ops.cast(wide, x.dtype)


def resize_nearest(x, size):
    """A map at another size, with the value of place `floor(i * old / new)` at each place i.

    So PyTorch's "nearest" does it; Keras's takes the place below a new place's centre.

    Args:
        x: Tensor of shape (batch, height, width, channels).
        size: The new (height, width), ints or scalar tensors.

    Returns:
        Tensor of shape (batch, *size, channels).
    """
    if keras.config.backend() == "torch":
        return _torch_resize(x, size, "nearest")
    _, *old_size, channels = ops.shape(x)
    sides = [*zip(old_size, size, strict=True)]
    if all(isinstance(n, int) and n in (2 * o - 1, 2 * o) for o, n in sides):
        # As the levels of a pyramid are: doubled and cropped. Mobile delegates know no gathers.
        height, width = old_size
        x = ops.reshape(x, (-1, 1, width * channels))
        x = ops.reshape(ops.concatenate([x, x], axis=1), (-1, 1, channels))
        x = ops.reshape(ops.concatenate([x, x], axis=1), (-1, 2 * height, 2 * width, channels))
        return x[:, : size[0], : size[1]]
    for axis, (old_side, new_side) in enumerate(sides, start=1):
        x = ops.take(x, ops.arange(new_side) * old_side // new_side, axis=axis)
    return x


def _torch_resize(x, size, mode):
    from torch.nn.functional import interpolate

    return interpolate(x.permute(0, 3, 1, 2), tuple(size), mode=mode).permute(0, 2, 3, 1)
