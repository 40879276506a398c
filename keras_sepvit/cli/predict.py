"""`keras-sepvit predict`: the most probable classes of images."""

import json
import pathlib
from typing import Annotated

import typer

from keras_sepvit.cli.common import (
    Classes,
    ImageSize,
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
    top: Annotated[int, typer.Option(help="How many classes to print for an image.")] = 5,
    as_json: Json = False,
):
    """Print the most probable classes of images.

    Images are resized (bicubic) and cropped at the centre as in the evaluation
    on ImageNet: the crop keeps 87.5 % of the shorter side. A model without a
    Normalization or Rescaling layer gets them normalised with ImageNet's mean
    and standard deviation. Without --labels, the names are those in a .tflite
    or .onnx file, and 1000 classes of other files are taken for those of
    ImageNet.
    """
    if top < 1:
        raise ValueError(f"--top must be at least 1. Received: {top}.")
    check_files_exist(weights, *images, labels)
    size = parse_image_size(image_size) if image_size else None

    from keras_sepvit import runtime

    if weights.suffix.lower() in runtime.SUFFIXES:
        if variant is not None or classes is not None:
            raise whole_model_error(weights)
        probabilities, names = _predict_exported(weights, images, size, labels)
    else:
        probabilities, names = _predict_with_keras(weights, images, variant, classes, size, labels)
    results = [
        {"image": str(path), "predictions": _records(runtime.best_classes(scores, names, top))}
        for path, scores in zip(images, probabilities, strict=True)
    ]
    typer.echo(json.dumps(results, indent=2) if as_json else _as_text(results))


def _predict_exported(path, images, size, labels):
    """Probabilities and class names of a .tflite or .onnx file."""
    import numpy as np

    from keras_sepvit.runtime import Predictor, read_image

    predictor = Predictor(path, labels=labels)
    height, width, channels = predictor.image_shape
    check_image_size(size, height, width)
    batch = np.stack([read_image(path, height, width, channels) for path in images])
    return predictor.predict(batch), predictor.class_names


def _predict_with_keras(path, images, variant, classes, size, labels):
    """Probabilities and class names of a Keras model."""
    import keras
    import numpy as np

    from keras_sepvit import scores
    from keras_sepvit.cli import classifiers
    from keras_sepvit.runtime import read_image

    keras.config.disable_interactive_logging()  # no progress bars: stdout is for the result
    model = classifiers.load_classifier(path, variant, classes, size)
    height, width, channels = classifiers.image_shape(model, size)
    batch = np.stack([read_image(path, height, width, channels) for path in images])
    outputs = model.predict(scores.preprocess(model, batch), batch_size=16, verbose=0)
    probabilities = scores.probabilities(model, outputs)
    return probabilities, classifiers.class_names(labels, probabilities.shape[-1])


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
