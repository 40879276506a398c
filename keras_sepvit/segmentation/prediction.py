"""Class maps of photos."""

import os
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_sepvit.runtime.canvas import fit_into, fit_sides
from keras_sepvit.runtime.images import open_image
from keras_sepvit.scores import preprocess
from keras_sepvit.validation import window_pair


def segment(
    model: keras.Model,
    photos: Iterable[str | os.PathLike[str] | Any],
    sides: tuple[int, int] = (512, 2048),
) -> list[np.ndarray]:
    """The classes of photos' pixels.

    A model of one image size gets a photo resized into it, with ImageNet's mean colour beside or
    below it. One of any size gets the photo alone, as large as `sides` allow: compiled anew for
    each size, on TensorFlow and JAX.

    Args:
        model: From images to logits of their size, such as a `SemanticFPN` or `UPerNet`. Without
            a Normalization or Rescaling layer it gets images normalised with ImageNet's mean and
            deviation.
        photos: Image files of any kind that Pillow reads, or uint8 arrays (height, width, 3).
        sides: The most that a photo's shorter and longer side may become, for a model of any
            size. (512, 2048) are those of the evaluation on ADE20K.

    Returns:
        For each photo its class map, uint8 (height, width), of its own size.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for what is no photo, naming it; another model; sides that are none.
    """
    if isinstance(photos, (str, os.PathLike)):
        raise ValueError(f"`photos` must be a list. Received: {photos!r}. Write [{photos!r}].")
    if len(model.output_shape) != 4:
        raise ValueError(
            "`model` must give a map of logits, (batch, height, width, classes). "
            f"`{model.name}` gives {model.output_shape}."
        )
    shorter, longer = window_pair("sides", sides)
    if shorter > longer:
        raise ValueError(f"`sides` are the shorter and the longer one. Received: sides={sides}.")
    return [_segment(model, photo, (shorter, longer)) for photo in photos]


def _segment(model, photo, sides):
    if isinstance(photo, (str, os.PathLike)):
        photo = np.asarray(open_image(photo))
    if (
        getattr(photo, "dtype", None) != "uint8"
        or photo.ndim != 3
        or photo.shape[-1] != 3
        or not photo.size
    ):
        shape = f"{photo.dtype} {photo.shape}" if isinstance(photo, np.ndarray) else type(photo)
        raise ValueError(
            "`photos` must be paths of image files, or uint8 arrays of shape (height, width, 3). "
            f"Received: {shape}."
        )
    canvas = model.input_shape[1:3]
    size = photo.shape[:2]
    placement = fit_sides(size, *sides) if None in canvas else fit_into(size, canvas)
    images = preprocess(model, placement.place(photo)[np.newaxis])
    logits = model.predict(images, verbose=0)
    return placement.class_map(logits[0])
