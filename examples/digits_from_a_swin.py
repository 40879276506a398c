"""Three ways to begin with few pictures: random weights, a Swin's weights, a Swin as the teacher.

    pip install "keras-sepvit[train,hub]" tensorflow
    python examples/digits_from_a_swin.py

trains a small Swin of KerasHub's on scikit-learn's handwritten digits, and SepViTs of its widths on
a fifth of them: from random weights, started from the Swin's, taught by it, and both. Prints what
each reads right of the digits that none has seen. Ten minutes on one core. In the Swin's place
stands, in earnest, one of ImageNet (`model.warm_start=swin_tiny_patch4_window7_224`, a preset of
KerasHub), or one that has been fine-tuned on the classes in question.
"""

import argparse
import pathlib

import keras
import keras_hub
import numpy as np
from keras import layers

from keras_sepvit.training import Trainer, load_recipe
from keras_sepvit.training.sources.digits import BRIGHTEST, load_digits_split

SIDE = 64
BATCH = 64

# SepViT-Lite on images of 64 x 64, where each pixel of a scan is one of 8 x 8.
SEPVIT = (
    "model.variant=sepvit_lite",
    f"model.image_size={SIDE}",
    # The Swin has seen these among others, and nobody those of `validation`.
    "data.train_split=validation-fold1",
    "optimizer.learning_rate=1e-3",
    "optimizer.warmup_epochs=2",
    "batch_size=32",
    "ema_decay=null",
)
WAYS = {
    "random weights": (),
    "warm start": ("model.warm_start={swin}",),
    "teacher": ("distill.teacher={swin}", "distill.weight=0.5"),
    "warm start and teacher": (
        "model.warm_start={swin}",
        "distill.teacher={swin}",
        "distill.weight=0.5",
    ),
}


def images_of(split):
    """Scans as RGB images of 0..255, and their labels."""
    scans, labels = load_digits_split(split)
    pixels = np.rint(scans[..., None] * (255 / BRIGHTEST)).astype("uint8")
    return pixels.repeat(SIDE // 8, 1).repeat(SIDE // 8, 2).repeat(3, -1), labels


def train_swin(path, epochs):
    """Trains a Swin of SepViT-Lite's widths, and saves it; returns its accuracy in percent."""
    swin = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            layers.Rescaling(1 / 127.5, offset=-1),
            keras_hub.models.SwinTransformerBackbone(
                image_shape=(SIDE, SIDE, 3),
                embed_dim=32,
                depths=(2, 2, 6, 2),
                num_heads=(1, 2, 4, 8),
                window_size=2,
            ),
            layers.GlobalAveragePooling1D(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    images, labels = images_of("train")
    steps = epochs * -(-len(images) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.05)
    swin.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    swin.fit(images, labels, batch_size=BATCH, epochs=epochs, verbose=2)
    swin.save(path)
    return 100 * swin.evaluate(*images_of("validation"), verbose=0)[1]


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/from_a_swin"))
    parser.add_argument("--swin-epochs", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    swin = options.output / "swin.keras"
    results = {"the Swin": train_swin(swin, options.swin_epochs)}
    for way, changes in WAYS.items():
        changes = [change.format(swin=swin) for change in changes]
        recipe = load_recipe("digits", [*SEPVIT, f"epochs={options.epochs}", *changes])
        trained = Trainer(recipe, options.output / way.replace(" ", "_")).train(verbose=2)
        results[way] = trained.history[-1]["val_top1"]
    for way, top1 in results.items():
        print(f"{way}: {top1:.1f} % of the held-out digits right")


if __name__ == "__main__":
    main()
