"""What an exported file says about itself, so that pictures reach it as in the evaluation.

Every export writes a `Record` into its file as JSON, and `keras_sepvit.runtime` reads it;
a training run writes that of its models into its folder.
"""

import dataclasses
import json

# The name of the record in a file's metadata, and in the folder of a training run.
RECORD_NAME = "keras_sepvit.json"
RUN_RECORD_NAME = "record.json"

# What the evaluation on ImageNet does, and others where nothing else is known.
CROP = 0.875
INTERPOLATION = "bicubic"
INTERPOLATIONS = ("bicubic", "bilinear")

PIXELS = ("0..255", "imagenet", "unknown")


@dataclasses.dataclass(frozen=True)
class Record:
    """How pictures go into a file, and what comes out.

    Attributes:
        task: `"classification"`, or `"features"` for any other network.
        image_size: (height, width) of the pictures.
        channels: 3 for RGB, 1 for grey.
        pixels: `"0..255"`; `"imagenet"`, (pixels - mean) / deviation by the channel, with
            the `IMAGENET_MEAN` and `IMAGENET_VARIANCE` of `keras_sepvit.configs`; or
            `"unknown"`.
        crop: Share of a photo's shorter side that the centre crop of the model's
            evaluation keeps, above 0 and at most 1; None where that is not known.
        interpolation: `"bicubic"` or `"bilinear"`, of the resize there, or None.
        activation: What a classifier's scores went through: `"softmax"`, `"sigmoid"`, or
            `"linear"` for nothing (logits). None for other networks.
        class_names: The names of the classes in order, or None.
        version: The version of keras_sepvit that wrote it.
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

    def to_json(self):
        """The record as JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text, path):
        """The record in the metadata of the file at `path`; what a later version adds is left out.

        Raises:
            ValueError: if `text` is no record.
        """
        try:
            values = json.loads(text)
            record = cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
            names = record.class_names
            record = dataclasses.replace(
                record,
                image_size=tuple(record.image_size),
                class_names=None if names is None else tuple(map(str, names)),
                crop=None if record.crop is None else check_crop(record.crop),
                interpolation=record.interpolation and check_interpolation(record.interpolation),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} has a record that cannot be read ({error!r}): {text[:200]!r}"
            ) from error
        return record


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
