"""Export to StableHLO: files that JAX runs without Keras, from every backend."""

import sys

import numpy as np
import pytest
from export_helpers import outputs_without_keras, tiny_classifier
from helpers import BACKEND

from keras_sepvit.export import to_stablehlo

jax = pytest.importorskip("jax")

# Runs a file on one image, then on all.
PLAIN_JAX = """
import pathlib, sys
import jax, numpy as np
exported = jax.export.deserialize(bytearray(pathlib.Path(sys.argv[1]).read_bytes()))
call = jax.jit(exported.call)
images = np.load(sys.argv[2])
outputs = [np.asarray(call(batch)["probabilities"]) for batch in (images[:1], images)]
np.save(sys.argv[3], np.concatenate(outputs))
"""


@pytest.mark.slow
def test_file_runs_in_plain_jax_with_any_batch(tmp_path, capsys):
    model = tiny_classifier(classes=5)
    path = tmp_path / "tiny.stablehlo"
    images = np.random.default_rng(5).uniform(0, 255, (3, 64, 64, 3)).astype("float32")

    report = to_stablehlo(model, path, batch_size=None, platforms=("cpu",))
    outputs = outputs_without_keras(PLAIN_JAX, path, images, tmp_path)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(outputs[:1], expected[:1], atol=1e-5)
    np.testing.assert_allclose(outputs[1:], expected, atol=1e-5)
    assert report.max_error < 1e-4 and report.size_bytes == path.stat().st_size
    assert report.operators["dot_general"] > 20 and "custom_call" not in report.operators
    assert "format        stablehlo, float32" in capsys.readouterr().out


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX alone; others convert in a process of its own")
@pytest.mark.slow
def test_file_of_a_fixed_batch_is_for_all_platforms(tmp_path):
    path = tmp_path / "tiny.stablehlo"
    to_stablehlo(tiny_classifier(classes=5), path, batch_size=2, verbose=False)

    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert [value.shape for value in exported.in_avals] == [(2, 64, 64, 3)]
    assert [value.shape for value in exported.out_avals] == [(2, 5)]


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": -1}, "`batch_size` must be a positive integer"),
        ({"platforms": ("gpu",)}, "Unknown `platforms`: 'gpu'. Expected one of 'cpu', 'cuda'"),
        ({"platforms": ()}, "`platforms` must name at least one"),
        ({"class_names": list("abcde")}, "`class_names` have no place in a StableHLO file"),
        ({"path": "tiny.mlir"}, "`path` must end with '.stablehlo'"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, message):
    arguments = dict(arguments)
    with pytest.raises(ValueError, match=message):
        to_stablehlo(
            tiny_classifier(classes=5), tmp_path / arguments.pop("path", "a.stablehlo"), **arguments
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.once
def test_missing_jax_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(ImportError, match=r"`jax`.*keras-sepvit\[jax\]"):
        to_stablehlo(tiny_classifier(classes=5), tmp_path / "tiny.stablehlo")
