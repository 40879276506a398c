"""Exported models: size, agreement, accuracy and speed, beside other networks'.

    python benchmarks/export.py

exports SepViT and its peers by the same code, each in a process of its own, on the backend that
its converter needs; then times all files of a table as `keras-sepvit benchmark` does, in turns,
in several processes. Memory is the most that an export's process and those that it started held
together at one time (Linux). It writes `results.json` and the files to `--output-dir`, and the
tables and the picture to `docs/`. Files of an earlier run in the folder are used again, with
their reports.

    python benchmarks/export.py --tables digits

measures only the tables named, and leaves the others' results as they are. Needs the
extras `export`, `tensorflow` and `torch`, and scikit-learn; `keras-hub` for Swin-T.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import export_page
import numpy as np
from page import ROOT, commit, page_parser
from peers.build import build_model as build_network
from peers.catalogue import CATALOGUE

from keras_sepvit.benchmark.machine import machine, proc_fields
from keras_sepvit.benchmark.run import run_benchmark
from keras_sepvit.benchmark.timing import latency, ratio

# Format and precision.
LITERT = [
    ("litert", None),
    ("litert", "float16"),
    ("litert", "dynamic_int8"),
    ("litert", "int8"),
    ("litert", "full_int8"),
]
ONNX = [("onnx", None), ("onnx", "float16"), ("onnx", "int8")]
DETECTORS_SIZE = (640, 640)
ENDINGS = {"litert": ".tflite", "onnx": ".onnx"}

# Tables by name: the models, and the formats and precisions of each.
TABLES = {
    "digits": (["digits"], LITERT + ONNX),
    "speed": (["SepViT-T"], LITERT + ONNX),
    "peers": (
        ["SepViT-T", "Swin-T", "MobileNetV2"],
        [("litert", None), ("litert", "int8"), ("onnx", None)],
    ),
    "detectors": (
        ["RetinaNet, SepViT-T", "RetinaNet, ResNet50 (KerasHub)"],
        [("litert", None), ("litert", "int8"), ("onnx", None)],
    ),
    "family": (
        ["SepViT-Lite", "SepViT-T", "SepViT-S", "SepViT-B", "SepViT-T dense 256x320"],
        [("litert", None)],
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
    key = next(key for key, network in CATALOGUE.items() if network.title == name)
    network = CATALOGUE[key]
    if network.task == "detection":
        return build_detector(key)
    if network.library == "keras":  # with the preprocessing, which catalogue's networks lack
        constructor = getattr(keras.applications, network.constructor)
        return constructor(weights=None, input_shape=(224, 224, 3), classifier_activation=None)
    import keras_hub

    backbone_class = getattr(keras_hub.models, f"{network.constructor}Backbone")
    backbone = backbone_class(image_shape=(224, 224, 3), **network.arguments)
    x = keras.layers.GlobalAveragePooling1D()(backbone.output)
    return keras.Model(backbone.input, keras.layers.Dense(1000)(x), name="swin_t")


def build_detector(key):
    """A detector of 640 x 640; ours finds as much in any image as it may, which takes longest."""
    detector = build_network(key, DETECTORS_SIZE)
    for weight in detector.weights:
        if weight.path.endswith("retina_cls/bias"):
            weight.assign(weight + 5)
    return detector


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


def export_one(name, format, precision, path, record_path):
    """Exports a model, in a process of its own, and writes its report as JSON."""
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
    record["seconds"] = time.perf_counter() - start
    record["parameters"] = model.count_params()
    record_path.write_text(json.dumps(record))


def exported(name, format, precision, folder):
    """Path and report record of an exported model, made unless it is there."""
    stem = f"{name.lower().replace(' ', '_')}_{precision or 'float32'}"
    path = folder / (stem + ENDINGS[format])
    record = path.with_name(path.name + ".json")
    if not record.exists():
        print(f"exporting {path.name}", flush=True)
        # Where the converter runs, so that no model has to be saved to get there: Keras cannot
        # save KerasHub's Swin. Digits' changed copies are TensorFlow's.
        backend = "torch" if format == "onnx" and name != "digits" else "tensorflow"
        unfinished = path.with_name(path.name + ".unfinished.json")
        command = [sys.executable, __file__, "--export", name, format, precision or ""]
        memory = watch([*command, str(path), str(unfinished)], backend)
        found = {**json.loads(unfinished.read_text()), "peak_memory_gb": memory / 1e9}
        record.write_text(json.dumps(found, indent=2))
        unfinished.unlink()
    return path, json.loads(record.read_text())


def watch(command, backend):
    """Runs a command; the most bytes that its process and those it started held at one time.

    Raises:
        RuntimeError: if it fails, with what it said.
    """
    most = 0
    with tempfile.TemporaryFile("w+") as said:
        variables = {**os.environ, "KERAS_BACKEND": backend}
        process = subprocess.Popen(command, stderr=said, env=variables)
        while process.poll() is None:
            most = max(most, tree_memory(process.pid))
            time.sleep(0.05)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{said.read()[-3000:]}")
    return most


def tree_memory(process):
    """Bytes of a process and all that come from it; what they share counts once (Linux)."""
    children = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/status"):
        parent = _fields(path).get("PPid")
        children.setdefault(parent, []).append(path.parent.name)
    tree = [str(process)]
    for own in tree:
        tree += children.get(own, ())
    sizes = (_fields(f"/proc/{own}/smaps_rollup").get("Pss", "0 kB") for own in tree)
    return 1024 * sum(int(size.split()[0]) for size in sizes)


def _fields(path):
    try:
        return proc_fields(path)
    except OSError:  # a process that ended
        return {}


def time_files(rows, paths, rounds, processes):
    """Adds to rows of files, by threads, `timing`: milliseconds, and a ratio with its spread.

    The ratio is of (time of the first file / time) where all are of one model, and otherwise of
    (time / time of the first model's file of the same format and precision).
    """
    settings = {"models": [str(path) for path in paths], "backends": ["runtime"]}
    settings |= {"task": ["inference"], "batch_sizes": [1], "precision": ["float32"]}
    settings |= {"modes": None, "image_size": [224, 224], "rounds": rounds, "processes": processes}
    for threads in (1, 2):
        record = run_benchmark({**settings, "threads": threads}, "")
        if record["errors"]:
            raise RuntimeError(record["errors"]["runtime"])
        (group,) = record["backends"]["runtime"]["groups"]
        turns = [timed["turns_ms"] for timed in group["rows"]]
        of_first, alone = {}, len({row["model"] for row in rows}) == 1
        for row, own in zip(rows, turns, strict=True):
            ours = of_first.setdefault((row["format"], row["precision"]), own)
            found = ratio(own, turns[0], rounds) if alone else ratio(ours, own, rounds)
            row.setdefault("timing", {})[str(threads)] = {"ms": latency(own)["p50"], **found}


def accuracy(path, folder):
    """Share of the test digits that a file reads right."""
    from keras_sepvit.runtime import Predictor

    with np.load(folder / "digits.npz") as data:
        predictions = Predictor(path, threads=1).predict(data["images"]).argmax(axis=1)
        return float(np.mean(predictions == data["labels"]))


def measure(table, models, folder, rounds, processes):
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
    if table in ("speed", "peers", "detectors"):
        time_files(*zip(*working, strict=True), rounds, processes)
    return [row for row, _ in rows]


def main():
    parser = page_parser(__doc__)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument(
        "--models", nargs="+", help="only these models; leaves the tables in docs/ as they are"
    )
    parser.add_argument("--rounds", type=int, default=5, help="in a process")
    parser.add_argument("--processes", type=int, default=3, help="that time the files")
    parser.add_argument("--output-dir", type=pathlib.Path, default=pathlib.Path("outputs/export"))
    parser.add_argument("--export", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.export:
        name, format, precision, path, record = options.export
        export_one(name, format, precision or None, pathlib.Path(path), pathlib.Path(record))
        return
    options.output_dir.mkdir(parents=True, exist_ok=True)
    store = options.output_dir / "results.json"
    results = json.loads(store.read_text()) if store.exists() else {"tables": {}}
    for table in options.tables:
        rows = measure(table, options.models, options.output_dir, options.rounds, options.processes)
        results["tables"][table] = {"rows": rows, "machine": machine(), "commit": commit()}
        store.write_text(json.dumps(results, indent=2))
        print(export_page.TABLES[table](rows), flush=True)
    if options.models:
        return  # the tables of the docs have all models
    export_page.write_docs(results, options.docs / "export.md")
    if {"speed", "peers"} <= results["tables"].keys():
        export_page.draw(results, options.docs / "export.png")


if __name__ == "__main__":
    main()
