"""Accuracy on validation sets: numbers that can be told beforehand."""

import dataclasses
import json
import pathlib

import exported
import keras
import numpy as np
import pytest
import training_data
from typer.testing import CliRunner

from keras_sepvit import SepViT
from keras_sepvit.classification import evaluate
from keras_sepvit.cli import app
from keras_sepvit.configs import DIGITS_CONFIG
from keras_sepvit.training.sources.labelled import open_source
from keras_sepvit.training.sources.source import ArraySource


def mean_color_classifier(normalisation, kernel, bias, activation="softmax"):
    """A linear classifier of the mean colour of 8 x 8 images; `normalisation` may be no layer."""
    head = keras.layers.Dense(len(bias), activation=activation)
    layers = [*normalisation, keras.layers.GlobalAveragePooling2D(), head]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    head.set_weights([kernel, bias])
    return model


def constant_classifier(classes, best, activation="softmax"):
    """A model that finds the classes in `best` likeliest, in that order."""
    bias = np.zeros(classes)
    bias[list(best)] = np.arange(len(best), 0, -1)
    normalisation = [keras.layers.Rescaling(1 / 255)]
    return mean_color_classifier(normalisation, np.zeros((3, classes)), bias, activation)


@pytest.fixture(scope="module")
def digits_model():
    return SepViT(DIGITS_CONFIG, classes=10, input_shape=(32, 32, 3), weights="digits")


def test_packaged_digits_weights(digits_model):
    result = evaluate(digits_model, open_source("digits", "validation"), image_size=32)
    assert result["images"] == 360
    assert result["top1"] == pytest.approx(100 * 359 / 360)  # as the quick start and model card say
    assert result["top5"] == 100
    assert 0.09 < result["loss"] < 0.12


@pytest.mark.parametrize("activation", ["softmax", None])
def test_top1_top5_and_loss(activation):
    labels = [3, 3, 3, 1, 6, 0, 2, 5, 4, 4]
    source = ArraySource("ten", "validation", np.zeros((10, 8, 8, 3), "uint8"), labels, classes=7)
    model = constant_classifier(7, best=(3, 1, 6, 0, 2), activation=activation)
    logits = np.array([2, 4, 1, 5, 0, 0, 3])
    losses = np.log(np.exp(logits).sum()) - logits[labels]
    for batch_size in (4, 10):
        result = evaluate(model, source, image_size=8, batch_size=batch_size)
        assert result["images"] == 10
        assert result["top1"] == pytest.approx(30)
        assert result["top5"] == pytest.approx(70)
        assert result["loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_classes_are_matched_by_name():
    labels, names = [0, 1, 1, 2], ("one", "two", "zero")  # as folders are sorted
    source = ArraySource(
        "names", "all", np.zeros((4, 8, 8, 3), "uint8"), labels, classes=3, class_names=names
    )
    model = constant_classifier(3, best=(2,))  # "two" in the order of the numbers

    def top1(**kwargs):
        return evaluate(model, source, image_size=8, **kwargs)["top1"]

    assert top1() == 25  # the model does not tell its names
    assert top1(class_names=["zero", "one", "two"]) == 50
    assert top1(class_names=names) == 25
    with pytest.raises(ValueError, match="'a', 'b', 'c', and .*'one', 'two', 'zero'"):
        top1(class_names=["a", "b", "c"])
    with pytest.raises(ValueError, match="'one', 'one', 'two', and"):
        top1(class_names=["one", "one", "two"])


def test_models_without_normalisation_get_normalised_images():
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), "uint8")
    source = ArraySource("random", "validation", images, [0, 1, 2] * 4, classes=3)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalisation = keras.layers.Normalization(mean=255 * mean, variance=(255 * std) ** 2)
    models = [
        mean_color_classifier(layers, np.eye(3), np.zeros(3)) for layers in ([], [normalisation])
    ]
    results = [evaluate(model, source, image_size=8) for model in models]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-5)
    assert results[0]["loss"] != pytest.approx(np.log(3), rel=1e-3)


def test_imagenet_validation():
    # The classes of ImageNet's first validation images are 970, 809, 65, 230, 516 and 57.
    source = open_source("imagenet2012", "validation", training_data.imagenet())
    model = constant_classifier(1000, best=(970, 3, 57, 4, 65, 230))
    result = evaluate(model, source, image_size=8)
    assert (result["images"], result["unreadable"]) == (6, 0)
    assert result["top1"] == pytest.approx(100 / 6)
    assert result["top5"] == pytest.approx(100 * 3 / 6)


def test_imagenet_v2():
    source = open_source("imagenet_v2/matched-frequency", "test", training_data.imagenet_v2())
    result = evaluate(constant_classifier(1000, best=(10,)), source, image_size=8)
    assert (result["images"], result["top1"]) == (4, 50)


def test_real_labels():
    labels = ((970,), (0, 970), (5,), (), (65, 1), (809,), ())
    source = open_source("imagenet2012_real", "validation", training_data.imagenet_real(labels))
    model = constant_classifier(1000, best=(970, 0, 65, 2, 3, 5))
    result = evaluate(model, source, image_size=8, batch_size=3)
    assert (result["images"], result["unlabelled"], result["loss"]) == (5, 2, None)
    assert result["top1"] == pytest.approx(100 * 2 / 5)
    assert result["top5"] == pytest.approx(100 * 3 / 5)


def test_unreadable_images_are_left_out(tmp_path):
    training_data.write_folder(tmp_path, ("a", "b", "c"), 3)
    (tmp_path / "a" / "1.jpg").write_bytes(b"")
    (tmp_path / "b" / "1.jpg").write_text("not an image")
    model = constant_classifier(3, best=(0,))
    result = evaluate(model, open_source(str(tmp_path), "validation"), image_size=8)
    assert (result["images"], result["unreadable"]) == (7, 2)
    assert result["top1"] == pytest.approx(100 * 2 / 7)
    assert "top5" not in result  # of three classes

    for file in tmp_path.glob("*/*.jpg"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="nothing to evaluate: 9 images could not be read"):
        evaluate(model, open_source(str(tmp_path), "validation"), image_size=8)


def test_a_model_of_other_classes_is_refused(tmp_path):
    training_data.write_folder(tmp_path, ("a", "b"), 1)
    source = open_source(str(tmp_path), "validation")
    with pytest.raises(ValueError, match="model has 3 classes, and folder:.* 2 classes. has anoth"):
        evaluate(constant_classifier(3, best=(0,)), source, image_size=8)


def test_command(digits_model, tmp_path):
    path = tmp_path / "digits.keras"
    digits_model.save(path)
    arguments = ["evaluate", str(path), "--data", "digits", "--batch-size", "100"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["images"] == 360
    assert record["top1"] == pytest.approx(99.72, abs=0.01)
    assert (record["image_size"], record["unreadable_names"]) == ([32, 32], [])
    assert (record["data"], record["split"]) == ("digits", "validation")
    result = CliRunner().invoke(app, ["evaluate", "digits", "--data", "digits"])
    assert "top-1   99.72 %" in result.stdout and "360 images" in result.stdout

    training_data.write_folder(tmp_path / "images", ("a", "b"), 1)
    for wrong, message in (
        (["--data", str(tmp_path / "images")], "The model has 10 classes"),
        (["--split", "test"], "no split 'test'"),
        (["--crop", "1.5"], "--crop 1.5"),
        (["--image-size", "64"], "the model takes images of 32 x 32"),
    ):
        result = CliRunner().invoke(app, [*arguments, *wrong])
        assert result.exit_code == 2
        assert result.stderr.startswith("Error: ") and message in result.stderr
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "none.keras")])
    assert (result.exit_code, "File not found" in result.stderr) == (2, True)


def test_exported_files_are_evaluated_like_the_model(tmp_path):
    files = pathlib.Path(__file__).parent / "data" / "0.1.0"
    training_data.write_folder(tmp_path, "abc", 2)
    results = []
    for kind in ("keras", "tflite", "onnx"):
        path = str(files / f"classifier.{kind}")
        result = CliRunner().invoke(app, ["evaluate", path, "--data", str(tmp_path), "--json"])
        assert result.exit_code == 0, result.output
        results.append(json.loads(result.stdout))
    assert results[0]["images"] == 6 and results[0]["image_size"] == [32, 32]
    for other in results[1:]:
        assert other.pop("loss") == pytest.approx(results[0]["loss"], rel=1e-4)
        assert other.items() <= results[0].items()


def test_the_record_of_a_file_says_how_it_is_evaluated(tmp_path):
    training_data.write_folder(tmp_path / "images", exported.NAMES, 2)
    record = dataclasses.replace(exported.RECORD, pixels="0..255", crop=0.3)
    recorded = exported.write_onnx(tmp_path / "recorded.onnx", record=record.to_json())
    bare = exported.write_onnx(tmp_path / "bare.onnx")

    def loss(path, *options):
        arguments = ["evaluate", str(path), "--data", str(tmp_path / "images"), "--json", *options]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["loss"]

    small = ("--crop", "0.3", "--interpolation", "bilinear")
    assert loss(recorded) == loss(bare, *small) != loss(bare)
    assert loss(recorded, "--crop", "0.875", "--interpolation", "bicubic") == loss(bare)
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    arguments = ["evaluate", str(recorded), "--data", str(tmp_path / "images")]
    refused = CliRunner().invoke(app, [*arguments, "--labels", str(tmp_path / "labels.txt")])
    assert refused.exit_code == 2 and "'a', 'b', 'c', 'd', 'e', and those of" in refused.output
