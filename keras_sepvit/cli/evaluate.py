"""`keras-sepvit evaluate`: the accuracy of a classifier on a data set."""

import json
import pathlib
import sys
from typing import Annotated

import typer

from keras_sepvit.cli.common import (
    Activation,
    Classes,
    ImageSize,
    Interpolation,
    Json,
    Labels,
    Variant,
    Weights,
    check_files_exist,
    check_image_size,
    parse_image_size,
    whole_model_error,
)


def evaluate(
    weights: Weights,
    data: Annotated[
        str,
        typer.Option(help="A folder of class folders, digits, or the name of a TFDS data set."),
    ] = "imagenet2012",
    split: Annotated[str, typer.Option(help="The part of the data.")] = "validation",
    data_dir: Annotated[
        pathlib.Path | None,
        typer.Option(help="Where TFDS keeps its data.", show_default="~/tensorflow_datasets"),
    ] = None,
    image_size: ImageSize = None,
    crop: Annotated[
        float | None,
        typer.Option(
            help="Share of the shorter side that the centre crop keeps.",
            show_default="the model's, else 0.875, and 1 for digits",
        ),
    ] = None,
    interpolation: Interpolation = None,
    activation: Activation = None,
    labels: Labels = None,
    batch_size: Annotated[int, typer.Option(help="Images predicted at a time.")] = 64,
    variant: Variant = None,
    classes: Classes = None,
    as_json: Json = False,
):
    """Measure a classifier's accuracy; that of exported files (.tflite, .onnx), too.

    On a validation set: ImageNet's (imagenet2012), ImageNet V2
    (imagenet_v2/matched-frequency with --split test), ReaL labels
    (imagenet2012_real, where a prediction is right if it is among an image's
    labels), or a folder. Images that cannot be read are counted and left out. Crop and
    interpolation are the model's where its file tells: one that `export` or `train`
    wrote. Classes are matched by name where both the data and the model, or
    --labels, have names.
    """
    check_files_exist(labels)
    size = parse_image_size(image_size) if image_size else None

    import keras

    from keras_sepvit import runtime
    from keras_sepvit.classification.evaluation import evaluate as measure
    from keras_sepvit.cli import classifiers
    from keras_sepvit.runtime.labels import read_names
    from keras_sepvit.training.report import DataReport
    from keras_sepvit.training.sources.labelled import open_source

    keras.config.disable_interactive_logging()
    if weights.lower().endswith(runtime.SUFFIXES):
        if variant is not None or classes is not None:
            raise whole_model_error(weights)
        if activation is not None:
            raise ValueError("--activation is for models of Keras. Leave it out.")
        model = runtime.Predictor(weights)
        height, width, channels = model.image_shape
        check_image_size(size, height, width)
    else:
        model = classifiers.load_classifier(weights, variant, classes, size)
        height, width, channels = classifiers.image_shape(model, size)
    source = open_source(data, split, data_dir)
    if channels != 3:
        raise ValueError(f"{weights} takes images of {channels} channels; expected 3 (RGB).")
    report = DataReport()
    result = measure(
        model,
        source,
        image_size=(height, width),
        batch_size=batch_size,
        crop=crop,
        interpolation=interpolation,
        activation=activation,
        class_names=None if labels is None else read_names(labels),
        report=report,
        verbose=int(sys.stdout.isatty() and not as_json),
    )
    record = {
        "data": source.name,
        "split": source.split,
        "image_size": (height, width),
        **result,
        "unreadable_names": report.names,
    }
    typer.echo(
        json.dumps(record, indent=2, ensure_ascii=False)
        if as_json
        else _as_text(source, result, report)
    )


def _as_text(source, result, report):
    lines = [f"{source.name} ({source.split}), {result['images']:,} images"]
    lines.append(f"  top-1  {result['top1']:6.2f} %")
    if "top5" in result:
        lines.append(f"  top-5  {result['top5']:6.2f} %")
    if result["loss"] is not None:
        lines.append(f"  loss   {result['loss']:6.4f}")
    if result["unlabelled"]:
        lines.append(f"  {result['unlabelled']:,} images without labels left out")
    if result["unreadable"]:
        lines.append(f"  left out: {report}")
    return "\n".join(lines)
