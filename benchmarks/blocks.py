"""Figure 4 of the paper, timed: a SepViT block beside two blocks of Swin and of Twins.

    python benchmarks/blocks.py

times them in inference, in turns, on each backend in processes of its own, and puts the table
between its marks in docs/complexity.md, beside that of their multiply-accumulates. Needs what
`make venv` installs.
"""

import json
import statistics

from complexity import block_costs
from page import commit, fill_page, page_parser

from keras_sepvit.benchmark.machine import machine, sentences
from keras_sepvit.benchmark.report import markdown_table, spread
from keras_sepvit.benchmark.run import MODES
from keras_sepvit.benchmark.timing import ratio, round_medians
from keras_sepvit.default_backend import BACKENDS
from keras_sepvit.processes import run_module

PACKAGES = (*BACKENDS, "keras", "keras-hub")


def turns_of(backend, batch_size, rounds, processes):
    """The turns of all processes, by stage and model."""
    job = {"batch_size": batch_size, "rounds": rounds, "mode": MODES[backend][0]}
    turns = {}
    for _ in range(processes):
        variables = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
        process = run_module("peers.pairs", json.dumps(job), **variables)
        if process.returncode:
            raise SystemExit(f"{backend} failed; see above. The page stays as it was.")
        for stage, models in json.loads(process.stdout.splitlines()[-1]).items():
            for name, milliseconds in models.items():
                turns.setdefault(int(stage), {}).setdefault(name, []).extend(milliseconds)
    return turns


def table(turns, batch_size, rounds):
    """A row a model and stage: MACs, and on each backend its time and the pairs' over it."""
    header = ["stage", "blocks", "M MACs"]
    for backend in turns:
        header += [f"{backend}, ms", "faster than two Swin's by", "than two Twins' by"]
    rows = []
    for stage, (_, blocks) in enumerate(block_costs(), start=1):
        for name, cost in blocks.items():
            row = [stage, name, f"{cost.macs_with_attention / 1e6:.0f}"]
            for found in turns.values():
                own = found[stage][name]
                row.append(f"{statistics.median(round_medians(own)) / batch_size:.2f}")
                for peer in ("two Swin blocks", "two Twins blocks"):
                    is_pair = name.startswith("two")
                    row.append("" if is_pair else spread(ratio(own, found[stage][peer], rounds)))
            rows.append(row)
    return markdown_table(header, rows)


def main():
    parser = page_parser(__doc__)
    parser.add_argument("--backends", default=",".join(BACKENDS), metavar="NAME,...")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=3)
    options = parser.parse_args()
    how = (options.batch_size, options.rounds)
    turns = {
        backend: turns_of(backend, *how, options.processes)
        for backend in options.backends.split(",")
    }
    made = (
        f"Milliseconds of one map in batches of {options.batch_size}, float32; {options.processes} "
        f"processes of {options.rounds} rounds each, in brackets the lowest and the highest "
        f"process. Command: `python benchmarks/blocks.py`; commit {commit()}."
    )
    text = f"{table(turns, *how)}\n\n{made}\n\n{sentences(machine(), PACKAGES)}"
    fill_page(options.docs / "complexity.md", {"blocks-timed": text})


if __name__ == "__main__":
    main()
