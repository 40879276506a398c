"""Does it learn? SepViT beside a Swin of its widths on CIFAR-10, and ways to begin that cost less.

    python benchmarks/learning.py --data FOLDER

trains, from random weights and by one recipe, a small SepViT, a Swin made of KerasHub's layers with
the same widths, heads and MLPs, and the paper's ablations (`--part networks`); then SepViT in the
ways to begin that docs/learning.md compares (`--part ways`): from random weights, by a warm start
from a Swin that has seen other classes, with a teacher; and these with fewer pictures (`--part
fewer`). Three seeds each; accuracy by epoch and by second. FOLDER has `cifar10_train.npz` and
`cifar10_test.npz`. Figures of recompressed pictures compare only with each other.

Runs are processes of one core each, as many at a time as there are cores, and their seconds are
those that the processor spends on training. With `--gpu` they get ready side by side, and then
train one at a time, so that their seconds are those of a GPU that does nothing else. What has run
is kept in `--output-dir`: after an interruption the same command goes on. Tables and pictures go
into docs/learning.md; with `--page-only` from what is there. The small setting takes an hour for
each part on two cores with AVX-512, and two or more without; the large one, of the networks alone,
is meant for a GPU. The backend is that of `KERAS_BACKEND`.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from learners.plans import SETTINGS, fewer_waves, network_waves, way_waves
from learners.report import write_fewer, write_networks, write_ways
from learners.runs import Run, train
from page import ROOT, commit, page_parser
from sharing import shared_gpu

from keras_sepvit.benchmark.machine import machine

PARTS = {"networks": write_networks, "ways": write_ways, "fewer": write_fewer}


def run_waves(waves, folder, workers, common):
    """Runs what has not run, a process each, as many at a time as there are workers.

    Args:
        waves: Iterable of lists of `Run`s.
        folder: Where results are kept.
        workers: Queue of sets of cores, one for each process at a time; None in the place of a set
            lets a process have all.
        common: What all jobs have, see `work`.
    """
    for wave in waves:
        left = [run for run in wave if not (folder / f"{run.key}.json").exists()]
        with concurrent.futures.ThreadPoolExecutor(workers.qsize()) as pool:
            for error in pool.map(lambda run: _run_in_process(run, workers, common), left):
                if error:
                    raise SystemExit(f"{error} failed, see above. What was done stays done.")


def _run_in_process(run, workers, common):
    """Runs one; its key where it failed."""
    cores = workers.get()
    try:
        job = json.dumps({"run": dataclasses.asdict(run), "cores": cores, **common})
        command = [sys.executable, __file__, "--data", run.data, "--job", job]
        variables = shared_gpu(common["folder"]) if common["turn"] else {}
        return subprocess.run(command, env={**os.environ, **variables}).returncode and run.key
    finally:
        workers.put(cores)


def work(job):
    """A process's part: one run.

    Args:
        job: As JSON: the `run`, its `cores` or None, the `folder` of results, the `commit` that
            runs, and the `turn` to train, see `train`.
    """
    job = json.loads(job)
    if job["cores"] is not None:
        os.sched_setaffinity(0, job["cores"])
    train(Run(**job["run"]), pathlib.Path(job["folder"]), job["commit"], job["turn"])


def workers_of(gpu):
    """A queue of what `run_waves` shares out."""
    cores = sorted(os.sched_getaffinity(0))
    workers = queue.Queue()
    # A process that compiles for a GPU has work for a few cores.
    for worker in [None] * max(len(cores) // 2, 1) if gpu else [[core] for core in cores]:
        workers.put(worker)
    return workers


def main():
    parser = page_parser(__doc__)
    parser.add_argument("--data", required=True, help="folder of CIFAR-10")
    parser.add_argument("--part", choices=PARTS, nargs="+", default=[*PARTS])
    parser.add_argument("--setting", choices=SETTINGS, default="small")
    parser.add_argument("--gpu", action="store_true", help="on one GPU, in turns")
    parser.add_argument("--commit", help="what runs; by default what git says")
    parser.add_argument("--page-only", action="store_true", help="train nothing")
    parser.add_argument("--output-dir", type=pathlib.Path, default=ROOT / "outputs" / "learning")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        work(options.job)
        return
    for part in options.part:
        folder = options.output_dir / options.setting / part

        def result(key, folder=folder):
            return json.loads((folder / f"{key}.json").read_text())

        setting = SETTINGS[options.setting]
        if not options.page_only:
            folder.mkdir(parents=True, exist_ok=True)
            made = {"machine": machine(), "setting": options.setting, "gpu": options.gpu}
            (folder / "made.json").write_text(json.dumps(made))
            if part == "networks":
                waves = network_waves(setting, options.data, result)
            else:
                make = way_waves if part == "ways" else fewer_waves
                waves = make(setting, options.data, folder)
            common = {"folder": str(folder), "commit": options.commit or commit()}
            common["turn"] = str(folder / "turn") if options.gpu else None
            run_waves(waves, folder, workers_of(options.gpu), common)
        PARTS[part](folder, options.docs, setting)


if __name__ == "__main__":
    main()
