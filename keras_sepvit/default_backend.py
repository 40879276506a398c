"""Chooses the Keras backend where only one that is not Keras's default is installed.

Without `KERAS_BACKEND`, Keras takes the backend of its configuration file, which
names TensorFlow unless the user edited it, and cannot be imported if that is not
installed. This module must run before Keras is imported and therefore imports
none of it.
"""

import importlib.util
import json
import os
import pathlib
import sys

BACKENDS = ("tensorflow", "jax", "torch")


def choose_backend():
    """Sets `KERAS_BACKEND` to an installed backend, if Keras could not be imported as it is.

    A choice of the user stays: `KERAS_BACKEND`, another configured backend, and
    a Keras that has been imported already. Where no backend is installed at
    all, the error is left to Keras.
    """
    if "keras" in sys.modules or os.environ.get("KERAS_BACKEND"):
        return
    configured = configured_backend()
    if configured not in BACKENDS or importlib.util.find_spec(configured):
        return
    for backend in BACKENDS:
        if importlib.util.find_spec(backend):
            os.environ["KERAS_BACKEND"] = backend
            return


def configured_backend():
    """The backend in Keras's configuration file; TensorFlow, as for Keras, without one."""
    home = os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras"
    try:
        config = json.loads(pathlib.Path(home, "keras.json").read_text())
        return config.get("backend") or BACKENDS[0]
    except (OSError, ValueError, AttributeError):
        return BACKENDS[0]
