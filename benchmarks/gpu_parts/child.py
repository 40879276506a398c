"""Runs one part, or several `jobs`: `python -m gpu_parts.child JOB`, a process of `gpu.py`.

Each row of results is a line of JSON in the job's file as soon as it is there, so that what
was measured stays when the process is killed.
"""

import gc
import importlib
import json
import os
import sys
import time

from gpu_parts.sizes import FULL, SMALL
from keras_sepvit.benchmark.worker import reason_of


class Rows:
    """The file of results.

    Args:
        part: The name of the part, which each row tells.
        path: The file, JSON lines.
        deadline: When to stop, in the seconds of `time.time`.
    """

    def __init__(self, part, path, deadline):
        self._part = part
        self._path = path
        self._deadline = deadline

    def write(self, row):
        with open(self._path, "a") as file:
            file.write(json.dumps({"part": self._part, **row}) + "\n")

    def seconds_left(self):
        return self._deadline - time.time()

    def add(self, row, measure, begun=False):
        """Writes a row: what it is, and what `measure()` found, a dict, or why there is nothing.

        What has `begun`, by a program that is compiled, say, is measured after the deadline too.
        """
        free_memory()
        start = time.perf_counter()
        if self.seconds_left() < 0 and not begun:
            found = {"skipped": "out of time"}
        else:
            try:
                found = measure()
            except ImportError as error:
                found = {"skipped": str(error)}
            except Exception as error:
                found = {"error": reason_of(error)}
        self.write({**row, **found, "seconds": round(time.perf_counter() - start, 2)})


def free_memory():
    """Gives back the memory of what is no more in use, and counts torch's peak from now on."""
    gc.collect()
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def device_facts(backend):
    """Where the backend computes, and in which precision float32's products are."""
    from keras import ops

    facts = {"device": str(ops.zeros(()).device)}
    if backend == "torch":
        import torch

        facts["tf32 in products"] = torch.backends.cuda.matmul.allow_tf32
        facts["tf32 in convolutions"] = torch.backends.cudnn.allow_tf32
    elif backend == "jax":
        import jax

        facts["precision of products"] = jax.config.jax_default_matmul_precision or "default"
    return facts


def main():
    job = json.loads(sys.argv[1])
    if job.get("highest"):
        compute_in_float32(job["backend"])
    for one in job.get("jobs", [job]):
        one = {**job, **one}
        rows = Rows(one["name"], job["path"], job["deadline"])
        rows.write({"facts": device_facts(job["backend"])})
        part = importlib.import_module(f"gpu_parts.{one['part']}")
        part.run(one, SMALL if job["small"] else FULL, rows)


def compute_in_float32(backend):
    """No TensorFloat-32 in products and convolutions of float32."""
    if backend == "torch":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    elif backend == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
    else:
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)


if __name__ == "__main__":
    main()
