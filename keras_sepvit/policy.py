"""Keras's global dtype policy, for a while."""

import contextlib

import keras


@contextlib.contextmanager
def dtype_policy(policy):
    """Layers made inside have this policy unless they are given another."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
