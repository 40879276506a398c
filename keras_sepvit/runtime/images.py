"""Reads image files, and crops them as the evaluation on ImageNet does.

Whatever the format, here and in training: the first frame, upright by its EXIF or XMP orientation;
transparency dropped, colours as stored below it; the higher eight of 16 bits; colours of a palette
looked up; CMYK converted. Pixels without a known range (float, signed or 32-bit integers) are
refused.
"""

import contextlib
import os

import numpy as np

from keras_sepvit.record import CROP, INTERPOLATION, check_crop, check_interpolation


def read_image(path, height, width, channels=3, crop=CROP, interpolation=INTERPOLATION):
    """Reads an image file, resized and cropped at the centre.

    The crop has the proportions of the result.

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


def read_photo(photo):
    """A photo's pixels, upright, at its own size.

    Args:
        photo: An image file of a kind that Pillow reads; or a uint8 array (height, width, 3), of
            grey (height, width) or (height, width, 1), or with transparency, which is dropped,
            (height, width, 4).

    Returns:
        uint8 array of shape (height, width, 3).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as an image, or is another array.
    """
    if isinstance(photo, (str, os.PathLike)):
        return np.asarray(open_image(photo))
    array = isinstance(photo, np.ndarray)
    grey = array and (photo.ndim == 2 or photo.shape[2:] == (1,))
    if not array or photo.dtype != "uint8" or not (grey or photo.shape[2:] in ((3,), (4,))):
        found = f"{photo.dtype} {photo.shape}" if array else type(photo)
        raise ValueError(
            "A photo must be the path of an image file, or a uint8 array of shape (height, width, "
            f"3), as `np.asarray(image.convert('RGB'))` of a Pillow image. Received: {found}."
        )
    if not photo.size:
        raise ValueError(f"A photo must have pixels. Received an array of shape {photo.shape}.")
    return np.repeat(photo.reshape(*photo.shape[:2], 1), 3, axis=-1) if grey else photo[..., :3]


def check_photos(photos):
    """Refuses one photo where several are expected: it would be taken for its rows or letters."""
    if isinstance(photos, (str, os.PathLike)):
        raise ValueError(f"`photos` must be a list. Received: {photos!r}. Write [{photos!r}].")
    shape = getattr(photos, "shape", (0,) * 4)
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)):
        raise ValueError(
            f"`photos` must be a list. Received one array of shape {tuple(shape)}. Write [photo]."
        )


def open_image(path, channels=3):
    """Reads an image file, upright, at its own size.

    Args:
        path: An image file of a kind that Pillow reads; or a binary file, open.
        channels: 3 for RGB, 1 for grey.

    Returns:
        A Pillow image of mode RGB or L.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as an image, or its pixels have no known range.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            file.load()  # a TIFF is upright now, a PNG has its metadata
            image = _eight_bits(file).convert("RGB" if channels == 3 else "L")
            number = orientation(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"File not found: {path}.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    return upright(image, number)


# Numbers of `PIL.Image.Transpose` for the orientations 2 to 8: mirrored, by 180 degrees, upside
# down, transposed, by 270, transverse, by 90.
_UPRIGHT = (0, 3, 1, 5, 4, 6, 2)


def upright(image, number):
    """A Pillow image that was stored in the orientation `number`, 1 to 8, the right way up."""
    return image if number == 1 else image.transpose(_UPRIGHT[number - 2])


def orientation(file):
    """The EXIF or XMP orientation of an open Pillow image, 1 to 8; 1 where none can be read."""
    with contextlib.suppress(Exception):  # damaged metadata raise all kinds
        number = file.getexif().get(0x0112, 1)
        return number if number in range(1, 9) else 1
    return 1


def _eight_bits(image):
    """The image with 8 bits a channel, and no transparency."""
    from PIL import Image

    image.info.pop("transparency", None)  # of one colour or a palette
    # Pillow opens 16-bit PGM, and of old 16-bit PNG, as 32-bit integers.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        bits = getattr(image, "tag_v2", {}).get(258, (16,))[0]  # of a TIFF also 12
        return Image.fromarray((np.asarray(image) >> (bits - 8)).astype("uint8"))
    if image.mode in ("I", "F"):
        kind = "float" if image.mode == "F" else "signed or 32-bit"
        raise ValueError(
            f"its {kind} pixels have no known range. Save it with 8 or 16 bits, unsigned."
        )
    return image
