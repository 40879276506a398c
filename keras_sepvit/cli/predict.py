"""`keras-sepvit predict`: the most probable classes of images, or the classes of their pixels."""

import json
import pathlib
import sys
from typing import Annotated

import typer

from keras_sepvit.cli.common import (
    Activation,
    Classes,
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
from keras_sepvit.files import IMAGE_SUFFIXES, image_files
from keras_sepvit.validation import counted

# Images that are in memory together.
_AT_A_TIME = 64


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
        typer.Argument(metavar="IMAGE...", help="Image files, and folders of them."),
    ],
    variant: Variant = None,
    classes: Classes = None,
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
    top: Annotated[int, typer.Option(help="How many classes to print for an image.")] = 5,
    output: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Of a segmenter: where its masks go, and the photos with their classes drawn in. "
            "No folder that photos are read from.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace masks that are in --output.")
    ] = False,
    as_json: Json = False,
):
    """Print the most probable classes of images, or what classes their pixels have.

    Images are resized and cropped at the centre as in the model's evaluation, where
    the file tells (one that `export` or `train` wrote), else as in that on ImageNet:
    bicubic, the crop keeps 87.5 % of the shorter side. A model without a Normalization or
    Rescaling layer gets them normalised with ImageNet's mean and standard deviation.
    Without --labels, the names are those in the file, or in a classes.txt beside it, and
    1000 classes of other files are taken for those of ImageNet. A segmenter gets the whole
    photo; printed are the largest shares of its pixels, and --output gets for photo.jpg
    photo_mask.png, with a palette, whose pixels are the classes, and photo_overlay.png;
    those of a folder's photos lie in the same folders as these. Where one of them is there
    already, nothing is computed without --overwrite.
    Images that cannot be read are told at the end, with exit code 1.
    """
    if top < 1:
        raise ValueError(f"--top must be at least 1. Received: {top}.")
    check_files_exist(labels)
    files, names = _image_files(images)
    size = parse_image_size(image_size) if image_size else None
    check_output_folder(output)
    if overwrite and output is None:
        raise ValueError("--overwrite goes with --output. Leave it out.")
    if output is not None:
        _check_output(output, images, files, names, overwrite)

    from keras_sepvit import runtime

    given = {"labels": labels, "crop": crop, "interpolation": interpolation}
    given = {name: value for name, value in given.items() if value is not None}
    if weights.lower().endswith(runtime.SUFFIXES):
        check_files_exist(pathlib.Path(weights))
        if variant is not None or classes is not None:
            raise whole_model_error(weights)
        if activation is not None:
            raise ValueError("--activation is for models of Keras. Leave it out.")
        predictor = runtime.Predictor(weights, pixels=pixels, **given)
        check_image_size(size, *predictor.image_shape[:2])
    else:
        if pixels is not None:
            raise ValueError("--pixels is for .tflite and .onnx files. Leave it out.")
        given["activation"] = activation
        predictor = _keras_predictor(weights, variant, classes, size, given)
    segments = isinstance(predictor, runtime.ImageSegmenter)
    if output is not None:
        if not segments:
            raise ValueError(f"--output is for segmenters, which {weights} is not. Leave it out.")
        output.mkdir(parents=True, exist_ok=True)
    results = []
    shown = sys.stderr if sys.stderr.isatty() else None
    with typer.progressbar(length=len(files), file=shown, hidden=shown is None) as progress:
        at_a_time = 1 if segments else _AT_A_TIME
        for start in range(0, len(files), at_a_time):
            some = slice(start, start + at_a_time)
            if segments:
                results.append(_segment(predictor, *files[some], top, output, *names[some]))
            else:
                results += _predict(predictor, files[some], top)
            progress.update(at_a_time)
    text = json.dumps(results, indent=2, ensure_ascii=False) if as_json else _as_text(results)
    if text:
        typer.echo(text)
    bad = [result for result in results if "error" in result]
    for result in bad:
        typer.echo(f"Error: {named(result['image'], result['error'])}", err=True)
    if bad:
        typer.echo(f"{len(bad)} of {counted(len(files), 'image')} could not be read.", err=True)
        raise typer.Exit(1)


def _image_files(paths):
    """The files among paths, and those in folders, in their order; and names for their results.

    These are the files' own, without suffixes, below the folder that is read: no two are alike on
    any file system.
    """
    files, names, taken = [], [], set()
    for path in paths:
        inside = image_files(path) if path.is_dir() else [path]
        if not inside:
            raise FileNotFoundError(
                f"The folder {path} holds no images ({', '.join(IMAGE_SUFFIXES)})."
            )
        check_files_exist(*inside)
        for file in inside:
            name = first = file.relative_to(path if path.is_dir() else path.parent).with_suffix("")
            number = 1
            while str(name).casefold() in taken:
                number += 1
                name = first.with_name(f"{first.name}_{number}")
            taken.add(str(name).casefold())
            names.append(name)
        files += inside
    return files, names


def _results_of(output, name):
    """Where a photo's mask and its overlay go."""
    return [output / f"{name}_{kind}.png" for kind in ("mask", "overlay")]


def _check_output(output, paths, files, names, overwrite):
    """Refuses a folder whose masks would be read as photos, or replace what is there."""
    for folder in paths:
        if folder.is_dir() and output.resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"--output: {output} is or lies in {folder}, where photos are read: the next time "
                "masks would be taken for photos. Give a folder outside."
            )
    photos = {path.resolve() for path in files}
    for path in (path for name in names for path in _results_of(output, name)):
        if path.resolve() in photos:
            raise ValueError(f"--output: {path} is one of the photos. Give another folder.")
        if path.exists() and not overwrite:
            raise FileExistsError(f"'{path}' exists. Pass --overwrite, or another --output.")


def _predict(predictor, files, top):
    """The records of images; of one that cannot be read, why."""
    import numpy as np

    from keras_sepvit import runtime

    records, pictures = [], {}
    for path in files:
        record = {"image": str(path)}
        try:
            pictures[len(records)] = predictor.read_image(path)
        except (ValueError, OSError) as error:
            record["error"] = _one_line(error)
        records.append(record)
    if pictures:
        probabilities = predictor.predict(np.stack(list(pictures.values())))
        for number, scores in zip(pictures, probabilities, strict=True):
            best = runtime.best_classes(scores, predictor.class_names, top)
            records[number]["predictions"] = _records(best)
    return records


def _segment(segmenter, path, top, output, name):
    """The record of a photo: the classes of most of its pixels, and the files written to `output`.

    Of a photo that cannot be read, why.
    """
    import numpy as np

    from keras_sepvit import visualize
    from keras_sepvit.runtime.images import read_photo
    from keras_sepvit.runtime.labels import numbered

    record = {"image": str(path)}
    try:
        photo = read_photo(path)
    except (ValueError, OSError) as error:
        return {**record, "error": _one_line(error)}
    class_map = segmenter.segment(photo)
    names = segmenter.class_names or numbered(256)
    if class_map.max() >= len(names):
        raise ValueError(f"`labels` has {len(names)} names; {path} has class {class_map.max()}.")
    shares = np.bincount(class_map.ravel()) / class_map.size
    order = np.argsort(-shares, kind="stable")[:top]
    record["classes"] = [
        {"class": int(number), "label": names[number], "share": float(shares[number])}
        for number in order
        if shares[number]
    ]
    if output is not None:
        mask, overlay = _results_of(output, name)
        mask.parent.mkdir(parents=True, exist_ok=True)
        visualize.save_class_map(mask, class_map)
        visualize.draw_class_map(photo, class_map, segmenter.class_names).save(overlay)
        record |= {"mask": str(mask), "overlay": str(overlay)}
    return record


def _one_line(error):
    return " ".join(str(error).split())


def _keras_predictor(weights, variant, classes, size, given):
    import keras

    from keras_sepvit.cli import classifiers
    from keras_sepvit.inference import KerasPredictor, KerasSegmenter
    from keras_sepvit.segmentation.segmenter import is_segmenter

    keras.config.disable_interactive_logging()  # no progress bars: stdout is for the result
    model = classifiers.load_classifier(weights, variant, classes, size)
    if is_segmenter(model):
        labels = given.pop("labels", None)
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"`{name}` is for classifiers, and {weights} is a segmenter. Leave it out."
                )
        segmenter = KerasSegmenter(model, labels)
        if None in segmenter.image_shape and size is not None:
            raise ValueError(f"--image-size: {weights} takes photos of any size. Leave it out.")
        check_image_size(size, *segmenter.image_shape[:2])
        return segmenter
    return KerasPredictor(model, image_size=size, **given)


def _records(predictions):
    return [
        {"class": number, "label": label, "probability": probability}
        for number, label, probability in predictions
    ]


def _as_text(results):
    lines = []
    for result in results:
        if "error" in result:
            continue
        lines.append(result["image"])
        for guess in result.get("predictions", ()):
            lines.append(f"  {guess['probability']:7.2%}  {guess['label']}")
        for found in result.get("classes", ()):
            lines.append(f"  {found['share']:7.2%}  {found['label']}")
    return "\n".join(lines)
