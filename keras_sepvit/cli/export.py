"""`keras-sepvit export`: a model as a file for another runtime."""

import inspect
import pathlib
from typing import Annotated

import typer

from keras_sepvit.cli.common import (
    Classes,
    ImageSize,
    Json,
    Labels,
    Variant,
    Weights,
    check_files_exist,
    parse_image_size,
)
from keras_sepvit.export import FORMATS

# What is added to the name of the weights by default.
_ENDINGS = {
    "litert": ".tflite",
    "onnx": ".onnx",
    "saved_model": "_saved_model",
    "stablehlo": ".stablehlo",
    "torch": ".pt2",
    "tftrt": "_tftrt",
    "tensorrt": ".engine",
}
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

# More images than this change no range of an activation, and take long.
_MAX_CALIBRATION_IMAGES = 500
_COMPARED_IMAGES = 32

# The options by the arguments that they become, which not all formats have.
_OPTIONS = {
    "quantize": "--quantize",
    "batch_size": "--batch-size",
    "batch_sizes": "--batch-size",
    "class_names": "--labels",
    "calibration_images": "--calibration",
}


def export(
    weights: Weights,
    format: Annotated[str, typer.Option(metavar="FORMAT", help=f"{', '.join(FORMATS)}.")],
    quantize: Annotated[
        str | None,
        typer.Option(
            help="float16, int8; litert has dynamic_int8 and full_int8, too.",
            show_default="float32",
        ),
    ] = None,
    output: Annotated[
        pathlib.Path | None,
        typer.Option(help="File or folder to write.", show_default="named after WEIGHTS, here"),
    ] = None,
    calibration: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Images to fix the ranges of 8-bit activations with, and to compare on.",
        ),
    ] = None,
    labels: Labels = None,
    batch_size: Annotated[
        str | None,
        typer.Option(metavar="N|any", help="Images in a batch.", show_default="the format's"),
    ] = None,
    variant: Variant = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: Json = False,
):
    """Export a model to another runtime, run it there, and compare it with the model.

    The exported model takes images of 0..255 (a model without a Normalization or
    Rescaling layer gets ImageNet's normalisation) and gives probabilities. Prints a
    report: size, operators, agreement with the model, latency. Nothing is written
    where the results disagree.
    """
    if format not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}. Received: {format!r}.")
    options = _batch_option(format, batch_size)
    if quantize is not None:
        options["quantize"] = quantize
    check_files_exist(labels)
    if calibration is not None and not calibration.is_dir():
        raise FileNotFoundError(f"--calibration: folder not found: {calibration}.")
    size = parse_image_size(image_size) if image_size else None
    name = pathlib.Path(weights).name.removesuffix(".weights.h5").removesuffix(".keras")
    output = output or pathlib.Path(name + _ENDINGS[format])
    if output.exists() and not overwrite:
        raise FileExistsError(f"'{output}' exists. Pass --overwrite, or another --output.")

    import keras

    from keras_sepvit import export as exporting
    from keras_sepvit.cli import classifiers
    from keras_sepvit.scores import normalizes_images

    keras.config.disable_interactive_logging()  # no progress bars: stdout is for the result
    to_format = getattr(exporting, FORMATS[format])
    model = classifiers.load_classifier(weights, variant, classes, size)
    height, width, channels = classifiers.image_shape(model, size)
    options["normalize"] = not normalizes_images(model) and channels == 3
    if labels is not None:
        options["class_names"] = labels.read_text(encoding="utf-8").splitlines()
    if calibration is not None:
        images = _read_folder(calibration, height, width, channels)
        options["images"] = images[:_COMPARED_IMAGES]
        if quantize in ("int8", "full_int8"):
            options["calibration_images"] = images
    known = inspect.signature(to_format).parameters
    for argument in options.keys() - known.keys():
        option = _OPTIONS[argument]
        raise ValueError(f"{option} is not for --format {format}. Leave it out.")
    report = to_format(model, output, overwrite=overwrite, verbose=False, **options)
    typer.echo(report.to_json() if as_json else str(report))


def _batch_option(format, text):
    """`--batch-size` as the argument of a format's function."""
    if text is None:
        return {}
    if text != "any" and not (text.isdecimal() and int(text) > 0):
        raise ValueError(f"--batch-size must be a number above 0, or 'any'. Received: {text!r}.")
    if format in ("tftrt", "tensorrt"):  # which build an engine for each of several sizes
        if text == "any":
            raise ValueError(f"--batch-size: {format} needs a number.")
        return {"batch_sizes": (int(text),)}
    return {"batch_size": None if text == "any" else int(text)}


def _read_folder(folder, height, width, channels):
    """The images in a folder and the folders in it, in the order of their paths."""
    import numpy as np

    from keras_sepvit.runtime import read_image

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"--calibration: no images ({', '.join(_IMAGE_SUFFIXES)}) in {folder}.")
    # Spread over the folder, where each class often has a part of its own.
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), _MAX_CALIBRATION_IMAGES)).astype(int)
    return np.stack([read_image(paths[i], height, width, channels) for i in chosen])
