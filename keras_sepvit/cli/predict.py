"""`keras-sepvit predict`: the most probable classes of images."""

import json
import pathlib
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
    check_files_exist,
    check_image_size,
    named,
    parse_image_size,
    whole_model_error,
)
from keras_sepvit.files import IMAGE_SUFFIXES, image_files
from keras_sepvit.validation import counted

# Images that are in memory together.
_AT_A_TIME = 64


def predict(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="WEIGHTS",
            help="A whole model (.keras, .tflite, .onnx), the weights of one (.weights.h5), or the "
            "name of registered weights (digits).",
        ),
    ],
    images: Annotated[
        list[pathlib.Path],
        typer.Argument(metavar="IMAGE...", help="Image files, and folders of them."),
    ],
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
    the file tells (one that `export` or `train` wrote), else as in that on ImageNet:
    bicubic, the crop keeps 87.5 % of the shorter side. A model without a Normalization or
    Rescaling layer gets them normalised with ImageNet's mean and standard deviation.
    Without --labels, the names are those in the file, or in a classes.txt beside it, and
    1000 classes of other files are taken for those of ImageNet. Images that cannot be read
    are told at the end, with exit code 1.
    """
    if top < 1:
        raise ValueError(f"--top must be at least 1. Received: {top}.")
    check_files_exist(labels)
    files = _image_files(images)
    size = parse_image_size(image_size) if image_size else None

    from keras_sepvit import runtime

    given = {"labels": labels, "crop": crop, "interpolation": interpolation}
    given = {name: value for name, value in given.items() if value is not None}
    if weights.lower().endswith(runtime.SUFFIXES):
        check_files_exist(pathlib.Path(weights))
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
    results = []
    shown = sys.stderr if sys.stderr.isatty() else None
    with typer.progressbar(length=len(files), file=shown, hidden=shown is None) as progress:
        for start in range(0, len(files), _AT_A_TIME):
            results += _predict(predictor, files[start : start + _AT_A_TIME], top)
            progress.update(_AT_A_TIME)
    text = json.dumps(results, indent=2, ensure_ascii=False) if as_json else _as_text(results)
    if text:
        typer.echo(text)
    bad = [result for result in results if "error" in result]
    for result in bad:
        typer.echo(f"Error: {named(result['image'], result['error'])}", err=True)
    if bad:
        typer.echo(f"{len(bad)} of {counted(len(files), 'image')} could not be read.", err=True)
        raise typer.Exit(1)


def _image_files(paths):
    """The files among paths, and those in folders, in their order."""
    files = []
    for path in paths:
        if not path.is_dir():
            check_files_exist(path)
            files.append(path)
            continue
        inside = image_files(path)
        if not inside:
            raise FileNotFoundError(
                f"The folder {path} holds no images ({', '.join(IMAGE_SUFFIXES)})."
            )
        files += inside
    return files


def _predict(predictor, files, top):
    """The records of images; of one that cannot be read, why."""
    import numpy as np

    from keras_sepvit import runtime

    records, pictures = [], {}
    for path in files:
        record = {"image": str(path)}
        try:
            pictures[len(records)] = predictor.read_image(path)
        except (ValueError, OSError) as error:
            record["error"] = " ".join(str(error).split())
        records.append(record)
    if pictures:
        probabilities = predictor.predict(np.stack(list(pictures.values())))
        for number, scores in zip(pictures, probabilities, strict=True):
            best = runtime.best_classes(scores, predictor.class_names, top)
            records[number]["predictions"] = _records(best)
    return records


def _keras_predictor(weights, variant, classes, size, given):
    import keras

    from keras_sepvit.cli import classifiers
    from keras_sepvit.inference import KerasPredictor

    keras.config.disable_interactive_logging()  # no progress bars: stdout is for the result
    model = classifiers.load_classifier(weights, variant, classes, size)
    return KerasPredictor(model, image_size=size, **given)


def _records(predictions):
    return [
        {"class": number, "label": label, "probability": probability}
        for number, label, probability in predictions
    ]


def _as_text(results):
    lines = []
    for result in results:
        if "error" in result:
            continue
        lines.append(result["image"])
        for guess in result["predictions"]:
            lines.append(f"  {guess['probability']:7.2%}  {guess['label']}")
    return "\n".join(lines)
