"""Export to StableHLO: files that JAX runs without Keras."""

import json

import numpy as np
import pytest
from export_helpers import outputs_without_keras, tiny_classifier
from helpers import BACKEND

from keras_sepvit.export import to_stablehlo

jax = pytest.importorskip("jax")

# Runs a file on one image, then on all.
PLAIN_JAX = """
import pathlib, sys
import jax.export, numpy as np
exported = jax.export.deserialize(bytearray(pathlib.Path(sys.argv[1]).read_bytes()))
call = jax.jit(exported.call)
images = np.load(sys.argv[2])
outputs = [np.asarray(call(batch)["probabilities"]) for batch in (images[:1], images)]
np.save(sys.argv[3], np.concatenate(outputs))
"""


@pytest.mark.by_default_on("jax")
@pytest.mark.skipif(BACKEND == "torch", reason="by way of a process with JAX, as from TensorFlow")
def test_file_runs_in_plain_jax_with_any_batch(tmp_path, capsys):
    model = tiny_classifier(classes=5)
    path = tmp_path / "tiny.stablehlo"
    images = np.random.default_rng(5).uniform(0, 255, (3, 64, 64, 3)).astype("float32")

    names = list("abcde")
    report = to_stablehlo(model, path, batch_size=None, platforms=("cpu",), class_names=names)
    outputs = outputs_without_keras(PLAIN_JAX, path, images, tmp_path)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(outputs[:1], expected[:1], atol=1e-5)
    np.testing.assert_allclose(outputs[1:], expected, atol=1e-5)
    assert report.max_error < 1e-4 and report.size_bytes == path.stat().st_size
    assert report.operators["dot_general"] > 20 and "custom_call" not in report.operators
    (beside,) = set(tmp_path.glob("tiny.*")) - {path}  # the format has no place for it
    assert beside.name == "tiny.stablehlo.keras_sepvit.json"
    assert json.loads(beside.read_text())["class_names"] == names
    assert "format        stablehlo, float32" in capsys.readouterr().out


@pytest.mark.thorough
@pytest.mark.skipif(BACKEND != "jax", reason="of JAX alone; others convert in a process of its own")
def test_file_of_a_fixed_batch_is_for_all_platforms(tmp_path):
    path = tmp_path / "tiny.stablehlo"
    to_stablehlo(tiny_classifier(classes=5), path, batch_size=2, verbose=False)

    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert [value.shape for value in exported.in_avals] == [(2, 64, 64, 3)]
    assert [value.shape for value in exported.out_avals] == [(2, 5)]
