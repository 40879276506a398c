"""A head of your own on the dense backbone: which digit, or none, each pixel shows.

    python examples/own_head.py

fits a small segmenter on pictures of scattered digits, saves it, loads it again, and uses it on
pictures of another size. It prints, under Keras's progress bars, with TensorFlow

    88.57 % of the held-out pixels right; 53.68 % of those of digits
    Saved outputs/own_head.keras; loaded again, it predicts the same, here for 96 x 160

The backend is that of `KERAS_BACKEND`. What works on all of them:

- `UpSampling2D` repeats pixels: its `interpolation="bilinear"` fails under TensorFlow on maps of
  any size.
- The model gives logits, and the loss has `from_logits=True`: on probabilities of maps Keras's
  sparse loss fails under PyTorch.
- Sides are multiples of 32, so that each level is twice as large as the next one.
"""

import argparse
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
from keras import layers

import keras_sepvit
from keras_sepvit.configs import DIGITS_CONFIG
from keras_sepvit.training.sources.scenes import DigitScenes

CLASSES = 11  # the ground and ten digits
# XLA compiles for minutes on CPUs, and JAX has nothing else.
JIT_COMPILE = keras.backend.backend() == "jax"


def build_segmenter(config=DIGITS_CONFIG, weights="digits"):
    """Images of 0..255, (batch, height, width, 3), to logits (batch, height, width, classes)."""
    backbone = keras_sepvit.SepViTBackbone.from_variant(
        config, (None, None, 3), weights, dense=True, include_preprocessing=True
    )
    levels = [
        layers.UpSampling2D(2**number)(layers.Conv2D(32, 1)(level))
        for number, level in enumerate(backbone.pyramid_outputs.values())
    ]
    x = layers.Add()(levels)  # at the stride of P2, 4 pixels
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    x = layers.UpSampling2D(2)(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = layers.UpSampling2D(2)(x)
    return keras.Model(backbone.input, layers.Conv2D(CLASSES, 3, padding="same")(x))


def scenes(split, count, image_size=(64, 64)):
    arrays = DigitScenes(split, count, image_size, digit_sizes=(20, 40)).arrays()
    return arrays["images"], arrays["class_maps"]


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=4000, help="to train on")
    parser.add_argument("--held-out", type=int, default=200, help="scenes to measure on")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("outputs/own_head.keras")
    )
    options = parser.parse_args(arguments)

    keras.utils.set_random_seed(0)
    segmenter = build_segmenter()
    segmenter.compile(
        keras.optimizers.AdamW(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=JIT_COMPILE,
    )
    segmenter.fit(*scenes("train", options.scenes), batch_size=16, epochs=options.epochs)

    images, maps = scenes("validation", options.held_out)
    right = segmenter.predict(images, batch_size=20, verbose=0).argmax(axis=-1) == maps
    print(
        f"{right.mean():.2%} of the held-out pixels right; "
        f"{right[maps > 0].mean():.2%} of those of digits".replace("%", " %")
    )

    options.output.parent.mkdir(parents=True, exist_ok=True)
    segmenter.save(options.output)
    loaded = keras.saving.load_model(options.output)
    images, _ = scenes("validation", 4, (96, 160))
    expected = segmenter.predict(images, verbose=0)
    np.testing.assert_allclose(loaded.predict(images, verbose=0), expected, rtol=1e-3, atol=1e-3)
    size = " x ".join(map(str, expected.shape[1:3]))
    print(f"Saved {options.output}; loaded again, it predicts the same, here for {size}")


if __name__ == "__main__":
    main()
