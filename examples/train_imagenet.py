"""Trains a SepViT on ImageNet with the paper's recipe, and evaluates it.

    python examples/train_imagenet.py --variant t --data-dir /data --output runs/t

needs the ImageNet archives prepared by TensorFlow Datasets (the error without them says where to
put what). It prints Keras's progress bars, and in the end

    best.keras: top-1 ... %, top-5 ... % of 50000 images

Started again after a stop, it goes on. `--try-out` times some batches through everything
instead, and prints what a long run would be like. The backend is that of
`KERAS_BACKEND`. `keras-sepvit train imagenet_t` does the same from the shell.
"""

import argparse
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras

from keras_sepvit.classification import evaluate
from keras_sepvit.training import Trainer, load_recipe, open_source
from keras_sepvit.training.dry_run import dry_run


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", choices=("lite", "t", "s", "b"), default="t")
    parser.add_argument("--data-dir", help="folder of TensorFlow Datasets")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/imagenet"))
    parser.add_argument("--batch-size", type=int, default=1024, help="over all devices")
    parser.add_argument("--try-out", action="store_true")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="changes to the recipe")
    options = parser.parse_args()

    changes = [f"batch_size={options.batch_size}", *options.changes]
    if options.data_dir:
        changes.insert(0, f"data.data_dir={options.data_dir}")
    recipe = load_recipe(f"imagenet_{options.variant}", changes)
    trainer = Trainer(recipe, options.output)
    if options.try_out:
        for what, value in dry_run(trainer).items():
            print(f"{what}: {value}")
        return
    trainer.train()

    model = keras.saving.load_model(options.output / "best.keras")
    source = open_source(recipe.data.name, recipe.data.validation_split, recipe.data.data_dir)
    size = (recipe.model.image_size,) * 2
    result = evaluate(model, source, image_size=size, crop=recipe.data.validation_crop)
    scores = f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %"
    print(f"best.keras: {scores} of {result['images']} images")


if __name__ == "__main__":
    main()
