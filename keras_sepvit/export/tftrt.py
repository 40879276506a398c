"""Converts models with TF-TRT: SavedModels in which TensorRT engines do the work."""

import pathlib
import subprocess
import tempfile
from typing import Unpack

import numpy as np

from keras_sepvit.export.driver import Options, export, write_beside_model
from keras_sepvit.export.errors import ExportError
from keras_sepvit.export.saved_model import PlainTensorFlow, SavedModel
from keras_sepvit.export.tensorrt import ONNX_ROUTE, EngineFormat
from keras_sepvit.processes import last_lines, run_module


def to_tftrt(
    model,
    path,
    *,
    python,
    quantize=None,
    batch_sizes=(1,),
    calibration_images=None,
    **options: Unpack[Options],
):
    """Converts a model with TF-TRT, builds its engines, runs it, and compares it with the model.

    The model becomes a SavedModel here; TF-TRT converts and runs it in another environment,
    which needs TensorFlow 2.17 or older, built with TensorRT, TensorRT's library, and an
    NVIDIA GPU, and nothing of this package. Nobody has run that conversion.

    The result is a SavedModel whose signature `serving_default` takes `image`; its engines
    are for this kind of GPU. For batches of other sizes than `batch_sizes`, an engine is
    built when they come. The record and the names of classes are where `to_saved_model`
    puts them.

    Args:
        model: A built Keras model of one image input.
        path: Path of the folder to write.
        python: Path of the other environment, or of its interpreter.
        quantize: None for float32, `"float16"`, or `"int8"`: the precision that
            TensorRT may use in the engines.
        batch_sizes: Sizes of the batches to build engines for.
        calibration_images: For `quantize="int8"`: at least 32 images as the model
            takes them, of the kind that it will see.
        **options: See `keras_sepvit.export.Options`.

    Returns:
        An `ExportReport`; `not_delegated` counts the operators left to TensorFlow.

    Raises:
        ExportError: if the environment cannot run, if its TensorFlow's version, build,
            TensorRT's library or the GPU does not do, each with a message of its own; if
            TF-TRT makes no engine; if the result disagrees with the model.
    """
    format = TFTRT(quantize, batch_sizes, calibration_images, python)
    return export(format, model, path, **options)


class TFTRT(EngineFormat):
    """SavedModels with TensorRT's engines."""

    name = "tftrt"
    precisions = (None, "float16", "int8")
    is_folder = True
    without_suppression = "TF-TRT"

    def __init__(self, quantize, batch_sizes, calibration_images, python):
        super().__init__(quantize, batch_sizes, calibration_images)
        python = pathlib.Path(python)
        self._python = str(python / "bin" / "python" if python.is_dir() else python)

    def require(self):
        self._run("--check")

    def write(self, deployment, record, path):
        with tempfile.TemporaryDirectory(prefix="keras_sepvit_export_") as folder:
            saved_model = pathlib.Path(folder, "saved_model")
            SavedModel(batch_size=None).write(deployment, record, saved_model)
            arguments = [saved_model, path, "--precision", self.precision]
            arguments += ["--batch-sizes", *self.batch_sizes]
            if self.calibration_images is not None:
                arguments += ["--calibration", pathlib.Path(folder, "images.npy")]
                np.save(arguments[-1], self.calibration_images)
            self._run(*arguments)
        write_beside_model(path, record)

    def open(self, path):
        return PlainTensorFlow(path, self.batch_size, self._python)

    def facts(self, path, opened, deployment):
        operators = opened.facts["operators"]
        if "TRTEngineOp" not in operators:
            raise ExportError(f"TF-TRT made no engine: {operators} stay as they were.")
        return {
            "operators": operators,
            "not_delegated": {name: n for name, n in operators.items() if name != "TRTEngineOp"},
            "notes": ("The engines are for this kind of GPU only.",),
        }

    def _run(self, *arguments):
        try:
            process = run_module(
                "keras_sepvit.export.tftrt_convert",
                *map(str, arguments),
                python=self._python,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise ExportError(
                f"`python`: '{self._python}' cannot be run ({error.strerror}). Pass the path of an "
                f"environment with TensorFlow 2.17. {ONNX_ROUTE}"
            ) from error
        if process.returncode:
            problem = process.stdout.strip() or f"It failed:\n{last_lines(process.stderr)}"
            raise ExportError(f"TF-TRT by '{self._python}': {problem} {ONNX_ROUTE}")
