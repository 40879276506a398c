"""Trains KerasHub's SegFormer on SepViT to colour handwritten digits in scenes.

    pip install "keras-sepvit[hub,train]"
    python examples/segment_keras_hub.py

makes 6,000 scenes of scikit-learn's digits to train on and 200 of held-out digits, trains from
random weights for some minutes, and prints, under Keras's progress bar, with the TensorFlow
backend:

    Before training: mean IoU 0.7 %
    After 3000 steps: mean IoU 61.8 %
    Saved outputs/segment_keras_hub/segmenter.keras; loaded again, it predicts the same
    Drew outputs/segment_keras_hub/predictions.png

Classes are the ground and the ten digits. The picture has scenes with the classes predicted above
those that are true. `--decoder deeplab` takes KerasHub's DeepLabV3+ instead of its SegFormer,
`--weights digits` starts from the packaged classifier of digits. The backend is that of
`KERAS_BACKEND`.
"""

import argparse
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from keras_sepvit import hub
from keras_sepvit.configs import DIGITS_CONFIG
from keras_sepvit.training.sources.scenes import CLASS_NAMES as DIGITS
from keras_sepvit.training.sources.scenes import DigitScenes
from keras_sepvit.visualize import draw_class_map, in_rows

IMAGE_SIZE = (96, 96)
CLASS_NAMES = ("background", *DIGITS)
CLASSES = len(CLASS_NAMES)
BATCH_SIZE = 16
LEARNING_RATE = 2e-3
# XLA compiles for minutes on CPUs, and JAX has nothing else.
JIT_COMPILE = keras.backend.backend() == "jax"


def scenes(split, count):
    arrays = DigitScenes(split, count, IMAGE_SIZE, digit_sizes=(20, 44), digits=(1, 4)).arrays()
    return arrays["images"], arrays["class_maps"].astype("int32")


def training_batches(count):
    """Shuffled batches without end: KerasHub's `fit` does not shuffle arrays."""
    dataset = tf.data.Dataset.from_tensor_slices(scenes("train", count))
    return dataset.shuffle(count, seed=0).repeat().batch(BATCH_SIZE)


def build_segmenter(decoder, weights):
    shape = (*IMAGE_SIZE, 3)
    if decoder == "segformer":
        encoder = hub.SegFormerEncoder.from_variant(
            DIGITS_CONFIG, shape, weights, drop_path_rate=0.0, include_preprocessing=True
        )
        backbone = keras_hub.models.SegFormerBackbone(encoder, projection_filters=128)
        return keras_hub.models.SegFormerImageSegmenter(backbone, CLASSES)
    encoder = hub.SepViTBackbone.from_variant(
        DIGITS_CONFIG, shape, weights, drop_path_rate=0.0, dense=True, include_preprocessing=True
    )
    backbone = keras_hub.models.DeepLabV3Backbone(
        encoder,
        spatial_pyramid_pooling_key="P5",
        low_level_feature_key="P2",
        upsampling_size=8,
        dilation_rates=[1, 2, 3],  # the map of the last stage is small
        image_shape=shape,
    )
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone, CLASSES)


def compile_segmenter(segmenter, optimizer):
    segmenter.compile(
        optimizer,
        # From logits: on probabilities Keras's sparse loss fails for maps under PyTorch.
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.MeanIoU(CLASSES, sparse_y_pred=False, name="mean_iou")],
        jit_compile=JIT_COMPILE,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--decoder", choices=("segformer", "deeplab"), default="segformer")
    parser.add_argument("--steps", type=int, default=3000, help=f"of {BATCH_SIZE} scenes")
    parser.add_argument("--scenes", type=int, default=6000, help="to train on")
    parser.add_argument("--held-out", type=int, default=200, help="scenes to measure on")
    parser.add_argument("--weights", help="of a classifier: a file, or the name of weights")
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("outputs/segment_keras_hub")
    )
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    images, maps = scenes("validation", options.held_out)
    segmenter = build_segmenter(options.decoder, options.weights)
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, options.steps)
    compile_segmenter(segmenter, keras.optimizers.AdamW(schedule, weight_decay=1e-4))

    def measure(when):
        held_out = segmenter.evaluate(images, maps, batch_size=20, verbose=0, return_dict=True)
        print(f"{when}: mean IoU {100 * held_out['mean_iou']:.1f} %")

    measure("Before training")
    segmenter.fit(training_batches(options.scenes), steps_per_epoch=options.steps, epochs=1)
    measure(f"After {options.steps} steps")

    options.output.mkdir(parents=True, exist_ok=True)
    predicted = segmenter.predict(images, batch_size=20, verbose=0)
    file = options.output / "segmenter.keras"
    segmenter.save(file)
    loaded = keras.saving.load_model(file, compile=False)
    compile_segmenter(loaded, "sgd")
    again = loaded.predict(images, batch_size=20, verbose=0)
    np.testing.assert_allclose(again, predicted, rtol=1e-3, atol=1e-3)
    print(f"Saved {file}; loaded again, it predicts the same")

    picture = options.output / "predictions.png"
    rows = [
        [
            draw_class_map(image, class_map, CLASS_NAMES, scale=3, legend=False)
            for image, class_map in zip(images[:6], shown[:6], strict=True)
        ]
        for shown in (predicted.argmax(axis=-1), maps)
    ]
    in_rows(rows, ["predicted", "true"]).save(picture)
    print(f"Drew {picture}")


if __name__ == "__main__":
    main()
