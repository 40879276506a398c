"""`benchmarks/blood_cells.py`: its table and page of results, what it refuses, and its arms."""

import io
import json
import sys

import blood_cells
import numpy as np
import pytest
from helpers import SMALL
from PIL import Image
from training_data import write_rectangles

from keras_sepvit.benchmark.machine import machine
from keras_sepvit.configs import VARIANTS

pytestmark = pytest.mark.once

MARKS = "<!-- blood cells -->\nold\n<!-- end of blood cells -->\n"


def write_results(folder, arms=blood_cells.ARMS, minutes=25.0):
    """Records of arms, each better than the one before, with a page of the worst photos."""
    rng = np.random.default_rng(0)
    for number, arm in enumerate(arms):
        record = {"commit": f"abc{number}", "machine": machine(), "minutes": minutes, "threads": 1}
        record |= {"backend": "tensorflow", "parameters": 2.5e6, "epochs": 30, "steps": 1530}
        record |= {"seconds": 1500.0, "ap": 40.0 + number, "ap50": 80.0}
        record["classes"] = {"Platelets": None, "RBC": 50.25}
        (folder / arm).mkdir(parents=True)
        (folder / f"{arm}.json").write_text(json.dumps(record))
        pixels = rng.integers(0, 256, (40, 64 + number, 3), "uint8")
        Image.fromarray(pixels).save(folder / arm / "worst.png")


def script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["blood_cells.py", *map(str, arguments)])
    blood_cells.main()


def test_the_page_is_of_the_results_that_are_there(tmp_path, monkeypatch):
    """All arms in a table; the worst photos are those of the better one of this package's two."""
    page, results = tmp_path / "detection.md", tmp_path / "results"
    page.write_text(MARKS)
    write_results(results)
    only = ["--page-only", "--docs", tmp_path, "--output-dir", results]
    script(monkeypatch, *only)
    text = page.read_text()
    assert "| M parameters | epochs | steps | CPU minutes | AP % | AP50 % | AP, Platelets |" in text
    row = "| RetinaNet, SepViT-Lite, warm start | 2.5 | 30 | 1530 | 25.0 | 41.0 | 80.0 | - | 50.2 |"
    assert row in text and text.count(" | 2.5 | 30 | ") == 3
    assert (
        "Commit abc0, abc1, abc2. Command: `python benchmarks/blood_cells.py --data bccd "
        "--warm-start swin.keras --backend tensorflow --threads 1 --minutes 25.0`" in text
    )
    assert str(tmp_path) not in text and "old" not in text
    with Image.open(tmp_path / blood_cells.PICTURE) as picture:
        assert picture.format == "JPEG" and picture.size == (65, 40)

    for name in ("warm", "random"):
        (results / f"{name}.json").unlink()
    with pytest.raises(SystemExit, match="no results of 'random' or 'warm'"):
        script(monkeypatch, *only)


def test_a_picture_gets_as_small_as_it_must(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 3), "uint8")
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    large, small = (blood_cells.small_jpeg(tmp_path / "noise.png", n) for n in (10**6, 5_000))
    assert len(small) <= 5_000 < len(large)
    assert Image.open(io.BytesIO(small)).size == (100, 100)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--data", "nowhere"], "--data must be the folder of the photos. Received: nowhere"),
        (["--data", "."], "needs --warm-start FILE.keras"),
        (["--data", ".", "--arms", "keras_hub"], "as long as 'random', which .* lacks"),
    ],
)
def test_what_cannot_be_is_refused_before_training(options, message, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=message):
        script(monkeypatch, *options, "--output-dir", tmp_path)


def test_what_is_trained_is_not_trained_again(tmp_path, monkeypatch, capsys):
    """And results of other conditions are not mixed with it."""
    write_results(tmp_path / "results", ["random"])
    jobs = []
    facts = {"parameters": 1, "classes": {}}
    monkeypatch.setattr(
        blood_cells, "run_worker", lambda worker, job: jobs.append(job) or {**job, **facts}
    )
    options = ["--data", tmp_path, "--output-dir", tmp_path / "results", "--no-page"]
    arms = ["--arms", "keras_hub", "random"]
    script(monkeypatch, *options, *arms)
    assert "has 'random' already" in capsys.readouterr().out
    (job,) = jobs
    assert job["arm"] == "keras_hub" and job["seconds"] == 1500.0 and "epochs" not in job
    assert json.loads((tmp_path / "results" / "keras_hub.json").read_text())["seconds"] == 1500.0
    with pytest.raises(SystemExit, match="has 'random' with --minutes 25.0. Received: 2.0"):
        script(monkeypatch, *options, *arms, "--minutes", 2)


@pytest.mark.thorough
@pytest.mark.hub
def test_arms_train_and_are_measured(tmp_path, monkeypatch):
    """Small networks on small photos: this package's by its own length, then KerasHub's."""
    arm_script = pytest.importorskip("blood_cells_arm", reason="needs the `hub` extra")
    for split, count in (("train", 8), ("valid", 3), ("test", 5)):
        write_rectangles(tmp_path / "data", split, (64, 80), [2] * count)
    changes = {"model.image_size": "[64,96]", "augmentation.short_sides": "[64]"}
    pairs = dict(text.split("=") for text in arm_script.SETTINGS) | changes
    monkeypatch.setattr(arm_script, "SETTINGS", ["=".join(pair) for pair in pairs.items()])
    monkeypatch.setitem(VARIANTS, "sepvit_lite", SMALL)
    small = {"stackwise_num_filters": [64, 8, 8, 8]}
    monkeypatch.setattr(arm_script, "RESNET_18", {**arm_script.RESNET_18, **small})
    job = {"data": str(tmp_path / "data"), "minutes": 0.0}
    for arm, length in (("random", {}), ("keras_hub", {"seconds": 1.0})):
        folder = tmp_path / arm
        result = arm_script.Arm({**job, **length, "arm": arm, "folder": str(folder)}).measure()
        assert result["epochs"] >= 1 and result["steps"] >= 1 and result["parameters"] > 1000
        assert set(result["classes"]) == {"red", "green", "blue"} and result["ap"] >= 0
        assert json.loads((folder / "report.json").read_text())["images"] == 5
        assert result["seconds"] > length.get("seconds", 0)
    assert result["epochs"] == result["best_epoch"] == 1  # building it took longer than a second


@pytest.mark.hub
def test_a_budget_of_time_ends_a_run_and_lowers_its_rate():
    arm_script = pytest.importorskip("blood_cells_arm", reason="needs the `hub` extra")
    assert arm_script.affordable_epochs(1500, first=70, second=110) == 36
    assert arm_script.affordable_epochs(60, first=70, second=110) == arm_script.WARMUP_EPOCHS + 1

    class Model:
        stop_training = False

        class optimizer:
            learning_rate = None

    spent = iter([0, 5, 50, 60, 100, 100])
    budget = arm_script.Budget(100, lambda: next(spent), learning_rate=8.0)
    budget.set_model(Model())
    rates = []
    for epoch in range(3):
        budget.on_epoch_begin(epoch)
        rates.append(budget.model.optimizer.learning_rate)
        budget.on_train_batch_end(0)
        budget.on_epoch_end(epoch)
    assert rates == pytest.approx([2.0, 3.0, 0.0])
    assert (budget.epochs, budget.steps) == (3, 3) and budget.model.stop_training
