"""The tables and the picture of docs/export.md, from the results of export.py."""

import numpy as np
from page import fill_page

from keras_sepvit.benchmark.machine import sentences
from keras_sepvit.benchmark.report import markdown_table

PACKAGES = (
    "keras tensorflow torch ai-edge-litert ai-edge-quantizer onnx onnxruntime keras-hub".split()
)


def digits_table(rows):
    """Size, agreement and accuracy of the digits model by format and precision."""
    return markdown_table(
        ["format", "precision", "KB", "same class as Keras, %", "right, %", "max error"],
        [
            [
                row["format"],
                row["precision"],
                f"{row['size_bytes'] / 1e3:.0f}",
                f"{100 * row['top1_agreement']:.2f}",
                f"{100 * row['accuracy']:.2f}",
                f"{row['max_error']:.1e} of {row['compared']}",
            ]
            for row in rows
        ],
    )


def _times(row):
    """Milliseconds by threads, and the ratio, with the lowest and the highest of a process."""
    return [
        "{ms:.1f} ({median:.2f}x, {low:.2f} to {high:.2f})".format(**row["timing"][threads])
        for threads in ("1", "2")
    ]


def speed_table(rows):
    """Size and latency of SepViT-T by format and precision; ratios are to the first row."""
    return markdown_table(
        ["format", "precision", "MB", "1 thread, ms", "2 threads, ms", "operators not delegated"],
        [
            [
                row["format"],
                row["precision"],
                f"{row['size_bytes'] / 1e6:.1f}",
                *_times(row),
                "" if row["not_delegated"] is None else sum(row["not_delegated"].values()),
            ]
            for row in rows
        ],
    )


def peers_table(rows):
    """Latency of networks; others' ratios are to SepViT-T in the same format and precision."""
    lines = []
    for row in rows:
        start = [
            row["model"],
            f"{row['parameters'] / 1e6:.1f} M",
            row["format"],
            row["precision"],
        ]
        if "error" in row:
            lines.append([*start, "", f"none: {row['error']}", ""])
            continue
        lines.append([*start, f"{row['size_bytes'] / 1e6:.1f}", *_times(row)])
    return markdown_table(
        ["model", "parameters", "format", "precision", "MB", "1 thread, ms", "2 threads, ms"], lines
    )


def family_table(rows):
    """Agreement, size and the memory that the export took."""
    return markdown_table(
        ["model", "format", "precision", "MB", "max error", "relative error", "GB in export", "s"],
        [
            [
                row["model"],
                row["format"],
                row["precision"],
                f"{row['size_bytes'] / 1e6:.1f}",
                f"{row['max_error']:.1e}",
                f"{row['relative_error']:.1e}",
                f"{row['peak_memory_gb']:.1f}",
                f"{row['seconds']:.0f}",
            ]
            for row in rows
        ],
    )


TABLES = {
    "digits": digits_table,
    "speed": speed_table,
    "peers": peers_table,
    "detectors": peers_table,
    "family": family_table,
}


def write_docs(results, path):
    """Puts the tables between their marks in docs/export.md."""
    blocks = {}
    for table, found in results["tables"].items():
        made = f"Command: `python benchmarks/export.py --tables {table}`; commit {found['commit']}."
        machine = sentences(found["machine"], PACKAGES)
        blocks[table] = f"{TABLES[table](found['rows'])}\n\n{made}\n\n{machine}"
    if "peers" in blocks:
        blocks["peers"] += "\n\n![latency of all files](export.png)"
    fill_page(path, blocks)


def draw(results, path):
    """The picture: latency of SepViT-T by precision, and of the peers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    speed = results["tables"]["speed"]["rows"]
    labels = [f"{row['format']} {row['precision']}" for row in speed]
    for offset, threads in ((-0.2, "1"), (0.2, "2")):
        milliseconds = [row["timing"][threads]["ms"] for row in speed]
        place = np.arange(len(speed)) + offset
        left.barh(place, milliseconds, 0.38, label=f"{threads} thread{'s'[: threads != '1']}")
    left.set(yticks=range(len(labels)), yticklabels=labels, xlabel="ms an image")
    left.set_title("SepViT-T, 224 x 224")
    left.invert_yaxis()
    left.legend()
    peers = [row for row in results["tables"]["peers"]["rows"] if "timing" in row]
    names = list(dict.fromkeys(row["model"] for row in peers))
    for offset, precision in ((-0.2, "float32"), (0.2, "int8")):
        found = [
            (names.index(row["model"]) + offset, row["timing"]["1"]["ms"])
            for row in peers
            if row["format"] == "litert" and row["precision"] == precision
        ]
        if found:
            right.barh(*zip(*found, strict=True), 0.38, label=f"LiteRT {precision}")
    right.set(yticks=range(len(names)), yticklabels=names, xlabel="ms an image, 1 thread")
    right.set_title("Networks, exported by the same code")
    right.invert_yaxis()
    right.legend()
    figure.savefig(path, dpi=110)
