"""`keras-sepvit train`."""

import json
import pathlib
import shlex
from typing import Annotated

import typer

from keras_sepvit.cli.common import Json
from keras_sepvit.cli.quiet import without_lines_of_libjpeg
from keras_sepvit.validation import counted, likely_names


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|FOLDER",
            help="digits, imagenet_lite, imagenet_t, imagenet_s, imagenet_b, finetune_384, "
            "finetune, frozen_backbone, photos; segment_digits, ade20k_fpn_t, ade20k_upernet_t "
            "(also _s and _b), finetune_segmenter; detect_digits, coco_retinanet_t_1x (also _s and "
            "_3x), finetune_detector; instances_digits, coco_mask_rcnn_t_1x (also _s and _3x), "
            "finetune_instances; or a YAML file; a folder with one folder of photos a class is "
            "trained on by photos, with --task segmentation one of pictures and masks by "
            "finetune_segmenter, with --task detection one of pictures and boxes by "
            "finetune_detector, with --task instances one of pictures and polygons by "
            "finetune_instances.",
        ),
    ] = "digits",
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE...]",
            help="Changes to the recipe, such as batch_size=256 or data.data_dir=/data.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="The run's folder. A stopped run in it is gone on with.",
            show_default="runs/RECIPE, runs/FOLDER",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="What a folder is for: classification, segmentation, detection or instances.",
            show_default="classification",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Time some batches through everything, and write nothing but batch.png, pictures "
            "with their masks or boxes.",
        ),
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Print the recipe as YAML, and train nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: Json = False,
):
    """Train by a recipe, or on a folder of photos.

    The folder gets the models best.keras and last.keras, history.csv, TensorBoard
    logs, a picture of an augmented batch, the recipe, and a checkpoint: the same
    command goes on with a run that was stopped, at whatever moment. At the end it gets
    what best.keras makes of the validation data, by class, the confusion matrix and the
    worst mistakes.
    """
    from keras_sepvit.recipes import is_folder, load_recipe, recipe_name
    from keras_sepvit.training.settings import recipe_yaml

    _check_options([recipe, *(changes or ())])
    settings = load_recipe(recipe, changes or (), task)
    if show:
        typer.echo(recipe_yaml(settings), nl=False)
        return

    from keras_sepvit.cli.interruption import Interruption
    from keras_sepvit.training.dry_run import dry_run as describe
    from keras_sepvit.training.trainer import Trainer

    if output is None:
        path = pathlib.Path(recipe).expanduser()
        folder = is_folder(recipe, changes or ())
        name = path.resolve().name if folder else recipe_name(recipe) or path.stem
        output = pathlib.Path("runs") / name
    interruption = Interruption()
    trainer = Trainer(settings, output, callbacks=[interruption])
    if dry_run:
        description = describe(trainer, None if as_json else typer.echo)
        if not as_json:
            description.pop("labels", None)  # told
        typer.echo(
            json.dumps(description, indent=2, ensure_ascii=False)
            if as_json
            else _as_text(description)
        )
        return
    try:
        with without_lines_of_libjpeg():
            with interruption:
                result = trainer.train(verbose=0 if quiet or as_json else "auto")
            details = trainer.evaluate_best()
    except FloatingPointError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        kept = "The same command goes on from the last checkpoint"
        if not trainer.folder.checkpoint.exists():
            kept = "There is no checkpoint yet: the same command begins anew"
        typer.echo(f"Stopped. {kept} in {trainer.folder}.", err=True)
        raise typer.Exit(130) from error
    if as_json:
        record = {**vars(result), **(details.record() if details else {})}
        typer.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    best = ""
    if result.best is not None:
        best = f"; best {trainer.task.best} {result.best:.2f} % after epoch {result.best_epoch}"
    typer.echo(f"{counted(result.epochs, 'epoch')} in {result.folder}{best}")
    if details is not None:
        measured = f"{counted(details.counts()['images'], 'image')} of {trainer.validation_source}"
        typer.echo(f"best.keras on {measured}:")
        typer.echo(details.text())
    typer.echo(_what_next(trainer))
    if result.unreadable:
        typer.echo(str(trainer.report))


def _check_options(typed):
    """Refuses options that `train` does not have, and tells the settings that they may mean."""
    from keras_sepvit.recipes import RECIPES, recipe_name
    from keras_sepvit.training.settings import recipe_keys

    own = {"output": "--output", "dry_run": "--dry-run", "show": "--show", "quiet": "--quiet"}
    own["task"] = "--task"
    keys = recipe_keys(RECIPES[recipe_name(typed[0]) or "photos"])
    for option, following in zip(typed, (*typed[1:], "-"), strict=True):
        if option.startswith("-"):
            name, equals, value = option.partition("=")
            if not equals:
                value = "VALUE" if following.startswith("-") or "=" in following else following
            likely = likely_names(name, [*keys, *own])
            meant = " or ".join(own.get(key, f"{key}={value}") for key in likely)
            advice = f"Write {meant}." if meant else "--show prints them."
            raise ValueError(
                f"train has no option {name}; --help tells those that it has. Settings of the "
                f"recipe are written key=value, without dashes. {advice}"
            )


def _what_next(trainer):
    """Where to look, and commands that go on from the run's folder."""
    folder, source = trainer.folder, trainer.validation_source or trainer.source
    there = sorted(map(str, folder.path.glob("*.png")))
    model = folder / ("last.keras" if trainer.validation_source is None else "best.keras")
    # Names may be any bytes, which terminals do not take.
    good = (
        source.folder / path
        for path in getattr(source, "paths", ())
        if path.isprintable() and path not in trainer.report.names
    )
    photo = next(good, "PHOTO.jpg")
    exported = model.with_suffix(".tflite")
    # Class maps and boxes are looked at.
    classifier = trainer.recipe.task == "classification"
    drawn = () if classifier else ("--output", folder / "predicted")
    commands = (
        ("predict", model, photo, *drawn),
        ("export", model, "--format", "litert", "--output", exported),
    )
    lines = [shlex.join(map(str, ("keras-sepvit", *arguments))) for arguments in commands]
    return "\n".join((f"Pictures: {', '.join(there)}", "Go on with:", *lines))


def _as_text(description):
    width = max(map(len, description))
    lines = (f"{key:<{width}}  {_shown(key, value)}" for key, value in description.items())
    return "\n".join(line.replace("\n", "\n" + (width + 2) * " ") for line in lines)


def _shown(key, value):
    if value is None:
        return "-"
    if key.endswith("memory"):
        return f"{value / 2**30:.2f} GiB"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else value
