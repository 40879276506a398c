"""`keras-sepvit summary`: what a model costs."""

import json
import pathlib
from typing import Annotated

import typer

from keras_sepvit import complexity
from keras_sepvit.cli.common import ImageSize, Json, parse_image_size
from keras_sepvit.configs import variant_config
from keras_sepvit.validation import counted


def summary(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="sepvit_lite, sepvit_t, sepvit_s or sepvit_b.")
    ],
    image_size: ImageSize = None,
    classes: Annotated[
        int | None, typer.Option(help="Number of classes.", show_default="1000")
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="The dense form, for detection and segmentation.")
    ] = False,
    as_json: Json = False,
):
    """Print output shape, blocks, parameters and MACs of a model's stages."""
    if dense and classes is not None:
        raise ValueError("--classes: the dense form has no head. Leave out --classes or --dense.")
    if pathlib.Path(model).suffix:
        raise ValueError(
            f"MODEL must be a variant, such as sepvit_t. {model} is the name of a file: "
            f"`keras-sepvit benchmark {model}` measures a whole model, `keras-sepvit predict` "
            "runs it, and in Python `keras_sepvit.complexity.graph.traced_macs` counts its MACs."
        )
    default_size = variant_config(model).image_size
    size = parse_image_size(image_size) if image_size else (default_size, default_size)
    classes = 1000 if classes is None else classes
    result = complexity.sepvit(model, size, classes=classes, dense=dense)
    if as_json:
        description = {"model": model, "image_size": size, "dense": dense}
        typer.echo(json.dumps({**description, **_complexity_record(result)}, indent=2))
    else:
        form = "dense form" if dense else counted(classes, "class")
        _print_complexity(result, title=f"{model}, {size[0]} x {size[1]}, {form}")


def _complexity_record(result):
    stages = [
        {
            "name": stage.name,
            "output_shape": stage.output_shape,
            "blocks": stage.blocks,
            **_cost_record(stage.cost),
        }
        for stage in result.stages
    ]
    return {"stages": stages, **_cost_record(result.cost)}


def _cost_record(cost):
    return {
        "parameters": cost.parameters,
        "macs": cost.macs,
        "macs_with_attention": cost.macs_with_attention,
    }


def _print_complexity(result, title):
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=title,
        caption="G MACs of one image: of layers with weights, and with attention's products",
        show_footer=True,
    )
    total = result.cost
    table.add_column("", footer="total")
    table.add_column("output shape")
    table.add_column("blocks", str(sum(stage.blocks for stage in result.stages)), justify="right")
    table.add_column("parameters", f"{total.parameters:,}", justify="right")
    table.add_column("G MACs", _giga(total.macs), justify="right")
    table.add_column("with attention", _giga(total.macs_with_attention), justify="right")
    for stage in result.stages:
        cost = stage.cost
        table.add_row(
            stage.name,
            " x ".join(map(str, stage.output_shape)),
            str(stage.blocks or ""),
            f"{cost.parameters:,}",
            _giga(cost.macs),
            _giga(cost.macs_with_attention),
        )
    Console().print(table)


def _giga(macs):
    return f"{macs / 1e9:.3f}"
