"""`keras-sepvit evaluate` of segmenters."""

import json

import keras
import numpy as np
import pytest
from helpers import BACKEND
from PIL import Image
from test_cli import assert_refused, linear_classifier, run, run_json

from keras_sepvit.export import to_onnx
from keras_sepvit.inference import attach_record, load_model
from keras_sepvit.segmentation import SegmentationReport, evaluate, sources
from keras_sepvit.visualize import save_class_map

NAMES = ("background", "cat", "dog")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three photos whose classes are their red, and a segmenter that tells them by it."""
    folder = tmp_path_factory.mktemp("segmentation")
    rng = np.random.default_rng(0)
    for number, size in enumerate([(40, 56), (48, 40), (40, 56)]):
        maps = rng.integers(0, 3, (5, 7)).repeat(10, 0).repeat(8, 1)[: size[0], : size[1]]
        image = np.full((*maps.shape, 3), 128, "uint8")
        image[..., 0] = 120 * maps
        maps = maps.astype("uint8")
        maps[:4, :30] = 255
        maps[-8:] = (maps[-8:] + 1) % 3  # what the model gets wrong
        for kind in ("images", "masks"):
            (folder / "data" / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "data" / "images" / f"{number}.png")
        save_class_map(folder / "data" / "masks" / f"{number}.png", maps)
    (folder / "data" / "classes.txt").write_text("\n".join(NAMES))
    for name, shape in (("any", (None, None, 3)), ("fixed", (64, 64, 3))):
        model = keras.Sequential(
            [keras.Input(shape), keras.layers.Rescaling(1 / 120), keras.layers.Conv2D(3, 1)]
        )
        # -(red - class)^2 but for what all classes share
        kernel = np.zeros((1, 1, 3, 3))
        kernel[0, 0, 0] = 0, 2, 4
        model.layers[-1].set_weights([kernel, np.array([0, -1, -4])])
        attach_record(model)
        model.save(folder / f"{name}.keras")
        attach_record(model, NAMES)
        model.save(folder / f"{name}_named.keras")
    linear_classifier(3).save(folder / "classifier.keras")
    return folder


@pytest.mark.thorough
def test_evaluates_a_segmenter(folder, tmp_path):
    model = load_model(folder / "any.keras")
    source = sources.open_source(str(folder / "data"), "validation")
    expected = evaluate(model, source, sides=(32, 64))
    assert expected["miou"] < 95 and expected["images"] == 3 and expected["shapes"] == 2
    command = ["evaluate", folder / "any_named.keras", "--data", folder / "data"]
    record = run_json(*command, "--sides", "32x64", "--output", tmp_path / "out")
    for name, value in expected.items():
        assert record[name] == pytest.approx(value, abs=1e-4)
    assert [row["class"] for row in record["classes"]] == [*NAMES]
    assert record["image_size"] is None and len(record["worst"]) == 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("report.json", "classes.csv", "confusion.csv", "confusion.png", "worst.png")
    }
    result = run(*command, "--scales", "0.5,1", "--flip", "--csv", tmp_path / "rows.csv")
    assert result.exit_code == 0, result.output
    assert "3 images\n  mean IoU  " in result.stdout and "images of 4 shapes" in result.stdout
    assert "all of it is evaluated" in result.stderr
    assert (tmp_path / "rows.csv").read_text("utf-8").startswith("class,iou,accuracy,pixels")
    windows = run_json(*command, "--sides", "64x80", "--window", "32", "--stride", "32x16")
    assert windows["shapes"] == 1
    record = run_json("evaluate", folder / "fixed.keras", "--data", folder / "data")
    assert (record["image_size"], record["shapes"]) == ([64, 64], 1)
    details = SegmentationReport(3, NAMES)
    fixed = load_model(folder / "fixed.keras")
    assert record["miou"] == evaluate(fixed, source, details=details)["miou"]
    assert json.loads(json.dumps(details.record())) == {
        name: record[name] for name in ("classes", "worst")
    }


@pytest.mark.thorough
@pytest.mark.skipif(BACKEND == "jax", reason="exports are TensorFlow's or torch's")
def test_evaluates_an_exported_segmenter(folder, tmp_path):
    path = tmp_path / "fixed.onnx"
    report = to_onnx(load_model(folder / "fixed_named.keras"), path, verbose=False)
    data = ["--data", folder / "data"]
    exported = run_json("evaluate", path, *data)
    assert exported["image_size"] == [64, 64] and exported["images"] == 3
    assert [row["class"] for row in exported["classes"]] == [*NAMES]
    of_keras = run_json("evaluate", folder / "fixed_named.keras", *data)
    assert exported["aacc"] == pytest.approx(of_keras["aacc"], abs=2)  # the nearest pixels' classes
    assert exported["aacc"] != of_keras["aacc"]
    assert "by the nearest pixel" in report.notes[-1]
    assert "differ a little" in run("evaluate", path, *data).stderr
    logits = tmp_path / "logits.onnx"
    report = to_onnx(load_model(folder / "fixed.keras"), logits, logits=True, verbose=False)
    assert not any("nearest" in note for note in report.notes)
    assert run_json("evaluate", logits, *data)["aacc"] == of_keras["aacc"]
    assert "differ" not in run("evaluate", logits, *data).stderr
    assert_refused(run("evaluate", path, *data, "--flip"), "--flip is for models of Keras")


@pytest.mark.parametrize(
    "model, arguments, messages",
    [
        ("any", "", ["any.keras is not in the folder of its training", "--data FOLDER"]),
        ("any", "--data DATA --crop 0.9", ["--crop is for classifiers", "is a segmenter"]),
        ("classifier", "--data DATA --flip", ["--flip is for segmenters", "is a classifier"]),
        ("any", "--data DATA --data-dir .", ["--data-dir is for classifiers"]),
        ("any", "--data DATA --scales 1;2", ["--scales must be numbers with commas", "'1;2'"]),
        ("any", "--data DATA --scales 0", ["--scales must be a number above 0", "--scales 0.0"]),
        ("any", "--data DATA --image-size 64", ["takes images of any size. Give --sides"]),
        ("fixed", "--data DATA --image-size 32", ["takes images of 64 x 64", "32 x 32"]),
        ("fixed", "--data DATA --sides 32", ["--sides is for models of any image size"]),
        ("any", "--data DATA --window 32 --stride 40", ["--stride must be at most --window"]),
        ("any_named", "--data DATA --labels LABELS", ["'a', 'b', 'c'", "'cat'"]),
        ("classifier", "--data DATA", ["classes"]),
    ],
)
def test_bad_input_is_told_in_one_line(model, arguments, messages, folder):
    labels = folder / "labels.txt"
    labels.write_text("a\nb\nc\n")
    words = [{"DATA": folder / "data", "LABELS": labels}.get(w, w) for w in arguments.split()]
    assert_refused(run("evaluate", folder / f"{model}.keras", *words), *messages)
