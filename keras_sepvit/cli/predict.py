"""`keras-sepvit predict`: the most probable classes of images."""

import json
import pathlib
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
    check_files_exist,
    check_image_size,
    parse_image_size,
    whole_model_error,
)


def predict(
    weights: Annotated[
        pathlib.Path,
        typer.Argument(
            metavar="WEIGHTS",
            help="A whole model (.keras, .tflite, .onnx), or the weights of one (.weights.h5).",
        ),
    ],
    images: Annotated[list[pathlib.Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    variant: Variant = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    labels: Labels = None,
    crop: Crop = None,
    interpolation: Interpolation = None,
    activation: Activation = None,
    pixels: Annotated[
        str | None,
        typer.Option(
            help="What a .tflite or .onnx file takes: 0..255, or imagenet (normalised).",
            show_default="the file's",
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="How many classes to print for an image.")] = 5,
    as_json: Json = False,
):
    """Print the most probable classes of images.

    Images are resized and cropped at the centre as in the model's evaluation, where
    the file tells (one that `export` wrote, a model in its training folder), else as in
    that on ImageNet: bicubic, the crop keeps 87.5 % of the shorter side. A model
    without a Normalization or Rescaling layer gets them normalised with ImageNet's mean
    and standard deviation. Without --labels, the names are those in a .tflite or .onnx
    file or in the training folder, and 1000 classes of other files are taken for those
    of ImageNet.
    """
    if top < 1:
        raise ValueError(f"--top must be at least 1. Received: {top}.")
    check_files_exist(weights, *images, labels)
    size = parse_image_size(image_size) if image_size else None

    import numpy as np

    from keras_sepvit import runtime

    given = {"labels": labels, "crop": crop, "interpolation": interpolation}
    given = {name: value for name, value in given.items() if value is not None}
    if weights.suffix.lower() in runtime.SUFFIXES:
        if variant is not None or classes is not None:
            raise whole_model_error(weights)
        if activation is not None:
            raise ValueError("--activation is for models of Keras. Leave it out.")
        predictor = runtime.Predictor(weights, pixels=pixels, **given)
        check_image_size(size, *predictor.image_shape[:2])
    else:
        if pixels is not None:
            raise ValueError("--pixels is for .tflite and .onnx files. Leave it out.")
        given["activation"] = activation
        predictor = _keras_predictor(weights, variant, classes, size, given)
    batch = np.stack([predictor.read_image(path) for path in images])
    results = [
        {
            "image": str(path),
            "predictions": _records(runtime.best_classes(scores, predictor.class_names, top)),
        }
        for path, scores in zip(images, predictor.predict(batch), strict=True)
    ]
    typer.echo(json.dumps(results, indent=2) if as_json else _as_text(results))


def _keras_predictor(weights, variant, classes, size, given):
    import keras

    from keras_sepvit.cli import classifiers
    from keras_sepvit.inference import KerasPredictor

    keras.config.disable_interactive_logging()  # no progress bars: stdout is for the result
    model = classifiers.load_classifier(weights, variant, classes, size)
    return KerasPredictor(model, image_size=size, **{**classifiers.evaluation_of(weights), **given})


def _records(predictions):
    return [
        {"class": number, "label": label, "probability": probability}
        for number, label, probability in predictions
    ]


def _as_text(results):
    lines = []
    for result in results:
        lines.append(result["image"])
        for guess in result["predictions"]:
            lines.append(f"  {guess['probability']:7.2%}  {guess['label']}")
    return "\n".join(lines)
