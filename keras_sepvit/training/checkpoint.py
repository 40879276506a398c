"""The whole state of a run in one file that is never half written."""

import json
import os
import zipfile
import zlib

import keras
import numpy as np

from keras_sepvit.files import replacing

# 1 had other metrics, accuracies of 0..1, and epochs from 0.
FORMAT = 2


def save_checkpoint(path, model, progress):
    """Writes weights, optimiser, random states and metrics of a compiled, built model.

    Args:
        path: The file, replaced in one step.
        model: The compiled `TrainingModel`.
        progress: What else is needed to go on, as values that JSON can hold.

    Raises:
        FloatingPointError: if a weight is not finite; `path` stays as it was.
    """
    variables = _variables(model)
    arrays = {name: keras.ops.convert_to_numpy(variable) for name, variable in variables.items()}
    for name, array in arrays.items():
        if not np.all(np.isfinite(array)):
            raise FloatingPointError(f"The variable {name} is not finite: no checkpoint written.")
    header = {"format": FORMAT, "backend": keras.config.backend(), "progress": progress}
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), **arrays)
            file.flush()
            os.fsync(file.fileno())  # on the disk before it takes the old one's place


def load_checkpoint(path, model):
    """Gives a model the state of a checkpoint of the same recipe.

    Returns:
        The `progress` that was saved.

    Raises:
        ValueError: if the file is no checkpoint, or one of another model or backend.
    """
    try:
        header = read_header(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name != "header"}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"'{path}' cannot be read as a checkpoint of a training run: {error}. Remove it to "
            "train from the beginning."
        ) from error
    backend = keras.config.backend()
    if header["backend"] != backend:
        raise ValueError(
            f"'{path}' was written with the {header['backend']} backend, whose random states the "
            f"{backend} backend cannot take over. Set KERAS_BACKEND={header['backend']}, or start "
            "a new run from the saved model's weights."
        )
    if header["format"] == 1:
        arrays, header["progress"] = _as_format_2(arrays, header["progress"], model)
    variables = _variables(model)
    differing = sorted(
        name
        for name in variables.keys() | arrays.keys()
        if name not in arrays
        or name not in variables
        or arrays[name].shape != tuple(variables[name].shape)
    )
    if differing:
        raise ValueError(
            f"'{path}' is the checkpoint of another model or recipe. Variables that differ: "
            f"{len(differing)}, such as {differing[0]}. Give this run another output folder."
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return header["progress"]


def read_header(path):
    """What a checkpoint tells beside its arrays: a dict with `progress` in it."""
    with np.load(path, allow_pickle=False) as file:
        return json.loads(str(file["header"]))


def _as_format_2(arrays, progress, model):
    """Arrays and progress of a checkpoint of version 0.1.0, whose metrics begin anew."""
    arrays = {name: array for name, array in arrays.items() if not name.startswith("metrics.")}
    metrics = {f"metrics.{i}": np.zeros(v.shape) for i, v in enumerate(model.metrics_variables)}
    best = 100 * progress.pop("best_accuracy")
    progress["rank"] = [best] if best >= 0 else None
    progress["best_epoch"] = progress["epoch"]  # not known: patience begins anew
    progress["history"] = [{**logs, "epoch": logs["epoch"] + 1} for logs in progress["history"]]
    return {**arrays, **metrics}, progress


def fingerprint(path):
    """A number below 2**32 that tells checkpoints apart; 0 where there is none.

    Made of the checksums of the arrays, without reading them.
    """
    if not path.exists():
        return 0
    try:
        with zipfile.ZipFile(path) as file:
            checksums = [member.CRC for member in file.infolist()]
    except (OSError, zipfile.BadZipFile):
        return 1  # `load_checkpoint` tells what is wrong
    return zlib.crc32(np.array(checksums, "<u4").tobytes())


def check_shared(path, fingerprints):
    """Refuses a checkpoint that the processes of a run do not see alike.

    Args:
        path: The file.
        fingerprints: What `fingerprint` gave in each process.

    Raises:
        ValueError: naming a process that sees another file, or none.
    """
    for process, seen in enumerate(fingerprints):
        if seen != fingerprints[0]:
            raise ValueError(
                f"Process {process} does not see the same checkpoint '{path}' as process 0: "
                f"{'another' if seen and fingerprints[0] else 'one of them sees none'}. Give all "
                "processes of a run an output folder that they share."
            )


def _variables(model):
    """All state of a model by unique names, the same in every process.

    Names that Keras counts up ("adamw_1") depend on what was made before, so only their place
    is used.
    """
    groups = {
        "model": model.variables,
        "metrics": model.metrics_variables,
        "optimizer": model.optimizer.variables,
    }
    return {
        f"{group}.{index}": variable
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }
