"""What recomputing blocks in the backward pass saves, and what it costs.

    python benchmarks/recompute.py

trains SepViT-T with `keras.RematScope` and without, each on each backend in a process of its own,
and puts peak memory and the time of a step between their marks in docs/training.md (Linux).
"""

from page import commit, fill_page, page_parser
from peers.jobs import run_peers

from keras_sepvit.benchmark.machine import machine, sentences
from keras_sepvit.benchmark.report import markdown_table
from keras_sepvit.default_backend import BACKENDS


def measured(backend, batch_size, recompute):
    """MiB at most above the empty process, and seconds of the fastest of three steps."""
    settings = {"memory": True, "timed_calls": 3, "recompute": recompute}
    found = run_peers(["sepvit_t"], backend, "train", batch_size, **settings)
    return (found["peak"] - found["before"]) / 2**20, found["ms"] / 1e3


def main():
    parser = page_parser(__doc__)
    parser.add_argument("--backends", default=",".join(BACKENDS), metavar="NAME,...")
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    rows = []
    for backend in options.backends.split(","):
        kept, kept_s = measured(backend, options.batch_size, recompute=False)
        again, again_s = measured(backend, options.batch_size, recompute=True)
        memory = [f"{kept:.0f}", f"{again:.0f}", f"{again / kept:.2f}"]
        rows.append(
            [backend, *memory, f"{kept_s:.2f}", f"{again_s:.2f}", f"{again_s / kept_s:.2f}"]
        )
    header = ["backend", "MiB", "recomputed", "ratio", "s a step", "recomputed", "ratio"]
    made = (
        f"SepViT-T, 224 x 224, batches of {options.batch_size}, float32, AdamW; memory above the "
        f"empty process. Command: `python benchmarks/recompute.py --backends {options.backends}`; "
        f"commit {commit()}."
    )
    text = f"{markdown_table(header, rows)}\n\n{made}\n\n{sentences(machine())}"
    fill_page(options.docs / "training.md", {"recompute": text})


if __name__ == "__main__":
    main()
