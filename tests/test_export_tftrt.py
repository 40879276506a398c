"""What can be tested of TF-TRT without TensorRT and a GPU.

`make test-tf217` runs this file with an environment of TensorFlow 2.17, the last that has
TensorRT, in the variable KERAS_SEPVIT_TF217.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
from export_helpers import tiny_classifier, tiny_dense

from keras_sepvit.export import ExportError, to_saved_model, to_tftrt
from keras_sepvit.export.images import default_images
from keras_sepvit.export.model import prepare
from keras_sepvit.export.onnx import frozen_graph
from keras_sepvit.export.saved_model import PlainTensorFlow
from keras_sepvit.export.saved_model_runtime import count_operators
from keras_sepvit.export.tensorrt import supported_operators
from keras_sepvit.export.tftrt_convert import what_is_missing
from keras_sepvit.processes import run_module

pytestmark = pytest.mark.once("tensorflow")


@pytest.fixture
def tensorflow_2_17():
    """The interpreter of an environment of TensorFlow 2.17."""
    folder = os.environ.get("KERAS_SEPVIT_TF217")
    if folder is None:
        pytest.skip("needs an environment of TensorFlow 2.17 (make test-tf217)")
    return os.path.join(folder, "bin", "python")


@pytest.mark.parametrize("make", [tiny_classifier, tiny_dense])
def test_graph_has_only_operators_that_tftrt_converts(make):
    operators = count_operators(frozen_graph(prepare(make()).model, batch_size=None))
    assert operators["DepthwiseConv2dNative"] == 4
    assert set(operators) <= supported_operators("tftrt")


@pytest.mark.parametrize("make", [tiny_classifier, tiny_dense])
def test_saved_model_gives_the_same_numbers_in_tensorflow_2_17(tensorflow_2_17, tmp_path, make):
    model, path = make(), tmp_path / "served"
    to_saved_model(model, path, verbose=False)
    images = default_images(model.input_shape[1:], 3)
    opened = PlainTensorFlow(path, 2, tensorflow_2_17)
    found, expected = opened(images), prepare(model).predict(images)
    assert found.keys() == expected.keys()
    for name, output in expected.items():
        np.testing.assert_allclose(found[name], output, atol=1e-5 * np.abs(output).max())
    assert opened.facts["operators"]["DepthwiseConv2dNative"] == 4


def test_tensorflow_2_17_without_tensorrt_is_refused(tensorflow_2_17, tmp_path):
    with pytest.raises(ExportError, match=r"(2\.17\.\d.*|no GPU.*)to_onnx"):
        to_tftrt(tiny_classifier(), tmp_path / "engines", python=tensorflow_2_17)
    assert not list(tmp_path.iterdir())
    process = run_module("keras_sepvit.export.tftrt_convert", "--check", python=tensorflow_2_17)
    assert process.returncode == 1 and "2.17" in process.stdout


GOOD = {
    "version": "2.17.1",
    "is_built": True,
    "linked_version": (8, 6, 1),
    "is_found": True,
    "gpus": 1,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"version": "2.21.0", "is_built": False}, "2.21.0 has no TensorRT: 2.17 was the last"),
        ({"version": "3.0.0", "is_built": False}, "3.0.0 has no TensorRT"),
        ({"is_built": False}, "This build of TensorFlow 2.17.1 was made without TensorRT"),
        ({"is_found": False}, "TensorRT 8.6.1, whose library (libnvinfer.so.8) is not found"),
        ({"gpus": 0}, "TensorFlow finds no GPU"),
    ],
)
def test_what_is_missing_is_said(change, message):
    problem = what_is_missing(**{**GOOD, **change})
    assert problem is None if message is None else message in problem


@pytest.mark.thorough
def test_environments_that_do_not_do_are_refused(tmp_path):
    """None at all, one with a newer TensorFlow, and one without."""
    tf = pytest.importorskip("tensorflow")
    bare = tmp_path / "bare"
    (bare / "bin").mkdir(parents=True)
    (bare / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    (bare / "bin" / "python").chmod(0o755)
    for python, message in (
        (tmp_path / "none", "`python`: '.*none' cannot be run"),
        (sys.executable, f"TensorFlow {tf.__version__} has no TensorRT: 2.17 was the last"),
        (bare, "There is no TensorFlow: install"),
    ):
        with pytest.raises(ExportError, match=f"{message}.*to_onnx.*trtexec"):
            to_tftrt(tiny_classifier(), tmp_path / "engines", python=python)
        assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model"], "name the SavedModel and the folder"),
        (["model", "out", "--precision", "int8"], "--calibration go together"),
        (["model", "out", "--precision", "fp16"], "invalid choice"),
    ],
)
def test_script_refuses_bad_arguments(arguments, message):
    script = os.path.join(os.path.dirname(__file__), "..", "conversion", "tftrt.py")
    process = subprocess.run(
        [sys.executable, script, *arguments], stderr=subprocess.PIPE, text=True
    )
    assert process.returncode == 2 and message in process.stderr
