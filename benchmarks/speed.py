"""Speed of SepViT beside other networks: KerasHub's, keras.applications', Hugging Face's.

    python benchmarks/speed.py sepvit_t swin_t --backends tensorflow,jax,torch

has the options of `keras-sepvit benchmark` and works as it does, with networks of
`peers/catalogue.py` (an unknown name prints all), all built with random weights. The rate of
the machine's matrix products is measured between the networks' turns. Nothing is compared
whose outputs are not finite, or whose parameters are not as many as published. Needs the extra
`benchmark`.
"""

import functools
import os

import typer
from peers.build import check_installed
from peers.catalogue import DEFAULT_NETWORKS, catalogue_model
from peers.report import report

from keras_sepvit.cli.benchmark import benchmark, keras_backend, measure
from keras_sepvit.cli.common import reports_bad_input

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded


@functools.wraps(benchmark)
def speed(**options):
    names = options["models"] or DEFAULT_NETWORKS
    backends = options["backends"] or [keras_backend()]
    for name in names:
        runs_on = catalogue_model(name).backends
        if options["models"] and not set(runs_on) & set(backends):
            raise ValueError(
                f"{name} needs the backend {' or '.join(runs_on)}. Received: {', '.join(backends)}."
            )
    names = [name for name in names if set(catalogue_model(name).backends) & set(backends)]
    for backend in backends:
        if not any(backend in catalogue_model(name).backends for name in names):
            raise ValueError(f"None of the networks runs on {backend}: {', '.join(names)}.")
    check_installed(names)
    options |= {"models": names, "backends": backends}
    measure(options, "python benchmarks/speed.py", "peers.worker", report)


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command(help=__doc__)(reports_bad_input(speed))

if __name__ == "__main__":
    app()
