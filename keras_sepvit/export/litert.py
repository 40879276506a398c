"""Export to LiteRT (TensorFlow Lite): float32, float16 and three kinds of int8."""

import dataclasses
import pathlib
import tempfile
from typing import Unpack

import numpy as np

from keras_sepvit.export import litert_convert
from keras_sepvit.export.deployment import DetectionsDeployment
from keras_sepvit.export.driver import (
    Format,
    Options,
    export,
    latency_by_threads,
    open_with_runtime,
)
from keras_sepvit.export.litert_graph import inspect
from keras_sepvit.export.litert_metadata import add_metadata
from keras_sepvit.export.worker import convert_on
from keras_sepvit.lazy import require

QUANTIZATIONS = (None, "float16", "dynamic_int8", "int8", "full_int8")


def to_litert(
    model,
    path,
    *,
    quantize=None,
    batch_size=1,
    calibration_images=None,
    layout=None,
    **options: Unpack[Options],
):
    """Exports a model to a LiteRT (`.tflite`) file and runs it there.

    The file has builtin operators only (none of "Flex", which need TensorFlow) and
    the signature `serving_default`: from `image`, (batch, height, width, channels),
    to the outputs by name. It has TensorFlow Lite's metadata (normalisation, names of
    classes), which MediaPipe and ML Kit read. In the zip archive at its end are its record
    (`keras_sepvit.json`) and the names of classes (`labels.txt`, one a line). Conversion
    needs TensorFlow; with another Keras backend it happens in a process of its own.

    Args:
        model: A built Keras model of one image input, under any
            dtype policy. See `keras_sepvit.export.model.prepare` for its outputs.
        path: File to write; its name ends with `.tflite`.
        quantize: None for float32. `"float16"`: weights in half precision, half the
            size. `"dynamic_int8"`: weights of 8 bits, activations quantised as they
            come; needs no images. `"int8"`: 8-bit weights and activations in the
            dense layers and convolutions, all else in float32: the fastest on CPUs,
            input and outputs stay float32. `"full_int8"`: 8-bit integers
            throughout, uint8 input and outputs: for accelerators that know nothing
            else, slow on CPUs.
        batch_size: Images in a batch; None for any number, which splits the graph
            into many parts and is slower.
        calibration_images: For `"int8"` and `"full_int8"`: array of at least 32
            images of the kind that the model will see, as the file takes them.
        layout: Of a detector: `"mediapipe"` for the four outputs that MediaPipe's ObjectDetector
            reads, those of `TFLite_Detection_PostProcess` (boxes as shares of the image, top,
            left, bottom, right; classes, scores, their number), with its metadata.
        **options: See `keras_sepvit.export.Options`.

    Returns:
        An `ExportReport`. Its `not_delegated` are the operators that XNNPACK, the
        runtime's fast library for CPUs, does not take.

    Raises:
        ExportError: if an operator has no builtin counterpart, naming it. Other errors are
            those of `keras_sepvit.export.driver.export`.
    """
    format = LiteRT(quantize, batch_size, calibration_images, layout)
    return export(format, model, path, **options)


@dataclasses.dataclass
class LiteRT(Format):
    """LiteRT's `.tflite`."""

    layout: str | None = None

    name = "litert"
    suffix = ".tflite"
    precisions = QUANTIZATIONS
    calibrated = ("int8", "full_int8")

    def require(self):
        require("ai_edge_litert.interpreter", "export")
        if self.quantize == "int8":
            require("ai_edge_quantizer.quantizer", "export")

    def prepare(self, model, **options):
        deployment = super().prepare(model, **options, layout=self.layout)
        if self.quantize == "full_int8" and isinstance(deployment, DetectionsDeployment):
            raw = "`raw=True` (--raw) for the maps, or " if deployment.task == "detection" else ""
            raise ValueError(
                "`quantize='full_int8'` leaves nothing in float, and boxes are float32. Pass "
                f"{raw}quantize='int8'."
            )
        if self.quantize in self.calibrated and deployment.takes_pixels:
            self.calibration_images = _spanning_input_range(self.calibration_images)
        return deployment

    def write(self, deployment, record, path):
        """By way of a float32 file where the quantiser needs one."""
        arguments = {"batch_size": self.batch_size}
        with tempfile.TemporaryDirectory(prefix="keras_sepvit_litert_") as folder:
            folder = pathlib.Path(folder)
            converted = folder / "float32.tflite" if self.quantize == "int8" else path
            if self.quantize != "int8":
                arguments["precision"] = self.precision
            if self.quantize == "full_int8":
                arguments["calibration"] = str(folder / "calibration.npy")
                np.save(arguments["calibration"], self.calibration_images)
            convert_on(
                "tensorflow", litert_convert.convert, deployment.model, converted, **arguments
            )
            if self.quantize == "int8":
                litert_convert.quantize_static(
                    converted, path, self.calibration_images, self.batch_size
                )
        add_metadata(path, record)

    def open(self, path):
        return open_with_runtime(path, self.batch_size)

    def facts(self, path, opened, deployment):
        graph = inspect(path)
        return {
            "operators": graph.operators,
            "not_delegated": graph.not_delegated,
            "latency_ms": latency_by_threads(path, deployment, self.batch_size),
            "notes": _notes(graph, self.precision, deployment),
        }


def _spanning_input_range(images):
    """Calibration images, with one more that has pixels of 0 and 255.

    Without it, the input of a file whose calibration images are dark could not hold
    bright pixels. The image is a copy of the first but for two pixels, so that it
    changes no other range much.
    """
    extreme = images[:1].copy()
    extreme[0, 0, 0], extreme[0, -1, -1] = 0, 255
    return np.concatenate([images, extreme])


def _notes(graph, precision, deployment):
    notes = []
    if graph.not_delegated or graph.partitions > 1:
        notes.append(f"XNNPACK takes the graph in {graph.partitions} parts.")
    if not deployment.takes_pixels:
        notes.append("Images must be normalised as for the Keras model; see `normalize`.")
    if precision == "full_int8":
        notes.append("Full-integer files are for integer-only accelerators; on CPUs use 'int8'.")
    notes += [f"GPU delegates may refuse it: {obstacle}." for obstacle in graph.gpu_obstacles]
    return tuple(notes)
