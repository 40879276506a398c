"""`keras-sepvit evaluate`: how good a model of any task is on a data set."""

import contextlib
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
    Sides,
    Variant,
    Weights,
    check_files_exist,
    check_image_size,
    check_output_folder,
    parse_image_size,
    whole_model_error,
)
from keras_sepvit.validation import counted


def evaluate(
    weights: Weights,
    data: Annotated[
        str | None,
        typer.Option(
            help="A folder of class folders, digits, or the name of a TFDS data set; of "
            "segmenters a folder of images and masks, of detectors and instance segmenters one in "
            "COCO's or YOLO's form, or scenes.",
            show_default="the validation data of a model in its training folder, else imagenet2012",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="The part of the data.", show_default="validation")
    ] = None,
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
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images predicted at a time.", show_default="64; of segmenters and detectors 1"
        ),
    ] = None,
    variant: Variant = None,
    classes: Classes = None,
    sides: Sides = None,
    scales: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="Of segmenters: factors on the photos' size, whose answers are averaged: "
            "0.5,0.75,1,1.25,1.5,1.75.",
            show_default="1",
        ),
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Of segmenters: average with flipped photos.")
    ] = False,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Of segmenters: windows that photos are cut into, 512, or HEIGHTxWIDTH.",
        ),
    ] = None,
    stride: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="From one window to the next.", show_default="two thirds of it"
        ),
    ] = None,
    output: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where tables and pictures go: confusion.png, mistakes.png (of segmenters and "
            "detectors worst.png), classes.csv, of detectors results.json...",
        ),
    ] = None,
    csv: Annotated[
        pathlib.Path | None,
        typer.Option("--csv", metavar="FILE", help="Where the table by class goes."),
    ] = None,
    as_json: Json = False,
):
    """Measure accuracy, mean IoU, or AP of boxes and masks; also of exported files.

    On a validation set: ImageNet's (imagenet2012), ImageNet V2
    (imagenet_v2/matched-frequency with --split test), ReaL labels
    (imagenet2012_real, where a prediction is right if it is among an image's
    labels), or a folder. Images that cannot be read are counted and left out. Crop and
    interpolation are the model's where its file tells: one that `export` or `train`
    wrote. Segmenters and detectors are measured at the photos' own sizes, instance segmenters by
    boxes and by masks. Classes are matched by
    name where both the data and the model, or --labels, have names. Prints a table by class;
    --output draws the confusion matrix and the surest mistakes, or the worst photos, and of
    detectors precision by recall.
    """
    check_files_exist(labels)
    size = parse_image_size(image_size) if image_size else None
    given = {
        "crop": crop,
        "interpolation": interpolation,
        "activation": activation,
        "data_dir": data_dir,
        "sides": parse_image_size(sides, "--sides") if sides else None,
        "scales": _numbers(scales) if scales else None,
        "flip": flip or None,
        "window": parse_image_size(window, "--window") if window else None,
        "stride": parse_image_size(stride, "--stride") if stride else None,
    }

    import keras

    from keras_sepvit.cli.tasks import own_options, task_of
    from keras_sepvit.runtime.labels import read_names
    from keras_sepvit.training.by_class import write_rows
    from keras_sepvit.training.folder import check_apart
    from keras_sepvit.training.report import DataReport

    keras.config.disable_interactive_logging()
    model, (height, width, channels) = _open(weights, variant, classes, size, activation)
    task = task_of(model)
    options = own_options(task, "EVALUATION", given, weights)
    check_output_folder(output)
    if csv is not None and not csv.absolute().parent.is_dir():
        raise ValueError(f"--csv: there is no folder {csv.parent}. Create it.")
    source = _source(task, weights, model, data, split, data_dir)
    if output is not None:
        check_apart(output, source)
    if channels != 3:
        raise ValueError(f"{weights} takes images of {channels} channels; expected 3 (RGB).")
    if source.multi_label and (output or csv):
        raise ValueError(f"{source} has sets of labels and no table by class: no --output, --csv.")
    report, details = DataReport(), task.details(source)
    result = task.evaluate(
        model,
        source,
        (height, width),
        batch_size=batch_size or task.BATCH_SIZE,
        class_names=None if labels is None else read_names(labels),
        details=details,
        report=report,
        verbose=int(sys.stdout.isatty() and not as_json),
        **options,
    )
    if note := task.note(model):
        typer.echo(f"Note: {note}", err=True)
    if source.whole and not _recipe_of(weights).is_file():
        typer.echo(
            "Note: the folder has no splits, and all of it is evaluated: images that the model was "
            "trained on, too, if there are any.",
            err=True,
        )
    record = {
        "data": source.name,
        "split": source.split,
        "image_size": (height, width) if height and width else None,
        **result,
        **(details.record() if details else {}),
        "unreadable_names": report.names,
    }
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        details.write(output)
    if csv is not None:
        write_rows(csv, record["classes"])
    typer.echo(
        json.dumps(record, indent=2, ensure_ascii=False)
        if as_json
        else _as_text(source, result, details, report)
    )


def _open(weights, variant, classes, size, activation):
    """The model, and (height, width, channels) of its images, None for any height or width."""
    from keras_sepvit import runtime
    from keras_sepvit.cli import classifiers
    from keras_sepvit.cli.tasks import classification, task_of

    if weights.lower().endswith(runtime.SUFFIXES):
        if variant is not None or classes is not None:
            raise whole_model_error(weights)
        if activation is not None:
            raise ValueError("--activation is for models of Keras. Leave it out.")
        model = runtime.Predictor(weights)
        shape = model.image_shape
    else:
        model = classifiers.load_classifier(weights, variant, classes, size)
        if task_of(model) is classification:
            return model, classifiers.image_shape(model, size)
        shape = model.input_shape[1:]
    if size is not None and None in shape:
        raise ValueError(f"--image-size: {weights} takes images of any size. Give --sides.")
    check_image_size(size, *shape[:2])
    return model, shape


def _numbers(text):
    """The numbers in `"0.5,1,1.5"`."""
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise ValueError(
            f"--scales must be numbers with commas between, such as 0.5,1,1.5. Received: {text!r}."
        ) from None


def _recipe_of(weights):
    """Where the recipe of a model in the folder of its training is."""
    return pathlib.Path(weights).parent / "recipe.yaml"


def _source(task, weights, model, data, split, data_dir):
    """What to evaluate a model on; tells where it was trained on it."""
    from keras_sepvit.recipes import load_recipe

    recipe = _recipe_of(weights)
    run = None
    if pathlib.Path(weights).is_file() and recipe.is_file():
        run = load_recipe(recipe).data
        data_dir = data_dir or getattr(run, "data_dir", None)
    if data is None and split is None and run and run.validation_split:
        return task.open_splits(run.name, run.train_split, run.validation_split, data_dir)[1]
    classes = task.classes(model)
    if data is None and run is None and classes != 1000:
        has = "" if classes is None else f" has {classes:,} classes, and"
        raise ValueError(
            f"{weights}{has} is not in the folder of its training. Say "
            "what to evaluate it on: --data FOLDER, or the name of a data set."
        )
    name = data or (run.name if run else "imagenet2012")
    source = task.open_source(name, split or "validation", data_dir)
    files = _files(source)
    if run and files and run.name.startswith("folder:"):
        with contextlib.suppress(ValueError, OSError):  # the run's data may be gone
            splits = task.open_splits(run.name, run.train_split, run.validation_split)
            both = files & _files(splits[0])
            if both:
                typer.echo(
                    f"Note: training has seen {len(both):,} of {counted(source.size, 'image')}. "
                    "What was held out is evaluated without --data and --split.",
                    err=True,
                )
    return source


def _files(source):
    """The files of a folder's labelled images, resolved; an empty set of other data."""
    if hasattr(source, "masks"):
        return {path.resolve() for path in source.masks}
    folder = getattr(source, "folder", None)
    return set() if folder is None else {folder.resolve() / path for path in source.paths}


def _as_text(source, result, details, report):
    split = "all of it" if source.whole else source.split
    lines = [f"{source.name} ({split}), {counted(result['images'], 'image')}"]
    if details is not None:
        lines.append(details.text())
    else:
        lines.append(f"  top-1  {result['top1']:6.2f} %")
        lines.append(f"  top-5  {result['top5']:6.2f} %")
    if result.get("unlabelled"):
        lines.append(f"  left out: {counted(result['unlabelled'], 'image')} without labels")
    if result["unreadable"]:
        lines.append(f"  left out: {report}")
    if result.get("shapes", 1) > 1:
        lines.append(f"  images of {result['shapes']:,} shapes")
    return "\n".join(lines)
