"""A page of photos with their boxes and masks."""

import numpy as np
from PIL import Image

from keras_sepvit.files import replacing
from keras_sepvit.runtime.masks import paste
from keras_sepvit.training.picture import SHOWN, page_of
from keras_sepvit.visualize import draw_boxes, draw_instances

# Longer sides of a photo on the page: small ones are enlarged by whole numbers, large ones shrunk.
_LEAST_SIDE, _LARGEST_SIDE = 256, 640


def draw_labelled(path, images, targets, class_names=None):
    """Draws the first 16 photos of a batch with the boxes of their objects.

    Args:
        path: The PNG file to write.
        images: Array (batch, height, width, 3) of 0..255.
        targets: Dict of `"boxes"` (batch, most, 4), (left, top, right, bottom) in pixels of the
            images, and `"labels"`, ints (batch, most), padded with -1; perhaps `"masks"`, uint8
            (batch, most, side, side), shares of 255 of the boxes, of which those that are not all
            0 are drawn, too.
        class_names: Names of the classes; numbers without.
    """
    images = np.clip(np.asarray(images[:SHOWN]), 0, 255).astype("uint8")
    height, width = images.shape[1:3]
    share = min(_LARGEST_SIDE / max(height, width), 1)
    scale = max(_LEAST_SIDE // max(height, width), 1)
    size = max(round(width * share), 1), max(round(height * share), 1)
    factors = np.tile(np.divide(size, (width, height)), 2)
    keys = [key for key in ("boxes", "labels", "masks") if key in targets]
    pictures = []
    for image, boxes, *others in zip(
        images, *(np.asarray(targets[key]) for key in keys), strict=False
    ):
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        pictures.append(
            _picture(image, boxes * factors, *others, class_names=class_names, scale=scale)
        )
    page = Image.fromarray(page_of([np.asarray(picture) for picture in pictures], 255))
    with replacing(path) as temporary:
        page.save(temporary, "PNG")


def _picture(image, boxes, labels, masks=None, **options):
    if masks is None:
        return draw_boxes(image, boxes, labels, **options)
    shown = [
        paste(mask / 255, box, image.shape[:2]) if mask.any() else None
        for mask, box in zip(masks, boxes, strict=True)
    ]
    return draw_instances(image, boxes, labels, shown, **options)
