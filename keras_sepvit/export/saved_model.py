"""Export to TensorFlow's SavedModel, with signatures for images and for encoded images."""

import json
import pathlib
import subprocess
import tempfile
from typing import Unpack

import keras
import numpy as np

from keras_sepvit.export.driver import Format, OpenFile, Options, export, write_beside_model
from keras_sepvit.export.errors import ExportError
from keras_sepvit.export.images import batches
from keras_sepvit.export.worker import OWN_PROCESS, convert_on
from keras_sepvit.processes import last_lines, run_module
from keras_sepvit.record import CROP, INTERPOLATION, OF_WHOLE_PHOTOS

_KERNELS = {"bicubic": "keyscubic", "bilinear": "triangle"}


def to_saved_model(model, path, *, batch_size=None, **options: Unpack[Options]):
    """Exports a model to a SavedModel, which plain TensorFlow and its servers run.

    Its signatures, from which follow the outputs by name:

    - `serving_default`, from `image`: float32 (batch, height, width, channels);
    - `encoded`, from `image_bytes`: strings (batch,), each a JPEG or PNG file, which
      is decoded, cropped and resized as in the model's evaluation (`crop`,
      `interpolation`; the orientation that a camera noted is not applied). Only in
      models that take images of 0..255 with 1 or 3 channels.

    Its record is in `assets.extra/keras_sepvit.json`, the names of classes are in
    `assets.extra/labels.txt`, one a line. Conversion needs TensorFlow; with another
    Keras backend it happens in a process of its own. The check runs the folder in a
    process without Keras.

    Args:
        model: A built Keras model of one image input, under any
            dtype policy. See `keras_sepvit.export.model.prepare` for its outputs.
        path: Folder to write.
        batch_size: Images in a batch; None for any number.
        **options: See `keras_sepvit.export.Options`.

    Returns:
        An `ExportReport`. Errors are those of `keras_sepvit.export.driver.export`.
    """
    return export(SavedModel(batch_size=batch_size), model, path, **options)


class SavedModel(Format):
    """TensorFlow's SavedModel."""

    name = "saved_model"
    is_folder = True

    def write(self, deployment, record, path):
        convert_on(
            "tensorflow",
            convert,
            deployment.model,
            path,
            batch_size=self.batch_size,
            has_encoded=_has_encoded(deployment),
            crop=record.crop or CROP,
            interpolation=record.interpolation or INTERPOLATION,
        )
        write_beside_model(path, record)

    def open(self, path):
        return PlainTensorFlow(path, self.batch_size)

    def facts(self, path, opened, deployment):
        notes = () if _has_encoded(deployment) else ("It has no signature for encoded images.",)
        facts = opened.facts
        return {
            "operators": facts["operators"],
            "latency_ms": {facts["threads"]: facts["latency_ms"]},
            "notes": notes,
        }


def _has_encoded(deployment):
    """Whether encoded images go in as `runtime.read_image` crops them: not of whole photos."""
    channels = deployment.image_shape[-1]
    whole = deployment.task in OF_WHOLE_PHOTOS
    return deployment.takes_pixels and channels in (1, 3) and not whole


def convert(model, output, batch_size, has_encoded, crop, interpolation):
    """Writes a deployed model to a folder. Runs on the TensorFlow backend.

    Where it `has_encoded` images (JPEG and PNG), they are read as `runtime.read_image` does, but
    not turned upright.
    """
    import tensorflow as tf

    (image,) = model.inputs
    height, width, channels = image.shape[1:]

    def serve(image):
        return model(image, training=False)

    def serve_encoded(image_bytes):
        images = tf.map_fn(
            lambda data: _decode(data, height, width, channels, crop, interpolation),
            image_bytes,
            fn_output_signature=tf.TensorSpec((height, width, channels), tf.float32),
        )
        return model(images, training=False)

    # In the place of `track`, which takes long; see `litert_convert.convert`.
    archive = keras.export.ExportArchive()
    for name in ("variables", "trainable_variables", "non_trainable_variables"):
        archive.add_variable_collection(name, getattr(model, name))
    # The first is `serving_default`, too.
    signature = tf.TensorSpec((batch_size, height, width, channels), tf.float32, name="image")
    archive.add_endpoint("serve", serve, input_signature=[signature])
    if has_encoded:
        signature = tf.TensorSpec((batch_size,), tf.string, name="image_bytes")
        archive.add_endpoint("encoded", serve_encoded, input_signature=[signature])
    archive.write_out(output, verbose=False)


def _decode(data, height, width, channels, crop, interpolation):
    """An encoded image as float32 pixels, cropped and resized as `runtime.read_image` does."""
    import tensorflow as tf

    # Which reads PNG as well. The accurate transform is what other decoders use.
    image = tf.io.decode_jpeg(data, channels=channels, dct_method="INTEGER_ACCURATE")
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    # The largest box of the result's proportions, without the border that is cut off.
    scale = tf.reduce_max(tf.constant([height, width], tf.float32) / (crop * size))
    box = tf.constant([height, width], tf.float32) / scale
    corner = (size - box) / 2
    pixels = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(image, tf.float32)[tf.newaxis],
        size=(height, width),
        scale=tf.stack([scale, scale]),
        translation=-corner * scale,
        kernel_type=_KERNELS[interpolation],
        antialias=True,
    )[0]
    return tf.clip_by_value(tf.round(pixels), 0.0, 255.0)


class PlainTensorFlow(OpenFile):
    """A SavedModel, run in a process that has TensorFlow and no Keras.

    Args:
        path: The folder.
        batch_size: Images in a batch; None for any number.
        python: The interpreter of another environment to run it in, on its GPU.

    Attributes:
        facts: Operators and latency, once it has run.
    """

    def __init__(self, path, batch_size, python=None):
        self._path, self.batch_size, self.facts = path, batch_size, None
        self._process = {"python": python, "stderr": subprocess.STDOUT} if python else OWN_PROCESS

    def __call__(self, images):
        with tempfile.TemporaryDirectory(prefix="keras_sepvit_saved_model_") as folder:
            folder = pathlib.Path(folder)
            size = self.batch_size or min(2, len(images))
            np.save(folder / "batches.npy", np.stack([x for x, _ in batches(images, size)]))
            process = run_module(
                "keras_sepvit.export.saved_model_runtime",
                *(str(self._path), str(folder)),
                **self._process,
            )
            if process.returncode:
                raise ExportError(
                    f"The SavedModel fails in plain TensorFlow:\n{last_lines(process.stdout)}"
                )
            self.facts = json.loads((folder / "facts.json").read_text())
            with np.load(folder / "outputs.npz") as outputs:
                flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in outputs.items()}
                return {name: x[: len(images)] for name, x in flat.items()}
