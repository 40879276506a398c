"""The quick start, run as a user runs it."""

import dataclasses
import pathlib
import re
import runpy

import keras
import numpy as np
import pytest
from helpers import BACKEND
from PIL import Image

from keras_sepvit.configs import DIGITS_CONFIG

QUICKSTART = pathlib.Path(__file__).parents[1] / "examples" / "quickstart.py"


@pytest.fixture(scope="module")
def quickstart():
    return runpy.run_path(str(QUICKSTART))


def printed_right(capsys):
    """How many held-out digits the script says it has read right."""
    return int(re.search(r"^Accuracy .* \((\d+) right\)$", capsys.readouterr().out, re.M)[1])


@pytest.mark.skipif(BACKEND != "torch", reason="compiled by none under PyTorch; `make quickstart`")
def test_trains_saves_loads_and_draws(quickstart, tmp_path, capsys, monkeypatch):
    # Compiling takes most of the time of a short run: one block a stage.
    shallow = dataclasses.replace(
        DIGITS_CONFIG, depths=(1, 1, 1, 1), window_sizes=((2,), (2,), (1,), (1,))
    )
    monkeypatch.setitem(quickstart["train"].__globals__, "DIGITS_CONFIG", shallow)
    folder = tmp_path / "a" / "b"
    quickstart["main"](["--epochs", "2", "--output-dir", str(folder)])

    right = printed_right(capsys)
    _, images, _, labels = quickstart["load_images"]()
    assert right > 0.5 * len(labels)
    assert {path.name for path in folder.iterdir()} == {"digits.keras", "quickstart.png"}
    model = keras.saving.load_model(folder / "digits.keras")
    assert np.sum(quickstart["predict"](model, images).argmax(axis=1) == labels) == right
    with Image.open(folder / "quickstart.png") as picture:
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24)) > 100

    attention = quickstart["window_attention"](model, images[0])
    assert attention.shape == (4, 4, 4, 4)
    np.testing.assert_allclose(attention.sum(axis=(2, 3)), 1.0, rtol=1e-5)


def test_holds_out_the_same_stratified_fifth_each_time(quickstart):
    train_images, test_images, train_labels, test_labels = quickstart["load_images"]()
    keras.utils.set_random_seed(1)
    again = quickstart["load_images"]()

    np.testing.assert_array_equal(test_images, again[1])
    assert len(train_images) == 1437 and len(test_images) == 360
    assert train_images.dtype == "uint8" and train_images.max() == 255
    shares = [np.bincount(labels) / len(labels) for labels in (train_labels, test_labels)]
    np.testing.assert_allclose(*shares, atol=0.003)
    held_out = {image.tobytes() for image in test_images}
    assert not held_out.intersection(image.tobytes() for image in train_images)


def test_refuses_no_epochs(quickstart, tmp_path, capsys):
    with pytest.raises(SystemExit):
        quickstart["main"](["--epochs", "0", "--output-dir", str(tmp_path)])
    assert "--epochs must be at least 1, not 0" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
