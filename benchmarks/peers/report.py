"""The record of networks measured beside each other as Markdown, on top of the package's."""

from keras_sepvit.benchmark.report import (
    TASKS,
    conditions,
    markdown_table,
    notes,
    spread,
    times_tables,
)
from keras_sepvit.benchmark.timing import quartiles, ratio, round_medians
from peers.catalogue import CATALOGUE

# A training step's products over a forward pass's: the backward pass has two for each.
STEP_FACTOR = {"inference": 1, "train": 3}

COLUMNS = (
    ("GFLOP/s", lambda row: f"{row['gflops']:.0f}" if "gflops" in row else ""),
    ("share of products' rate", lambda row: f"{row['share']:.0%}" if "share" in row else ""),
)


def report(record):
    """All tables of a record, whose rows get what `compare` adds."""
    compare(record)
    titles = {name: CATALOGUE[name].title for name in record["settings"]["models"]}
    parts = [conditions(record), models_table(record), *times_tables(record, titles, COLUMNS)]
    if any("best_first_is_faster" in row for row in record["rows"]):
        parts += ["### Best mode against best mode", best_table(record["rows"], titles)]
    parts += ["### Rate of matrix products", rates_table(record), *notes(record)]
    return "\n\n".join(parts) + "\n"


def compare(record):
    """Adds to the rows of a record what depends on other programs, and on the networks' MACs.

    - `best_mode`: whether no other mode of this network and precision has a lower median
    - `best_first_is_faster`: as `first_is_faster`, between the best modes; only in their rows
    - `faster_than_float32`: ratio to this network's best mode in float32; only in rows
      of best modes in other precisions
    - `gflops`: achieved, from the MACs of the traced graph; and `share`: median over rounds
      of that over the rate of matrix products in the same round
    """
    first, rounds = record["settings"]["models"][0], record["settings"]["rounds"]
    rows = iter(record["rows"])
    for result in record["backends"].values():
        for group in result["groups"]:
            turns = {
                (row["model"], row["precision"], row["mode"]): row["turns_ms"]
                for row in group["rows"]
                if "turns_ms" in row
            }
            best = {}
            for (model, precision, mode), own in turns.items():
                median = quartiles(round_medians(own))["median"]
                best[model, precision] = min(
                    best.get((model, precision), (median, mode)), (median, mode)
                )
            best = {key: (mode, turns[*key, mode]) for key, (_, mode) in best.items()}
            for row in (next(rows) for _ in group["rows"]):
                model, precision = row["model"], row["precision"]
                if "error" in row:
                    continue
                own = turns[model, precision, row["mode"]]
                row["best_mode"] = best[model, precision][0] == row["mode"]
                if row["best_mode"] and (first, precision) in best:
                    row["best_first_is_faster"] = ratio(best[first, precision][1], own, rounds)
                if row["best_mode"] and precision != "float32" and (model, "float32") in best:
                    row["faster_than_float32"] = ratio(own, best[model, "float32"][1], rounds)
                macs = result["models"][model].get("macs")
                if macs is not None:
                    gflop = 2e-9 * macs * row["batch_size"] * STEP_FACTOR[row["task"]]
                    row["gflops"] = 1e3 * gflop / row["ms"]["turn"]["median"]
                    pairs = zip(
                        round_medians(own), group["product_gflops"].get(precision, ()), strict=False
                    )
                    shares = [1e3 * gflop / milliseconds / rate for milliseconds, rate in pairs]
                    if shares:
                        row["share"] = quartiles(shares)["median"]


def models_table(record):
    """What was built, and what is published of it."""
    found = {}
    for result in record["backends"].values():
        found |= {n: model for n, model in result["models"].items() if "parameters" in model}
    rows = []
    for name in record["settings"]["models"]:
        model, built = CATALOGUE[name], found.get(name, {})
        rows.append(
            [
                model.title,
                f"`{name}`",
                model.library,
                f"{built['parameters'] / 1e6:.2f}" if built else "",
                f"{model.parameters / 1e6:.2f}",
                f"{built['macs'] / 1e9:.2f}" if "macs" in built else "",
                _published_macs(model),
                model.source,
            ]
        )
    header = ["model", "name", "library", "M parameters", "published", "G MACs", "published at 224"]
    return markdown_table([*header, "source of the published"], rows)


def _published_macs(model):
    if model.macs is None:
        return ""
    size = "" if model.image_size == (224, 224) else " ({} x {})".format(*model.image_size)
    return f"{model.macs:g}{size}"


def best_table(rows, titles):
    """Each network in its best mode."""
    lines = [
        [
            row["backend"],
            TASKS[row["task"]],
            row["batch_size"],
            titles[row["model"]],
            row["precision"],
            row["mode"],
            f"{row['images_per_second']:.1f}",
            spread(row.get("best_first_is_faster")),
            spread(row.get("faster_than_float32")),
        ]
        for row in rows
        if row.get("best_mode")
    ]
    (first, *_) = titles.values()
    header = ["backend", "task", "batch", "model", "precision", "best mode", "images/s"]
    return markdown_table([*header, f"{first} is faster by", "faster than its float32 by"], lines)


def rates_table(record):
    """The machine's rate of matrix products, over all rounds."""
    lines = []
    for backend, result in record["backends"].items():
        for precision in record["settings"]["precision"]:
            groups = (group["product_gflops"].get(precision, ()) for group in result["groups"])
            rates = [rate for group in groups for rate in group]
            cell = "none"
            if rates:
                found = quartiles(rates)
                cell = f"{found['median']:.0f} ({found['low']:.0f} to {found['high']:.0f})"
            lines.append([backend, precision, cell])
    return markdown_table(["backend", "precision", "GFLOP/s, median (quartiles)"], lines)
