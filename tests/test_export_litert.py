"""LiteRT files, run by LiteRT itself."""

import dataclasses
import zipfile

import flatbuffers
import keras
import numpy as np
import pytest
from export_helpers import (
    CLASSES,
    IMAGE_SHAPE,
    noise,
    predict,
    tiny_classifier,
)
from helpers import BACKEND, SMALL
from keras import ops

import keras_sepvit
from keras_sepvit import SepViT
from keras_sepvit.configs import DIGITS_CONFIG, IMAGENET_MEAN, IMAGENET_VARIANCE
from keras_sepvit.export import ExportError, default_images, to_litert
from keras_sepvit.export.litert import QUANTIZATIONS
from keras_sepvit.export.litert_graph import inspect

pytest.importorskip("ai_edge_litert")

NAMES = tuple(f"class {letter}" for letter in "abcdefg")


def run_litert(path, images):
    """The outputs of a file by name, one image at a time, and the interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    signature = interpreter.get_signature_runner("serving_default")
    (details,) = signature.get_input_details().values()
    outputs = [signature(image=image[None].astype(details["dtype"])) for image in images]
    return {name: np.concatenate([o[name] for o in outputs]) for name in outputs[0]}, interpreter


@pytest.fixture(scope="module")
def model():
    return tiny_classifier()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """Path and report of the tiny classifier in a precision, made once."""
    folder = tmp_path_factory.mktemp("litert")
    made = {}

    def export(quantize):
        if quantize not in made:
            path = folder / f"{quantize}.tflite"
            images = default_images(IMAGE_SHAPE, 32) if "int8" in str(quantize) else None
            made[quantize] = (
                path,
                to_litert(
                    model,
                    path,
                    quantize=quantize,
                    calibration_images=images,
                    class_names=NAMES,
                    check="warn" if quantize == "full_int8" else True,
                    verbose=False,
                ),
            )
        return made[quantize]

    return export


TOLERANCES = {None: 1e-5, "float16": 0.005, "dynamic_int8": 0.05, "int8": 0.15, "full_int8": 0.3}


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize(
    "quantize",
    [
        pytest.param(name, marks=() if name in (None, "int8") else pytest.mark.thorough)
        for name in QUANTIZATIONS
    ],
)
def test_a_file_runs_and_agrees(model, files, quantize):
    path, report = files(quantize)
    images = default_images(IMAGE_SHAPE, 4, seed=9)
    outputs, interpreter = run_litert(path, images)
    assert list(outputs) == ["probabilities"]
    found = outputs["probabilities"]
    if quantize == "full_int8":
        assert found.dtype == "uint8"
        found = found / 256
    assert found.shape == (4, CLASSES)
    np.testing.assert_allclose(found, predict(model, images), atol=TOLERANCES[quantize])

    tensors = interpreter.get_tensor_details()
    assert max(len(tensor["shape"]) for tensor in tensors) <= 4
    if quantize == "full_int8":  # for accelerators that know nothing but integers
        assert not any(np.issubdtype(tensor["dtype"], np.floating) for tensor in tensors)
    names = {node["op_name"] for node in interpreter._get_ops_details()} - {"DELEGATE"}
    assert names == set(report.operators)
    assert not any(name.startswith("Flex") or name == "CUSTOM" for name in names)

    assert report.format == "litert" and report.precision == (quantize or "float32")
    assert report.path == str(path) and report.size_bytes == path.stat().st_size
    assert report.images == 8 and report.top1_agreement is not None
    assert set(report.latency_ms) <= {1, 2} and all(ms > 0 for ms in report.latency_ms.values())


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize("quantize", [None, "float16", "int8"])
def test_xnnpack_takes_the_graph_as_one_part(files, quantize):
    from ai_edge_litert.compiled_model import CompiledModel

    path, report = files(quantize)
    graph = inspect(path)
    assert graph.partitions == 1
    assert graph.not_delegated == report.not_delegated == {}
    assert graph.gpu_obstacles == ()
    assert CompiledModel.from_file(str(path)).is_fully_accelerated()


@pytest.mark.once("tensorflow")
def test_float32_is_exact_and_int8_small(files):
    assert files(None)[1].max_error < 1e-4
    assert files("float16")[1].relative_error < 1e-2
    dense_weights = 0.6  # the share of weights that int8 files hold in a byte, at least
    assert files("int8")[0].stat().st_size < (1 - 0.5 * dense_weights) * files(None)[1].size_bytes


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_large_weights_of_int8_files_stay(tmp_path):
    """The quantiser puts those of more than 256 KB behind the flatbuffer."""
    config = dataclasses.replace(SMALL, hidden_dims=(8, 16, 24, 512))
    model = SepViT(config, classes=CLASSES)
    path = tmp_path / "large.tflite"
    images = default_images(IMAGE_SHAPE, 32)
    to_litert(model, path, quantize="int8", calibration_images=images, verbose=False)
    assert path.stat().st_size > 2 * 2**20
    outputs, _ = run_litert(path, images)
    np.testing.assert_allclose(outputs["probabilities"], predict(model, images), atol=0.05)


@pytest.mark.once("tensorflow")
def test_labels_travel_in_the_file(model, files):
    from keras_sepvit.runtime import Predictor

    path, _ = files(None)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(NAMES)
    predictor = Predictor(path)
    assert tuple(predictor.class_names) == NAMES
    images = noise(2).astype("uint8")
    np.testing.assert_allclose(predictor.predict(images), predict(model, images), atol=1e-5)


class Table(flatbuffers.table.Table):
    """A table of a flatbuffer, whose fields are found by their place in the schema."""

    def table(self, place):
        return Table(self.Bytes, self.Indirect(self.Pos + self.Offset(4 + 2 * place)))

    def byte(self, place):
        return self.Bytes[self.Pos + self.Offset(4 + 2 * place)]

    def text(self, place):
        return self.String(self.Pos + self.Offset(4 + 2 * place)).decode()

    def first(self, place):
        """The first table of a vector of tables."""
        return Table(self.Bytes, self.Indirect(self.Vector(self.Offset(4 + 2 * place))))

    def floats(self, place):
        numbers = flatbuffers.number_types.Float32Flags
        return self.GetVectorAsNumpy(numbers, self.Offset(4 + 2 * place)).tolist()


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize("preprocessing", [True, False])
def test_metadata_are_those_of_tensorflow_lite(tmp_path, preprocessing):
    """As MediaPipe 1.2.3 read them, which ran such a file with the same probabilities."""
    from ai_edge_litert import schema_py_generated as schema

    path = tmp_path / "model.tflite"
    layers = [keras.layers.Rescaling(1 / 255)] if preprocessing else []
    layers += [keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    to_litert(model, path, class_names=("a", "b"), verbose=False)
    model = schema.Model.GetRootAs(path.read_bytes())
    buffers = {
        entry.Name(): model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
        for entry in map(model.Metadata, range(model.MetadataLength()))
    }
    content = bytearray(buffers[b"TFLITE_METADATA"])
    assert content[4:8] == b"M001"
    graph = Table(content, int.from_bytes(content[:4], "little")).first(3)
    image, scores = graph.first(2), graph.first(3)
    assert (image.text(0), scores.text(0)) == ("image", "probabilities")
    assert image.table(3).byte(0) == 2 and image.table(3).table(1).byte(0) == 1  # an RGB image
    normalization = image.first(4).table(1)
    mean, variance = ([0], [1]) if preprocessing else (IMAGENET_MEAN, IMAGENET_VARIANCE)
    assert normalization.floats(0) == pytest.approx(mean)
    assert normalization.floats(1) == pytest.approx(np.sqrt(variance))
    labels = scores.first(6)
    assert labels.text(0) == "labels.txt" and labels.byte(2) == 2  # names along an axis
    assert scores.table(5).floats(0) == [1] and scores.table(5).floats(1) == [0]
    for index in range(model.BuffersLength()):  # of LiteRT's schema: data at multiples of 16
        table = model.Buffers(index)._tab
        assert not table.Offset(4) or table.Vector(table.Offset(4)) % 16 == 0


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
@pytest.mark.parametrize("batch_size", [3, None])
def test_batches(model, tmp_path, batch_size):
    path = tmp_path / "model.tflite"
    report = to_litert(model, path, batch_size=batch_size, images=noise(4), verbose=False)
    assert report.images == 4 and report.max_error < 1e-4
    graph = inspect(path)
    if batch_size is None:  # the price of a dynamic batch, which the inspection must see
        assert graph.partitions > 1 and graph.not_delegated
    else:
        assert graph.partitions == 1


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_mixed_precision_models_need_no_flex_operators(tmp_path, files):
    keras.config.set_dtype_policy("mixed_float16")
    report = to_litert(tiny_classifier(), tmp_path / "model.tflite", verbose=False)
    assert report.operators == files(None)[1].operators
    assert report.not_delegated == {} and report.max_error < 1e-4


@keras.saving.register_keras_serializable(package="keras_sepvit_tests")
class Awkward(keras.layers.Layer):
    """Drops an axis by an index, broadcasts, and goes through rank 5."""

    def call(self, x):
        first = ops.broadcast_to(x[:, 0][:, None], ops.shape(x))
        split = ops.reshape(first, (-1, 2, 4, 8, 3))
        return ops.reshape(ops.transpose(split, (0, 2, 1, 4, 3)), (-1, 8, 8, 3)) + x


@keras.saving.register_keras_serializable(package="keras_sepvit_tests")
class BareErf(keras.layers.Layer):
    def call(self, x):
        return ops.erf(x)


def layer_model(layer):
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, layer(inputs))


@pytest.mark.once("tensorflow")
def test_what_gpus_refuse_is_noted(tmp_path):
    path = tmp_path / "awkward.tflite"
    report = to_litert(layer_model(Awkward()), path, verbose=False)
    notes = " ".join(report.notes)
    assert "rank 5" in notes and "drop an axis" in notes and "BROADCAST_TO" in notes
    assert inspect(path).max_rank == 5


@pytest.mark.once("tensorflow")
def test_operators_that_need_tensorflow_are_refused_by_name(tmp_path):
    with pytest.raises(ExportError, match="no builtin operators for Erf"):
        to_litert(layer_model(BareErf()), tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
@pytest.mark.skipif(BACKEND == "jax", reason="by way of a process with TensorFlow, as from torch")
def test_every_backend_writes_the_same_graph(tmp_path):
    """Through a process with TensorFlow from the other backends."""
    model = tiny_classifier()
    path = tmp_path / "model.tflite"
    report = to_litert(model, path, verbose=False)
    assert report.max_error < 1e-4 and report.not_delegated == {}
    assert report.operators["GELU"] == 7 and inspect(path).partitions == 1
    images = noise(2)
    outputs, _ = run_litert(path, images)
    np.testing.assert_allclose(outputs["probabilities"], predict(model, images), atol=1e-5)


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
@pytest.mark.parametrize(
    ("quantize", "agreement"), [("dynamic_int8", 0.99), ("int8", 0.99), ("full_int8", 0.98)]
)
def test_quantised_digits_are_still_read(tmp_path, quantize, agreement):
    datasets = pytest.importorskip("sklearn.datasets")
    scans, labels = datasets.load_digits(return_X_y=True)
    scans = scans.reshape(-1, 8, 8, 1).astype("float32") * (255 / 16)
    images = np.rint(ops.convert_to_numpy(ops.image.resize(scans, (32, 32)))).repeat(3, axis=-1)
    model = SepViT(DIGITS_CONFIG, classes=10, weights="digits")
    path = tmp_path / "digits.tflite"
    calibration = None if quantize == "dynamic_int8" else images[:128]
    report = to_litert(
        model,
        path,
        quantize=quantize,
        calibration_images=calibration,
        images=images[128:928],
        verbose=False,
    )
    assert report.top1_agreement >= agreement
    outputs, _ = run_litert(path, images[128:928])
    expected = predict(model, images[128:928]).argmax(axis=1)
    right = labels[128:928]
    found = outputs["probabilities"].argmax(axis=1)
    assert np.mean(found == right) > np.mean(expected == right) - 0.01


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_the_family_at_another_size(tmp_path):
    size = 192
    model = keras_sepvit.SepViTLite(input_shape=(size, size, 3), classifier_activation=None)
    report = to_litert(
        model,
        tmp_path / "model.tflite",
        probabilities=False,
        images=default_images((size, size, 3), 1),
        verbose=False,
    )
    assert report.max_error < 1e-4 and report.not_delegated == {}
