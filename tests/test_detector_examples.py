"""Examples of detectors, segmenters, own heads, Swins: run as a user runs them, for few steps."""

import pathlib
import re
import runpy
import sys

import numpy as np
import pytest
from helpers import BACKEND, SMALL
from PIL import Image

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


@pytest.mark.skipif(
    BACKEND != "torch", reason="the same on each backend, and compiled by none under PyTorch"
)
@pytest.mark.parametrize(
    "script, library, arguments, file",
    [
        ("detect_keras_hub.py", "keras_hub", ["--weights", "digits"], "detector.keras"),
        ("detect_keras_cv.py", "keras_cv", [], "detector.keras"),
        ("segment_keras_hub.py", "keras_hub", [], "segmenter.keras"),
        pytest.param(
            *("segment_keras_hub.py", "keras_hub", ["--decoder", "deeplab"], "segmenter.keras"),
            marks=pytest.mark.thorough,
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Loaded")
def test_runs_and_draws(script, library, arguments, file, tmp_path, monkeypatch, capsys):
    pytest.importorskip(library)
    monkeypatch.syspath_prepend(EXAMPLES)
    few = ["--steps", "2", "--scenes", "16", "--held-out", "6", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [script, *few, *arguments])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(r"^Before training: (AP50|mean IoU) \d", printed, re.M)
    assert re.search(r"After 2 steps: (AP50|mean IoU) \d", printed)
    assert f"{file}; loaded again" in printed
    assert (tmp_path / "out" / file).is_file()
    with Image.open(tmp_path / "out" / "predictions.png") as picture:
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 500


@pytest.mark.thorough
def test_a_head_of_ones_own_fits_saves_and_loads(tmp_path, capsys):
    """On each backend, since Keras's losses and layers on maps differ; with a small network."""
    example = runpy.run_path(str(EXAMPLES / "own_head.py"))
    build = example["build_segmenter"]
    example["main"].__globals__["build_segmenter"] = lambda: build(SMALL, weights=None)
    file = tmp_path / "own_head.keras"
    few = ["--scenes", "16", "--held-out", "4", "--epochs", "1", "--output", str(file)]
    example["main"](few)
    printed = capsys.readouterr().out
    assert re.search(r"\d ?% of the held-out pixels right", printed)
    assert f"{file}; loaded again, it predicts the same, here for 96 x 160" in printed
    assert file.is_file()


@pytest.mark.thorough
@pytest.mark.skipif(BACKEND != "torch", reason="the same on each backend, and compiled by none")
@pytest.mark.filterwarnings("ignore:Layer 'attn'")
def test_each_way_to_begin_is_run_and_told(tmp_path, capsys):
    pytest.importorskip("keras_hub")
    example = runpy.run_path(str(EXAMPLES / "digits_from_a_swin.py"))
    names = example["main"].__globals__
    names["SEPVIT"] += ("steps=2", "optimizer.warmup_steps=1")
    images_of = names["images_of"]
    names["images_of"] = lambda split: [array[:32] for array in images_of(split)]
    example["main"](["--output", str(tmp_path), "--swin-epochs", "1"])
    printed = capsys.readouterr().out
    told = re.findall(r"^(.*): [\d.]+ % of the held-out digits right", printed, re.M)
    assert told == ["the Swin", *names["WAYS"]]
    assert printed.count("Started from ") == printed.count("Teacher: ") == 2
    assert (tmp_path / "warm_start_and_teacher" / "best.keras").is_file()
