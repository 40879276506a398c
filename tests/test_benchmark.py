"""`keras-sepvit benchmark`: real runs, refusals, and what is made of times."""

import contextlib
import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import BACKEND
from PIL import Image
from typer.testing import CliRunner

from keras_sepvit.benchmark import models, ratios, run, worker
from keras_sepvit.benchmark.catalogue import CATALOGUE
from keras_sepvit.benchmark.models import build_model, check_parameters, count_parameters
from keras_sepvit.benchmark.settings import MODES, Settings
from keras_sepvit.benchmark.summary import summarise
from keras_sepvit.benchmark.timing import calls_of_a_turn, time_in_turns
from keras_sepvit.cli import app

pytest.importorskip("keras_hub")

JOB = {
    "backend": BACKEND,
    "kind": "comparison",
    "models": ["sepvit_lite"],
    "modes": {"inference": [MODES[BACKEND][0]]},
    "tasks": ["inference"],
    "batch_sizes": [1],
    "precisions": ["float32"],
    "image_size": [64, 64],
    "threads": None,
    "device": "cpu",
    "rounds": 2,
}


def benchmark(*arguments):
    return CliRunner().invoke(app, ["benchmark", *map(str, arguments)])


def backend_module():
    return worker.importlib.import_module(f"keras_sepvit.benchmark.on_{BACKEND}")


@pytest.mark.slow
def test_a_comparison_writes_its_numbers(tmp_path):
    """Inference and training of two networks, in one process of this backend."""
    models = ["sepvit_lite", "hf_pvt_v2_b0" if BACKEND == "torch" else "mobilenetv2"]
    options = ["--task", "inference,train", "--batch-sizes", "2", "--rounds", "2"]
    options += ["--image-size", "64", "--threads", "1", "--backends", BACKEND, "--no-memory"]
    result = benchmark(*models, *options, "--output-dir", tmp_path / "out")
    assert result.exit_code == 0, result.output

    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["settings"]["threads"] == 1 and record["machine"]["versions"]["keras"]
    rows = record["rows"]
    assert len({(row["task"], row["model"]) for row in rows}) == len(rows) == 4
    for row in rows:
        assert "error" not in row, row
        ms = row["ms"]
        assert 0 < ms["p50"] <= ms["p90"] <= ms["p99"]
        assert ms["calls"] >= 2
        assert 0 < row["share"]["median"] < 1.5
    assert all(row["first_is_faster"]["median"] == 1 for row in rows if row["model"] == models[0])
    milliseconds = {row["task"]: row["ms"]["p50"] for row in rows if row["model"] == models[0]}
    assert milliseconds["train"] > milliseconds["inference"]
    built = record["backends"][BACKEND]["models"]["sepvit_lite"]
    assert built["parameters"] == 3_661_128
    assert 0.03e9 < built["macs"] < 0.06e9  # of 0.57e9 at 224 x 224

    text = (tmp_path / "out" / "results.md").read_text()
    assert text.strip() == result.stdout.strip()
    assert "SepViT-Lite is faster by" in text and "Rate of matrix products" in text
    with Image.open(tmp_path / "out" / "throughput.png") as picture:
        assert picture.size[0] > picture.size[1] > 300


@pytest.mark.slow
def test_peak_memory_is_of_a_process_of_its_own(tmp_path):
    options = ["--batch-sizes", "1,2", "--rounds", "1", "--image-size", "64", "--threads", "1"]
    result = benchmark("sepvit_lite", *options, "--backends", BACKEND, "--output-dir", tmp_path)
    assert result.exit_code == 0, result.output
    (row,) = json.loads((tmp_path / "results.json").read_text())["backends"][BACKEND]["memory"]
    weights = 4 * 3_661_128
    assert weights < row["process_peak"] - row["process_before"] < 100 * weights
    assert "Peak memory" in result.stdout


@pytest.mark.slow
def test_a_model_of_another_size_is_not_compared(tmp_path):
    """At 512 x 512 the position table makes DeiT-Ti 3 % larger than what is published."""
    options = ["--image-size", "512", "--rounds", "1", "--threads", "1", "--backends", BACKEND]
    result = benchmark("deit_t", *options, "--output-dir", tmp_path)
    assert result.exit_code == 1
    assert result.stdout == "" and not list(tmp_path.iterdir())
    assert "DeiT-Ti (deit_t) has 5,876,776 parameters" in result.stderr
    assert "published are 5,700,000" in result.stderr


def test_outputs_that_are_not_finite_are_refused(monkeypatch):
    def broken(*arguments):
        model = build_model(*arguments)
        model.weights[-1].assign(np.full(model.weights[-1].shape, np.nan))
        return model

    monkeypatch.setattr(worker, "build_model", broken)
    with pytest.raises(models.Refused, match="sepvit_lite in float32.* not finite"):
        worker.Comparison(backend_module(), JOB).measure()


def test_a_count_that_is_not_the_published_one_is_refused(monkeypatch):
    other = dataclasses.replace(CATALOGUE["sepvit_lite"], parameters=3.6e6 / 1.03)
    monkeypatch.setitem(CATALOGUE, "sepvit_lite", other)
    with pytest.raises(models.Refused, match="3,661,128 parameters; published are 3,495,146"):
        worker.Comparison(backend_module(), JOB).measure()


def test_a_mode_that_fails_is_told_in_its_row(monkeypatch):
    """The other rows of the run are measured."""
    module = backend_module()
    forward = module.forward

    def failing(model, images, precision, mode):
        if mode == "broken":
            raise RuntimeError("no such compiler\nand more")
        return forward(model, images, precision, mode)

    monkeypatch.setattr(module, "forward", failing)
    modes = {"inference": ["broken", MODES[BACKEND][0]]}
    (group,) = worker.Comparison(module, {**JOB, "modes": modes}).measure()["groups"]
    failed, timed = group["rows"]
    assert failed["error"] == "RuntimeError: no such compiler" and "turns_ms" not in failed
    assert len(timed["turns_ms"]) == 2
    assert len(group["product_gflops"]["float32"]) == 2
    with pytest.raises(ValueError, match="No model could be run. sepvit_lite: RuntimeError: no"):
        worker.Comparison(module, {**JOB, "modes": {"inference": ["broken"]}}).measure()


def test_a_graph_that_cannot_be_counted_leaves_the_times(monkeypatch):
    def unknown(*arguments):
        raise ValueError("The graph has the operator conv4d.")

    monkeypatch.setattr(worker, "_macs", unknown)
    result = worker.Comparison(backend_module(), JOB).measure()
    record = {"settings": {"models": ["sepvit_lite"]}, "backends": {BACKEND: result}}
    (row,) = summarise(record)
    assert row["ms"]["p50"] > 0 and "gflops" not in row
    assert result["models"]["sepvit_lite"]["error"].endswith("operator conv4d.")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precisions(precision):
    """Weights in the precision in inference; mixed in training, with finite losses."""
    if BACKEND != "torch" and precision == "float16":
        pytest.skip("float16 products are for GPUs")
    job = {**JOB, "precisions": [precision]}
    measurement = worker.Comparison(backend_module(), job)
    mode = MODES[BACKEND][0]
    for task, dtype in (("inference", precision), ("train", "float32")):
        program = measurement.program(task, "sepvit_lite", precision, mode, 1)
        measurement.warm_up(program, task)
        policy = precision if task == "inference" else f"mixed_{precision}"
        model = measurement.model("sepvit_lite", policy)
        # The head computes in float32, as the softmax after it would have it.
        weights = [w for w in model.trainable_variables if not w.path.startswith("head/")]
        assert {weight.dtype for weight in weights} == {dtype}
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("name", ["sepvit_lite", "mit_b0"])
def test_a_training_step_lowers_the_loss(name):
    measurement = worker.Comparison(backend_module(), JOB)
    step = measurement.program("train", name, "float32", MODES[BACKEND][0], 1)
    losses = [float(measurement.backend.to_numpy(step())) for _ in range(8)]
    assert losses[-1] < losses[0] - 0.1


def small(name):
    """Whether a model is built fast on every backend."""
    return CATALOGUE[name].parameters < 10e6


@pytest.mark.slow
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


BAD_INPUT = [
    (["sepvit_xl"], "Unknown model 'sepvit_xl'. Known models: sepvit_lite, "),
    (["hf_swin_t", "--backends", "jax"], "None of the models runs on jax: hf_swin_t needs torch"),
    (["sepvit_t", "hf_swin_t", "--backends", "jax"], "'hf_swin_t' needs the backend torch"),
    (["sepvit_t", "sepvit_t"], "each of them once"),
    (["--backends", "mxnet"], "--backends must be of tensorflow, jax, torch. Received: 'mxnet'"),
    (["--batch-sizes", "0"], "--batch-sizes must be at least 1. Received: 0"),
    (["--batch-sizes", "4,x"], "numbers separated by commas, such as 1,16. Received: '4,x'"),
    (["--precision", "int8"], "--precision must be of float32, bfloat16, float16"),
    (["--task", "export"], "--task must be of inference, train"),
    (["--modes", "eager", "--backends", "jax"], "--modes must be of xla. Received: 'eager'"),
    (
        ["--modes", "export", "--task", "train", "--backends", "torch"],
        "none for train on torch, which knows eager, compile",
    ),
    (["--device", "tpu"], "--device must be of cpu, gpu"),
    (["--threads", "0"], "--threads must be at least 1"),
    (["--threads", "4096"], "the processors that this process may use. Received: 4096"),
    (["--rounds", "0"], "--rounds must be at least 1"),
    (["--image-size", "big"], "--image-size must be one number"),
]


@pytest.mark.once
@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT)
def test_bad_input(arguments, message, tmp_path):
    result = benchmark(*arguments, "--output-dir", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.once
def test_output_folder_and_missing_packages(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    result = benchmark("sepvit_t", "--output-dir", tmp_path / "file")
    assert result.exit_code == 2 and "is a file. Give the name of a folder" in result.stderr

    monkeypatch.setattr(
        models.importlib.util, "find_spec", lambda name: None if name == "keras_hub" else name
    )
    result = benchmark("swin_t", "--output-dir", tmp_path / "out")
    assert result.exit_code == 2
    assert (
        "`keras_hub`" in result.stderr and 'pip install "keras-sepvit[benchmark]"' in result.stderr
    )


@pytest.mark.once
def test_help_imports_no_keras():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom keras_sepvit.cli import app\n"
        "result = CliRunner().invoke(app, ['benchmark', '--help'])\n"
        "assert result.exit_code == 0 and '--batch-sizes' in result.stdout\n"
        "assert 'keras' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def fake_result(name, scale):
    """What a worker returns: the first model takes `scale` ms, the other twice that."""
    rows = [
        {
            "model": model,
            "precision": "float32",
            "mode": "eager",
            "first_call_s": 1.0,
            "note": None,
            # The machine is slower in each round.
            "turns_ms": [[factor * scale * slow] * 3 for slow in (1, 2, 4)],
        }
        for model, factor in (("sepvit_t", 1), (name, 2))
    ]
    return {
        "gpu": None,
        "tf32": False,
        "models": {
            "sepvit_t": {"parameters": 31_182_856, "macs": 4_500_000_000},
            name: {"parameters": 28_288_354, "macs": 4_490_000_000},
        },
        "groups": [
            {
                "task": "inference",
                "batch_size": 16,
                "rows": rows,
                "product_gflops": {"float32": [200.0, 100.0, 50.0]},
            }
        ],
    }


@pytest.mark.once
def test_a_backend_that_fails_leaves_the_others_results(tmp_path, monkeypatch):
    def fake_worker(job, say):
        if job["backend"] == "torch":
            raise run.BackendError("Swin-T (swin_t) has 1 parameter")
        return fake_result("swin_t", scale=1000)

    monkeypatch.setattr(run, "_run_worker", fake_worker)
    arguments = ["sepvit_t", "swin_t", "--backends", "jax,torch", "--batch-sizes", "16"]
    result = benchmark(*arguments, "--no-memory", "--output-dir", tmp_path)
    assert result.exit_code == 1
    assert "Error: torch: Swin-T (swin_t) has 1 parameter" in result.stderr
    assert "2.00x (2.00 to 2.00)" in result.stdout and "torch: no result" in result.stdout
    record = json.loads((tmp_path / "results.json").read_text())
    assert [*record["backends"]] == ["jax"] and [*record["errors"]] == ["torch"]


@pytest.mark.slow
@pytest.mark.once
def test_a_worker_that_is_killed_or_has_no_gpu_says_so(tmp_path, monkeypatch):
    result = benchmark("sepvit_lite", "--device", "gpu", "--output-dir", tmp_path)
    if result.exit_code == 0:
        pytest.skip("there is a GPU")
    assert result.exit_code == 1 and "TensorFlow finds no GPU" in result.stderr
    monkeypatch.setattr(run, "WORKER", "keras_sepvit.benchmark.missing")
    with pytest.raises(run.BackendError, match="(?s)ended with code 1 .*No module named"):
        run._run_worker(JOB, print)


@pytest.mark.once
def test_ratios_are_of_the_same_round():
    """A drift of the machine changes times, and not ratios or shares."""
    record = {
        "settings": {"models": ("sepvit_t", "swin_t")},
        "backends": {"jax": fake_result("swin_t", scale=1000)},
    }
    ours, theirs = summarise(record)
    assert theirs["first_is_faster"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert ours["ms"]["p50"] == 2000 and ours["ms"]["p99"] == 4000
    assert ours["images_per_second"] == 8.0
    # 2 x 4.5 GMACs x 16 images = 144 GFLOP in 1, 2 and 4 s, where products have 200, 100, 50.
    assert ours["share"]["low"] == ours["share"]["high"] == pytest.approx(0.72)
    assert ours["gflops"] == pytest.approx(72)


@pytest.mark.once
def test_the_best_modes_are_compared():
    result = fake_result("swin_t", scale=1000)
    rows = result["groups"][0]["rows"]
    faster = [[250.0 * slow] for slow in (1, 2, 4)]
    rows += [
        {**rows[0], "mode": "export", "turns_ms": faster},
        {**rows[0], "precision": "bfloat16", "turns_ms": [[100.0 * slow] for slow in (1, 2, 4)]},
        {
            "model": "swin_t",
            "precision": "float32",
            "mode": "export",
            "error": "E: no",
            "note": None,
        },
    ]
    record = {"settings": {"models": ("sepvit_t", "swin_t")}, "backends": {"torch": result}}
    eager, swin, export, bfloat16, failed = summarise(record)
    assert not eager["best_mode"] and export["best_mode"] and swin["best_mode"]
    assert swin["best_first_is_faster"]["median"] == 8
    assert bfloat16["faster_than_float32"]["median"] == 2.5
    assert failed["error"] == "E: no" and "ms" not in failed


@pytest.mark.once
def test_statistics():
    turns = [[1.0, 3.0, 2.0], [10.0, 10.0, 40.0]]
    assert ratios.round_medians(turns) == [2.0, 10.0]
    latency = ratios.latency(turns)
    assert latency["calls"] == 6 and latency["p50"] == 6.5 and 25 <= latency["p90"] <= 40
    assert ratios.quartiles([1, 2, 3, 4, 5]) == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert ratios.ratio([[1], [2]], [[3], [6]])["median"] == 3.0


@pytest.mark.once
def test_turns_alternate():
    order = []
    functions = {name: lambda name=name: order.append(name) for name in "ab"}
    turns = time_in_turns(functions, rounds=2, between=lambda: order.append("|"))
    assert [len(turn) for turn in turns["a"]] == [50, 50]
    squeezed = [order[2]] + [b for a, b in zip(order[2:], order[3:], strict=False) if a != b]
    assert "".join(squeezed) == "|ab|ba"
    assert [calls_of_a_turn(ms) for ms in (1, 100, 1000)] == [50, 3, 1]


@pytest.mark.once
def test_threads_and_modes_of_backends():
    settings = Settings(models=("sepvit_t",), backends=("jax", "torch"), modes=("xla", "export"))
    assert settings.modes_on("jax", "inference") == ("xla",)
    assert settings.modes_on("torch", "inference") == ("export",)
    assert run._environment({"backend": "jax", "device": "cpu", "threads": 1})["JAX_PLATFORMS"]
