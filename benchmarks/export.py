"""Exported models: size, agreement, accuracy and speed, beside other networks'.

    python benchmarks/export.py

exports SepViT and its peers by the same code, each in a process of its own, which tells
its peak memory; then times all files of a table in turn in one process, where a ratio is
the median over rounds of (first model's time / this model's time in the same round), so
that the machine's drift cancels. It writes `results.json` and the files to
`--output-dir`, and the tables and the picture to `docs/`. Files of an earlier run in the
folder are used again, with their reports.

    python benchmarks/export.py --tables digits

measures only the tables named, and leaves the others' results as they are. Needs the
extras `export`, `tensorflow` and `torch`, and scikit-learn; `keras-hub` for Swin-T.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata

import numpy as np
from page import fill_page

ROOT = pathlib.Path(__file__).parents[1]

# Format and precision.
LITERT = [
    ("litert", None),
    ("litert", "float16"),
    ("litert", "dynamic_int8"),
    ("litert", "int8"),
    ("litert", "full_int8"),
]
ONNX = [("onnx", None), ("onnx", "float16"), ("onnx", "int8")]
ENDINGS = {"litert": ".tflite", "onnx": ".onnx"}

# Tables by name: the models, and the formats and precisions of each.
TABLES = {
    "digits": (["digits"], LITERT + ONNX),
    "speed": (["SepViT-T"], LITERT + ONNX),
    "peers": (
        ["SepViT-T", "Swin-T", "ConvNeXt-T", "EfficientNetV2-B0", "MobileNetV2"],
        [("litert", None), ("litert", "int8"), ("onnx", None)],
    ),
    "family": (
        [
            "SepViT-Lite",
            "SepViT-T",
            "SepViT-S",
            "SepViT-B",
            "SepViT-Lite 192",
            "SepViT-Lite 256",
            "SepViT-T dense 256x320",
        ],
        [("litert", None), ("litert", "float16"), ("onnx", None)],
    ),
}


def build_model(name):
    """A model with random weights that gives logits (or features); the trained one for digits."""
    import keras

    import keras_sepvit

    if name == "digits":
        from keras_sepvit.configs import DIGITS_CONFIG

        return keras_sepvit.SepViT(DIGITS_CONFIG, classes=10, weights="digits")
    keras.utils.set_random_seed(0)
    if name.startswith("SepViT"):
        variant, *form = name.split()
        if form[:1] == ["dense"]:
            height, width = map(int, form[1].split("x"))
            return keras_sepvit.SepViTBackbone.from_variant(
                variant, dense=True, image_shape=(height, width, 3)
            )
        size = int(form[0]) if form else 224
        return keras_sepvit.SepViT(variant, input_shape=(size, size, 3), classifier_activation=None)
    if name == "Swin-T":
        import keras_hub

        backbone = keras_hub.models.SwinTransformerBackbone(
            image_shape=(224, 224, 3),
            embed_dim=96,
            depths=(2, 2, 6, 2),
            num_heads=(3, 6, 12, 24),
            window_size=7,
        )
        x = keras.layers.GlobalAveragePooling1D()(backbone.output)
        return keras.Model(backbone.input, keras.layers.Dense(1000)(x), name="swin_t")
    constructors = {
        "ConvNeXt-T": keras.applications.ConvNeXtTiny,
        "EfficientNetV2-B0": keras.applications.EfficientNetV2B0,
        "MobileNetV2": keras.applications.MobileNetV2,
    }
    return constructors[name](weights=None, input_shape=(224, 224, 3), classifier_activation=None)


def digits_data():
    """Training images, test images and labels: the held-out digits and three changed copies.

    The digits are those of examples/quickstart.py, and the changes those that the
    weights were trained with: rotations, shifts and zooms.
    """
    import keras

    sys.path.insert(0, str(ROOT / "examples"))
    from quickstart import load_images

    training, held_out, _, labels = load_images()
    border = {"fill_mode": "constant", "fill_value": 0.0}
    change = keras.layers.Pipeline(
        [
            keras.layers.RandomRotation(0.04, seed=1, **border),
            keras.layers.RandomTranslation(0.1, 0.1, seed=2, **border),
            keras.layers.RandomZoom((-0.1, 0.1), (-0.1, 0.1), seed=3, **border),
        ]
    )
    copies = [np.asarray(change(held_out, training=True)) for _ in range(3)]
    images = np.rint(np.concatenate([held_out, *copies])).astype("float32")
    return training.astype("float32"), images, np.tile(labels, 4)


def export_one(name, format, precision, path):
    """Exports a model, in a process of its own, and writes `<path>.json` with its report."""
    import resource

    from keras_sepvit import export

    start = time.perf_counter()
    model = build_model(name)
    options = {"check": "warn", "verbose": False, "overwrite": True, "probabilities": False}
    if precision:
        options["quantize"] = precision
    if name == "digits":
        training, images, labels = digits_data()
        np.savez(path.parent / "digits.npz", images=images, labels=labels)
        options["images"] = images
        calibration = training[:256]
        predictions = model.predict(images, batch_size=512, verbose=0).argmax(axis=1)
        record = {"keras_accuracy": float(np.mean(predictions == labels))}
    else:
        calibration = export.default_images(model.input_shape[1:], count=64, seed=1)
        record = {}
    if precision in ("int8", "full_int8"):
        options["calibration_images"] = calibration
    try:
        report = getattr(export, export.FORMATS[format])(model, path, **options)
        record |= json.loads(report.to_json())
    except (export.ExportError, TypeError) as error:  # a refusal, or a model that Keras cannot save
        record["error"] = str(error).splitlines()[0]
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    record["peak_memory_gb"] = max(use.ru_maxrss for use in usage) / 1e6
    record["seconds"] = time.perf_counter() - start
    record["parameters"] = model.count_params()
    path.with_name(path.name + ".json").write_text(json.dumps(record, indent=2))


def exported(name, format, precision, folder):
    """Path and report record of an exported model, made unless it is there."""
    stem = f"{name.lower().replace(' ', '_')}_{precision or 'float32'}"
    path = folder / (stem + ENDINGS[format])
    record = path.with_name(path.name + ".json")
    if not record.exists():
        print(f"exporting {path.name}", flush=True)
        command = [sys.executable, __file__, "--export", name, format, precision or "", str(path)]
        process = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if process.returncode:
            sys.stderr.write(process.stderr[-3000:])
            raise RuntimeError(f"The export of {path.name} failed.")
    return path, json.loads(record.read_text())


def opened(path, threads):
    """A function that runs a file once on a fixed image and waits for it."""
    if path.suffix == ".tflite":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
        (details,) = interpreter.get_input_details()
        image = np.random.default_rng(0).integers(0, 256, details["shape"])
        interpreter.set_tensor(details["index"], image.astype(details["dtype"]))
        return interpreter.invoke
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin after their work would slow the file whose turn is next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    (details,) = session.get_inputs()
    image = np.random.default_rng(0).integers(0, 256, details.shape)
    image = image.astype("float16" if details.type == "tensor(float16)" else "float32")
    return lambda: session.run(None, {details.name: image})


def time_in_turn(paths, rounds):
    """Milliseconds and ratios to the first file, by threads, of files that take turns."""
    timings = [{} for _ in paths]
    for threads in (1, 2):
        functions = [opened(path, threads) for path in paths]
        times = [[] for _ in functions]
        for function in functions:
            function()
            function()
        for _ in range(rounds):
            for function, measured in zip(functions, times, strict=True):
                start = time.perf_counter()
                function()
                measured.append(1e3 * (time.perf_counter() - start))
        for timing, measured in zip(timings, times, strict=True):
            ratios = [first / own for first, own in zip(times[0], measured, strict=True)]
            timing[str(threads)] = {
                "ms": statistics.median(measured),
                "lowest_ms": min(measured),
                "ratio": statistics.median(ratios),
            }
    return timings


def accuracy(path, folder):
    """Share of the test digits that a file reads right."""
    from keras_sepvit.runtime import Predictor

    with np.load(folder / "digits.npz") as data:
        predictions = Predictor(path, threads=1).predict(data["images"]).argmax(axis=1)
        return float(np.mean(predictions == data["labels"]))


def measure(table, models, folder, rounds):
    """The rows of a table, as records."""
    names, kinds = TABLES[table]
    rows = []
    for name in names:
        if models and name not in models:
            continue
        for format, precision in kinds:
            path, record = exported(name, format, precision, folder)
            row = {"model": name, "format": format, "precision": precision or "float32", **record}
            if table == "digits" and "error" not in record:
                row["accuracy"] = accuracy(path, folder)
            rows.append((row, path))
    working = [(row, path) for row, path in rows if "error" not in row]
    if table in ("speed", "peers"):
        timings = time_in_turn([path for _, path in working], rounds)
        for (row, _), timing in zip(working, timings, strict=True):
            row["timing"] = timing
    return [row for row, _ in rows]


def machine():
    """Processor, its instructions for 8-bit products, and versions."""
    info = pathlib.Path("/proc/cpuinfo")
    fields = {}
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", "").split()
    packages = ("keras", "tensorflow", "torch", "ai-edge-litert", "ai-edge-quantizer")
    versions = {}
    for package in (*packages, "onnx", "onnxruntime", "keras-hub"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": fields.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "instructions": [name for name in ("avx2", "avx512f", "avx512_vnni") if name in flags],
        "python": platform.python_version(),
        "versions": versions,
    }


def markdown(header, rows):
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def digits_table(rows):
    """Size, agreement and accuracy of the digits model by format and precision."""
    return markdown(
        ["format", "precision", "KB", "same class as Keras, %", "right, %", "max error of logits"],
        [
            [
                row["format"],
                row["precision"],
                f"{row['size_bytes'] / 1e3:.0f}",
                f"{100 * row['top1_agreement']:.2f}",
                f"{100 * row['accuracy']:.2f}",
                f"{row['max_error']:.1e}",
            ]
            for row in rows
        ],
    )


def _times(row):
    return [
        f"{row['timing'][threads]['ms']:.1f} ({row['timing'][threads]['ratio']:.2f}x)"
        for threads in ("1", "2")
    ]


def speed_table(rows):
    """Size and latency of SepViT-T by format and precision; ratios are to the first row."""
    return markdown(
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
    """Latency of networks; ratios are to SepViT-T in the same format and precision."""
    lines = []
    for row in rows:
        start = [
            row["model"],
            f"{row['parameters'] / 1e6:.1f} M",
            row["format"],
            row["precision"],
        ]
        if "error" in row:
            lines.append([*start, f"none: {row['error']}", ""])
            continue
        ours = next(
            other["timing"]
            for other in rows
            if other["model"] == "SepViT-T"
            and (other["format"], other["precision"]) == (row["format"], row["precision"])
        )
        cells = []
        for threads in ("1", "2"):
            own = row["timing"][threads]
            cells.append(f"{own['ms']:.1f} ({ours[threads]['ratio'] / own['ratio']:.2f}x)")
        lines.append([*start, *cells])
    return markdown(
        ["model", "parameters", "format", "precision", "1 thread, ms", "2 threads, ms"], lines
    )


def family_table(rows):
    """Agreement, size and the memory that the export took."""
    return markdown(
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


def machine_lines(facts):
    """The machine in words."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['processor']}, {facts['cores']} virtual cores "
        f"({', '.join(facts['instructions'])}); Python {facts['python']}; {versions}."
    )


def write_docs(results, path):
    """Puts the tables between their marks in docs/export.md."""
    blocks = {"machine": machine_lines(results["machine"])}
    for table, rows in results["tables"].items():
        blocks[table] = globals()[f"{table}_table"](rows)
    if "peers" in blocks:
        blocks["peers"] += "\n\n![latency of all files](export.png)"
    fill_page(path, blocks)


def draw(results, path):
    """The picture: latency of SepViT-T by precision, and of the peers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    speed = results["tables"]["speed"]
    labels = [f"{row['format']} {row['precision']}" for row in speed]
    for offset, threads in ((-0.2, "1"), (0.2, "2")):
        milliseconds = [row["timing"][threads]["ms"] for row in speed]
        place = np.arange(len(speed)) + offset
        left.barh(place, milliseconds, 0.38, label=f"{threads} thread{'s'[: threads != '1']}")
    left.set(yticks=range(len(labels)), yticklabels=labels, xlabel="ms an image")
    left.set_title("SepViT-T, 224 x 224")
    left.invert_yaxis()
    left.legend()
    peers = [row for row in results["tables"]["peers"] if "timing" in row]
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


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument(
        "--models", nargs="+", help="only these models; leaves the tables in docs/ as they are"
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output-dir", type=pathlib.Path, default=pathlib.Path("outputs/export"))
    parser.add_argument(
        "--docs", type=pathlib.Path, default=ROOT / "docs", help="folder of export.md"
    )
    parser.add_argument("--export", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.export:
        name, format, precision, path = options.export
        export_one(name, format, precision or None, pathlib.Path(path))
        return
    options.output_dir.mkdir(parents=True, exist_ok=True)
    store = options.output_dir / "results.json"
    results = json.loads(store.read_text()) if store.exists() else {"tables": {}}
    results["machine"] = machine()
    for table in options.tables:
        results["tables"][table] = measure(
            table, options.models, options.output_dir, options.rounds
        )
        store.write_text(json.dumps(results, indent=2))
        print(globals()[f"{table}_table"](results["tables"][table]), flush=True)
    if options.models:
        return  # the tables of the docs have all models
    write_docs(results, options.docs / "export.md")
    if {"speed", "peers"} <= results["tables"].keys():
        draw(results, options.docs / "export.png")


if __name__ == "__main__":
    main()
