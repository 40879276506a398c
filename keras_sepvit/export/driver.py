"""What all exports do alike, and what a format brings.

`export` checks the arguments, makes the float32 model that is deployed, writes the file
under a temporary name, opens it with what its users run, compares it with the Keras
model, and reports. A `Format` knows how to write, open and describe a file.
"""

import contextlib
import dataclasses
import os
import pathlib
from typing import TypedDict

from keras_sepvit import __version__
from keras_sepvit.export.check import check_mode, compare, median_latency_ms, size_of, writing
from keras_sepvit.export.deployment import refuse_detections
from keras_sepvit.export.images import (
    check_calibration_images,
    check_images,
    default_images,
    run_batches,
)
from keras_sepvit.export.model import prepare
from keras_sepvit.export.report import ExportReport
from keras_sepvit.record import (
    OF_WHOLE_PHOTOS,
    RECORD_NAME,
    Record,
    check_crop,
    check_interpolation,
)
from keras_sepvit.runtime import open_model
from keras_sepvit.validation import check_choice, positive_int


class Options(TypedDict, total=False):
    """What every export takes beside the arguments of its own.

    Attributes:
        probabilities: Give a classifier of logits the activation that makes probabilities of
            them. True by default.
        normalize: Put ImageNet's normalisation in front of a model that takes
            normalised images; the file then takes images of 0..255. False by default.
        activation: What makes probabilities of a classifier's outputs: `"softmax"`,
            `"sigmoid"`, or `"none"` where they are probabilities. By default the model tells.
        class_names: Optional names of the classes, in order, which the file then carries. By
            default, as the next two, those of the model's own record, if it has one.
        crop: Share of a photo's shorter side that the centre crop keeps in the model's
            evaluation, above 0 and at most 1, for the file's record. Where it is not known,
            0.875 is taken. As the next, of classifiers only: photos are fitted into the images
            that segmenters and detectors take (`keras_sepvit.runtime.canvas`).
        interpolation: `"bicubic"` (also where it is not known) or `"bilinear"`, of the
            resize there.
        logits: Give a segmenter's logits, float32 at the size of its head, a quarter of the
            images'. By default its file gives class maps, uint8 of the images' size.
        image_size: (height, width) of the file's images, for a model that takes any; by default
            the model's, or that of a detector's record.
        raw: Give a detector's raw maps, `classes_P3`, `boxes_P3` and so on: logits and deltas of
            the anchors. By default its file decodes them and gives detections. An instance
            segmenter has none.
        score_threshold, iou_threshold, max_detections: Of a detector's or instance segmenter's
            file, as for its `RetinaNet` or `MaskRCNN`; by default the model's.
        images: Images to compare on, of shape (count, height, width, channels) as the
            file takes them; seeded pictures (`default_images`) by default.
        check: True (by default): raise an error, and leave no file, where its outputs
            differ from the Keras model's beyond the precision's tolerance
            (`keras_sepvit.export.check.TOLERANCES`). `"warn"`: warn, and leave the file.
            False: do not compare.
        overwrite: Replace what is at the path. False by default.
        verbose: Print the report. True by default.
    """

    probabilities: bool
    normalize: bool
    activation: str
    class_names: list
    crop: float
    interpolation: str
    logits: bool
    image_size: tuple[int, int]
    raw: bool
    score_threshold: float
    iou_threshold: float
    max_detections: int
    images: object
    check: bool | str
    overwrite: bool
    verbose: bool


_CLASS_MAP_NOTE = (
    "At photos' own sizes scores differ a little from the Keras model's, which enlarges logits "
    "bilinearly and not classes by the nearest pixel; files of logits agree."
)

_NOTHING_NOTE = (
    "Nothing was compared: the model finds no object in the images. Give some with objects."
)


@dataclasses.dataclass
class Format:
    """A format of files, and what an export to it was asked for.

    Its attributes are arguments of the format's function, checked when it is made.

    Attributes:
        quantize: One of `precisions`; None for float32.
        batch_size: Images in a batch of the file; None for any number.
        calibration_images: Images to fix the ranges of activations with.
    """

    quantize: str | None = None
    batch_size: int | None = 1
    calibration_images: object = None

    name = None
    suffix = None  # of a file; a folder has any
    is_folder = False
    precisions = (None,)
    calibrated = ()  # the precisions that need images
    has_place_for_record = True  # if not, it lies beside the file
    without_suppression = None  # what its files are called, if they cannot give boxes

    def __post_init__(self):
        check_choice("quantize", self.quantize, self.precisions)
        if self.batch_size is not None:
            self.batch_size = positive_int("batch_size", self.batch_size)

    @property
    def precision(self):
        """The precision of the file, a key of `TOLERANCES`."""
        return self.quantize or "float32"

    def require(self):
        """Raises an error that says what to install where something is missing."""

    def prepare(self, model, **options):
        """What is deployed, and the file's outputs are compared with."""
        deployment = prepare(model, **options)
        if self.quantize in self.calibrated:
            self.calibration_images = check_calibration_images(
                deployment, self.calibration_images, self.quantize
            )
        return deployment

    def record(self, deployment, crop, interpolation):
        """The `Record` of the file."""
        *image_size, channels = deployment.image_shape
        normalized = "imagenet" if channels == 3 else "unknown"
        return Record(
            task=deployment.task,
            image_size=tuple(image_size),
            channels=channels,
            pixels="0..255" if deployment.takes_pixels else normalized,
            crop=crop,
            interpolation=interpolation,
            activation=deployment.activation,
            class_names=deployment.class_names,
            version=__version__,
            category_ids=deployment.category_ids,
        )

    def write(self, deployment, record, path):
        """Writes the file (or fills the folder) at `path`."""
        raise NotImplementedError

    def open(self, path):
        """The file as an `OpenFile`."""
        raise NotImplementedError

    def facts(self, path, opened, deployment):
        """Fields of the `ExportReport` that the format knows; `operators` at least."""
        raise NotImplementedError


class OpenFile:
    """An exported file in its own runtime.

    Attributes:
        run: Function from a batch, float32 of shape (batch_size, height, width,
            channels), to a dict of arrays by output name.
        batch_size: Images in a batch; None for any number.
    """

    def __init__(self, run, batch_size):
        self.run, self.batch_size = run, batch_size

    def __call__(self, images):
        """The outputs for any number of images, as float32 arrays by name."""
        # A file for any batch size runs a batch of two, which one with a fixed 1 would refuse.
        return run_batches(self.run, images, self.batch_size or 2)

    def close(self):
        """Releases what the runtime holds."""


def export(
    format,
    model,
    path,
    *,
    probabilities=True,
    normalize=False,
    activation=None,
    class_names=None,
    crop=None,
    interpolation=None,
    logits=False,
    image_size=None,
    raw=False,
    score_threshold=None,
    iou_threshold=None,
    max_detections=None,
    images=None,
    check=True,
    overwrite=False,
    verbose=True,
):
    """Writes a model in a format, compares it, and returns the `ExportReport`.

    Args:
        format: A `Format`.
        model: What `format.prepare` takes: a built Keras model of one image input, under any
            dtype policy.
        path: File or folder to write.
        probabilities, ..., verbose: As in `Options`.

    Raises:
        ExportError: if the conversion fails or the file disagrees with the model.
        FileExistsError: if there is something at `path`, unless `overwrite`.
        ImportError: if a package is missing, naming the extra.
        TypeError: if `model` is no Keras model.
        ValueError: for an argument out of range, or a model that cannot be exported.
    """
    check_mode(check)
    given = crop, interpolation
    own = getattr(model, "record", None)
    if own is not None:
        class_names = own.class_names if class_names is None else class_names
        crop = own.crop if crop is None else crop
        interpolation = interpolation or own.interpolation
    crop = None if crop is None else check_crop(crop)
    interpolation = interpolation and check_interpolation(interpolation)
    if format.without_suppression:
        refuse_detections(model, raw, format.without_suppression)
    format.require()
    deployment = format.prepare(
        model,
        probabilities=probabilities,
        normalize=normalize,
        activation=activation,
        class_names=class_names,
        logits=logits,
        image_size=image_size,
        raw=raw,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
    )
    kind = OF_WHOLE_PHOTOS.get(deployment.task)
    if kind is not None:
        if given != (None, None):
            raise ValueError(
                "`crop` and `interpolation` are for classifiers: photos are fitted whole into the "
                f"images that `{model.name}`, {kind}, takes."
            )
        crop, interpolation = None, "bilinear"  # as photos get onto canvases
    images = check_images(deployment, images)
    record = format.record(deployment, crop, interpolation)
    path = pathlib.Path(path)
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(writing(path, overwrite, format.suffix, format.is_folder))
        if not format.has_place_for_record:
            beside = path.with_name(f"{path.name}.{RECORD_NAME}")
            stack.enter_context(writing(beside, overwrite)).write_text(record.to_json(), "utf-8")
        format.write(deployment, record, temporary)
        with contextlib.closing(format.open(temporary)) as opened:
            outputs = opened(images if check else images[:1])
            agreement = compare(outputs, deployment, images, format.precision, check)
            facts = format.facts(temporary, opened, deployment)
        if "class_map" in deployment.outputs:
            facts["notes"] = (*facts.get("notes", ()), _CLASS_MAP_NOTE)
        if agreement.compared == "detections" and agreement.top1_agreement is None:
            facts["notes"] = (*facts.get("notes", ()), _NOTHING_NOTE)
        report = ExportReport(
            format=format.name,
            path=str(path),
            precision=format.precision,
            size_bytes=size_of(temporary),
            **facts,
            **agreement.report_fields(),
        )
    if verbose:
        print(report)
    return report


def open_with_runtime(path, batch_size):
    """A .tflite or .onnx file, opened as `keras_sepvit.runtime` opens it for users."""
    return OpenFile(open_model(path).outputs, batch_size)


def latency_by_threads(path, deployment, batch_size):
    """Median milliseconds of a batch of a .tflite or .onnx file, by number of threads."""
    batch = default_images(deployment.image_shape, count=batch_size or 1)
    latency = {}
    for threads in range(1, min(2, os.cpu_count() or 1) + 1):
        run = open_model(path, threads).outputs
        latency[threads] = median_latency_ms(lambda run=run: run(batch))
    return latency


def write_beside_model(folder, record):
    """Writes the record into a SavedModel's folder, and class names as text, one a line."""
    extra = pathlib.Path(folder) / "assets.extra"
    extra.mkdir()
    (extra / RECORD_NAME).write_text(record.to_json(), "utf-8")
    if record.class_names is not None:
        labels = "".join(f"{name}\n" for name in record.class_names)
        (extra / "labels.txt").write_text(labels, "utf-8")
