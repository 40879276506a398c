"""A picture of throughput against the size of models."""

from keras_sepvit.files import replacing


def draw_throughput(path, record):
    """Draws images/s against parameters and against MACs, of the best modes.

    The points are those of the task, batch size and precision that a run's first group of
    each backend has: of the largest batch size, the first task and the first precision.

    Args:
        path: The PNG file to write.
        record: As `markdown` takes it.
    """
    from matplotlib.figure import Figure

    settings = record["settings"]
    task, precision = settings["tasks"][0], settings["precisions"][0]
    batch_size = max(settings["batch_sizes"])
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for backend, marker in zip(record["backends"], "osD", strict=False):
        points = [
            (row, record["backends"][backend]["models"][row["model"]])
            for row in record["rows"]
            if row.get("best_mode")
            and (row["backend"], row["task"], row["precision"], row["batch_size"])
            == (backend, task, precision, batch_size)
        ]
        points = [(row, model) for row, model in points if "macs" in model]
        for axis, key, unit in zip(panels, ("parameters", "macs"), (1e6, 1e9), strict=True):
            sizes = [model[key] / unit for _, model in points]
            speeds = [row["images_per_second"] for row, _ in points]
            axis.plot(sizes, speeds, marker, label=backend, alpha=0.8)
            for (row, _), size, speed in zip(points, sizes, speeds, strict=True):
                bold = "bold" if row["title"].startswith("SepViT") else "normal"
                axis.annotate(
                    row["title"],
                    (size, speed),
                    xytext=(4, 3),
                    textcoords="offset points",
                    fontsize=7,
                    fontweight=bold,
                )
    panels[0].set(xlabel="parameters, million", ylabel="images/s")
    panels[1].set(xlabel="multiply-accumulates of an image, billion")
    for axis in panels:
        axis.grid(alpha=0.3)
        axis.set_xlim(0, 1.2 * axis.get_xlim()[1])  # room for the names
    panels[0].set_ylim(0, 1.1 * panels[0].get_ylim()[1])  # of both
    panels[1].legend(loc="lower left")
    figure.suptitle(f"{task}, batch {batch_size}, {precision}, best mode")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
