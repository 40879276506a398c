"""Measures on one backend, in a process of its own: `python -m keras_sepvit.benchmark.worker`.

The job and the result are JSON files. A job is a comparison of models, timed in turns, or
one model whose peak memory is wanted.
"""

import functools
import gc
import importlib
import json
import os
import pathlib
import re
import sys

import numpy as np

from keras_sepvit.benchmark.catalogue import catalogue_model
from keras_sepvit.benchmark.models import (
    CLASSES,
    Refused,
    build_model,
    check_parameters,
    count_parameters,
    import_library,
)
from keras_sepvit.benchmark.timing import (
    CPU_PRODUCTS,
    GPU_PRODUCTS,
    ProductRate,
    call_milliseconds,
    time_in_turns,
)

# Calls before the first that counts; the first compiles.
WARM_UP_CALLS = 3

# What an error's message is cut to in a table.
LONGEST_REASON = 200


def main(job_path, result_path):
    """Does the job in one file, and writes the result to the other."""
    job = json.loads(pathlib.Path(job_path).read_text())
    if job["threads"] is not None:  # before a backend counts the processors
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job["threads"]])
    try:
        backend = importlib.import_module(f"keras_sepvit.benchmark.on_{job['backend']}")
        backend.prepare(job["device"], job["threads"])
        measurement = {"comparison": Comparison, "memory": PeakMemory}[job["kind"]]
        result = {**backend.facts(), **measurement(backend, job).measure()}
    except (Refused, ImportError, ValueError) as error:
        result = {"error": str(error)}
    temporary = pathlib.Path(f"{result_path}.part")
    temporary.write_text(json.dumps(result))
    temporary.replace(result_path)


class Measurement:
    """What both kinds of jobs do: build models, and make programs that run them.

    Args:
        backend: The module `on_<backend>`.
        job: The job's dict: a comparison's has the fields of `Settings`.
    """

    def __init__(self, backend, job):
        self.backend = backend
        self.job = job
        self._models = {}

    @functools.cached_property
    def _images(self):
        count = max(self.job["batch_sizes"])
        shape = (count, *self.job["image_size"], 3)
        return np.random.default_rng(0).standard_normal(shape, "float32")

    def model(self, name, policy):
        """The model of a name, checked against what is published about it."""
        if (name, policy) not in self._models:
            model = build_model(name, self.job["image_size"], policy)
            check_parameters(name, count_parameters(model))
            self._models[name, policy] = model
        return self._models[name, policy]

    def program(self, task, name, precision, mode, batch_size):
        """A function that runs a model once, and returns when it is done."""
        mixed = task == "train" and precision != "float32"
        model = self.model(name, f"mixed_{precision}" if mixed else precision)
        images = self._images[:batch_size]
        if catalogue_model(name).channels_first:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        if task == "inference":
            return self.backend.forward(model, images, precision, mode)
        labels = np.random.default_rng(1).integers(0, CLASSES, batch_size, dtype="int32")
        return self.backend.training_step(model, images, labels, precision, mode)

    def warm_up(self, program, what):
        """Calls a program for the first times; returns what came of it.

        Raises:
            Refused: if its output is not finite.
        """
        first = call_milliseconds(program)
        for _ in range(WARM_UP_CALLS - 1):
            output = program()
        if not np.isfinite(self.backend.to_numpy(output)).all():
            raise Refused(f"{what}: the outputs are not finite.")
        return {"first_call_s": first / 1e3}


class Comparison(Measurement):
    """All models of a backend, timed in turns."""

    def measure(self):
        """The record of models and of groups: a group's rows were timed in turns.

        Raises:
            ValueError: if nothing could be run at all.
        """
        groups = []
        for task in self.job["tasks"]:
            for batch_size in self.job["batch_sizes"]:
                groups.append(self._group(task, batch_size))
                gc.collect()
        rows = [row for group in groups for row in group["rows"]]
        if all("error" in row for row in rows):
            raise ValueError(f"No model could be run. {rows[0]['model']}: {rows[0]['error']}")
        return {"groups": groups, "models": self._model_records()}

    def _group(self, task, batch_size):
        title = f"{self.job['backend']}, {task}, batch {batch_size}"
        rows, programs = [], {}
        for precision in self.job["precisions"]:
            for name in self.job["models"]:
                for mode in self.job["modes"][task]:
                    what = f"{title}, {name} in {precision}, mode {mode}"
                    _say(what)
                    row = {"model": name, "precision": precision, "mode": mode}
                    try:
                        program = self.program(task, name, precision, mode, batch_size)
                        row |= self.warm_up(program, what)
                        programs[len(rows)] = program
                    except Refused:
                        raise
                    except Exception as error:  # whatever a compiler raises is told in the table
                        row["error"] = _reason(error)
                    row["note"] = self._compilation_note(mode)
                    rows.append(row)
        rates = self._product_rates()
        _say(f"{title}: {self.job['rounds']} rounds of {len(programs)} programs")
        turns = time_in_turns(
            programs, self.job["rounds"], lambda: [rate.measure() for rate in rates.values()]
        )
        for index, milliseconds in turns.items():
            rows[index]["turns_ms"] = milliseconds
        return {
            "task": task,
            "batch_size": batch_size,
            "rows": rows,
            "product_gflops": {precision: rate.gflops for precision, rate in rates.items()},
        }

    def _product_rates(self):
        """A `ProductRate` for each precision that the backend has products in."""
        shapes = CPU_PRODUCTS if self.job["device"] == "cpu" else GPU_PRODUCTS
        rates = {}
        for precision in self.job["precisions"]:
            try:
                rates[precision] = ProductRate(self.backend, precision, shapes)
            except Exception as error:  # JAX on CPUs has no float16 products
                _say(f"no products in {precision}: {_reason(error)}")
        return rates

    def _compilation_note(self, mode):
        return self.backend.compilation_note() if mode in ("compile", "export") else None

    def _model_records(self):
        """Parameters and MACs of the models that could be built."""
        records = {}
        for name in self.job["models"]:
            _say(f"{self.job['backend']}: MACs of {name}")
            try:
                model = self.model(name, "float32")
            except Refused:
                raise
            except Exception as error:
                records[name] = {"error": _reason(error)}
                continue
            records[name] = {"parameters": count_parameters(model)}
            try:
                records[name]["macs"] = _macs(name, model, self.job["image_size"])
            except ValueError as error:  # a graph with an operator whose cost is not known
                records[name]["error"] = _reason(error)
        return records


class PeakMemory(Measurement):
    """The peak memory of one model's program."""

    def measure(self):
        """Peak memory in bytes, of the process and of the GPU, and before the model was built.

        On a GPU the peak is that of arrays; on a CPU that of the whole process, of which
        the imported backend is a good part.
        """
        job = self.job
        (task,), (name,), (precision,) = (job[key] for key in ("tasks", "models", "precisions"))
        (mode,) = job["modes"][task]
        import_library(catalogue_model(name).library)  # which is no part of the model
        before = _process_memory("VmRSS")
        program = self.program(task, name, precision, mode, max(job["batch_sizes"]))
        self.warm_up(program, name)
        return {
            "process_before": before,
            "process_peak": _process_memory("VmHWM"),
            "device_peak": self.backend.peak_device_memory(),
        }


def _macs(name, model, image_size):
    from keras_sepvit.complexity.graph import traced_macs

    channels_first = catalogue_model(name).channels_first
    return traced_macs(model, (*image_size, 3), channels_first=channels_first)


def _process_memory(key):
    """Bytes of this process's memory (Linux); None elsewhere.

    Not `getrusage`, whose peak a process takes over from the one that started it.
    """
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return None
    return 1024 * int(re.search(rf"{key}:\s*(\d+) kB", status.read_text())[1])


def _reason(error):
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:LONGEST_REASON]}"


def _say(text):
    print(text, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
