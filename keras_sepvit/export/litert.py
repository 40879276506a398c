"""Export to LiteRT (TensorFlow Lite): float32, float16 and three kinds of int8."""

import os
import pathlib
import tempfile

import numpy as np

from keras_sepvit.export import litert_convert, litert_runtime
from keras_sepvit.export.check import compare, median_latency_ms, size_of, writing
from keras_sepvit.export.errors import require
from keras_sepvit.export.images import check_calibration_images, check_images, default_images
from keras_sepvit.export.model import prepare
from keras_sepvit.export.report import ExportReport
from keras_sepvit.export.worker import convert_on
from keras_sepvit.validation import check_choice, positive_int

QUANTIZATIONS = (None, "float16", "dynamic_int8", "int8", "full_int8")
CALIBRATED = ("int8", "full_int8")


def to_litert(
    model,
    path,
    *,
    quantize=None,
    batch_size=1,
    probabilities=True,
    normalize=False,
    calibration_images=None,
    class_names=None,
    images=None,
    check=True,
    overwrite=False,
    verbose=True,
):
    """Exports a model to a LiteRT (`.tflite`) file and runs it there.

    The file has builtin operators only (none of "Flex", which need TensorFlow) and
    the signature `serving_default`: from `image`, (batch, height, width, channels),
    to the outputs by name. Conversion needs TensorFlow; with another Keras backend
    it happens in a process of its own.

    Args:
        model: A built Keras model of one image input of static size, under any
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
        probabilities: Give a classifier whose head has no activation a softmax.
        normalize: Put ImageNet's normalisation in front of a model that takes
            normalised images, so that the file takes images of 0..255.
        calibration_images: For `"int8"` and `"full_int8"`: array of at least 32
            images of the kind that the model will see, as the file takes them.
        class_names: Optional names of the classes, which the file then carries as
            `labels.txt` in the zip archive at its end, one a line: TensorFlow
            Lite's convention for files that belong to a model.
        images: Array of images to compare on, as the file takes them; None for
            seeded pictures (`default_images`).
        check: True: raise an error, and leave no file, where its outputs disagree
            with the Keras model's (see `keras_sepvit.export.check.TOLERANCES`).
            `"warn"`: warn, and leave the file. False: do not compare.
        overwrite: Replace an existing file.
        verbose: Print the report.

    Returns:
        An `ExportReport`. Its `not_delegated` are the operators that XNNPACK, the
        runtime's fast library for CPUs, does not take.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: for a model or an argument that does not suit.
        FileExistsError: if `path` exists, unless `overwrite`.
        ImportError: if TensorFlow, ai-edge-litert or, for `"int8"`,
            ai-edge-quantizer is not installed.
        ExportError: if an operator has no builtin counterpart (naming it), or the
            outputs disagree.
    """
    check_choice("quantize", quantize, QUANTIZATIONS)
    if batch_size is not None:
        positive_int("batch_size", batch_size)
    precision = quantize or "float32"
    deployment = prepare(
        model, probabilities=probabilities, normalize=normalize, class_names=class_names
    )
    images = check_images(deployment, images)
    calibration = None
    if precision in CALIBRATED:
        calibration = check_calibration_images(deployment, calibration_images, precision)
        calibration = _spanning_input_range(calibration, deployment)
    require("ai_edge_litert.interpreter")
    if precision == "int8":
        require("ai_edge_quantizer.quantizer")

    with writing(path, overwrite, suffix=".tflite") as temporary:
        _convert(deployment, temporary, precision, batch_size, calibration)
        if class_names is not None:
            litert_runtime.append_labels(temporary, deployment.class_names)
        agreement = compare(
            litert_runtime.Runner(temporary).run, deployment, images, precision, check, batch_size
        )
        graph = litert_runtime.inspect(temporary)
        report = ExportReport(
            format="litert",
            path=str(path),
            precision=precision,
            size_bytes=size_of(temporary),
            operators=graph.operators,
            not_delegated=graph.not_delegated,
            latency_ms=_latency(temporary, deployment, batch_size or 1),
            notes=_notes(graph, precision, deployment),
            **agreement.report_fields(),
        )
    if verbose:
        print(report)
    return report


def _convert(deployment, path, precision, batch_size, calibration):
    """Writes the file, by way of a float32 file where the quantiser needs one."""
    arguments = {"batch_size": batch_size}
    with tempfile.TemporaryDirectory(prefix="keras_sepvit_litert_") as folder:
        folder = pathlib.Path(folder)
        converted = folder / "float32.tflite" if precision == "int8" else path
        if precision != "int8":
            arguments["precision"] = precision
        if precision == "full_int8":
            arguments["calibration"] = str(folder / "calibration.npy")
            np.save(arguments["calibration"], calibration)
        convert_on("tensorflow", litert_convert.convert, deployment.model, converted, **arguments)
        if precision == "int8":
            litert_convert.quantize_static(converted, path, calibration, batch_size)


def _spanning_input_range(images, deployment):
    """Calibration images, with one more that has pixels of 0 and 255.

    Without it, the input of a file whose calibration images are dark could not hold
    bright pixels. The image is a copy of the first but for two pixels, so that it
    changes no other range much.
    """
    if not deployment.takes_pixels:
        return images
    extreme = images[:1].copy()
    extreme[0, 0, 0], extreme[0, -1, -1] = 0, 255
    return np.concatenate([images, extreme])


def _latency(path, deployment, batch_size):
    """Median milliseconds of one run, by number of threads."""
    batch = default_images(deployment.image_shape, count=batch_size)
    latency = {}
    for threads in range(1, min(2, os.cpu_count() or 1) + 1):
        runner = litert_runtime.Runner(path, threads)
        latency[threads] = median_latency_ms(lambda runner=runner: runner.run(batch))
    return latency


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
