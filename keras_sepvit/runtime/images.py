"""Reads image files as the evaluation on ImageNet does."""

import numpy as np

# The share of an image's shorter side that the centre crop keeps, as in the
# usual evaluation on ImageNet (256 pixels to 224).
CROP = 0.875


def read_image(path, height, width, channels=3):
    """Reads an image file, resized (bicubic) and cropped at the centre.

    The crop has the proportions of the result and keeps 87.5 % of the image's
    shorter side. The orientation that a camera noted is applied.

    Args:
        path: An image file of a kind that Pillow reads.
        height, width: Size of the result in pixels.
        channels: 3 for RGB, 1 for grey.

    Returns:
        uint8 array of shape (height, width, channels), 0..255.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as an image.
    """
    from PIL import Image, ImageOps  # costs more than all else here

    image = ImageOps.fit(
        open_image(path, channels),
        (width, height),
        method=Image.Resampling.BICUBIC,
        bleed=(1 - CROP) / 2,
    )
    return np.asarray(image).reshape(height, width, channels)


def open_image(path, channels=3):
    """Reads an image file, upright, at its own size.

    Args:
        path: An image file of a kind that Pillow reads.
        channels: 3 for RGB, 1 for grey.

    Returns:
        A Pillow image of mode RGB or L.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as an image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file).convert("RGB" if channels == 3 else "L")
    except FileNotFoundError:
        raise FileNotFoundError(f"File not found: {path}.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
