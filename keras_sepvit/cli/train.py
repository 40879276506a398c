"""`keras-sepvit train`."""

import json
import pathlib
from typing import Annotated

import typer

from keras_sepvit.cli.common import Json


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="digits, imagenet_lite, imagenet_t, imagenet_s, imagenet_b, finetune_384, "
            "finetune, frozen_backbone, or a YAML file.",
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
            show_default="runs/RECIPE",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Time some batches through everything, and write nothing."),
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Print the recipe as YAML, and train nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: Json = False,
):
    """Train by a recipe.

    The folder gets the models best.keras and last.keras, history.csv, TensorBoard
    logs, a picture of an augmented batch, the recipe, and a checkpoint: the same
    command goes on with a run that was stopped, at whatever moment.
    """
    from keras_sepvit.recipes import load_recipe
    from keras_sepvit.training.recipe import recipe_yaml

    settings = load_recipe(recipe, changes or ())
    if show:
        typer.echo(recipe_yaml(settings), nl=False)
        return

    from keras_sepvit.training.dry_run import dry_run as describe
    from keras_sepvit.training.trainer import Trainer

    if output is None:
        output = pathlib.Path("runs") / pathlib.Path(recipe).stem
    trainer = Trainer(settings, output)
    if dry_run:
        description = describe(trainer)
        typer.echo(
            json.dumps(description, indent=2, ensure_ascii=False)
            if as_json
            else _as_text(description)
        )
        return
    try:
        result = trainer.train(verbose=0 if quiet or as_json else "auto")
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
        typer.echo(json.dumps(vars(result), indent=2, ensure_ascii=False))
        return
    best = "" if result.best is None else f"; best {trainer.task.best} {result.best:.2f} %"
    typer.echo(f"{result.epochs} epochs in {result.folder}{best}")
    if result.unreadable:
        names = ", ".join(result.unreadable_names)
        typer.echo(f"{result.unreadable} times an image could not be read: {names}")


def _as_text(description):
    width = max(map(len, description))
    return "\n".join(f"{key:<{width}}  {_shown(key, value)}" for key, value in description.items())


def _shown(key, value):
    if key.endswith("memory"):
        return f"{value / 2**30:.2f} GiB"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else value
