"""The command line, `keras-sepvit`: one function a command.

Input that cannot be used ends a command with one line on stderr and exit code 2.
"""

import dataclasses
import functools
import json
import pathlib
import re
from typing import Annotated

import keras
import numpy as np
import typer

from keras_sepvit import complexity
from keras_sepvit.classifier import SepViT, decode_predictions
from keras_sepvit.configs import get_config
from keras_sepvit.convert import convert as convert_weights
from keras_sepvit.matching import WeightsSummary
from keras_sepvit.weights import assign_weights, open_weights

# The share of an image's shorter side that the centre crop keeps, as in the
# usual evaluation on ImageNet (256 pixels to 224).
CROP = 0.875

app = typer.Typer(
    help="SepViT (arXiv 2203.15380) for Keras 3.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ImageSize = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Image size: 224, or HEIGHTxWIDTH.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main():
    """Runs the command line."""
    app()


def reports_bad_input(command):
    """Makes a command end with one line on stderr where its input cannot be used."""

    @functools.wraps(command)
    def wrapper(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except (ValueError, OSError, ImportError) as error:
            typer.echo(f"Error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error

    return wrapper


@app.command()
@reports_bad_input
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
    default_size = get_config(model).image_size
    size = parse_image_size(image_size) if image_size else (default_size, default_size)
    classes = 1000 if classes is None else classes
    result = complexity.sepvit(model, size, classes=classes, dense=dense)
    if as_json:
        description = {"model": model, "image_size": size, "dense": dense}
        typer.echo(json.dumps({**description, **_complexity_record(result)}, indent=2))
    else:
        form = "dense form" if dense else f"{classes} classes"
        _print_complexity(result, title=f"{model}, {size[0]} x {size[1]}, {form}")


@app.command()
@reports_bad_input
def predict(
    weights: Annotated[
        pathlib.Path,
        typer.Argument(
            metavar="WEIGHTS",
            help="A whole model (.keras), or the weights of one (.weights.h5).",
        ),
    ],
    images: Annotated[list[pathlib.Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    variant: Annotated[
        str | None,
        typer.Option(help="The variant that weights are for.", show_default="the file's"),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(help="Number of classes that weights are for.", show_default="the file's"),
    ] = None,
    image_size: ImageSize = None,
    labels: Annotated[
        pathlib.Path | None, typer.Option(help="A text file with the classes' names, one a line.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many classes to print for an image.")] = 5,
    as_json: Json = False,
):
    """Print the most probable classes of images.

    Images are resized (bicubic) and cropped at the centre as in the evaluation
    on ImageNet: the crop keeps 87.5 % of the shorter side. A model without a
    Normalization or Rescaling layer gets them normalised with ImageNet's mean
    and standard deviation. Without --labels, 1000 classes are taken for those
    of ImageNet.
    """
    if top < 1:
        raise ValueError(f"--top must be at least 1. Received: {top}.")
    for path in filter(None, (weights, *images, labels)):
        if not path.is_file():
            raise FileNotFoundError(f"File not found: {path}.")

    keras.config.disable_interactive_logging()  # no progress bars: stdout is for the result
    size = parse_image_size(image_size) if image_size else None
    model = _load_classifier(weights, variant, classes, size)
    height, width, channels = _image_shape(model, size)
    batch = np.stack([_read_image(path, height, width, channels) for path in images])
    if not _normalises_images(model):
        if channels != 3:
            raise ValueError(
                "The model takes grey images and has no Normalization or Rescaling layer, so the "
                "range of its input is not known. Put such a layer in front of it."
            )
        batch = keras.applications.imagenet_utils.preprocess_input(
            batch.astype("float32"), data_format="channels_last", mode="torch"
        )
    probabilities = _probabilities(model, model.predict(batch, batch_size=16, verbose=0))
    names = _class_names(labels, probabilities.shape[-1])
    results = [
        {"image": str(path), "predictions": _best(scores, names, top)}
        for path, scores in zip(images, probabilities, strict=True)
    ]
    typer.echo(json.dumps(results, indent=2) if as_json else _as_text(results))


@app.command()
@reports_bad_input
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
    size: Annotated[
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
    report = convert_weights(
        source,
        destination,
        variant=variant,
        image_size=parse_image_size(size, "--size") if size else None,
        classes=classes,
        dense=dense or None,
        partial=partial,
    )
    typer.echo(json.dumps(dataclasses.asdict(report), indent=2) if as_json else str(report))


def parse_image_size(text, option="--image-size"):
    """(height, width) of `"224"` or `"192x320"`."""
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if not match:
        raise ValueError(
            f"{option} must be one number, or HEIGHTxWIDTH, in pixels. Received: {text!r}."
        )
    height, width = match.groups()
    return int(height), int(width or height)


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


def _load_classifier(path, variant, classes, size):
    if path.suffix != ".keras":
        return _load_weights(path, variant, classes, size)
    if variant is not None or classes is not None:
        raise ValueError(
            f"{path} is a whole model: leave out --variant and --classes, which are for files of "
            "weights alone."
        )
    return _load_whole_model(path)


def _load_whole_model(path):
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # what Keras raises depends on where the file is broken
        raise ValueError(f"{path} cannot be loaded as a Keras model: {error}") from error


def _load_weights(path, variant, classes, size):
    """A classifier for a file of weights, whose shapes tell what it is for."""
    with open_weights(path) as arrays:
        found = WeightsSummary.of({name: array.shape for name, array in arrays.items()})
        if found is None:
            raise ValueError(f"{path} holds no weights of a SepViT.")
        if variant is None and found.variant is None:
            raise ValueError(
                f"{path} is for none of the known variants, but for {found}. Save the whole model "
                "as a .keras file and use that."
            )
        if classes is None and found.classes is None:
            raise ValueError(
                f"{path} has no classification head to predict with: it is for {found}."
            )
        model = SepViT(
            variant or found.variant,
            input_shape=(*size, 3) if size else None,
            classes=found.classes if classes is None else classes,
        )
        assign_weights(model, arrays, path)
    return model


def _image_shape(model, size):
    """(height, width, channels) of the images for a classifier; `size` where it takes any."""
    inputs = [tensor.shape for tensor in model.inputs]
    outputs = [tensor.shape for tensor in model.outputs]
    if [*map(len, inputs)] != [4] or [*map(len, outputs)] != [2]:
        raise ValueError(
            "The model is no image classifier: expected one input (batch, height, width, channels) "
            f"and one output (batch, classes). Received: {inputs} and {outputs}."
        )
    height, width, channels = inputs[0][1:]
    if channels not in (1, 3):
        raise ValueError(f"The model takes images of {channels} channels; expected 1 or 3.")
    if size is None and None in (height, width):
        raise ValueError("The model takes images of any size: say which with --image-size.")
    height, width = height or size[0], width or size[1]
    if size not in (None, (height, width)):
        raise ValueError(
            f"--image-size: the model takes images of {height} x {width}. Received: "
            f"{size[0]} x {size[1]}."
        )
    return height, width, channels


def _read_image(path, height, width, channels):
    """An image file as uint8 (height, width, channels), resized and cropped."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB" if channels == 3 else "L")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    image = ImageOps.fit(
        image, (width, height), method=Image.Resampling.BICUBIC, bleed=(1 - CROP) / 2
    )
    return np.asarray(image).reshape(height, width, channels)


def _normalises_images(model):
    """Whether a model takes images of 0..255, having a layer that normalises them."""
    return any(
        isinstance(layer, (keras.layers.Normalization, keras.layers.Rescaling))
        or (isinstance(layer, keras.Model) and _normalises_images(layer))
        for layer in model.layers
    )


def _probabilities(model, outputs):
    """The outputs of a classifier as probabilities; logits get a softmax."""
    outputs = np.asarray(outputs, "float32")
    last = model.layers[-1]
    activation = getattr(last, "activation", None)
    if isinstance(last, keras.layers.Softmax) or activation is keras.activations.softmax:
        return outputs
    if activation is keras.activations.sigmoid:  # classes that do not exclude each other
        return outputs
    exponentials = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _class_names(labels, classes):
    """The names of the classes: from a file, ImageNet's, or their numbers."""
    if labels is not None:
        names = labels.read_text(encoding="utf-8").splitlines()
        if len(names) != classes:
            raise ValueError(
                f"{labels} must have one line for each of the model's {classes} classes. "
                f"It has {len(names)}."
            )
        return names
    names = _imagenet_names() if classes == 1000 else None
    return names or [f"class {number}" for number in range(classes)]


def _imagenet_names():
    """ImageNet's 1000 class names, which Keras downloads once; None if it cannot."""
    try:
        rows = decode_predictions(np.eye(1000), top=1)
    except Exception:  # Keras raises a plain Exception where the download fails
        return None
    return [name for ((_, name, _),) in rows]


def _best(scores, names, top):
    order = scores.argsort()[::-1][:top]
    return [
        {"class": int(number), "label": names[number], "probability": float(scores[number])}
        for number in order
    ]


def _as_text(results):
    lines = []
    for result in results:
        lines.append(result["image"])
        for guess in result["predictions"]:
            lines.append(f"  {guess['probability']:7.2%}  {guess['label']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
