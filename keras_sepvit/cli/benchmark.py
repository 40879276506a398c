"""`keras-sepvit benchmark`: speed and memory beside other networks."""

import json
import os
import pathlib
import shlex
import sys
from typing import Annotated

import typer

from keras_sepvit.cli.common import ImageSize, parse_image_size


def benchmark(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL...]",
            help="Names such as sepvit_t, swin_t, convnext_tiny, hf_swin_t; ratios are to the "
            "first. An unknown name prints all.",
            show_default="sepvit_t swin_t convnext_tiny resnet50, and hf_swin_t on torch",
        ),
    ] = None,
    backends: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="tensorflow, jax, torch: measured one after another.",
            show_default="Keras's",
        ),
    ] = None,
    task: Annotated[
        str, typer.Option(metavar="NAME,...", help="inference, train (a training step).")
    ] = "inference",
    batch_sizes: Annotated[str, typer.Option(metavar="N,...", help="Images in a batch.")] = "1,16",
    precision: Annotated[
        str, typer.Option(metavar="NAME,...", help="float32, bfloat16, float16.")
    ] = "float32",
    modes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="TensorFlow: graph, xla; JAX: xla; PyTorch: eager, compile, export "
            "(torch.compile of torch.export, for inference).",
            show_default="graph on TensorFlow, xla on JAX, eager on PyTorch",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Processors to use.", show_default="all")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or gpu.")] = "cpu",
    image_size: ImageSize = "224",
    rounds: Annotated[int, typer.Option(help="Turns that each model has.")] = 15,
    memory: Annotated[
        bool, typer.Option(help="Measure each model's peak memory, in a process of its own.")
    ] = True,
    output_dir: Annotated[
        pathlib.Path, typer.Option(help="Folder for results.json, results.md and throughput.png.")
    ] = pathlib.Path("benchmark"),
):
    """Measure the speed and memory of SepViT and other networks.

    On each backend, all models live in one process and take turns after a warm-up: a
    ratio is the median over rounds of the ratio in the same round. The rate of the
    machine's matrix products is measured between them. Nothing is compared whose
    outputs are not finite, or whose parameters are not as many as published.
    """
    from keras_sepvit.benchmark.catalogue import DEFAULT_MODELS
    from keras_sepvit.benchmark.models import check_installed
    from keras_sepvit.benchmark.settings import Settings

    backends = _names(backends) if backends else (_keras_backend(),)
    settings = Settings(
        models=tuple(models) if models else _default_models(DEFAULT_MODELS, backends),
        backends=backends,
        tasks=_names(task),
        batch_sizes=_numbers("--batch-sizes", batch_sizes),
        precisions=_names(precision),
        modes=_names(modes) if modes else None,
        threads=threads,
        device=device,
        image_size=parse_image_size(image_size),
        rounds=rounds,
        memory=memory,
    )
    check_installed(settings)
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"--output-dir: '{output_dir}' is a file. Give the name of a folder.")
    output_dir.mkdir(parents=True, exist_ok=True)

    from keras_sepvit.benchmark.run import run_benchmark

    command = shlex.join(["keras-sepvit", *sys.argv[1:]])
    record = run_benchmark(settings, command, lambda line: typer.echo(line, err=True))
    if record["backends"]:
        typer.echo(_write(record, output_dir))
    for backend, error in record["errors"].items():
        typer.echo(f"Error: {backend}: {error}", err=True)
    if record["errors"]:
        raise typer.Exit(1)


def _write(record, folder):
    """Writes the record's files, and returns its Markdown."""
    from keras_sepvit.benchmark.picture import draw_throughput
    from keras_sepvit.benchmark.report import markdown
    from keras_sepvit.benchmark.summary import summarise
    from keras_sepvit.files import replacing

    record["rows"] = summarise(record)
    with replacing(folder / "results.json") as path:
        path.write_text(json.dumps(record, indent=1))
    text = markdown(record)
    with replacing(folder / "results.md") as path:
        path.write_text(text)
    draw_throughput(folder / "throughput.png", record)
    return text


def _default_models(names, backends):
    """The default models that the backends can run."""
    from keras_sepvit.benchmark.catalogue import catalogue_model

    return tuple(name for name in names if set(catalogue_model(name).backends) & set(backends))


def _keras_backend():
    """The backend that Keras would take."""
    from keras_sepvit.default_backend import configured_backend

    return os.environ.get("KERAS_BACKEND") or configured_backend()


def _names(text):
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(option, text):
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(
            f"{option} must be numbers separated by commas, such as 1,16. Received: {text!r}."
        ) from error
