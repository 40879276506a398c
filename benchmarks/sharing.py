"""What processes that share a GPU need in their environment."""

import os
import pathlib


def shared_gpu(folder):
    """Variables of a process that leaves memory to others, and compiles nothing twice.

    Args:
        folder: Where what JAX has compiled is kept, in a folder of its own.
    """
    variables = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        variables["JAX_COMPILATION_CACHE_DIR"] = str(pathlib.Path(folder) / "jax")
        variables["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return variables
