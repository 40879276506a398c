"""Runs a benchmark: processes for each backend."""

import datetime
import json
import os

from keras_sepvit.benchmark.machine import machine
from keras_sepvit.processes import run_module

# How a backend runs a model; the first is the default. `export` is `torch.compile` of the
# program that `torch.export` makes of a model, for inference. Exported files alone need no
# backend, and have their own way.
MODES = {
    "tensorflow": ("graph", "xla"),
    "jax": ("xla",),
    "torch": ("eager", "compile", "export"),
    "runtime": ("runtime",),
}


class BackendError(RuntimeError):
    """A backend's process failed, or refused to compare."""


def run_benchmark(settings, command, worker="keras_sepvit.benchmark.worker"):
    """Measures on one backend after the other; what fails on one leaves the others' results.

    Args:
        settings: The options of `keras-sepvit benchmark` by name, `output_dir` apart.
        command: The command line, for the record.
        worker: The module that measures, run as `python -m`.

    Returns:
        The record, which JSON can hold: `settings`, `machine`, `command`, `date` (UTC),
        `backends` with what the workers returned, and `errors` by backend.

    Raises:
        ValueError: for modes none of which a backend has, before anything is measured.
    """
    jobs = {
        backend: {
            **settings,
            "backend": backend,
            "modes": {task: _modes(backend, task, settings) for task in settings["task"]},
        }
        for backend in settings["backends"]
    }
    record = {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "settings": settings,
        "backends": {},
        "errors": {},
    }
    for backend, job in jobs.items():
        try:
            results = [run_worker(worker, job) for _ in range(settings["processes"])]
            record["backends"][backend] = joined(results)
        except BackendError as error:
            record["errors"][backend] = str(error)
    return record


def joined(results):
    """One result of those of several processes: the turns of each after those of the one before."""
    result, *others = results
    for other in others:
        for group, more in zip(result["groups"], other["groups"], strict=True):
            for precision, rates in more.get("product_gflops", {}).items():
                group["product_gflops"][precision] += rates
            for row, again in zip(group["rows"], more["rows"], strict=True):
                if "error" in row or "error" in again:  # once is enough
                    row.pop("turns_ms", None)
                    row.setdefault("error", again.get("error"))
                else:
                    row["turns_ms"] += again["turns_ms"]
    return result


def run_worker(worker, job):
    """What a worker made of a job.

    Raises:
        BackendError: if it fails, with its message.
    """
    variables = {"KERAS_BACKEND": job["backend"]}
    variables["TF_CPP_MIN_LOG_LEVEL"] = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")
    if job["threads"] is not None:
        variables |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(job["threads"]))
    process = run_module(worker, json.dumps(job), **variables)
    if process.returncode:
        raise BackendError(
            f"The process ended with code {process.returncode}; see above. (A negative code is a "
            "signal; -9 may mean too little memory.)"
        )
    result = json.loads(process.stdout.splitlines()[-1])
    if "error" in result:
        raise BackendError(result["error"])
    return result


def _modes(backend, task, settings):
    """The modes of a task to measure on a backend."""
    known = [mode for mode in MODES[backend] if task == "inference" or mode != "export"]
    modes = [mode for mode in settings["modes"] or known[:1] if mode in known]
    if not modes:
        raise ValueError(
            f"--modes has none for {task} on {backend}, which knows {', '.join(known)}. "
            f"Received: {', '.join(settings['modes'])}."
        )
    return modes
