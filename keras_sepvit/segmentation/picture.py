"""A page of photos under their class maps."""

import numpy as np

from keras_sepvit.files import replacing
from keras_sepvit.segmentation.losses import IGNORED
from keras_sepvit.training.picture import SHOWN
from keras_sepvit.visualize import draw_class_map

_COLUMNS = 4
_GAP = 4  # pixels between photos
_LEAST_SIDE = 256  # of a photo, if enlarging it by a whole number does not exceed that


def draw_maps(path, images, maps, class_names=None):
    """Draws the first 16 photos of a batch with their class maps over them, and a legend.

    Args:
        path: The PNG file to write.
        images: Array (batch, height, width, 3) of 0..255.
        maps: Ints (batch, height, width): classes from 0 on, and 255, which is not coloured.
        class_names: Names of the classes; numbers without.
    """
    images = np.clip(np.asarray(images[:SHOWN]), 0, 255).astype("uint8")
    height, width = images.shape[1:3]
    rows = -(-len(images) // _COLUMNS)
    size = rows * (height + _GAP) - _GAP, min(_COLUMNS, len(images)) * (width + _GAP) - _GAP
    page, page_map = np.full((*size, 3), 255, "uint8"), np.full(size, IGNORED, "uint8")
    for number, (image, class_map) in enumerate(zip(images, maps, strict=False)):
        row, column = divmod(number, _COLUMNS)
        top, left = row * (height + _GAP), column * (width + _GAP)
        place = slice(top, top + height), slice(left, left + width)
        page[place], page_map[place] = image, class_map
    scale = max(_LEAST_SIDE // max(height, width), 1)
    picture = draw_class_map(page, page_map, class_names, scale=scale)
    with replacing(path) as temporary:
        picture.save(temporary, "PNG")
