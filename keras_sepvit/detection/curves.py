"""Precision by recall, as a picture."""

import numpy as np

from keras_sepvit.fonts import legible, short
from keras_sepvit.visualize.arguments import colour_of

_CLASSES = 20  # that can be told apart


def draw_precision(path, precision, class_names, what="precision by recall"):
    """Draws precision by recall for each class, and the mean of all.

    Of many classes those with the lowest average precision are shown, and the title says so.

    Args:
        path: The PNG file to write.
        precision: Array (101, classes) of 0..1, by recall from 0 to 1; -1 for classes without
            objects, one at least has some.
        class_names: Names of the classes.
        what: The title's beginning.
    """
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    recall = np.linspace(0, 1, len(precision))
    known = np.flatnonzero(precision.min(axis=0) >= 0)
    average = 100 * precision.mean(axis=0)
    shown = known[np.argsort(average[known], kind="stable")]
    title = f"{what}, IoU 0.5"
    if len(shown) > _CLASSES:
        title += f": the {_CLASSES} of {len(shown):,} classes with the lowest AP50"
        shown = shown[:_CLASSES]
    names, font = legible(class_names)
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axis = figure.subplots()
    axis.set_facecolor("0.92")  # pale colours of classes would not be seen on white
    for number in shown:
        label = f"{short(names[number])}, AP50 {average[number]:.1f}"
        colour = np.divide(colour_of(number), 255)
        axis.plot(recall, precision[:, number], color=colour, label=label)
    label = f"mean of {len(known):,}, AP50 {average[known].mean():.1f}"
    axis.plot(recall, precision[:, known].mean(axis=1), "k", linewidth=2.5, label=label)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("recall")
    axis.set_ylabel("precision")
    axis.set_title(title, fontsize=10)
    axis.grid(color="white")
    legend = figure.legend(
        loc="outside right upper", prop=FontProperties(fname=font, size=8), framealpha=0
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.savefig(path, dpi=100)
