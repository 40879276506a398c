"""How dense networks grow with the image: time, memory and multiply-accumulates by its side.

    python benchmarks/growth.py

measures segmenters and detectors at each side, in inference on one image, in turns, and puts the
tables between their marks in docs/benchmark.md. A network that fails at a size, such as for too
little memory, has its reason there. Needs what `make venv` installs.
"""

import statistics

from page import commit, fill_page, page_parser
from peers.catalogue import CATALOGUE
from peers.jobs import run_peers

from keras_sepvit.benchmark.machine import machine, sentences
from keras_sepvit.benchmark.report import markdown_table
from keras_sepvit.benchmark.run import MODES, BackendError
from keras_sepvit.benchmark.timing import round_medians
from keras_sepvit.default_backend import BACKENDS

SIZES = (256, 512, 768, 1024)
NETWORKS = (
    "semantic_fpn_t",
    "semantic_fpn_t_large_windows",
    "upernet_t",
    "segformer_b2",
    "deeplab_v3_plus",
    "hf_upernet_swin_t",
    "retinanet_t",
    "mask_rcnn_t",
    "retinanet_resnet50",
)


def times(names, backend, size, rounds):
    """Milliseconds and MACs of the networks at a size, or why there are none, by name."""
    try:
        result = run_peers(names, backend, image_size=(size, size), rounds=rounds)
    except BackendError as error:
        return {name: {"error": str(error)} for name in names}
    found = {name: {"macs": facts.get("macs")} for name, facts in result["models"].items()}
    for row in result["groups"][0]["rows"]:
        if "error" in row:
            found[row["model"]]["error"] = row["error"]
        else:
            found[row["model"]]["ms"] = statistics.median(round_medians(row["turns_ms"]))
    return found


def memory(name, backend, size):
    """MiB that a process takes for a network at a size, as a cell."""
    try:
        found = run_peers([name], backend, image_size=(size, size), memory=True)
    except BackendError:
        return "failed"
    return f"{(found['peak'] - found['before']) / 2**20:.0f}"


def tables(backend, names, sizes, rounds):
    """Times with the factor to the size before, MACs and memory, a row a network."""
    found = {size: times(names, backend, size, rounds) for size in sizes}
    rows = {"ms": [], "G MACs": [], "MiB above the empty process": []}
    for name in names:
        title = CATALOGUE[name].title
        cells, before = [], None
        for size in sizes:
            now = found[size][name].get("ms")
            factor = f" ({now / before:.1f}x)" if now and before else ""
            cells.append(f"{now:.0f}{factor}" if now else found[size][name]["error"])
            before = now
        rows["ms"].append([title, *cells])
        macs = (found[size][name].get("macs") for size in sizes)
        rows["G MACs"].append([title, *(f"{count / 1e9:.1f}" if count else "" for count in macs)])
        rows["MiB above the empty process"].append(
            [title, *(memory(name, backend, size) for size in sizes)]
        )
    parts = []
    for what, lines in rows.items():
        header = [f"{backend}, {what}", *(f"{size} x {size}" for size in sizes)]
        parts.append(markdown_table(header, lines))
    return "\n\n".join(parts)


def main():
    parser = page_parser(__doc__)
    parser.add_argument("--backends", default=",".join(BACKENDS), metavar="NAME,...")
    parser.add_argument("--networks", nargs="+", choices=CATALOGUE, default=list(NETWORKS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    for backend in options.backends.split(","):
        names = [name for name in options.networks if backend in CATALOGUE[name].backends]
        command = f"--backends {backend} --networks {' '.join(names)} --sizes "
        command += " ".join(map(str, options.sizes))
        made = (
            f"Inference, one image, float32, {MODES[backend][0]}; {options.rounds} rounds. "
            f"Command: `python benchmarks/growth.py {command}`; commit {commit()}."
        )
        text = tables(backend, names, options.sizes, options.rounds)
        text += f"\n\n{made}\n\n{sentences(machine())}"
        fill_page(options.docs / "benchmark.md", {f"growth-{backend}": text})


if __name__ == "__main__":
    main()
