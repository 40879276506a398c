"""Export to ONNX: every file is run in ONNX Runtime, from every backend."""

import importlib.util
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
from export_helpers import tiny_classifier
from helpers import BACKEND, SMALL, randomize, tiny_backbone
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_sepvit import SepViT
from keras_sepvit.configs import DIGITS_CONFIG
from keras_sepvit.export import ExportError, to_onnx
from keras_sepvit.export import onnx as onnx_module
from keras_sepvit.export.images import default_images
from keras_sepvit.export.onnx_quantize import to_float16
from keras_sepvit.export.tensorrt import supported_operators
from keras_sepvit.record import Record

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

# Which converts in this process; the others are slower, and what follows is the same.
torch_only = pytest.mark.skipif(BACKEND != "torch", reason="the backend has no part in it")
CLASSES = ("null", "eins", "zwölf", "drei", "vier")


def run_onnx(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(
        zip(
            [output.name for output in session.get_outputs()],
            session.run(None, {"image": images.astype("float32")}),
            strict=True,
        )
    )


def initializers(graph):
    return {tensor.name: tensor for tensor in graph.initializer}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A classifier, its file for any batch, and the report."""
    keras.utils.set_random_seed(0)
    model = tiny_classifier(classes=len(CLASSES))
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    report = to_onnx(model, path, batch_size=None, class_names=CLASSES, verbose=False)
    return model, path, report


def convert_by_copying(source, monkeypatch):
    def copy(backend, function, model, output, **arguments):
        shutil.copy(source, output)

    monkeypatch.setattr(onnx_module, "convert_on", copy)


# Float32, on every backend.


@pytest.mark.by_default_on("tensorflow")
def test_file_gives_the_models_probabilities_for_any_batch(classifier):
    model, path, report = classifier
    images = np.random.default_rng(5).uniform(0, 255, (3, 64, 64, 3))
    expected = model.predict(images, verbose=0)

    for count in (1, 3):
        (name, found), *others = run_onnx(path, images[:count]).items()
        assert (name, others) == ("probabilities", [])
        np.testing.assert_allclose(found, expected[:count], atol=1e-5)
    assert report.max_error < 1e-4 and report.top1_agreement == 1.0 and report.images == 8
    assert report.size_bytes == path.stat().st_size
    assert set(report.latency_ms) == {1, 2}


@pytest.mark.thorough
def test_graph_has_standard_operators_and_no_trace_of_the_machine(classifier):
    _, path, report = classifier
    model = onnx.load(path)

    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert {node.domain for node in model.graph.node} == {""}
    # A norm for each stage's embedding, two a block, one a block with several windows
    # (where windows are counted), and the last.
    blocks = sum(SMALL.depths)
    assert report.operators["LayerNormalization"] >= 4 + 2 * blocks + 1
    assert report.operators["Gelu"] >= blocks
    assert "Erf" not in report.operators
    assert set(report.operators) <= supported_operators("tensorrt")
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["class_names"]) == list(CLASSES)
    record = Record.from_json(properties["keras_sepvit.json"], path)
    assert (record.pixels, record.class_names) == ("0..255", CLASSES)
    assert str(pathlib.Path(__file__).parents[1]).encode() not in path.read_bytes()


@pytest.mark.thorough
@torch_only
def test_dense_form_of_a_half_precision_model_gives_its_pyramid(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    backbone = tiny_backbone((56, 72, 3), dense=True)  # no multiple of the windows
    randomize(backbone)
    keras.config.set_dtype_policy("float32")
    path = tmp_path / "dense.onnx"

    report = to_onnx(backbone, path, batch_size=2, normalize=True, opset=18, verbose=False)
    outputs = run_onnx(path, np.zeros((2, 56, 72, 3)))

    assert {name: output.shape for name, output in outputs.items()} == {
        "P2": (2, 14, 18, 8),
        "P3": (2, 7, 9, 16),
        "P4": (2, 4, 5, 24),
        "P5": (2, 2, 3, 32),
    }
    assert {str(output.dtype) for output in outputs.values()} == {"float32"}
    # Against a float32 copy: the model itself is far less exact.
    assert report.max_error < 1e-4 * max(1, *(abs(x).max() for x in outputs.values())) * 2
    assert onnx.load(path).opset_import[0].version == 18
    with pytest.raises(Exception, match="[Gg]ot: 3|INVALID_ARGUMENT"):
        run_onnx(path, np.zeros((3, 56, 72, 3)))


# Smaller types, on the trained digits model.


@pytest.fixture(scope="module")
def digits_files(tmp_path_factory):
    """The digits model, its float32 file, training images, held-out images and their labels."""
    scans, labels = load_digits(return_X_y=True)
    scans = scans.reshape(-1, 8, 8, 1).astype("float32") * (255 / 16)
    images = keras.ops.convert_to_numpy(keras.ops.image.resize(scans, (32, 32)))
    images = np.rint(images).repeat(3, axis=-1)
    train, held_out, _, labels = train_test_split(  # as in the quick start
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    model = SepViT(DIGITS_CONFIG, classes=10, weights="digits")
    path = tmp_path_factory.mktemp("digits") / "digits.onnx"
    to_onnx(model, path, batch_size=None, check=False, verbose=False)
    return model, path, train, held_out, labels


@pytest.fixture
def digits(digits_files, monkeypatch):
    """The digits model, whose float32 file `to_onnx` takes, and the images and labels."""
    model, path, *images_and_labels = digits_files
    convert_by_copying(path, monkeypatch)
    return model, *images_and_labels


@pytest.mark.thorough
@torch_only
@pytest.mark.parametrize(("quantize", "floats"), [("int8", "FLOAT"), ("int8_float16", "FLOAT16")])
def test_int8_digits_are_as_accurate_in_a_form_that_tensorrt_reads(
    digits, tmp_path, quantize, floats
):
    model, train, held_out, labels = digits
    path = tmp_path / "digits.onnx"

    report = to_onnx(
        model,
        path,
        quantize=quantize,
        batch_size=None,
        calibration_images=train[:128],
        images=held_out,
        verbose=False,
    )
    found = run_onnx(path, held_out)["probabilities"].argmax(axis=1)

    assert report.precision == quantize and report.images == len(held_out)
    assert report.top1_agreement >= 0.99
    expected = model.predict(held_out, verbose=0).argmax(axis=1)
    assert abs(np.mean(found == labels) - np.mean(expected == labels)) <= 0.01
    assert report.size_bytes < 0.75 * 4 * model.count_params()

    graph = onnx.load(path).graph
    constants = initializers(graph)
    floats = getattr(onnx.TensorProto, floats)
    producers = {name: node for node in graph.node for name in node.output}
    assert set(report.operators) <= supported_operators("tensorrt")
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = constants[node.input[2]]
            assert zero_point.data_type == onnx.TensorProto.INT8
            assert not onnx.numpy_helper.to_array(zero_point).any()
            assert constants[node.input[1]].data_type == floats
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            image, weight, *bias = node.input
            assert producers[image].op_type == producers[weight].op_type == "DequantizeLinear"
            assert all(constants[name].data_type == floats for name in bias)
            stored = constants.get(producers[weight].input[0])
            if stored is not None:  # of weights, not of attention
                scales = onnx.numpy_helper.to_array(constants[producers[weight].input[1]])
                assert stored.data_type == onnx.TensorProto.INT8
                assert scales.size == stored.dims[0 if node.op_type == "Conv" else 1] > 1


@pytest.mark.thorough
@torch_only
def test_float16_keeps_pixels_and_probabilities_in_float32(digits, tmp_path):
    model, _, held_out, _ = digits
    path = tmp_path / "digits.onnx"
    images = held_out[:64] + np.float32(0.37)  # pixels that half precision rounds

    report = to_onnx(model, path, quantize="float16", batch_size=None, images=images, verbose=False)

    assert report.relative_error < 1e-2 and report.top1_agreement == 1.0
    assert report.size_bytes < 0.75 * 4 * model.count_params()
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 20)]
    assert set(report.operators) <= supported_operators("tensorrt")
    graph = proto.graph
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    (subtract,) = (node for node in graph.node if node.op_type == "Sub")
    assert "image" in subtract.input
    types = {name: tensor.data_type for name, tensor in initializers(graph).items()}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert all(types.get(name, 10) == onnx.TensorProto.FLOAT16 for name in node.input[1:])


@pytest.mark.once("tensorflow")
def test_float16_keeps_what_is_read_twice_and_constants_in_float32(tmp_path):
    """A kept node that reads a half tensor twice, and anchors, which the file computes."""
    path = tmp_path / "tiny.onnx"
    value = onnx.helper.make_tensor_value_info
    nodes = [("Relu", ["image"], "map"), ("Sub", ["far", "near"], "anchors")]
    nodes += [("Mul", ["map", "map"], "squares"), ("Add", ["squares", "anchors"], "sums")]
    nodes += [("Sub", ["sums", "far"], "boxes")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, inputs, [name], name) for kind, inputs, name in nodes],
        "tiny",
        [value("image", onnx.TensorProto.FLOAT, [2])],
        [value("boxes", onnx.TensorProto.FLOAT, [2])],
        [
            onnx.numpy_helper.from_array(np.float32([number] * 2), name)
            for name, number in (("far", 2052), ("near", 3))
        ],
    )
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)

    to_float16(path, ["map"])

    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path))
    (boxes,) = session.run(None, {"image": np.float32([3, -1])})
    assert boxes.tolist() == [6, -3]  # anchors are 2049, which half precision has not


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_without_torch_tensorflow_writes_the_file(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name)
    )
    pytest.importorskip("tf2onnx")
    path = tmp_path / "tiny.onnx"

    report = to_onnx(tiny_classifier(classes=len(CLASSES)), path, batch_size=None, verbose=False)

    assert report.max_error < 1e-4
    model = onnx.load(path)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert [value.name for value in model.graph.input] == ["image"]
    assert set(report.operators) <= supported_operators("tensorrt")
    with pytest.raises(ValueError, match="from 18 to 18 .*Received: opset=20.*export,torch"):
        to_onnx(tiny_classifier(classes=len(CLASSES)), tmp_path / "other.onnx", opset=20)
    images = default_images((64, 64, 3), 32)
    with pytest.raises(ImportError, match="needs opset 19, which PyTorch"):
        to_onnx(
            tiny_classifier(classes=len(CLASSES)),
            tmp_path / "other.onnx",
            quantize="int8_float16",
            calibration_images=images,
        )


@pytest.mark.thorough
def test_openvino_reads_the_file(classifier):
    openvino = pytest.importorskip("openvino")
    model, path, _ = classifier
    images = default_images((64, 64, 3), 2)

    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )

    np.testing.assert_allclose(
        compiled(images)["probabilities"], model.predict(images, verbose=0), atol=1e-5
    )


@pytest.mark.once("tensorflow")
def test_without_an_exporter_both_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="neither pair is installed.*export,tensorflow"):
        to_onnx(tiny_classifier(classes=len(CLASSES)), tmp_path / "tiny.onnx")


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_operators_of_other_domains_are_refused(classifier, tmp_path):
    proto = onnx.load(classifier[1])
    gelu = next(node for node in proto.graph.node if node.op_type == "Gelu")
    gelu.domain = "com.microsoft"
    proto.opset_import.add(domain="com.microsoft", version=1)
    path = tmp_path / "foreign.onnx"
    onnx.save(proto, path)

    with pytest.raises(ExportError, match="com.microsoft.Gelu"):
        onnx_module._check_graph(path)
