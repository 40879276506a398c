"""Whole runs of the trainer: learning, files, resume after a kill, and what stops a run."""

import csv
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import training_data
from helpers import BACKEND, to_numpy
from PIL import Image
from typer.testing import CliRunner

from keras_sepvit.classification import task
from keras_sepvit.classification.recipes import DIGITS_VARIANT
from keras_sepvit.cli import app
from keras_sepvit.inference import KerasPredictor
from keras_sepvit.recipes import load_recipe
from keras_sepvit.runtime import Predictor
from keras_sepvit.training import callbacks
from keras_sepvit.training.callbacks import NonFiniteLossError
from keras_sepvit.training.trainer import Trainer

# The digits recipe in 11 steps an epoch. To trace RandAugment takes longer than to train.
SHORT = (
    "data.train_split=train",
    "augmentation.auto_augment=null",
    "batch_size=128",
    "optimizer.warmup_epochs=0.5",
    "data.validation_crop=0.7",  # not what `evaluate` does with digits by itself
)


def recipe(*changes, name="digits"):
    return load_recipe(name, [*SHORT, *changes])


def final_weights(folder):
    return [to_numpy(w) for w in keras.saving.load_model(folder / "last.keras").weights]


@pytest.fixture(scope="module", autouse=True)
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "DIGITS_CONFIG", training_data.SMALL_DIGITS)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of two epochs, and what the command line printed."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    command = ["train", "digits", *SHORT, "epochs=2", "checkpoint_steps=4", "--output", str(folder)]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


def test_a_run_learns_and_leaves_its_files(trained):
    folder, result = trained
    assert result["epochs"] == 2 and result["unreadable"] == 0
    losses = [epoch["val_loss"] for epoch in result["history"]]
    assert losses[1] < losses[0]
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert float(rows[1]["val_top1"]) == pytest.approx(result["history"][1]["val_top1"])
    assert float(rows[1]["images_per_second"]) > 0
    assert result["best"] == max(epoch["val_top1"] for epoch in result["history"])
    with Image.open(folder / "batch.png") as picture:
        assert min(picture.size) > 300
    assert list((folder / "tensorboard").rglob("events.*"))
    assert (folder / "classes.txt").read_text().split() == [str(i) for i in range(10)]
    assert load_recipe(folder / "recipe.yaml") == recipe("epochs=2", "checkpoint_steps=4")
    assert not [path for path in folder.rglob(".*") if path.is_file()]  # nothing half written


@pytest.mark.thorough
def test_a_model_remembers_its_evaluation_wherever_it_goes(trained, tmp_path):
    folder, result = trained
    path = shutil.copy(folder / "best.keras", tmp_path)
    best = max(result["history"], key=lambda epoch: (epoch["val_top1"], -epoch["val_loss"]))

    def run(command, *arguments):
        done = CliRunner().invoke(app, [command, path, *map(str, arguments), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    measured = run("evaluate", "--data", "digits")
    assert measured["top1"] == pytest.approx(best["val_top1"])
    assert measured["loss"] == pytest.approx(best["val_loss"], rel=1e-4)
    assert run("evaluate", "--data", "digits", "--crop", 1)["loss"] != measured["loss"]
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 50)).save(photo)
    (guess, *_) = run("predict", photo)[0]["predictions"]
    assert guess["label"] == str(guess["class"])

    digits = [str(number) for number in range(10)]
    predictor = KerasPredictor(keras.saving.load_model(path))
    if BACKEND == "tensorflow":
        run("export", "--format", "litert", "--output", tmp_path / "best.tflite")
        predictor = Predictor(tmp_path / "best.tflite")
        assert predictor.record.class_names == tuple(digits)
        assert predictor.record.activation == "softmax"
    assert (predictor.class_names, predictor.crop) == (digits, 0.7)
    assert predictor.interpolation == "bilinear"


@pytest.mark.by_default_on("tensorflow", "torch")
def test_the_saved_model_has_averaged_weights_and_gives_probabilities(trained):
    folder, result = trained
    best = keras.saving.load_model(folder / "best.keras")
    assert {layer.dtype_policy.name for layer in best.layers} == {"float32"}
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype="uint8")
    np.testing.assert_allclose(to_numpy(best(images)).sum(axis=1), 1, atol=1e-4)
    trainer = Trainer(recipe("epochs=2", "checkpoint_steps=4"), folder)
    trainer._resume()
    averages = trainer.model.optimizer._model_variables_moving_average
    last = keras.saving.load_model(folder / "last.keras")
    for weight, average in zip(last.trainable_weights, averages, strict=True):
        np.testing.assert_array_equal(to_numpy(weight), to_numpy(average))


def test_a_finished_run_is_not_trained_again(trained):
    folder, result = trained
    before = (folder / "last.keras").stat().st_mtime_ns
    again = Trainer(recipe("epochs=2", "checkpoint_steps=4"), folder).train(verbose=0)
    assert again.history == result["history"]
    assert (folder / "last.keras").stat().st_mtime_ns == before


def test_a_folder_keeps_to_its_recipe(trained):
    folder, _ = trained
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate"):
        Trainer(recipe("epochs=2", "checkpoint_steps=4", "optimizer.learning_rate=1"), folder)


@pytest.mark.by_default_on("torch")
def test_a_killed_run_ends_with_the_same_weights(trained, tmp_path):
    """Killed inside an epoch, in a checkpoint write and in evaluation, at random moments.

    The last two are about NumPy's files and numbers, on each backend alike.
    """
    folder = tmp_path / "killed"
    checkpoint = folder / "checkpoint.npz"
    script = pathlib.Path(__file__).with_name("killed_run.py")
    changes = [*SHORT, "epochs=2", "checkpoint_steps=4"]
    seen = []
    moments = ("epoch", "checkpoint", "evaluation") if BACKEND == "tensorflow" else ("epoch",)
    for moment in moments:
        command = [sys.executable, script, moment, "digits", folder, *changes]
        process = subprocess.run(command, capture_output=True, text=True, timeout=400)
        assert process.returncode == -signal.SIGKILL, process.stderr
        with np.load(checkpoint) as file:
            progress = json.loads(str(file["header"]))["progress"]
        seen.append((progress["epoch"], progress["step"]))
    assert seen[0][1]
    if BACKEND == "tensorflow":  # The second run died in its first write: the third began there.
        assert seen[0] == seen[1] < seen[2]

    resumed = Trainer(recipe("epochs=2", "checkpoint_steps=4"), folder).train(verbose=0)
    uninterrupted, result = trained
    for weight, expected in zip(final_weights(folder), final_weights(uninterrupted), strict=True):
        np.testing.assert_array_equal(weight, expected)
    for epoch, expected in zip(resumed.history, result["history"], strict=True):
        for key in ("loss", "val_loss", "val_top1"):
            assert epoch[key] == expected[key]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.thorough
def test_a_dry_run_writes_nothing(tmp_path):
    folder = tmp_path / "run"
    command = ["train", "digits", *SHORT, "--dry-run", "--json", "--output", str(folder)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    description = json.loads(result.stdout)
    assert description["images of a step"] == [128, 32, 32, 3]
    assert description["dtype of the images"] == "uint8"
    assert description["outputs of the network"] == [None, 10]
    assert description["hours"] > 0 and description["limited by"] in ("data", "steps")
    assert description["steps of an epoch"] == 11
    assert np.isfinite(description["loss"])
    assert not folder.exists()


@pytest.mark.by_default_on("torch")
def test_an_infinite_loss_stops_the_run_and_names_the_images(tmp_path):
    broken = recipe(
        "epochs=2",
        "checkpoint_steps=1",
        "optimizer.learning_rate=1e38",
        "optimizer.warmup_epochs=0",
        "optimizer.clip_norm=null",
    )
    with pytest.raises(NonFiniteLossError, match=r"step \d+ of epoch 1.*digits/train:\d+"):
        Trainer(broken, tmp_path).train(verbose=0)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_is_not_lost_where_python_drops_exceptions(tmp_path, monkeypatch):
    class Object:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)

    def on_train_batch_begin(self, batch, logs=None):
        steps.append(batch)
        if batch == 1:
            Object()

    steps = []
    monkeypatch.setattr(callbacks.Throughput, "on_train_batch_begin", on_train_batch_begin)
    command = ["train", "digits", *SHORT, "epochs=1", "--output", str(tmp_path / "run")]
    # Tests in the background of a shell have it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = CliRunner().invoke(app, command)
        after = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 130, result.output
    assert "Stopped. There is no checkpoint yet" in result.stderr
    assert steps == [0, 1]
    assert after is signal.default_int_handler


def test_frozen_stages_keep_their_weights(tmp_path):
    trainer = Trainer(recipe("model.frozen_stages=3"), tmp_path)
    before = {weight.path: to_numpy(weight) for weight in trainer.network.weights}
    trainer.train_step(trainer.first_batch())
    changed = [w.path for w in trainer.network.weights if (to_numpy(w) != before[w.path]).any()]
    assert {path.split("_")[0] for path in changed} >= {"stage4", "head/kernel"}
    assert not [path for path in changed if path.startswith(("stage1", "stage2", "stage3"))]


def test_images_of_training_are_not_validated_on(tmp_path):
    training_data.write_folder(tmp_path, ("cat", "dog"), 5)
    settings = [f"data.name=folder:{tmp_path}", "batch_size=2", "data.train_split=train-fold1"]
    with pytest.raises(ValueError, match=r"6 images .* in common.*validation_split=null"):
        load_recipe(
            "imagenet_lite", [*settings, "data.validation_split=train-fold2"]
        ).make_task().open()
    training, validation = load_recipe("imagenet_lite", settings[:2]).make_task().open()
    assert (training.size, validation.size) == (8, 2)


@pytest.mark.thorough
def test_training_from_the_imagenet_builder(tmp_path):
    """Two steps from the record files that TFDS's own builder made of (tiny) archives."""
    changes = [
        f"data.data_dir={training_data.imagenet()}",
        f"model.variant={DIGITS_VARIANT}",
        "model.image_size=32",
        "batch_size=6",
        "epochs=1",
        "precision=float32",
    ]
    result = Trainer(load_recipe("imagenet_lite", changes), tmp_path).train(verbose=0)
    (epoch,) = result.history
    assert np.isfinite(epoch["loss"]) and epoch["loss"] < 2 * np.log(1000)
    assert {"val_top1", "val_top5"} <= epoch.keys()
    assert (tmp_path / "classes.txt").read_text().startswith("n01440764\n")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["digitz"], "imagenet_t"),
        (["digits", "batch_size=5000"], "1,437 images"),
        (["digits", "model.image_size=30"], "30"),
        (["digits", "optimizer.lr=1"], "lr"),
        (["imagenet_t", "data.name=folder:/nowhere"], "nowhere"),
        (["finetune", "data.name=digits"], "model.weights=VALUE"),
        (["finetune", "tests"], "'tests' is a folder, and changes are written key=value."),
        (["photos"], "keras-sepvit train FOLDER"),
        (["photos", "tests", "--epochs", "3"], "no option --epochs; .* Write epochs=3."),
        (["digits", "--lr=1e-3", "epochs=1"], "Write optimizer.learning_rate=1e-3."),
        (["digits", "--batch-size"], "Write batch_size=VALUE."),
        (["digits", "--ouptut", "x"], "no option --ouptut; .* Write --output."),
        (["--whatever", "4"], "no option --whatever; .* --show prints them."),
    ],
)
def test_bad_input_ends_with_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(pathlib.Path(__file__).parents[1])
    result = CliRunner().invoke(app, ["train", *arguments, "--output", str(tmp_path / "run")])
    assert result.exit_code == 2 and result.output.count("\n") == 1
    assert re.search(message, result.output) and "Traceback" not in result.output
    assert not (tmp_path / "run").exists()
