"""Segmenters by the trainer: learning, files, resume after a kill, and where they start from."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import BACKEND, SMALL, to_numpy
from PIL import Image
from resumption import check_a_killed_run
from typer.testing import CliRunner

import keras_sepvit
from keras_sepvit import SepViT
from keras_sepvit.cli import app
from keras_sepvit.recipes import load_recipe
from keras_sepvit.record import RUN_RECORD_NAME, Record
from keras_sepvit.segmentation import segment, task
from keras_sepvit.segmentation.scores import SegmentationScores
from keras_sepvit.training.sources.scenes import CLASS_NAMES, DigitScenes
from keras_sepvit.training.trainer import Trainer

SIZE = (64, 64)
SHORT = (
    *("model.image_size=[64,64]", "model.channels=8", "augmentation.sides=[64,64]"),
    *("batch_size=4", "optimizer.reference_batch=null", "optimizer.warmup_epochs=0.5"),
    "precision=float32",
)


@pytest.fixture(scope="module", autouse=True)
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "SCENES_CONFIG", SMALL)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of scenes: 20 to train on, 6 to validate on, of another size than the network's."""
    folder = tmp_path_factory.mktemp("scenes")
    for split, count in (("train", 20), ("validation", 6)):
        for name in ("images", "masks"):
            (folder / split / name).mkdir(parents=True)
        for number, scene in enumerate(DigitScenes(split, count, (64, 80), (20, 40), (1, 4))):
            file = f"{number}.png"
            Image.fromarray(scene.image).save(folder / split / "images" / file)
            Image.fromarray(scene.class_map).save(folder / split / "masks" / file)
    (folder / "classes.txt").write_text("\n".join(("background", *CLASS_NAMES)))
    return folder


def changes_of(data, *changes):
    return [f"data.name=folder:{data}", *SHORT, *changes]


def recipe(data, *changes):
    return load_recipe("segment_digits", changes_of(data, *changes))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A finished run of three epochs, and what the command line printed."""
    folder = tmp_path_factory.mktemp("runs") / "scenes"
    changes = changes_of(data, "epochs=3", "checkpoint_steps=2")
    command = ["train", "segment-digits", *changes, "--output", str(folder), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


@pytest.mark.by_default_on("torch")
def test_a_run_learns_and_leaves_its_files(trained, data):
    folder, result = trained
    losses = [epoch["loss"] for epoch in result["history"]]
    assert losses[2] < 0.9 * losses[0] < np.log(11)
    assert result["best"] == max(epoch["val_miou"] for epoch in result["history"])
    names = ("background", *CLASS_NAMES)
    assert (folder / "classes.txt").read_text().splitlines() == [*names]
    record = Record.from_json((folder / RUN_RECORD_NAME).read_text(), "record")
    assert (record.task, record.image_size, record.class_names) == ("segmentation", SIZE, names)
    assert (record.pixels, record.activation, record.crop) == ("0..255", "linear", None)
    for picture in ("batch.png", "curves.png"):
        with Image.open(folder / picture) as opened:
            assert min(opened.size) > 100
    kept = load_recipe(folder / "recipe.yaml")
    assert kept == recipe(data, "epochs=3", "checkpoint_steps=2")


@pytest.mark.by_default_on("torch")
def test_the_best_model_gives_the_result_that_it_was_chosen_by(trained, data):
    folder, result = trained
    model = keras.saving.load_model(folder / "best.keras")
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    source = task.Segmentation(recipe(data)).open()[1]
    scores = SegmentationScores(source.classes)
    for number in range(source.size):
        _, photo, class_map = source.read(number)
        (found,) = segment(model, [photo])
        assert found.shape == class_map.shape == (64, 80)
        scores.add(class_map, found)
    best = max(result["history"], key=lambda epoch: epoch["val_miou"])
    for name, value in scores.result().items():
        # The photos' two resizes are alike to 1 of 255.
        assert value == pytest.approx(best[f"val_{name}"], abs=0.5)


@pytest.mark.by_default_on("torch")
def test_a_run_does_not_go_on_under_swapped_classes(trained, data):
    folder, _ = trained
    changes = "epochs=3", "checkpoint_steps=2"
    names = (data / "classes.txt").read_text().splitlines()
    try:
        (data / "classes.txt").write_text("\n".join([*names[1:], names[0]]))
        with pytest.raises(ValueError, match="20 images of 11 classes; the classes are in another"):
            Trainer(recipe(data, *changes), folder)
    finally:
        (data / "classes.txt").write_text("\n".join(names))


LOGITS_ELSEWHERE = """
import sys, keras, keras_sepvit, numpy as np
model = keras.saving.load_model(sys.argv[1])
np.save(sys.argv[3], keras.ops.convert_to_numpy(model(np.load(sys.argv[2]))))
"""


@pytest.mark.thorough
def test_the_best_model_gives_the_same_on_another_backend(trained, tmp_path):
    folder, _ = trained
    scene = DigitScenes("validation", 1, SIZE, (20, 40), (1, 4))[0]
    images = scene.image[np.newaxis].astype("float32")
    np.save(tmp_path / "images.npy", images)
    paths = folder / "best.keras", tmp_path / "images.npy", tmp_path / "logits.npy"
    root = pathlib.Path(keras_sepvit.__file__).parents[1]
    subprocess.run(
        [sys.executable, "-c", LOGITS_ELSEWHERE, *paths],
        check=True,
        env={
            **os.environ,
            "KERAS_BACKEND": "tensorflow" if BACKEND == "torch" else "torch",
            "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
        },
    )
    logits = to_numpy(keras.saving.load_model(folder / "best.keras")(images))
    assert np.abs(logits).max() > 0.1
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), logits, atol=1e-4)


@pytest.mark.thorough
def test_a_killed_run_ends_with_the_same_weights(trained, data, tmp_path):
    changes = changes_of(data, "epochs=3", "checkpoint_steps=2")
    uninterrupted, result = trained
    results = "loss", "val_miou", "val_aacc"
    check_a_killed_run(
        "segment_digits", changes, tmp_path / "killed", uninterrupted, result["history"], results
    )


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_200_steps_in_half_precision(data, precision, tmp_path):
    if (BACKEND, precision) == ("jax", "mixed_float16"):
        pytest.skip("JAX on CPUs has no products in float16")
    changes = [f"precision={precision}", "model.head=upernet", "steps=200", "batch_size=2"]
    trainer = Trainer(recipe(data, *changes, "data.validation_split=null"), tmp_path)
    losses = [epoch["loss"] for epoch in trainer.train(verbose=0).history]
    assert np.isfinite(losses).all() and np.mean(losses[-3:]) < 0.8 * losses[0]
    assert {"decode_loss", "auxiliary_loss"} <= trainer.progress["history"][0].keys()


@pytest.mark.thorough
def test_it_starts_from_a_classifier_of_another_size_and_keeps_frozen_stages(data, tmp_path):
    classifier = SepViT(SMALL, input_shape=(128, 128, 3), classes=7)
    classifier.save_weights(tmp_path / "classifier.weights.h5")
    settings = [f"model.weights={tmp_path}/classifier.weights.h5", "model.frozen_stages=2"]
    with pytest.warns(UserWarning, match="all of the heads"):
        trainer = Trainer(recipe(data, *settings), tmp_path / "run")
    layers = [f"stage{stage}_embed" for stage in (1, 2, 3, 4)]

    def distances():
        pairs = ((m.get_layer(name) for m in (trainer.network, classifier)) for name in layers)
        return [
            np.abs(to_numpy(found.proj.kernel) - to_numpy(start.proj.kernel)).max()
            for found, start in pairs
        ]

    assert distances() == [0, 0, 0, 0]
    trainer.train_step(trainer.first_batch())
    stage1, stage2, stage3, stage4 = distances()
    assert stage1 == stage2 == 0 < min(stage3, stage4)


@pytest.mark.by_default_on("torch")
def test_the_run_tells_what_it_starts_from_and_what_a_batch_changes(data, tmp_path, capsys):
    settings = [f"data.name=folder:{data}", "model.variant=sepvit_lite", "model.channels=8"]
    small = ["model.image_size=[64,64]", "batch_size=4", "images=8", "optimizer.warmup_images=4"]
    trainer = Trainer(load_recipe("ade20k_upernet_t", [*settings, *small]), tmp_path)
    trainer.task.check_data = lambda: "all labels were read"
    trainer._fit_to_the_end = lambda verbose: None
    trainer.save = lambda name: None
    trainer.train(verbose=2)
    told = capsys.readouterr().out
    assert "model.weights=null (all weights start at random" in told
    numbers = "peak learning rate 1.5e-05, 1 steps of warm-up, 2 in all"
    assert f"Batches of 4 images, where the recipe's numbers are for 16: {numbers}." in told
    assert "all labels were read" in told


@pytest.mark.once
def test_what_is_left_open_is_decided_by_data_and_weights(data):
    def decided(*changes):
        settings = [f"data.name=folder:{data}", *changes]
        segmentation = load_recipe("finetune_segmenter", settings).make_task()
        segmentation.open()
        chosen = segmentation.decide(devices=1)
        return segmentation.recipe, chosen

    made, chosen = decided()
    assert (made.batch_size, made.optimizer.backbone_rate) == (2, 1.0)
    assert made.optimizer.learning_rate == 3.5e-4  # 1e-3 for 16
    assert chosen["batch_size"] == "2 (20 images)" and "model.weights" in chosen
    made, chosen = decided("model.weights=digits", "batch_size=8")
    assert (made.batch_size, made.optimizer.backbone_rate) == (8, 0.1)
    assert made.optimizer.learning_rate == 1.4e-4  # 2e-4 for 16
    keys = ("learning_rate", "backbone_rate", "warmup_epochs")
    assert [*chosen] == [f"optimizer.{key}" for key in keys]


@pytest.mark.thorough
def test_a_dry_run_checks_and_draws_the_labels_and_writes_nothing_else(data, tmp_path):
    command = ["train", str(data), "--task", "segmentation", "--dry-run", *SHORT]
    command += ["model.variant=sepvit_scenes", "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert re.search(r"^folder:.*^training data ", result.stdout, re.M | re.S)
    counts = re.findall(r"^background +(\d+) ", result.stdout, re.M)
    assert counts == ["20", "6"]
    assert re.search(r"outputs of the network +\(None, 64, 64, 11\)", result.stdout)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["batch.png"]


@pytest.mark.thorough
@pytest.mark.once
def test_the_end_of_a_run_says_how_to_go_on(data, tmp_path, monkeypatch):
    """By commands that run as they are; on a folder that has no split to validate on."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data / "train", "rooms")
    shutil.copy(data / "classes.txt", "rooms")
    settings = [*SHORT, "model.variant=sepvit_scenes", "epochs=1"]

    def run(*arguments):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    told = run("train", "rooms", "--task", "segmentation", *settings)
    assert "held out for validation: 2 images" in told and "; best miou " in told
    assert re.search(r"^ +mean IoU ", told, re.M)
    pictures = re.search(r"^Pictures: (.+)$", told, re.M)[1].split(", ")
    names = {"batch.png", "confusion.png", "curves.png", "worst.png"}
    assert {pathlib.Path(path).name for path in pictures} == names
    assert all(pathlib.Path(path).is_file() for path in pictures)
    predict, export = (shlex.split(line)[1:] for line in told.splitlines()[-2:])
    run(*predict)
    assert len([*pathlib.Path("runs/rooms/predicted").glob("*_mask.png")]) == 1
    assert export[:2] == ["export", "runs/rooms/best.keras"]
    with pytest.raises(ValueError, match="'rooms/images/run' lies among the pictures of"):
        Trainer(load_recipe("rooms", settings, "segmentation"), "rooms/images/run")


@pytest.mark.once
def test_a_mask_that_does_not_fit_is_refused_before_the_first_step(data, tmp_path):
    folder = tmp_path / "data"
    for path in [*data.rglob("*.png"), data / "classes.txt"]:
        target = folder / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    wrong = folder / "train" / "masks" / "13.png"
    Image.new("L", (80, 64), 40).save(wrong)
    command = ["train", "segment-digits", *changes_of(folder), "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert str(wrong) in result.output and "40" in result.output
    assert not (tmp_path / "run").exists()
