"""Reads image files as the evaluation on ImageNet does."""

import numpy as np

from keras_sepvit.record import CROP, INTERPOLATION, check_crop, check_interpolation


def read_image(path, height, width, channels=3, crop=CROP, interpolation=INTERPOLATION):
    """Reads an image file, resized and cropped at the centre.

    The crop has the proportions of the result. The orientation that a camera noted is
    applied.

    Args:
        path: An image file of a kind that Pillow reads.
        height, width: Size of the result in pixels.
        channels: 3 for RGB, 1 for grey.
        crop: Share of the image's shorter side that the crop keeps, above 0 and at
            most 1. 0.875 is that of the usual evaluation on ImageNet (256 pixels to 224).
        interpolation: `"bicubic"` or `"bilinear"`.

    Returns:
        uint8 array of shape (height, width, channels), 0..255.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as an image, or for an argument out of range.
    """
    from PIL import Image, ImageOps  # costs more than all else here

    image = ImageOps.fit(
        open_image(path, channels),
        (width, height),
        method=Image.Resampling[check_interpolation(interpolation).upper()],
        bleed=(1 - check_crop(crop)) / 2,
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
