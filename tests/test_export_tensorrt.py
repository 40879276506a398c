"""What can be tested of TensorRT without TensorRT and a GPU: all up to the engine.

No engine has been built or run: `build_engine` and `Engine` are not tested.
"""

import importlib.util
import sys
import types

import keras
import numpy as np
import pytest
from export_helpers import tiny_classifier

from keras_sepvit import lazy
from keras_sepvit.export import ExportError, to_tensorrt, to_tftrt
from keras_sepvit.export import onnx as onnx_module
from keras_sepvit.export.images import default_images
from keras_sepvit.export.model import prepare
from keras_sepvit.export.onnx import Onnx
from keras_sepvit.export.tensorrt import TensorRT, supported_operators

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.once("tensorflow")


@pytest.mark.parametrize(("runtime", "count"), [("tensorrt", 150), ("tftrt", 124)])
def test_lists_of_operators_have_their_source(runtime, count):
    operators = supported_operators(runtime)
    assert len(operators) >= count
    assert not operators & {"Erfc", "BroadcastTo", "QLinearConv", "LogSumExp"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "fp16"}, "Unknown `quantize`: 'fp16'"),
        ({"batch_sizes": ()}, "`batch_sizes` must name at least one size"),
        ({"batch_sizes": (1, 0)}, "`batch_sizes` must be a positive integer"),
        ({"calibration_images": np.zeros((32, 64, 64, 3))}, "are for `quantize` int8 or int8_"),
    ],
)
@pytest.mark.parametrize("export", [to_tftrt, to_tensorrt])
def test_bad_arguments_are_refused(export, tmp_path, arguments, message):
    if export is to_tftrt:
        arguments = {**arguments, "python": sys.executable}
    with pytest.raises(ValueError, match=message):
        export(tiny_classifier(), tmp_path / "model.engine", **arguments)
    assert not list(tmp_path.iterdir())


def test_missing_parts_are_said(tmp_path, monkeypatch):
    def refusal():
        with pytest.raises(ExportError, match="to_onnx.*trtexec") as error:
            to_tensorrt(tiny_classifier(), tmp_path / "tiny.engine")
        return str(error.value)

    if importlib.util.find_spec("tensorrt") is None:
        assert "No module named 'tensorrt'). Install it with `pip install " in refusal()
    monkeypatch.setitem(sys.modules, "tensorrt", types.SimpleNamespace(__version__="8.6.1"))
    monkeypatch.setitem(sys.modules, "cuda", None)
    assert "`cuda.bindings.runtime`, which cannot be imported" in refusal()
    assert '"keras-sepvit[tensorrt]"' in refusal()
    code = types.SimpleNamespace(name="cudaErrorNoDevice")
    cuda = types.SimpleNamespace(
        cudaGetDeviceCount=lambda: (code, 0), cudaError_t=types.SimpleNamespace(cudaSuccess=None)
    )
    for name, module in {"cuda": types.ModuleType("cuda"), "cuda.bindings.runtime": cuda}.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert "TensorRT 8.6.1 is too old: 10.0 or newer" in refusal()
    sys.modules["tensorrt"].__version__ = "10.9.0.34"
    assert "no GPU that CUDA can use (cudaErrorNoDevice)" in refusal()

    def import_module(name):
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(lazy.importlib, "import_module", import_module)
    assert "(libnvinfer.so.10: cannot open" in refusal() and "LD_LIBRARY_PATH" in refusal()
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The ONNX file of a classifier of normalised images, for any batch, with its record."""
    pytest.importorskip("tf2onnx")
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("onnx") / "bare.onnx"
    bare = prepare(tiny_classifier(classes=5, include_preprocessing=False))
    # By tf2onnx, which needs no other process.
    onnx_module.write_with_tf2onnx(bare.model, path, batch_size=None, opset=18)
    record = Onnx().record(bare, crop=1.0, interpolation="bilinear")
    onnx_module._finish(path, record)
    return path, record, bare


@pytest.mark.thorough
def test_engine_of_a_file_takes_what_its_record_says(file):
    """Such as normalised images, and not numbers of 0..255."""
    path, record, bare = file
    for quantize, precision in ((None, "float32"), ("tf32", "tf32")):
        format = TensorRT(quantize, (1, 8), None)
        reference = format.prepare(path)
        assert format.precision == precision
        assert format.record(reference, None, None) == record and record.pixels == "imagenet"
        assert not reference.takes_pixels and reference.is_softmax
    images = default_images((64, 64, 3), 3) / 255
    found, expected = reference.predict(images), bare.predict(images)
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], atol=1e-5)


def test_unsuitable_files_are_refused(file, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(file[0].read_bytes()[:1000])
    proto = onnx.load(file[0])
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(proto, tmp_path / "fixed.onnx")
    for path, quantize, error, message in (
        (file[0], "float16", ValueError, "precision already, float32. Received: quantize='float"),
        (tmp_path / "missing.onnx", None, FileNotFoundError, "No such ONNX file: '.*missing.onnx'"),
        (tmp_path / "broken.onnx", None, ValueError, "broken.onnx' is no valid ONNX file"),
        (tmp_path / "fixed.onnx", None, ValueError, r"of 2 only. Received: batch_sizes=\(1,\)"),
    ):
        with pytest.raises(error, match=message):
            TensorRT(quantize, (1,), None).prepare(path)
