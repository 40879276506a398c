"""One training step of recipes from JPEG files: one with its own network, all others a small one's.

All on torch, where nothing is compiled; elsewhere those whose step is of its own kind.

Images have the sizes of the recipes.
"""

import numpy as np
import pytest
from helpers import BACKEND, SMALL, to_numpy
from PIL import Image

from keras_sepvit import SepViT
from keras_sepvit.classification import task
from keras_sepvit.classification.recipes import DIGITS_VARIANT
from keras_sepvit.recipes import load_recipe
from keras_sepvit.training.trainer import Trainer

torch_only = pytest.mark.skipif(BACKEND != "torch", reason="compiled by none under PyTorch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """JPEGs of ImageNet's usual size in four class folders."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("bee", "cat", "dog", "owl"):
        (folder / name).mkdir()
        small = rng.integers(0, 256, (7, 8, 3), dtype="uint8")
        image = Image.fromarray(small).resize((400, 350), Image.Resampling.BICUBIC)
        image.save(folder / name / "0.jpg")
    return folder


@pytest.fixture
def small_network(monkeypatch):
    """The change to a recipe that makes its network `SMALL`."""
    monkeypatch.setattr(task, "DIGITS_CONFIG", SMALL)
    return f"model.variant={DIGITS_VARIANT}"


def one_step(name, folder, *changes):
    changes = [
        f"data.name=folder:{folder}",
        "data.validation_split=null",
        "batch_size=2",
        "precision=float32",
        *changes,
    ]
    trainer = Trainer(load_recipe(name, changes), folder.parent / "not written")
    batch = trainer.first_batch()
    before = [to_numpy(v) for v in trainer.network.trainable_variables]
    loss = trainer.train_step(batch)
    after = [to_numpy(v) for v in trainer.network.trainable_variables]
    changed = [not np.array_equal(x, y) for x, y in zip(before, after, strict=True)]
    assert all(np.isfinite(x).all() for x in after)
    return trainer, loss, changed


def assert_first_step(trainer, loss, changed):
    assert trainer.network.input_shape == (None, 224, 224, 3)
    # Four classes that it knows nothing of: about log 4, and not far off.
    assert loss == pytest.approx(np.log(4), abs=1.0)
    # Window tokens of blocks whose branch is dropped for both images stay as they are.
    assert np.mean(changed) > 0.5


@pytest.mark.thorough
@torch_only
def test_imagenet_recipe_at_full_size(folder):
    trainer, *step = one_step("imagenet_t", folder)
    assert trainer.network.count_params() > 30e6
    assert_first_step(trainer, *step)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name", ["imagenet_t", pytest.param("imagenet_b", marks=torch_only)]
)  # Lite and S have T's settings
def test_imagenet_recipes(name, folder, small_network):
    assert_first_step(*one_step(name, folder, small_network))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name, size",
    [
        ("finetune_384", 384),
        pytest.param("finetune", 224, marks=torch_only),
        ("frozen_backbone", 224),
    ],
)
def test_finetuning_recipes_start_from_weights(name, size, folder, small_network, tmp_path):
    trained = SepViT(SMALL, classes=10)
    trained.save_weights(tmp_path / "small.weights.h5")
    weights = f"model.weights={tmp_path / 'small.weights.h5'}"
    changes = [small_network, weights, "optimizer.warmup_epochs=0"]
    trainer, loss, changed = one_step(name, folder, *changes)
    assert trainer.network.input_shape == (None, size, size, 3)
    assert np.isfinite(loss)
    loaded, kernel = (
        to_numpy(model.get_layer("stage1_embed").proj.kernel)
        for model in (trainer.network, trained)
    )
    distance = np.abs(loaded - kernel).max()
    if name == "frozen_backbone":
        assert len(changed) == 2 and all(changed)  # kernel and bias of the head
        assert distance == 0
    else:
        assert np.mean(changed) > 0.5
        assert distance < 1e-3
