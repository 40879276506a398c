"""`keras-sepvit benchmark`: real runs, refusals, and what is made of times."""

import copy
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from export_helpers import linear_model
from exported import write_litert, write_onnx
from helpers import BACKEND, SMALL
from typer.testing import CliRunner

from keras_sepvit import SepViT
from keras_sepvit.benchmark import programs, run, worker
from keras_sepvit.benchmark.report import summarise
from keras_sepvit.benchmark.run import MODES
from keras_sepvit.benchmark.timing import (
    calls_of_a_turn,
    latency,
    quartiles,
    ratio,
    round_medians,
    time_in_turns,
)
from keras_sepvit.cli import app
from keras_sepvit.configs import VARIANTS
from keras_sepvit.detection import MaskRCNN, RetinaNet
from keras_sepvit.segmentation import SemanticFPN

JOB = {
    "backend": BACKEND,
    "models": ["sepvit_lite"],
    "modes": {"inference": [MODES[BACKEND][0]], "train": [MODES[BACKEND][0]]},
    "task": ["inference"],
    "batch_sizes": [1],
    "precision": ["float32"],
    "image_size": [64, 64],
    "threads": None,
    "rounds": 2,
}


@pytest.fixture
def small_lite(monkeypatch):
    """Makes SepViT-Lite, in this process, a network that is compiled sooner."""
    monkeypatch.setitem(VARIANTS, "sepvit_lite", SMALL)


def benchmark(*arguments):
    return CliRunner().invoke(app, ["benchmark", *map(str, arguments)])


@pytest.mark.thorough
def test_a_run_writes_its_numbers(tmp_path):
    """Two files, in inference and training, in one process of this backend."""
    files = [tmp_path / "small.keras", tmp_path / "linear.keras"]
    for model, file in zip((SepViT(SMALL, classes=10), linear_model(10)), files, strict=True):
        model.save(file)
    options = ["--task", "inference,train", "--batch-sizes", "2", "--rounds", "2"]
    options += ["--image-size", "64", "--threads", "1", "--backends", BACKEND]
    result = benchmark(*files, *options, "--output-dir", tmp_path / "out")
    assert result.exit_code == 0, result.output

    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["settings"]["threads"] == 1 and record["machine"]["versions"]["keras"]
    rows = record["rows"]
    kinds = [(row["task"], row["model"], row["precision"]) for row in rows]
    assert kinds == [
        (task, str(file), worker.OWN) for task in ("inference", "train") for file in files
    ]
    for row in rows:
        assert "error" not in row, row
        ms = row["ms"]
        assert 0 < ms["p50"] <= (ms["p90"] or ms["p50"]) and ms["calls"] >= 2
        assert (row["first_is_faster"]["median"] == 1) == (row["model"] == str(files[0]))
    text = (tmp_path / "out" / "results.md").read_text()
    assert text.strip() == result.stdout.strip()
    assert "small.keras is faster by" in text and "| linear.keras | the file's |" in text


@pytest.mark.once
def test_exported_files_need_no_backend(tmp_path, monkeypatch):
    files = [tmp_path / name for name in ("any.onnx", "one.tflite", "three.onnx", "damaged.onnx")]
    write_onnx(files[0], image_shape=(16, 20, 3))
    write_litert(files[1], batch_size=1)
    write_onnx(files[2], batch_size=3)
    files[3].write_text("damaged")
    monkeypatch.setenv("KERAS_BACKEND", "none such")
    options = ["--rounds", "1", "--output-dir", tmp_path / "out"]
    result = benchmark(*files, *options, "--batch-sizes", "1,2")
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert {row["backend"] for row in rows} == {"runtime"}
    found = [(row["batch_size"], row["model"], row["mode"]) for row in rows if "error" not in row]
    assert found == [
        *((1, str(files[0]), "onnx"), (1, str(files[1]), "tflite"), (2, str(files[0]), "onnx")),
        (3, str(files[2]), "onnx"),  # a file is measured at the batch that it has
    ]
    assert all(row["ms"]["p50"] > 0 for row in rows if "error" not in row)
    assert all("first_is_faster" in row for row in rows[:2])
    failed = [row["model"] for row in rows if "error" in row]
    assert failed == [str(files[3])] * 2
    assert (
        "Images of 16 x 20 (any.onnx), 8 x 12 (one.tflite, three.onnx); 1 rounds" in result.stdout
    )
    for name, batch in (("one.tflite", 1), ("three.onnx", 3)):
        assert f"- {name} takes batches of {batch}, and was measured so." in result.stdout

    result = benchmark(files[1], *options)
    assert result.exit_code == 0 and "failed, see" not in result.stdout, result.output
    assert "Images of 8 x 12; 1 rounds" in result.stdout


@pytest.mark.usefixtures("small_lite")
def test_outputs_that_are_not_finite_are_refused(monkeypatch):
    build = worker.Worker.build

    def broken(self, name):
        model = build(self, name)
        model.weights[-1].assign(np.full(model.weights[-1].shape, np.nan))
        return model

    monkeypatch.setattr(worker.Worker, "build", broken)
    with pytest.raises(worker.Refused, match="sepvit_lite in float32.* not finite"):
        worker.Worker(JOB).measure()


@pytest.mark.usefixtures("small_lite")
def test_a_mode_that_fails_is_told_in_its_row(monkeypatch):
    """The other rows of the run are measured."""
    program = worker.Worker.program

    def failing(self, task, name, precision, mode, batch_size):
        if mode == "broken":
            raise RuntimeError("no compiler '/home/me/bin/cc' (see https://a.org/b/c)\nand more")
        return program(self, task, name, precision, mode, batch_size)

    monkeypatch.setattr(worker.Worker, "program", failing)
    modes = {"inference": ["broken", MODES[BACKEND][0]]}
    (group,) = worker.Worker({**JOB, "modes": modes}).measure()["groups"]
    failed, timed = group["rows"]
    assert failed["error"] == "RuntimeError: no compiler 'cc' (see https://a.org/b/c)"
    assert "turns_ms" not in failed
    assert len(timed["turns_ms"]) == 2
    with pytest.raises(ValueError, match="No model could be run. sepvit_lite: RuntimeError: no"):
        worker.Worker({**JOB, "modes": {"inference": ["broken"]}}).measure()


@pytest.mark.thorough
@pytest.mark.usefixtures("small_lite")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precisions(precision):
    """Weights in the precision in inference; mixed in training, which lowers the loss."""
    if BACKEND != "torch" and precision == "float16":
        pytest.skip("float16 products are for GPUs")
    own = worker.Worker({**JOB, "precision": [precision]})
    mode = MODES[BACKEND][0]
    for task, dtype in (("inference", precision), ("train", "float32")):
        program = own.program(task, "sepvit_lite", precision, mode, 1)
        worker.warm_up(program, task)
        policy = precision if task == "inference" else f"mixed_{precision}"
        model = own.model("sepvit_lite", policy, use=mode if task == "train" else None)
        # The head computes in float32, as the softmax after it would have it.
        weights = [w for w in model.trainable_variables if not w.path.startswith("head/")]
        assert {weight.dtype for weight in weights} == {dtype}
    losses = [float(program()) for _ in range(8)]
    assert losses[-1] < losses[0] - 0.1
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.thorough
def test_a_segmenter_takes_a_training_step():
    model = SemanticFPN(SMALL, 3, (32, 64, 3), neck_channels=8, head_channels=8)
    before = keras.ops.convert_to_numpy(model.trainable_variables[0])
    batch = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=(2, 32, 64, 3)))
    step = programs.training_step(model, batch, MODES[BACKEND][0])
    assert float(step()) == pytest.approx(np.log(3), rel=0.1)  # labels are random
    assert not np.array_equal(before, keras.ops.convert_to_numpy(model.trainable_variables[0]))


@pytest.mark.thorough
@pytest.mark.parametrize("network, options", [(RetinaNet, {}), (MaskRCNN, {"samples": 8})])
def test_a_detector_takes_a_training_step(network, options):
    model = network(SMALL, 3, image_shape=(32, 64, 3), channels=8, num_convs=1, **options)
    before = keras.ops.convert_to_numpy(model.trainable_variables[0])
    batch = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=(2, 32, 64, 3)))
    step = programs.training_step(model, batch, MODES[BACKEND][0])
    assert 0 < float(step()) < 100
    assert not np.array_equal(before, keras.ops.convert_to_numpy(model.trainable_variables[0]))


BAD_INPUT = [
    (["sepvit_xl"], "Unknown model 'sepvit_xl'. Known models: sepvit_lite, "),
    (["missing.keras"], "File not found: missing.keras"),
    (["sepvit_t", "sepvit_t"], "must be given once. Received: sepvit_t, sepvit_t"),
    (["--backends", "mxnet"], "'--backends': 'mxnet' is none of tensorflow, jax, torch"),
    (["--backends", "jax,jax"], "'--backends': 'jax,jax' has a value twice"),
    (["--batch-sizes", "0"], "'--batch-sizes': '0' is no number from 1"),
    (["--batch-sizes", "4,x"], "'x' is no number from 1. Give such as 1,16"),
    (["--precision", "int8"], "'int8' is none of float32, bfloat16, float16"),
    (["--task", "export"], "'export' is none of inference, train"),
    (
        ["--modes", "eager", "--backends", "jax"],
        "--modes has none for inference on jax, which knows xla. Received: eager",
    ),
    (
        ["--modes", "export", "--task", "train", "--backends", "torch"],
        "none for train on torch, which knows eager, compile",
    ),
    (["--threads", "0"], "Invalid value for '--threads'"),
    (["--threads", "4096"], "may use, and needs Linux. Received: 4096"),
    (["--rounds", "0"], "Invalid value for '--rounds'"),
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
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = benchmark("sepvit_t", "--backends", "jax", "--output-dir", tmp_path / "out")
    assert result.exit_code == 2 and 'pip install "keras-sepvit[jax]"' in result.stderr


@pytest.mark.once
def test_help_imports_no_keras():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom keras_sepvit.cli import app\n"
        "result = CliRunner().invoke(app, ['benchmark', '--help'])\n"
        "assert result.exit_code == 0 and '--batch-sizes' in result.stdout\n"
        "assert 'keras' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def result_of(*milliseconds, **others):
    """What a worker returns of two variants that take so long, on a machine that slows down."""
    rows = [
        {
            "model": model,
            "precision": "float32",
            "mode": "xla",
            "first_call_s": 1.0,
            "turns_ms": [[ms * slow] * 3 for slow in (1, 2, 4)],
        }
        for model, ms in zip(("sepvit_t", "sepvit_s"), milliseconds, strict=True)
    ]
    return {
        "device": "cpu:0",
        "groups": [{"task": "inference", "batch_size": 16, "rows": rows, **others}],
    }


@pytest.mark.once
def test_a_backend_that_fails_leaves_the_others_results(tmp_path, monkeypatch):
    def fake_worker(module, job):
        if job["backend"] == "torch":
            raise run.BackendError("too little memory")
        return result_of(1000, 2000)

    monkeypatch.setattr(run, "run_worker", fake_worker)
    arguments = ["sepvit_t", "sepvit_s", "--backends", "jax,torch", "--batch-sizes", "16"]
    result = benchmark(*arguments, "--output-dir", tmp_path)
    assert result.exit_code == 1
    assert "Error: torch: too little memory" in result.stderr
    assert "2.00x (2.00 to 2.00)" in result.stdout and "torch: no result" in result.stdout
    assert "15 rounds; in brackets quartiles over rounds" in result.stdout
    record = json.loads((tmp_path / "results.json").read_text())
    assert [*record["backends"]] == ["jax"] and [*record["errors"]] == ["torch"]


@pytest.mark.once
def test_processes_have_a_spread_of_their_own(tmp_path, monkeypatch):
    """Each process has ratios that hardly differ between its rounds, and are not the next one's."""
    results = [result_of(1000, other, product_gflops={"float32": [9.0]}) for other in (2000, 1500)]
    results.append(result_of(1000, 1700, product_gflops={"float32": [8.0]}))
    monkeypatch.setattr(run, "run_worker", lambda *job: copy.deepcopy(results.pop()))
    command = ["keras-sepvit", "x", "--output-dir", "a b", "--processes", "3", "--output-dir=c"]
    monkeypatch.setattr(sys, "argv", command)
    arguments = ["sepvit_t", "sepvit_s", "--backends", "jax", "--batch-sizes", "16"]
    arguments += ["--rounds", "3", "--processes", "3", "--output-dir", tmp_path]
    result = benchmark(*arguments)
    assert result.exit_code == 0, result.output
    assert "1.70x (1.50 to 2.00)" in result.stdout
    assert "3 processes of 3 rounds each; in brackets the lowest and the highest p" in result.stdout
    assert "Command: `keras-sepvit x --processes 3`" in result.stdout
    (group,) = json.loads((tmp_path / "results.json").read_text())["backends"]["jax"]["groups"]
    assert group["product_gflops"] == {"float32": [8.0, 9.0, 9.0]}


@pytest.mark.once
@pytest.mark.parametrize("failing", [0, 1])
def test_what_fails_in_one_process_has_failed(failing):
    results = [result_of(1000, 2000), result_of(1000, 2000)]
    row = results[failing]["groups"][0]["rows"][1]
    del row["turns_ms"]
    row["error"] = "E: no memory"
    whole, failed = run.joined(results)["groups"][0]["rows"]
    assert len(whole["turns_ms"]) == 6
    assert failed["error"] == "E: no memory" and "turns_ms" not in failed


@pytest.mark.once
def test_a_worker_that_fails_says_so():
    with pytest.raises(run.BackendError, match="ended with code 1; see above"):
        run.run_worker("keras_sepvit.benchmark.missing", JOB)


@pytest.mark.once
def test_ratios_are_of_the_same_round():
    """A drift of the machine changes times, and not ratios."""
    record = {
        "settings": {"models": ["sepvit_t", "sepvit_s"], "rounds": 3},
        "backends": {"jax": result_of(1000, 2000)},
    }
    ours, theirs = summarise(record)
    assert theirs["first_is_faster"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert ours["ms"]["p50"] == 2000
    assert ours["images_per_second"] == 8.0


@pytest.mark.once
def test_statistics():
    turns = [[1.0, 3.0, 2.0], [10.0, 10.0, 40.0]]
    assert round_medians(turns) == [2.0, 10.0]
    found = latency(turns)
    assert found["calls"] == 6 and found["p50"] == 6.5
    assert found["p90"] is None  # two of twenty are beyond it
    found = latency([range(20)] * 9)
    assert found["p90"] == pytest.approx(17.1) and found["p99"] is None
    assert latency([range(20)] * 10)["p99"] == 19
    assert quartiles([1, 2, 3, 4, 5]) == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert ratio([[1], [2]], [[3], [6]], rounds=2)["median"] == 3.0
    two = ratio([[1]] * 6, [[3], [5], [9], [1], [4], [4]], rounds=3)
    assert two == {"median": 4.5, "low": 4.0, "high": 5.0}


@pytest.mark.once
def test_turns_alternate():
    order = []
    functions = {name: lambda name=name: order.append(name) for name in "ab"}
    turns = time_in_turns(functions, rounds=2, between=lambda: order.append("|"))
    assert [len(turn) for turn in turns["a"]] == [50, 50]
    squeezed = [order[2]] + [b for a, b in zip(order[2:], order[3:], strict=False) if a != b]
    assert "".join(squeezed) == "|ab|ba"
    assert [calls_of_a_turn(ms) for ms in (1, 100, 1000)] == [50, 3, 1]
