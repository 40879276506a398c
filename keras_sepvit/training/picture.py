"""Pictures of a run: an augmented batch, as the network sees it, and learning curves."""

import keras
import numpy as np

from keras_sepvit.files import replacing

SHOWN = 16


def draw_batch(path, augmentation, images, labels, class_names=None):
    """Draws the first images of a batch as the network gets them, with their targets.

    The random state of the augmentation stays as it was.

    Args:
        path: The PNG file to write.
        augmentation: A `BatchAugmentation`.
        images: uint8 array (batch, height, width, 3) of the input pipeline.
        labels: Int array (batch,).
        class_names: Names of the classes; numbers are shown without.
    """
    from matplotlib.figure import Figure

    state = keras.ops.convert_to_numpy(augmentation.seed_generator.state)
    images, targets = augmentation(images, labels, training=True)
    augmentation.seed_generator.state.assign(state)
    images = np.clip(keras.ops.convert_to_numpy(images[:SHOWN]), 0, 255).astype("uint8")
    targets = keras.ops.convert_to_numpy(targets[:SHOWN])

    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, image, target in zip(axes, images, targets, strict=False):
        axis.imshow(image)
        axis.set_title(_title(target, class_names), fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)


def draw_curves(path, history):
    """Draws losses and accuracies by epoch.

    Args:
        path: The PNG file to write.
        history: The logs of the epochs, as in `TrainingResult`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [logs["epoch"] + 1 for logs in history]
    for axis, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axis.plot(epochs, [logs[name] for logs in history], label="training, augmented")
        if f"val_{name}" in history[0]:
            axis.plot(epochs, [logs[f"val_{name}"] for logs in history], label="validation")
        axis.set_xlabel("epoch")
        axis.set_title(name)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend()
        if name == "accuracy":
            axis.set_ylim(0, 1.02)
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)


def _title(target, class_names):
    """The one or two classes that were mixed; the rest is label smoothing."""
    best = np.argsort(target)[::-1][:2]
    if target[best[1]] < target.min() + 0.01:
        best = best[:1]
    names = [class_names[i] if class_names else f"class {i}" for i in best]
    return "\n".join(f"{name[:24]} {target[i]:.0%}" for name, i in zip(names, best, strict=True))
