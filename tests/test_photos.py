"""A folder of photos, up to the file for a phone, by README's commands."""

import json
import os
import pathlib
import re
import shlex

import numpy as np
import pytest
import training_data
from PIL import Image
from typer.testing import CliRunner

from keras_sepvit.classification import automatic, task
from keras_sepvit.cli import app
from keras_sepvit.recipes import load_recipe
from keras_sepvit.runtime import Predictor
from keras_sepvit.training import device
from keras_sepvit.training.sources.labelled import open_splits
from keras_sepvit.training.trainer import Trainer

pytestmark = pytest.mark.once

README = pathlib.Path(__file__).parents[1] / "README.md"
SMALL = (
    *("model.variant=sepvit_digits", "model.image_size=32"),
    *("epochs=4", "optimizer.warmup_epochs=1"),
)
COLOURS = {"naïve rot": (220, 40, 40), "grün": (40, 200, 40), "青": (40, 60, 220)}


def write_photos(folder, count=16):
    """Photos of three colours, with noise."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(rng.normal(colour, 30, (40, 50, 3)), 0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"IMG {number}.jpg")
    first = folder / "grün" / "IMG 0.jpg"
    first.rename(first.with_name(os.fsdecode(b"a\xff.jpg")))


def run(line, *changes):
    result = CliRunner().invoke(app, [*shlex.split(line, comments=True)[1:], *changes])
    assert result.exit_code == 0, (line, result.output)
    return result


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(task, "DIGITS_CONFIG", training_data.SMALL_DIGITS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_folder_of_photos_to_a_file(folder):
    write_photos(folder / "photos")
    Image.new("RGB", (60, 40), COLOURS["grün"]).save(folder / "new.jpg")
    held_out = open_splits("folder:photos", "train", "validation")[1].paths
    broken = next(path for path in held_out if path.isprintable())
    (folder / "photos" / broken).write_bytes(b"no photo")
    block = README.read_text("utf-8").split("## From a folder of photos")[1]
    train, look, evaluate, predict, export, use = re.findall(r"^    (.+)$", block, re.M)[:6]

    told = run(train, *SMALL).stdout
    assert "(train-fold0, 39 images, 3 classes); held out for validation: 9 images" in told
    assert "batch_size=4 (39 images" in told and "learning_rate=" in told
    assert re.search(r"; best top1 [\d.]+ % after epoch \d", told)
    assert "best.keras on 8 images of folder:photos (validation-fold0, 9 images, 3 cl" in told
    assert re.search(r"^grün +2 ", told, re.M)
    run_folder = folder / "runs" / "photos"
    pictures = [shlex.split(look, comments=True)[1], *re.findall(r"\w+\.png", look)[1:]]
    for name in ("confusion.png", *(pathlib.Path(picture).name for picture in pictures[1:])):
        assert (run_folder / name).exists()
    report = json.loads((run_folder / "report.json").read_text("utf-8"))
    assert (run_folder / "mistakes.png").exists() == bool(report["mistakes"])

    # The commands that training ends with are ready to be pasted.
    *_, next_predict, next_export, unreadable = told.splitlines()
    assert unreadable == f"1 image could not be read: {broken}"
    assert "IMG" in run(next_predict).stdout
    assert next_export == export.split(" #")[0].strip().replace(
        "photos.tflite", "runs/photos/best.tflite"
    )

    shown = json.loads(run(evaluate, "--json").stdout)
    assert (shown["images"], shown["split"]) == (8, "validation-fold0")
    assert (shown["top1"], shown["classes"]) == (report["top1"], report["classes"])
    assert shown["loss"] == pytest.approx(report["loss"], abs=1e-4)
    everything = run(evaluate, "--data", "photos", "--json")
    assert json.loads(everything.stdout)["images"] == 47
    assert "Note: training has seen 39 of 48 images" in everything.stderr

    (of_keras,) = json.loads(run(predict, "--json").stdout)
    run(export)
    (of_file,) = json.loads(run(use, "--json").stdout)
    assert sorted(guess["label"] for guess in of_file["predictions"]) == sorted(COLOURS)
    assert of_file["predictions"][0] == {
        **of_keras["predictions"][0],
        "probability": pytest.approx(of_keras["predictions"][0]["probability"], abs=1e-3),
    }
    assert Predictor("photos.tflite").class_names == sorted(COLOURS)


def test_what_is_decided_stays_when_a_run_goes_on_elsewhere(folder, monkeypatch, capsys):
    write_photos(folder / "photos", 40)
    changes = ("model.variant=sepvit_digits", "model.image_size=32", "epochs=1")
    Trainer(load_recipe("photos", changes), "run").train(verbose=0)
    kept = load_recipe("run/recipe.yaml")
    assert (kept.batch_size, kept.data.name) == (8, "folder:photos")
    monkeypatch.setattr(device, "memory", lambda: (True, 1000))
    trainer = Trainer(load_recipe("photos", changes), "run")
    assert trainer.recipe == kept and not trainer.decisions
    with pytest.raises(ValueError, match="differs in batch_size"):
        Trainer(load_recipe("photos", [*changes, "batch_size=16"]), "run")
    with pytest.raises(ValueError, match="data.name .folder:photos there, folder:other here"):
        Trainer(load_recipe("photos", [*changes, "data.name=folder:other"]), "run")
    training_data.write_folder(folder / "photos", ("tulip",), 5)
    message = "96 images of 3 classes, .* now has 100 images of 4 classes; new: tulip. Give this"
    with pytest.raises(ValueError, match=message):
        Trainer(load_recipe("photos", changes), "run")
    assert (folder / "run" / "classes.txt").read_text(
        "utf-8"
    ).split() == "grün naïve rot 青".split()


@pytest.mark.parametrize(
    "images, machine, changes, expected",
    [
        (96, (False, 8e9), (), (128, 8, 3.5e-4)),
        (10_000, (False, 8e9), (), (128, 32, 7.1e-4)),
        (10_000, (False, 2.5e8), (), (128, 4, 2.5e-4)),
        (10_000, (True, None), (), (224, 128, 1.4e-3)),
        (10_000, (True, 8e9), ("model.variant=sepvit_b",), (224, 4, 2.5e-4)),
        (10_000, (True, 8e9), ("model.weights=digits", "batch_size=64"), (32, 64, 2e-4)),
        (3, (False, None), ("model.image_size=64", "epochs=3"), (64, 1, 1.25e-4)),
    ],
)
def test_size_and_batch_follow_the_machine(monkeypatch, images, machine, changes, expected):
    monkeypatch.setattr(device, "memory", lambda: machine)
    recipe = load_recipe("photos", ["data.name=folder:x", *changes])
    done, chosen = automatic.decided(recipe, images, devices=1)
    found = done.model.image_size, done.batch_size, done.peak_learning_rate()
    assert found == (*expected[:2], pytest.approx(expected[2], rel=0.05))
    assert done.optimizer.warmup_epochs == (0.75 if "epochs=3" in changes else 5)
    given = {change.split("=")[0] for change in changes}
    decided = {key for key in recipe.AUTOMATIC if not key.startswith("distill.")}
    assert chosen.keys() == decided - given
    shared = automatic.decided(recipe, images, devices=3)[0].batch_size
    assert shared % 3 == 0 or "batch_size" in given


def test_folders_that_cannot_be_trained_on(folder, monkeypatch):
    def refused(*arguments):
        result = CliRunner().invoke(app, ["train", *arguments])
        assert result.exit_code == 2 and not list(folder.rglob("recipe.yaml"))
        return result.stderr

    assert "keras-sepvit train FOLDER" in refused("photos")
    training_data.write_folder(folder / "photos", ("cat",), 3)
    told = refused("photos")
    assert "One class is nothing to tell apart" in told and "1 class)" in told
    training_data.write_folder(folder / "photos", ("dog",), 3)
    training_data.write_folder(folder / "rooms", ("images", "Masks"), 3)
    assert "train FOLDER --task segmentation" in refused("rooms")
    training_data.write_rectangles(folder / "parts", "train", (64, 64), [1])
    assert "train FOLDER --task detection" in refused("parts")
    assert "lies among the pictures of" in refused("photos", "--output", "photos/run")
    monkeypatch.chdir(folder / "photos")
    assert "lies among the pictures of" in refused(".")
    assert load_recipe(".").data.name == "folder:."
