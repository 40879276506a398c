"""A picture of throughput against the size of networks."""

from keras_sepvit.files import replacing
from peers.catalogue import CATALOGUE, TOP1

# Of a panel's width and height: what a name covers.
NAME_WIDTH, NAME_HEIGHT = 0.2, 0.06

# An axis is logarithmic where its largest value is so many times the smallest.
WIDE = 5

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
    speeds = {backend: {} for backend in backends}
    for row in record["rows"]:
        of_row = row["task"], row["precision"], row["batch_size"]
        if row.get("best_mode") and of_row == (task, precision, batch_size):
            speeds[row["backend"]][row["model"]] = row["images_per_second"]
    for column, (key, (label, unit)) in zip(panels.T, SIZES.items(), strict=True):
        sizes = {
            backend: {
                name: facts[key] / unit
                for name, facts in record["backends"][backend]["models"].items()
                if key in facts and name in speeds[backend]
            }
            for backend in backends
        }
        _scale(column[0], "x", [size for own in sizes.values() for size in own.values()])
        for axis, backend in zip(column, backends, strict=True):
            _scale(axis, "y", speeds[backend].values())
            _draw_points(axis, sizes[backend], speeds[backend])
        column[-1].set_xlabel(label)
    for axis, backend in zip(panels[:, 0], backends, strict=True):
        axis.set_ylabel(f"{backend}: images/s")
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


def _scale(axis, name, values):
    """Scales an axis, `"x"` or `"y"`, to values, with room for names behind them."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if not values:
        return
    low, high = min(values), max(values)
    if high < WIDE * low:
        axis.set(**{f"{name}lim": (0, 1.3 * high)})
        return
    room = (high / low) ** 0.1
    axis.set(**{f"{name}scale": "log", f"{name}lim": (low / room, high * room**3)})
    ticks = getattr(axis, f"{name}axis")
    ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ticks.set_major_formatter(StrMethodFormatter("{x:g}"))
    ticks.set_minor_formatter(NullFormatter())


def _draw_points(axis, sizes, speeds):
    """Networks by size and speed, each with its name beside it, or above where others are."""
    axis.grid(alpha=0.3)
    placed = []
    for name in sorted(sizes, key=speeds.get):
        point, title = (sizes[name], speeds[name]), CATALOGUE[name].title
        ours = title.startswith("SepViT")
        axis.plot(*point, "o", color="tab:blue" if ours else "tab:gray")
        # In shares of the panel.
        left, at = axis.transAxes.inverted().transform(axis.transData.transform(point))
        name_at = at
        for other, other_at in sorted(placed, key=lambda other: other[1]):
            if abs(left - other) < NAME_WIDTH and abs(name_at - other_at) < NAME_HEIGHT:
                name_at = other_at + NAME_HEIGHT
        placed.append((left, name_at))
        axis.annotate(
            title,
            point,
            (left + (0.015 if name_at == at else 0.05), name_at),
            textcoords="axes fraction",
            fontsize=8,
            fontweight="bold" if ours else "normal",
            verticalalignment="center",
            arrowprops=None if name_at == at else {"arrowstyle": "-", "linewidth": 0.5},
        )
