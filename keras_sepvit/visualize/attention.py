"""Pictures of the attention among windows."""

import numpy as np
from PIL import Image, ImageDraw

from keras_sepvit.validation import positive_int, window_pair
from keras_sepvit.visualize.arguments import SIDE_OF_A_LINE, checked_image


def draw_window_attention(image, attention, window, window_size, scale=1):
    """A picture on which each window is as bright as another one attends to it (PSA).

    Args:
        image: uint8 array (height, width, 3).
        attention: Weights (heads, windows, windows), whose mean over heads is drawn: of a
            picture, what `SepViTBlock.window_attention` gives.
        window: (row, column), from 0, of the window that attends. It gets a frame.
        window_size: (height, width) of a window in pixels of the image: positions of the map
            times its stride. The last windows may reach beyond the image.
        scale: Whole number of pixels of the picture for one of the image.

    Returns:
        A Pillow image of mode RGB.

    Raises:
        ValueError: for arrays of other shapes or types, windows that are not those of the image,
            weights that are negative or not finite, and a `scale` below 1.
    """
    image, scale = checked_image(image), positive_int("scale", scale)
    height, width = window_pair("window_size", window_size)
    rows, columns = -(-image.shape[0] // height), -(-image.shape[1] // width)
    weights = np.asarray(attention, "float64")
    if weights.ndim != 3 or weights.shape[1:] != (rows * columns,) * 2 or not np.all(weights >= 0):
        raise ValueError(
            "`attention` must be weights from 0 on, (heads, windows, windows), with the "
            f"{rows} x {columns} windows of {height} x {width} pixels of the image. "
            f"Received: {weights.dtype} {weights.shape}."
        )
    row, column = window
    if not (0 <= row < rows and 0 <= column < columns):
        raise ValueError(f"`window` must be one of {rows} x {columns}. Received: window={window}.")
    light = weights.mean(axis=0)[row * columns + column].reshape(rows, columns)
    light = light / max(light.max(), np.finfo("float64").tiny)
    light = light.repeat(height, axis=0).repeat(width, axis=1)[: image.shape[0], : image.shape[1]]
    picture = np.stack([image.mean(axis=-1) * (0.15 + 0.85 * light)] * 3, axis=-1)
    picture[..., 0] += 90 * light  # warm where it is bright, on black photos too
    picture = Image.fromarray(np.clip(np.rint(picture), 0, 255).astype("uint8"))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.NEAREST)
    top, left, bottom, right = (
        row * height,
        column * width,
        (row + 1) * height,
        (column + 1) * width,
    )
    end = min(scale * right, picture.width) - 1, min(scale * bottom, picture.height) - 1
    line = max(round(max(picture.size) / SIDE_OF_A_LINE), 1)
    frame = (scale * left, scale * top, *end)
    ImageDraw.Draw(picture).rectangle(frame, outline=(0, 255, 255), width=line)
    return picture
