"""Checkpoints: whole or not at all, and refused where they do not belong."""

import keras
import numpy as np
import pytest
from helpers import BACKEND, SMALL, images, to_numpy

from keras_sepvit import SepViT
from keras_sepvit.classification import BatchAugmentation, Classification
from keras_sepvit.recipes import load_recipe
from keras_sepvit.training import checkpoint
from keras_sepvit.training.checkpoint import load_checkpoint, save_checkpoint
from keras_sepvit.training.model import TrainingModel


def training_model(classes=4):
    network = SepViT(SMALL, classes=classes, classifier_activation=None)
    task = Classification(load_recipe("digits"))
    model = TrainingModel(network, task, BatchAugmentation(classes, seed=0))
    model.compile(keras.optimizers.AdamW(1e-3, use_ema=True), jit_compile=BACKEND == "jax")
    model.optimizer.build(model.trainable_variables)
    return model


def step(model, seed):
    pixels = np.clip(images((4, 64, 64, 3), seed) * 60 + 120, 0, 255).astype("uint8")
    erased = np.tile(np.array([0, 0, 32, 32], "float32"), (4, 1))
    batch = {"image": pixels, "label": np.arange(4, dtype="int32"), "erased": erased}
    return model.train_on_batch(batch, return_dict=True)["loss"]


def state(model):
    return [to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]


@pytest.mark.thorough
def test_a_restored_run_takes_the_same_steps(tmp_path):
    model = training_model()
    step(model, 0)
    save_checkpoint(tmp_path / "c.npz", model, {"epoch": 3})
    step(model, 1)
    expected = state(model)

    other = training_model()
    step(other, 5)  # other weights, moments and random states
    assert load_checkpoint(tmp_path / "c.npz", other) == {"epoch": 3}
    step(other, 1)
    for restored, value in zip(state(other), expected, strict=True):
        np.testing.assert_array_equal(restored, value)


def test_weights_that_are_not_finite_do_not_replace_a_good_checkpoint(tmp_path):
    model = training_model()
    path = tmp_path / "c.npz"
    save_checkpoint(path, model, {})
    good = path.read_bytes()
    weight = model.trainable_variables[0]
    weight.assign(np.full(weight.shape, np.nan, "float32"))
    with pytest.raises(FloatingPointError, match="not finite"):
        save_checkpoint(path, model, {})
    assert path.read_bytes() == good
    assert [file.name for file in tmp_path.iterdir()] == ["c.npz"]


@pytest.mark.once
def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    model = training_model()
    path = tmp_path / "c.npz"
    save_checkpoint(path, model, {})
    good = path.read_bytes()

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint.np, "savez", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, model, {})
    assert path.read_bytes() == good
    assert [file.name for file in tmp_path.iterdir()] == ["c.npz"]


@pytest.mark.once
def test_files_that_do_not_belong_are_refused(tmp_path):
    model = training_model()
    before = state(model)
    path = tmp_path / "c.npz"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(path, model)
    save_checkpoint(path, training_model(classes=5), {})
    with pytest.raises(ValueError, match="another model or recipe"):
        load_checkpoint(path, model)
    save_checkpoint(path, model, {})
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(path, model)
    for now, then in zip(state(model), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_another_backends_checkpoint_is_refused(tmp_path, monkeypatch):
    model = training_model()
    save_checkpoint(tmp_path / "c.npz", model, {})
    monkeypatch.setattr(checkpoint.keras.config, "backend", lambda: "numpy")
    with pytest.raises(ValueError, match=f"KERAS_BACKEND={BACKEND}"):
        load_checkpoint(tmp_path / "c.npz", model)
