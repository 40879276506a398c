"""What the trainer costs: step time and memory, against a plain Keras loop.

    python benchmarks/training.py

trains the same network on the same batches in three ways, in turns in one process: `compile` and
`fit` of Keras alone; the trainer with its callbacks, without mixing; and the trainer with random
erasing, mixup and CutMix, which a plain loop does not have. A ratio is the median over rounds of
(time of a step / time of a step of the plain loop in the same round). The peak memory of each way
is that of a process of its own (Linux). Prints a Markdown table. The backend is that of
`KERAS_BACKEND`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
from peers.worker import process_memory

import keras_sepvit
from keras_sepvit.benchmark.machine import machine, sentences
from keras_sepvit.benchmark.report import markdown_table
from keras_sepvit.benchmark.timing import quartiles
from keras_sepvit.classification import task as classification
from keras_sepvit.training import Trainer, load_recipe
from keras_sepvit.training.sources.source import ArraySource

WAYS = ("plain Keras", "trainer", "trainer, erasing and mixing")
NO_MIXING = (
    "augmentation.erase_rate=0",
    "augmentation.mixup=0",
    "augmentation.cutmix=0",
    "augmentation.label_smoothing=0",
)


def images(options):
    """Random uint8 images and labels, enough for a round."""
    count = options.batch_size * options.steps
    rng = np.random.default_rng(0)
    shape = (count, options.image_size, options.image_size, 3)
    return rng.integers(0, 256, shape, dtype="uint8"), rng.integers(0, 1000, count)


def recipe(options, *changes):
    """The recipe of SepViT without what would slow the input pipeline."""
    return load_recipe(
        f"imagenet_{options.variant}",
        [
            "data.name=generated",
            "data.validation_split=null",
            f"model.image_size={options.image_size}",
            f"batch_size={options.batch_size}",
            "augmentation.auto_augment=null",
            "augmentation.color_jitter=0",
            "augmentation.crop_scale=[1,1]",
            "augmentation.crop_ratio=[1,1]",
            "optimizer.warmup_epochs=0",
            "checkpoint_steps=0",
            "epochs=1000",
            "precision=float32",
            "distribution=none",
            *changes,
        ],
    )


def way(name, options):
    """A function that trains for one round."""
    pixels, labels = images(options)
    source = ArraySource("generated", "train", pixels, labels, classes=1000)
    classification.open_splits = lambda *arguments: (source, None)
    changes = () if "mixing" in name else NO_MIXING
    trainer = Trainer(recipe(options, *changes), tempfile.mkdtemp())
    if name != WAYS[0]:
        # All callbacks that act at each batch; files are written at an epoch's end.
        callbacks = trainer._callbacks(0)[:3]
        data = trainer.training_data(0, 0)
        model = trainer.model
    else:
        model = keras_sepvit.SepViT(
            f"sepvit_{options.variant}",
            input_shape=(options.image_size, options.image_size, 3),
            classifier_activation=None,
        )
        settings = trainer.recipe.optimizer
        optimizer = keras.optimizers.AdamW(
            1e-3, weight_decay=settings.weight_decay, global_clipnorm=settings.clip_norm
        )
        optimizer.build(model.trainable_variables)
        model.compile(
            optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(5)],
            jit_compile=trainer.model.jit_compile,
        )
        data = trainer.training_data(0, 0).map(lambda batch: (batch["image"], batch["label"]))
        callbacks = []

    def run():
        model.fit(
            data, steps_per_epoch=options.steps, callbacks=callbacks, shuffle=False, verbose=0
        )

    return run


def peak_memory(name, options):
    """Peak memory in GB of a process that trains in one way for a round."""
    command = [sys.executable, __file__, "--memory-of", name]
    for key in ("variant", "image_size", "batch_size", "steps"):
        command += [f"--{key.replace('_', '-')}", str(getattr(options, key))]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1]) / 1e9


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="lite", choices=("lite", "t", "s", "b"))
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8, help="of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        way(options.memory_of, options)()
        print(process_memory("VmHWM"))
        return

    runs = {name: way(name, options) for name in WAYS}
    for run in runs.values():
        run()  # compiles
    seconds = {name: [] for name in WAYS}
    for _ in range(options.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - start) / options.steps)
    rows = []
    for name in WAYS:
        ratios = quartiles(
            [own / plain for own, plain in zip(seconds[name], seconds[WAYS[0]], strict=True)]
        )
        rows.append(
            [
                name,
                f"{1e3 * quartiles(seconds[name])['median']:.0f}",
                "{median:.3f} ({low:.3f} to {high:.3f})".format(**ratios),
                f"{peak_memory(name, options):.2f}",
            ]
        )
    backend = keras.config.backend()
    print(
        f"SepViT-{options.variant}, {options.image_size} x {options.image_size}, batch "
        f"{options.batch_size}, {backend}.\n\n{sentences(machine(), ('keras', backend))}\n"
    )
    header = ["way", "ms a step", "times plain Keras (quartiles)", "peak memory, GB"]
    print(markdown_table(header, rows))


if __name__ == "__main__":
    main()
