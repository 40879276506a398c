"""Pictures of class maps."""

import numpy as np
from PIL import Image

from keras_sepvit.files import replacing
from keras_sepvit.palette import palette
from keras_sepvit.validation import check_range, positive_int
from keras_sepvit.visualize.arguments import SIDE_OF_A_LINE, check_names, checked_image
from keras_sepvit.visualize.pages import coloured_classes, with_legend

_IGNORED = 255  # as in `keras_sepvit.segmentation.losses`


def draw_class_map(image, class_map, class_names=None, opacity=0.6, scale=1, legend=True):
    """A picture under the colours of a class map, with the names of the classes in it.

    Areas have an outline in the full colour, that of the legend. Within, the picture is grey
    below the colour, so that it changes no hue. Pixels of 255, which have no class, stay as they
    are, and those of a class named "background".

    Args:
        image: uint8 array (height, width, 3).
        class_map: Ints (height, width): classes from 0 on, at most 254, and 255.
        class_names: Names of the classes by number. Numbers take the place of those with
            characters that no font of the machine has, and of all without names.
        opacity: Of the colours within the outlines, 0..1.
        scale: Whole number of pixels of the picture for one of the image.
        legend: Whether the names stand below or beside the picture.

    Returns:
        A Pillow image of mode RGB.

    Raises:
        ValueError: for an image or a class map of another size or type, a class without a name,
            an `opacity` outside of 0..1, and a `scale` below 1.
    """
    image, class_map = checked_image(image), _checked_class_map(class_map)
    check_range("opacity", opacity, 0, 1)
    scale = positive_int("scale", scale)
    if image.shape != (*class_map.shape, 3):
        raise ValueError(
            "`image` must have the shape (height, width, 3) with the size of `class_map`. "
            f"Received: {image.shape} and {class_map.shape}."
        )
    counts = np.bincount(class_map.ravel(), minlength=_IGNORED + 1)
    found = np.flatnonzero(counts[:_IGNORED])
    if class_names is None:
        class_names = [f"class {number}" for number in range(found.max(initial=0) + 1)]
    check_names("class_map", found, class_names)
    shown = coloured_classes(found, class_names)
    # Enlarged first: outlines are as thin in pictures of any scale.
    image, class_map = (x.repeat(scale, 0).repeat(scale, 1) for x in (image, class_map))
    coloured = np.isin(np.arange(_IGNORED + 1), shown)[class_map][..., None]
    paint = np.concatenate([palette(_IGNORED), np.zeros((1, 3), "uint8")])[class_map]
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    outline = outline_of(class_map, -(-max(class_map.shape) // SIDE_OF_A_LINE))[..., None]
    mixed = np.where(outline, paint, np.rint((1 - opacity) * grey + opacity * paint))
    picture = Image.fromarray(np.where(coloured, mixed, image).astype("uint8"))
    return with_legend(picture, shown, class_names) if legend else picture


def outline_of(class_map, width):
    """Where pixels of another class are at most `width` above, below, left or right."""
    outline = np.zeros(class_map.shape, bool)
    for classes, near in ((class_map, outline), (class_map.T, outline.T)):
        for distance in range(1, width + 1):
            differs = classes[distance:] != classes[:-distance]
            near[distance:] |= differs
            near[: len(differs)] |= differs
    return outline


def save_class_map(path, class_map):
    """Writes a class map as a PNG with a palette: its pixels are the classes.

    The colours are those of `palette`; 255 is black.

    Args:
        path: The file, whose name ends in .png.
        class_map: Ints (height, width): classes from 0 on, at most 254, and 255.

    Raises:
        ValueError: for another suffix, or an array that is no class map.
    """
    if not str(path).lower().endswith(".png"):
        raise ValueError(f"Class maps are written as .png. Received: path={str(path)!r}.")
    image = Image.fromarray(_checked_class_map(class_map))
    image.putpalette(palette(_IGNORED).tobytes() + bytes(3))
    with replacing(path) as temporary:
        image.save(temporary)


def _checked_class_map(class_map):
    """A class map as uint8; refuses other arrays."""
    class_map = np.asarray(class_map)
    if class_map.ndim != 2 or class_map.dtype.kind not in "ui" or not class_map.size:
        raise ValueError(
            "`class_map` must be ints of shape (height, width). "
            f"Received: {class_map.dtype} {class_map.shape}."
        )
    if class_map.min() < 0 or class_map.max() > _IGNORED:
        raise ValueError(
            "`class_map` must have classes from 0 to 254, and 255 for none. Received values of "
            f"{class_map.min()} to {class_map.max()}."
        )
    return class_map.astype("uint8")
