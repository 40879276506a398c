"""What pictures of all kinds share: checks of what is drawn, colours, fonts."""

import numpy as np
from PIL import ImageFont

from keras_sepvit.palette import palette

SIDE_OF_A_LINE = 500  # pixels of a picture's longer side for one of an outline's width
_COLOURS = 255


def colour_of(number):
    """The colour of a class as three ints; from the 256th class on, colours repeat."""
    return tuple(map(int, palette(_COLOURS)[number % _COLOURS]))


def font_of(file, size):
    """A font of so many pixels, from the file that `legible` gives."""
    return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)


def checked_image(image):
    """An image as an array; refuses what is none of 0..255."""
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != "uint8" or not array.size:
        got = f"{array.dtype} {array.shape}" if array.ndim else f"{type(image).__name__} {image!r}"
        raise ValueError(
            f"`image` must be a uint8 array of shape (height, width, 3). Received: {got}. Multiply "
            "floats of 0..1 by 255; `keras_sepvit.runtime.images.read_photo` reads files."
        )
    return array


def check_names(name, numbers, class_names, least=0):
    """Refuses numbers of classes below `least`, and those without a name."""
    kind = numbers.dtype.kind if numbers.size else "u"
    if numbers.ndim != 1 or kind not in "uif" or (numbers % 1 != 0).any():
        raise ValueError(
            f"`{name}` must be whole numbers of classes, in one row. "
            f"Received: {numbers.dtype} {numbers.shape}."
        )
    wrong = numbers[(numbers < least) | (numbers >= len(class_names))]
    if wrong.size:
        raise ValueError(
            f"`{name}` has the class {wrong[0]}, but there are {len(class_names)} `class_names`, "
            f"for the classes 0 to {len(class_names) - 1}. Give a name for each class."
        )
