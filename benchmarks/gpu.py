"""What SepViT does on a GPU: numbers, speed and training, in eight minutes at most.

    python benchmarks/gpu.py --output FOLDER

leaves `gpu.json` and `gpu.md` in the folder, written anew whenever a part has found something:
a run that is cut off keeps what it has. Each part runs in a process of its own with its share
of the time, so that one that crashes or hangs is noted and the others go on. Parts, on each
backend that is installed:

- agreement: outputs and a training step of all variants and the dense form in float32,
  float16 and bfloat16, compared with float32 on the CPU; how often the host waits
- throughput: inference of T, S and B by batch size, uncompiled and compiled, with the rate of
  the GPU's matrix products; on torch beside Swin-T and ConvNeXt-T
- training: steps of the trainer, from data on the device and, with TensorFlow, from tf.data
- dense: answers and training steps of RetinaNet and the segmenters, on T

`--small` does the same with small networks and fewer processes, for CPUs. Nothing is downloaded.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import tempfile
import time

from gpu_parts import comparison, report
from gpu_parts.sizes import FULL, SMALL
from sharing import shared_gpu

from keras_sepvit.benchmark.machine import machine
from keras_sepvit.default_backend import BACKENDS
from keras_sepvit.files import replacing

# Seconds of a run.
LIMIT = 450

# For how long a part may end a measurement after its time is out: seconds, or a share of its
# time where that is more and the run does not end before.
GRACE = 15
GRACE_SHARE = 0.4
PAGE_EVERY = 5

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


@dataclasses.dataclass(frozen=True)
class Part:
    """A process: its job, and the share of time it has beside other parts."""

    name: str
    job: dict
    share: float
    on_cpu: bool = False


def plan(backends, small):
    """Lists of parts: those of a list run at the same time, and no others beside them.

    What is compared and not timed runs together, except small on a CPU.
    """
    first = next(backend for backend in ("torch", "jax", "tensorflow") if backend in backends)
    shares = {"torch": 60, "jax": 110, "tensorflow": 90}
    reference = _agreement(first, ["float32"], highest=True)
    stages = [[Part("reference", reference, shares[first], on_cpu=True)]]
    for backend in sorted(backends, key=lambda backend: backend != first):
        if small:
            groups = [["mixed_float16"]]
        else:
            # JAX compiles each network for each precision: several at a time.
            groups = [[p] for p in PRECISIONS] if backend == "jax" else [PRECISIONS]
        numbers = []
        for group in groups:
            name = f"agreement-{backend}" + (f"-{group[0]}" if len(groups) > 1 else "")
            numbers.append(Part(name, _agreement(backend, group), shares[backend]))
        if not small:
            highest = _agreement(backend, ["float32"], highest=True)
            numbers.append(Part(f"agreement-{backend}-highest", highest, shares[backend]))
        if backend == first and not small:
            stages[0] += numbers
        else:
            stages.append(numbers)
    modes = {
        "torch": {"eager": 90, "compiled": 110},
        "jax": {"compiled": 180},
        "tensorflow": {"graph": 65, "xla": 100},
    }
    shares = {"torch": 70, "jax": 130, "tensorflow": 90}
    for backend in backends:
        job = {"part": "training", "backend": backend}
        timed = [Part(f"training-{backend}", job, shares[backend])]
        for mode, share in modes[backend].items():
            job = {"part": "throughput", "backend": backend, "mode": mode}
            timed.append(Part(f"throughput-{backend}-{mode}", job, share))
        job = {"part": "dense", "backend": backend}
        timed.append(Part(f"dense-{backend}", job, 2 * shares[backend]))
        stages += [[part] for part in timed]
    return [stages[0], *_in_one_process(stages[1:], backends)] if small else stages


def select(stages, names):
    """The parts of these names, in the same order."""
    known = [part.name for parts in stages for part in parts]
    if unknown := set(names).difference(known):
        raise SystemExit(f"--only: {', '.join(sorted(unknown))}; expected some of {known}")
    chosen = [[part for part in parts if part.name in names] for parts in stages]
    return [parts for parts in chosen if parts]


def _in_one_process(stages, backends):
    """The same with one part a backend, which does what several would, one after the other."""
    parts = [part for stage in stages for part in stage]
    merged = []
    for backend in backends:
        own = [part for part in parts if part.job["backend"] == backend]
        job = {"backend": backend, "jobs": [{**part.job, "name": part.name} for part in own]}
        merged.append([Part(f"all-{backend}", job, sum(part.share for part in own))])
    return merged


def _agreement(backend, precisions, highest=False):
    return {
        "part": "agreement",
        "backend": backend,
        "precisions": list(precisions),
        "highest": highest,
    }


class Child:
    """A part's process.

    Args:
        part: The `Part`.
        folder: Scratch folder of the run.
        seconds: The part's time.
        end: When the run ends, in the seconds of `time.time`.
        small: Whether sizes are small.
    """

    def __init__(self, part, folder, seconds, end, small):
        self.part = part
        self.rows_file = folder / f"{part.name}.jsonl"
        self._log = folder / f"{part.name}.log"
        self._start = time.time()
        self._seconds = seconds
        grace = max(GRACE, min(GRACE_SHARE * seconds, end - self._start - seconds))
        self._last = self._start + seconds + grace
        job = {
            **part.job,
            "name": part.name,
            "small": small,
            "folder": str(folder),
            "path": str(self.rows_file),
            "deadline": self._start + seconds,
        }
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gpu_parts.child", json.dumps(job)],
                env=environment(part, folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that its own processes end with it
            )

    def ended(self):
        """Whether the process has ended; it is killed when its time is out."""
        if self._process.poll() is None and time.time() > self._last:
            self.kill()
        return self._process.poll() is not None

    def kill(self):
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()

    def result(self):
        """What there is so far: `seconds`, `facts`, `rows`, and `error` where it failed."""
        code = self._process.poll()
        found = {"seconds": round(time.time() - self._start, 1), "facts": {}, "rows": []}
        if code == -signal.SIGKILL:
            found["error"] = f"killed; its time was {self._seconds:.0f} s"
        elif code:
            last = self._log.read_text(errors="replace").strip().splitlines()[-4:]
            found["error"] = f"ended with code {code}: {' / '.join(last)}"
        lines = self.rows_file.read_text().splitlines() if self.rows_file.exists() else []
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:  # cut off
                continue
            if "facts" in row:
                found["facts"] = row["facts"]
            else:
                found["rows"].append(row)
        return found


def environment(part, folder):
    """The variables of a part's process."""
    variables = {
        "KERAS_BACKEND": part.job["backend"],
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        "HF_HUB_OFFLINE": "1",
        **shared_gpu(folder),
    }
    if part.on_cpu:
        variables |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    if part.job.get("part") == "agreement":
        # Numbers do not need the fastest of XLA's kernels, and to find them takes long.
        flags = os.environ.get("XLA_FLAGS", "")
        variables["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0".strip()
    return {**os.environ, **variables}


class Record:
    """The results, and their two files.

    Args:
        output: The folder of the files.
        scratch: The folder that has the outputs to compare.
        facts: What is known before anything is measured.
    """

    def __init__(self, output, scratch, facts):
        self._output = output
        self._scratch = scratch
        self._sizes = SMALL if facts["small"] else FULL
        self.record = {**facts, "parts": {}}

    def update(self, children):
        for child in children:
            self.record["parts"][child.part.name] = child.result()
        rows = [row for part in self.record["parts"].values() for row in part["rows"]]
        comparison.compare(self._scratch, rows)
        report.add_shares(rows, self._sizes)
        self.write()

    def write(self):
        with replacing(self._output / "gpu.json") as path:
            path.write_text(json.dumps(self.record, indent=1))
        with replacing(self._output / "gpu.md") as path:
            path.write_text(report.page(self.record))


def measure(stages, seconds, small, scratch, record):
    """Runs the parts, each list with its share of the time that is left."""
    end = time.time() + seconds
    for number, parts in enumerate(stages):
        shares = [max(part.share for part in stage) for stage in stages[number:]]
        own = (end - time.time()) * shares[0] / sum(shares)
        children = []
        try:
            children += [Child(part, scratch, own, end, small) for part in parts]
            written = time.time()
            while not all([child.ended() for child in children]):
                time.sleep(0.2)
                if time.time() > written + PAGE_EVERY:
                    record.update(children)
                    written = time.time()
        finally:
            for child in children:
                child.kill()
        record.update(children)
        for child in children:
            found = record.record["parts"][child.part.name]
            print(
                f"{child.part.name}: {len(found['rows'])} results in {found['seconds']:.0f} s"
                + (f"; {found['error']}" if "error" in found else ""),
                flush=True,
            )


def installed_backends(names):
    """Those of the names that are installed."""
    return [name for name in names if importlib.util.find_spec(name) is not None]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder of the results")
    parser.add_argument(
        "--backends", nargs="+", choices=BACKENDS, help="by default those that are installed"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="PART", help="parts by name, such as training-jax"
    )
    parser.add_argument("--small", action="store_true", help="small networks, for CPUs")
    parser.add_argument("--seconds", type=float, default=LIMIT, help="of the whole run")
    options = parser.parse_args()
    backends = installed_backends(options.backends or ("torch", "jax", "tensorflow"))
    if not backends:
        raise SystemExit("None of the backends is installed.")
    stages = plan(backends, options.small)
    if options.only:
        stages = select(stages, options.only)
    options.output.mkdir(parents=True, exist_ok=True)
    facts = {
        "command": shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "small": options.small,
        "backends": backends,
        "not installed": [name for name in BACKENDS if name not in installed_backends(BACKENDS)],
    }
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        record = Record(options.output, scratch, facts)
        measure(stages, options.seconds, options.small, scratch, record)
    print((options.output / "gpu.md").read_text())


if __name__ == "__main__":
    main()
