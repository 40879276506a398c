"""Builds TensorRT engines from ONNX files, on a machine with an NVIDIA GPU."""

import importlib.resources
import json
import os
import pathlib
import tempfile
from typing import Unpack

import numpy as np

from keras_sepvit.export.check import median_latency_ms
from keras_sepvit.export.deployment import Deployment
from keras_sepvit.export.driver import Format, OpenFile, Options, export
from keras_sepvit.export.errors import ExportError
from keras_sepvit.export.images import refuse_unused_calibration
from keras_sepvit.export.onnx import CALIBRATED, QUANTIZE, Onnx, count_operators
from keras_sepvit.lazy import require
from keras_sepvit.runtime import open_model
from keras_sepvit.validation import positive_int

# Networks of fixed types by name, as this module makes them, came with this release.
MIN_VERSION = (10, 0)

ONNX_ROUTE = (
    "Instead, `keras_sepvit.export.to_onnx` writes a file on any machine, from which TensorRT "
    "builds an engine elsewhere: `trtexec --onnx=model.onnx --stronglyTyped "
    "--saveEngine=model.engine`."
)


def to_tensorrt(
    model,
    path,
    *,
    quantize=None,
    batch_sizes=(1,),
    calibration_images=None,
    **options: Unpack[Options],
):
    """Builds a TensorRT engine, runs it, and compares it with the model.

    It needs an NVIDIA GPU and the extra `tensorrt` (TensorRT 10 or newer). The
    engine runs on this kind of GPU with this version of TensorRT only. The model
    goes through ONNX; the network is strongly typed, so that the types of the ONNX
    file are those of the engine. The record lies beside the engine, as
    `model.engine.keras_sepvit.json`. Nobody has run this on a GPU.

    Args:
        model: A built Keras model of one image input, or the path of
            an `.onnx` file that `to_onnx` wrote, which an engine of it is compared with
            in ONNX Runtime, and whose record it keeps.
        path: Path of the engine, ending with `.engine`.
        quantize: As for `to_onnx`; on GPUs `"int8_float16"` is the one of 8 bits to take.
            `"tf32"` lets products round float32 to TensorFloat-32, which None does not. For
            a file, which has its precision already, None, or `"tf32"` where that is float32.
        batch_sizes: Sizes of the batches that the engine will take; it is optimised
            for each of them. For a file of a fixed batch, that one.
        calibration_images: As for `to_onnx`, with a Keras model.
        **options: See `keras_sepvit.export.Options`.

    Returns:
        An `ExportReport`.

    Raises:
        ExportError: if TensorRT, CUDA or the GPU is missing, each with a message of
            its own; if the file cannot be read or built. Other errors are those of
            `keras_sepvit.export.driver.export`.
    """
    return export(TensorRT(quantize, batch_sizes, calibration_images), model, path, **options)


class EngineFormat(Format):
    """A format with engines for batches of several sizes, `batch_sizes`, in ascending order."""

    calibrated = CALIBRATED

    def __init__(self, quantize, batch_sizes, calibration_images):
        self.batch_sizes = check_batch_sizes(batch_sizes)
        super().__init__(quantize, self.batch_sizes[-1], calibration_images)
        refuse_unused_calibration(self)


class TensorRT(EngineFormat):
    """TensorRT's engines."""

    name = "tensorrt"
    precisions = (*QUANTIZE, "tf32")
    suffix = ".engine"
    has_place_for_record = False
    without_suppression = "TensorRT"

    def require(self):
        self._trt, self._cuda = find_tensorrt()

    def prepare(self, model, **options):
        if isinstance(model, str | os.PathLike):
            self._onnx, reference = None, _check_file(model, self.quantize, self.batch_sizes)
            self.quantize = self.quantize or reference.precision
            return _of_known_outputs(reference)
        size = self.batch_size if len(self.batch_sizes) == 1 else None
        precision = None if self.quantize == "tf32" else self.quantize
        self._onnx = Onnx(precision, size, self.calibration_images)
        self._onnx.require()
        return _of_known_outputs(self._onnx.prepare(model, **options))

    def record(self, deployment, crop, interpolation):
        own = deployment.record if self._onnx is None else None
        return own or super().record(deployment, crop, interpolation)

    def write(self, deployment, record, path):
        with tempfile.TemporaryDirectory(prefix="keras_sepvit_export_") as folder:
            if self._onnx is None:
                source = deployment.path
            else:
                source = pathlib.Path(folder, "model.onnx")
                self._onnx.write(deployment, record, source)
            build_engine(self._trt, source, path, self.batch_sizes, self.quantize == "tf32")
            self._operators = count_operators(source)

    def open(self, path):
        return Engine(self._trt, self._cuda, path, self.batch_sizes)

    def facts(self, path, opened, deployment):
        opened.load(np.zeros((self.batch_size, *deployment.image_shape), "float32"))
        latency = median_latency_ms(opened.compute)
        return {
            "operators": self._operators,
            "notes": (
                f"Built by TensorRT {self._trt.__version__}, for this kind of GPU only.",
                f"A batch of {self.batch_size} takes {latency:.2f} ms, without the copies to and "
                "from the GPU.",
            ),
        }


def _of_known_outputs(deployment):
    """What is deployed; refuses class maps, since engines have no such outputs."""
    if deployment.task == "segmentation" and deployment.activation is None:
        raise ValueError(
            "TensorRT's engines give no class maps, which are uint8. Export the segmenter's "
            "logits with `logits=True`."
        )
    return deployment


def _check_file(path, quantize, batch_sizes):
    """The `OnnxReference` of a file, if it can become an engine of these arguments."""
    reference = OnnxReference(path)
    if quantize not in (None, "tf32" if reference.precision == "float32" else None):
        raise ValueError(
            f"The file '{path}' has its precision already, {reference.precision}. Received: "
            f"quantize={quantize!r}. Leave it out, or pass the Keras model."
        )
    if reference.batch_size is not None and batch_sizes != (reference.batch_size,):
        raise ValueError(
            f"The file '{path}' takes batches of {reference.batch_size} only. Received: "
            f"batch_sizes={batch_sizes}. Export it with batch_size=None."
        )
    return reference


def check_batch_sizes(batch_sizes):
    """`batch_sizes` as a sorted tuple of different positive ints."""
    if isinstance(batch_sizes, int):
        batch_sizes = (batch_sizes,)
    sizes = sorted({positive_int("batch_sizes", size) for size in batch_sizes})
    if not sizes:
        raise ValueError("`batch_sizes` must name at least one size. Received: none.")
    return tuple(sizes)


def supported_operators(runtime):
    """Names of the operators in a runtime's published list.

    `"tensorrt"` reads those of ONNX, `"tftrt"` converts those of TensorFlow. The version and
    the source stand in `keras_sepvit/export/data/<runtime>_operators.json`.
    """
    file = importlib.resources.files("keras_sepvit.export") / "data" / f"{runtime}_operators.json"
    return frozenset(json.loads(file.read_text())["operators"])


def find_tensorrt():
    """The modules `tensorrt` and `cuda.bindings.runtime`, where there is a GPU to use them.

    The error says which of the packages, their libraries, the version, or the GPU is missing.
    """
    try:
        trt = require("tensorrt", "tensorrt")
        cuda = require("cuda.bindings.runtime", "tensorrt")
    except ImportError as error:
        raise ExportError(
            f"{error} If only a library is not found, install those of the same version, or put "
            f"their folder on LD_LIBRARY_PATH. {ONNX_ROUTE}"
        ) from error
    version = tuple(map(int, trt.__version__.split(".")[:2]))
    if version < MIN_VERSION:
        raise ExportError(
            f"TensorRT {trt.__version__} is too old: 10.0 or newer is needed. Install it with "
            f'`pip install "keras-sepvit[tensorrt]"`. {ONNX_ROUTE}'
        )
    error, count = cuda.cudaGetDeviceCount()
    if error != cuda.cudaError_t.cudaSuccess or not count:
        raise ExportError(
            f"There is no GPU that CUDA can use ({error.name}): TensorRT builds an engine on the "
            f"kind of GPU that will run it. {ONNX_ROUTE}"
        )
    return trt, cuda


def build_engine(trt, onnx_path, path, batch_sizes, tf32):
    """Writes the engine of an ONNX file; one of any batch is optimised for `batch_sizes`."""
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(pathlib.Path(onnx_path).read_bytes()):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        unknown = sorted(set(count_operators(onnx_path)) - supported_operators("tensorrt"))
        raise ExportError(
            f"TensorRT {trt.__version__} cannot read '{onnx_path}': {errors}"
            + (f". Operators that it has no support for: {unknown}." if unknown else "")
        )
    config = builder.create_builder_config()
    if not tf32:  # which is on by default
        config.clear_flag(trt.BuilderFlag.TF32)
    image = network.get_input(0)
    if image.shape[0] == -1:
        for size in batch_sizes:
            shape = (size, *tuple(image.shape)[1:])
            profile = builder.create_optimization_profile()
            profile.set_shape(image.name, min=shape, opt=shape, max=shape)
            config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ExportError(
            f"TensorRT {trt.__version__} could not build an engine of '{onnx_path}'; its log says "
            "why."
        )
    pathlib.Path(path).write_bytes(engine)


class Engine(OpenFile):
    """A TensorRT engine, with buffers in the GPU's memory for its largest batch."""

    def __init__(self, trt, cuda, path, batch_sizes):
        """Loads the engine, built for `batch_sizes`, with the modules of `find_tensorrt`."""
        self.batch_size = batch_sizes[-1]
        self._cuda, self._batch_sizes = cuda, batch_sizes
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(pathlib.Path(path).read_bytes())
        if self._engine is None:
            raise ExportError("TensorRT could not load the engine; its log says why.")
        self._context = self._engine.create_execution_context()
        self._stream = self._call("cudaStreamCreate")
        self._arrays, self._buffers, self._outputs = {}, {}, []
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            shape = (self.batch_size, *tuple(self._engine.get_tensor_shape(name))[1:])
            array = np.empty(shape, trt.nptype(self._engine.get_tensor_dtype(name)))
            self._arrays[name] = array
            self._buffers[name] = self._call("cudaMalloc", array.nbytes)
            if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                self._input = name
            else:
                self._outputs.append(name)

    def run(self, batch):
        """The outputs, by name, for a batch of a size that the engine was built for."""
        self.load(batch)
        self.compute()
        return {name: self._copy(name, len(batch), "DeviceToHost").copy() for name in self._outputs}

    def load(self, batch):
        """Copies a batch to the GPU."""
        self._arrays[self._input][: len(batch)] = batch
        self._copy(self._input, len(batch), "HostToDevice")
        if self._engine.get_tensor_shape(self._input)[0] == -1:
            profile = self._batch_sizes.index(len(batch))
            if not self._context.set_optimization_profile_async(profile, int(self._stream)):
                raise ExportError(f"The engine has no profile for batches of {len(batch)}.")
            self._call("cudaStreamSynchronize", self._stream)
            self._context.set_input_shape(self._input, batch.shape)
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, int(buffer))

    def compute(self):
        """Runs the engine on the batch that is loaded, and waits for it; allocates nothing."""
        if not self._context.execute_async_v3(int(self._stream)):
            raise ExportError("TensorRT could not run the engine; its log says why.")
        self._call("cudaStreamSynchronize", self._stream)

    def close(self):
        """Releases the GPU's memory and stream."""
        for buffer in self._buffers.values():
            self._call("cudaFree", buffer)
        self._call("cudaStreamDestroy", self._stream)

    def _copy(self, name, count, direction):
        """Copies the first `count` of a tensor, and gives its array in the host's memory."""
        array, buffer = self._arrays[name][:count], self._buffers[name]
        to_gpu = direction == "HostToDevice"
        target, source = (buffer, array.ctypes.data) if to_gpu else (array.ctypes.data, buffer)
        kind = getattr(self._cuda.cudaMemcpyKind, f"cudaMemcpy{direction}")
        self._call("cudaMemcpy", target, source, array.nbytes, kind)
        return array

    def _call(self, function, *arguments):
        """A function of CUDA's runtime, whose error code becomes an exception."""
        error, *values = getattr(self._cuda, function)(*arguments)
        if error != self._cuda.cudaError_t.cudaSuccess:
            raise ExportError(f"CUDA's `{function}` failed: {error.name}.")
        return values[0] if values else None


class OnnxReference:
    """An ONNX file to compare an engine with, run by ONNX Runtime: its attributes are those
    that an export uses of a `Deployment`, and `path`, `record`, `batch_size`, `precision`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no ONNX file of one input of images.
    """

    measure = Deployment.measure

    def __init__(self, path):
        onnx = require("onnx", "export")
        require("onnxruntime", "export")
        if not pathlib.Path(path).is_file():
            raise FileNotFoundError(f"No such ONNX file: '{path}'.")
        try:
            graph = onnx.load(path).graph
            onnx.checker.check_graph(graph)
        except Exception as error:  # of protobuf's and of ONNX's classes
            raise ValueError(f"'{path}' is no valid ONNX file: {error}") from error
        model = open_model(path)
        shapes = model.input_shapes
        if len(shapes) != 1 or len(shapes[0]) != 4 or None in shapes[0][1:]:
            raise ValueError(
                f"'{path}' must have one input of images, (batch, height, width, channels), of a "
                f"fixed size. Its inputs have the shapes {shapes}."
            )
        self.path, self.record, self.class_names = path, model.record, model.class_names
        self.batch_size, *image_shape = shapes[0]
        self.image_shape = tuple(image_shape)
        self.predict = OpenFile(model.outputs, self.batch_size)
        is_half = any(t.data_type == onnx.TensorProto.FLOAT16 for t in graph.initializer)
        self.precision = "float16" if is_half else "float32"
        if any(node.op_type == "QuantizeLinear" for node in graph.node):
            self.precision = "int8_float16" if is_half else "int8"
        if self.record is not None:
            self.takes_pixels = self.record.pixels == "0..255"
            self.activation, self.task = self.record.activation, self.record.task
        else:  # files of before there were records, nearly all for images of 0..255
            outputs = tuple(output.name for output in graph.output)
            activations = {("probabilities",): "softmax", ("logits",): "linear"}
            self.takes_pixels, self.activation = True, activations.get(outputs)
            self.task = "classification" if self.activation else "features"
        self.is_softmax = self.activation == "softmax"
