"""What detectors of KerasHub and KerasCV on SepViT learn in the same steps, on scenes of digits.

    PYTHONPATH=examples python benchmarks/detectors.py

needs the extras `hub`, `cv`, `train` and `detection`, and takes about an hour on two cores. It
trains on the same scenes, with the same backbone, optimiser and number of steps: KerasHub's
RetinaNet as `keras_sepvit.hub.retinanet` puts it together and as it comes, and KerasCV's; from
random weights and from the packaged classifier, and both again in a tenth of the steps. It fills
the table in docs/detectors.md, with `--no-page` it only prints it.
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
from page import fill_page

from keras_sepvit import hub
from keras_sepvit.benchmark.machine import machine, sentences
from keras_sepvit.benchmark.report import markdown_table
from keras_sepvit.configs import DIGITS_CONFIG

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "detectors.md"


def keras_hub_defaults(weights, steps, **head):
    """KerasHub's RetinaNet as it comes, but for anchors of the digits' size."""
    encoder = hub.SepViTBackbone.from_variant(
        DIGITS_CONFIG, example.IMAGE_SHAPE, weights, dense=True, include_preprocessing=True
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
OURS = tuple(DETECTORS)[:2]


def runs(steps):
    """(detector, weights, steps) of each run."""
    for name in DETECTORS:
        yield name, None, steps
    for name in OURS:
        for weights in (None, "digits"):
            yield name, weights, steps // 10


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1500, help=f"of {example.BATCH_SIZE} scenes")
    parser.add_argument("--scenes", type=int, default=6000, help="to train on")
    parser.add_argument("--held-out", type=int, default=200, help="scenes to measure on")
    parser.add_argument("--no-page", action="store_true", help="only print the table")
    options = parser.parse_args()

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        options.output = pathlib.Path(folder)
        for name, weights, steps in runs(options.steps):
            build, labels_key = DETECTORS[name]
            keras.utils.set_random_seed(0)
            options.steps = steps
            start = time.perf_counter()
            scores = example.run(build(weights, steps), labels_key, options)
            minutes = (time.perf_counter() - start) / 60
            rows.append(
                [
                    name,
                    weights or "random",
                    steps,
                    f"{scores['AP50']:.1f}",
                    f"{scores['AP']:.1f}",
                    f"{minutes:.1f}",
                ]
            )
            keras.utils.clear_session()
    table = markdown_table(["detector", "weights", "steps", "AP50 %", "AP %", "minutes"], rows)
    print(table)
    if not options.no_page:
        packages = ("keras-sepvit", "keras", "keras-hub", "keras-cv", "tensorflow", "jax", "torch")
        text = f"{table}\n\n{sentences(machine(), packages)}"
        fill_page(PAGE, {"scenes": text})


if __name__ == "__main__":
    main()
