"""benchmarks/: the scripts that fill tables of exported files, of README, and all at one commit."""

import json
import subprocess
import sys
import types

import export as export_script
import export_page
import figures
import page
import pytest
import speed_page
from peers.catalogue import CATALOGUE
from test_benchmark import result_of
from test_benchmark_networks import record_of

from keras_sepvit.benchmark.machine import machine
from keras_sepvit.configs import ABLATIONS
from keras_sepvit.default_backend import BACKENDS

pytestmark = pytest.mark.once

# Holds 100 MB, and starts a process that holds as much at the same time.
HOLDER = """
import subprocess, sys, time
held = bytearray(b"x") * 100_000_000
if len(sys.argv) > 1:
    subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
time.sleep(1)
"""


def test_memory_is_of_all_processes_at_one_time():
    """The largest of two processes would be half of it."""
    alone = export_script.watch([sys.executable, "-c", HOLDER], "none")
    both = export_script.watch([sys.executable, "-c", HOLDER, HOLDER], "none")
    assert 100e6 < alone < 150e6 and both - alone == pytest.approx(105e6, abs=10e6)
    with pytest.raises(RuntimeError, match="(?s)failed:.*no such thing"):
        export_script.watch([sys.executable, "-c", "raise SystemExit('no such thing')"], "none")


def files_of(milliseconds):
    """Rows of files, and what is measured of them: times in rounds of two processes."""
    rows = [
        {
            **{"model": model, "format": "litert", "precision": precision},
            **{"parameters": 1e6, "size_bytes": 4e6},
        }
        for model in ("SepViT-T", "Swin-T")
        for precision in ("float32", "int8")
    ]
    timed = [{"turns_ms": [[ms], [ms], [ms * drift]]} for ms, drift in milliseconds]
    return rows, {"errors": {}, "backends": {"runtime": {"groups": [{"rows": timed}]}}}


def test_times_of_files_are_ratios_with_the_spread_of_processes(monkeypatch):
    rows, record = files_of([(100, 1), (40, 1), (120, 1.5), (60, 1)])
    asked = []
    monkeypatch.setattr(
        export_script, "run_benchmark", lambda settings, _: asked.append(settings) or record
    )
    export_script.time_files(rows, ["a.tflite"] * 4, rounds=1, processes=3)
    assert [settings["threads"] for settings in asked] == [1, 2]
    assert asked[0]["processes"] == 3
    first, own_int8, other, int8 = (row["timing"]["1"] for row in rows)
    assert first["median"] == own_int8["median"] == 1
    assert (other["median"], other["low"], other["high"]) == pytest.approx((1.2, 1.2, 1.8))
    assert int8["median"] == pytest.approx(1.5)  # to SepViT's of the same precision
    assert "| 120.0 (1.20x, 1.20 to 1.80) |" in export_page.peers_table(rows)

    alone = rows[:2]
    for row in alone:
        del row["timing"]
    record["backends"]["runtime"]["groups"][0]["rows"] = record["backends"]["runtime"]["groups"][0][
        "rows"
    ][:2]
    export_script.time_files(alone, ["a.tflite"] * 2, rounds=1, processes=3)
    assert alone[1]["timing"]["2"]["median"] == pytest.approx(2.5)  # as fast as the first


def test_a_table_of_files_says_what_it_is_of(tmp_path):
    """Errors of what; commit, machine and command of each table, not of the last one made."""
    rows = [
        {
            **{"format": "litert", "precision": precision, "size_bytes": 1000},
            **{"top1_agreement": 1, "accuracy": 0.98, "max_error": 0.1, "compared": compared},
        }
        for precision, compared in (("int8", "logits"), ("full_int8", "probabilities"))
    ]
    table = {"rows": rows, "machine": machine(), "commit": "abc1234"}
    path = tmp_path / "export.md"
    path.write_text("<!-- digits -->\n<!-- end of digits -->\n")
    export_page.write_docs({"tables": {"digits": table}}, path)
    text = path.read_text()
    assert "1.0e-01 of logits |" in text and "1.0e-01 of probabilities |" in text
    assert "`python benchmarks/export.py --tables digits`; commit abc1234." in text
    assert "Machine: " in text


def test_onnx_files_are_exported_where_they_are_converted(tmp_path, monkeypatch):
    """A model that Keras cannot save gets there without being saved."""
    backends = {}

    def watch(command, backend):
        name, format, _, _, record = command[3:]
        backends[name, format] = backend
        with open(record, "w") as file:
            json.dump({"seconds": 1}, file)
        return 2e9

    monkeypatch.setattr(export_script, "watch", watch)
    for name, format in (("Swin-T", "onnx"), ("Swin-T", "litert"), ("digits", "onnx")):
        _, record = export_script.exported(name, format, None, tmp_path)
        assert record == {"seconds": 1, "peak_memory_gb": 2}
    assert [*backends.values()] == ["torch", "tensorflow", "tensorflow"]
    monkeypatch.setattr(export_script, "watch", None)  # what is there is taken
    export_script.exported("Swin-T", "onnx", None, tmp_path)


def test_the_table_of_readme():
    record = record_of(result_of(1000, 2000, product_gflops={"float32": [200.0, 100.0, 50.0]}))
    record["settings"]["batch_sizes"] = [1, 16]
    rows = [{**row, "batch_size": size} for size in (1, 16) for row in record["rows"]]
    record["rows"] = rows
    rows[3]["share"] = 0.5
    table = speed_page.readme_table(record).splitlines()
    assert table[0] == (
        "| backend | model | images/s, batch 1 | SepViT-T is faster by | images/s, batch 16 | "
        "SepViT-T is faster by | share of products' rate |"
    )
    assert table[3] == (
        "| jax | SepViT-S | 4.0 | 2.00x (2.00 to 2.00) | 4.0 | 2.00x (2.00 to 2.00) | 50% |"
    )


def test_the_pages_have_places_for_all_figures(tmp_path):
    growth = [f"growth-{backend}" for backend in BACKENDS]
    for text, names in (
        (page.ROOT / "docs" / "benchmark.md", [*speed_page.PARTS, *growth, "operators"]),
        (page.ROOT / "docs" / "export.md", export_script.TABLES),
        (page.ROOT / "docs" / "complexity.md", ["blocks-timed"]),
        (page.ROOT / "docs" / "training.md", ["pipeline", "recompute"]),
        (page.ROOT / "docs" / "detection.md", ["blood cells"]),
        (page.ROOT / "README.md", ["peers"]),
    ):
        copy = tmp_path / text.name
        copy.write_text(text.read_text())
        page.fill_page(copy, dict.fromkeys(names, "new"))
        assert copy.read_text().count("\nnew\n") == len(names)
    scripts = {command.split()[0] for command, _ in figures.FIGURES.values()}
    made = " ".join(command for command, _ in figures.FIGURES.values())
    assert scripts == {"complexity.py", "speed_page.py", "export.py", "input_pipeline.py"}
    assert all(f"--parts {part}" in made for part in speed_page.PARTS)
    assert {f"sepvit_t_{name}" for name in ABLATIONS} <= CATALOGUE.keys()
    assert all(f"--tables {table}" in made for table in export_script.TABLES)
    assert sum(minutes for _, minutes in figures.FIGURES.values()) <= 90


def test_the_page_is_of_the_commands_that_write_it():
    """Whoever changes a command measures again."""
    text = (page.ROOT / "docs" / "benchmark.md").read_text()
    for options in speed_page.PARTS.values():
        assert f"`python benchmarks/speed.py {options}`" in text
    for options in speed_page.MEMORY.values():
        assert f"`python benchmarks/memory.py {options}`" in text


def test_figures_go_on_after_an_interruption(tmp_path):
    ran, fails = [], ["export-speed"]

    def run(command, cwd):
        ran.append(" ".join(command[2:]))
        return types.SimpleNamespace(returncode=int("--tables speed" in ran[-1] and fails != []))

    names = ["export-digits", "export-speed", "complexity"]
    with pytest.raises(SystemExit, match="export-speed failed"):
        figures.write_figures(names, tmp_path, run)
    fails.clear()
    figures.write_figures(names, tmp_path, run)
    folder = f"--output-dir {tmp_path / 'export'}"
    speed = f"--tables speed {folder}"
    assert ran == [f"--tables digits {folder}", speed, speed, ""]


def test_a_commit_is_named_only_where_the_code_is_its(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True)

    git("init", "--quiet")
    (tmp_path / "docs").mkdir()
    (tmp_path / "setup.cfg").write_text("old")
    git("add", ".")
    git("commit", "--quiet", "--message", "all")
    monkeypatch.setattr(page, "ROOT", tmp_path)
    at = page.commit()
    assert " " not in at
    (tmp_path / "docs" / "page.md").write_text("a new table")
    assert page.commit() == at
    (tmp_path / "setup.cfg").write_text("new")
    assert page.commit() == f"{at} with changes"
    monkeypatch.setattr(figures, "commit", page.commit)
    monkeypatch.setattr(sys, "argv", ["figures.py"])
    with pytest.raises(SystemExit, match="not as committed"):
        figures.main()


@pytest.mark.thorough
def test_a_part_is_measured_and_written(tmp_path, monkeypatch):
    """The real scripts, on a small picture, in two processes."""
    part = "sepvit_lite --backends tensorflow --image-size 64 --batch-sizes 1 --rounds 1"
    part += " --processes 2"
    monkeypatch.setitem(speed_page.PARTS, "peers", part)
    monkeypatch.delitem(speed_page.MEMORY, "peers")
    monkeypatch.setattr(speed_page, "commit", lambda: "abc1234")
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("README.md", "docs/benchmark.md"):
        (tmp_path / name).write_text("<!-- peers -->\nold\n<!-- end of peers -->\n")
    arguments = ["--parts", "peers", "--docs", str(docs), "--output-dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["speed_page.py", *arguments])
    speed_page.main()
    text = (docs / "benchmark.md").read_text()
    assert f"Commit abc1234. Command: `python benchmarks/speed.py {part}`\n" in text
    assert "2 processes of 1 rounds each" in text
    assert str(tmp_path) not in text and (docs / "benchmark_peers.png").exists()
    assert "| tensorflow | SepViT-Lite |" in (tmp_path / "README.md").read_text()


@pytest.mark.thorough
def test_a_file_is_exported_and_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(export_script.TABLES, "digits", (["digits"], [("litert", "float16")]))
    (row,) = export_script.measure("digits", None, tmp_path, rounds=1, processes=1)
    assert "error" not in row and row["accuracy"] > 0.97 and row["compared"] == "logits"
    assert 0.2 < row["peak_memory_gb"] < 8
    assert "| litert | float16 |" in export_page.digits_table([row])
    export_script.time_files([row], [next(tmp_path.glob("*.tflite"))], rounds=1, processes=1)
    assert all(row["timing"][threads]["ms"] > 0 for threads in ("1", "2"))
