"""TensorRT and TF-TRT without a GPU.

Nothing here has met a GPU. What is tested: every precondition's own error; that the
libraries are called as their signatures demand, by stand-ins that check each call and
run the ONNX file in ONNX Runtime; and that the operators of SepViT's graphs are in the
libraries' published lists.
"""

import ctypes
import importlib.util
import inspect
import shutil
import sys
import types

import keras
import numpy as np
import pytest
from export_helpers import tiny_classifier

from keras_sepvit.export import ExportError, to_tensorrt, to_tftrt
from keras_sepvit.export import onnx as onnx_module
from keras_sepvit.export import tensorrt as tensorrt_module
from keras_sepvit.export import tftrt as tftrt_module
from keras_sepvit.export.images import default_images
from keras_sepvit.export.model import prepare
from keras_sepvit.export.onnx import Onnx
from keras_sepvit.export.tensorrt import supported_operators
from keras_sepvit.record import Record

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.once


# The lists of operators.


@pytest.mark.parametrize(("runtime", "count"), [("tensorrt", 150), ("tftrt", 124)])
def test_lists_of_operators_have_their_source(runtime, count):
    operators = supported_operators(runtime)
    assert len(operators) >= count
    assert not operators & {"Erfc", "BroadcastTo", "QLinearConv", "LogSumExp"}


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A classifier, the SavedModel that TF-TRT is given, and its operators."""
    keras.utils.set_random_seed(0)
    model = tiny_classifier(classes=5)
    folder = tmp_path_factory.mktemp("tftrt") / "frozen"
    return model, folder, tftrt_module.save_frozen(prepare(model).model, folder)


@pytest.mark.slow
def test_frozen_graph_has_only_operators_that_tftrt_converts(frozen):
    import tensorflow as tf

    model, folder, operators = frozen

    assert operators["Conv2D"] == operators["DepthwiseConv2dNative"] == 4
    assert set(operators) <= supported_operators("tftrt")
    predict = tf.saved_model.load(str(folder)).signatures["serving_default"]
    assert tftrt_module.count_operators(predict.graph.as_graph_def()) == operators
    images = default_images((64, 64, 3), 3)
    np.testing.assert_allclose(
        predict(image=tf.constant(images))["probabilities"],
        model.predict(images, verbose=0),
        atol=1e-5,
    )


# TF-TRT.

GOOD_PLATFORM = {
    "version": "2.17.1",
    "is_built": True,
    "linked_version": (8, 6, 1),
    "is_found": True,
    "gpus": 1,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "2.21.0", "is_built": False}, "2.21.0 has no TensorRT: 2.17 was the last"),
        ({"version": "3.0.0", "is_built": False}, "3.0.0 has no TensorRT"),
        ({"is_built": False}, "This build of TensorFlow 2.17.1 was made without TensorRT"),
        ({"is_found": False}, r"TensorRT 8.6.1, whose library \(libnvinfer.so.8\) is not found"),
        ({"gpus": 0}, "TensorFlow finds no GPU"),
    ],
)
def test_tftrt_says_which_precondition_fails(change, message):
    tftrt_module.check_platform(**GOOD_PLATFORM)

    with pytest.raises(ExportError, match=f"{message}.*to_onnx.*trtexec"):
        tftrt_module.check_platform(**{**GOOD_PLATFORM, **change})


def test_tftrt_on_this_tensorflow_is_refused_and_leaves_nothing(tmp_path):
    import tensorflow as tf

    if tf.sysconfig.get_build_info().get("is_tensorrt_build"):
        pytest.skip("this TensorFlow has TensorRT")
    with pytest.raises(ExportError, match=f"TensorFlow {tf.__version__}"):
        to_tftrt(tiny_classifier(classes=5), tmp_path / "engines")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def converter(frozen, monkeypatch):
    """A stand-in for TF-TRT's converter, whose calls must fit the real one's signatures.

    It copies the SavedModel without an engine, and records what it was called with.
    The SavedModel is that of `frozen`.
    """
    from tensorflow.python.compiler.tensorrt import trt_convert

    real = trt_convert.TrtGraphConverterV2
    calls = {}

    class Converter:
        def __init__(self, *args, **kwargs):
            self._call("__init__", args, kwargs)
            assert (
                kwargs["precision_mode"] in trt_convert.TrtPrecisionMode.supported_precision_modes()
            )
            self._verify_profile_strategy(kwargs["dynamic_shape_profile_strategy"])

        _verify_profile_strategy = real._verify_profile_strategy

        def convert(self, *args, **kwargs):
            feed = self._call("convert", args, kwargs)["calibration_input_fn"]
            calls["calibration"] = None if feed is None else [batch["image"] for batch in feed()]

        def build(self, *args, **kwargs):
            feed = self._call("build", args, kwargs)["input_fn"]
            calls["batches"] = [batch["image"].shape for batch in feed()]

        def save(self, *args, **kwargs):
            target = self._call("save", args, kwargs)["output_saved_model_dir"]
            source = calls["__init__"]["input_saved_model_dir"]
            shutil.copytree(source, target, dirs_exist_ok=True)

        def _call(self, name, args, kwargs):
            bound = inspect.signature(getattr(real, name)).bind(self, *args, **kwargs)
            bound.apply_defaults()
            calls[name] = bound.arguments
            return bound.arguments

    def copy(backend, function, model, output):
        shutil.copytree(frozen[1], output)
        return frozen[2]

    monkeypatch.setattr(tftrt_module, "convert_on", copy)
    monkeypatch.setattr(trt_convert, "TrtGraphConverterV2", Converter)
    monkeypatch.setattr(tftrt_module, "_platform", lambda tf: GOOD_PLATFORM)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantize", "mode"), [(None, "FP32"), ("float16", "FP16"), ("int8", "INT8")]
)
def test_converter_of_tftrt_is_called_as_its_signature_demands(
    frozen, converter, tmp_path, quantize, mode
):
    calibration = default_images((64, 64, 3), 33) if quantize == "int8" else None

    with pytest.raises(ExportError, match="TF-TRT made no engine"):
        to_tftrt(
            frozen[0],
            tmp_path / "engines",
            quantize=quantize,
            batch_sizes=(8, 1, 8),
            calibration_images=calibration,
        )

    assert not list(tmp_path.iterdir())
    arguments = converter["__init__"]
    assert arguments["precision_mode"] == mode
    assert arguments["use_dynamic_shape"] and not arguments["allow_build_at_runtime"]
    assert converter["batches"] == [(1, 64, 64, 3), (8, 64, 64, 3)]
    if quantize == "int8":
        assert [len(batch) for batch in converter["calibration"]] == [8] * 5
        np.testing.assert_array_equal(converter["calibration"][0], calibration[:8])
    else:
        assert converter["calibration"] is None


def test_result_of_tftrt_is_compared_and_reported(frozen, converter, tmp_path, monkeypatch, capsys):
    count = tftrt_module.count_operators

    def with_an_engine(graph):
        return {"TRTEngineOp": 1, **count(graph)}

    monkeypatch.setattr(tftrt_module, "count_operators", with_an_engine)
    path = tmp_path / "engines"

    report = to_tftrt(frozen[0], path, class_names=list("abcde"))

    assert report.max_error < 1e-4 and report.precision == "float32"
    assert report.not_delegated == report.operators == frozen[2]
    extra = path / "assets.extra"
    assert (extra / "labels.txt").read_text() == "a\nb\nc\nd\ne\n"
    assert Record.from_json((extra / "keras_sepvit.json").read_text(), extra).pixels == "0..255"
    assert "format        tftrt, float32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "fp16"}, "Unknown `quantize`: 'fp16'"),
        ({"batch_sizes": ()}, "`batch_sizes` must name at least one size"),
        ({"batch_sizes": (1, 0)}, "`batch_sizes` must be a positive integer"),
    ],
)
@pytest.mark.parametrize("export", [to_tftrt, to_tensorrt])
def test_bad_arguments_are_refused(frozen, export, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export(frozen[0], tmp_path / "model.engine", **arguments)
    assert not list(tmp_path.iterdir())


# TensorRT.

# Of the Python packages of TensorRT 10.9 and 11.4, which agree: parameters after `self`.
SIGNATURES = {
    "Logger": "min_severity=None",
    "Builder": "logger",
    "Builder.create_network": "flags=0",
    "Builder.create_builder_config": "",
    "Builder.create_optimization_profile": "",
    "Builder.build_serialized_network": "network, config",
    "OnnxParser": "network, logger",
    "OnnxParser.parse": "model, path=None",
    "OnnxParser.get_error": "index",
    "INetworkDefinition.get_input": "index",
    "IBuilderConfig.clear_flag": "flag",
    "IBuilderConfig.add_optimization_profile": "profile",
    "IOptimizationProfile.set_shape": "input, min, opt, max",
    "Runtime": "logger",
    "Runtime.deserialize_cuda_engine": "serialized_engine",
    "ICudaEngine.create_execution_context": "strategy=None",
    "ICudaEngine.get_tensor_name": "index",
    "ICudaEngine.get_tensor_mode": "name",
    "ICudaEngine.get_tensor_shape": "name",
    "ICudaEngine.get_tensor_dtype": "name",
    "IExecutionContext.set_optimization_profile_async": "profile_index, stream_handle",
    "IExecutionContext.set_input_shape": "name, shape",
    "IExecutionContext.get_tensor_shape": "name",
    "IExecutionContext.set_tensor_address": "name, memory",
    "IExecutionContext.execute_async_v3": "stream_handle",
}


class FakeTensorRT(types.ModuleType):
    """A stand-in for `tensorrt`: its engines are ONNX files, which ONNX Runtime runs.

    Every call is checked against `SIGNATURES`.
    """

    __version__ = "10.9.0.34"
    STREAM = 7

    def __init__(self, cuda):
        super().__init__("tensorrt")
        self.cuda = cuda
        self.profiles, self.flags = [], None
        self.NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=1)
        self.BuilderFlag = types.SimpleNamespace(TF32="TF32")
        self.Logger = FakeLogger
        self.TensorIOMode = types.SimpleNamespace(INPUT="in", OUTPUT="out")
        self.refuses, self.cannot_build = False, False

    def __getattr__(self, name):
        if name in SIGNATURES:
            return lambda *args, **kwargs: FakeObject(self, name, self.bind(name, args, kwargs))
        raise AttributeError(name)

    @staticmethod
    def nptype(dtype):
        return np.dtype(dtype)

    @staticmethod
    def bind(name, args, kwargs):
        scope = {}
        exec(f"def function({SIGNATURES[name]}): return dict(locals())", scope)
        return scope["function"](*args, **kwargs)

    def session(self, model):
        return onnxruntime.InferenceSession(bytes(model), providers=["CPUExecutionProvider"])


class FakeLogger:
    WARNING = 2

    def __init__(self, *args):
        FakeTensorRT.bind("Logger", args, {})


class FakeObject:
    """An object of `FakeTensorRT`: `kind` is its class, `state` what it was made of."""

    def __init__(self, trt, kind, state):
        self.trt, self.kind, self.state = trt, kind, dict(state)

    def __getattr__(self, name):
        if f"{self.kind}.{name}" not in SIGNATURES:
            raise AttributeError(f"{self.kind} has no {name}")

        def call(*args, **kwargs):
            return getattr(self, f"_{name}")(**self.trt.bind(f"{self.kind}.{name}", args, kwargs))

        return call

    def new(self, kind, **state):
        return FakeObject(self.trt, kind, state)

    # Builder and network.
    def _create_network(self, flags):
        self.trt.flags = flags
        return self.new("INetworkDefinition")

    def _create_builder_config(self):
        return self.new("IBuilderConfig", tf32=True, profiles=[])

    def _create_optimization_profile(self):
        return self.new("IOptimizationProfile")

    def _build_serialized_network(self, network, config):
        assert not config.state["tf32"]
        self.trt.profiles = [profile.state for profile in config.state["profiles"]]
        return None if self.trt.cannot_build else network.state["model"]

    def _clear_flag(self, flag):
        assert flag == self.trt.BuilderFlag.TF32
        self.state["tf32"] = False

    def _add_optimization_profile(self, profile):
        self.state["profiles"].append(profile)

    def _set_shape(self, input, min, opt, max):
        assert min == opt == max
        self.state = {"name": input, "shape": opt}

    def _get_input(self, index):
        image = self.trt.session(self.state["model"]).get_inputs()[index]
        shape = [-1 if isinstance(side, str) else side for side in image.shape]
        return types.SimpleNamespace(name=image.name, shape=shape)

    # Parser.
    @property
    def num_errors(self):
        return 1

    def _parse(self, model, path):
        onnx.checker.check_model(onnx.load_from_string(model))
        self.state["network"].state["model"] = model
        return not self.trt.refuses

    def _get_error(self, index):
        return types.SimpleNamespace(desc=lambda: "node 3 is not to be read")

    # Runtime, engine and context.
    def _deserialize_cuda_engine(self, serialized_engine):
        session = self.trt.session(serialized_engine)
        tensors = {
            tensor.name: tensor for tensor in (*session.get_inputs(), *session.get_outputs())
        }
        return self.new("ICudaEngine", session=session, tensors=tensors)

    @property
    def num_io_tensors(self):
        return len(self.state["tensors"])

    def _create_execution_context(self, strategy):
        return self.new("IExecutionContext", engine=self, shape=None, addresses={})

    def _get_tensor_name(self, index):
        return list(self.state["tensors"])[index]

    def _get_tensor_mode(self, name):
        return "in" if name == "image" else "out"

    def _get_tensor_dtype(self, name):
        assert self.state["tensors"][name].type == "tensor(float)"
        return "float32"

    def _get_tensor_shape(self, name):
        if self.kind == "ICudaEngine":
            shape = self.state["tensors"][name].shape
            return [-1 if isinstance(side, str) else side for side in shape]
        shape = self.state["engine"]._get_tensor_shape(name)
        batch = shape[0] if shape[0] != -1 else self.state["shape"][0]
        return [batch, *shape[1:]]

    def _set_optimization_profile_async(self, profile_index, stream_handle):
        assert stream_handle == FakeTensorRT.STREAM
        self.state["profile"] = self.trt.profiles[profile_index]
        return True

    def _set_input_shape(self, name, shape):
        assert self.state["profile"] == {"name": name, "shape": tuple(shape)}
        self.state["shape"] = shape
        return True

    def _set_tensor_address(self, name, memory):
        self.state["addresses"][name] = memory
        return True

    def _execute_async_v3(self, stream_handle):
        engine = self.state["engine"]
        memory = {name: self.array(name) for name in engine.state["tensors"]}
        names = [name for name in memory if name != "image"]
        outputs = engine.state["session"].run(names, {"image": memory["image"]})
        for name, output in zip(names, outputs, strict=True):
            memory[name][:] = output
        return True

    def array(self, name):
        """The part of the pretended GPU's memory that a tensor has."""
        shape = self._get_tensor_shape(name)
        address = self.state["addresses"][name]
        assert self.trt.cuda.sizes[address] == 4 * np.prod(shape)
        return np.ctypeslib.as_array(
            (ctypes.c_float * int(np.prod(shape))).from_address(address)
        ).reshape(shape)


class FakeCuda:
    """A stand-in for `cuda.bindings.runtime`, whose GPU has its memory in the host's."""

    cudaError_t = types.SimpleNamespace(cudaSuccess=types.SimpleNamespace(name="cudaSuccess"))
    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self):
        self.success = self.cudaError_t.cudaSuccess
        self.gpus, self.memory, self.sizes, self.streams = 1, {}, {}, 0

    def cudaGetDeviceCount(self):
        return self.success, self.gpus

    def cudaStreamCreate(self):
        self.streams += 1
        return self.success, FakeTensorRT.STREAM

    def cudaStreamDestroy(self, stream):
        self.streams -= 1
        return (self.success,)

    def cudaStreamSynchronize(self, stream):
        assert stream == FakeTensorRT.STREAM
        return (self.success,)

    def cudaMalloc(self, size):
        buffer = ctypes.create_string_buffer(size)
        address = ctypes.addressof(buffer)
        self.memory[address], self.sizes[address] = buffer, size
        return self.success, address

    def cudaFree(self, address):
        del self.memory[address], self.sizes[address]
        return (self.success,)

    def cudaMemcpy(self, target, source, size, kind):
        on_gpu = target if kind == 1 else source
        if self.sizes.get(on_gpu) != size or (source if kind == 1 else target) in self.sizes:
            return (types.SimpleNamespace(name="cudaErrorInvalidValue"),)
        ctypes.memmove(target, source, size)
        return (self.success,)


@pytest.fixture
def trt(monkeypatch):
    """A pretended machine with TensorRT and a GPU."""
    cuda = FakeCuda()
    trt = FakeTensorRT(cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    return trt


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A classifier, and its ONNX file for any batch."""
    if not importlib.util.find_spec("tf2onnx"):
        pytest.skip("needs tf2onnx")
    keras.utils.set_random_seed(0)
    model = tiny_classifier(classes=5)
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    # By tf2onnx, which needs no other process.
    onnx_module.write_with_tf2onnx(prepare(model).model, path, batch_size=None, opset=18)
    return model, path


def test_engine_runs_batches_of_the_sizes_that_it_was_built_for(trt, classifier, tmp_path, capsys):
    model, onnx_path = classifier
    path = tmp_path / "tiny.engine"
    images = default_images((64, 64, 3), 5)

    report = to_tensorrt(onnx_path, path, batch_sizes=[4, 2], images=images)

    assert trt.flags == 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert [profile["shape"] for profile in trt.profiles] == [(2, 64, 64, 3), (4, 64, 64, 3)]
    assert report.max_error < 1e-5 and report.images == 5 and report.precision == "float32"
    assert path.read_bytes() == onnx_path.read_bytes()  # what the stand-in calls an engine
    assert any("TensorRT 10.9.0.34" in note for note in report.notes)
    assert "format        tensorrt, float32" in capsys.readouterr().out
    assert not trt.cuda.memory and not trt.cuda.streams

    engine = tensorrt_module.Engine(trt, trt.cuda, path, (2, 4))
    np.testing.assert_allclose(
        engine.run(images[:2])["probabilities"], model.predict(images[:2], verbose=0), atol=1e-5
    )


def test_model_goes_through_onnx_and_is_compared_with_keras(trt, classifier, tmp_path, monkeypatch):
    model, onnx_path = classifier
    exports = []

    def write(self, deployment, record, path):
        exports.append(self)
        shutil.copy(onnx_path, path)

    monkeypatch.setattr(onnx_module.Onnx, "write", write)
    report = to_tensorrt(
        model, tmp_path / "tiny.engine", quantize="float16", batch_sizes=3, verbose=False
    )
    assert (exports[0].quantize, exports[0].batch_size) == ("float16", 3)
    assert report.precision == "float16" and report.top1_agreement == 1.0

    head = model.get_layer("head")
    head.kernel.assign(-head.kernel)
    with pytest.raises(ExportError, match="disagrees with the Keras model"):
        to_tensorrt(model, tmp_path / "other.engine", batch_sizes=(1, 2))
    head.kernel.assign(-head.kernel)
    assert exports[1].batch_size is None
    assert {path.name for path in tmp_path.iterdir()} == {
        "tiny.engine",
        "tiny.engine.keras_sepvit.json",
    }
    assert not trt.cuda.memory and not trt.cuda.streams


def test_what_tensorrt_refuses_is_said_and_leaves_nothing(trt, classifier, tmp_path):
    path = tmp_path / "tiny.engine"
    trt.refuses = True
    with pytest.raises(ExportError, match="cannot read '.*tiny.onnx': node 3 is not to be read"):
        to_tensorrt(classifier[1], path)
    trt.refuses, trt.cannot_build = False, True
    with pytest.raises(ExportError, match="could not build an engine"):
        to_tensorrt(classifier[1], path)
    assert not list(tmp_path.iterdir())


def test_engine_of_a_file_takes_what_its_record_says(trt, classifier, tmp_path):
    """Such as normalised images, and not numbers of 0..255."""
    path = tmp_path / "bare.onnx"
    bare = prepare(tiny_classifier(classes=5, include_preprocessing=False))
    onnx_module.write_with_tf2onnx(bare.model, path, batch_size=None, opset=18)
    record = Onnx().record(bare, crop=1.0, interpolation="bilinear")
    onnx_module._finish(path, record)

    to_tensorrt(path, tmp_path / "bare.engine", verbose=False)

    assert not tensorrt_module.OnnxReference(path).takes_pixels
    beside = tmp_path / "bare.engine.keras_sepvit.json"
    assert Record.from_json(beside.read_text(), beside) == record
    assert record.pixels == "imagenet" and record.crop == 1.0


def test_unsuitable_files_are_refused(trt, classifier, tmp_path):
    path = tmp_path / "tiny.engine"
    with pytest.raises(ValueError, match="has its precision already. Received: quantize='int8'"):
        to_tensorrt(classifier[1], path, quantize="int8")
    with pytest.raises(FileNotFoundError, match="No such ONNX file: '.*missing.onnx'"):
        to_tensorrt(tmp_path / "missing.onnx", path)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(classifier[1].read_bytes()[:1000])
    with pytest.raises(ValueError, match="broken.onnx' is no valid ONNX file"):
        to_tensorrt(broken, path)
    fixed = tmp_path / "fixed.onnx"
    proto = onnx.load(classifier[1])
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(proto, fixed)
    with pytest.raises(ValueError, match=r"takes batches of 2 only. Received: batch_sizes=\(1,\)"):
        to_tensorrt(fixed, path)
    assert not path.exists()


def test_tensorrt_says_which_precondition_fails(trt, tmp_path, monkeypatch):
    def refusal():
        with pytest.raises(ExportError, match="to_onnx.*trtexec") as error:
            to_tensorrt(tiny_classifier(classes=5), tmp_path / "tiny.engine")
        return str(error.value)

    trt.cuda.gpus = 0
    assert "no GPU that CUDA can use" in refusal()
    monkeypatch.delitem(sys.modules, "cuda.bindings.runtime")
    assert "`cuda-bindings` is not installed" in refusal()
    trt.__version__ = "8.6.1"
    assert "TensorRT 8.6.1 is too old: 10.0 or newer" in refusal()

    def import_module(name):
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(tensorrt_module.importlib, "import_module", import_module)
    assert "a library of it is not found: libnvinfer.so.10" in refusal()
    monkeypatch.undo()
    if importlib.util.find_spec("tensorrt") is None:
        assert 'not installed. Install it with `pip install "keras-sepvit[tensorrt]"`' in refusal()
    assert not list(tmp_path.iterdir())
