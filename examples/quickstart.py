"""Trains a small SepViT on handwritten digits, and looks at what it has learned.

    python examples/quickstart.py

prints, under Keras's progress bars, with the TensorFlow backend:

    1437 digits to train on, 360 held out
    Saved outputs/quickstart/digits.keras; loaded again, it predicts the same
    Accuracy on held-out digits: 99.72% (359 right)
    Drew outputs/quickstart/quickstart.png

The data are the 8 x 8 scans of scikit-learn's `load_digits`, of which a stratified fifth is
held out; nothing is downloaded. The picture shows the learning curves, held-out digits with
their predictions, and the attention among windows. The backend is that of `KERAS_BACKEND`
(`tensorflow` if unset, `jax` or `torch`); tf.data feeds all three.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_sepvit import SepViT
from keras_sepvit.configs import DIGITS_CONFIG
from keras_sepvit.files import replacing

CLASSES = 10
IMAGE_SIZE = DIGITS_CONFIG.image_size
BATCH_SIZE = 64


def load_images():
    """The digits as RGB images, always divided in the same way.

    Returns:
        Training images and held-out images (uint8 of 0..255, of shape
        (count, 32, 32, 3)), training labels and held-out labels (int of 0..9).
    """
    scans, labels = load_digits(return_X_y=True)
    scans = scans.reshape(-1, 8, 8, 1).astype("float32") * (255 / 16)
    images = keras.ops.image.resize(scans, (IMAGE_SIZE, IMAGE_SIZE))
    images = np.rint(keras.ops.convert_to_numpy(images)).astype("uint8").repeat(3, axis=-1)
    return train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)


def training_batches(images, labels):
    """Shuffled batches, with other small rotations, shifts and scales in every epoch."""
    border = {"fill_mode": "constant", "fill_value": 0.0}
    augment = layers.Pipeline(
        [
            layers.RandomRotation(0.04, **border),
            layers.RandomTranslation(0.1, 0.1, **border),
            layers.RandomZoom((-0.1, 0.1), (-0.1, 0.1), **border),
        ]
    )
    return (
        tf.data.Dataset.from_tensor_slices((images, keras.utils.to_categorical(labels, CLASSES)))
        .shuffle(len(images))
        .batch(BATCH_SIZE, drop_remainder=True)
        .map(lambda images, labels: (augment(images, training=True), labels))
        .prefetch(tf.data.AUTOTUNE)
    )


def held_out_batch(images, labels):
    """All the images in one batch."""
    labels = keras.utils.to_categorical(labels, CLASSES)
    return tf.data.Dataset.from_tensors((images, labels))


def train(training, held_out, epochs):
    """Trains a model on `training`, and watches `held_out`.

    Returns:
        The model, and by name the list of its losses and accuracies by epoch.
    """
    model = SepViT(
        DIGITS_CONFIG, classes=CLASSES, input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3), name="digits"
    )
    steps = epochs * len(training)
    warmup_steps = steps // 10
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=3e-3,
        warmup_steps=warmup_steps,
        decay_steps=steps - warmup_steps,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.05)
    # Before `fit`, where TensorFlow would do it inside its graph and take far longer.
    optimizer.build(model.trainable_variables)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    model.compile(optimizer, loss, metrics=["accuracy"])
    # tf.data does the shuffling.
    history = model.fit(training, validation_data=held_out, epochs=epochs, shuffle=False)
    return model, history.history


def predict(model, images):
    """The probabilities of the classes, of shape (count, 10)."""
    return model.predict(images, batch_size=len(images), verbose=0)


def window_attention(model, image):
    """The attention among windows (PSA) in a model's first block, for one image.

    Returns:
        Array of shape (rows, columns, rows, columns): for the window at the first
        two indices the weights of all windows, which sum to 1; the mean over heads.
    """
    block = model.get_layer("stage1_block1")
    features = keras.Model(model.input, block.input)
    weights = block.window_attention(features(image[np.newaxis]))
    weights = keras.ops.convert_to_numpy(weights)[0].mean(axis=0)
    rows, columns = (
        size // window
        for size, window in zip(block.input.shape[1:3], block.window_size, strict=True)
    )
    return weights.reshape(rows, columns, rows, columns)


def draw(path, history, images, labels, predictions, attention):
    """Writes the picture: learning curves, predictions, attention over the first image."""
    figure = Figure(figsize=(11, 9), layout="constrained")
    curves, digits, windows = figure.subfigures(3, 1, height_ratios=(3, 3.4, 2.4), hspace=0.04)
    draw_curves(curves, history)
    draw_predictions(digits, images, labels, predictions)
    draw_attention(windows, images[0, ..., 0], attention)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.05)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def draw_curves(figure, history):
    """Loss and accuracy by epoch."""
    figure.suptitle("Learning curves", weight="bold")
    epochs = np.arange(1, len(history["loss"]) + 1)
    for axes, metric, scale, label in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), (1, 100), ("loss", "accuracy, %"), strict=True
    ):
        axes.plot(epochs, scale * np.array(history[metric]), label="training (augmented)")
        axes.plot(epochs, scale * np.array(history[f"val_{metric}"]), label="held out")
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()


def draw_predictions(figure, images, labels, predictions, rows=3, columns=14):
    """A grid of digits under what the model takes them for, its mistakes first."""
    wrong = predictions != labels
    figure.suptitle(
        f"Held-out digits and predictions: {np.sum(~wrong)} of {len(labels)} right, "
        "mistakes first and in red",
        weight="bold",
    )
    shown = np.argsort(~wrong, kind="stable")[: rows * columns]
    for axes, index in zip(figure.subplots(rows, columns).flat, shown, strict=True):
        axes.imshow(images[index])
        axes.set_axis_off()
        if wrong[index]:
            axes.set_title(f"{predictions[index]} (is {labels[index]})", color="red", size=10)
        else:
            axes.set_title(predictions[index], size=10)


def draw_attention(figure, image, attention, shown=5):
    """How much the windows with the most ink take from each window, over the digit."""
    figure.suptitle(
        "Attention among windows (PSA) in the first block: how much the outlined window takes "
        "from every window",
        weight="bold",
    )
    rows, columns = attention.shape[:2]
    height, width = IMAGE_SIZE // rows, IMAGE_SIZE // columns
    extent = (0, IMAGE_SIZE, IMAGE_SIZE, 0)
    centers = np.arange(IMAGE_SIZE) + 0.5
    ink = image.reshape(rows, height, columns, width).sum(axis=(1, 3))
    digit_axes, *heat_axes = figure.subplots(1, 1 + shown)

    digit_axes.imshow(image, cmap="gray", extent=extent)
    digit_axes.set_title(f"{rows} x {columns} windows", size=10)
    digit_axes.set(xticks=np.arange(0, IMAGE_SIZE, width), yticks=np.arange(0, IMAGE_SIZE, height))
    digit_axes.grid(color="tab:blue")
    digit_axes.tick_params(length=0, labelbottom=False, labelleft=False)

    most_ink = np.argsort(ink, axis=None)[-shown:]
    for axes, window in zip(heat_axes, sorted(most_ink), strict=True):
        row, column = divmod(window, columns)
        heat = axes.imshow(
            attention[row, column], cmap="YlOrRd", vmin=0, vmax=attention.max(), extent=extent
        )
        axes.contour(centers, centers, image, levels=[128], colors="black")
        axes.add_patch(
            Rectangle(
                (column * width, row * height), width, height, fill=False, ec="tab:blue", lw=4
            )
        )
        axes.set_title(f"row {row + 1}, column {column + 1}", size=10)
        axes.set_axis_off()
    bar = figure.colorbar(heat, ax=heat_axes, label="weight (mean over heads)", shrink=0.9)
    bar.ax.axhline(1 / ink.size, color="tab:blue")
    bar.ax.text(-0.2, 1 / ink.size, "all equal", color="tab:blue", ha="right", va="center", size=9)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/quickstart"))
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1, not {options.epochs}")

    keras.utils.set_random_seed(options.seed)
    train_images, test_images, train_labels, test_labels = load_images()
    print(f"{len(train_images)} digits to train on, {len(test_images)} held out")
    model, history = train(
        training_batches(train_images, train_labels),
        held_out_batch(test_images, test_labels),
        options.epochs,
    )

    options.output_dir.mkdir(parents=True, exist_ok=True)
    model_path = options.output_dir / "digits.keras"
    with replacing(model_path) as temporary:
        model.save(temporary)
    loaded = keras.saving.load_model(model_path)
    probabilities = predict(loaded, test_images)
    np.testing.assert_allclose(probabilities, predict(model, test_images), atol=1e-5)
    print(f"Saved {model_path}; loaded again, it predicts the same")

    predictions = probabilities.argmax(axis=1)
    right = np.sum(predictions == test_labels)
    print(f"Accuracy on held-out digits: {right / len(test_labels):.2%} ({right} right)")

    picture_path = options.output_dir / "quickstart.png"
    attention = window_attention(loaded, test_images[0])
    draw(picture_path, history, test_images, test_labels, predictions, attention)
    print(f"Drew {picture_path}")


if __name__ == "__main__":
    main()
