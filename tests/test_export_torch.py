"""Export by `torch.export`: files that PyTorch runs without Keras."""

import numpy as np
import pytest
from export_helpers import outputs_without_keras, tiny_classifier
from helpers import BACKEND

from keras_sepvit.export import to_torch

torch = pytest.importorskip("torch")

# Runs a file on one image, then on all.
PLAIN_TORCH = """
import json, sys
import numpy as np, torch
extra = {"class_names.json": "", "keras_sepvit.json": ""}
model = torch.export.load(sys.argv[1], extra_files=extra).module()
assert json.loads(extra["class_names.json"]) == list("abcde")
assert json.loads(extra["keras_sepvit.json"])["class_names"] == list("abcde")
images = torch.from_numpy(np.load(sys.argv[2]))
with torch.no_grad():
    outputs = [model(batch)["probabilities"].numpy() for batch in (images[:1], images)]
np.save(sys.argv[3], np.concatenate(outputs))
"""


@pytest.mark.by_default_on("torch")
@pytest.mark.skipif(BACKEND == "jax", reason="by way of a process with torch, as from TensorFlow")
def test_file_runs_in_plain_torch_with_any_batch(tmp_path, capsys):
    model = tiny_classifier(classes=5)
    path = tmp_path / "tiny.pt2"
    images = np.random.default_rng(5).uniform(0, 255, (3, 64, 64, 3)).astype("float32")

    report = to_torch(model, path, batch_size=None, class_names=list("abcde"))
    outputs = outputs_without_keras(PLAIN_TORCH, path, images, tmp_path)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(outputs[:1], expected[:1], atol=1e-5)
    np.testing.assert_allclose(outputs[1:], expected, atol=1e-5)
    assert not torch.export.load(
        path
    ).state_dict  # beside the constants, weights would be there twice
    assert report.max_error < 1e-4 and report.size_bytes == path.stat().st_size
    assert report.operators["scaled_dot_product_attention"] == 7  # 4 of DSA, 3 of PSA
    assert not {"to", "_assert_tensor_metadata"} & set(report.operators)
    assert "format        torch, float32" in capsys.readouterr().out
