"""What all exports share: the deployed model, the check, writing, reports and processes."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import export_helpers
import keras
import numpy as np
import pytest
from export_helpers import CLASSES, linear_model, noise, predict, tiny_classifier, tiny_dense
from helpers import BACKEND, tiny_backbone

import keras_sepvit
from keras_sepvit import export
from keras_sepvit.export import ExportError, ExportReport, default_images, driver
from keras_sepvit.export.check import compare, size_of, writing
from keras_sepvit.export.driver import Format, OpenFile
from keras_sepvit.export.images import batches, check_calibration_images, check_images, run_batches
from keras_sepvit.export.model import prepare
from keras_sepvit.export.worker import convert_on
from keras_sepvit.record import Record


@pytest.fixture(scope="module")
def linear():
    return prepare(linear_model())


# The deployed model


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_any_policy_is_deployed_in_float32(policy):
    if policy == "mixed_float16" and BACKEND == "jax":
        pytest.skip("JAX has no float16 products on CPUs")
    keras.config.set_dtype_policy(policy)
    model = tiny_classifier()
    deployment = prepare(model)
    assert keras.config.dtype_policy().name == policy
    assert {layer.dtype_policy.name for layer in deployment.model._flatten_layers()} == {"float32"}
    images = noise(2)
    expected = predict(model, images)
    found = deployment.predict(images)["probabilities"]
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, expected, atol=0.05)
    # The copy has weights of its own: the model still works, and is what it was.
    np.testing.assert_array_equal(predict(model, images), expected)


def test_logits_become_probabilities():
    model = tiny_classifier(classifier_activation=None)
    images = noise(2)
    logits = predict(model, images)
    deployment = prepare(model)
    assert deployment.is_softmax and deployment.takes_pixels and deployment.task == "classification"
    assert deployment.outputs == {"probabilities": (CLASSES,)}
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        deployment.predict(images)["probabilities"],
        exponentials / exponentials.sum(axis=1, keepdims=True),
        atol=1e-6,
    )
    plain = prepare(model, probabilities=False)
    assert plain.activation == "linear" and not plain.is_softmax
    np.testing.assert_allclose(plain.predict(images)["logits"], logits, atol=1e-5)


@pytest.mark.once("tensorflow")
def test_one_logit_becomes_a_probability_of_its_own():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)]
    )
    deployment = prepare(model)
    images = np.random.default_rng(0).standard_normal((4, 8, 8, 3), "float32")
    logits = predict(model, images)
    expected = 1 / (1 + np.exp(-logits))
    assert deployment.activation == "sigmoid" and np.ptp(expected) > 0.01
    np.testing.assert_allclose(deployment.predict(images)["probabilities"], expected, atol=1e-6)


@pytest.mark.once("tensorflow")
def test_features_get_no_softmax():
    deployment = prepare(tiny_classifier(include_top=False, pooling="avg"))
    assert deployment.outputs == {"features": (32,)}
    assert (deployment.task, deployment.activation) == ("features", None)


@pytest.mark.once("tensorflow")
def test_maps_have_no_activation():
    with pytest.raises(ValueError, match="`activation` is for classifiers"):
        prepare(tiny_classifier(include_top=False), activation="softmax")


@pytest.mark.by_default_on("tensorflow")
@pytest.mark.parametrize("dense", [False, True])
def test_backbones_give_their_pyramid(dense):
    backbone = tiny_dense() if dense else tiny_backbone()
    deployment = prepare(backbone)
    assert not deployment.takes_pixels
    height, width = backbone.input_shape[1:3]
    assert deployment.outputs == {
        f"P{level}": (-(-height // 2**level), -(-width // 2**level), channels)
        for level, channels in zip((2, 3, 4, 5), (8, 16, 24, 32), strict=True)
    }
    images = np.random.default_rng(0).standard_normal((1, height, width, 3), "float32")
    expected = keras.Model(backbone.inputs, backbone.pyramid_outputs).predict(images, verbose=0)
    for name, output in deployment.predict(images).items():
        np.testing.assert_allclose(output, expected[name], atol=1e-5)


def test_normalisation_can_be_put_in_front():
    model = tiny_classifier(include_preprocessing=False)
    whole = tiny_classifier()
    whole.set_weights(model.get_weights())
    deployment = prepare(model, normalize=True)
    assert deployment.takes_pixels
    images = noise(2)
    np.testing.assert_allclose(
        deployment.predict(images)["probabilities"], predict(whole, images), atol=1e-5
    )


@pytest.mark.once("tensorflow")
def test_models_that_cannot_be_exported_are_refused():
    first, second = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    two = keras.Model([first, second], keras.layers.Add()([first, second]))
    quantized = linear_model()
    quantized.quantize("int8")
    dynamic = tiny_backbone(image_shape=(None, None, 3), dense=True)
    for model, message in [
        (keras.Sequential([keras.layers.Dense(2)], name="raw"), "`raw` is not built"),
        (dynamic, r"takes images of \(None, None, 3\).*`image_size=\("),
        (two, "must have one input of images"),
        (keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]), "one input of images"),
        (quantized, "quantised by Keras"),
    ]:
        with pytest.raises(ValueError, match=message):
            prepare(model)
    with pytest.raises(TypeError, match="must be a Keras model. Received: str"):
        prepare("model.keras")


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"normalize": True}, "has a Normalization or Rescaling layer already"),
        ({"class_names": ["a", "b"]}, "each of the model's 3 classes. Received: 2 names"),
        ({"class_names": ["a", "b", "c\nd"]}, "strings of one line each"),
    ],
)
def test_arguments_that_do_not_suit_the_model_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        prepare(linear_model(), **arguments)


# The images


@pytest.mark.once("tensorflow")
def test_default_images_are_pictures():
    images = default_images((32, 48, 3), count=4)
    assert images.shape == (4, 32, 48, 3) and images.dtype == "float32"
    assert images.min() >= 0 and images.max() <= 255 and (images == np.rint(images)).all()
    assert images.std(axis=(1, 2)).min() > 10  # none is flat
    steps = np.abs(np.diff(images, axis=2)).mean()
    assert steps < 0.5 * np.abs(images - images.mean(axis=(1, 2), keepdims=True)).mean()  # no noise
    np.testing.assert_array_equal(images, default_images((32, 48, 3), count=4))
    assert not np.array_equal(images, default_images((32, 48, 3), count=4, seed=1))


@pytest.mark.once("tensorflow")
def test_images_are_checked(linear):
    for images, message in [
        (np.zeros((2, 8, 9, 3)), r"\(count, 8, 8, 3\).*\(2, 8, 9, 3\)"),
        (np.zeros((0, 8, 8, 3)), r"\(0, 8, 8, 3\)"),
        (np.full((1, 8, 8, 3), np.nan), "not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_images(linear, images)
    with pytest.raises(ValueError, match="pass `calibration_images`, at least 32"):
        check_calibration_images(linear, None, "int8")
    with pytest.raises(ValueError, match="at least 32.*Received: 31"):
        check_calibration_images(linear, np.zeros((31, 8, 8, 3)), "int8")


@pytest.mark.once("tensorflow")
def test_batches_are_all_of_one_size():
    images = np.arange(5)
    found = [(batch.tolist(), count) for batch, count in batches(images, 2)]
    assert found == [([0, 1], 2), ([2, 3], 2), ([4, 4], 1)]
    assert [len(batch) for batch, _ in batches(images, None)] == [5]


# The check


@pytest.mark.once("tensorflow")
def test_agreement_is_measured_on_logits(linear):
    images = noise(5, (8, 8, 3))
    expected = linear.predict(images)["probabilities"]

    def shifted(batch):
        logits = np.log(linear.predict(batch)["probabilities"])
        logits[:, 0] += 0.003
        exponentials = np.exp(logits)
        return {"probabilities": exponentials / exponentials.sum(axis=1, keepdims=True)}

    found = run_batches(shifted, images, 2)
    agreement = compare(found, linear, images, "float16")
    assert agreement.images == 5
    assert agreement.max_error == pytest.approx(0.002, rel=0.01)  # of 0.003, less the mean
    logits = np.log(expected) - np.log(expected).mean(axis=1, keepdims=True)
    assert agreement.relative_error == pytest.approx(
        0.003 * np.sqrt(5 * (4 + 1 + 1) / 9) / np.linalg.norm(logits), rel=0.02
    )
    with pytest.raises(
        ExportError, match="largest error 0.002.* is allowed of logits, on 5 images"
    ):
        compare(found, linear, images, "float32")


@pytest.mark.once("tensorflow")
def test_an_agreement_says_what_it_is_of(linear):
    """Multiples of 1/256 stand for no logits: of full-integer files the probabilities count."""
    images = noise(5, (8, 8, 3))
    found = {name: np.round(256 * x) / 256 for name, x in linear.predict(images).items()}
    agreement = compare(found, linear, images, "full_int8")
    assert agreement.compared == "probabilities" and 0 < agreement.max_error <= 1 / 512
    assert compare(found, linear, images, "int8").compared == "logits"
    features = prepare(keras.Model(*[keras.Input((8, 8, 3))] * 2))
    assert compare(features.predict(images), features, images, "int8").compared == "features"


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"logits": np.zeros((2, 3))}, r"has the outputs \['logits'\]. Expected: \['probab"),
        ({"probabilities": np.zeros((2, 4))}, r"shape \(2, 4\). Expected: \(2, 3\)"),
        ({"probabilities": np.full((2, 3), np.nan)}, "not finite"),
        ({"probabilities": np.eye(3)[:2]}, "relative error"),
        ({}, "no outputs"),
    ],
)
def test_other_outputs_are_refused(linear, found, message):
    with pytest.raises(ExportError, match=message):
        images = noise(2, (8, 8, 3))
        compare(run_batches(lambda _: found, images, 2), linear, images, "int8")


# What a format brings, and what is done for all


@dataclasses.dataclass
class Weights(Format):
    """A format for the tests: the weights of `linear_model` as NumPy has them."""

    factor: float = 1.0  # of the logits; 1 for a file that agrees
    fails_in: str = ""

    name = "weights"
    suffix = ".npz"

    def write(self, deployment, record, path):
        kernel, bias = deployment.model.get_weights()
        with open(path, "wb") as file:
            np.savez(file, kernel=kernel * self.factor, bias=bias, record=record.to_json())
        self.fail("write")

    def open(self, path):
        self.fail("open")
        with np.load(path) as file:
            kernel, bias = file["kernel"], file["bias"]

        def run(batch):
            exponentials = np.exp(batch.reshape(len(batch), -1) / 255 @ kernel + bias)
            return {"probabilities": exponentials / exponentials.sum(axis=1, keepdims=True)}

        return OpenFile(run, self.batch_size)

    def facts(self, path, opened, deployment):
        self.fail("facts")
        return {"operators": {"Dense": 1}}

    def fail(self, where):
        if where == self.fails_in:
            raise KeyboardInterrupt


class Sidecar(Weights):
    has_place_for_record = False


@pytest.mark.once("tensorflow")
def test_an_export_is_written_run_compared_and_reported(tmp_path, capsys):
    path = tmp_path / "model.npz"
    images = noise(5, (8, 8, 3))
    names = ("a", "b", "c")
    report = driver.export(
        Weights(batch_size=2),
        linear_model(),
        path,
        images=images,
        class_names=names,
        crop=1,
        interpolation="bilinear",
    )
    assert str(report) in capsys.readouterr().out
    assert (report.format, report.precision, report.path) == ("weights", "float32", str(path))
    assert report.max_error < 1e-4 and report.top1_agreement == 1 and report.images == 5
    assert report.size_bytes == path.stat().st_size and report.operators == {"Dense": 1}
    with np.load(path) as file:
        record = Record.from_json(str(file["record"]), path)
    assert record == Record(
        task="classification",
        image_size=(8, 8),
        channels=3,
        pixels="0..255",
        crop=1.0,
        interpolation="bilinear",
        activation="softmax",
        class_names=names,
        version=keras_sepvit.__version__,
    )
    driver.export(Sidecar(), linear_model(), path, overwrite=True, verbose=False)
    beside = tmp_path / "model.npz.keras_sepvit.json"
    assert Record.from_json(beside.read_text(), beside).class_names is None


@pytest.mark.once("tensorflow")
def test_a_file_that_disagrees_is_not_left(tmp_path):
    path = tmp_path / "model.npz"
    path.write_text("precious")
    for format in (Weights(factor=1.1), Sidecar(factor=1.1)):
        with pytest.raises(FileExistsError, match="overwrite=True"):
            driver.export(format, linear_model(), path)
        with pytest.raises(ExportError, match="disagrees with the Keras model: largest error"):
            driver.export(format, linear_model(), path, overwrite=True)
        assert path.read_text() == "precious" and list(tmp_path.iterdir()) == [path]
    kept = {"overwrite": True, "verbose": False}
    with pytest.warns(UserWarning, match="disagrees") as caught:
        report = driver.export(Weights(factor=1.1), linear_model(), path, check="warn", **kept)
    assert report.max_error > 1e-4 and len(caught) == 1
    report = driver.export(Weights(factor=1.1), linear_model(), path, check=False, **kept)
    assert report.max_error is None and report.images == 0


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize("where", ["write", "open", "facts"])
def test_an_interrupted_export_leaves_nothing(tmp_path, where):
    path = tmp_path / "model.npz"
    path.write_text("precious")
    with pytest.raises(KeyboardInterrupt):
        driver.export(Sidecar(fails_in=where), linear_model(), path, overwrite=True)
    assert path.read_text() == "precious" and list(tmp_path.iterdir()) == [path]


FEW = {"calibration_images": np.zeros((31, 8, 8, 3))}
WRONG = [
    ("to_litert", {"quantize": "int4"}, "Unknown `quantize`: 'int4'. Expected one of None, 'fl"),
    ("to_litert", {"quantize": "int8"}, "pass `calibration_images`, at least 32"),
    ("to_litert", {"quantize": "full_int8", **FEW}, "at least 32 .*Received: 31"),
    ("to_litert", {"path": "model.onnx"}, "`path` must end with '.tflite'. Received: '.*.onnx'"),
    ("to_litert", {"path": "absent/model.tflite"}, "no folder"),
    ("to_litert", {"images": np.zeros((2, 9, 8, 3))}, r"`images` must be.*\(count, 8, 8, 3\)"),
    ("to_litert", {"check": "maybe"}, "check='maybe'"),
    ("to_litert", {"crop": 1.5}, "`crop` must be a share above 0 and at most 1.*crop=1.5"),
    ("to_litert", {"interpolation": "cubic"}, "Unknown `interpolation`: 'cubic'"),
    ("to_litert", {"class_names": ["one"]}, "3 classes. Received: 1 names"),
    (
        "to_onnx",
        {"quantize": "int4"},
        "Unknown `quantize`: 'int4'. Expected one of None",
    ),
    ("to_onnx", {"opset": 17}, "`opset` must be from 18 to 20 .*Received: opset=17"),
    ("to_onnx", {"opset": 21}, "`opset` must be from 18 to 20"),
    (
        "to_onnx",
        {"quantize": "int8", "calibration_images": np.zeros((40, 32, 32, 3))},
        r"`calibration_images` must be an array of shape \(count, 8, 8, 3\)",
    ),
    ("to_onnx", FEW, "are for `quantize` int8 or int8_float16 only. Received: quantize=None"),
    ("to_onnx", {"path": "tiny.pb"}, "`path` must end with '.onnx'"),
    ("to_stablehlo", {"platforms": ("gpu",)}, "Unknown `platforms`: 'gpu'. Expected one of 'cpu'"),
    ("to_stablehlo", {"platforms": ()}, "`platforms` must name at least one"),
    ("to_stablehlo", {"path": "tiny.mlir"}, "`path` must end with '.stablehlo'"),
    ("to_torch", {"path": "tiny.pt"}, "`path` must end with '.pt2'"),
    *(
        (name, {"batch_size": 0}, "`batch_size` must be a positive integer")
        for name in ("to_litert", "to_onnx", "to_saved_model", "to_stablehlo", "to_torch")
    ),
]
ENDINGS = {"to_litert": ".tflite", "to_onnx": ".onnx", "to_stablehlo": ".stablehlo"}
ENDINGS |= {"to_torch": ".pt2"}


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize(("function", "arguments", "message"), WRONG)
def test_wrong_arguments_are_refused(tmp_path, function, arguments, message):
    arguments = dict(arguments)
    path = tmp_path / arguments.pop("path", f"model{ENDINGS.get(function, '')}")
    with pytest.raises(ValueError, match=message):
        getattr(export, function)(linear_model(), path, **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize(
    ("function", "module", "extra", "arguments"),
    [
        ("to_litert", "ai_edge_litert.interpreter", "export", {}),
        ("to_litert", "ai_edge_quantizer.quantizer", "export", {"quantize": "int8"}),
        ("to_onnx", "onnxruntime", "export", {}),
        ("to_stablehlo", "jax", "jax", {}),
        ("to_torch", "torch", "torch", {}),
    ],
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, function, module, extra, arguments):
    monkeypatch.setitem(sys.modules, module, None)
    if arguments:
        arguments = {**arguments, "calibration_images": noise(32, (8, 8, 3))}
    with pytest.raises(ImportError, match=rf"`{module}`.*keras-sepvit\[{extra}\]"):
        getattr(export, function)(linear_model(), tmp_path / f"x{ENDINGS[function]}", **arguments)
    assert not list(tmp_path.iterdir())


# Writing


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize("folder", [False, True])
def test_an_export_appears_when_it_is_complete(tmp_path, folder):
    path = tmp_path / "model.bin"

    def write(content, overwrite=False):
        with writing(path, overwrite, suffix=".bin", folder=folder) as temporary:
            (temporary / "part" if folder else temporary).write_text(content)
            assert temporary.suffix == ".bin"
            if content == "interrupted":
                raise KeyboardInterrupt

    def read():
        return (path / "part" if folder else path).read_text()

    with pytest.raises(KeyboardInterrupt):
        write("interrupted")
    assert list(tmp_path.iterdir()) == []
    write("first")
    assert read() == "first" and size_of(path) == 5
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write("second")
    with pytest.raises(KeyboardInterrupt):
        write("interrupted", overwrite=True)
    assert read() == "first"
    write("second", overwrite=True)
    assert read() == "second"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.once("tensorflow")
def test_a_place_that_cannot_be_written_to_is_refused_before_any_work(tmp_path, monkeypatch):
    def attempt(path, **options):
        with writing(path, **options):
            pytest.fail("began to work")

    with pytest.raises(ValueError, match="no folder.*absent"):
        attempt(tmp_path / "absent" / "model.bin")
    with pytest.raises(ValueError, match="must end with '.bin'"):
        attempt(tmp_path / "model.txt", suffix=".bin")
    (tmp_path / "taken").mkdir()
    with pytest.raises(ValueError, match="a folder of this name"):
        attempt(tmp_path / "taken", overwrite=True)

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "touch", refuse)
    with pytest.raises(ValueError, match="Permission denied. Choose a folder"):
        attempt(tmp_path / "model.bin")


# Reports and names


@pytest.mark.once("tensorflow")
def test_a_report_is_text_and_json():
    report = ExportReport(
        format="litert",
        path="model.tflite",
        precision="int8",
        size_bytes=1_230_000,
        operators={"ADD": 3, "SOFTMAX": 1},
        not_delegated={"SOFTMAX": 1},
        max_error=0.25,
        relative_error=0.031,
        compared="logits",
        top1_agreement=0.9875,
        images=80,
        latency_ms={1: 2.5, 2: 1.5},
        notes=("Something.",),
    )
    text = str(report)
    for part in (
        "model.tflite (1.23 MB)",
        "4 (ADD 3, SOFTMAX 1)",
        "logits: max error 0.25, relative error 0.031, top-1 agreement 98.75%, on 80 images",
        "2.5 ms with 1 thread, 1.5 ms with 2 threads",
        "Something.",
    ):
        assert part in text
    record = json.loads(report.to_json())
    assert record["operators"] == {"ADD": 3, "SOFTMAX": 1}
    assert record["latency_ms"] == {"1": 2.5, "2": 1.5}


@pytest.mark.once("tensorflow")
def test_formats_are_imported_when_they_are_used():
    code = (
        "import sys, keras_sepvit.export as e; assert 'to_litert' in dir(e)\n"
        "loaded = {'keras', 'tensorflow', 'jax', 'torch', 'onnx'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="to_paper"):
        export.to_paper  # noqa: B018


# Conversion in another process


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_what_fails_in_another_process_is_told(tmp_path):
    model = linear_model()
    with pytest.raises(ExportError, match="no luck with linear"):
        convert_on("jax", export_helpers.fail, model, tmp_path / "x", message="no luck with")
    with pytest.raises(ExportError, match="(?s)code -9.*the last words"):
        convert_on("jax", export_helpers.die, model, tmp_path / "x")


@pytest.mark.once("tensorflow")
def test_a_model_that_keras_cannot_save_is_told_where_it_can_be_converted(tmp_path):
    class Unsaved(keras.layers.Flatten):
        def get_config(self):
            raise TypeError("no config")

    image = keras.Input((8, 8, 3))
    with pytest.raises(ExportError, match="cannot be saved.*no config.*with KERAS_BACKEND=jax"):
        convert_on("jax", export_helpers.fail, keras.Model(image, Unsaved()(image)), tmp_path)


@pytest.mark.once("tensorflow")
def test_a_backend_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"keras-sepvit\[torch\]"):
        convert_on("torch", export_helpers.fail, linear_model(), tmp_path / "x", message="")
