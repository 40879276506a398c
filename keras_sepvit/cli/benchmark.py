"""`keras-sepvit benchmark`: speed of models and of files."""

import importlib.util
import json
import os
import pathlib
import re
import shlex
import sys
from typing import Annotated

import typer

from keras_sepvit.cli.common import ImageSize, check_files_exist, parse_image_size
from keras_sepvit.configs import VARIANTS
from keras_sepvit.default_backend import BACKENDS, configured_backend

TASKS = ("inference", "train")
PRECISIONS = ("float32", "bfloat16", "float16")
MODES = ("graph", "xla", "eager", "compile", "export")


def _several(choices=(), **options):
    """An option of values separated by commas: of some choices, or numbers from 1."""

    def parse(text):
        values = [part.strip() for part in text.split(",")]
        for value in values:
            if choices and value not in choices:
                raise typer.BadParameter(f"{value!r} is none of {', '.join(choices)}.")
            if not choices and not (value.isdecimal() and int(value)):
                raise typer.BadParameter(f"{value!r} is no number from 1. Give such as 1,16.")
        if len(set(values)) < len(values):
            raise typer.BadParameter(f"{text!r} has a value twice.")
        return values if choices else [int(value) for value in values]

    return typer.Option(parser=parse, metavar="NAME,..." if choices else "N,...", **options)


def benchmark(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL...]",
            help="Variants such as sepvit_t, and .keras, .tflite and .onnx files; ratios are to "
            "the first.",
            show_default="sepvit_t",
        ),
    ] = None,
    backends: Annotated[
        list | None,
        _several(BACKENDS, help=f"{', '.join(BACKENDS)}, in turn.", show_default="Keras's"),
    ] = None,
    task: Annotated[
        list, _several(TASKS, help="inference, train (a training step).")
    ] = "inference",
    batch_sizes: Annotated[list, _several(help="Images in a batch.")] = "1,16",
    precision: Annotated[
        list, _several(PRECISIONS, help=f"{', '.join(PRECISIONS)}; files have their own.")
    ] = "float32",
    modes: Annotated[
        list | None,
        _several(
            MODES,
            help="TensorFlow: graph, xla; JAX: xla; PyTorch: eager, compile, export "
            "(torch.compile of torch.export, for inference).",
            show_default="graph on TensorFlow, xla on JAX, eager on PyTorch",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Processors to use (Linux).", show_default="all")
    ] = None,
    image_size: ImageSize = "224",
    rounds: Annotated[
        int, typer.Option(min=1, help="Turns that each model has in a process.")
    ] = 15,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes on each backend, one after the other: ratios differ between processes "
            "more than between rounds.",
        ),
    ] = 1,
    output_dir: Annotated[
        pathlib.Path, typer.Option(help="Folder for results.json and results.md.")
    ] = pathlib.Path("benchmark"),
):
    """Measure the speed of SepViT, and of files of models.

    On each backend, all models live in one process and take turns after a warm-up: a
    ratio is the median over rounds of the ratio in the same round, and with several
    processes their median, with the lowest and the highest. Keras models run
    where the backend runs them; CUDA_VISIBLE_DEVICES=-1 hides a GPU.
    """
    options = dict(locals())

    from keras_sepvit import runtime
    from keras_sepvit.benchmark.report import report

    options["models"] = models = models or ["sepvit_t"]
    kinds = (".keras", *runtime.SUFFIXES)
    for name in models:
        if name.endswith(kinds):
            check_files_exist(pathlib.Path(name))
        elif name not in VARIANTS:
            raise ValueError(
                f"Unknown model {name!r}. Known models: {', '.join(VARIANTS)}, and files ending "
                f"in {', '.join(kinds)}."
            )
    if all(name.endswith(runtime.SUFFIXES) for name in models):
        options["backends"] = ("runtime",)  # files run without a backend
    measure(options, "keras-sepvit", "keras_sepvit.benchmark.worker", report)


def _typed(arguments):
    """A command line's arguments, but for the folder of the results, which no reader has."""
    line = re.sub(r"(^| )--output-dir(=| )('[^']*'|\S+)", "", shlex.join(arguments))
    return line.strip()


def keras_backend():
    """The backend that Keras would take."""
    return os.environ.get("KERAS_BACKEND") or configured_backend()


def measure(options, program, worker, report):
    """Measures, writes results.json and results.md, and prints the tables.

    Args:
        options: Those of `benchmark`, by name, with `models` that exist.
        program: What the command line starts with, for the record.
        worker: The module whose processes measure, run as `python -m`.
        report: Makes Markdown of a record.
    """
    from keras_sepvit.benchmark.machine import available_cores
    from keras_sepvit.benchmark.report import summarise
    from keras_sepvit.benchmark.run import run_benchmark
    from keras_sepvit.files import replacing

    settings = {name: value for name, value in options.items() if name != "output_dir"}
    settings["image_size"] = parse_image_size(options["image_size"])
    settings["backends"] = options["backends"] or [keras_backend()]
    models, threads, folder = (options[name] for name in ("models", "threads", "output_dir"))
    if len(set(models)) < len(models):
        raise ValueError(f"Each model must be given once. Received: {', '.join(models)}.")
    if threads and (threads > available_cores() or not hasattr(os, "sched_setaffinity")):
        raise ValueError(
            f"--threads must be at most {available_cores()}, the processors that this process may "
            f"use, and needs Linux. Received: {threads}."
        )
    for backend in settings["backends"]:
        if backend != "runtime" and importlib.util.find_spec(backend) is None:
            raise ImportError(
                f"{backend} is not installed. Install it with "
                f'`pip install "keras-sepvit[{backend}]"`.'
            )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output-dir: '{folder}' is a file. Give the name of a folder.")

    record = run_benchmark(settings, f"{program} {_typed(sys.argv[1:])}", worker)
    for backend, error in record["errors"].items():
        typer.echo(f"Error: {backend}: {error}", err=True)
    if record["backends"]:
        record["rows"] = summarise(record)
        text = report(record)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (("json", json.dumps(record, indent=1)), ("md", text)):
            with replacing(folder / f"results.{name}") as path:
                path.write_text(content)
        typer.echo(text)
    if record["errors"]:
        raise typer.Exit(1)
