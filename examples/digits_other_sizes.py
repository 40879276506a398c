"""Reads held-out digits at other image sizes, with the weights of 32 x 32 and no fine-tuning.

    python examples/digits_other_sizes.py
    python examples/digits_other_sizes.py --weights outputs/quickstart/digits.keras

The images of a size are the 8 x 8 scans of the quick start's held-out fifth, resized to it by
bilinear interpolation: at twice the size strokes are twice as wide, and a rectangle stretches
the digits. A model takes them in one of two ways. Its windows scale with the image, so that
every weight fits. Or they stay as they are at 32 x 32 (`pad_windows=True`): maps are padded to
whole windows, window tokens are resized, and blocks that had one window and now have several
get random weights for the attention among windows, drawn anew for each seed.

Prints a table in Markdown. The backend is that of `KERAS_BACKEND`.
"""

import argparse
import warnings

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_sepvit import SepViT
from keras_sepvit.configs import DIGITS_CONFIG
from keras_sepvit.geometry import scale_windows

CLASSES = 10
SIZES = (
    *((side, side) for side in (24, 28, 32, 36, 40, 48, 64, 96)),
    (32, 64),
    (64, 32),
)


def held_out_digits(height, width):
    """The quick start's held-out fifth at another size.

    Returns:
        Images (uint8 of 0..255, of shape (360, height, width, 3)) and labels
        (int of 0..9).
    """
    scans, labels = load_digits(return_X_y=True)
    _, scans, _, labels = train_test_split(
        scans, labels, test_size=0.2, stratify=labels, random_state=0
    )
    scans = scans.reshape(-1, 8, 8, 1).astype("float32") * (255 / 16)
    images = keras.ops.convert_to_numpy(keras.ops.image.resize(scans, (height, width)))
    return np.rint(images).astype("uint8").repeat(3, axis=-1), labels


def accuracy(weights, images, labels, pad_windows=False):
    """Accuracy in percent of the digits model, built for the images' size.

    Args:
        weights: As in the constructors.
        images, labels: As of `held_out_digits`.
        pad_windows: Keep the windows instead of scaling them.
    """
    with warnings.catch_warnings():
        # That tokens are resized, and some weights random, is what is measured.
        warnings.filterwarnings("ignore", "Loaded .* of the model's")
        model = SepViT(
            DIGITS_CONFIG,
            classes=CLASSES,
            input_shape=images.shape[1:],
            weights=weights,
            pad_windows=pad_windows,
        )
    predictions = model.predict(images, batch_size=len(images), verbose=0).argmax(axis=1)
    return 100 * np.mean(predictions == labels)


def windows_scale(height, width):
    """Whether the windows of 32 x 32 scale to this size."""
    try:
        scale_windows(DIGITS_CONFIG.window_sizes, DIGITS_CONFIG.image_size, height, width)
    except ValueError:
        return False
    return True


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="digits", help="a name or a file")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the random weights")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, not {options.seeds}")

    print("| image | windows scaled, % | windows kept, %: mean (lowest to highest) |")
    print("|---|---|---|")
    for height, width in SIZES:
        images, labels = held_out_digits(height, width)
        scaled = "do not scale"
        if windows_scale(height, width):
            scaled = f"{accuracy(options.weights, images, labels):.2f}"
        kept = []
        for seed in range(options.seeds):
            keras.utils.set_random_seed(seed)
            kept.append(accuracy(options.weights, images, labels, pad_windows=True))
        print(
            f"| {height} x {width} | {scaled} "
            f"| {np.mean(kept):.2f} ({min(kept):.2f} to {max(kept):.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
