"""Runs a conversion in a process of its own, on the backend that the converter needs.

A process has one Keras backend. The model goes there as a `.keras` file, the
arguments and the result as JSON, and an error comes back as one.
"""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import keras

from keras_sepvit.export.errors import ExportError
from keras_sepvit.lazy import require
from keras_sepvit.processes import last_lines, run_module

# For processes that export: a GPU may be full of this process's arrays, and conversion needs none.
OWN_PROCESS = {"stderr": subprocess.STDOUT, "CUDA_VISIBLE_DEVICES": "-1"}


def convert_on(backend, function, model, output, **arguments):
    """Runs `function(model, output, **arguments)` on a backend: here, or in a fresh process.

    Args:
        backend: `"tensorflow"`, `"jax"` or `"torch"`.
        function: A function at the top level of a module of this package.
        model: The Keras model to convert; of layers that an import makes known to Keras.
        output: Path that the function writes to.
        **arguments: Others, of types that JSON has.

    Returns:
        What the function returns, which must be of types that JSON has.

    Raises:
        ImportError: if the backend is not installed, naming the extra.
        ExportError: if the process fails, with its message, or the model cannot be saved.
    """
    if keras.config.backend() == backend:
        return function(model, str(output), **arguments)
    if importlib.util.find_spec(backend) is None:
        require(backend, backend)
    with tempfile.TemporaryDirectory(prefix="keras_sepvit_export_") as folder:
        folder = pathlib.Path(folder)
        try:
            model.save(folder / "model.keras")
        except Exception as error:  # of a layer's own code
            raise ExportError(
                f"The model cannot be saved ({type(error).__name__}: {error}), by which it goes to "
                f"the process that converts on {backend}. Convert it with KERAS_BACKEND={backend}, "
                "where no process is needed."
            ) from error
        job = {
            "module": function.__module__,
            "function": function.__qualname__,
            "imports": sorted(_packages(model)),
            "output": os.path.abspath(output),
            "arguments": arguments,
        }
        (folder / "job.json").write_text(json.dumps(job))
        return _run(folder, backend)


def _run(folder, backend):
    process = run_module(
        "keras_sepvit.export.worker", str(folder), KERAS_BACKEND=backend, **OWN_PROCESS
    )
    result = folder / "result.json"
    if not result.exists():
        raise ExportError(
            f"The process that converts on {backend} ended with code {process.returncode} and no "
            f"result (a negative code is a signal; -9 may mean too little memory). It said:\n"
            f"{last_lines(process.stdout)}"
        )
    result = json.loads(result.read_text())
    if "error" in result:
        error = {"ImportError": ImportError}.get(result["type"], ExportError)
        raise error(result["error"])
    return result["value"]


def _packages(model):
    """The packages that define a model's layers, whose import registers them with Keras."""
    layers = {type(layer).__module__ for layer in model._flatten_layers()}
    return {
        name if name.startswith("keras_sepvit.") else name.partition(".")[0]
        for name in layers
        if name != "__main__" and not name.startswith("keras.")
    }


def main(folder):
    """Does the job in a folder, and writes the result there."""
    folder = pathlib.Path(folder)
    job = json.loads((folder / "job.json").read_text())
    try:
        for name in job["imports"]:
            importlib.import_module(name)
        model = keras.saving.load_model(folder / "model.keras", compile=False)
        function = getattr(importlib.import_module(job["module"]), job["function"])
        result = {"value": function(model, job["output"], **job["arguments"])}
    except Exception as error:
        lines = str(error).strip() or type(error).__name__
        result = {"error": lines, "type": type(error).__name__}
    temporary = folder / "result.part"
    temporary.write_text(json.dumps(result))
    temporary.replace(folder / "result.json")


if __name__ == "__main__":
    main(sys.argv[1])
