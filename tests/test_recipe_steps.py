"""One training step of every recipe, at its full size, from JPEG files."""

import keras
import numpy as np
import pytest
from PIL import Image

from keras_sepvit import SepViT
from keras_sepvit.recipes import RECIPES, load_recipe
from keras_sepvit.training.trainer import Trainer


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


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a SepViT-Lite for ten classes at 224."""
    path = tmp_path_factory.mktemp("weights") / "lite.weights.h5"
    SepViT("sepvit_lite", classes=10).save_weights(path)
    return path


def one_step(name, folder, *changes):
    changes = [
        f"data.name=folder:{folder}",
        "data.validation_split=null",
        "batch_size=2",
        "precision=float32",
        *changes,
    ]
    trainer = Trainer(load_recipe(name, changes), folder / "not written")
    batch = trainer.first_batch()
    before = [keras.ops.convert_to_numpy(v) for v in trainer.network.trainable_variables]
    loss = trainer.train_step(batch)
    after = [keras.ops.convert_to_numpy(v) for v in trainer.network.trainable_variables]
    changed = [not np.array_equal(x, y) for x, y in zip(before, after, strict=True)]
    assert all(np.isfinite(x).all() for x in after)
    return trainer, loss, changed


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("imagenet")])
def test_imagenet_recipes(name, folder):
    trainer, loss, changed = one_step(name, folder)
    assert trainer.network.input_shape == (None, 224, 224, 3)
    # Four classes that it knows nothing of: about log 4, and not far off.
    assert loss == pytest.approx(np.log(4), abs=1.0)
    # Window tokens of blocks whose branch is dropped for both images stay as they are.
    assert np.mean(changed) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, changes, size",
    [
        ("finetune_384", (), 384),
        ("finetune", (), 224),
        ("frozen_backbone", (), 224),
    ],
)
def test_finetuning_recipes_start_from_weights(name, changes, size, folder, weights):
    trainer, loss, changed = one_step(
        name,
        folder,
        "model.variant=sepvit_lite",
        f"model.weights={weights}",
        "optimizer.warmup_epochs=0",
        *changes,
    )
    assert trainer.network.input_shape == (None, size, size, 3)
    assert np.isfinite(loss)
    trained = SepViT("sepvit_lite", classes=10, weights=weights)
    loaded = trainer.network.get_layer("stage1_embed").proj.kernel
    kernel = keras.ops.convert_to_numpy(trained.get_layer("stage1_embed").proj.kernel)
    distance = np.abs(keras.ops.convert_to_numpy(loaded) - kernel).max()
    if name == "frozen_backbone":
        assert len(changed) == 2 and all(changed)  # kernel and bias of the head
        assert distance == 0
    else:
        assert np.mean(changed) > 0.5
        assert distance < 1e-3
