"""Accuracy on validation sets: numbers that can be told beforehand."""

import csv
import dataclasses
import json
import pathlib

import exported
import keras
import numpy as np
import pytest
import training_data
from PIL import Image
from typer.testing import CliRunner

from keras_sepvit import SepViT
from keras_sepvit.classification import ClassificationReport, evaluate
from keras_sepvit.cli import app
from keras_sepvit.configs import DIGITS_CONFIG
from keras_sepvit.training.sources.labelled import open_source
from keras_sepvit.training.sources.source import ArraySource

pytestmark = pytest.mark.by_default_on("torch")


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


@pytest.mark.by_default_on("tensorflow", "jax", "torch")
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
    with pytest.raises(ValueError, match=r"model has 3 classes, and folder:.* 2 classes\) has 2\."):
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
    (row,) = [row for row in record["classes"] if row["recall"] < 100]
    (mistake,) = record["mistakes"]
    assert (row["class"], row["taken_for"]) == (mistake["class"], mistake["taken_for"])

    files = ["--output", str(tmp_path / "report"), "--csv", str(tmp_path / "table.csv")]
    result = CliRunner().invoke(app, ["evaluate", "digits", "--data", "digits", *files])
    assert "top-1   99.72 %" in result.stdout and "360 images" in result.stdout
    assert (tmp_path / "report" / "mistakes.png").exists()
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        assert [row["class"] for row in csv.DictReader(file)] == list("0123456789")

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


def test_a_report_tells_what_each_class_is_taken_for(tmp_path):
    """In two parts, as of two processes: rows, files, and the surest of the mistakes."""
    names = ("größe", "猫", "a$b")
    labels, found = np.array([0, 0, 0, 1, 1, 1, 1, 1]), np.array([0, 1, 1, 1, 1, 2, 0, 0])
    sureness = np.array([0.9, 0.6, 0.7, 0.8, 0.5, 0.95, 0.4, 0.55])
    answers = np.repeat((1 - sureness[:, None]) / 2, 3, axis=1)
    answers[np.arange(8), found] = sureness
    images = np.arange(8, dtype="uint8")[:, None, None, None] * np.ones((1, 4, 4, 3), "uint8")
    parts = []
    for rows in (slice(0, 5), slice(5, 8)):
        parts.append(ClassificationReport(3, names))
        files = np.array([f"x/{row}.jpg".encode() for row in range(8)][rows])
        examples = {"label": labels[rows], "image": images[rows], "name": files}
        parts[-1].update(answers[rows], examples)
    report = ClassificationReport(3, names)
    report.merge([part.state() for part in parts])
    np.testing.assert_array_equal(report.matrix, [[1, 2, 0], [2, 2, 1], [0, 0, 0]])
    assert report.result()["top1"] == pytest.approx(100 * 3 / 8)
    grosse, cat, empty = report.record()["classes"]
    assert grosse == {
        **{"class": "größe", "images": 3, "recall": pytest.approx(100 / 3)},
        **{"precision": pytest.approx(100 / 3), "taken_for": "猫", "count": 2},
    }
    assert (cat["recall"], cat["precision"], cat["taken_for"]) == (40, 50, "größe")
    assert (empty["recall"], empty["precision"], empty["taken_for"]) == (None, 0, None)
    mistakes = report.record()["mistakes"]
    assert [told["image"] for told in mistakes] == [f"x/{row}.jpg" for row in (5, 2, 1, 7, 6)]
    assert [image[0, 0, 0] for _, image, _ in report.mistakes.items] == [5, 2, 1, 7, 6]
    assert mistakes[0] == {
        **{"image": "x/5.jpg", "class": "猫", "taken_for": "a$b"},
        "probability": pytest.approx(0.95),
    }
    head, _, second, third = report.text().splitlines()[-4:]
    assert head.index("recall") + 6 == second.index("40.00") + 5 + 1  # 猫 is two columns wide
    assert third.split() == ["a$b", "0", "-", "0.00", "-", "0"]

    report.write(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["classes"][1] == cat
    with open(tmp_path / "confusion.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["", *names],
            ["größe", "1", "2", "0"],
            ["猫", "2", "2", "1"],
            ["a$b", "0", "0", "0"],
        ]
    for picture in ("confusion.png", "mistakes.png"):
        assert (tmp_path / picture).stat().st_size > 5000
    ClassificationReport(3, names).write(tmp_path)
    assert not (tmp_path / "mistakes.png").exists()  # of another model


def test_reports_of_many_classes_show_the_worst(tmp_path):
    report = ClassificationReport(1000)
    labels = np.arange(1000)
    answers = np.eye(1000, dtype="float32")
    answers[700] = answers[3]
    images = np.zeros((1000, 2, 2, 3), "uint8")
    report.update(answers, {"label": labels, "image": images, "name": np.full(1000, b"x")})
    lines = report.text().splitlines()
    assert lines[5].split()[:4] == ["class", "700", "1", "0.00"]
    assert lines[-1] == "(30 of 1,000 classes, of the lowest recall)" and len(lines) < 40
    report.write(tmp_path)
    with Image.open(tmp_path / "confusion.png") as picture:
        assert max(picture.size) < 2000


def test_a_folder_without_splits_is_told_as_a_whole(tmp_path):
    """And what a model far from its training is to be evaluated on is asked."""
    training_data.write_folder(tmp_path, "abc", 2)
    path = str(pathlib.Path(__file__).parent / "data" / "0.1.0" / "classifier.tflite")
    whole = CliRunner().invoke(app, ["evaluate", path, "--data", str(tmp_path)])
    assert "(all of it), 6 images" in whole.stdout and "trained on, too" in whole.stderr
    split = CliRunner().invoke(app, ["evaluate", path, "--data", str(tmp_path), "--split", "trian"])
    assert split.exit_code == 2 and "no folder for the split 'trian'" in split.stderr
    asked = CliRunner().invoke(app, ["evaluate", path])
    assert asked.exit_code == 2 and "has 3 classes" in asked.stderr and "--data" in asked.stderr
    wrong = ["evaluate", path, "--data", str(tmp_path), "--output", str(tmp_path / "report")]
    assert "lies among the pictures" in CliRunner().invoke(app, wrong).stderr
    (tmp_path / "file").write_text("")
    wrong = ["evaluate", path, "--data", str(tmp_path), "--output", str(tmp_path / "file")]
    assert "is a file. Give the name of a folder" in CliRunner().invoke(app, wrong).stderr


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
        for found, expected in zip(other.pop("mistakes"), results[0]["mistakes"], strict=True):
            assert found.pop("probability") == pytest.approx(expected["probability"], rel=1e-4)
            assert found.items() <= expected.items()
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
