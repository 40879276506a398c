"""Images a second that one core prepares for training: this package beside timm and Pillow.

    pip install --no-deps timm
    python benchmarks/input_pipeline.py

Writes 400 x 350 JPEGs of about 50 kB to a temporary folder and prepares them for 224 x 224
in several ways, in one process, in turns: decoding alone (the upper limit), the
random-resized crop with its bicubic resize and flip, and all of it with the recipe's
RandAugment. Times are those that the processor spent on the process, so that other
programs disturb them little; a ratio is the median over rounds of (timm's time / own time
in the same round). Of timm only RandAugment is used, which needs no torchvision; the
crop is timm's, written here in Pillow. Without timm its row is missing, and ratios are
to Pillow's crop.
"""

import argparse
import importlib.util
import json
import math
import os
import pathlib
import random
import tempfile
import time

import numpy as np
from page import ROOT, commit, fill_page
from PIL import Image

from keras_sepvit.benchmark.machine import machine, sentences
from keras_sepvit.benchmark.report import markdown_table
from keras_sepvit.benchmark.timing import quartiles

RECIPE = "rand-m9-mstd0.5-inc1"
SIZE = 224
BICUBIC = Image.Resampling.BICUBIC


def write_images(folder, number, height=350, width=400):
    """Writes JPEGs with structure at several scales and texture; returns their paths."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(number):
        image = np.full((height, width, 3), 120.0)
        for cells, contrast in ((4, 60), (12, 30), (40, 18)):
            for channel in range(3):
                coarse = Image.fromarray(rng.standard_normal((cells, cells), "float32"))
                image[..., channel] += contrast * np.asarray(
                    coarse.resize((width, height), BICUBIC)
                )
        texture = 12 * rng.standard_normal((height, width, 1))
        image += texture * np.abs(image[..., :1] - 120) / 60
        paths.append(str(pathlib.Path(folder, f"{i}.jpg")))
        Image.fromarray(np.clip(image, 0, 255).astype("uint8")).save(paths[-1], quality=90)
    return paths


def timm_rand_augment():
    """timm and its RandAugment for the recipe, or None if timm is not installed."""
    found = importlib.util.find_spec("timm")
    if found is None:
        return None
    path = pathlib.Path(found.submodule_search_locations[0], "data", "auto_augment.py")
    spec = importlib.util.spec_from_file_location("timm_auto_augment", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # timm asks for 0 bits now and then, which Pillow refuses of late.
    posterize = module.NAME_TO_OP["PosterizeIncreasing"]
    module.NAME_TO_OP["PosterizeIncreasing"] = lambda image, bits, **how: (
        posterize(image, bits, **how) if bits else image.point([0] * 768)
    )
    hparams = {"img_mean": (124, 116, 104), "interpolation": BICUBIC}
    return module.rand_augment_transform(RECIPE, hparams)


def pillow_decode(path):
    return Image.open(path).convert("RGB")


def pillow_crop(path):
    """The random-resized crop and flip of timm and torchvision."""
    image = pillow_decode(path)
    width, height = image.size
    for _ in range(10):
        area = random.uniform(0.08, 1) * width * height
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if w <= width and h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            break
    else:  # these images are of an allowed ratio
        left, top, w, h = 0, 0, width, height
    image = image.crop((left, top, left + w, top + h)).resize((SIZE, SIZE), BICUBIC)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


def pillow_contenders(paths):
    """Functions without arguments that prepare all images once, by name."""

    def over_all(function):
        def run():
            for path in paths:
                np.asarray(function(path))

        return run

    contenders = {
        "Pillow: JPEG decode": over_all(pillow_decode),
        "Pillow: decode, crop, resize, flip": over_all(pillow_crop),
    }
    augment = timm_rand_augment()
    if augment is not None:
        contenders["Pillow and timm: the same with RandAugment"] = over_all(
            lambda path: augment(pillow_crop(path))
        )
    return contenders


def our_contenders(paths, cores):
    """Functions without arguments that prepare all images once, by name."""
    import tensorflow as tf

    from keras_sepvit.classification.images import TrainTransform
    from keras_sepvit.training.images import decode

    tf.config.threading.set_inter_op_parallelism_threads(cores)
    tf.config.threading.set_intra_op_parallelism_threads(cores)
    options = tf.data.Options()
    options.threading.private_threadpool_size = cores
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    # Both would prepare images during another contender's turn.
    options.experimental_optimization.inject_prefetch = False
    options.experimental_optimization.map_and_batch_fusion = False

    def over_all(transform):
        def prepare(index, path):
            seed = tf.cast(tf.stack([0, index]), tf.int32)
            return transform(tf.io.read_file(path), seed)

        data = tf.data.Dataset.from_tensor_slices(paths).repeat().enumerate()
        data = data.map(prepare, num_parallel_calls=cores if cores > 1 else None)
        batches = iter(data.batch(len(paths)).with_options(options))
        return lambda: next(batches)

    return {
        "keras_sepvit: JPEG decode": over_all(lambda image, seed: decode(image)),
        "keras_sepvit: decode, crop, resize, flip": over_all(
            TrainTransform(SIZE, auto_augment=None, color_jitter=0)
        ),
        "keras_sepvit: the same with RandAugment": over_all(
            TrainTransform(SIZE, auto_augment=RECIPE)
        ),
    }


def measure(contenders, images, rounds):
    """Times all contenders in turn; returns one row for each."""
    seconds = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    peer = list(contenders)[-1]
    rows = []
    for name, times in seconds.items():
        pairs = zip(seconds[peer], times, strict=True)
        rows.append(
            {
                "name": name,
                "images_per_second": quartiles([images / own for own in times]),
                "ratio": quartiles([theirs / own for theirs, own in pairs])["median"],
                "peer": peer,
            }
        )
    return rows


def markdown(rows):
    """The rows as a Markdown table, with the machine and versions."""
    cells = [
        [
            row["name"],
            "{median:.0f} ({low:.0f} to {high:.0f})".format(**row["images_per_second"]),
            f"{row['ratio']:.2f}x",
        ]
        for row in rows
    ]
    header = [f"JPEGs to {SIZE} x {SIZE}", "images/s a core (quartiles)", "speed"]
    return (
        f"{markdown_table(header, cells)}\n\nSpeed 1 is '{rows[0]['peer']}'.\n\n"
        f"{sentences(machine(), ('tensorflow', 'pillow', 'timm'))}"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--cores", type=int, default=1, help="cores that TensorFlow may use; rates are for one"
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON lines")
    parser.add_argument("--page", action="store_true", help="fill the table of docs/training.md")
    options = parser.parse_args()

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.cores :])
    random.seed(0)
    np.random.seed(0)  # timm draws from it
    with tempfile.TemporaryDirectory(prefix="keras_sepvit_images_") as folder:
        paths = write_images(folder, options.images)
        contenders = {**our_contenders(paths, options.cores), **pillow_contenders(paths)}
        rows = measure(contenders, options.images, options.rounds)
    print("\n".join(map(json.dumps, rows)) if options.json else markdown(rows))
    if options.page:
        made = f"Command: `python benchmarks/input_pipeline.py --page`; commit {commit()}."
        fill_page(ROOT / "docs" / "training.md", {"pipeline": f"{markdown(rows)}\n\n{made}"})


if __name__ == "__main__":
    main()
