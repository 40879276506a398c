"""Weights from one backend to another, and from one kind of file to another."""

import dataclasses
import os
import pathlib
import runpy
import subprocess
import sys

import keras
import numpy as np
import pytest
import reference
from helpers import BACKEND, TINY, images, tiny_backbone, to_numpy
from weights_helpers import (
    CLASSES,
    assert_same,
    classifier,
    load_quietly,
    save_h5,
    save_torch,
    values,
)

from keras_sepvit import SepViTLite
from keras_sepvit.conversion import convert
from keras_sepvit.inference import attach_record
from keras_sepvit.record import read_record

SAVE_ELSEWHERE = """
import sys
import numpy as np
from helpers import BACKEND, TINY, images, randomize, to_numpy
from keras_sepvit import SepViT
from keras_sepvit.segmentation import UPerNet
folder, other_backend = sys.argv[1:]
assert BACKEND == other_backend
model = SepViT(TINY, classes=5, classifier_activation=None)
randomize(model, 3)
model.save_weights(f"{folder}/model.weights.h5")
segmenter = UPerNet(TINY, 5, head_channels=8, auxiliary_channels=8)
randomize(segmenter, 3)
segmenter.save(f"{folder}/segmenter.keras")
if BACKEND != "jax":  # which would compile each operation for one use
    np.save(f"{folder}/logits.npy", to_numpy(model(127 + 50 * images((2, 64, 64, 3)))))
    np.save(f"{folder}/maps.npy", to_numpy(segmenter(127 + 50 * images((2, 50, 75, 3)))))
"""


@pytest.mark.by_default_on("tensorflow", "torch")
def test_weights_of_another_backend_load_and_give_the_same_outputs(tmp_path):
    """Each backend reads those of one that is not itself, and each is read."""
    other = {"tensorflow": "torch", "jax": "tensorflow", "torch": "jax"}[BACKEND]
    folders = [pathlib.Path(__file__).parent, pathlib.Path(__file__).parents[1]]
    subprocess.run(
        [sys.executable, "-c", SAVE_ELSEWHERE, str(tmp_path), other],
        check=True,
        env={
            **os.environ,
            "KERAS_BACKEND": other,
            "PYTHONPATH": os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")]),
        },
    )
    model = classifier(classifier_activation=None, weights=tmp_path / "model.weights.h5")
    assert_same(values(model), values(classifier(seed=3)))
    segmenter = keras.saving.load_model(tmp_path / "segmenter.keras")
    if other != "jax":
        for name, network, size in (("logits", model, (64, 64)), ("maps", segmenter, (50, 75))):
            expected = np.load(tmp_path / f"{name}.npy")
            assert np.abs(expected).max() > 0.1
            actual = to_numpy(network(127 + 50 * images((2, *size, 3))))
            np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.once
@pytest.mark.parametrize("kind", ["weights.h5", "keras"])
def test_convert_between_kinds_of_keras_files(kind, source, tmp_path):
    model, path = source
    target = tmp_path / f"converted.{kind}"
    report = convert(path, target, variant=TINY)
    assert report.new == report.unused == ()
    assert_same(values(classifier(weights=target)), values(model))
    if kind == "keras":
        assert_same(values(keras.models.load_model(target)), values(model))
    assert [file.name for file in tmp_path.iterdir()] == [target.name]


@pytest.mark.once
def test_convert_to_another_size_class_count_and_form(source, tmp_path):
    _, path = source
    target = tmp_path / "converted.weights.h5"
    report = convert(path, target, variant=TINY, image_size=(96, 64), classes=3)
    assert report.new == ("head/kernel", "head/bias")
    load_quietly(classifier(input_shape=(96, 64, 3), classes=3), target)

    report = convert(path, target, variant=TINY, dense=True)
    assert len([name for name in report.new if name.startswith("stage4_norm")]) == 2
    load_quietly(tiny_backbone(dense=True, image_shape=(None, None, 3)), target)
    assert convert(target, tmp_path / "again.weights.h5", variant=TINY).unused == ()


@pytest.mark.once
def test_convert_keeps_the_record_of_the_classes(tmp_path):
    model, path = classifier(include_preprocessing=False), tmp_path / "model.keras"
    record = attach_record(model, list("abcde"), crop=1.0)
    model.save(path)
    kept = dataclasses.replace(record, image_size=(32, 96), pixels="0..255")
    for kwargs, expected in (
        ({"image_size": (32, 96)}, kept),
        ({"classes": 3}, None),
        ({"dense": True}, None),
    ):
        convert(path, tmp_path / "new.keras", variant=TINY, **kwargs)
        assert read_record(tmp_path / "new.keras") == expected


@pytest.mark.once
def test_convert_tells_the_variant_from_the_file(tmp_path):
    model = SepViTLite(classes=CLASSES)
    path = save_h5(model, tmp_path / "lite.weights.h5")
    convert(path, tmp_path / "again.weights.h5")
    loaded = SepViTLite(classes=CLASSES, weights=tmp_path / "again.weights.h5")
    assert_same(values(loaded), values(model))


@pytest.mark.once
@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({}, r"none of the variants; they have stages of \(8, 16, 24, 32\) channels.*save_pytorch"),
        ({"variant": "sepvit_t"}, "do not fit model"),
        ({"variant": "sepvit_x"}, "Unknown `variant`"),
        ({"variant": TINY, "dense": True, "classes": 3}, "dense form has no `classes`"),
        ({"variant": TINY, "dense": True, "image_size": (64, 64)}, "has no `image_size`"),
        ({"variant": TINY, "image_size": (50, 50)}, "cannot take images of 50 x 50"),
        ({"variant": TINY, "classes": 0}, "`classes` must be a positive integer"),
    ],
)
def test_convert_refuses_and_writes_nothing(kwargs, match, source, tmp_path):
    _, path = source
    target = tmp_path / "target.weights.h5"
    target.write_bytes(b"precious")
    with pytest.raises(ValueError, match=match):
        convert(path, target, **kwargs)
    assert target.read_bytes() == b"precious"
    assert [file.name for file in tmp_path.iterdir()] == [target.name]


@pytest.mark.once
@pytest.mark.parametrize("name", ["x.h5", "x.npz", "x", "x.weights"])
def test_convert_knows_what_it_can_write(name, source, tmp_path):
    with pytest.raises(ValueError, match="Unknown kind of file to write"):
        convert(source[1], tmp_path / name, variant=TINY)


@pytest.mark.once
def test_convert_needs_the_folder(source, tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        convert(source[1], tmp_path / "no" / "x.keras", variant=TINY)
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(ValueError, match="it is a folder"):
        convert(source[1], tmp_path / "folder.keras", variant=TINY)


@pytest.mark.once
def test_a_write_that_fails_leaves_the_old_file(source, tmp_path, monkeypatch):
    target = tmp_path / "target.weights.h5"
    target.write_bytes(b"precious")

    def fail(model, path):
        pathlib.Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(keras.Model, "save_weights", fail)
    with pytest.raises(OSError, match="No space left"):
        convert(source[1], target, variant=TINY)
    assert target.read_bytes() == b"precious"
    assert [file.name for file in tmp_path.iterdir()] == [target.name]


# The script for checkpoints of the authors' code.

SCRIPT = pathlib.Path(__file__).parents[1] / "conversion" / "convert_official.py"


def run_script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.mark.once
def test_the_script_converts_there_and_back(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    arrays = reference.state_dict("classification", "lite")
    save_torch(arrays, tmp_path / "lite.pth")
    run_script(monkeypatch, tmp_path / "lite.pth", tmp_path / "lite.keras")
    assert "Loaded 190 of the model's 190 weights" in capsys.readouterr().out
    loaded = keras.models.load_model(tmp_path / "lite.keras")
    assert loaded.output_shape == (None, 1000)
    run_script(monkeypatch, tmp_path / "lite.keras", tmp_path / "back.safetensors")
    run_script(monkeypatch, tmp_path / "back.safetensors", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth")
    assert list(back) == list(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(back[key].numpy(), array, err_msg=key)


@pytest.mark.once
def test_the_script_takes_size_classes_and_form(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    save_torch(reference.state_dict("classification", "lite"), tmp_path / "lite.pth")
    target = tmp_path / "lite.weights.h5"
    run_script(
        monkeypatch, tmp_path / "lite.pth", target, "--image-size", 256, 192, "--classes", 10
    )
    assert "2 weights not in the file" in capsys.readouterr().out
    SepViTLite(input_shape=(256, 192, 3), classes=10, weights=target)
    run_script(monkeypatch, tmp_path / "lite.pth", target, "--dense", "--variant", "sepvit_lite")
    output = capsys.readouterr().out
    assert "28 weights not in the file" in output and "10 arrays of the file not used" in output


@pytest.mark.once
def test_the_script_tells_errors_in_words(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        run_script(monkeypatch, tmp_path / "no.pth", tmp_path / "no.keras")
    assert caught.value.code == 2
    assert "Error: No such weights file" in capsys.readouterr().err


MEASURE = """
import re, sys
from keras_sepvit.conversion import convert
convert(*sys.argv[1:])
memory = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(int(memory[1]) / 2**20)
"""


@pytest.mark.thorough
@pytest.mark.once
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_converting_sepvit_b_takes_little_memory(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    save_torch(reference.state_dict("classification", "base"), tmp_path / "base.pth")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parents[1]))
    files = [str(tmp_path / name) for name in ("base.pth", "base.weights.h5")]
    output = subprocess.run(
        [sys.executable, "-c", MEASURE, *files], check=True, capture_output=True, text=True
    ).stdout
    assert float(output) < 1.5  # GiB
