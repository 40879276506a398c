"""`keras-sepvit evaluate`: the accuracy of a classifier on a data set."""

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
    Variant,
    Weights,
    check_files_exist,
    check_image_size,
    parse_image_size,
    whole_model_error,
)
from keras_sepvit.validation import counted


def evaluate(
    weights: Weights,
    data: Annotated[
        str | None,
        typer.Option(
            help="A folder of class folders, digits, or the name of a TFDS data set.",
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
    batch_size: Annotated[int, typer.Option(help="Images predicted at a time.")] = 64,
    variant: Variant = None,
    classes: Classes = None,
    output: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where tables and pictures go: confusion.png, mistakes.png, classes.csv...",
        ),
    ] = None,
    csv: Annotated[
        pathlib.Path | None,
        typer.Option("--csv", metavar="FILE", help="Where the table by class goes."),
    ] = None,
    as_json: Json = False,
):
    """Measure a classifier's accuracy; that of exported files (.tflite, .onnx), too.

    On a validation set: ImageNet's (imagenet2012), ImageNet V2
    (imagenet_v2/matched-frequency with --split test), ReaL labels
    (imagenet2012_real, where a prediction is right if it is among an image's
    labels), or a folder. Images that cannot be read are counted and left out. Crop and
    interpolation are the model's where its file tells: one that `export` or `train`
    wrote. Classes are matched by name where both the data and the model, or
    --labels, have names. Prints a table by class; --output draws the confusion matrix and
    the surest mistakes.
    """
    check_files_exist(labels)
    size = parse_image_size(image_size) if image_size else None

    import keras

    from keras_sepvit import runtime
    from keras_sepvit.classification.evaluation import evaluate as measure
    from keras_sepvit.classification.report import ClassificationReport
    from keras_sepvit.cli import classifiers
    from keras_sepvit.runtime.labels import read_names
    from keras_sepvit.training.by_class import write_rows
    from keras_sepvit.training.report import DataReport

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
    if output is not None and output.exists() and not output.is_dir():
        raise ValueError(f"--output: {output} is a file. Give the name of a folder.")
    if csv is not None and not csv.absolute().parent.is_dir():
        raise ValueError(f"--csv: there is no folder {csv.parent}. Create it.")
    known = len(model.class_names) if hasattr(model, "class_names") else model.output_shape[-1]
    source = _source(weights, known, data, split, data_dir)
    if channels != 3:
        raise ValueError(f"{weights} takes images of {channels} channels; expected 3 (RGB).")
    details = None
    if not source.multi_label:
        details = ClassificationReport(source.classes, source.class_names)
    elif output or csv:
        raise ValueError(f"{source} has sets of labels and no table by class: no --output, --csv.")
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
        details=details,
        report=report,
        verbose=int(sys.stdout.isatty() and not as_json),
    )
    if source.whole and not _recipe_of(weights).is_file():
        typer.echo(
            "Note: the folder has no splits, and all of it is evaluated: images that the model was "
            "trained on, too, if there are any.",
            err=True,
        )
    record = {
        "data": source.name,
        "split": source.split,
        "image_size": (height, width),
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


def _recipe_of(weights):
    """Where the recipe of a model in the folder of its training is."""
    return pathlib.Path(weights).parent / "recipe.yaml"


def _source(weights, classes, data, split, data_dir):
    """What to evaluate a model of so many classes on; tells where it was trained on it."""
    from keras_sepvit.recipes import load_recipe
    from keras_sepvit.training.sources.labelled import open_source, open_splits

    recipe = _recipe_of(weights)
    run = None
    if pathlib.Path(weights).is_file() and recipe.is_file():
        run = load_recipe(recipe).data
    if data is None and split is None and run and run.validation_split:
        splits = run.train_split, run.validation_split
        return open_splits(run.name, *splits, data_dir or run.data_dir)[1]
    if data is None and run is None and classes != 1000:
        raise ValueError(
            f"{weights} has {counted(classes, 'class')}, and is not in the folder of its training. "
            "Say what to evaluate it on: --data FOLDER, or the name of a data set."
        )
    name = data or (run.name if run else "imagenet2012")
    source = open_source(name, split or "validation", data_dir or (run and run.data_dir))
    if run and hasattr(source, "folder") and run.name.startswith("folder:"):
        with contextlib.suppress(ValueError, OSError):  # the run's data may be gone
            trained = open_splits(run.name, run.train_split, run.validation_split)[0]
            both = set(trained.paths) & set(source.paths)
            if both and trained.folder.resolve() == source.folder.resolve():
                typer.echo(
                    f"Note: training has seen {len(both):,} of {counted(source.size, 'image')}. "
                    "What was held out is evaluated without --data and --split.",
                    err=True,
                )
    return source


def _as_text(source, result, details, report):
    split = "all of it" if source.whole else source.split
    lines = [f"{source.name} ({split}), {counted(result['images'], 'image')}"]
    if details is not None:
        lines.append(details.text())
    else:
        lines.append(f"  top-1  {result['top1']:6.2f} %")
        lines.append(f"  top-5  {result['top5']:6.2f} %")
    if result["unlabelled"]:
        lines.append(f"  left out: {counted(result['unlabelled'], 'image')} without labels")
    if result["unreadable"]:
        lines.append(f"  left out: {report}")
    return "\n".join(lines)
