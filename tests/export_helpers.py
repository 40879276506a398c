"""What the tests of exports share: tiny models, and functions for processes of their own."""

import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import SMALL, randomize, tiny_backbone

from keras_sepvit import SepViT
from keras_sepvit.benchmark.machine import proc_fields
from keras_sepvit.export import default_images, to_litert, to_onnx

CLASSES = 7
IMAGE_SHAPE = (64, 64, 3)


def tiny_classifier(**kwargs):
    """A classifier with all kinds of blocks, whose weights are all random."""
    model = SepViT(SMALL, input_shape=IMAGE_SHAPE, **{"classes": CLASSES, **kwargs})
    randomize(model)
    return model


def tiny_dense(image_shape=(96, 80, 3)):
    """A backbone of the dense form, for images that are no multiple of its windows."""
    model = tiny_backbone(image_shape=image_shape, dense=True)
    randomize(model)
    return model


def linear_model(outputs=3, image_shape=(8, 8, 3)):
    """A classifier that costs next to nothing."""
    return keras.Sequential(
        [
            keras.Input(image_shape),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(outputs, activation="softmax"),
        ],
        name="linear",
    )


# There ONNX Runtime's sums of products in 8 bits overflow (docs/export.md).
WITHOUT_VNNI = "vnni" not in proc_fields("/proc/cpuinfo").get("flags", "vnni")  # flags of x86 alone


def kinds_and_precisions(kinds, cases):
    """Parameters of a test: each kind of file in each case; all but the first are thorough."""
    first, *others = [(kind, *case) for kind in kinds for case in cases]
    return [
        pytest.param(*first),
        *(pytest.param(*other, marks=pytest.mark.thorough) for other in others),
    ]


def exporting(model, folder, image_shape):
    """A function that gives path and report of the model's file of a kind, made once each.

    Its arguments are `"tflite"` or `"onnx"`, the precision and other options of the export.
    """
    exports, made = {"tflite": to_litert, "onnx": to_onnx}, {}

    def export(kind, quantize=None, **options):
        key = kind, quantize, *options.items()
        if kind == "onnx" and quantize == "int8" and WITHOUT_VNNI:
            pytest.skip("ONNX Runtime is wrong in int8 on this processor, which has no VNNI")
        if key not in made:
            path = folder / f"{len(made)}.{kind}"
            images = default_images(image_shape, 32, seed=1) if quantize == "int8" else None
            options = {"quantize": quantize, "calibration_images": images, **options}
            made[key] = path, exports[kind](model, path, verbose=False, **options)
        return made[key]

    return export


def noise(count, image_shape=IMAGE_SHAPE, seed=3):
    """Images of random pixels, 0..255."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *image_shape))
    return pixels.astype("float32")


def predict(model, images):
    return np.asarray(model.predict(images, verbose=0), "float32")


def outputs_without_keras(script, path, images, folder):
    """What a file gives in a process that cannot import Keras.

    Args:
        script: Program that gets the paths of the file, of the images and of the outputs.
        path: The exported file.
        images: The images, which the script reads from a `.npy` file.
        folder: Where images and outputs are written.
    """
    np.save(folder / "images.npy", images)
    script = f"import sys; sys.modules['keras'] = None\n{script}"
    command = [sys.executable, "-c", script, path, folder / "images.npy", folder / "outputs.npy"]
    subprocess.run(command, check=True)
    return np.load(folder / "outputs.npy")


def fail(model, output, message):
    """A conversion that fails."""
    raise ValueError(f"{message} {model.name}")


def die(model, output):
    """A conversion whose process is killed, as when memory runs out."""
    print("the last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
