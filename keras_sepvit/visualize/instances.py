"""Pictures of objects with their masks, boxes and names."""

import functools

import numpy as np
from PIL import Image

from keras_sepvit.visualize.arguments import checked_image
from keras_sepvit.visualize.boxes import draw_objects
from keras_sepvit.visualize.maps import outline_of

_OPACITY = 0.5


def draw_instances(image, boxes, labels, masks, confidence=None, class_names=None, scale=1):
    """A picture with the masks of objects, their boxes, and the names of their classes.

    Masks have the colour of the class, with an outline in full; within, the picture is grey below
    the colour, so that it changes no hue. Where masks overlap, the colour is that of the surest,
    and all outlines are seen.

    Args:
        image: uint8 array (height, width, 3).
        boxes, labels, confidence, class_names, scale: As for `draw_boxes`.
        masks: bool (n, height, width) in the image's pixels; or a list of n, with None for an
            object without one.

    Returns:
        A Pillow image of mode RGB.

    Raises:
        ValueError: for another number of masks, masks of another size or type, and as `draw_boxes`.
    """
    image = checked_image(image)
    if masks is None:
        raise ValueError(
            "`masks` must be an array or a list. Received: None. `draw_boxes` draws boxes alone."
        )
    masks = [mask if mask is None else np.asarray(mask) for mask in masks]
    if len(masks) != len(labels):
        raise ValueError(
            "`masks` must have one for each of `labels`, which may be None. Received: "
            f"{len(masks)} for {len(labels)}."
        )
    for mask in masks:
        if mask is not None and (mask.dtype != bool or mask.shape != image.shape[:2]):
            raise ValueError(
                f"`masks` must be bool of the image's size, {image.shape[:2]}. Received: "
                f"{mask.dtype} {mask.shape}."
            )
    paint = functools.partial(_paint, masks=masks, scale=scale)
    return draw_objects(image, boxes, labels, confidence, class_names, scale, paint)


def _paint(picture, rows, colours, line, masks, scale):
    """Lays masks on a picture `scale` times as large as they are; the first row's on top."""
    painted, grey = (np.array(picture.convert(mode)) for mode in ("RGB", "L"))
    areas = []
    for row, colour in reversed([*zip(rows, colours, strict=True)]):
        if masks[row] is None or not masks[row].any():
            continue
        place, part = _cut(masks[row], scale)
        mixed = (1 - _OPACITY) * grey[place][part][:, np.newaxis] + _OPACITY * np.array(colour)
        painted[place][part] = np.rint(mixed)
        areas.append((place, part, colour))
    for place, part, colour in areas:
        wide = np.pad(part, line)  # what ends at the picture's edge has an outline there
        outline = outline_of(wide, line)[line:-line, line:-line] & part
        painted[place][outline] = colour
    return Image.fromarray(painted)


def _cut(mask, scale):
    """Where in a picture enlarged by `scale` a mask is, two slices, and the mask there."""
    spans = [np.flatnonzero(mask.any(axis=axis))[[0, -1]] + [0, 1] for axis in (1, 0)]
    part = mask[tuple(slice(*span) for span in spans)]
    place = tuple(slice(*scale * span) for span in spans)
    return place, part.repeat(scale, axis=0).repeat(scale, axis=1)
