"""Windows: padding, partition and merge, as pure functions on tensors.

All reshapes and transposes are of rank 4 at most, which is what mobile GPU
delegates take. Sizes may be static or dynamic.
"""

from keras import ops

from keras_sepvit import functional


def pad_to_windows(x, window_size):
    """Pads a map with zeros, right and bottom, to a multiple of the window.

    Args:
        x: Tensor of shape (batch, height, width, channels).
        window_size: (height, width) of a window.

    Returns:
        Tensor of shape (batch, padded height, padded width, channels): `x`
        itself where its static size needs no padding.
    """
    _, height, width, _ = functional.shape(x)
    bottom, right = (-height) % window_size[0], (-width) % window_size[1]
    if isinstance(bottom, int) and isinstance(right, int) and bottom == right == 0:
        return x
    return ops.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)))


def window_partition(x, window_size):
    """Cuts a map into non-overlapping windows, in row-major order.

    Args:
        x: Tensor of shape (batch, height, width, channels), height and width
            multiples of the window's.
        window_size: (height, width) of a window.

    Returns:
        Tensor of shape (batch, windows, window height * window width, channels).
    """
    _, height, width, channels = functional.shape(x)
    window_height, window_width = window_size
    rows, columns = height // window_height, width // window_width
    if _is_one(columns):  # a window is then a contiguous run of rows
        return functional.reshape(x, (-1, rows, window_height * window_width, channels))
    x = functional.reshape(x, (-1, window_height, columns, window_width * channels))
    x = functional.transpose(x, (0, 2, 1, 3))
    return functional.reshape(x, (-1, rows * columns, window_height * window_width, channels))


def window_merge(windows, window_size, height, width):
    """The inverse of `window_partition`.

    Args:
        windows: Tensor of shape (batch, windows, window height * window width,
            channels).
        window_size: (height, width) of a window.
        height, width: Size of the map, multiples of the window's.

    Returns:
        Tensor of shape (batch, height, width, channels).
    """
    channels = windows.shape[-1]
    window_height, window_width = window_size
    columns = width // window_width
    if not _is_one(columns):
        windows = functional.reshape(windows, (-1, columns, window_height, window_width * channels))
        windows = functional.transpose(windows, (0, 2, 1, 3))
    return functional.reshape(windows, (-1, height, width, channels))


def _is_one(count):
    return isinstance(count, int) and count == 1
