"""A picture of throughput against the size of networks."""

from keras_sepvit.files import replacing
from peers.catalogue import CATALOGUE, TOP1

# Of an axis's width and height: what a name covers.
NAME_WIDTH, NAME_HEIGHT = 0.2, 0.06

SIZES = {
    "parameters": ("parameters, million", 1e6),
    "macs": ("multiply-accumulates of an image, billion", 1e9),
}


def draw_throughput(path, record):
    """Draws images/s against parameters and against MACs, a row of panels a backend.

    The points are best modes, at the largest batch size, the first task and the first
    precision of the run.

    Args:
        path: The PNG file to write.
        record: As `report` leaves it.
    """
    from matplotlib.figure import Figure

    settings = record["settings"]
    task, precision = settings["task"][0], settings["precision"][0]
    batch_size = max(settings["batch_sizes"])
    backends = list(record["backends"])
    figure = Figure(figsize=(11, 0.8 + 3.4 * len(backends)), layout="constrained")
    panels = figure.subplots(len(backends), 2, sharey="row", sharex="col", squeeze=False)
    for backend, row_of_panels in zip(backends, panels, strict=True):
        wanted = (backend, task, precision, batch_size)
        rows = [
            row
            for row in record["rows"]
            if row.get("best_mode")
            and (row["backend"], row["task"], row["precision"], row["batch_size"]) == wanted
        ]
        models = record["backends"][backend]["models"]
        for axis, (key, (_, unit)) in zip(row_of_panels, SIZES.items(), strict=True):
            points = [
                (
                    models[row["model"]][key] / unit,
                    row["images_per_second"],
                    CATALOGUE[row["model"]].title,
                )
                for row in rows
                if key in models[row["model"]]
            ]
            _draw_points(axis, points)
        row_of_panels[0].set_ylabel(f"{backend}: images/s")
    for axis, (label, _) in zip(panels[-1], SIZES.values(), strict=True):
        axis.set_xlabel(label)
    figure.suptitle(f"{task}, batch {batch_size}, {precision}, best mode")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def draw_accuracy(path, record):
    """Draws published accuracy against measured latency (the paper's figure 1), a panel a backend.

    Latency is that of the best mode at the smallest batch size.

    Args:
        path: The PNG file to write.
        record: As `report` leaves it.
    """
    from matplotlib.figure import Figure

    settings = record["settings"]
    batch_size = min(settings["batch_sizes"])
    backends = list(record["backends"])
    figure = Figure(figsize=(0.6 + 6 * len(backends), 4.6), layout="constrained")
    (panels,) = figure.subplots(1, len(backends), sharey=True, squeeze=False)
    for axis, backend in zip(panels, backends, strict=True):
        axis.grid(alpha=0.3)
        axis.set_xlabel(f"{backend}: ms, batch {batch_size}, {settings['precision'][0]}")
        for row in record["rows"]:
            if (row["backend"], row["batch_size"]) != (backend, batch_size):
                continue
            if not row.get("best_mode") or row["model"] not in TOP1:
                continue
            title = CATALOGUE[row["model"]].title
            ours = title.startswith("SepViT")
            point = row["ms"]["turn"]["median"], TOP1[row["model"]]
            axis.plot(*point, "o", color="tab:blue" if ours else "tab:gray")
            weight = "bold" if ours else "normal"
            axis.annotate(
                title,
                point,
                (4, 3),
                textcoords="offset points",
                fontsize=8,
                fontweight=weight,
            )
        axis.set_xlim(0, 1.2 * axis.get_xlim()[1])
    panels[0].set_ylabel("top-1 on ImageNet-1K, %, as published")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_points(axis, points):
    axis.grid(alpha=0.3)
    if not points:
        return
    # Panels of a column share their sizes: the widest decides.
    width = max(axis.get_xlim()[1], 1.3 * max(size for size, *_ in points))
    height = 1.2 * max(speed for _, speed, _ in points)
    axis.set(xlim=(0, width), ylim=(0, height))
    placed = []
    for size, speed, title in sorted(points, key=lambda point: point[1]):
        ours = title.startswith("SepViT")
        axis.plot(size, speed, "o", color="tab:blue" if ours else "tab:gray")
        name_at = speed
        for other_size, other_at in sorted(placed, key=lambda other: other[1]):
            near = abs(size - other_size) < NAME_WIDTH * width
            if near and abs(name_at - other_at) < NAME_HEIGHT * height:
                name_at = other_at + NAME_HEIGHT * height
        placed.append((size, name_at))
        axis.annotate(
            title,
            (size, speed),
            (size + 0.012 * width, name_at),
            fontsize=8,
            fontweight="bold" if ours else "normal",
            verticalalignment="center",
        )
