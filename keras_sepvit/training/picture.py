"""Pictures of a run: learning curves, and images in a grid."""

import numpy as np

from keras_sepvit.files import replacing

SHOWN = 16


def draw_images(path, images, titles, font=None):
    """Draws the first images of a batch.

    Args:
        path: The PNG file to write.
        images: Array (batch, height, width, 3) of 0..255.
        titles: Text above each.
        font: The file of the titles' font; None for matplotlib's.
    """
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    images = np.clip(images[:SHOWN], 0, 255).astype("uint8")
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, image, title in zip(axes, images, titles, strict=False):
        axis.imshow(image)
        axis.set_title(title, font=FontProperties(fname=font, size=8), parse_math=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)


def draw_curves(path, history, results):
    """Draws the losses and the results of validation by epoch.

    Args:
        path: The PNG file to write.
        history: The logs of the epochs, as in `TrainingResult`.
        results: Names of the results to show, in percent.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [logs["epoch"] for logs in history]
    losses, shares = figure.subplots(1, 2)
    labels = {"loss": "training, augmented", "val_loss": "validation"}
    for axis, title, curves in (
        (losses, "loss", labels),
        (shares, "validation, %", {f"val_{name}": name for name in results}),
    ):
        for key, label in curves.items():
            if key in history[-1]:
                axis.plot(epochs, [logs.get(key, np.nan) for logs in history], label=label)
        axis.set_xlabel("epoch")
        axis.set_title(title)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axis.lines:
            axis.legend()
    shares.set_ylim(0, 102)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)
