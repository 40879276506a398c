"""What detectors of KerasHub and KerasCV on SepViT learn, on scenes of handwritten digits.

    PYTHONPATH=examples python benchmarks/detectors.py

needs the extras `hub`, `cv`, `train` and `detection`, and takes three quarters of an hour on two
cores. The table `scenes` has detectors that are trained on the same scenes, with the same
backbone, optimiser and number of steps: KerasHub's RetinaNet as `keras_sepvit.hub.retinanet` puts
it together and as it comes, and KerasCV's. The table `warm` has the first of them after a tenth of
the steps: from random weights, from the packaged classifier of digits, and from a classifier of
crops of scenes, which is trained for it. `--tables warm` makes one of them. The tables go into
docs/detectors.md; with `--no-page` they are only printed.
"""

import argparse
import pathlib
import tempfile
import time

import detect_keras_cv
import detect_keras_hub
import digit_scenes as example
import keras
import keras_hub
import numpy as np
from page import fill_page

from keras_sepvit import SepViT, hub
from keras_sepvit.benchmark.machine import machine, sentences
from keras_sepvit.benchmark.report import markdown_table
from keras_sepvit.configs import DIGITS_CONFIG
from keras_sepvit.training.sources.scenes import DigitScenes

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "detectors.md"
# Half of the examples': a start from weights wants smaller steps.
WARM_LEARNING_RATE = 1e-3


def keras_hub_defaults(weights, steps, **head):
    """KerasHub's RetinaNet as it comes, but for anchors of the digits' size."""
    encoder = hub.SepViTBackbone.from_variant(
        DIGITS_CONFIG,
        example.IMAGE_SHAPE,
        weights,
        drop_path_rate=0.0,
        dense=True,
        include_preprocessing=True,
    )
    backbone = keras_hub.models.RetinaNetBackbone(
        encoder, min_level=3, max_level=7, use_p5=False, image_shape=example.IMAGE_SHAPE
    )
    detector = keras_hub.models.RetinaNetObjectDetector(
        backbone,
        example.CLASSES,
        bounding_box_format="xyxy",
        anchor_generator=keras_hub.layers.AnchorGenerator(
            "xyxy",
            min_level=3,
            max_level=7,
            num_scales=3,
            aspect_ratios=[0.5, 1.0, 2.0],
            anchor_size=example.ANCHOR_SIZE,
        ),
        **head,
    )
    detector.compile(example.optimizer(2e-3, steps), jit_compile=example.JIT_COMPILE)
    return detector


def keras_hub_defaults_with_our_heads(weights, steps):
    return keras_hub_defaults(
        weights, steps, pre_logits_num_conv_layers=1, use_prediction_head_norm=True
    )


DETECTORS = {
    "KerasHub's RetinaNet by `hub.retinanet`": (detect_keras_hub.build, "labels"),
    "KerasCV's RetinaNet": (detect_keras_cv.build, "classes"),
    "KerasHub's RetinaNet, its defaults": (keras_hub_defaults, "labels"),
    "the same with one convolution and group norm in heads": (
        keras_hub_defaults_with_our_heads,
        "labels",
    ),
}


def scenes_table(options):
    rows = []
    for name, (build, labels_key) in DETECTORS.items():
        keras.utils.set_random_seed(0)
        start = time.perf_counter()
        scores = example.run(build(None, options.steps), labels_key, options)
        minutes = f"{(time.perf_counter() - start) / 60:.1f}"
        rows.append([name, options.steps, f"{scores['AP50']:.1f}", f"{scores['AP']:.1f}", minutes])
        keras.utils.clear_session()
    return markdown_table(["detector", "steps", "AP50 %", "AP %", "minutes"], rows)


def warm_table(options):
    options.steps //= 10
    held_out = crops("validation", 500)
    weights = options.output / "crops.weights.h5"
    train_classifier(weights)
    rows = []
    for name, source in (
        ("random", None),
        ("the packaged classifier of digits", "digits"),
        ("a classifier of crops of scenes", weights),
    ):
        keras.utils.set_random_seed(0)
        detector = detect_keras_hub.build(source, options.steps)
        detector.compile(
            example.optimizer(WARM_LEARNING_RATE, options.steps),
            **hub.retinanet_losses(example.CLASSES),
            jit_compile=example.JIT_COMPILE,
        )
        scores = example.run(detector, "labels", options)
        accuracy = "" if source is None else f"{100 * accuracy_on(held_out, source):.1f}"
        rows.append([name, accuracy, options.steps, f"{scores['AP50']:.1f}", f"{scores['AP']:.1f}"])
        keras.utils.clear_session()
    return markdown_table(
        ["weights", "its accuracy on crops of scenes %", "steps", "AP50 %", "AP %"], rows
    )


def crops(split, count):
    """Pictures of one digit each, on the ground of scenes, and their labels."""
    size = DIGITS_CONFIG.image_size
    scenes = DigitScenes(split, count, (size, size), digit_sizes=(20, size), digits=(1, 1))
    arrays = scenes.arrays()
    return arrays["images"], arrays["labels"][:, 0]


def train_classifier(path, count=12_000, epochs=6, batch_size=64):
    keras.utils.set_random_seed(0)
    classifier = SepViT(DIGITS_CONFIG, classes=example.CLASSES)
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, count // batch_size * epochs)
    classifier.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.05),
        "sparse_categorical_crossentropy",
        jit_compile=example.JIT_COMPILE,
    )
    classifier.fit(*crops("train", count), batch_size=batch_size, epochs=epochs)
    classifier.save_weights(path)


def accuracy_on(pictures, weights):
    images, labels = pictures
    classifier = SepViT(DIGITS_CONFIG, classes=example.CLASSES, weights=weights)
    return np.mean(classifier.predict(images, verbose=0).argmax(axis=1) == labels)


TABLES = {"scenes": scenes_table, "warm": warm_table}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1500, help=f"of {example.BATCH_SIZE} scenes")
    parser.add_argument("--scenes", type=int, default=6000, help="to train on")
    parser.add_argument("--held-out", type=int, default=200, help="scenes to measure on")
    parser.add_argument("--tables", choices=TABLES, nargs="+", default=[*TABLES])
    parser.add_argument("--no-page", action="store_true", help="only print the tables")
    options = parser.parse_args()

    packages = ("keras-sepvit", "keras", "keras-hub", "keras-cv", "tensorflow", "jax", "torch")
    measured = sentences(machine(), packages)
    with tempfile.TemporaryDirectory() as folder:
        options.output = pathlib.Path(folder)
        for name in options.tables:
            table = TABLES[name](argparse.Namespace(**vars(options)))
            print(table)
            if not options.no_page:
                fill_page(PAGE, {name: f"{table}\n\n{measured}"})


if __name__ == "__main__":
    main()
