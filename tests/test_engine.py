"""The engine with a task of its own: what is not about classification."""

import dataclasses
import re

import keras
import numpy as np
import pytest
from helpers import BACKEND, to_numpy
from keras import ops

from keras_sepvit.training.callbacks import Validation
from keras_sepvit.training.recipe import OptimizerRecipe, Recipe
from keras_sepvit.training.sources.source import ArraySource
from keras_sepvit.training.task import Scores, Task
from keras_sepvit.training.tensorflow import tf
from keras_sepvit.training.trainer import Trainer

SIDE = 8
COUNT = 26


@dataclasses.dataclass
class ModelRecipe:
    weights: str | None = None


@dataclasses.dataclass
class BrightnessRecipe(Recipe):
    """Learns the brightness of those images that have a label, which are few in some batches."""

    task: str = "brightness"
    model: ModelRecipe = dataclasses.field(default_factory=ModelRecipe)

    def make_task(self):
        return Brightness(self)


class Brightness(Task):
    loss_names = ("square", "absolute")
    best = "accuracy"
    curves = ("accuracy",)

    def open(self):
        rng = np.random.default_rng(0)
        levels = rng.integers(0, 256, COUNT)
        images = np.broadcast_to(levels[:, None, None, None], (COUNT, SIDE, SIDE, 3))
        labels = (levels > 127).astype("int32")
        sources = (ArraySource("levels", split, images, labels, classes=2) for split in "ab")
        return tuple(sources)

    def transform(self, example, seed):
        image = example["image"]
        level = tf.cast(image[0, 0, 0], tf.float32) / 255
        return {"image": image, "level": level, "labelled": example["label"] == 1}

    def transform_for_evaluation(self, example):
        return self.transform(example, None)

    def draw(self, seed, size, part):
        return {"sign": tf.random.stateless_uniform((size,), seed, -1.0, 1.0)}

    def build(self, dtype, weights=None):
        inputs = keras.Input((SIDE, SIDE, 3))
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
        return keras.Model(inputs, keras.layers.Dense(1, name="head")(x))

    def augmentation(self, part):
        return ImagesAndTargets()

    def losses(self, targets, outputs):
        weights = ops.cast(targets["labelled"], "float32")
        errors = outputs[:, 0] - targets["level"]
        weight = ops.maximum(ops.sum(weights), 1)
        return {
            "square": (ops.sum(weights * errors**2), weight),
            "absolute": (ops.sum(weights * ops.abs(errors)), weight),
        }

    def answers(self, outputs):
        return {"level": outputs[:, 0]}

    def deployed(self):
        return self.build("float32")

    def scores(self):
        return Closeness()

    def files(self):
        return {"unit.txt": "levels of 0..1\n"}

    def draw_batch(self, path, images, targets):
        path.write_bytes(b"no picture")


class ImagesAndTargets(keras.layers.Layer):
    def call(self, batch):
        return ops.cast(batch["image"], "float32"), batch


class Closeness(Scores):
    def __init__(self):
        self.close = self.images = 0

    def update(self, answers, examples):
        self.close += int(np.sum(np.abs(answers["level"] - examples["level"]) < 0.05))
        self.images += len(examples["level"])

    def state(self):
        return self.close, self.images

    def merge(self, states):
        self.close, self.images = np.sum(states, axis=0).tolist()

    def result(self):
        return {"accuracy": 100 * self.close / self.images}

    def counts(self):
        return {"images": self.images}


open_levels = Brightness.open


def recipe(**changes):
    settings = {"epochs": 30, "batch_size": 4, "checkpoint_steps": 0, "precision": "float32"}
    optimizer = OptimizerRecipe(
        learning_rate=0.1, reference_batch=4, warmup_epochs=1, weight_decay=0.0
    )
    return BrightnessRecipe(optimizer=optimizer, **{**settings, **changes})


@pytest.mark.by_default_on("tensorflow")
def test_a_task_of_its_own_learns(tmp_path):
    trainer = Trainer(recipe(snapshot_epochs=20), tmp_path)
    saved, built = [], []
    save, deployed = trainer.save, trainer.task.deployed
    trainer.save = lambda name: (saved.append(name), save(name))
    trainer.task.deployed = lambda: built.append(deployed()) or built[-1]
    result = trainer.train(verbose=0)
    assert result.epochs == 30 and result.best > 90
    assert saved.count("best.keras") > 1 and len(built) == 1
    assert [path.name for path in tmp_path.glob("epoch_*")] == ["epoch_020.keras"]
    last = result.history[-1]
    assert last["loss"] == pytest.approx(last["square"] + last["absolute"], rel=1e-5)
    assert last["loss"] < 0.2 * result.history[0]["loss"]
    assert (tmp_path / "unit.txt").read_text() == "levels of 0..1\n"
    model = keras.saving.load_model(tmp_path / "best.keras")
    image = np.full((1, SIDE, SIDE, 3), 204, "uint8")
    assert to_numpy(model(image))[0, 0] == pytest.approx(0.8, abs=0.1)


def test_losses_are_means_over_what_counts_not_over_batches(tmp_path):
    """An epoch's loss with a rate of zero is that of all labelled images together."""
    frozen = recipe(epochs=1, batch_size=13)
    frozen.optimizer.learning_rate = 1e-30
    trainer = Trainer(frozen, tmp_path)
    batches = list(trainer.training_data(0, 0).take(2).as_numpy_iterator())
    counts = [batch["labelled"].sum() for batch in batches]
    assert counts[0] != counts[1]
    (logs,) = trainer.train(verbose=0).history
    whole = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    errors = to_numpy(trainer.network(whole["image"]))[:, 0] - whole["level"]
    expected = np.mean(errors[whole["labelled"]] ** 2)
    assert logs["square"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.thorough
def test_a_run_is_counted_in_updates_and_resumes_in_its_short_last_epoch(tmp_path, capsys):
    """Six updates of 6 an epoch and 3 more: the second epoch is shorter."""
    whole = Trainer(recipe(steps=9), tmp_path / "whole").train(verbose=0)
    assert whole.epochs == 2

    class Stop(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.epoch == 1 and batch == 2:
                raise KeyboardInterrupt

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

    settings = recipe(steps=9, checkpoint_steps=1)
    with pytest.raises(KeyboardInterrupt):
        Trainer(settings, tmp_path / "stopped", callbacks=[Stop()]).train(verbose=0)
    assert (tmp_path / "stopped" / "curves.png").exists()
    resumed = Trainer(settings, tmp_path / "stopped").train()
    told = capsys.readouterr().out
    compiled = "compiled" if BACKEND == "jax" else "not compiled"
    assert f"Training on one device in float32, {compiled}." in told
    assert "Going on after step 2 of epoch 2 of 2." in told
    for name in ("square", "absolute", "val_accuracy", "learning_rate"):
        assert [e[name] for e in resumed.history] == [e[name] for e in whole.history]


@pytest.mark.thorough
def test_a_run_ends_when_patience_does_and_a_stop_between_changes_nothing(tmp_path, capsys):
    """At a rate of zero no epoch is better than the first."""

    def settings(**changes):
        still = recipe(epochs=9, patience=3, **changes)
        still.optimizer.learning_rate = still.optimizer.warmup_learning_rate = 1e-30
        return still

    whole = Trainer(settings(), tmp_path / "whole").train()
    assert (whole.epochs, whole.best_epoch) == (4, 1)
    told = capsys.readouterr().out
    assert "Stopped after epoch 4 of 9: the best was epoch 1, and patience is 3." in told

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(settings(), tmp_path / "stopped", callbacks=[Stop()]).train(verbose=0)
    resumed = Trainer(settings(), tmp_path / "stopped").train(verbose=0)
    assert [logs["square"] for logs in resumed.history] == [e["square"] for e in whole.history]

    capsys.readouterr()
    assert Trainer(settings(), tmp_path / "whole").train().epochs == 4
    assert "Going on" not in capsys.readouterr().out
    patient = settings()
    patient.patience = 5
    assert Trainer(patient, tmp_path / "whole").train(verbose=0).epochs == 6


def test_patience_needs_something_to_wait_for(tmp_path, monkeypatch):
    monkeypatch.setattr(Brightness, "open", lambda self: (open_levels(self)[0], None))
    with pytest.raises(ValueError, match="patience=3 waits .* Set patience=0"):
        Trainer(recipe(patience=3), tmp_path)


def test_a_recipe_may_change_where_the_training_does_not(tmp_path):
    Trainer(recipe(epochs=1), tmp_path).train(verbose=0)
    jit_compile = BACKEND != "torch"
    Trainer(recipe(epochs=1, checkpoint_steps=3, jit_compile=jit_compile), tmp_path)
    with pytest.raises(ValueError, match="another recipe; it differs in seed"):
        Trainer(recipe(epochs=1, seed=5), tmp_path)
    file = tmp_path / "recipe.yaml"
    text = file.read_text()
    file.write_text(re.sub("^task: .*$", "task: detection", text, flags=re.M))
    with pytest.raises(ValueError, match="holds a run of detection, and this .* --task detection"):
        Trainer(recipe(epochs=1), tmp_path)
    file.write_text(text)
    (tmp_path / "checkpoint.npz").unlink()  # nothing was trained yet
    Trainer(recipe(epochs=1, seed=5), tmp_path)


def test_a_trainer_wants_a_recipe():
    with pytest.raises(TypeError, match="load_recipe.'digits'.*Received: 'digits'"):
        Trainer("digits", "runs")


def test_of_equal_results_the_lower_loss_is_best():
    """`best.keras` is saved again for the same accuracy with a lower loss, not with a higher."""
    results = iter([(90.0, 1.0), (90.0, 1.2), (90.0, 0.9), (89.0, 0.1), (91.0, 2.0)])
    saved = []
    progress = {"rank": None}
    validation = Validation(
        lambda: dict(zip(("top1", "loss"), next(results), strict=True)),
        "top1",
        lambda: saved.append(epoch),
        progress,
    )
    for epoch in range(5):
        validation.on_epoch_end(epoch, {})
    assert saved == [0, 2, 4] and progress["rank"] == [91, -2]
