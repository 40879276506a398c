"""Instance segmenters by the trainer: learning, files, resume, half precision, no objects."""

import json
import pathlib
import shlex

import keras
import numpy as np
import pytest
from helpers import BACKEND, SMALL, to_numpy
from PIL import Image
from resumption import check_a_killed_run
from training_data import COLOURS, write_rectangles
from typer.testing import CliRunner

from keras_sepvit.cli import app
from keras_sepvit.detection import task
from keras_sepvit.detection.rcnn_losses import LOSS_NAMES
from keras_sepvit.instances import evaluate
from keras_sepvit.recipes import load_recipe
from keras_sepvit.record import RUN_RECORD_NAME, Record
from keras_sepvit.training.trainer import Trainer

SHORT = (
    *("model.image_size=[64,96]", "model.channels=16", "model.num_convs=1", "model.units=32"),
    *("model.proposals=50", "model.samples=32", "batch_size=4", "ema_decay=0.8"),
    *("augmentation.short_sides=null", "data.keep_empty=true", "precision=float32"),
    *("optimizer.reference_batch=null", "optimizer.warmup_epochs=0.5"),
    "optimizer.learning_rate=5e-3",
)


@pytest.fixture(scope="module", autouse=True)
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "SCENES_128_CONFIG", SMALL)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Photos that lie, and photos that stand, without objects: a batch of them in training."""
    folder = tmp_path_factory.mktemp("photos")
    write_rectangles(folder, "train", (64, 80), [2] * 24)
    write_rectangles(folder, "train", (80, 64), [0] * 4)
    write_rectangles(folder, "valid", (64, 80), [2] * 4)
    write_rectangles(folder, "valid", (80, 64), [1] * 2)
    return folder


def changes_of(data, *changes):
    return [f"data.name=folder:{data}", *SHORT, *changes]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A finished run of four epochs, and what the command line printed."""
    folder = tmp_path_factory.mktemp("runs") / "scenes"
    changes = changes_of(data, "epochs=4", "checkpoint_steps=2")
    command = ["train", "instances-digits", *changes, "--output", str(folder), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


@pytest.mark.by_default_on("torch")
def test_a_run_learns_and_leaves_its_files(trained, data):
    folder, result = trained
    losses = [epoch["loss"] for epoch in result["history"]]
    assert losses[3] < 0.9 * losses[0]
    assert {*LOSS_NAMES, "val_ap", "val_mask_ap"} <= result["history"][0].keys()
    assert result["best"] == max(epoch["val_mask_ap"] for epoch in result["history"])
    record = Record.from_json((folder / RUN_RECORD_NAME).read_text(), "record")
    assert (record.task, record.image_size) == ("instances", (64, 96))
    assert (record.class_names, record.category_ids) == ((*COLOURS,), (10, 11, 12))
    for picture in ("batch.png", "curves.png", "worst.png"):
        with Image.open(folder / picture) as opened:
            assert min(opened.size) > 100
    kept = load_recipe(folder / "recipe.yaml")
    assert kept == load_recipe(
        "instances_digits", changes_of(data, "epochs=4", "checkpoint_steps=2")
    )


@pytest.mark.by_default_on("torch")
def test_the_best_model_gives_the_result_that_it_was_chosen_by(trained, data):
    folder, result = trained
    model = keras.saving.load_model(folder / "best.keras")
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    source = load_recipe("instances_digits", changes_of(data)).make_task().open()[1]
    best = max(result["history"], key=lambda epoch: epoch["val_mask_ap"])
    found = evaluate(model, source)
    for name in ("ap", "ap50", "mask_ap", "mask_ap50", "mask_ar_100"):
        # The photos' two resizes are alike to 1 of 255.
        assert found[name] == pytest.approx(best[f"val_{name}"], abs=0.5)


@pytest.mark.thorough
def test_a_killed_run_ends_with_the_same_weights(trained, data, tmp_path):
    """What is sampled goes on from the random state of the checkpoint."""
    changes = changes_of(data, "epochs=4", "checkpoint_steps=2")
    uninterrupted, result = trained
    results = "loss", "val_ap", "val_mask_ap"
    check_a_killed_run(
        "instances_digits", changes, tmp_path / "killed", uninterrupted, result["history"], results
    )


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_100_steps_in_half_precision_with_batches_without_objects(data, precision, tmp_path):
    if (BACKEND, precision) == ("jax", "mixed_float16"):
        pytest.skip("JAX on CPUs has no products in float16")
    changes = [f"precision={precision}", "steps=100", "batch_size=2", "epochs=8"]
    changes = changes_of(data, *changes, "data.validation_split=null")
    trainer = Trainer(load_recipe("instances_digits", changes), tmp_path)
    losses = [epoch["loss"] for epoch in trainer.train(verbose=0).history]
    assert np.isfinite(losses).all() and np.mean(losses[-2:]) < 0.8 * losses[0]
    for weight in trainer.network.weights:
        assert np.isfinite(to_numpy(weight)).all()


@pytest.mark.by_default_on("torch")
def test_a_batch_without_objects_trains_what_tells_them_from_the_ground(data, tmp_path):
    trainer = Trainer(load_recipe("instances_digits", changes_of(data)), tmp_path / "run")
    batches = trainer.training_data(0, 0).as_numpy_iterator()
    batch = next(batch for batch in batches if (batch["labels"] < 0).all())
    assert batch["image"].shape == (4, 96, 64, 3)  # of standing photos
    assert batch["masks"].dtype == "uint8" and not batch["masks"].any()
    losses = trainer.model.train_on_batch(batch, return_dict=True)
    assert losses["box_loss"] == losses["rpn_box_loss"] == losses["mask_loss"] == 0
    assert 0 < losses["rpn_class_loss"] < np.inf and 0 < losses["class_loss"] < np.inf


@pytest.mark.thorough
@pytest.mark.once
def test_the_end_of_a_run_says_how_to_go_on(tmp_path, monkeypatch):
    """By commands that run as they are; on a folder that has no split to validate on."""
    monkeypatch.chdir(tmp_path)
    write_rectangles(pathlib.Path("parts"), "train", (64, 80), [2] * 12)
    settings = [*SHORT, "model.variant=sepvit_scenes", "epochs=1"]

    def run(*arguments):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    told = run("train", "parts", "--task", "instances", *settings)
    assert "held out for validation" in told and "; best mask_ap " in told
    predict, export = (shlex.split(line)[1:] for line in told.splitlines()[-2:])
    run(*predict)
    assert len([*pathlib.Path("runs/parts/predicted").glob("*.*")]) == 1
    assert export[:2] == ["export", "runs/parts/best.keras"]
