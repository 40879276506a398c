"""Files that version 0.1.0 wrote: they load for ever, and give the same outputs.

`data/0.1.0/write.py` tells how they were made, on TensorFlow.
"""

import json
import pathlib
import re
import shutil
import zipfile

import keras
import numpy as np
import pytest
from helpers import BACKEND

import keras_sepvit
from keras_sepvit import SepViT, SepViTConfig

FOLDER = pathlib.Path(__file__).parent / "data" / "0.1.0"
CLASSES = 3

# Blocks with several windows and with one, at 32 x 32 pixels.
CONFIG = SepViTConfig(
    hidden_dims=(4, 8, 8, 12),
    depths=(1, 2, 1, 1),
    num_heads=(1, 2, 2, 3),
    window_sizes=((2,), (2, 4), (1,), (1,)),
    drop_path_rate=0.05,
    mlp_ratio=2.0,
    image_size=32,
)

# Changes to the digits recipe for one short epoch.
RECIPE = (
    "data.train_split=train",
    "batch_size=256",
    "epochs=1",
    "optimizer.warmup_epochs=0.5",
    "precision=float32",
)

REGISTERED = (
    "keras_sepvit>DropPath",
    "keras_sepvit>FanOutNormal",
    "keras_sepvit>LayerwiseAdamW",
    "keras_sepvit>MLP",
    "keras_sepvit>PEG",
    "keras_sepvit>PatchEmbedding",
    "keras_sepvit>SepViTBackbone",
    "keras_sepvit>SepViTBlock",
    "keras_sepvit>SeparableAttention",
    "keras_sepvit>TruncatedNormal",
    "keras_sepvit>WarmupCosine",
)
REGISTERED_BY_HUB = (
    "keras_sepvit.hub>SepViTBackbone",
    "keras_sepvit.hub>SepViTImageClassifier",
    "keras_sepvit.hub>SepViTImageClassifierPreprocessor",
    "keras_sepvit.hub>SepViTImageConverter",
)


@pytest.fixture(scope="module")
def outputs():
    with np.load(FOLDER / "outputs.npz") as file:
        return dict(file)


def assert_close(actual, expected):
    assert np.abs(expected - expected[0]).max() > 0.01  # they tell images apart
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def predict(model, images):
    """`model.predict`, without XLA on TensorFlow, where compiling takes longer than all else."""
    model.jit_compile = BACKEND == "jax"
    return model.predict(images, verbose=0)


def named(text):
    """The registered names of this package's classes in JSON text."""
    return set(re.findall(r"keras_sepvit[\w.]*>\w+", text))


def config_of(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("config.json").decode()


@pytest.mark.parametrize("kind", ["keras", "weights.h5", "pth"])
def test_weights(kind, outputs):
    if kind == "pth":
        pytest.importorskip("torch")
    model = SepViT(CONFIG, classes=CLASSES, weights=FOLDER / f"classifier.{kind}")
    assert_close(predict(model, outputs["images"]), outputs["classifier"])


def test_a_whole_model(outputs):
    model = keras.saving.load_model(FOLDER / "classifier.keras")
    assert_close(predict(model, outputs["images"]), outputs["classifier"])


@pytest.mark.filterwarnings("ignore:Skipping variable loading")  # it has taken no step
def test_a_compiled_model_around_a_backbone(outputs):
    model = keras.saving.load_model(FOLDER / "compiled.keras")
    assert_close(predict(model, outputs["images"] / np.float32(255)), outputs["compiled"])
    assert type(model.optimizer).__name__ == "LayerwiseAdamW"
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-6)


@pytest.mark.hub
def test_a_preset(outputs):
    pytest.importorskip("keras_hub")
    from keras_sepvit import hub

    classifier = hub.SepViTImageClassifier.from_preset(str(FOLDER / "preset"))
    assert_close(predict(classifier, outputs["images"]), outputs["preset"])
    texts = "".join(path.read_text() for path in (FOLDER / "preset").glob("*.json"))
    assert named(texts) == {*REGISTERED_BY_HUB}
    for name in REGISTERED_BY_HUB:
        assert keras.saving.get_registered_object(name).__module__.startswith("keras_sepvit.hub")


@pytest.mark.once
@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_an_exported_file(kind, outputs):
    predictor = keras_sepvit.runtime.Predictor(FOLDER / f"classifier.{kind}")
    assert_close(predictor.predict(outputs["images"]), outputs["classifier"])


def test_a_runs_checkpoint(outputs, tmp_path, monkeypatch):
    from keras_sepvit.classification import task
    from keras_sepvit.training import Trainer, load_recipe

    monkeypatch.setattr(task, "DIGITS_CONFIG", CONFIG)  # no recipe is for so small a network
    shutil.copy(FOLDER / "checkpoint.npz", tmp_path)
    run = Trainer(load_recipe("digits", RECIPE), tmp_path)
    if BACKEND != "tensorflow":
        with pytest.raises(ValueError, match="written with the tensorflow backend"):
            run.train(verbose=0)
        return
    result = run.train(verbose=0)
    with np.load(FOLDER / "checkpoint.npz") as file:
        (logs,) = json.loads(str(file["header"]))["progress"]["history"]
    assert result.history == [{**logs, "epoch": 1}]
    assert result.best == pytest.approx(100 * logs["val_accuracy"])
    last = keras.saving.load_model(tmp_path / "last.keras")
    assert_close(predict(last, outputs["images"]), outputs["run"])


@pytest.mark.once
def test_registered_names_stay():
    found = named(config_of(FOLDER / "classifier.keras") + config_of(FOLDER / "compiled.keras"))
    assert found and found <= {*REGISTERED}
    for name in REGISTERED:
        registered = keras.saving.get_registered_object(name)
        assert registered is not None and registered.__name__ == name.split(">")[1]
