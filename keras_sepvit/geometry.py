"""Sizes of images, maps and windows: arithmetic without Keras, in (height, width) order."""

import itertools
import math
import operator

STRIDES = (4, 2, 2, 2)  # of the patch embeddings, by stage


def as_pair(window_size):
    """A window as (height, width): `7` and `(7, 7)` are the same window."""
    if isinstance(window_size, int):
        return (window_size, window_size)
    return tuple(window_size)


def window_pairs(window_sizes):
    """`window_sizes` by stage and block as nested tuples of (height, width) pairs."""
    try:
        return tuple(tuple(as_pair(window) for window in stage) for stage in window_sizes)
    except TypeError as error:
        raise ValueError(
            "`window_sizes` must have for each stage the window of each of its blocks, such as "
            f"((7,), (7, 14), (7, 14), (7,)). Received: window_sizes={window_sizes!r}."
        ) from error


def window_grid(map_size, window):
    """Rows and columns of the windows that cover a map, padded to whole windows."""
    return tuple(-(-side // length) for side, length in zip(map_size, window, strict=True))


def map_sizes(image_size, patch_embedding):
    """(height, width) of the maps of the stages; 0 where an image is smaller than a patch.

    Args:
        image_size: (height, width) of the images.
        patch_embedding: As for `SepViTBackbone`. Overlapping patches round up.
    """
    sizes = []
    for stride in STRIDES:
        if patch_embedding == "overlapping":
            image_size = tuple(-(-side // stride) for side in image_size)
        else:
            image_size = tuple(side // stride for side in image_size)
        sizes.append(image_size)
    return sizes


def interpolation(side, new_side):
    """Between which places of an axis those of a resized one lie.

    As in PyTorch with `align_corners=False`: places are centres of areas.

    Returns:
        NumPy arrays (new_side,): the place before, the place behind, and the latter's share.
    """
    import numpy as np  # whose import the rest does without

    place = np.maximum((np.arange(new_side) + 0.5) * (side / new_side) - 0.5, 0)
    low = np.minimum(place.astype("int32"), side - 1)
    return low, np.minimum(low + 1, side - 1), (place - low).astype("float32")


def scale_windows(window_sizes, image_size, height, width):
    """Windows that give another image size the same grid of windows.

    With them every weight of a model made for `image_size` fits a model for
    `height` x `width`, and no new weight is needed.

    Args:
        window_sizes: Windows by stage and block, for square images of
            `image_size` pixels.
        image_size: The side in pixels that `window_sizes` are meant for.
        height, width: The new size in pixels.

    Returns:
        `window_sizes` as nested tuples of (height, width) pairs.

    Raises:
        ValueError: if a window would not be a whole number of positions.
    """

    def scale(window):
        sides = []
        for side, pixels in zip(window, (height, width), strict=True):
            scaled, rest = divmod(side * pixels, image_size)
            if rest or not scaled:
                raise ValueError(
                    f"Windows of {window_sizes} at {image_size} x {image_size} pixels do not "
                    f"scale to {height} x {width}: a window side of {side} would become "
                    f"{side * pixels / image_size:g}."
                )
            sides.append(scaled)
        return tuple(sides)

    return tuple(tuple(map(scale, stage)) for stage in window_pairs(window_sizes))


def check_static_size(height, width):
    """Refuses an image size that the classification form would have to leave open."""
    if height is None or width is None:
        raise ValueError(
            "The classification form needs a fixed image size, which its windows divide. "
            f"Received: height={height}, width={width}. For images of any size use the dense form: "
            "`SepViTBackbone.from_variant(..., dense=True, image_shape=(None, None, 3))`."
        )


def check_windows_fit(image_size, window_sizes, patch_embedding):
    """Refuses an image size whose maps are no multiples of their windows.

    Args:
        image_size, patch_embedding: As for `map_sizes`.
        window_sizes: (height, width) pairs by stage and block.
    """
    check_static_size(*image_size)
    steps = [1, 1]
    for stride, windows in zip(
        itertools.accumulate(STRIDES, operator.mul), window_sizes, strict=True
    ):
        for window in windows:
            steps = [math.lcm(s, stride * length) for s, length in zip(steps, window, strict=True)]
    for map_size, windows in zip(map_sizes(image_size, patch_embedding), window_sizes, strict=True):
        for window in windows:
            if any(side == 0 or side % w for side, w in zip(map_size, window, strict=True)):
                raise ValueError(
                    f"Windows of {window[0]} x {window[1]} do not fit a map of {map_size[0]} x "
                    f"{map_size[1]}, which an image of {image_size[0]} x {image_size[1]} gives. "
                    f"With these `window_sizes`, heights must be multiples of {steps[0]} and "
                    f"widths of {steps[1]} pixels. Otherwise choose other windows, "
                    "`pad_windows=True`, or `dense=True`."
                )
