"""Imports go one way: each room of the package uses those named for it, and no other."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "keras_sepvit"

pytestmark = pytest.mark.once

DATA = {"configs", "geometry", "names", "validation", "files", "record", "lazy", "warn", "fonts"}
WEIGHTS = {*DATA, "weights"}
NETWORK = {
    *(
        "functional",
        "selection",
        "resizing",
        "devices",
        "windows",
        "initializers",
        "composite",
        "layers",
        "attention",
    ),
    *("block", "stages", "backbone", "pyramid", "task_model", "classification.classifier"),
}
BESIDE = {"policy", "scores", "processes"}

# What the modules of a room, or a file at the top, may import of this package.
ALLOWED = {
    **dict.fromkeys(DATA, DATA),
    **dict.fromkeys(BESIDE, DATA),
    "weights": WEIGHTS,
    **dict.fromkeys(NETWORK, {*WEIGHTS, *NETWORK, "scores"}),
    "segmentation": {
        *(*WEIGHTS, *NETWORK, "scores", "runtime", "visualize", "training", "segmentation"),
    },
    "conversion": {*WEIGHTS, *NETWORK, "detection", "segmentation"},
    "runtime": {"configs", "geometry", "lazy", "record", "warn", "runtime"},
    "inference": {
        *(*WEIGHTS, *BESIDE, "classification.classifier", "runtime", "segmentation.prediction"),
        *("segmentation.segmenter", "detection", "detection.detector", "instances"),
    },
    "palette": {"validation"},
    "visualize": {"files", "fonts", "palette", "validation", "visualize"},
    "detection": {
        *(*WEIGHTS, *NETWORK, "scores", "runtime", "palette", "visualize", "training", "detection"),
    },
    "instances": {
        *(*WEIGHTS, *NETWORK, "scores", "runtime", "palette", "visualize", "training", "detection"),
        "instances",
    },
    "complexity": {*DATA, "complexity"},
    "training": {*DATA, "runtime.images", "training"},
    "classification": {
        *(*WEIGHTS, "resizing", "scores", "inference", "runtime", "training", "classification"),
    },
    "recipes": {"training", "classification", "detection", "segmentation", "instances"},
    "export": {
        *DATA,
        *BESIDE,
        *("functional", "selection", "layers", "classification.classifier"),
        *("segmentation.segmenter", "detection", "instances", "runtime", "export"),
    },
    "hub": {*DATA, *BESIDE, "backbone", "pyramid", "detection", "runtime", "hub"},
    "benchmark": {
        *(*BESIDE, "detection.detector", "detection.mask_rcnn", "segmentation.segmenter"),
        *("runtime", "benchmark"),
    },
}
WITHOUT_KERAS = {
    *(
        "configs",
        "geometry",
        "names",
        "files",
        "lazy",
        "record",
        "processes",
        "runtime",
        "visualize",
        "warn",
        "fonts",
    ),
    *(
        "lazy",
        "detection.scores",
        "detection.report",
        "instances.scores",
        "instances.report",
        "training.sources.digits",
        "training.sources.scenes",
    ),
}
ANYTHING = {"__init__", "__main__", "cli", "default_backend", "registration"}


def imported(path):
    """Names of all modules that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module != "keras_sepvit":
            yield node.module


def test_imports_go_one_way():
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts)
        room = module if module in ALLOWED else parts[0]
        for name in imported(path):
            package, _, rest = name.partition(".")
            if package == "keras_sepvit" and room not in ANYTHING:
                allowed = {rest, rest.split(".")[0]} & ALLOWED[room]
                assert allowed, f"{module} imports {name}"
            if package == "keras":
                assert not {room, module} & WITHOUT_KERAS, f"{module} imports Keras"
