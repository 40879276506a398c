"""The page of a run, from its record."""

from peers.catalogue import CATALOGUE

from gpu_parts.peers_of_torch import CONVNEXT, SWIN, TITLES
from keras_sepvit.benchmark.machine import sentences
from keras_sepvit.benchmark.report import markdown_table
from keras_sepvit.complexity import sepvit

# The published operations of networks that are not ours.
PUBLISHED = {SWIN: CATALOGUE["hf_swin_t"], CONVNEXT: CATALOGUE["convnext_tiny"]}


def add_shares(rows, sizes):
    """Adds to rows of inference the share of the rate of products that their arithmetic has.

    The rate is the part's own; `share` is missing where it could not be measured.
    """
    rates = {row["part"]: row["tflops"] for row in rows if "tflops" in row}
    for row in rows:
        if row["what"] != "inference" or "images_per_second" not in row:
            continue
        operations = flops(row["network"], sizes)
        if operations and row["part"] in rates:
            row["tflops_of_products"] = 1e-12 * operations * row["images_per_second"]
            row["share"] = row["tflops_of_products"] / rates[row["part"]]


def flops(name, sizes):
    """Floating-point operations of an image; None where they are not known."""
    if name in sizes.networks:
        cost = sepvit(sizes.networks[name], sizes.image_size).cost
        return 2 * cost.macs_with_attention
    return 2e9 * PUBLISHED[name].macs if sizes.convnext is None else None


def page(record):
    """The record as Markdown."""
    parts = record["parts"]
    rows = [row for part in parts.values() for row in part["rows"] if "skipped" not in row]
    missing = ", ".join(record["not installed"])
    texts = [
        "# SepViT on a GPU",
        f"Command: `{record['command']}`, {record['date']}."
        + (" Small networks, to try the script." if record["small"] else ""),
        sentences(record["machine"]),
        f"Backends: {', '.join(record['backends'])}"
        + (f"; not installed: {missing}." if missing else "."),
        "## Numbers",
        "Relative differences, |out - ref| / |ref|, from float32 on the CPU: of the outputs (the "
        "worst level of the dense form), and of the gradients that a step applies. `highest`: "
        "without TensorFloat-32. Waits: how often the host waits for the GPU (torch).",
        numbers(rows),
        "## Inference",
        "Images a second, each call waited for; the share is of the rate of a bfloat16 product "
        "measured in the same process: " + "; ".join(products(rows)) + ".",
        inference(rows),
        "## Training",
        "The recipe `imagenet_t` on one device; other networks by autocast and AdamW, without "
        "augmentation.",
        training(rows),
        "## Dense tasks",
        "On SepViT-T: the network alone, detections as `predict` gives them, and steps of the "
        "models' own `fit` with AdamW.",
        dense(rows),
        "## Processes",
        processes(parts),
    ]
    waits = sync_lines(rows)
    if waits:
        texts += ["## Where the host waits", waits]
    failures = notes(parts)
    if failures:
        texts += ["## Not measured", failures]
    return "\n\n".join(texts) + "\n"


def numbers(rows):
    header = ["network", "backend", "precision", "outputs", "gradients", "worst gradient", "loss"]
    header += ["waits", "updates skipped"]
    steps = {key(row): row for row in rows if row["what"] == "training step"}
    lines = []
    for row in rows:
        if row["what"] != "forward" or row["part"] == "reference":
            continue
        step = steps.get(key(row), {})
        precision = row["precision"] + (", highest" if row["part"].endswith("-highest") else "")
        lines.append(
            [
                row["network"],
                row["backend"],
                precision,
                difference(row, "difference"),
                difference(step, "difference"),
                f"{step['worst']:.1e}, {step['worst_weight']}" if "worst" in step else "",
                difference(step, "loss_difference"),
                row.get("syncs", ""),
                step.get("updates_skipped", ""),
            ]
        )
    return markdown_table(header, sorted(lines, key=lambda line: line[:3]))


def key(row):
    return row["part"], row["network"], row["precision"]


def difference(row, name):
    if name in row:
        return f"{row[name]:.1e}"
    return outcome(row)


def outcome(row):
    """A word for a row without a number."""
    if "error" in row:
        return "failed"
    if row.get("finite") is False:
        return "not finite"
    return ""


def products(rows):
    return [f"{row['part']}: {row['tflops']:.4g} TFLOP/s" for row in rows if "tflops" in row] or [
        "not measured"
    ]


def inference(rows):
    header = ["network", "backend", "mode", "precision", "batch", "images/s", "ms"]
    header += ["share", "peak GB", "first call, s"]
    lines = []
    for row in rows:
        if row["what"] != "inference":
            continue
        cells = [TITLES.get(row["network"], f"SepViT-{row['network'].capitalize()}")]
        cells += [row[name] for name in ("backend", "mode", "precision", "batch")]
        if "images_per_second" in row:
            cells += [f"{row['images_per_second']:.0f}", f"{row['ms']['p50']:.2f}"]
            cells += [f"{row['share']:.1%}" if "share" in row else ""]
            cells += [gigabytes(row), f"{row['first_call_seconds']:.1f}"]
        else:
            cells += [outcome(row), "", "", "", ""]
        lines.append(cells)
    return markdown_table(header, sorted(lines, key=lambda line: line[:4]))


def gigabytes(row):
    return f"{row['peak_bytes'] / 1e9:.2f}" if "peak_bytes" in row else ""


def training(rows):
    header = ["network", "backend", "data", "precision", "batch", "images/s", "ms a step"]
    header += ["kernels", "ms in kernels", "waits", "peak GB", "first steps, s", "loss"]
    steps = {step_key(row): row for row in rows if row["what"] == "training, a step"}
    lines = []
    for row in rows:
        if row["what"] != "training":
            continue
        step = steps.get(step_key(row), {})
        cells = [TITLES.get(row["network"], f"SepViT-{row['network'].capitalize()}")]
        cells += [row[name] for name in ("backend", "data", "precision", "batch")]
        if "images_per_second" in row:
            cells += [f"{row['images_per_second']:.0f}", f"{row['ms']['p50']:.1f}"]
            cells += [step.get("kernels", "")]
            cells += [f"{step['kernel_ms']:.1f}" if "kernel_ms" in step else ""]
            cells += [step.get("syncs", ""), gigabytes(row)]
            cells += [
                f"{row[name]:.1f}" if name in row else "" for name in ("first_steps_seconds",)
            ]
            cells += [f"{row['loss']:.3f}" if "loss" in row else ""]
        else:
            cells += [outcome(row), "", "", "", "", "", "", ""]
        lines.append(cells)
    return markdown_table(header, lines)


def dense(rows):
    header = ["network", "size", "backend", "precision", "what", "batch", "images/s", "ms"]
    header += ["peak GB", "first call, s"]
    lines = []
    for row in rows:
        if not row["what"].startswith("dense "):
            continue
        cells = [row["network"], " x ".join(map(str, row["size"]))]
        cells += [row["backend"], row["precision"], row["what"].split()[1], row["batch"]]
        if "images_per_second" in row:
            first = row.get("first_call_seconds", row.get("first_steps_seconds"))
            cells += [f"{row['images_per_second']:.1f}", f"{row['ms']['p50']:.1f}"]
            cells += [gigabytes(row), f"{first:.1f}"]
        else:
            cells += [outcome(row), "", "", ""]
        lines.append(cells)
    return markdown_table(header, lines)


def step_key(row):
    return tuple(row[field] for field in ("backend", "network", "precision", "batch", "data"))


def processes(parts):
    header = ["process", "seconds", "rows", "facts"]
    return markdown_table(
        header,
        [
            [
                name,
                f"{part['seconds']:.0f}",
                len(part["rows"]),
                ", ".join(f"{fact}: {value}" for fact, value in part["facts"].items()),
            ]
            for name, part in parts.items()
        ],
    )


def sync_lines(rows):
    """Lines of Python at which the host waited in a training step of ours."""
    lines = [
        f"- {row['backend']}, {row['what']}, {row['network']}, {row['precision']}: "
        + ", ".join(f"{count} at {line}" for line, count in row["sync_lines"].items())
        for row in rows
        if row.get("sync_lines")
    ]
    return "\n".join(lines)


def notes(parts):
    lines = [f"- {name}: {part['error']}" for name, part in parts.items() if "error" in part]
    for name, part in parts.items():
        for row in part["rows"]:
            why = row.get("error") or row.get("skipped")
            if why:
                fields = ("what", "network", "precision", "batch", "data")
                what = ", ".join(str(row[field]) for field in fields if field in row)
                lines.append(f"- {name}, {what}: {why}")
    return "\n".join(lines)
