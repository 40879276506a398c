"""`benchmarks/gpu.py`, as it runs on a GPU, with small networks on the CPU."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys

import pytest
from helpers import BACKEND

import keras_sepvit

gpu = importlib.import_module("gpu")

# Between float16 and float32, relative: a rounding error of float16 through all layers.
LARGEST_DIFFERENCE = 1e-2


@pytest.mark.thorough
def test_every_part_runs(tmp_path):
    root = os.path.dirname(os.path.dirname(keras_sepvit.__file__))
    subprocess.run(
        [
            *(sys.executable, gpu.__file__, "--output", tmp_path, "--backends", BACKEND),
            *("--small", "--seconds", "1200"),  # beside other tests
        ],
        env={**os.environ, "PYTHONPATH": root},
        check=True,
    )
    record = json.loads((tmp_path / "gpu.json").read_text())
    parts = record["parts"]
    assert set(parts) == {part.name for stage in gpu.plan([BACKEND], small=True) for part in stage}
    rows = [row for part in parts.values() for row in part["rows"]]
    missing = "" if importlib.util.find_spec("torchvision") else "torchvision is not installed"
    for part in parts.values():
        assert "error" not in part, part["error"]
    for row in rows:
        assert "error" not in row, row
        assert row.get("skipped") in (None, missing), row
        assert row.get("finite", True), row

    compared = [row for row in rows if row["part"] == f"agreement-{BACKEND}"]
    assert {(row["network"], row["what"], row["precision"]) for row in compared} == {
        (network, what, "mixed_float16")
        for network in ("t", "dense")
        for what in ("forward", "training step")
    }
    for row in compared:
        assert 0 < row["difference"] < LARGEST_DIFFERENCE, row
        assert row.get("loss_difference", 0) < LARGEST_DIFFERENCE, row
    timed = [row for row in rows if "images_per_second" in row]
    dense = {"dense inference", "dense predict", "dense training"}
    assert {row["what"] for row in timed} == {"inference", "training", *dense}
    assert {row["data"] for row in timed if row["what"] == "training"} == {
        "on the device",
        "tf.data",
    }
    for row in timed:
        if row["what"] == "inference" and row["network"] == "t":
            assert 0 < row["share"] < 1.5
    page = (tmp_path / "gpu.md").read_text()
    assert "| skipped |" not in page  # listed under "Not measured" alone
    assert record["command"] in page and f"| t | {BACKEND} | mixed_float16 |" in page


@pytest.mark.thorough
@pytest.mark.once
def test_a_part_that_fails_or_hangs_leaves_the_others(tmp_path, monkeypatch):
    """What failed is told; a part that outlasts its time is killed."""
    monkeypatch.setattr(gpu, "GRACE", 0)
    monkeypatch.setattr(gpu, "GRACE_SHARE", 0)
    job = {"part": "comparison", "backend": BACKEND}  # which has no `run`
    stages = [
        [gpu.Part("hangs", job, share=1e-3)],
        [gpu.Part("fails", job, share=1.0)],
    ]
    facts = {
        "command": "gpu.py",
        "date": "2026",
        "machine": gpu.machine(),
        "small": True,
        "backends": [BACKEND],
        "not installed": [],
    }
    record = gpu.Record(tmp_path, tmp_path, facts)
    gpu.measure(stages, 60, True, tmp_path, record)
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert parts["hangs"]["error"] == "killed; its time was 0 s"
    assert "has no attribute 'run'" in parts["fails"]["error"]
    assert parts["fails"]["facts"]["device"]
    page = (tmp_path / "gpu.md").read_text()
    assert "- hangs: killed" in page and "- fails: ended with code 1" in page
