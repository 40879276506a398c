"""Class maps of photos, each at its own size."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_sepvit.configs import MEAN_COLOUR
from keras_sepvit.runtime.canvas import fit_into, fit_sides
from keras_sepvit.runtime.images import check_photos, read_photo
from keras_sepvit.scores import preprocess, probabilities
from keras_sepvit.validation import (
    check_sides,
    flag,
    positive_int,
    positive_number,
    refuse_path,
    window_pair,
)

# Of the evaluation on ADE20K: what a photo's shorter and longer side become at most.
_SIDES = (512, 2048)

# Sides of images for a model of any size: each shape is compiled anew by XLA.
_MULTIPLE = 32


def segment(
    model: keras.Model,
    photos: Iterable[str | os.PathLike[str] | Any],
    sides: tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
) -> list[np.ndarray]:
    """The classes of photos' pixels.

    A model of one image size gets a photo resized into it, with ImageNet's mean colour beside or
    below it. One of any size gets the photo as large as `sides` allow, with that colour up to the
    next multiples of 32: compiled anew for each size, on TensorFlow and JAX.

    Args:
        model: From images to logits of their size, such as a `SemanticFPN` or `UPerNet`. Without
            a Normalization or Rescaling layer it gets images normalised with ImageNet's mean and
            deviation.
        photos: Image files of any kind that Pillow reads, or uint8 arrays (height, width, 3); of
            grey (height, width) or (height, width, 1); with transparency, which is dropped,
            (height, width, 4).
        sides: The most that a photo's shorter and longer side may become, for a model of any
            size, and with a `window`. By default (512, 2048), those of the evaluation on ADE20K.
        scales: Factors on the photo's size in the model. The softmaxes of several are averaged
            at the photo's own size. (0.5, 0.75, 1, 1.25, 1.5, 1.75) with `flip` is the
            multi-scale evaluation on ADE20K.
        flip: Whether each scale counts a second time, flipped horizontally.
        window: Height and width of windows that photos are cut into, or one number for both; the
            logits of pixels that several cover are averaged. At most the model's image size.
        stride: From one window to the next, at most `window`; by default two thirds of it, as
            (512, 341) in mmsegmentation.

    Returns:
        For each photo its class map, uint8 (height, width), of its own size.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for what is no photo, naming it; another model; an argument out of its range.
    """
    check_photos(photos)
    segmenter = PhotoSegmenter(model, sides, scales, flip, window, stride)
    return [class_map for _, class_map in segmenter.class_maps(enumerate(photos))]


class PhotoSegmenter:
    """A model, and the way in which photos are put to it.

    Args:
        model, sides, scales, flip, window, stride: As for `segment`.
        batch_size: Images predicted at a time.

    Attributes:
        classes: Number of classes.
        shapes: The (height, width) of images that the model has had, a set.

    Raises:
        ValueError: for another model, or an argument out of its range.
    """

    def __init__(
        self, model, sides=None, scales=(1.0,), flip=False, window=None, stride=None, batch_size=1
    ):
        refuse_path("model", model)
        shape = getattr(model, "output_shape", None)
        if not isinstance(shape, tuple) or len(shape) != 4:
            raise ValueError(
                "`model` must give a map of logits, (batch, height, width, classes). "
                f"`{getattr(model, 'name', type(model).__name__)}` gives {shape}."
            )
        self.classes = shape[-1]
        self.shapes = set()
        self._model = model
        self._batch_size = positive_int("batch_size", batch_size)
        self._canvas = None if None in model.input_shape[1:3] else model.input_shape[1:3]
        self._sides = check_sides(_SIDES if sides is None else sides)
        self._scales = _checked_scales(scales)
        self._flips = (False, True) if flag("flip", flip) else (False,)
        self._window, self._stride = _checked_window(window, stride)
        if self._canvas is not None:
            self._check_fits(sides, scales, window)

    def _check_fits(self, sides, scales, window):
        """Refuses what a model of one image size cannot do."""
        takes = f"The model takes images of {self._canvas[0]} x {self._canvas[1]}."
        if window is None and sides is not None:
            raise ValueError(
                "`sides` is for models of any image size, or goes with a `window`. "
                f"{takes} Received: sides={sides}."
            )
        if window is None and max(self._scales) > 1:
            raise ValueError(
                "`scales` above 1 are for models of any image size, or go with a `window`. "
                f"{takes} Received: scales={scales}."
            )
        if window is not None and np.greater(self._window, self._canvas).any():
            raise ValueError(
                f"`window` must be at most the model's image size. {takes} "
                f"Received: window={window}."
            )

    def class_maps(self, photos):
        """The class maps of photos, predicted in batches of images of one shape.

        Args:
            photos: Iterable of pairs of a key and a photo, as `segment` takes it.

        Returns:
            Generator of pairs of a key and the photo's class map, in the order in which they are
            ready: that of the photos for a `batch_size` of 1.
        """
        waiting = {}  # batches by the shape of their images
        for key, photo in photos:
            photo = read_photo(photo)
            views = len(self._scales) * len(self._flips)
            answer = _Answer(key, photo.shape[:2], self.classes, views)
            for view in self._views(photo):
                for part in view.parts:
                    shape = self._canvas or tuple(-(-n // _MULTIPLE) * _MULTIPLE for n in part[2:])
                    batch = waiting.setdefault(shape, [])
                    batch.append((answer, view, part))
                    if len(batch) == self._batch_size:
                        yield from self._predict(shape, waiting.pop(shape))
        for shape, batch in waiting.items():
            yield from self._predict(shape, batch)

    def _views(self, photo):
        for scale, flipped in itertools.product(self._scales, self._flips):
            if self._canvas is not None and self._window is None:
                placement = fit_into(photo.shape[:2], [scale * side for side in self._canvas])
            else:
                sides = (max(int(scale * side), 1) for side in self._sides)
                placement = fit_sides(photo.shape[:2], *sides)
            parts = [(0, 0, *placement.size)]
            if self._window is not None:
                parts = _windows(placement.size, self._window, self._stride)
            yield _View(photo, placement, flipped, parts)

    def _predict(self, shape, batch):
        self.shapes.add(shape)
        images = np.empty((len(batch), *shape, 3), "uint8")
        images[:] = MEAN_COLOUR
        for image, (_, view, (top, left, height, width)) in zip(images, batch, strict=True):
            image[:height, :width] = view.image[top : top + height, left : left + width]
        logits = self._model.predict_on_batch(preprocess(self._model, images))
        for (answer, view, part), found in zip(batch, np.asarray(logits), strict=True):
            if view.add(part, found) and answer.take(view):
                yield answer.key, answer.class_map


class _View:
    """A photo at one size, flipped or not, and the logits of its parts.

    Attributes:
        placement: Where the photo lies: alone.
        flipped: Whether it is flipped horizontally.
        parts: (top, left, height, width) of what the model gets.
        image: uint8 (height, width, 3).
        logits: float32 (height, width, classes) once `add` has all parts.
    """

    def __init__(self, photo, placement, flipped, parts):
        self.placement = dataclasses.replace(placement, canvas_size=placement.size)
        self.flipped = flipped
        self.parts = parts
        self.image = self.placement.place(photo[:, ::-1] if flipped else photo)
        self._left = len(parts)

    def add(self, part, logits):
        """Takes the logits of an image with a part in its upper left corner; whether all came."""
        top, left, height, width = part
        logits = logits[:height, :width]
        self._left -= 1
        if len(self.parts) == 1:
            self.logits = logits
            return True
        if self._left == len(self.parts) - 1:
            self.logits = np.zeros((*self.placement.size, logits.shape[-1]), "float32")
            self._counts = np.zeros((*self.placement.size, 1), "float32")
        self.logits[top : top + height, left : left + width] += logits
        self._counts[top : top + height, left : left + width] += 1
        if not self._left:
            self.logits /= self._counts
        return not self._left


class _Answer:
    """A photo's class map, made of its views.

    Attributes:
        key: Of the photo.
        class_map: uint8 (height, width) once `take` has all views.
    """

    def __init__(self, key, size, classes, views):
        self.key = key
        self._left = views
        self._sums = np.zeros((*size, classes), "float32") if views > 1 else None

    def take(self, view):
        """Takes a complete view, and its logits away; whether all came."""
        self._left -= 1
        if self._sums is None:
            self.class_map = view.placement.class_map(view.logits)
            return True
        for start, logits in view.placement.bands(view.logits):
            shares = probabilities(logits, "softmax")
            self._sums[start : start + len(shares)] += shares[:, ::-1] if view.flipped else shares
        view.logits = None
        if not self._left:
            self.class_map = self._sums.argmax(axis=-1).astype("uint8")
        return not self._left


def _windows(size, window, stride):
    """Windows that cover an image, (top, left, height, width), as mmsegmentation lays them.

    The last ones end where the image does.
    """
    starts = []
    for side, length, step in zip(size, window, stride, strict=True):
        count = -(-max(side - length, 0) // step) + 1
        starts.append([max(min(number * step, side - length), 0) for number in range(count)])
    height, width = map(min, window, size)
    return [(top, left, height, width) for top, left in itertools.product(*starts)]


def _checked_scales(scales):
    if not isinstance(scales, Sequence) or isinstance(scales, str) or not scales:
        raise ValueError(
            f"`scales` must be a list of numbers above 0, such as [1.0]. Received: {scales!r}."
        )
    return [positive_number("scales", scale) for scale in scales]


def _checked_window(window, stride):
    """Both as (height, width); None, None without windows."""
    if window is None:
        if stride is not None:
            raise ValueError(f"`stride` goes with a `window`. Received: stride={stride}.")
        return None, None
    lengths = window_pair("window", window)
    if stride is None:
        return lengths, tuple(max(2 * side // 3, 1) for side in lengths)
    steps = window_pair("stride", stride)
    if np.greater(steps, lengths).any():
        raise ValueError(
            "`stride` must be at most `window`, or pixels between windows have no class. "
            f"Received: stride={stride}, window={window}."
        )
    return lengths, steps
