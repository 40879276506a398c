"""Fine-tunes trained weights on a folder of class folders.

    python examples/finetune.py

makes such a folder of scikit-learn's digits, `even` and `odd`, and teaches the packaged reader of
ten digits to tell the two apart. It prints, under Keras's progress bars,

    Trained 8 epochs; 99.17 % of the validation images right
    Models, curves and a picture of a batch are in runs/finetune

Your own images and weights:

    python examples/finetune.py photos --variant sepvit_t --weights t.weights.h5 --image-size 224

where `photos/train/CLASS` and `photos/validation/CLASS` hold the images. The backend is that of
`KERAS_BACKEND`.
"""

import argparse
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from PIL import Image

from keras_sepvit.training import Trainer, load_recipe, open_source


def write_even_and_odd(folder):
    """Writes the digits as PNG files: folder/split/class/number.png."""
    for split in ("train", "validation"):
        for number, example in enumerate(
            open_source("digits", split).examples(0, seed=0, shuffle=False)
        ):
            path = folder / split / ("even", "odd")[example["label"] % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(example["image"].numpy()).save(path)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "images", nargs="?", type=pathlib.Path, help="by default even and odd digits"
    )
    parser.add_argument("--variant", default="sepvit_digits")
    parser.add_argument("--weights", default="digits", help="a file, or the name of weights")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/finetune"))
    options = parser.parse_args()

    changes = [
        f"model.variant={options.variant}",
        f"model.weights={options.weights}",
        f"model.image_size={options.image_size}",
        f"epochs={options.epochs}",
    ]
    if options.images is None:
        options.images = options.output.with_name("even_and_odd")
        if not options.images.exists():
            write_even_and_odd(options.images)
        changes += [
            "data.validation_crop=1",
            "data.interpolation=bilinear",
            "augmentation.crop_scale=[0.8,1]",
            "augmentation.flip=0",
            "augmentation.auto_augment=rand-m3-mstd0.5-inc1",
            "optimizer.learning_rate=1e-3",
        ]
    recipe = load_recipe("finetune", [f"data.name=folder:{options.images}", *changes])
    result = Trainer(recipe, options.output).train()
    right = result.history[-1]["val_top1"]
    print(f"Trained {result.epochs} epochs; {right:.2f} % of the validation images right")
    print(f"Models, curves and a picture of a batch are in {result.folder}")


if __name__ == "__main__":
    main()
