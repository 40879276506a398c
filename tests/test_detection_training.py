"""Detectors by the trainer: learning, files, two shapes of batches, resume, no objects."""

import json
import pathlib
import re
import shlex

import keras
import numpy as np
import pytest
from helpers import BACKEND, SMALL, to_numpy
from PIL import Image
from resumption import check_a_killed_run
from training_data import COLOURS, write_rectangles
from typer.testing import CliRunner

from keras_sepvit import SepViT
from keras_sepvit.cli import app
from keras_sepvit.detection import evaluate, retinanet_losses, task
from keras_sepvit.recipes import load_recipe
from keras_sepvit.record import RUN_RECORD_NAME, Record
from keras_sepvit.training.trainer import Trainer

SHORT = (
    *("model.image_size=[64,96]", "model.channels=16", "model.num_convs=1"),
    *("augmentation.short_sides=null", "data.keep_empty=true", "ema_decay=0.8"),
    *("batch_size=4", "optimizer.reference_batch=null", "optimizer.warmup_epochs=0.5"),
    *("optimizer.learning_rate=5e-3", "precision=float32"),
)


@pytest.fixture(scope="module", autouse=True)
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "SCENES_128_CONFIG", SMALL)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Photos that lie and photos that stand, the latter without objects in training: whole batches.

    16 of 40 to train on, 2 of 6 to validate on.
    """
    folder = tmp_path_factory.mktemp("photos")
    write_rectangles(folder, "train", (64, 80), [2] * 24)
    write_rectangles(folder, "train", (80, 64), [0] * 16)
    write_rectangles(folder, "valid", (64, 80), [2] * 4)
    write_rectangles(folder, "valid", (80, 64), [1] * 2)
    return folder


def changes_of(data, *changes):
    return [f"data.name=folder:{data}", *SHORT, *changes]


def recipe(data, *changes):
    return load_recipe("detect_digits", changes_of(data, *changes))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A finished run of four epochs, and what the command line printed."""
    folder = tmp_path_factory.mktemp("runs") / "scenes"
    changes = changes_of(data, "epochs=4", "checkpoint_steps=2")
    command = ["train", "detect-digits", *changes, "--output", str(folder), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


@pytest.mark.by_default_on("torch")
def test_a_run_learns_and_leaves_its_files(trained, data):
    folder, result = trained
    losses = [epoch["loss"] for epoch in result["history"]]
    assert losses[3] < 0.9 * losses[0] and result["best"] > 0
    assert {"class_loss", "box_loss", "val_ap", "val_ap50"} <= result["history"][0].keys()
    assert result["best"] == max(epoch["val_ap"] for epoch in result["history"])
    record = Record.from_json((folder / RUN_RECORD_NAME).read_text(), "record")
    assert (record.task, record.image_size) == ("detection", (64, 96))
    assert (record.class_names, record.category_ids) == ((*COLOURS,), (10, 11, 12))
    assert (record.pixels, record.activation, record.crop) == ("0..255", None, None)
    for picture in ("batch.png", "curves.png"):
        with Image.open(folder / picture) as opened:
            assert min(opened.size) > 100
    kept = load_recipe(folder / "recipe.yaml")
    assert kept == recipe(data, "epochs=4", "checkpoint_steps=2")


@pytest.mark.by_default_on("torch")
def test_the_best_model_gives_the_result_that_it_was_chosen_by(trained, data):
    """Lying and standing photos, each on its own canvas, in the order of the data."""
    folder, result = trained
    model = keras.saving.load_model(folder / "best.keras")
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert model.input_shape == (None, None, None, 3)
    source = task.Detection(recipe(data)).open()[1]
    best = max(result["history"], key=lambda epoch: epoch["val_ap"])
    found = evaluate(model, source)
    for name in ("ap", "ap50", "ap75", "ap_small", "ar_1", "ar_10", "ar_100"):
        # The photos' two resizes are alike to 1 of 255.
        assert found[name] == pytest.approx(best[f"val_{name}"], abs=0.5)
    assert found["ap_large"] is None and "val_ap_large" not in best


@pytest.mark.thorough
def test_a_killed_run_ends_with_the_same_weights(trained, data, tmp_path):
    changes = changes_of(data, "epochs=4", "checkpoint_steps=2")
    uninterrupted, result = trained
    results = "loss", "val_ap", "val_ar_100"
    check_a_killed_run(
        "detect_digits", changes, tmp_path / "killed", uninterrupted, result["history"], results
    )


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_200_steps_in_half_precision_with_batches_without_objects(data, precision, tmp_path):
    if (BACKEND, precision) == ("jax", "mixed_float16"):
        pytest.skip("JAX on CPUs has no products in float16")
    changes = [f"precision={precision}", "steps=200", "batch_size=2", "epochs=20"]
    trainer = Trainer(recipe(data, *changes, "data.validation_split=null"), tmp_path)
    history = trainer.train(verbose=0).history
    losses = [epoch["loss"] for epoch in history]
    assert np.isfinite(losses).all() and np.mean(losses[-3:]) < 0.7 * losses[0]
    for weight in trainer.network.weights:
        assert np.isfinite(to_numpy(weight)).all()


@pytest.mark.thorough
def test_a_batch_without_objects_has_a_class_loss_alone(data, tmp_path):
    trainer = Trainer(recipe(data), tmp_path / "run")
    batches = trainer.training_data(0, 0).as_numpy_iterator()
    batch = next(batch for batch in batches if (batch["labels"] < 0).all())
    assert batch["image"].shape == (4, 96, 64, 3)  # of standing photos
    outputs = trainer.network(batch["image"])
    targets = {"boxes": batch["boxes"], "labels": batch["labels"], "sizes": batch["size"]}
    losses = retinanet_losses(targets, outputs, trainer.network.anchors)
    (class_loss, weight), (box_loss, _) = (losses[name] for name in ("class_loss", "box_loss"))
    assert (float(box_loss), float(weight)) == (0.0, 4.0)
    assert 0 < float(class_loss) < np.inf
    kernel = trainer.network.get_layer("bbox_head").trainable_variables[0]
    before = to_numpy(kernel)
    assert trainer.train_step(batch) == pytest.approx(float(class_loss) / 4, rel=1e-5)
    assert np.abs(to_numpy(kernel) - before).max() > 0


@pytest.mark.thorough
@pytest.mark.once
def test_a_run_on_a_split_without_boxes_has_no_result_and_a_best_model(data, tmp_path, capsys):
    folder = tmp_path / "data"
    write_rectangles(folder, "train", (64, 80), [2] * 4)
    write_rectangles(folder, "valid", (64, 80), [0] * 3)
    trainer = Trainer(recipe(folder, "epochs=2"), tmp_path / "run")
    result = trainer.train(verbose=2)
    assert (result.best, result.best_epoch) == (None, 2)
    assert not [key for key in result.history[0] if key.startswith("val_ap")]
    assert (tmp_path / "run" / "best.keras").exists()
    assert re.search(r"\bAP +-", trainer.evaluate_best().text())


@pytest.mark.thorough
@pytest.mark.once
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


@pytest.mark.once
def test_what_is_left_open_is_decided_by_data_and_weights(data):
    def decided(*changes):
        settings = [f"data.name=folder:{data}", "data.keep_empty=true", *changes]
        detection = load_recipe("finetune_detector", settings).make_task()
        detection.open()
        return detection, detection.decide(devices=1)

    detection, chosen = decided()
    made = detection.recipe
    assert (made.batch_size, made.optimizer.backbone_rate) == (4, 1.0)
    keys = [f"optimizer.{key}" for key in ("learning_rate", "backbone_rate", "warmup_epochs")]
    assert [*chosen] == ["batch_size", *keys, "model.weights"]
    assert made.optimizer.warmup_epochs == 2
    assert detection.source.groups is None
    detection, chosen = decided("model.weights=digits", "batch_size=8", "epochs=2")
    made = detection.recipe
    assert (made.batch_size, made.optimizer.backbone_rate) == (8, 0.1)
    assert made.optimizer.warmup_epochs == 0.5
    assert made.optimizer.learning_rate < decided("batch_size=8")[0].recipe.optimizer.learning_rate
    assert [*chosen] == keys
    # Of 40 photos 16 stand: enough for a batch of 16, too few for one of 17.
    for size, batch, groups in (
        ("[64,96]", 16, [24, 16]),
        ("[96,64]", 16, [16, 24]),
        ("[64,96]", 17, [40]),
        ("[96,64]", 17, [0, 40]),
    ):
        changes = [f"model.image_size={size}", f"batch_size={batch}", "model.weights=digits"]
        detection, chosen = decided(*changes)
        assert detection.source.group_sizes == groups
        assert ("model.image_size" in chosen) == (batch == 17)
    assert chosen["model.image_size"].startswith("[64, 96] in training (pictures of the other")


@pytest.mark.thorough
@pytest.mark.once
def test_a_dry_run_checks_and_draws_the_labels_and_writes_nothing_else(data, tmp_path):
    command = ["train", str(data), "--task", "detection", "--dry-run", *SHORT]
    command += ["model.variant=sepvit_scenes", "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert re.search(r"^folder:.*^training data ", result.stdout, re.M | re.S)
    assert re.search(r"^labelled pictures +.*batch\.png$", result.stdout, re.M)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["batch.png"]
    with Image.open(tmp_path / "run" / "batch.png") as page:  # 16 pictures, of batches of 4
        assert sorted(page.size) == [4 * (2 * 64 + 4) - 4, 4 * (2 * 96 + 4) - 4]


@pytest.mark.thorough
@pytest.mark.once
def test_the_end_of_a_run_says_how_to_go_on(data, tmp_path, monkeypatch):
    """By commands that run as they are; on a folder that has no split to validate on."""
    monkeypatch.chdir(tmp_path)
    write_rectangles(pathlib.Path("parts"), "train", (64, 80), [2] * 12)
    settings = [*SHORT, "model.variant=sepvit_scenes", "epochs=1"]

    def run(*arguments):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    told = run("train", "parts", "--task", "detection", *settings)
    assert "held out for validation" in told and "; best ap " in told
    pictures = re.search(r"^Pictures: (.+)$", told, re.M)[1].split(", ")
    assert {"batch.png", "curves.png"} <= {pathlib.Path(path).name for path in pictures}
    assert all(pathlib.Path(path).is_file() for path in pictures)
    predict, export = (shlex.split(line)[1:] for line in told.splitlines()[-2:])
    run(*predict)
    assert len([*pathlib.Path("runs/parts/predicted").glob("*.*")]) == 1
    assert export[:2] == ["export", "runs/parts/best.keras"]
