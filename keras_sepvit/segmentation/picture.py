"""A page of photos under their class maps."""

import numpy as np

from keras_sepvit.files import replacing
from keras_sepvit.segmentation.losses import IGNORED
from keras_sepvit.training.picture import SHOWN, page_of
from keras_sepvit.visualize import draw_class_map

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
    page, page_map = page_of(images, 255), page_of(np.asarray(maps[:SHOWN]), IGNORED)
    scale = max(_LEAST_SIDE // max(images.shape[1:3]), 1)
    picture = draw_class_map(page, page_map, class_names, scale=scale)
    with replacing(path) as temporary:
        picture.save(temporary, "PNG")
