"""What commands share: options, checks of arguments, and how errors are told.

Imports nothing slow; what needs Keras is in `keras_sepvit.cli.classifiers`.
"""

import functools
import pathlib
import re
from typing import Annotated

import typer

ImageSize = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Image size: 224, or HEIGHTxWIDTH.")
]
Weights = Annotated[
    str,
    typer.Argument(
        metavar="WEIGHTS",
        help="A whole model (.keras), the weights of one (.weights.h5), or the name of "
        "registered weights (digits).",
    ),
]
Variant = Annotated[
    str | None, typer.Option(help="The variant that weights are for.", show_default="the file's")
]
Classes = Annotated[
    int | None,
    typer.Option(help="Number of classes that weights are for.", show_default="the file's"),
]
Labels = Annotated[
    pathlib.Path | None, typer.Option(help="A text file with the classes' names, one a line.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def reports_bad_input(command):
    """Makes a command end with one line on stderr and exit code 2 on input it cannot use."""

    @functools.wraps(command)
    def wrapper(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except (ValueError, OSError, ImportError) as error:
            typer.echo(f"Error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error

    return wrapper


def parse_image_size(text, option="--image-size"):
    """(height, width) of `"224"` or `"192x320"`."""
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if not match:
        raise ValueError(
            f"{option} must be one number, or HEIGHTxWIDTH, in pixels. Received: {text!r}."
        )
    height, width = match.groups()
    return int(height), int(width or height)


def check_files_exist(*paths):
    """Refuses a path that is no file; None is an option that was not given."""
    for path in paths:
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"File not found: {path}.")


def check_image_size(size, height, width):
    """Refuses a (height, width) option other than the size of the model; None is not given."""
    if size not in (None, (height, width)):
        raise ValueError(
            f"--image-size: the model takes images of {height} x {width}. Received: "
            f"{size[0]} x {size[1]}."
        )


def whole_model_error(path):
    """The error for options that are for files of weights, given with a whole model."""
    return ValueError(
        f"{path} is a whole model: leave out --variant and --classes, which are for files of "
        "weights alone."
    )
