"""What a run of the benchmark measures."""

import dataclasses
import os

from keras_sepvit.benchmark.catalogue import DEFAULT_MODELS, catalogue_model
from keras_sepvit.default_backend import BACKENDS

TASKS = ("inference", "train")
PRECISIONS = ("float32", "bfloat16", "float16")
DEVICES = ("cpu", "gpu")

# How a backend runs a model; the first is the default. `export` is `torch.compile` of the
# program that `torch.export` makes of a model.
MODES = {
    "tensorflow": ("graph", "xla"),
    "jax": ("xla",),
    "torch": ("eager", "compile", "export"),
}
INFERENCE_MODES = ("export",)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure. All of it is checked before any process starts.

    Attributes:
        models: Names of the catalogue; ratios are to the first.
        backends: Names of Keras backends, each measured in a process of its own.
        tasks: `"inference"` (a forward pass) and `"train"` (a step: forward, cross entropy,
            backward, update by AdamW).
        batch_sizes: Images in a batch.
        precisions: `"float32"`, `"bfloat16"`, `"float16"`. Weights and computation in
            inference; computation only (mixed precision) in training.
        modes: How the backends run a model, of `MODES`; None for each backend's first.
        threads: Number of processors that a process may use; None for all.
        device: `"cpu"` or `"gpu"`.
        image_size: (height, width).
        rounds: How often each model has its turn.
        memory: Whether to measure the peak memory of each model, in a process of its own.

    Raises:
        ValueError: for a value that is none of these, and a combination that leaves nothing
            to compare.
    """

    models: tuple = DEFAULT_MODELS
    backends: tuple = ("tensorflow",)
    tasks: tuple = ("inference",)
    batch_sizes: tuple = (1, 16)
    precisions: tuple = ("float32",)
    modes: tuple | None = None
    threads: int | None = None
    device: str = "cpu"
    image_size: tuple = (224, 224)
    rounds: int = 15
    memory: bool = True

    def __post_init__(self):
        for name in self.models:
            catalogue_model(name)
        _check_choices("--backends", self.backends, BACKENDS)
        _check_choices("--task", self.tasks, TASKS)
        _check_choices("--precision", self.precisions, PRECISIONS)
        _check_choices("--device", (self.device,), DEVICES)
        for field in ("models", "backends", "tasks", "batch_sizes", "precisions"):
            values = getattr(self, field)
            if not values or len(set(values)) < len(values):
                raise ValueError(
                    f"`{field}` must have values, each of them once. Received: {values}."
                )
        for value in self.batch_sizes:
            _check_positive("--batch-sizes", value)
        _check_positive("--rounds", self.rounds)
        if self.threads is not None:
            self._check_threads()
        if self.modes is not None:
            known = [mode for backend in self.backends for mode in MODES[backend]]
            _check_choices("--modes", self.modes, list(dict.fromkeys(known)))
        for backend in self.backends:
            for task in self.tasks:
                if not self.modes_on(backend, task):
                    known = ", ".join(_known_modes(backend, task))
                    raise ValueError(
                        f"--modes has none for {task} on {backend}, which knows {known}. "
                        f"Received: {', '.join(self.modes)}."
                    )
            if not self.models_on(backend):
                needs = ", ".join(f"{name} needs torch" for name in self.models)
                raise ValueError(f"None of the models runs on {backend}: {needs}.")
        for name in self.models:
            if not set(catalogue_model(name).backends) & set(self.backends):
                raise ValueError(
                    f"The model {name!r} needs the backend "
                    f"{' or '.join(catalogue_model(name).backends)}. Received: "
                    f"--backends {','.join(self.backends)}."
                )

    def modes_on(self, backend, task):
        """The modes to measure of a task on a backend."""
        known = _known_modes(backend, task)
        if self.modes is None:
            return known[:1]
        return tuple(mode for mode in self.modes if mode in known)

    def models_on(self, backend):
        """The models that a backend can run."""
        return tuple(name for name in self.models if backend in catalogue_model(name).backends)

    def _check_threads(self):
        _check_positive("--threads", self.threads)
        if not hasattr(os, "sched_setaffinity"):
            raise ValueError(
                "--threads needs Linux, where a process can be kept to some processors. "
                "Leave it out."
            )
        available = len(os.sched_getaffinity(0))
        if self.threads > available:
            raise ValueError(
                f"--threads must be at most {available}, the processors that this process may "
                f"use. Received: {self.threads}."
            )


def _known_modes(backend, task):
    modes = MODES[backend]
    return modes if task == "inference" else tuple(m for m in modes if m not in INFERENCE_MODES)


def _check_choices(option, values, choices):
    for value in values:
        if value not in choices:
            raise ValueError(f"{option} must be of {', '.join(choices)}. Received: {value!r}.")


def _check_positive(option, value):
    if value < 1:
        raise ValueError(f"{option} must be at least 1. Received: {value}.")
