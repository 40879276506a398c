"""What the tests of all dense tasks share: runs that are killed and go on."""

import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
from helpers import BACKEND, to_numpy

from keras_sepvit.recipes import load_recipe
from keras_sepvit.training.trainer import Trainer

_SCRIPT = pathlib.Path(__file__).with_name("killed_run.py")


def check_a_killed_run(recipe, changes, folder, uninterrupted, history, results):
    """A run that is killed and started again ends with the bits of one that is not.

    Killed inside an epoch, and in evaluation, which is about NumPy's numbers, on each backend
    alike; in a checkpoint write: test_trainer.py.

    Args:
        recipe: The recipe's name.
        changes: To it.
        folder: Where to train.
        uninterrupted: Folder of the finished run.
        history: Its logs.
        results: Names of logs that must be equal.
    """
    for moment in ("epoch", "evaluation") if BACKEND == "tensorflow" else ("epoch",):
        command = [sys.executable, _SCRIPT, moment, recipe, folder, *changes]
        process = subprocess.run(command, capture_output=True, text=True, timeout=400)
        assert process.returncode == -signal.SIGKILL, process.stderr
    resumed = Trainer(load_recipe(recipe, changes), folder).train(verbose=0)
    for name in ("last.keras", "best.keras"):
        models = (keras.saving.load_model(run / name) for run in (folder, uninterrupted))
        for weight, expected in zip(*(model.weights for model in models), strict=True):
            np.testing.assert_array_equal(to_numpy(weight), to_numpy(expected))
    for epoch, expected in zip(resumed.history, history, strict=True):
        for key in results:
            assert epoch[key] == expected[key], key
