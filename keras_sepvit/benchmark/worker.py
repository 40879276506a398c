"""Measures on one backend, in a process of its own: `python -m keras_sepvit.benchmark.worker`."""

import contextlib
import gc
import json
import os
import re
import sys

import numpy as np

from keras_sepvit import runtime
from keras_sepvit.benchmark.machine import available_cores
from keras_sepvit.benchmark.timing import call_milliseconds, time_in_turns

# Calls before the first that counts; the first compiles.
WARM_UP_CALLS = 3

# What an error's message is cut to in a table.
LONGEST_REASON = 200

# The precision of a file, which has its own.
OWN = "the file's"


class Refused(ValueError):
    """What was built is not what it should be, or does not work: no basis to compare."""


class Worker:
    """Builds models, makes programs that run them, and times the programs in turns.

    Args:
        job: What `run_benchmark` measures on a backend: its dict, with `modes` by task.

    Attributes:
        image_sizes: (height, width) of the images that models were given, by name.
        own_batches: Images in a batch of the exported files that take no other number, by name.
    """

    def __init__(self, job):
        self.job = job
        self.image_sizes, self.own_batches = {}, {}
        self._models, self._files = {}, {}
        for name in job["models"]:
            if name.endswith(runtime.SUFFIXES):
                with contextlib.suppress(ImportError, OSError, ValueError):  # told in its row
                    ((batch_size, *_),) = self.file(name).input_shapes
                    self.own_batches |= {name: batch_size} if batch_size else {}

    def measure(self):
        """A dict of `groups`, whose rows were timed in turns, and of the attributes.

        Files are measured at the batch that they have, others at those of the job.

        Raises:
            ValueError: if nothing could be run at all.
        """
        groups = []
        for task in self.job["task"]:
            for batch_size in dict.fromkeys((*self.job["batch_sizes"], *self.own_batches.values())):
                group = self.group(task, batch_size)
                groups += [group] if group["rows"] else []
                gc.collect()
        rows = [row for group in groups for row in group["rows"]]
        if all("error" in row for row in rows):
            first = f" {rows[0]['model']}: {rows[0]['error']}" if rows else ""
            raise ValueError(f"No model could be run.{first}")
        facts = {"image_sizes": self.image_sizes, "own_batches": self.own_batches}
        return {"device": device(self.job["backend"]), **facts, "groups": groups}

    def group(self, task, batch_size):
        """A dict of `task`, `batch_size` and `rows`, whose programs were timed in turns."""
        title = f"{self.job['backend']}, {task}, batch {batch_size}"
        rows, programs = [], {}
        for precision in (*self.job["precision"], OWN):
            for name, mode in self._programs(task, precision, batch_size):
                what = f"{title}, {name} in {precision}, mode {mode}"
                say(what)
                row = {"model": name, "precision": precision, "mode": mode}
                try:
                    program = self.program(task, name, precision, mode, batch_size)
                    row["first_call_s"] = warm_up(program, what)
                    programs[len(rows)] = program
                except Refused:
                    raise
                except Exception as error:  # whatever a compiler raises is told in the table
                    row["error"] = reason_of(error)
                rows.append(row)
        say(f"{title}: {self.job['rounds']} rounds of {len(programs)} programs")
        turns = time_in_turns(programs, self.job["rounds"], self.between_rounds)
        for index, milliseconds in turns.items():
            rows[index]["turns_ms"] = milliseconds
        return {"task": task, "batch_size": batch_size, "rows": rows}

    def _programs(self, task, precision, batch_size):
        """The models that run in a precision and at a batch, each with the modes that it has."""
        for name in self.job["models"]:
            own = self.own_batches.get(name)
            if batch_size not in (self.job["batch_sizes"] if own is None else [own]):
                continue
            exported = name.endswith(runtime.SUFFIXES)
            if (precision == OWN) == (exported or name.endswith(".keras")):
                modes = self.job["modes"][task] if not exported else [name.rpartition(".")[2]]
                yield from ((name, mode) for mode in modes if task == "inference" or not exported)

    def between_rounds(self):
        """What else is measured, once in each round."""

    def program(self, task, name, precision, mode, batch_size):
        """A function that runs a model once, and returns what comes out when it is there."""
        if name.endswith(runtime.SUFFIXES):
            exported = self.file(name)
            (shape,) = exported.input_shapes
            images = self.images(name, batch_size, shape)
            return lambda: [*exported.outputs(images).values()]
        from keras import ops

        from keras_sepvit.benchmark import programs

        training = task == "train"
        if precision == OWN:
            precision = "float32"
        # Mixed precision in training; and a model is compiled for one program.
        policy = f"mixed_{precision}" if training and precision != "float32" else precision
        model = self.model(name, policy, use=mode if training else None)
        images = self.images(name, batch_size, model.input_shape)
        if training:
            return programs.training_step(model, ops.convert_to_tensor(images), mode)
        return programs.forward(model, ops.convert_to_tensor(images, precision), mode)

    def file(self, name):
        """The exported model of a file, opened once."""
        if name not in self._files:
            threads = self.job["threads"] or available_cores()
            self._files[name] = runtime.open_model(name, threads)
        return self._files[name]

    def model(self, name, policy="float32", use=None):
        """The Keras model of a name in a dtype policy, built once for each use."""
        import keras

        from keras_sepvit.policy import dtype_policy

        key = (name, policy, use)
        if key not in self._models:
            keras.utils.set_random_seed(0)
            # Some layers of KerasHub take the global policy, whatever their model's is.
            with dtype_policy(policy):
                self._models[key] = self.build(name)
        return self._models[key]

    def build(self, name):
        """A new Keras model of a name, with logits; a file's model as it is."""
        import keras

        from keras_sepvit import SepViT

        if name.endswith(".keras"):
            return keras.saving.load_model(name, compile=False)
        shape = (*self.job["image_size"], 3)
        return SepViT(name, input_shape=shape, classifier_activation=None)

    def images(self, name, batch_size, shape):
        """Random images for a model's input of that shape, with None where any size will do.

        Raises:
            ValueError: for an input that is no batch of so many images.
        """
        if len(shape) != 4 or shape[0] not in (None, batch_size):
            raise ValueError(f"the input is {shape}, not a batch of {batch_size} images")
        sizes = (batch_size, *self.job["image_size"], 3)
        shape = [own or size for own, size in zip(shape, sizes, strict=True)]
        self.image_sizes[name] = shape[1:3]
        return np.random.default_rng(0).standard_normal(shape, "float32")


def warm_up(program, what):
    """Calls a program for the first times; returns the seconds of the first call.

    Raises:
        Refused: if its output is not finite.
    """
    first = call_milliseconds(program)
    for _ in range(WARM_UP_CALLS - 1):
        output = program()
    if isinstance(output, list) and all(isinstance(part, np.ndarray) for part in output):
        output = np.concatenate([part.ravel() for part in output])  # of a file, without Keras
    elif not isinstance(output, np.ndarray | float):
        from keras import ops, tree

        outputs = [ops.cast(part, "float32") for part in tree.flatten(output)]
        output = np.concatenate([ops.convert_to_numpy(part).ravel() for part in outputs])
    if not np.isfinite(output).all():
        raise Refused(f"{what}: the outputs are not finite.")
    return first / 1e3


def device(backend):
    """Where a backend puts its tensors, in its own words."""
    if backend == "runtime":
        return "cpu"
    from keras import ops

    return str(ops.zeros(()).device)


def reason_of(error):
    """An exception in a line of a table, which shows no folder of this machine."""
    lines = re.sub(r"(?<![\w/])/(?:[^\s/'\":]+/)+", "", str(error)).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:LONGEST_REASON]}"


def say(text):
    """Tells how far a process is."""
    print(text, file=sys.stderr, flush=True)


def main(worker_class):
    """Does the job in the command line, JSON, and prints the result as the last line."""
    job = json.loads(sys.argv[1])
    if job["threads"] is not None:  # before a backend counts the processors
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job["threads"]])
    try:
        result = worker_class(job).measure()
    except (Refused, ImportError, ValueError) as error:
        result = {"error": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main(Worker)
