"""What the examples of detectors share: scenes of digits, and a run on them from end to end.

No example itself: see detect_keras_hub.py and detect_keras_cv.py.
"""

import argparse
import pathlib

import keras
import numpy as np
import tensorflow as tf

from keras_sepvit import hub
from keras_sepvit.detection.scores import box_scores
from keras_sepvit.training.sources.scenes import CLASS_NAMES, DigitScenes
from keras_sepvit.visualize import detections_beside_truth

CLASSES = len(CLASS_NAMES)
IMAGE_SHAPE = (96, 96, 3)
BATCH_SIZE = 8
# The side of the smallest anchor of a level over its stride: digits are 20 to 44 pixels large.
ANCHOR_SIZE = 2.5
# XLA compiles for minutes on CPUs, and JAX has nothing else.
JIT_COMPILE = keras.backend.backend() == "jax"


def scenes(split, count):
    image_size = IMAGE_SHAPE[:2]
    return DigitScenes(split, count, image_size, digit_sizes=(20, 44), digits=(1, 4)).arrays()


def training_batches(count, labels_key):
    """Shuffled batches without end: KerasHub's `fit` does not shuffle arrays."""
    arrays = scenes("train", count)
    targets = {"boxes": arrays["boxes"], labels_key: arrays["labels"].astype("float32")}
    dataset = tf.data.Dataset.from_tensor_slices((arrays["images"].astype("float32"), targets))
    return dataset.shuffle(count, seed=0).repeat().batch(BATCH_SIZE)


def optimizer(learning_rate, steps):
    """AdamW with a linear warm-up over a tenth of the steps, then half a cosine."""
    warmup = max(steps // 10, 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / 10, max(steps - warmup, 1), warmup_target=learning_rate, warmup_steps=warmup
    )
    return keras.optimizers.AdamW(schedule, weight_decay=1e-4)


def options(description, output):
    """The command line of an example, parsed."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1500, help=f"of {BATCH_SIZE} scenes")
    parser.add_argument("--scenes", type=int, default=6000, help="to train on")
    parser.add_argument("--held-out", type=int, default=200, help="scenes to measure on")
    parser.add_argument("--weights", help="of a classifier: a file, or the name of weights")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(output))
    return parser.parse_args()


def find(detector, images):
    """All detections that count for average precision."""
    return hub.detect(detector, images, threshold=0.05, batch_size=20)


def run(detector, labels_key, options):
    """Trains a compiled detector, measures it, saves it, loads it and draws what it finds.

    Args:
        detector: A detector of KerasHub or KerasCV.
        labels_key: How the library calls labels: `"labels"` or `"classes"`.
        options: What `options` gives.

    Returns:
        COCO's scores after training, as `box_scores` gives them.
    """
    held_out = scenes("validation", options.held_out)
    truths = [
        {"boxes": boxes, "labels": labels}
        for boxes, labels in zip(held_out["boxes"], held_out["labels"], strict=True)
    ]

    def measure(when):
        found = find(detector, held_out["images"])
        scores = box_scores(truths, found)
        print(f"{when}: AP50 {scores['AP50']:.1f} %, AP {scores['AP']:.1f} %")
        return found, scores

    measure("Before training")
    batches = training_batches(options.scenes, labels_key)
    detector.fit(batches, steps_per_epoch=options.steps, epochs=1)
    found, scores = measure(f"After {options.steps} steps")

    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "detector.keras"
    detector.save(file)
    loaded = keras.saving.load_model(file, compile=False)
    loaded.jit_compile = JIT_COMPILE
    for again, before in zip(find(loaded, held_out["images"]), found, strict=True):
        np.testing.assert_allclose(again["boxes"], before["boxes"], atol=1e-2)
    print(f"Saved {file}; loaded again, it finds the same")

    picture = options.output / "predictions.png"
    shown = slice(6)
    detections_beside_truth(
        held_out["images"][shown], found[shown], truths[shown], CLASS_NAMES
    ).save(picture)
    print(f"Drew {picture}")
    return scores
