"""What a file of a model says about itself, so that pictures reach it as in the evaluation.

Every export writes a `Record` into its file as JSON, and `keras_sepvit.runtime` reads it. In
`.keras` files it is one of Keras's assets, which lie beside the weights; whoever knows of none
loads the model without it. A training run has it in its models, and in its folder.
"""

import dataclasses
import functools
import json
import pathlib
import zipfile

# The name of the record in a file's metadata, and in the folder of a training run.
RECORD_NAME = "keras_sepvit.json"
RUN_RECORD_NAME = "record.json"

# What the evaluation on ImageNet does, and others where nothing else is known.
CROP = 0.875
INTERPOLATION = "bicubic"
INTERPOLATIONS = ("bicubic", "bilinear")

PIXELS = ("0..255", "imagenet", "unknown")

# What models are, by task, whose files take photos whole.
OF_WHOLE_PHOTOS = {
    "segmentation": "a segmenter",
    "detection": "a detector",
    "instances": "an instance segmenter",
}


@dataclasses.dataclass(frozen=True)
class Record:
    """How pictures go into a file, and what comes out.

    Attributes:
        task: `"classification"`, `"segmentation"`, `"detection"`, `"instances"`, or `"features"`
            for any other network.
        image_size: (height, width) of the pictures; None in a `.keras` file of a segmenter or
            detector for any. Their photos are fitted into it: see `keras_sepvit.runtime.canvas`.
            In a `.keras` file of a detector for any size, what it was trained on; photos that
            stand where it lies have it turned.
        channels: 3 for RGB, 1 for grey.
        pixels: `"0..255"`; `"imagenet"`, (pixels - mean) / deviation by the channel, with
            the `IMAGENET_MEAN` and `IMAGENET_VARIANCE` of `keras_sepvit.configs`; or
            `"unknown"`.
        crop: Share of a photo's shorter side that the centre crop of the model's
            evaluation keeps, above 0 and at most 1; None where that is not known, and for
            segmenters and detectors.
        interpolation: `"bicubic"` or `"bilinear"`, of the resize there, or None; `"bilinear"` of
            segmenters and detectors, whose photos are resized so.
        activation: What scores went through: `"softmax"`, `"sigmoid"`, or `"linear"` for
            nothing (logits; of a detector's file raw maps). None for class maps, detections and
            other networks. In a classifier's `.keras` file, what makes probabilities of the
            scores: in the model, or behind it if it gives logits.
        class_names: The names of the classes in order, or None.
        version: The version of keras_sepvit that wrote it.
        category_ids: Of a detector, the numbers that the classes have in the file that it was
            trained on, such as COCO's, in order; or None.
    """

    task: str
    image_size: tuple
    channels: int
    pixels: str
    crop: float | None
    interpolation: str | None
    activation: str | None
    class_names: tuple | None
    version: str
    category_ids: tuple | None = None

    def to_json(self):
        """The record as JSON."""
        values = dataclasses.asdict(self)
        if self.category_ids is None:
            del values["category_ids"]
        return json.dumps(values, ensure_ascii=False)

    def files(self):
        """What the folder of a training run gets: dict of file name to text."""
        texts = {RUN_RECORD_NAME: self.to_json()}
        if self.class_names is not None:
            texts["classes.txt"] = "".join(f"{name}\n" for name in self.class_names)
        return texts

    @classmethod
    def from_json(cls, text, path):
        """The record in the metadata of the file at `path`; what a later version adds is left out.

        Raises:
            ValueError: if `text` is no record.
        """
        try:
            values = {"category_ids": None, **json.loads(text)}  # which older ones lack
            record = cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
            names, ids = record.class_names, record.category_ids
            record = dataclasses.replace(
                record,
                image_size=tuple(record.image_size),
                class_names=None if names is None else tuple(map(str, names)),
                crop=None if record.crop is None else check_crop(record.crop),
                interpolation=record.interpolation and check_interpolation(record.interpolation),
                category_ids=None if ids is None else tuple(map(int, ids)),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} has a record that cannot be read ({error!r}): {text[:200]!r}"
            ) from error
        return record


class Recorded:
    """A Keras model that has its record in its files.

    Stands in front of `keras.Model` among the bases of a class.

    Attributes:
        record: The `Record`, or None.
    """

    record: Record | None = None

    def save_assets(self, folder):
        """Writes the record; Keras calls it in `save`."""
        if self.record is not None:
            pathlib.Path(folder, RECORD_NAME).write_text(self.record.to_json(), encoding="utf-8")

    def load_assets(self, folder):
        """Reads the record; Keras calls it in `load_model`, with None for no folder."""
        path = pathlib.Path(folder or "", RECORD_NAME)
        if folder and path.is_file():
            self.record = Record.from_json(path.read_text(encoding="utf-8"), path)


def attach(model, record):
    """Gives a Keras model of any class a record, which goes into the files that it saves."""
    model.record = record
    if not isinstance(model, Recorded):
        model.save_assets = functools.partial(Recorded.save_assets, model)


def read_record(path):
    """The `Record` in a `.keras` file, or None.

    Raises:
        ValueError: if it cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if (member := f"assets/{RECORD_NAME}") not in archive.namelist():
            return None
        return Record.from_json(archive.read(member), path)


def check_crop(crop):
    """`crop` as a float above 0 and at most 1."""
    if isinstance(crop, bool) or not isinstance(crop, (int, float)) or not 0 < crop <= 1:
        raise ValueError(f"`crop` must be a share above 0 and at most 1. Received: crop={crop!r}.")
    return float(crop)


def check_interpolation(interpolation):
    """`interpolation`, which must be one of `INTERPOLATIONS`."""
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"Unknown `interpolation`: {interpolation!r}. Expected one of "
            f"{', '.join(map(repr, INTERPOLATIONS))}."
        )
    return interpolation
