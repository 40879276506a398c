"""benchmarks/: blocks beside others', growth, recomputed blocks, operators, what training costs."""

import importlib
import json
import pathlib
import subprocess
import sys

import growth
import operators
import pytest
from complexity import block_costs
from helpers import BACKEND
from peers.build import count_parameters

pytest.importorskip("keras_hub")

BENCHMARKS = pathlib.Path(growth.__file__).parent
torch_only = pytest.mark.skipif(BACKEND != "torch", reason="as on torch, which compiles nothing")


@pytest.mark.thorough
def test_blocks_have_the_parameters_of_their_formulas():
    pairs = importlib.import_module("peers.pairs")
    for (_, costs), (_, _, models) in zip(block_costs(), pairs.models_of_stages(), strict=True):
        found = {name: count_parameters(model) for name, model in models.items()}
        assert found == {name: cost.parameters for name, cost in costs.items()}


@pytest.mark.thorough
@torch_only
def test_growth_is_told_by_size(tmp_path):
    text = growth.tables("torch", ["sepvit_lite", "hf_swin_t"], (64, 128), rounds=1)
    times, macs, memory = text.split("\n\n")
    (*_, lite, swin) = times.splitlines()
    assert lite.startswith("| SepViT-Lite |") and lite.endswith("x) |")
    assert "must match the size" in swin  # Hugging Face's Swin fails on an image of 64
    small, large = (float(cell) for cell in macs.splitlines()[2].split("|")[2:4])
    assert 3 < large / max(small, 0.05) and large < 0.5
    assert all(int(cell) > 10 for cell in memory.splitlines()[2].split("|")[2:4])


@pytest.mark.thorough
@torch_only
def test_recomputing_is_measured_and_written(tmp_path, monkeypatch):
    recompute = importlib.import_module("recompute")
    (tmp_path / "training.md").write_text("<!-- recompute -->\n<!-- end of recompute -->\n")
    options = ["--backends", "torch", "--batch-size", "1", "--docs", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["recompute.py", *options])
    recompute.main()
    _, _, row, *_ = (tmp_path / "training.md").read_text().splitlines()[1:]
    backend, *numbers = row.strip("| ").split(" | ")
    assert backend == "torch" and all(float(number) > 0 for number in numbers)


def script(name, *arguments):
    """What a script of benchmarks/ prints, in a process of its own."""
    command = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.thorough
@torch_only
def test_what_the_trainer_costs_is_told():
    how = ("--image-size", 64, "--batch-size", 2, "--steps", 1, "--rounds", 1)
    *_, plain, trainer, mixing = script("training.py", *how).splitlines()
    assert plain.startswith("| plain Keras |") and "| 1.000 (1.000 to 1.000) |" in plain
    for row, name in ((trainer, "trainer"), (mixing, "trainer, erasing and mixing")):
        found, step, ratio, memory = (cell.strip() for cell in row.strip("|").split("|"))
        assert found == name and float(step) > 0 and float(ratio.split()[0]) > 0
        assert 0.1 < float(memory) < 10


@pytest.mark.thorough
@pytest.mark.once
def test_the_input_pipeline_is_told_beside_pillow():
    rows = list(map(json.loads, script("input_pipeline.py", "--images", 4, "--json").splitlines()))
    ours = [row["name"] for row in rows if row["name"].startswith("keras_sepvit: ")]
    assert len(ours) == 3 and rows[-1]["name"].startswith("Pillow") and rows[-1]["ratio"] == 1
    assert all(row["images_per_second"]["median"] > 1 for row in rows)


@pytest.mark.thorough
@torch_only
def test_the_time_of_operators_is_told():
    found = operators.table(["sepvit_lite"], [("inference", 1, "eager"), ("train", 1, "eager")])
    header, _, inference, training = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()
    )
    for row in (inference, training):
        percent = {
            name: int(cell.rstrip("%")) for name, cell in zip(header[5:], row[5:], strict=True)
        }
        assert 90 <= sum(percent.values()) <= 120
        assert percent["products"] > percent["norms"] > 0
        assert percent["attention"] and percent["convolutions"] and percent["GELU"]
    assert dict(zip(header, training, strict=True))["optimizer"] != "0%"
