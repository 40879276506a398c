"""`keras-sepvit convert`: weights files of one kind, size or form into another."""

import dataclasses
import json
import pathlib
from typing import Annotated

import typer

from keras_sepvit.cli.common import Json, parse_image_size


def convert(
    source: Annotated[
        pathlib.Path,
        typer.Argument(
            metavar="IN",
            help="Weights: .weights.h5, .keras, .pth, .pt, .bin or .safetensors.",
        ),
    ],
    destination: Annotated[
        pathlib.Path,
        typer.Argument(metavar="OUT", help="The file to write, of a kind from the same list."),
    ],
    variant: Annotated[
        str | None, typer.Option(help="The variant of the weights.", show_default="the file's")
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Image size of the new model: 224, or HEIGHTxWIDTH."),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(help="Classes of the new model, with a new head.", show_default="the file's"),
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="Write the dense form, whatever the file is.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Convert what fits, and leave the rest.")
    ] = False,
    as_json: Json = False,
):
    """Convert weights between Keras and the authors' PyTorch code, sizes and forms.

    Prints which weights were taken over, resized, left at their initial values or
    not used.
    """
    size = parse_image_size(image_size, "--image-size") if image_size else None

    from keras_sepvit.conversion import convert as convert_weights

    report = convert_weights(
        source,
        destination,
        variant=variant,
        image_size=size,
        classes=classes,
        dense=dense or None,
        partial=partial,
    )
    typer.echo(json.dumps(dataclasses.asdict(report), indent=2) if as_json else str(report))
