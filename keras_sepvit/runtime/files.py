"""Exported files of any task: how they are opened, and how images go in."""

import pathlib

import numpy as np

from keras_sepvit.configs import IMAGENET_MEAN, IMAGENET_VARIANCE
from keras_sepvit.record import PIXELS
from keras_sepvit.runtime import labels as naming
from keras_sepvit.runtime.canvas import fit_into, read_canvas
from keras_sepvit.runtime.images import read_photo
from keras_sepvit.runtime.litert import LiteRTModel
from keras_sepvit.runtime.onnx import CPU, OnnxModel
from keras_sepvit.warn import warn, warn_if_normalised

_MODELS = {".tflite": LiteRTModel, ".onnx": OnnxModel}

# The kinds of files that `Predictor` takes.
SUFFIXES = tuple(_MODELS)

# Integers with and without quantisation parameters; see the classes of models.
_INPUT_DTYPES = ("float32", "float16", "int8", "uint8", "int16")

# Of models that take batches of any size: enough to use the processor well.
_LARGEST_BATCH = 16

# Of floats beyond 0..255, where images were resized by cubic curves.
_OVERSHOOT = 64


def open_model(path, threads=None, providers=None, delegates=None):
    """The model in a .tflite or .onnx file, whatever it computes: a function of a batch.

    It takes images as the file does; nothing is normalised. `outputs` gives the outputs
    by name. Arguments and errors are those of `Predictor`.
    """
    _check_threads(threads)
    path = pathlib.Path(path)
    model_class = _MODELS.get(path.suffix.lower())
    if model_class is None:
        raise ValueError(
            f"Unknown kind of model file: '{path}'. Expected a name ending in "
            f"{' or '.join(SUFFIXES)}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"File not found: {path}.")
    if model_class is LiteRTModel:
        if providers is not None:
            raise ValueError(f"`providers` are ONNX Runtime's. {path} runs with LiteRT.")
        return LiteRTModel(path, threads, delegates or ())
    if delegates is not None:
        raise ValueError(f"`delegates` are LiteRT's. {path} runs with ONNX Runtime.")
    return OnnxModel(path, threads, CPU if providers is None else providers)


class Hinted:
    """Says what a class is for where it is asked for a name that it does not have.

    Attributes:
        hint: A sentence.
    """

    hint = ""

    def __getattr__(self, name):  # of what there is not
        raise AttributeError(
            f"'{type(self).__name__}' has no attribute '{name}'. {self.hint}", name=name, obj=self
        )


class OnCanvas(Hinted):
    """What takes photos whole, as `keras_sepvit.runtime.canvas` places them.

    A subclass has `image_shape` and `predict(images)`.
    """

    def read_image(self, path):
        """An image file as `predict` takes it: uint8 array of `image_shape`.

        The photo is upright, as large as fits, in the upper left corner; beside or below it is
        ImageNet's mean colour.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it cannot be read as an image.
        """
        return read_canvas(path, *self.image_shape[:2])

    def _placed(self, photo):
        """The `Placement` of a photo, and what `predict` gives for it alone."""
        pixels = read_photo(photo)
        placement = fit_into(pixels.shape[:2], self.image_shape[:2])
        return placement, self.predict(placement.place(pixels)[np.newaxis])


class ImageFile:
    """A file of one input of images: a function of any number of images.

    Args:
        path: The file.
        model: What `open_model` gives for it.
        pixels: What it takes, of `PIXELS`, instead of what its record says.
        kind: What it must be, in words.
        answers: What that gives, in words, by the outputs' numbers of axes, ascending.

    Attributes:
        image_shape: (height, width, channels) of the images.
        output_shape: Shape of the answer for one image, of a file of one output.
        record: The file's `Record`, or None.

    Raises:
        ValueError: if it is no such file, or does not tell what it takes.
    """

    def __init__(self, path, model, pixels, kind, answers):
        self._path, self._model, self.record = path, model, model.record
        inputs, outputs = model.input_shapes, model.output_shapes
        if [*map(len, inputs)] != [4] or tuple(sorted(map(len, outputs))) not in answers:
            raise ValueError(
                f"{path} is no {kind}: expected one input (batch, height, width, channels) "
                f"and {' or '.join(answers.values())}. Received: {inputs} and {outputs}."
            )
        self._batch_size, *image_shape = inputs[0]
        self.image_shape, self.output_shape = tuple(image_shape), tuple(outputs[0][1:])
        self._empty = {
            name: np.empty((0, *shape[1:]), "float32")
            for name, shape in zip(model.output_names, outputs, strict=True)
            if None not in shape[1:]
        }
        if None in image_shape[:2] or len(self._empty) != len(outputs):
            raise ValueError(
                f"{path} takes images of any size or gives any number of classes: its input is "
                f"{inputs[0]}, its output {', '.join(map(str, outputs))}. Export it for one size "
                "of images."
            )
        if image_shape[-1] not in (1, 3):
            raise ValueError(
                f"{path} takes images of the shape {inputs[0][1:]}; expected (height, width, "
                "channels), with 1 or 3 channels."
            )
        (dtype,) = model.input_dtypes
        if dtype not in _INPUT_DTYPES:
            raise ValueError(
                f"{path} takes images as {dtype}; expected one of {', '.join(_INPUT_DTYPES)}."
            )
        self._pixels = _checked_pixels(pixels, self.record, path, image_shape[-1])

    def __call__(self, images):
        """The one output, as in `outputs`."""
        (answers,) = self.outputs(images).values()
        return answers

    def outputs(self, images):
        """The outputs by name for images of 0..255, float32 arrays all, batch by batch."""
        if self._pixels == "imagenet":
            images = (images - np.float32(IMAGENET_MEAN)) / np.sqrt(np.float32(IMAGENET_VARIANCE))
        size = self._batch_size or _LARGEST_BATCH
        batches = [self._empty]
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            # A batch of fixed size is filled up, and what that adds cut off.
            missing = self._batch_size - len(batch) if self._batch_size else 0
            padded = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
            outputs = self._model.outputs(padded)
            batches.append({name: output[: len(batch)] for name, output in outputs.items()})
        return {name: np.concatenate([batch[name] for batch in batches]) for name in self._empty}

    def class_names(self, labels, classes):
        """The names of so many classes: as given, as in the file, or their numbers.

        None for a number that is not known, where neither has them.
        """
        in_file = self._model.class_names
        if classes is None and in_file is not None:
            classes = len(in_file)
        if labels is not None:
            return naming.class_names(labels, classes)
        if in_file is None:
            return None if classes is None else naming.numbered(classes)
        if classes != len(in_file):
            raise ValueError(
                f"{self._path} holds {len(in_file)} class names for its {classes} classes. Give "
                "the right ones as `labels`."
            )
        return in_file


def checked_images(images, image_shape):
    """`images` as float32; refuses other shapes, and what are no finite real numbers.

    Args:
        images: What is checked.
        image_shape: (height, width, channels), with None for any.
    """
    images = np.asarray(images)
    if images.ndim != 4 or any(
        side not in (None, other) for side, other in zip(image_shape, images.shape[1:], strict=True)
    ):
        expected = ", ".join(map(str, image_shape))
        raise ValueError(
            f"`images` must have the shape (count, {expected}). Received an array of shape "
            f"{images.shape}. `keras_sepvit.runtime.read_image` reads image files at a size."
        )
    if images.dtype.kind not in "uif":
        raise ValueError(
            f"`images` must be integers or floats of 0..255. Received: {images.dtype}."
        )
    whole = images.dtype.kind in "ui"
    images = images.astype("float32")
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    if not finite.all():
        raise ValueError(
            f"`images` must be finite. Received NaN or infinite values in {np.sum(~finite)} of "
            f"{len(images)} images; the first is images[{finite.argmin()}]."
        )
    overshoot = 0 if whole else _OVERSHOOT
    if images.size and (images.min() < -overshoot or images.max() > 255 + overshoot):
        warn(
            f"`images` are taken as 0..255, but have values from {images.min():.5g} to "
            f"{images.max():.5g}. Divide images of 16 bits by 257, and do not subtract a mean."
        )
    else:
        warn_if_normalised(images)
    return images


def _check_threads(threads):
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ValueError(f"`threads` must be a positive integer. Received: threads={threads!r}.")


def _checked_pixels(pixels, record, path, channels):
    """What a file takes, of `PIXELS`: as given, as its record says, or numbers of 0..255."""
    known = PIXELS[:2] if channels == 3 else PIXELS[:1]
    if pixels is not None and pixels not in known:
        raise ValueError(
            f"Unknown `pixels`: {pixels!r}. Expected one of {', '.join(map(repr, known))} for "
            f"images of {channels} channels."
        )
    pixels = pixels or (record.pixels if record else "0..255")
    if pixels not in known:
        raise ValueError(
            f"{path} does not tell what pixels it takes: the model that it was exported from has "
            "no Normalization or Rescaling layer. Put one in front of the model, or give `pixels`."
        )
    return pixels
