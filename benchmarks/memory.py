"""Peak memory of SepViT beside other networks, each in a process of its own (Linux).

    python benchmarks/memory.py sepvit_t swin_t --backends tensorflow,jax,torch

prints a table for networks of `peers/catalogue.py`: the peak of a process that builds and runs
one network, and what is above the same process before it built the network.
"""

import argparse

from peers.catalogue import CATALOGUE
from peers.jobs import run_peers

from keras_sepvit.benchmark.report import TASKS, markdown_table
from keras_sepvit.benchmark.run import MODES, BackendError
from keras_sepvit.cli.common import parse_image_size


def row_of(name, backend, options):
    """The peak as a row of the table."""
    row = [backend, TASKS[options.task], options.batch_size, CATALOGUE[name].title]
    row += [options.precision, MODES[backend][0]]
    settings = (options.task, options.batch_size, options.precision)
    size = parse_image_size(options.image_size)
    try:
        found = run_peers([name], backend, *settings, size, memory=True)
    except BackendError as error:
        return [*row, f"failed: {error}", ""]
    sizes = (found["peak"], found["peak"] - found["before"])
    return [*row, *(f"{size / 2**20:.0f}" for size in sizes)]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="+", choices=CATALOGUE, metavar="NETWORK")
    parser.add_argument("--backends", default="tensorflow", metavar="NAME,...")
    parser.add_argument("--task", choices=TASKS, default="inference")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", default="224")
    options = parser.parse_args()
    rows = [
        row_of(name, backend, options)
        for backend in options.backends.split(",")
        for name in options.networks
        if backend in CATALOGUE[name].backends
    ]
    header = ["backend", "task", "batch", "model", "precision", "mode", "MiB, process"]
    print(markdown_table([*header, "MiB, above the empty process"], rows))


if __name__ == "__main__":
    main()
