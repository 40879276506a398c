"""Where PyTorch spends the time of a forward pass and of a training step: by operator.

    python benchmarks/operators.py

profiles SepViT-T beside Hugging Face's Swin-T on the CPU, eagerly and compiled, and puts the table
between its marks in docs/benchmark.md. Needs what `make venv` installs.
"""

from page import commit, fill_page, page_parser
from peers.catalogue import CATALOGUE
from peers.jobs import run_peers

from keras_sepvit.benchmark.machine import machine, sentences
from keras_sepvit.benchmark.report import TASKS, markdown_table

NETWORKS = ("sepvit_t", "hf_swin_t")
# Task, batch, mode.
PARTS = (
    ("inference", 1, "eager"),
    ("inference", 16, "eager"),
    ("inference", 16, "compile"),
    ("train", 4, "eager"),
)
# What the names of operators contain, in the order in which they are asked; backward ones, too.
GROUPS = {
    "attention": ("attention",),
    "convolutions": ("convolution", "conv2d"),
    "GELU": ("gelu",),
    "norms": ("layer_norm",),
    "optimizer": ("_foreach_",),
    "fused by the compiler": ("CompiledFxGraph",),
    "copies": ("copy_", "cat", "index"),
    "products": ("addmm", "aten::mm", "bmm", "linear"),
}
REST = ("other operators", "between operators")


def shares(found):
    """Shares of a call's time by group, from what the worker found of a network.

    Of the operators' time where that is longer: they were measured in other calls.
    """
    sums = dict.fromkeys((*GROUPS, *REST), 0.0)
    for name, milliseconds in found["operators"].items():
        groups = (g for g, parts in GROUPS.items() if any(part in name for part in parts))
        sums[next(groups, REST[0])] += milliseconds
    sums[REST[1]] = max(0.0, found["ms"] - sum(sums.values()))
    whole = sum(sums.values())
    return {group: share / whole for group, share in sums.items()}


def table(networks, parts):
    """A row a part and network: milliseconds of a call, and the share of each group."""
    rows = []
    for task, batch_size, mode in parts:
        settings = {"modes": {task: [mode]}, "operators": True}
        measured = run_peers(list(networks), "torch", task, batch_size, **settings)
        for name, found in measured.items():
            what = [TASKS[task], batch_size, mode, CATALOGUE[name].title, f"{found['ms']:.0f}"]
            rows.append([*what, *(f"{share:.0%}" for share in shares(found).values())])
    return markdown_table(["task", "batch", "mode", "network", "ms", *GROUPS, *REST], rows)


def main():
    parser = page_parser(__doc__)
    options = parser.parse_args()
    made = (
        "224 x 224, float32. Between operators are Python and PyTorch's dispatch. Command: `python "
        f"benchmarks/operators.py`; commit {commit()}."
    )
    text = f"{table(NETWORKS, PARTS)}\n\n{made}\n\n{sentences(machine())}"
    fill_page(options.docs / "benchmark.md", {"operators": text})


if __name__ == "__main__":
    main()
