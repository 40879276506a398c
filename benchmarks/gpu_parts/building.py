"""Builds models without a GPU's compiler."""

import contextlib

import keras


@contextlib.contextmanager
def on_host():
    """What is built inside is made on the CPU, where the backend is JAX.

    On a GPU JAX would compile an initializer for each shape, which takes longer than the rest.
    """
    with keras.device("cpu:0") if keras.config.backend() == "jax" else contextlib.nullcontext():
        yield


def to_device(variables):
    """Moves variables that were made `on_host`."""
    if keras.config.backend() == "jax":
        for variable in variables:
            variable.assign(keras.ops.convert_to_numpy(variable))
