"""benchmarks/: SepViT beside other networks, and the pages that they fill."""

import contextlib
import dataclasses
import importlib
import json
import sys

import keras
import pytest
import speed
import speed_page
from helpers import BACKEND, SMALL
from page import fill_page
from peers.build import build_model, check_parameters, count_parameters
from peers.catalogue import CATALOGUE
from peers.report import compare, report
from peers.worker import PeerWorker
from PIL import Image
from test_benchmark import JOB, result_of
from typer.testing import CliRunner

from keras_sepvit import complexity
from keras_sepvit.benchmark.report import summarise
from keras_sepvit.benchmark.run import MODES
from keras_sepvit.benchmark.worker import Refused
from keras_sepvit.configs import VARIANTS

pytest.importorskip("keras_hub")

# Keras's networks are the same on JAX, where they take longest to compile.
graphs_alike = pytest.mark.skipif(BACKEND == "jax", reason="as with TensorFlow")


def run_speed(*arguments):
    return CliRunner().invoke(speed.app, [*map(str, arguments)])


@pytest.mark.thorough
@graphs_alike
def test_networks_beside_each_other(tmp_path):
    """Inference of two networks, in one process of this backend."""
    names = ["sepvit_lite", "hf_pvt_v2_b2" if BACKEND == "torch" else "mobilenetv2"]
    options = ["--task", "inference", "--batch-sizes", "2", "--rounds", "2"]
    options += ["--image-size", "64", "--threads", "1", "--backends", BACKEND]
    result = run_speed(*names, *options, "--output-dir", tmp_path)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "results.json").read_text())
    assert len(record["rows"]) == 2
    for row in record["rows"]:
        assert "error" not in row, row
        assert row["best_mode"] and row["gflops"] > 0 and 0 < row["share"] < 1.5
    built = record["backends"][BACKEND]["models"]["sepvit_lite"]
    assert built["parameters"] == 3_661_128
    assert 0.03e9 < built["macs"] < 0.06e9  # of 0.57e9 at 224 x 224
    assert "SepViT-Lite is faster by" in result.stdout
    assert "Rate of matrix products" in result.stdout


@pytest.mark.thorough
@graphs_alike
def test_peak_memory_is_of_a_process_of_its_own(monkeypatch, capfd):
    memory = importlib.import_module("memory")
    options = ["sepvit_lite", "--backends", BACKEND, "--batch-size", "2", "--image-size", "64"]
    monkeypatch.setattr(sys, "argv", ["memory.py", *options])
    memory.main()
    *_, row = capfd.readouterr().out.splitlines()
    process, above = (int(cell) for cell in row.split("|")[-3:-1])
    weights = 4 * 3_661_128 / 2**20
    assert weights < above < 100 * weights and above < process


def test_a_count_that_is_not_the_published_one_is_refused(monkeypatch):
    other = dataclasses.replace(CATALOGUE["sepvit_lite"], parameters=3.6e6 / 1.03)
    monkeypatch.setitem(CATALOGUE, "sepvit_lite", other)
    # In a row of times an exception is a note; this one ends the comparison.
    with pytest.raises(Refused, match="3,661,128 parameters; published are 3,495,146"):
        PeerWorker(JOB).measure()


def test_a_graph_that_cannot_be_counted_leaves_the_times(monkeypatch):
    def unknown(*arguments, **options):
        raise ValueError("The graph has the operator conv4d.")

    monkeypatch.setattr("keras_sepvit.complexity.graph.traced_macs", unknown)
    monkeypatch.setitem(VARIANTS, "sepvit_lite", SMALL)
    parameters = complexity.sepvit(SMALL, 64).cost.parameters
    small = dataclasses.replace(CATALOGUE["sepvit_lite"], parameters=parameters)
    monkeypatch.setitem(CATALOGUE, "sepvit_lite", small)
    result = PeerWorker(JOB).measure()
    settings = {"models": ["sepvit_lite"], "rounds": JOB["rounds"]}
    record = {"settings": settings, "backends": {BACKEND: result}}
    record["rows"] = summarise(record)
    compare(record)
    (row,) = record["rows"]
    assert row["ms"]["p50"] > 0 and row["best_mode"] and "gflops" not in row
    assert result["models"]["sepvit_lite"]["error"].endswith("operator conv4d.")


@pytest.mark.thorough
@graphs_alike
@pytest.mark.parametrize("name", ["deit_s", "hf_pvt_v2_b2"])
def test_a_training_step_lowers_the_loss(name):
    if BACKEND not in CATALOGUE[name].backends:
        pytest.skip("of torch")
    step = PeerWorker(JOB).program("train", name, "float32", MODES[BACKEND][0], 1)
    losses = [float(step()) for _ in range(8)]
    assert losses[-1] < losses[0] - 0.1


def small(name):
    """Whether a model is built fast on every backend."""
    return CATALOGUE[name].parameters < 10e6


@pytest.mark.thorough
@graphs_alike
@pytest.mark.parametrize(
    "name", [name for name in CATALOGUE if BACKEND in CATALOGUE[name].backends]
)
def test_parameters_are_those_published(name):
    """On torch without memory for weights, but for KerasHub's Swin, which reads them."""
    if BACKEND == "torch" and CATALOGUE[name].constructor != "SwinTransformer":
        import torch

        transformers = CATALOGUE[name].library == "transformers"
        device = torch.device("meta") if transformers else keras.device("meta")
    elif small(name) or BACKEND == "torch":
        device = contextlib.nullcontext()
    else:
        pytest.skip("large; built on torch")
    if CATALOGUE[name].library == "transformers":
        pytest.importorskip("transformers")
    with device:
        check_parameters(name, count_parameters(build_model(name, (224, 224))))


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sepvit_xl"], "Unknown network 'sepvit_xl'. Known networks: sepvit_lite, "),
        (["hf_swin_t", "--backends", "jax"], "hf_swin_t needs the backend torch"),
        (["hf_swin_t", "--backends", "torch,jax"], "None of the networks runs on jax: hf_swin_t"),
    ],
)
def test_bad_input(arguments, message, tmp_path):
    result = run_speed(*arguments, "--output-dir", tmp_path / "out")
    assert result.exit_code == 2 and message in result.stderr


@pytest.mark.once
def test_missing_packages(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run_speed("swin_t")
    assert result.exit_code == 2
    assert "`keras_hub`" in result.stderr and "keras-sepvit[benchmark]" in result.stderr


def record_of(result):
    record = {
        "command": "python benchmarks/speed.py sepvit_t sepvit_s",
        "date": "2026",
        "machine": {
            **dict.fromkeys(("processor", "cores", "available_cores", "gpu", "memory_gib"), 1),
            "instructions": [],
            "system": "Linux",
            "python": "3.11",
            "versions": {},
        },
        "settings": {
            "models": ["sepvit_t", "sepvit_s"],
            "task": ["inference"],
            "precision": ["float32"],
            "batch_sizes": [16],
            "image_size": [224, 224],
            "rounds": 3,
            "processes": 1,
            "threads": None,
        },
        "backends": {"jax": result},
        "errors": {},
    }
    result["models"] = {
        name: {"parameters": 30_000_000, "macs": 4_500_000_000} for name in ("sepvit_t", "sepvit_s")
    }
    record["rows"] = summarise(record)
    return record


@pytest.mark.once
def test_shares_are_of_the_same_round():
    record = record_of(result_of(1000, 2000, product_gflops={"float32": [200.0, 100.0, 50.0]}))
    compare(record)
    # 2 x 4.5 GMACs x 16 images = 144 GFLOP in 1, 2 and 4 s, where products have 200, 100, 50.
    assert record["rows"][0]["share"] == pytest.approx(0.72)
    assert record["rows"][0]["gflops"] == pytest.approx(72)


@pytest.mark.once
def test_the_best_modes_are_compared():
    result = result_of(1000, 2000, product_gflops={})
    rows = result["groups"][0]["rows"]
    rows += [
        {**rows[0], "mode": "export", "turns_ms": [[250.0 * slow] for slow in (1, 2, 4)]},
        {**rows[0], "precision": "bfloat16", "turns_ms": [[100.0 * slow] for slow in (1, 2, 4)]},
        {"model": "sepvit_s", "precision": "float32", "mode": "export", "error": "E: no"},
    ]
    record = record_of(result)
    compare(record)
    plain, other, export, bfloat16, failed = record["rows"]
    assert not plain["best_mode"] and export["best_mode"] and other["best_mode"]
    assert other["best_first_is_faster"]["median"] == 8
    assert bfloat16["faster_than_float32"]["median"] == 2.5
    assert failed["error"] == "E: no" and "ms" not in failed


@pytest.mark.once
def test_a_page_is_filled(tmp_path):
    """From results that are there: tables between the marks, and the picture."""
    record = record_of(result_of(1000, 2000, product_gflops={"float32": [200.0, 100.0, 50.0]}))
    text = report(record)
    folder = tmp_path / "train"
    folder.mkdir()
    (folder / "results.md").write_text(text)
    (folder / "results.json").write_text(json.dumps(record))
    (folder / "commit").write_text("abc1234")
    page = tmp_path / "benchmark.md"
    page.write_text("before\n<!-- train -->\nold\n<!-- end of train -->\nafter\n")
    speed_page.write_page("train", folder, tmp_path)
    filled = page.read_text()
    assert filled.startswith("before\n<!-- train -->\nCommit abc1234. Command: `python bench")
    assert "| SepViT-S | float32 | xla | 4.0 |" in filled and "old" not in filled
    assert filled.endswith("![images/s](benchmark_train.png)\n<!-- end of train -->\nafter\n")
    with Image.open(tmp_path / "benchmark_train.png") as picture:
        assert picture.size[0] > picture.size[1] > 300
    with pytest.raises(SystemExit, match="no marks for 'peers'"):
        fill_page(page, {"peers": ""})


@pytest.mark.once
@pytest.mark.parametrize("part", speed_page.PARTS)
def test_networks_of_the_page_are_in_the_catalogue(part):
    names = speed_page.PARTS[part].partition(" --")[0].split()
    assert set(names) <= set(CATALOGUE)
