"""Converts models with TF-TRT: SavedModels in which TensorRT engines do the work."""

import collections
import contextlib
import pathlib
import tempfile

import numpy as np

from keras_sepvit.export.check import compare, size_of, writing
from keras_sepvit.export.errors import ExportError, require
from keras_sepvit.export.images import batches, check_calibration_images, check_images
from keras_sepvit.export.model import prepare
from keras_sepvit.export.onnx import QUANTIZE, frozen_graph
from keras_sepvit.export.report import ExportReport
from keras_sepvit.export.tensorrt import ONNX_ROUTE, check_batch_sizes
from keras_sepvit.export.worker import convert_on
from keras_sepvit.validation import check_choice

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
    probabilities=True,
    normalize=False,
    class_names=None,
    images=None,
    check=True,
    overwrite=False,
    verbose=True,
):
    """Converts a model with TF-TRT, builds its engines, runs it, and compares it with the model.

    It needs TensorFlow 2.17 or older, built with TensorRT, TensorRT's library, and an
    NVIDIA GPU. The result is a SavedModel whose signature `serving_default` takes
    `image`; its engines are for this kind of GPU. Batches of other sizes than
    `batch_sizes` run in TensorFlow.

    Args:
        model: A built Keras model of one image input of static size.
        path: Path of the folder to write.
        quantize: None for float32, `"float16"`, or `"int8"`: the precision that
            TensorRT may use in the engines.
        batch_sizes: Sizes of the batches to build engines for.
        calibration_images: For `quantize="int8"`: at least 32 images as the model
            takes them, of the kind that it will see.
        probabilities: Give a classifier whose head has no activation a softmax.
        normalize: Put ImageNet's normalisation in front of a model that takes
            normalised images; the result then takes images of 0..255.
        class_names: Optional names of the classes, written to
            `assets.extra/labels.txt`, one a line.
        images: Images to compare on, of shape (count, height, width, channels);
            some synthetic ones by default.
        check: True for an error where the outputs differ beyond the precision's
            tolerance, `"warn"` for a warning, False for no comparison.
        overwrite: Replace an existing folder.
        verbose: Print the report.

    Returns:
        An `ExportReport`; `not_delegated` counts the operators left to TensorFlow.

    Raises:
        ImportError: if TensorFlow is not installed, naming the extra.
        ExportError: if TensorFlow's version, its build, TensorRT's library or the
            GPU does not do, each with a message of its own; if TF-TRT makes no
            engine; if the result disagrees with the model.
        FileExistsError: if there is a folder at `path`, unless `overwrite`.
        TypeError: if `model` is no Keras model.
        ValueError: for an argument out of range, or a model that cannot be exported.
    """
    check_choice("quantize", quantize, QUANTIZE)
    batch_sizes = check_batch_sizes(batch_sizes)
    if calibration_images is not None and quantize != "int8":
        raise ValueError(
            f"`calibration_images` are for `quantize='int8'` only. Received: quantize={quantize!r}."
        )
    tf = require("tensorflow", extra="tensorflow")
    check_platform(**_platform(tf))
    deployment = prepare(
        model, probabilities=probabilities, normalize=normalize, class_names=class_names
    )
    examples = check_images(deployment, images)
    if quantize == "int8":
        calibration_images = check_calibration_images(deployment, calibration_images, quantize)
    with (
        writing(path, overwrite, folder=True) as temporary,
        tempfile.TemporaryDirectory(prefix="keras_sepvit_export_") as folder,
    ):
        frozen = pathlib.Path(folder, "frozen")
        operators = convert_on("tensorflow", save_frozen, deployment.model, frozen)
        with _exact_float32(tf):
            build_engines(frozen, temporary, quantize, batch_sizes, examples, calibration_images)
            if class_names is not None:
                labels = temporary / "assets.extra" / "labels.txt"
                labels.parent.mkdir()
                labels.write_text("".join(f"{name}\n" for name in deployment.class_names), "utf-8")
            loaded = tf.saved_model.load(str(temporary))
            predict = loaded.signatures["serving_default"]
            left = count_operators(predict.graph.as_graph_def())
            if not left.pop("TRTEngineOp", 0):
                raise ExportError(f"TF-TRT made no engine: {left} stay as they were.")

            def run(batch):
                outputs = predict(image=tf.constant(batch))
                return {name: output.numpy() for name, output in outputs.items()}

            agreement = compare(
                run, deployment, images, quantize or "float32", check, batch_sizes[-1]
            )
        size = size_of(temporary)
    report = ExportReport(
        format="tftrt",
        path=str(path),
        precision=quantize or "float32",
        size_bytes=size,
        operators=operators,
        not_delegated=left,
        notes=("The engines are for this kind of GPU only.",),
        **agreement.report_fields(),
    )
    if verbose:
        print(report)
    return report


def check_platform(version, is_built, linked_version, is_found, gpus):
    """Refuses a platform that TF-TRT cannot run on, saying what is missing.

    Args:
        version: TensorFlow's version.
        is_built: Whether TensorFlow was built with TensorRT.
        linked_version: The version of TensorRT that it was built with, of three numbers.
        is_found: Whether TensorRT's library can be loaded.
        gpus: Number of GPUs that TensorFlow can use.

    Raises:
        ExportError: for the first of these that does not do.
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
    """Writes a deployed model as a SavedModel of constants. Runs on the TensorFlow backend.

    Args:
        model: A deployed model, which returns a dict.
        output: Path of the folder to write.

    Returns:
        How often the graph has each operator, by name.
    """
    import tensorflow as tf

    def named(image):
        outputs = model(image, training=False)
        return [tf.identity(tensor, name=name) for name, tensor in outputs.items()]

    image = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="image")
    function = tf.function(named, input_signature=[image]).get_concrete_function()
    graph = frozen_graph(function)
    whole = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
    outputs = {name: whole.graph.get_tensor_by_name(f"{name}:0") for name in model.output}
    serving = whole.prune(whole.graph.get_tensor_by_name("image:0"), outputs)
    tf.saved_model.save(tf.Module(), output, signatures={"serving_default": serving})
    return count_operators(graph)


def build_engines(saved_model, path, quantize, batch_sizes, examples, calibration_images):
    """Runs TF-TRT on a SavedModel.

    Args:
        saved_model: Its folder.
        path: The folder to write to.
        quantize: None, `"float16"` or `"int8"`.
        batch_sizes: Sizes of the batches to build engines for.
        examples: Images to build with.
        calibration_images: Images to calibrate `"int8"` with.
    """
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
def _exact_float32(tf):
    """Float32 products that are not rounded to TF32, in engines too."""
    enabled = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(enabled)


def count_operators(graph):
    """How often a graph computes each operator, by name.

    Of an engine it counts the engine alone, not what TensorFlow would do without it.

    Args:
        graph: A `GraphDef`.
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
