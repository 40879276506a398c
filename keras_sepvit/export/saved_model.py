"""Export to TensorFlow's SavedModel, with signatures for images and for encoded images."""

import json
import pathlib
import tempfile

import keras
import numpy as np

from keras_sepvit.export.check import compare, size_of, writing
from keras_sepvit.export.errors import ExportError
from keras_sepvit.export.images import check_images
from keras_sepvit.export.model import prepare
from keras_sepvit.export.report import ExportReport
from keras_sepvit.export.worker import convert_on, last_lines, run_module
from keras_sepvit.runtime.images import CROP
from keras_sepvit.validation import positive_int


def to_saved_model(
    model,
    path,
    *,
    batch_size=None,
    probabilities=True,
    normalize=False,
    class_names=None,
    images=None,
    check=True,
    overwrite=False,
    verbose=True,
):
    """Exports a model to a SavedModel, which plain TensorFlow and its servers run.

    Its signatures, from which follow the outputs by name:

    - `serving_default`, from `image`: float32 (batch, height, width, channels);
    - `encoded`, from `image_bytes`: strings (batch,), each a JPEG or PNG file, which
      is decoded, cropped and resized as in the evaluation on ImageNet (crop of
      87.5 % of the shorter side at the centre, bicubic; the orientation that a
      camera noted is not applied). Only in models that take images of 0..255 with
      1 or 3 channels.

    Conversion needs TensorFlow; with another Keras backend it happens in a process
    of its own. The check runs the folder in a process without Keras.

    Args:
        model: A built Keras model of one image input of static size, under any
            dtype policy. See `keras_sepvit.export.model.prepare` for its outputs.
        path: Folder to write.
        batch_size: Images in a batch; None for any number.
        probabilities: Give a classifier whose head has no activation a softmax.
        normalize: Put ImageNet's normalisation in front of a model that takes
            normalised images, so that the SavedModel takes images of 0..255.
        class_names: Optional names of the classes, written to
            `assets.extra/labels.txt`, one a line.
        images: Array of images to compare on, as the model takes them; None for
            seeded pictures (`default_images`).
        check: True: raise an error, and leave nothing, where the outputs disagree
            with the Keras model's. `"warn"`: warn. False: do not compare.
        overwrite: Replace an existing folder.
        verbose: Print the report.

    Returns:
        An `ExportReport`.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: for a model or an argument that does not suit.
        FileExistsError: if `path` exists, unless `overwrite`.
        ImportError: if TensorFlow is not installed.
        ExportError: if the outputs disagree.
    """
    if batch_size is not None:
        positive_int("batch_size", batch_size)
    deployment = prepare(
        model, probabilities=probabilities, normalize=normalize, class_names=class_names
    )
    images = check_images(deployment, images)
    has_encoded = deployment.takes_pixels and deployment.image_shape[-1] in (1, 3)

    with writing(path, overwrite, folder=True) as temporary:
        convert_on(
            "tensorflow",
            convert,
            deployment.model,
            temporary,
            batch_size=batch_size,
            has_encoded=has_encoded,
        )
        if class_names is not None:
            folder = temporary / "assets.extra"
            folder.mkdir()
            (folder / "labels.txt").write_text(
                "\n".join(deployment.class_names) + "\n", encoding="utf-8"
            )
        outputs, facts = _run_in_plain_tensorflow(temporary, images, batch_size)
        agreement = compare(
            lambda _: outputs, deployment, images, "float32", check, batch_size=len(images)
        )
        notes = () if has_encoded else ("It has no signature for encoded images.",)
        report = ExportReport(
            format="saved_model",
            path=str(path),
            precision="float32",
            size_bytes=size_of(temporary),
            operators=facts["operators"],
            latency_ms={facts["threads"]: facts["latency_ms"]},
            notes=notes,
            **agreement.report_fields(),
        )
    if verbose:
        print(report)
    return report


def convert(model, output, batch_size, has_encoded):
    """Writes a deployed model as a SavedModel; for the TensorFlow backend.

    Args:
        model: Functional model of one input, `image`, and a dict of outputs.
        output: Folder to write to.
        batch_size: Images in a batch; None for any number.
        has_encoded: Whether to write the signature for encoded images.
    """
    import tensorflow as tf

    (image,) = model.inputs
    height, width, channels = image.shape[1:]

    def serve(image):
        return model(image, training=False)

    def serve_encoded(image_bytes):
        images = tf.map_fn(
            lambda data: _decode(data, height, width, channels),
            image_bytes,
            fn_output_signature=tf.TensorSpec((height, width, channels), tf.float32),
        )
        return model(images, training=False)

    archive = keras.export.ExportArchive()
    archive.track(model)
    # The first is `serving_default`, too.
    signature = tf.TensorSpec((batch_size, height, width, channels), tf.float32, name="image")
    archive.add_endpoint("serve", serve, input_signature=[signature])
    if has_encoded:
        signature = tf.TensorSpec((batch_size,), tf.string, name="image_bytes")
        archive.add_endpoint("encoded", serve_encoded, input_signature=[signature])
    archive.write_out(output, verbose=False)


def _decode(data, height, width, channels):
    """An encoded image as float32 pixels, cropped and resized as `runtime.read_image` does."""
    import tensorflow as tf

    # Which reads PNG as well. The accurate transform is what other decoders use.
    image = tf.io.decode_jpeg(data, channels=channels, dct_method="INTEGER_ACCURATE")
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    # The largest box of the result's proportions, without the border that is cut off.
    scale = tf.reduce_max(tf.constant([height, width], tf.float32) / (CROP * size))
    box = tf.constant([height, width], tf.float32) / scale
    corner = (size - box) / 2
    pixels = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(image, tf.float32)[tf.newaxis],
        size=(height, width),
        scale=tf.stack([scale, scale]),
        translation=-corner * scale,
        kernel_type="keyscubic",
        antialias=True,
    )[0]
    return tf.clip_by_value(tf.round(pixels), 0.0, 255.0)


def _run_in_plain_tensorflow(path, images, batch_size):
    """Outputs of `serving_default` by name, and facts of the run."""
    with tempfile.TemporaryDirectory(prefix="keras_sepvit_saved_model_") as folder:
        folder = pathlib.Path(folder)
        np.save(folder / "images.npy", images)
        process = run_module(
            "keras_sepvit.export.saved_model_runtime",
            str(path),
            str(folder),
            str(batch_size or min(2, len(images))),
        )
        if process.returncode:
            raise ExportError(
                f"The SavedModel fails in plain TensorFlow:\n{last_lines(process.stdout)}"
            )
        with np.load(folder / "outputs.npz") as outputs:
            return dict(outputs), json.loads((folder / "facts.json").read_text())
