"""A process of distributed training runs; started by test_distribution.py.

Trains each in a folder by a recipe, one after another, and writes what this process ended with to
a file of its own.
"""

import json
import os
import signal
import sys


def split_cpu(devices):
    """Makes so many devices of the CPU under TensorFlow."""
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * devices
        tf.config.set_logical_device_configuration(cpu, logical)


def main():
    settings = json.loads(sys.argv[1])
    split_cpu(settings["devices"])

    import distributed_segmenter
    import keras
    import numpy as np

    for run in settings["runs"]:
        print(f"{run['output']}:", flush=True)
        keras.utils.clear_session()
        segmenter = run["recipe"] is None
        distribution, state = distributed_segmenter.train() if segmenter else train(run)
        np.savez(f"{run['output']}.{distribution.process}.npz", **state)


def train(run):
    """The distribution, and what this process ends with as a dict."""
    import keras
    from helpers import SMALL
    from training_data import SMALL_DIGITS

    from keras_sepvit.classification import task as classification
    from keras_sepvit.detection import task as detection
    from keras_sepvit.training import Trainer, load_recipe

    classification.DIGITS_CONFIG, detection.SCENES_128_CONFIG = SMALL_DIGITS, SMALL
    trainer = Trainer(load_recipe(run["recipe"], run["changes"]), run["folder"])
    if run["killed"] == trainer.distribution.process:
        kill_in_the_last_epoch(trainer)
    result = trainer.train(verbose=0)
    state = {"history": json.dumps(result.history), "best": result.best}
    for index, variable in enumerate(trainer.model.variables):
        state[f"{index}.{variable.name}"] = keras.ops.convert_to_numpy(variable)
    return trainer.distribution, state


def kill_in_the_last_epoch(trainer):
    """Makes this process die at the end of the second step of the last epoch."""
    import keras

    callbacks = trainer._callbacks

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.last = epoch == trainer.recipe.epochs - 1

        def on_train_batch_begin(self, batch, logs=None):
            if self.last and batch == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    trainer._callbacks = lambda first_step: [*callbacks(first_step), Kill()]


if __name__ == "__main__":
    main()
