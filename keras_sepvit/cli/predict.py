"""`keras-sepvit predict`: what images show: the class, classes of their pixels, objects."""

import json
import pathlib
import sys
from typing import Annotated

import typer

from keras_sepvit.cli.common import (
    Activation,
    Crop,
    ImageSize,
    Interpolation,
    Json,
    Labels,
    Variant,
    check_files_exist,
    check_image_size,
    check_output_folder,
    named,
    parse_image_size,
    whole_model_error,
)
from keras_sepvit.cli.photos import check_outputs, outputs_of, photos_of
from keras_sepvit.validation import counted


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
        typer.Argument(
            metavar="IMAGE...",
            help="Image files, folders of them, and patterns in quotes, such as 'photos/*.jpg'.",
        ),
    ],
    variant: Variant = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|NAMES",
            help="Number of classes that weights are for. Of a detector: the classes to tell, with "
            "commas between.",
            show_default="the file's; all",
        ),
    ] = None,
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
    top: Annotated[
        int | None,
        typer.Option(help="How many classes to print for an image.", show_default="5"),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Of a detector: objects with a confidence above it are told, 0 to 1. `evaluate` "
            "prints that of the best F1. The model has a threshold of its own, 0.05 by default.",
            show_default="0.3",
        ),
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(help="Of a detector: objects of a photo, the surest.", show_default="all"),
    ] = None,
    output: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Of a segmenter: where its masks go, and the photos with their classes drawn in. "
            "Of a detector: where the photos with their objects go. No folder that photos are "
            "read from.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is in --output.")
    ] = False,
    as_json: Json = False,
):
    """Print the most probable classes of images, what classes their pixels have, or their objects.

    Images are resized and cropped at the centre as in the model's evaluation, where
    the file tells (one that `export` or `train` wrote), else as in that on ImageNet:
    bicubic, the crop keeps 87.5 % of the shorter side. A model without a Normalization or
    Rescaling layer gets them normalised with ImageNet's mean and standard deviation.
    Without --labels, the names are those in the file, or in a classes.txt beside it, and
    1000 classes of other files are taken for those of ImageNet. A segmenter gets the whole
    photo; printed are the largest shares of its pixels, and --output gets for photo.jpg
    photo_mask.png, with a palette, whose pixels are the classes, and photo_overlay.png;
    those of a folder's photos lie in the same folders as these. A detector gets the whole photo,
    too; printed are its objects, the surest first, with left, top, width x height in the photo's
    pixels, and --output gets photo_overlay.png. Of an instance segmenter that picture has the
    objects' masks, and --json has them as COCO's run lengths. Where a file is there already,
    nothing is computed without --overwrite.
    Images that cannot be read are told at the end, with exit code 1.
    """
    if top is not None and top < 1:
        raise ValueError(f"--top must be at least 1. Received: {top}.")
    check_files_exist(labels)
    files, names = photos_of(images)
    size = parse_image_size(image_size) if image_size else None
    check_output_folder(output)
    if overwrite and output is None:
        raise ValueError("--overwrite goes with --output. Leave it out.")
    given = {
        "crop": crop,
        "interpolation": interpolation,
        "activation": activation,
        "top": top,
        "threshold": threshold,
        "classes": classes,
        "max_detections": max_detections,
        "output": output,
        "overwrite": overwrite or None,
    }
    predictor, task, options = _open(weights, variant, size, labels, pixels, given)
    outputs = []
    if output is not None:
        outputs = [outputs_of(output, name, task.OUTPUTS) for name in names]
        written = [path for paths in outputs for path in paths.values()]
        check_outputs(output, images, files, written, overwrite)
        for path in written:
            path.parent.mkdir(parents=True, exist_ok=True)
    results = []
    shown = sys.stderr if sys.stderr.isatty() else None
    with typer.progressbar(length=len(files), file=shown, hidden=shown is None) as progress:
        for start in range(0, len(files), task.AT_A_TIME):
            some = slice(start, start + task.AT_A_TIME)
            results += task.predict(predictor, files[some], outputs[some], **options)
            progress.update(task.AT_A_TIME)
    text = json.dumps(results, indent=2, ensure_ascii=False) if as_json else _as_text(task, results)
    if text:
        typer.echo(text)
    bad = [result for result in results if "error" in result]
    for result in bad:
        typer.echo(f"Error: {named(result['image'], result['error'])}", err=True)
    if bad:
        typer.echo(f"{len(bad)} of {counted(len(files), 'image')} could not be read.", err=True)
        raise typer.Exit(1)


def _open(weights, variant, size, labels, pixels, given):
    """What predicts, the module of its task, and the options that are given of that task."""
    from keras_sepvit import runtime
    from keras_sepvit.cli.tasks import own_options, task_of

    exported = weights.lower().endswith(runtime.SUFFIXES)
    whole = exported or weights.lower().endswith(".keras")
    if whole and variant is not None:
        check_files_exist(pathlib.Path(weights))
        raise whole_model_error(weights)
    if exported:
        check_files_exist(pathlib.Path(weights))
        if given["activation"] is not None:
            raise ValueError("--activation is for models of Keras. Leave it out.")
        how = {name: given[name] for name in ("crop", "interpolation") if given[name] is not None}
        model = runtime.Predictor(weights, labels=labels, pixels=pixels, **how)
    else:
        if pixels is not None:
            raise ValueError("--pixels is for .tflite and .onnx files. Leave it out.")
        model = _load(weights, variant, None if whole else given["classes"], size)
    task = task_of(model)
    if not whole:
        given = {**given, "classes": None}
    elif given["classes"] is not None and "classes" not in task.PREDICTION_OPTIONS:
        raise whole_model_error(weights)
    options = own_options(task, "PREDICTION", given, weights)
    if exported:
        check_image_size(size, *model.image_shape[:2])
        return model, task, options
    return task.predictor(model, size, labels, options), task, options


def _load(weights, variant, classes, size):
    """The Keras model; `classes` is text."""
    import keras

    from keras_sepvit.cli import classifiers

    if classes is not None and not classes.isdecimal():
        raise ValueError(
            f"--classes of weights must be their number. Received: {classes}. Names are for "
            "detectors."
        )
    keras.config.disable_interactive_logging()  # no progress bars: stdout is for the result
    classes = None if classes is None else int(classes)
    return classifiers.load_classifier(weights, variant, classes, size)


def _as_text(task, results):
    read = [result for result in results if "error" not in result]
    return "\n".join(line for result in read for line in (result["image"], *task.lines(result)))
