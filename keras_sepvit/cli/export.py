"""`keras-sepvit export`: a model as a file for another runtime."""

import dataclasses
import functools
import inspect
import itertools
import pathlib
import random
import sys
from typing import Annotated

import typer

from keras_sepvit.cli.common import (
    Activation,
    Classes,
    Crop,
    ImageSize,
    Interpolation,
    Json,
    Labels,
    Variant,
    Weights,
    check_files_exist,
    named,
    parse_image_size,
)
from keras_sepvit.cli.tasks import task_of
from keras_sepvit.export import FORMATS
from keras_sepvit.files import IMAGE_SUFFIXES, image_files

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
_MEASURED = ("litert", "onnx")  # with --data
_CHECKS = {"error": True, "warn": "warn", "off": False}

# More images than this change no range of an activation, and take long.
_MAX_IMAGES = 500
# Of `--calibration`, for the comparison: a share, and at most so many.
_HELD_OUT = 0.2
_COMPARED_IMAGES = 32


def export(
    weights: Weights,
    format: Annotated[str, typer.Option(metavar="FORMAT", help=f"{', '.join(FORMATS)}.")],
    quantize: Annotated[
        str | None,
        typer.Option(
            help="float16, int8; litert has dynamic_int8 and full_int8, too, onnx and tensorrt "
            "int8_float16, tensorrt tf32.",
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
            help="Images to fix the ranges of 8-bit activations with.",
        ),
    ] = None,
    images: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Images to compare on.",
            show_default="up to 32 of --calibration, held out of it; else synthetic ones",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Validation data as of `evaluate`, which the model and its file, litert's or "
            "onnx's, are measured on.",
        ),
    ] = None,
    check: Annotated[
        str, typer.Option(help="Where results disagree: error, warn; off does not compare.")
    ] = "error",
    labels: Labels = None,
    crop: Crop = None,
    interpolation: Interpolation = None,
    activation: Activation = None,
    logits: Annotated[
        bool,
        typer.Option(
            "--logits", help="Of a segmenter: logits at a quarter of the size, not class maps."
        ),
    ] = False,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Of a detector: its raw maps (classes_P3...), not boxes."),
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Of a detector: boxes have scores above it, 0..1.", show_default="the model's"
        ),
    ] = None,
    iou: Annotated[
        float | None,
        typer.Option(
            help="Of a detector: of boxes of a class that overlap by more, the best stays.",
            show_default="the model's",
        ),
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(help="Of a detector: most boxes of an image.", show_default="the model's"),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="Of a detector's litert file: mediapipe, for its ObjectDetector."),
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|any|N,...",
            help="Images in a batch; several sizes for tftrt and tensorrt.",
            show_default="the format's",
        ),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(help="Version of ONNX's operators.", show_default="the exporter's newest"),
    ] = None,
    python: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="PATH", help="For tftrt: an environment of TensorFlow 2.17, or its interpreter."
        ),
    ] = None,
    variant: Variant = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: Json = False,
):
    """Export a model to another runtime, run it there, and compare it with the model.

    The exported model takes images of 0..255 (a model without a Normalization or
    Rescaling layer gets ImageNet's normalisation) and gives probabilities; of a segmenter,
    class maps; of a detector, boxes after non-maximum suppression. It carries a record of how
    photos go in: names of classes, crop and interpolation are those of the training where the
    model's file tells. Prints a report: size, operators, agreement with the model, latency.
    Nothing is written where the results disagree.
    """
    if format not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}. Received: {format!r}.")
    if check not in _CHECKS:
        raise ValueError(f"--check must be one of {', '.join(_CHECKS)}. Received: {check!r}.")
    options = _batch_option(format, batch_size)
    if data is not None and format not in _MEASURED:
        raise ValueError(
            f"--data is for {' and '.join(_MEASURED)}, whose files `evaluate` runs. "
            f"Received: --format {format}."
        )
    if data is not None and raw:
        raise ValueError("--data: files of raw maps give no boxes to measure. Leave out --raw.")
    if format == "tftrt" and python is None:
        raise ValueError("--format tftrt needs --python, an environment with TensorFlow 2.17.")
    given = {"quantize": quantize, "opset": opset, "crop": crop, "interpolation": interpolation}
    given |= {"python": python, "activation": activation, "logits": logits or None}
    given |= {"raw": raw or None, "score_threshold": threshold, "iou_threshold": iou}
    given |= {"max_detections": max_detections, "layout": layout}
    options |= {name: value for name, value in given.items() if value is not None}
    check_files_exist(labels)
    for option, folder in (("--calibration", calibration), ("--images", images)):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"{option}: folder not found: {folder}.")
    size = parse_image_size(image_size) if image_size else None
    name = pathlib.Path(weights).name.removesuffix(".weights.h5").removesuffix(".keras")
    output = output or pathlib.Path(name + _ENDINGS[format])
    if output.exists() and not overwrite:
        raise FileExistsError(f"'{output}' exists. Pass --overwrite, or another --output.")

    import keras

    from keras_sepvit import export as exporting
    from keras_sepvit.cli import classifiers
    from keras_sepvit.detection.detector import is_detector
    from keras_sepvit.export.images import MIN_CALIBRATION_IMAGES
    from keras_sepvit.runtime import Predictor, read_image
    from keras_sepvit.runtime.canvas import read_canvas
    from keras_sepvit.runtime.labels import read_names
    from keras_sepvit.scores import normalizes_images
    from keras_sepvit.segmentation.segmenter import is_segmenter

    keras.config.disable_interactive_logging()  # no progress bars: stdout is for the result
    to_format = getattr(exporting, FORMATS[format])
    known = inspect.signature(to_format).parameters.keys() | exporting.Options.__annotations__
    for argument in options.keys() - known:
        raise ValueError(f"`{argument}` is not for --format {format}. Leave it out.")
    model = classifiers.load_classifier(weights, variant, classes, size)
    height, width, channels = classifiers.image_shape(model, size)
    if labels is not None:
        options["class_names"] = read_names(labels)
    options |= {"check": _CHECKS[check], "overwrite": overwrite, "image_size": (height, width)}
    options["normalize"] = not normalizes_images(model) and channels == 3
    record = getattr(model, "record", None)
    how = {n: options.get(n) or getattr(record, n, None) for n in ("crop", "interpolation")}
    how = {name: value for name, value in how.items() if value is not None}
    read = functools.partial(read_image, channels=channels, **how)
    if is_segmenter(model) or is_detector(model):
        read = read_canvas
    read = functools.partial(read, height=height, width=width)
    if calibration is not None:
        pictures = _read_folder("--calibration", calibration, read)
        held_out = min(_COMPARED_IMAGES, int(_HELD_OUT * len(pictures)))
        options["images"] = pictures[:_COMPARED_IMAGES]
        if quantize in ("int8", "int8_float16", "full_int8"):
            if len(pictures) - held_out < MIN_CALIBRATION_IMAGES:
                held_out = 0
            if not held_out and images is None:
                typer.echo(
                    f"Compared on images of the calibration itself: {len(pictures)} are too few to "
                    "hold some out. Give more, or --images.",
                    err=True,
                )
            options["images"] = pictures[: held_out or _COMPARED_IMAGES]
            options["calibration_images"] = pictures[held_out:]
    if images is not None:
        options["images"] = _read_folder("--images", images, read)
    if data is not None:
        from keras_sepvit.training.report import DataReport

        # The model first: what does not fit it is refused before anything is written.
        source = task_of(model).open_source(data, "validation")
        read_by = ("class_names", "crop", "interpolation", "activation")
        own = {name: options[name] for name in read_by if name in options}
        # One report for both: an unreadable image is told of once.
        measuring = {"verbose": int(sys.stdout.isatty() and not as_json), "report": DataReport()}
        keras_scores, images = _measure(model, source, (height, width), **measuring, **own)
    report = to_format(model, output, verbose=False, **options)
    if data is not None:
        file_scores, _ = _measure(Predictor(output), source, (height, width), **measuring)
        scores = {"keras": keras_scores, "file": file_scores}
        report = dataclasses.replace(report, data=source.name, data_images=images, scores=scores)
    typer.echo(report.to_json() if as_json else str(report))


def _measure(model, source, image_size, **options):
    """The results that the task of a model, or of its file's predictor, is judged by; images."""
    task = task_of(model)
    result = task.evaluate(model, source, image_size, batch_size=task.BATCH_SIZE, **options)
    return {name: result[name] for name in task.SCORES}, result["images"]


def _batch_option(format, text):
    """`--batch-size` as the argument of a format's function."""
    if text is None:
        return {}
    sizes = [part.strip() for part in text.split(",")]
    if text != "any" and not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ValueError(f"--batch-size must be a number above 0, or 'any'. Received: {text!r}.")
    if format in ("tftrt", "tensorrt"):  # which build an engine for each of several sizes
        if text == "any":
            raise ValueError(f"--batch-size: {format} needs a number.")
        return {"batch_sizes": tuple(map(int, sizes))}
    if len(sizes) > 1:
        raise ValueError(f"--batch-size: {format} takes one. Received: {text!r}.")
    return {"batch_size": None if text == "any" else int(text)}


def _read_folder(option, folder, read):
    """Images in a folder and the folders in it, in an order that takes all classes in turn.

    `read` makes an array of a file. Those that cannot be read are told and left out, unless
    they are the most.
    """
    import numpy as np

    paths = image_files(folder)
    if not paths:
        raise ValueError(f"{option}: no images ({', '.join(IMAGE_SUFFIXES)}) in {folder}.")
    chosen = _classes_in_turn(folder, paths)[:_MAX_IMAGES]
    pictures, bad = [], []
    for path in chosen:
        try:
            pictures.append(read(path))
        except (ValueError, OSError) as error:
            bad.append(path)
            typer.echo(f"Left out: {named(path, ' '.join(str(error).split()))}", err=True)
    if len(bad) > len(pictures):
        raise ValueError(
            f"{option}: {len(bad)} of {len(chosen)} images in {folder} cannot be read, such as "
            f"{bad[0]}. Give a folder of pictures."
        )
    return np.stack(pictures)


def _classes_in_turn(folder, paths):
    """Shuffled paths (always alike), so that any first of them are of all classes: of the folders
    in `folder`."""
    shuffled = random.Random(0).sample(paths, len(paths))
    classes = {}
    for path in shuffled:
        classes.setdefault(path.relative_to(folder).parts[:-1][:1], []).append(path)
    turns = itertools.zip_longest(*classes.values())
    return [path for turn in turns for path in turn if path is not None]
