"""The record of a run as Markdown."""

from keras_sepvit.benchmark.catalogue import CATALOGUE
from keras_sepvit.benchmark.ratios import quartiles

TASKS = {"inference": "inference", "train": "training step"}


def markdown(record):
    """All tables of a record, as `run_benchmark` returns it with `rows` of `summarise`."""
    rows = record["rows"]
    first = CATALOGUE[record["settings"]["models"][0]].title
    parts = [_conditions(record), _models_table(record)]
    groups = dict.fromkeys((row["backend"], row["task"], row["batch_size"]) for row in rows)
    for backend, task, batch_size in groups:
        parts.append(f"### {TASKS[task].capitalize()}, {backend}, batch {batch_size}")
        key = (backend, task, batch_size)
        parts.append(
            _times_table(
                [r for r in rows if (r["backend"], r["task"], r["batch_size"]) == key], first
            )
        )
    if any("best_first_is_faster" in row for row in rows):
        parts += ["### Best mode against best mode", _best_table(rows, first)]
    parts += ["### Rate of matrix products", _rates_table(record)]
    if any(result["memory"] for result in record["backends"].values()):
        parts += ["### Peak memory", _memory_table(record)]
    notes = _notes(record)
    if notes:
        parts += ["### Notes", notes]
    return "\n\n".join(parts) + "\n"


def _conditions(record):
    machine, settings = record["machine"], record["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    height, width = settings["image_size"]
    gpus = {result["gpu"] for result in record["backends"].values()} - {None}
    lines = [
        f"Command: `{record['command']}`",
        f"Images of {height} x {width}; {settings['rounds']} rounds; {record['date']}.",
        f"Machine: {machine['processor']}, {machine['available_cores']} of {machine['cores']} "
        f"virtual cores"
        + (f", {settings['threads']} used" if settings["threads"] else "")
        + f" ({', '.join(machine['instructions'])}); {machine['memory_gib']} GiB; "
        f"{machine['system']}; GPU: {', '.join(sorted(gpus)) or 'none used'}.",
        f"Versions: Python {machine['python']}, {versions}.",
    ]
    if gpus:
        tf32 = [name for name, result in record["backends"].items() if result["tf32"]]
        lines.append(f"TF32 in float32 products: {', '.join(tf32) or 'on no backend'}.")
    return "\n\n".join(lines)


def _models_table(record):
    found = {}
    for result in record["backends"].values():
        found |= {n: model for n, model in result["models"].items() if "parameters" in model}
    rows = []
    for name in record["settings"]["models"]:
        model = CATALOGUE[name]
        built = found.get(name)
        rows.append(
            [
                model.title,
                f"`{name}`",
                model.library,
                "" if built is None else f"{built['parameters'] / 1e6:.2f}",
                f"{model.parameters / 1e6:.2f}",
                "" if built is None or "macs" not in built else f"{built['macs'] / 1e9:.2f}",
                "" if model.macs is None else f"{model.macs:g}",
                model.source,
            ]
        )
    header = ["model", "name", "library", "M parameters", "published", "G MACs", "published at 224"]
    return markdown_table([*header, "source of the published"], rows)


def _times_table(rows, first):
    lines = []
    for row in rows:
        cells = [row["title"], row["precision"], row["mode"]]
        if "error" in row:
            lines.append([*cells, "failed, see the notes", *[""] * 6])
            continue
        ms = row["ms"]
        lines.append(
            [
                *cells,
                f"{row['images_per_second']:.1f}",
                *(_number(ms[name]) for name in ("p50", "p90", "p99")),
                _ratio(row.get("first_is_faster"), row["title"] == first),
                f"{row['gflops']:.0f}" if "gflops" in row else "",
                f"{row['share']['median']:.0%}" if "share" in row else "",
            ]
        )
    header = ["model", "precision", "mode", "images/s", "ms, median", "ms, 90 %", "ms, 99 %"]
    header += [f"{first} is faster by", "GFLOP/s", "share of products' rate"]
    return markdown_table(header, lines)


def _best_table(rows, first):
    lines = [
        [
            row["backend"],
            TASKS[row["task"]],
            row["batch_size"],
            row["title"],
            row["precision"],
            row["mode"],
            f"{row['images_per_second']:.1f}",
            _ratio(row.get("best_first_is_faster"), row["title"] == first),
            _ratio(row.get("faster_than_float32"), False),
        ]
        for row in rows
        if row.get("best_mode")
    ]
    header = ["backend", "task", "batch", "model", "precision", "best mode", "images/s"]
    header += [f"{first} is faster by", "faster than its float32 by"]
    return markdown_table(header, lines)


def _rates_table(record):
    lines = []
    for backend, result in record["backends"].items():
        for precision in record["settings"]["precisions"]:
            rates = [
                rate
                for group in result["groups"]
                for rate in group["product_gflops"].get(precision, ())
            ]
            if rates:
                found = quartiles(rates)
                spread = f"{found['low']:.0f} to {found['high']:.0f}"
                lines.append([backend, precision, f"{found['median']:.0f} ({spread})"])
            else:
                lines.append([backend, precision, "none"])
    return markdown_table(["backend", "precision", "GFLOP/s, median (quartiles)"], lines)


def _memory_table(record):
    lines = []
    for backend, result in record["backends"].items():
        for row in result["memory"]:
            title = CATALOGUE[row["model"]].title
            cells = [backend, TASKS[row["task"]], row["batch_size"], title]
            cells += [row["precision"], row["mode"]]
            if "error" in row:
                lines.append([*cells, f"failed: {row['error']}", "", ""])
                continue
            peak, before = row["process_peak"], row["process_before"]
            known = peak is not None
            lines.append(
                [
                    *cells,
                    _mib(peak) if known else "",
                    _mib(peak - before) if known else "",
                    "" if row["device_peak"] is None else _mib(row["device_peak"]),
                ]
            )
    header = ["backend", "task", "batch", "model", "precision", "mode", "MiB, process"]
    return markdown_table([*header, "MiB, above the empty process", "MiB, on the GPU"], lines)


def _notes(record):
    lines = [f"- {backend}: no result. {error}" for backend, error in record["errors"].items()]
    for backend, result in record["backends"].items():
        for name, model in result["models"].items():
            if "error" in model:
                lines.append(f"- {backend}, {CATALOGUE[name].title}: {model['error']}")
    for row in record["rows"]:
        text = row.get("error") or row["note"]
        if text:
            what = f"{row['backend']}, {TASKS[row['task']]}, batch {row['batch_size']}"
            lines.append(f"- {what}, {row['title']}, {row['precision']}, {row['mode']}: {text}")
    return "\n".join(lines)


def markdown_table(header, rows):
    """A Markdown table of cells, which may hold any characters."""
    lines = [header, ["---"] * len(header), *rows]
    cells = ([str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _ratio(ratio, is_first):
    if ratio is None or is_first:
        return ""
    return f"{ratio['median']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _number(milliseconds):
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def _mib(size):
    return f"{size / 2**20:.0f}"
