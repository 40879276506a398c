"""Runs a benchmark: a process for each backend, and one for each peak of memory."""

import dataclasses
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from keras_sepvit.benchmark.machine import describe_machine

WORKER = "keras_sepvit.benchmark.worker"

# The last lines of a process's output that an error quotes, where it ended without one.
QUOTED_LINES = 12


class BackendError(RuntimeError):
    """A backend's process failed, or refused to compare."""


def run_benchmark(settings, command, say):
    """Measures what the settings say, on one backend after the other.

    Args:
        settings: `Settings`.
        command: The command line, for the record.
        say: Called with lines about the progress.

    Returns:
        The record, of types that JSON has: `settings`, `machine`, `command`, `date` (UTC),
        `backends` with what the workers returned, and `errors` by backend: what failed
        does not take the others' results with it.
    """
    record = {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "settings": dataclasses.asdict(settings),
        "backends": {},
        "errors": {},
    }
    for backend in settings.backends:
        try:
            record["backends"][backend] = _measure(settings, backend, say)
        except BackendError as error:
            record["errors"][backend] = str(error)
            say(f"{backend}: {error}")
    return record


def _measure(settings, backend, say):
    job = {
        "backend": backend,
        "kind": "comparison",
        "models": settings.models_on(backend),
        "modes": {task: settings.modes_on(backend, task) for task in settings.tasks},
        "tasks": settings.tasks,
        "batch_sizes": settings.batch_sizes,
        "precisions": settings.precisions,
        "image_size": settings.image_size,
        "threads": settings.threads,
        "device": settings.device,
        "rounds": settings.rounds,
    }
    result = _run_worker(job, say)
    result["memory"] = []
    if settings.memory:
        for group in result["groups"]:
            if group["batch_size"] == max(settings.batch_sizes):
                result["memory"] += _measure_memory(job, group, say)
    return result


def _measure_memory(job, group, say):
    """Peaks of memory of a group's models, each in the first mode and a process of its own."""
    rows = []
    for row in group["rows"]:
        if "error" in row or row["mode"] != job["modes"][group["task"]][0]:
            continue
        key = {"model": row["model"], "precision": row["precision"], "mode": row["mode"]}
        say(f"{job['backend']}: memory of {row['model']}, {group['task']}, {row['precision']}")
        only = {
            "kind": "memory",
            "models": [row["model"]],
            "precisions": [row["precision"]],
            "modes": {group["task"]: [row["mode"]]},
            "tasks": [group["task"]],
            "batch_sizes": [group["batch_size"]],
        }
        try:
            peak = _run_worker({**job, **only}, say)
        except BackendError as error:  # such as too little memory
            peak = {"error": str(error).splitlines()[0]}
        rows.append({"task": group["task"], "batch_size": group["batch_size"], **key, **peak})
    return rows


def _run_worker(job, say):
    """What a worker made of a job.

    Raises:
        BackendError: if it fails, with its message.
    """
    with tempfile.TemporaryDirectory(prefix="keras_sepvit_benchmark_") as folder:
        folder = pathlib.Path(folder)
        (folder / "job.json").write_text(json.dumps(job))
        result = folder / "result.json"
        with (folder / "stderr").open("w+", errors="replace") as stderr:
            with subprocess.Popen(
                [sys.executable, "-m", WORKER, str(folder / "job.json"), str(result)],
                env=_environment(job),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                errors="replace",
            ) as process:
                for line in process.stdout:
                    say(line.rstrip())
            if not result.exists():
                stderr.seek(0)
                last = "\n".join(stderr.read().splitlines()[-QUOTED_LINES:])
                raise BackendError(
                    f"The process ended with code {process.returncode} and no result (a negative "
                    f"code is a signal; -9 may mean too little memory). It said:\n{last}"
                )
        record = json.loads(result.read_text())
    if "error" in record:
        raise BackendError(record["error"])
    return record


def _environment(job):
    environment = {
        **os.environ,
        "KERAS_BACKEND": job["backend"],
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        "HF_HUB_OFFLINE": "1",  # nothing is downloaded
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
    }
    if job["device"] == "cpu":
        environment |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    if job["threads"] is not None:
        count = str(job["threads"])
        environment |= {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    return environment
