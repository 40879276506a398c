"""The record of a run in numbers, and as Markdown."""

import functools
import operator
import pathlib

from keras_sepvit.benchmark.machine import sentences
from keras_sepvit.benchmark.timing import latency, ratio

TASKS = {"inference": "inference", "train": "training step"}


def summarise(record):
    """Rows of a record: a dict for each backend, task, batch size, model, precision and mode.

    - `ms`: as `timing.latency`; `images_per_second`, median of turns
    - `first_is_faster`: `timing.ratio` of (time / first model's time), in the same
      precision and mode where the first model has them, else in its first
    - `error` instead of these, where it could not be run
    """
    first, rounds = record["settings"]["models"][0], record["settings"]["rounds"]
    rows = []
    for backend, result in record["backends"].items():
        for group in result["groups"]:
            turns = {
                (row["precision"], row["mode"]): row["turns_ms"]
                for row in group["rows"]
                if row["model"] == first and "turns_ms" in row
            }
            for row in group["rows"]:
                row = {"backend": backend} | group | row
                del row["rows"]
                rows.append(row)
                if "error" in row:
                    continue
                own = row.pop("turns_ms")
                row["ms"] = latency(own)
                row["images_per_second"] = 1e3 * row["batch_size"] / row["ms"]["turn"]["median"]
                if turns:
                    others = turns.get((row["precision"], row["mode"]), next(iter(turns.values())))
                    row["first_is_faster"] = ratio(others, own, rounds)
    return rows


def report(record):
    """A record and its `rows` as Markdown."""
    return "\n\n".join([conditions(record), *times_tables(record), *notes(record)]) + "\n"


def conditions(record):
    """How a record was measured, in words."""
    settings = record["settings"]
    devices = [f"{name} on {result['device']}" for name, result in record["backends"].items()]
    used = f"; {settings['threads']} virtual cores used" if settings["threads"] else ""
    how = f"{settings['rounds']} rounds; in brackets quartiles over rounds"
    if settings["processes"] > 1:
        how = (
            f"{settings['processes']} processes of {settings['rounds']} rounds each; in brackets "
            "the lowest and the highest process"
        )
    return (
        f"Command: `{record['command']}`\n\nImages of {_sizes(record)}; {how}; "
        f"{record['date']}; {', '.join(devices)}{used}.\n\n{sentences(record['machine'])}"
    )


def _sizes(record):
    """Height and width of the images, in words: by model where they differ."""
    names = {}
    for result in record["backends"].values():
        for name, size in result.get("image_sizes", {}).items():
            names.setdefault(tuple(size), {})[pathlib.Path(name).name] = None
    sizes = names or [record["settings"]["image_size"]]
    return ", ".join(
        f"{height} x {width}" + (f" ({', '.join(names[height, width])})" if len(sizes) > 1 else "")
        for height, width in sizes
    )


def times_tables(record, titles=None, columns=()):
    """A heading and a table for each backend, task and batch size.

    Args:
        record: The record, with `rows`.
        titles: Names of the models in the tables; by default those of variants and files.
        columns: More columns, as pairs of a header and a function of a row.
    """
    titles = titles or {name: pathlib.Path(name).name for name in record["settings"]["models"]}
    first = record["settings"]["models"][0]
    header = ["model", "precision", "mode", "images/s", "ms, median", "ms, 90 %", "ms, 99 %"]
    header += [f"{titles[first]} is faster by", *(name for name, _ in columns)]
    tables = {}
    for row in record["rows"]:
        cells = [titles[row["model"]], row["precision"], row["mode"]]
        if "error" in row:
            cells += ["failed, see the notes"] + [""] * (len(header) - 4)
        else:
            cells += [
                f"{row['images_per_second']:.1f}",
                *(_number(row["ms"][name]) for name in ("p50", "p90", "p99")),
                spread(row.get("first_is_faster")),
                *(cell(row) for _, cell in columns),
            ]
        heading = f"### {TASKS[row['task']].capitalize()}, {row['backend']}"
        tables.setdefault(f"{heading}, batch {row['batch_size']}", []).append(cells)
    return [f"{heading}\n\n{markdown_table(header, rows)}" for heading, rows in tables.items()]


def notes(record):
    """A heading, what failed, and files that have a batch of their own; nothing without."""
    names = {name: pathlib.Path(name).name for name in record["settings"]["models"]}
    lines = [f"- {backend}: no result. {error}" for backend, error in record["errors"].items()]
    own = [result.get("own_batches", {}) for result in record["backends"].values()]
    for name, batch_size in functools.reduce(operator.or_, own, {}).items():
        if record["settings"]["batch_sizes"] != [batch_size]:
            lines.append(f"- {names[name]} takes batches of {batch_size}, and was measured so.")
    for row in record["rows"]:
        if "error" in row:
            what = [f"- {row['backend']}", TASKS[row["task"]], f"batch {row['batch_size']}"]
            what += [names[row["model"]], row["precision"], row["mode"]]
            lines.append(f"{', '.join(what)}: {row['error']}")
    return ["### Notes", "\n".join(lines)] if lines else []


def markdown_table(header, rows):
    """A Markdown table of cells, which may hold any characters."""
    lines = [header, ["---"] * len(header), *rows]
    cells = ([str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def spread(numbers):
    """A ratio and its spread; empty for none, and for that of a program to itself."""
    if numbers is None or numbers["low"] == numbers["high"] == 1:
        return ""
    return f"{numbers['median']:.2f}x ({numbers['low']:.2f} to {numbers['high']:.2f})"


def _number(milliseconds):
    if milliseconds is None:
        return ""
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"
