"""A process of a distributed training run; started by test_distribution.py.

Trains in a folder by a recipe, and writes what this process ended with to a file of its own.
"""

import json
import os
import sys


def main():
    settings = json.loads(sys.argv[1])
    if settings.get("devices") and os.environ["KERAS_BACKEND"] == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * settings["devices"]
        tf.config.set_logical_device_configuration(cpu, logical)

    import keras
    import numpy as np

    from keras_sepvit.training.recipe import load_recipe
    from keras_sepvit.training.trainer import Trainer

    trainer = Trainer(load_recipe("digits", settings["changes"]), settings["folder"])
    result = trainer.train(verbose=0)
    state = {
        "history": json.dumps(result.history),
        "best_accuracy": result.best_accuracy,
        "devices": str(trainer.distribution),
    }
    for index, variable in enumerate(trainer.model.variables):
        name = variable.path.replace("/", ".")
        state[f"variable.{index}.{name}"] = keras.ops.convert_to_numpy(variable)
    np.savez(f"{settings['output']}.{trainer.distribution.process}.npz", **state)


if __name__ == "__main__":
    main()
