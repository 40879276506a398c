"""Accuracy by epoch and by second, with the spread of seeds."""

import numpy as np

from keras_sepvit.files import replacing


def draw_curves(path, results):
    """Draws the mean of the seeds as a line, and from lowest to highest as a band.

    Args:
        path: The PNG file to write.
        results: Lists of what runs left, one a seed, by title.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.6), layout="constrained")
    by_epoch, by_second = figure.subplots(1, 2, sharey=True)
    for number, (title, of_seeds) in enumerate(results.items()):
        top1 = np.array([result["top1"] for result in of_seeds])
        seconds = np.median([result["seconds"] for result in of_seeds], axis=0)
        style = {"color": f"C{number}", "linestyle": "--" if "Swin" in title.split(",")[0] else "-"}
        for axis, x in ((by_epoch, np.arange(1, top1.shape[1] + 1)), (by_second, seconds)):
            axis.plot(x, top1.mean(axis=0), label=title, **style)
            axis.fill_between(
                x, top1.min(axis=0), top1.max(axis=0), color=style["color"], alpha=0.12
            )
    by_epoch.set(xlabel="epoch", ylabel="top-1 on test pictures, %")
    by_second.set(xlabel="seconds of training")
    for axis in (by_epoch, by_second):
        axis.grid(alpha=0.3)
    handles, labels = by_epoch.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)
