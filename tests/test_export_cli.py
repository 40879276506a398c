"""`keras-sepvit export`."""

import json
import shutil

import keras
import numpy as np
import pytest
import training_data
from export_helpers import linear_model
from PIL import Image
from typer.testing import CliRunner

from keras_sepvit.cli import app
from keras_sepvit.export import ExportReport, default_images

pytestmark = pytest.mark.once("tensorflow")


def run(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export_cli")
    linear_model().save(folder / "linear.keras")
    (folder / "labels.txt").write_text("one\ntwo\nthree\n")
    (folder / "photos" / "deep").mkdir(parents=True)
    for index, pixels in enumerate(default_images((20, 30, 3), 32)):
        place = folder / "photos" / ("deep" if index % 2 else "") / f"{index}.png"
        Image.fromarray(pixels.astype("uint8")).save(place)
    return folder


def test_a_model_is_exported_and_predicts(folder, monkeypatch):
    monkeypatch.chdir(folder)
    arguments = ["linear.keras", "--format", "litert", "--quantize", "int8"]
    arguments += ["--calibration", "photos", "--labels", "labels.txt"]
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["precision"] == "int8" and record["images"] == 32
    assert "Compared on images of the calibration itself: 32 are too few" in result.stderr
    assert record["path"] == "linear.tflite"
    photo = folder / "photos" / "0.png"
    predicted = CliRunner().invoke(app, ["predict", "linear.tflite", str(photo), "--json"])
    assert predicted.exit_code == 0, predicted.output
    (guess, *_) = json.loads(predicted.stdout)[0]["predictions"]
    assert guess["label"] in ("one", "two", "three")

    result = run(*arguments)
    assert result.exit_code == 2 and "Pass --overwrite" in result.stderr
    result = run(*arguments, "--overwrite", "--batch-size", "any", "--output", "any.tflite")
    assert result.exit_code == 0, result.output
    assert "against Keras" in result.stdout and "any.tflite" in result.stdout


def test_a_file_is_measured_on_data(tmp_path):
    inputs = keras.Input((8, 8, 3))
    head = keras.layers.Dense(10, "softmax", kernel_initializer=keras.initializers.GlorotUniform(0))
    outputs = head(keras.layers.Flatten()(inputs))
    keras.Model(inputs, outputs).save(tmp_path / "ten.keras")
    output = tmp_path / "ten.tflite"
    arguments = [tmp_path / "ten.keras", "--format", "litert", "--output", output]
    result = run(*arguments, "--data", "digits", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    measured = CliRunner().invoke(app, ["evaluate", str(output), "--data", "digits", "--json"])
    share = json.loads(measured.stdout)["top1"]
    assert record["scores"] == {"keras": {"top1": share}, "file": {"top1": share}} and share > 1
    assert record["data_images"] == json.loads(measured.stdout)["images"] > 100
    report = ExportReport(**record)
    assert str(report).splitlines()[-1].split(maxsplit=2)[:2] == ["on", "digits"]
    told = f"top1 {share:.2f} % (Keras: top1 {share:.2f}), on {record['data_images']} images"
    assert told in str(report)


def test_unreadable_data_are_told_once(tmp_path, caplog):
    training_data.write_folder(tmp_path / "photos", ("a", "b", "c"), 3)
    (tmp_path / "photos" / "a" / "1.jpg").write_bytes(b"")
    layers = [keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    keras.Sequential([*layers, keras.layers.Dense(3, "softmax")]).save(tmp_path / "three.keras")
    arguments = [tmp_path / "three.keras", "--format", "litert", "--data", tmp_path / "photos"]
    result = run(*arguments, "--output", tmp_path / "three.tflite", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["data_images"] == 8 and record["scores"]["keras"] == record["scores"]["file"]
    assert caplog.text.count("cannot be read") == 1


def test_a_trained_model_takes_its_evaluation_along(tmp_path, folder):
    """Names, crop and interpolation of the run's folder; what is typed goes first."""
    from keras_sepvit.record import Record
    from keras_sepvit.runtime import Predictor

    model = tmp_path / "best.keras"
    model.write_bytes((folder / "linear.keras").read_bytes())
    names = ("zero", "one", "two")
    record = Record(
        *("classification", (8, 8), 3, "0..255", 1.0, "bilinear", "softmax", names, "0.1.0")
    )
    (tmp_path / "record.json").write_text(record.to_json())
    path = tmp_path / "best.tflite"
    arguments = [model, "--format", "litert", "--output", path]
    arguments += ["--images", folder / "photos", "--json"]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["images"] == 32
    predictor = Predictor(path)
    assert (predictor.crop, predictor.interpolation) == (1.0, "bilinear")
    assert predictor.class_names == ["zero", "one", "two"]
    photo = folder / "photos" / "0.png"
    for file in (model, path):
        shown = CliRunner().invoke(app, ["predict", str(file), str(photo), "--json"])
        (guess, *_) = json.loads(shown.stdout)[0]["predictions"]
        assert guess["label"] == predictor.top(photo)[0].label
        assert guess["probability"] == pytest.approx(predictor.top(photo)[0].probability, abs=1e-5)

    result = run(*arguments, "--overwrite", "--crop", "0.5", "--labels", folder / "labels.txt")
    assert result.exit_code == 0, result.output
    predictor = Predictor(path)
    assert (predictor.crop, predictor.interpolation) == (0.5, "bilinear")
    assert predictor.class_names == ["one", "two", "three"]


def test_an_exported_file_keeps_what_was_typed_of_its_activation(tmp_path, folder):
    """Scores of labels that do not exclude each other, which no layer tells of logits."""
    from keras_sepvit.runtime import Predictor

    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    model, path = tmp_path / "logits.keras", tmp_path / "logits.tflite"
    keras.Model(inputs, keras.layers.Dense(3)(x)).save(model)
    typed = ["--activation", "sigmoid"]
    result = run(model, "--format", "litert", "--output", path, *typed)
    assert result.exit_code == 0, result.output
    assert Predictor(path).record.activation == "sigmoid"
    photo = str(folder / "photos" / "0.png")
    shown = CliRunner().invoke(app, ["predict", str(model), photo, "--json", *typed])
    guesses = json.loads(shown.stdout)[0]["predictions"]
    for guess, other in zip(guesses, Predictor(path).top(photo), strict=True):
        assert guess["probability"] == pytest.approx(other.probability, abs=1e-5)
    path.unlink()
    result = run(model, "--format", "litert", "--output", path, "--activation", "relu")
    assert result.exit_code == 2 and "--activation" in result.stderr and "'relu'" in result.stderr


def test_images_of_all_classes_are_held_out(tmp_path, folder, monkeypatch):
    """What the file is compared on is no part of the calibration, which has every class too."""
    for label, count in enumerate((30, 20, 5)):
        for index in range(count):
            place = tmp_path / f"class{label}" / ("deep" if index % 2 else "")
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.full((8, 8, 3), 80 * label + index, "uint8")
            Image.fromarray(pixels).save(place / f"{index}.png")
    found = {}

    def exporter(model, path, *, quantize, calibration_images, images, **options):
        found.update(images=images, calibration_images=calibration_images)
        return ExportReport("x", "x", quantize, 1, {})

    monkeypatch.setattr("keras_sepvit.export.to_litert", exporter, raising=False)
    arguments = ["--format", "litert", "--quantize", "int8", "--calibration", tmp_path]
    result = run(folder / "linear.keras", *arguments, "--output", tmp_path / "out.tflite")
    assert result.exit_code == 0, result.output
    values = [found[name][:, 0, 0, 0] for name in ("images", "calibration_images")]
    assert [len(numbers) for numbers in values] == [11, 44] and result.stderr == ""
    assert len(set(np.concatenate(values))) == 55
    assert all(set(numbers // 80) == {0, 1, 2} for numbers in values)


def test_options_become_arguments(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = {}

    def exporter(model, path, *, batch_size=1, batch_sizes=None, opset=None, **options):
        found.update(options, batch_size=batch_size, batch_sizes=batch_sizes, opset=opset)
        return ExportReport("x", "x", "float32", 1, {})

    for name in ("to_onnx", "to_tensorrt"):
        monkeypatch.setattr(f"keras_sepvit.export.{name}", exporter, raising=False)
    result = run("linear.keras", "--format", "onnx", "--opset", "18", "--check", "warn")
    assert result.exit_code == 0, result.output
    assert (found["opset"], found["check"], found["batch_size"]) == (18, "warn", 1)
    result = run("linear.keras", "--format", "tensorrt", "--batch-size", "1,8", "--check", "off")
    assert result.exit_code == 0, result.output
    assert (found["batch_sizes"], found["check"]) == ((1, 8), False)


def test_calibration_goes_on_after_a_bad_picture(folder, tmp_path, monkeypatch):
    found = {}

    def exporter(model, path, *, quantize=None, calibration_images=None, **options):
        found["pictures"] = calibration_images
        return ExportReport("x", "x", "int8", 1, {})

    monkeypatch.setattr("keras_sepvit.export.to_onnx", exporter, raising=False)
    shutil.copytree(folder / "photos", tmp_path / "photos")
    (tmp_path / "photos" / "0.png").write_bytes(b"")
    (tmp_path / "photos" / "deep" / "bad.jpg").write_text("no picture")
    arguments = [folder / "linear.keras", "--format", "onnx", "--quantize", "int8"]
    arguments += ["--calibration", tmp_path / "photos", "--output", tmp_path / "linear.onnx"]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert len(found["pictures"]) == 31
    left_out = [line for line in result.stderr.splitlines() if line.startswith("Left out: ")]
    assert len(left_out) == 2 and all(
        any(f"{name} cannot be read" in line for line in left_out) for name in ("0.png", "bad.jpg")
    )

    for picture in (tmp_path / "photos").glob("*.png"):  # 17 of 33 with deep/bad.jpg
        picture.write_bytes(b"")
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error: --calibration: 17 of 33 images in" in result.stderr


@pytest.mark.thorough
def test_registered_weights_have_a_name(tmp_path):
    path = tmp_path / "digits.tflite"
    result = run("digits", "--format", "litert", "--output", path, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["max_error"] < 1e-4
    from keras_sepvit.runtime import Predictor

    predictor = Predictor(path)
    assert predictor.predict(np.zeros((1, 32, 32, 3))).shape == (1, 10)
    assert (predictor.crop, predictor.interpolation) == (1.0, "bilinear")  # as they were measured


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["linear.keras", "--format", "paper"], "--format must be one of litert, onnx"),
        (["absent.keras", "--format", "litert"], "File not found: absent.keras"),
        (["linear.keras", "--format", "litert", "--batch-size", "0"], "--batch-size must be"),
        (["linear.keras", "--format", "tensorrt", "--batch-size", "any"], "needs a number"),
        (
            ["linear.keras", "--format", "saved_model", "--quantize", "int8"],
            "--quantize is not for --format saved_model",
        ),
        (["linear.keras", "--format", "litert", "--calibration", "absent"], "folder not found"),
        (["linear.keras", "--format", "litert", "--images", "absent"], "--images: folder not"),
        (["linear.keras", "--format", "litert", "--batch-size", "1,8"], "litert takes one"),
        (["linear.keras", "--format", "litert", "--opset", "18"], "--opset is not for --format"),
        (["linear.keras", "--format", "litert", "--check", "x"], "--check must be one of error"),
        (["linear.keras", "--format", "litert", "--crop", "2"], "--crop must be a share"),
        (
            ["linear.keras", "--format", "litert", "--quantize", "int8"],
            "--quantize int8 fixes the ranges of activations from images: pass --calibration, at",
        ),
        (["linear.keras", "--format", "onnx", "--opset", "3"], "Received: --opset 3"),
        (["linear.keras", "--format", "litert", "--variant", "sepvit_t"], "is a whole model"),
        (["digits", "--format", "litert", "--classes", "3"], "leave out --variant and --classes"),
        (
            ["linear.keras", "--format", "litert", "--labels", "photos"],
            "photos is a folder. Expected a file",
        ),
        (["digits", "--format", "torch", "--data", "digits"], "--data is for litert and onnx"),
        (["digits", "--format", "onnx", "--raw", "--data", "digits"], "Leave out --raw"),
        (["digits", "--format", "onnx", "--data", "absent"], "'absent'"),
        (["linear.keras", "--format", "onnx", "--data", "digits"], "The model has 3 classes"),
    ],
)
def test_wrong_options_are_refused(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    result = run(*arguments, "--output", "refused")
    assert result.exit_code == 2 and result.stdout == ""
    assert message in result.stderr
    assert not (folder / "refused").exists()
