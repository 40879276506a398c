"""What commands share: options, checks of arguments, and how errors are told.

Imports nothing slow; what needs Keras is in `keras_sepvit.cli.classifiers`.
"""

import functools
import inspect
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
Sides = Annotated[
    str | None,
    typer.Option(
        metavar="SHORTERxLONGER",
        help="Of a segmenter or detector of any image size: what a photo's sides become at most.",
        show_default="512x2048; of detectors the training's, else 800x1333",
    ),
]
Classes = Annotated[
    int | None,
    typer.Option(help="Number of classes that weights are for.", show_default="the file's"),
]
Labels = Annotated[
    pathlib.Path | None, typer.Option(help="A text file with the classes' names, one a line.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


Crop = Annotated[
    float | None,
    typer.Option(
        help="Share of a photo's shorter side that the centre crop keeps.",
        show_default="the model's, else 0.875",
    ),
]
Interpolation = Annotated[
    str | None,
    typer.Option(
        help="bicubic or bilinear, of the resize of photos.",
        show_default="the model's, else bicubic",
    ),
]

Activation = Annotated[
    str | None,
    typer.Option(
        help="What makes probabilities of a Keras model's outputs: softmax, sigmoid, or none.",
        show_default="what the model lacks",
    ),
]

# Options by the arguments that they become, where the names differ.
_RENAMED = {"calibration_images": "calibration", "class_names": "labels", "path": "output"}
_RENAMED |= {"batch_sizes": "batch_size"}
_QUOTES = "'\"(),"


def reports_bad_input(command):
    """Makes a command end with one line on stderr and exit code 2 on input it cannot use."""

    @functools.wraps(command)
    def wrapper(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except (ValueError, OSError, ImportError) as error:
            message = as_typed(one_line(error), command)
            typer.echo(f"Error: {message}", err=True)
            raise typer.Exit(2) from error

    return wrapper


def as_typed(message, command):
    """An error's message with a command's options in place of the arguments that they become."""
    options = {
        name: f"--{name.replace('_', '-')}"
        for name, parameter in inspect.signature(command).parameters.items()
        if any(
            isinstance(part, typer.models.OptionInfo)
            for part in getattr(parameter.annotation, "__metadata__", ())
        )
    }
    options |= {name: options[new] for name, new in _RENAMED.items() if new in options}

    def typed(match):
        name, value = match.groups()
        if name not in options:
            return match[0]
        if value in (None, "True"):
            return options[name]
        return (
            f"no {options[name]}" if value == "None" else f"{options[name]} {value.strip(_QUOTES)}"
        )

    message = re.sub(r"`(\w+)(?:=([^`]*))?`", typed, message)
    parts = re.split(r"(`[^`]*`)", message)  # other code stays as it is
    parts[::2] = [re.sub(r"\b(\w+)=('[^']*'|\([^)]*\)|[\w.]+)", typed, p) for p in parts[::2]]
    return "".join(parts)


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
    """Refuses a path that is a folder, or nothing; None is an option that was not given."""
    for path in paths:
        if path is not None and path.is_dir():
            raise IsADirectoryError(f"{path} is a folder. Expected a file.")
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"File not found: {path}.")


def check_output_folder(path):
    """Refuses an --output that is a file; None is an option that was not given."""
    if path is not None and path.exists() and not path.is_dir():
        raise ValueError(f"--output: {path} is a file. Give the name of a folder.")


def check_image_size(size, height, width):
    """Refuses a (height, width) option other than the size of the model; None is not given."""
    if size not in (None, (height, width)):
        raise ValueError(
            f"--image-size: the model takes images of {height} x {width}. Received: "
            f"{size[0]} x {size[1]}."
        )


def check_photo_size(size, height, width):
    """As `check_image_size`; for photos that are fitted, None is any height or width."""
    if size is not None and None in (height, width):
        raise ValueError("--image-size: the model takes photos of any size. Leave it out.")
    check_image_size(size, height, width)


def whole_model_error(path):
    """The error for options that are for files of weights, given with a whole model."""
    return ValueError(
        f"{path} is a whole model: leave out --variant and --classes, which are for files of "
        "weights alone."
    )


def one_line(error):
    """An error's text without breaks of lines."""
    return " ".join(str(error).split())


def named(path, error):
    """An error's text, with the file in front unless it names it."""
    return error if str(path) in error else f"{path}: {error}"
