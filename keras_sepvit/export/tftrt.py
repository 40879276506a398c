"""Converts models with TF-TRT: SavedModels in which TensorRT engines do the work."""

import collections
import contextlib
import pathlib
import tempfile
from typing import Unpack

import numpy as np

from keras_sepvit.export.driver import OpenFile, Options, export, write_beside_model
from keras_sepvit.export.errors import ExportError, require
from keras_sepvit.export.images import batches, check_images
from keras_sepvit.export.onnx import frozen_graph
from keras_sepvit.export.tensorrt import ONNX_ROUTE, EngineFormat
from keras_sepvit.export.worker import convert_on

# TensorFlow's builds have TensorRT up to this release.
LAST_VERSION = (2, 17)

_PRECISION_MODES = {None: "FP32", "float16": "FP16", "int8": "INT8"}


def to_tftrt(
    model,
    path,
    *,
    quantize=None,
    batch_sizes=(1,),
    calibration_images=None,
    **options: Unpack[Options],
):
    """Converts a model with TF-TRT, builds its engines, runs it, and compares it with the model.

    It needs TensorFlow 2.17 or older, built with TensorRT, TensorRT's library, and an
    NVIDIA GPU. The result is a SavedModel whose signature `serving_default` takes
    `image`; its engines are for this kind of GPU. Batches of other sizes than
    `batch_sizes` run in TensorFlow. The record and the names of classes are where
    `to_saved_model` puts them.

    Args:
        model: A built Keras model of one image input of static size.
        path: Path of the folder to write.
        quantize: None for float32, `"float16"`, or `"int8"`: the precision that
            TensorRT may use in the engines.
        batch_sizes: Sizes of the batches to build engines for.
        calibration_images: For `quantize="int8"`: at least 32 images as the model
            takes them, of the kind that it will see.
        **options: See `keras_sepvit.export.Options`.

    Returns:
        An `ExportReport`; `not_delegated` counts the operators left to TensorFlow.

    Raises:
        ExportError: if TensorFlow's version, its build, TensorRT's library or the
            GPU does not do, each with a message of its own; if TF-TRT makes no
            engine; if the result disagrees with the model.
    """
    return export(TFTRT(quantize, batch_sizes, calibration_images), model, path, **options)


class TFTRT(EngineFormat):
    """SavedModels with TensorRT's engines."""

    name = "tftrt"
    is_folder = True

    def require(self):
        check_platform(**_platform(require("tensorflow", extra="tensorflow")))

    def write(self, deployment, record, path):
        examples = check_images(deployment, None)
        with tempfile.TemporaryDirectory(prefix="keras_sepvit_export_") as folder:
            frozen = pathlib.Path(folder, "frozen")
            self._operators = convert_on("tensorflow", save_frozen, deployment.model, frozen)
            with _exact_float32():
                build_engines(
                    *(frozen, path, self.quantize, self.batch_sizes, examples),
                    self.calibration_images,
                )
        write_beside_model(path, record)

    def open(self, path):
        return SavedEngines(path, self.batch_size)

    def facts(self, path, opened, deployment):
        return {
            "operators": self._operators,
            "not_delegated": opened.not_delegated,
            "notes": ("The engines are for this kind of GPU only.",),
        }


class SavedEngines(OpenFile):
    """A SavedModel with engines; float32 products are exact while it is open.

    Attributes:
        not_delegated: How often TensorFlow computes each operator, by name.
    """

    def __init__(self, path, batch_size):
        import tensorflow as tf

        # Kept: the functions of a model that is gone do not run.
        self._loaded = tf.saved_model.load(str(path))
        predict = self._loaded.signatures["serving_default"]
        self.not_delegated = count_operators(predict.graph.as_graph_def())
        if not self.not_delegated.pop("TRTEngineOp", 0):
            raise ExportError(f"TF-TRT made no engine: {self.not_delegated} stay as they were.")

        def run(batch):
            outputs = predict(image=tf.constant(batch))
            return {name: output.numpy() for name, output in outputs.items()}

        super().__init__(run, batch_size)
        self._mode = contextlib.ExitStack()
        self._mode.enter_context(_exact_float32())

    def close(self):
        """Puts TensorFlow's products back to what they were."""
        self._mode.close()


def check_platform(version, is_built, linked_version, is_found, gpus):
    """Refuses a platform that TF-TRT cannot run on, saying what is missing first.

    Of TensorFlow: its version, whether it was built with TensorRT, the version of that, of three
    numbers, whether TensorRT's library can be loaded, and the number of GPUs.
    """
    last = ".".join(map(str, LAST_VERSION))
    if not is_built and tuple(map(int, version.split(".")[:2])) > LAST_VERSION:
        problem = (
            f"TensorFlow {version} has no TensorRT: {last} was the last release with it. Convert "
            f"in an environment with `tensorflow[and-cuda]=={last}.*`."
        )
    elif not is_built:
        problem = (
            f"This build of TensorFlow {version} was made without TensorRT, as those for CPUs, "
            f"macOS and Windows are. Install `tensorflow[and-cuda]=={last}.*` on Linux."
        )
    elif not is_found:
        linked = ".".join(map(str, linked_version))
        problem = (
            f"TensorFlow {version} was built with TensorRT {linked}, whose library "
            f"(libnvinfer.so.{linked_version[0]}) is not found. Install TensorRT {linked}, and put "
            "the folder of its libraries on LD_LIBRARY_PATH."
        )
    elif not gpus:
        problem = (
            "TensorFlow finds no GPU: TF-TRT builds its engines on the kind of GPU that will run "
            "them."
        )
    else:
        return
    raise ExportError(f"{problem} {ONNX_ROUTE}")


def save_frozen(model, output):
    """Writes a deployed model to a folder as a SavedModel of constants. Runs on TensorFlow.

    Returns how often the graph has each operator, by name.
    """
    import tensorflow as tf

    graph = frozen_graph(model, batch_size=None)
    whole = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
    outputs = {name: whole.graph.get_tensor_by_name(f"{name}:0") for name in model.output}
    serving = whole.prune(whole.graph.get_tensor_by_name("image:0"), outputs)
    tf.saved_model.save(tf.Module(), output, signatures={"serving_default": serving})
    return count_operators(graph)


def build_engines(saved_model, path, quantize, batch_sizes, examples, calibration_images):
    """Runs TF-TRT on the SavedModel in a folder, with example images, and writes to `path`."""
    from tensorflow.python.compiler.tensorrt.trt_convert import TrtGraphConverterV2

    def calibration():
        for batch, _ in batches(calibration_images, batch_sizes[-1]):
            yield {"image": batch}

    def inputs():
        for size in batch_sizes:
            yield {"image": np.resize(examples, (size, *examples.shape[1:]))}

    converter = TrtGraphConverterV2(
        input_saved_model_dir=str(saved_model),
        # Windows become part of the batch, so that no engine can leave the batch implicit.
        use_dynamic_shape=True,
        dynamic_shape_profile_strategy="Optimal",
        precision_mode=_PRECISION_MODES[quantize],
        use_calibration=quantize == "int8",
        allow_build_at_runtime=False,
    )
    converter.convert(calibration_input_fn=calibration if quantize == "int8" else None)
    converter.build(input_fn=inputs)
    converter.save(output_saved_model_dir=str(path))


def _platform(tf):
    """The arguments of `check_platform`, of the TensorFlow that is installed."""
    from tensorflow.compiler.tf2tensorrt import _pywrap_py_utils as tensorrt

    # Not the version of the library that is loaded: where there is none, asking for it
    # ends the process.
    return {
        "version": tf.__version__,
        "is_built": bool(tf.sysconfig.get_build_info().get("is_tensorrt_build")),
        "linked_version": tensorrt.get_linked_tensorrt_version(),
        "is_found": tensorrt.is_tensorrt_enabled(),
        "gpus": len(tf.config.list_physical_devices("GPU")),
    }


@contextlib.contextmanager
def _exact_float32():
    """Float32 products that are not rounded to TF32, in engines too."""
    import tensorflow as tf

    enabled = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(enabled)


def count_operators(graph):
    """How often a `GraphDef` computes each operator, by name.

    Of an engine it counts the engine alone, not what TensorFlow would do without it.
    """
    functions = {function.signature.name: function for function in graph.library.function}
    counts = collections.Counter()
    pending = [graph.node]
    while pending:
        for node in pending.pop():
            if node.op in ("PartitionedCall", "StatefulPartitionedCall"):
                pending.append(functions[node.attr["f"].func.name].node_def)
            elif node.op not in ("Const", "Identity", "NoOp", "Placeholder"):
                counts[node.op] += 1
    return dict(counts.most_common())
