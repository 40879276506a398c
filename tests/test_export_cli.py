"""`keras-sepvit export`."""

import json

import numpy as np
import pytest
from export_helpers import linear_model
from PIL import Image
from typer.testing import CliRunner

from keras_sepvit.cli import app
from keras_sepvit.export import default_images

pytestmark = pytest.mark.once


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


def test_registered_weights_have_a_name(tmp_path):
    path = tmp_path / "digits.tflite"
    result = run("digits", "--format", "litert", "--output", path, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["max_error"] < 1e-4
    from keras_sepvit.runtime import Predictor

    assert Predictor(path).predict(np.zeros((1, 32, 32, 3))).shape == (1, 10)


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
        (["linear.keras", "--format", "litert", "--variant", "sepvit_t"], "is a whole model"),
        (["digits", "--format", "litert", "--classes", "3"], "leave out --variant and --classes"),
        (["linear.keras", "--format", "litert", "--labels", "photos"], "File not found: photos"),
    ],
)
def test_wrong_options_are_refused(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    result = run(*arguments, "--output", "refused")
    assert result.exit_code == 2 and result.stdout == ""
    assert message in result.stderr
    assert not (folder / "refused").exists()
