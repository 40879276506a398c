"""Pictures of a run: learning curves, images in a grid, confusion matrices."""

import numpy as np

from keras_sepvit.files import replacing
from keras_sepvit.fonts import legible, short

SHOWN = 16
_COLUMNS = 4
_GAP = 4  # pixels between photos of a page
_CLASSES = 40  # of a confusion matrix that can be read


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

    images = np.clip(np.asarray(images[:SHOWN]), 0, 255).astype("uint8")
    columns = min(_COLUMNS, len(images))
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


def page_of(arrays, value):
    """Arrays of one size in rows of four, with gaps.

    Args:
        arrays: uint8 (height, width, ...), at least one.
        value: What the gaps hold, and the places without one.

    Returns:
        uint8 (page's height, page's width, ...).
    """
    height, width, *rest = arrays[0].shape
    rows, columns = -(-len(arrays) // _COLUMNS), min(_COLUMNS, len(arrays))
    size = rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP
    page = np.full((*size, *rest), value, "uint8")
    for number, array in enumerate(arrays):
        row, column = divmod(number, _COLUMNS)
        top, left = row * (height + _GAP), column * (width + _GAP)
        page[top : top + height, left : left + width] = array
    return page


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
                values = [logs.get(key, np.nan) for logs in history]
                # A line alone shows no single epoch, nor one between two without the result.
                axis.plot(epochs, values, marker=".", label=label)
        axis.set_xlabel("epoch")
        axis.set_title(title)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axis.lines:
            axis.legend()
    shares.set_ylim(0, 102)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)


def draw_confusion(path, matrix, class_names, percent=False, title=""):
    """Draws a confusion matrix: numbers, and the share of each row as colour.

    Of many classes those with the most mistakes are shown, and the title says so.

    Args:
        path: The PNG file to write.
        matrix: Ints (classes, classes): how many of a class, by row, were taken for one, by column.
        class_names: Names of the classes.
        percent: Whether the numbers are the shares, from half a percent on.
        title: Text above.
    """
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    shown = np.arange(len(matrix))
    if len(matrix) > _CLASSES:
        wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
        mistakes = wrong.sum(axis=0) + wrong.sum(axis=1)
        shown = np.sort(np.argsort(-mistakes, kind="stable")[:_CLASSES])
        more = f"the {_CLASSES} of {len(matrix):,} classes with the most mistakes"
        title = "\n".join(filter(None, (title, more)))
    counts = matrix[np.ix_(shown, shown)]
    shares = counts / np.maximum(matrix[shown].sum(axis=1, keepdims=True), 1)
    class_names, font = legible(class_names)
    names = [short(class_names[number]) for number in shown]
    side = 1.5 + max(2.5, 0.36 * len(shown)) + 0.07 * max(map(len, names))
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{100 * shares[row, column]:.0f}" if percent else f"{counts[row, column]:,}"
        if text == "0":
            continue
        size = min(9, 26 / len(text))
        axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    ticks = np.arange(len(shown))
    label = {"font": FontProperties(fname=font, size=8), "parse_math": False}
    axis.set_xticks(ticks, names, rotation=90, **label)
    axis.set_yticks(ticks, names, **label)
    axis.set_xlabel("taken for")
    axis.set_ylabel("true class" + percent * ", in % of it")
    axis.set_title(title, fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)
