"""Measures networks of the catalogue in a process of one backend."""

from keras_sepvit.benchmark.run import MODES, run_worker


def run_peers(
    names,
    backend,
    task="inference",
    batch_size=1,
    precision="float32",
    image_size=(224, 224),
    **more,
):
    """What `peers.worker` finds of networks, by default in the backend's first mode.

    Args:
        names: Names in the catalogue.
        backend, task, batch_size, precision, image_size: As for `keras-sepvit benchmark`.
        **more: `rounds`; or, of one network, `memory=True`, which asks for its peak, with
            `timed_calls`, after which the fastest is told, and `recompute`, whether blocks are
            recomputed in the backward pass; or `operators=True`, with `modes` by task.

    Raises:
        BackendError: if the process fails, such as for too little memory.
    """
    job = {
        "backend": backend,
        "models": names,
        "task": [task],
        "modes": {task: [MODES[backend][0]]},
        "batch_sizes": [batch_size],
        "precision": [precision],
        "image_size": image_size,
        "threads": None,
    }
    return run_worker("peers.worker", job | more)
