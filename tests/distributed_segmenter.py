"""A segmenter that is trained on one device or many, for distributed_run.py."""

import json

import keras
import numpy as np
import tensorflow as tf
from helpers import SMALL

from keras_sepvit.segmentation import UPerNet, segmentation_losses
from keras_sepvit.training.distribution import start_distribution
from keras_sepvit.training.recipe import Recipe


class Segmentation:
    loss_names = ("decode_loss", "auxiliary_loss")
    losses = staticmethod(segmentation_losses)
    answers = staticmethod(lambda outputs: outputs)


class Unchanged(keras.layers.Layer):
    def call(self, batch):
        return batch["image"], batch["map"]


def train():
    """The engine's model takes a few steps on a fixed batch, of which each device has a part whose
    images look unlike the others'.

    Returns:
        The distribution, and what this process ends with as a dict.
    """
    rng = np.random.default_rng(0)
    number = np.arange(4)[:, None, None, None]
    images = (40 * number + rng.integers(0, 60, (4, 64, 64, 3))).astype("uint8")
    maps = rng.integers(0, 3, (4, 4, 4)).repeat(16, 1).repeat(16, 2)
    maps[0, :50] = 255  # parts have their own numbers of pixels with a class

    keras.utils.set_random_seed(0)
    devices = start_distribution(Recipe())
    with devices.scope():
        network = UPerNet(SMALL, 3, (64, 64, 3), head_channels=8, auxiliary_channels=8, dropout=0)
        model = devices.model_class(network, Segmentation(), Unchanged())
        optimizer = devices.optimizer_class(keras.optimizers.SGD)(0.05)
        model.compile(optimizer, jit_compile=keras.backend.backend() == "jax")
        optimizer.build(model.trainable_variables)
        devices.connect(model)
        rows = np.split(np.arange(4), devices.processes)[devices.process]
        batch = {"image": images[rows], "map": maps[rows].astype("int32")}
        data = tf.data.Dataset.from_tensors(batch).repeat()
        history = model.fit(data, steps_per_epoch=3, verbose=0).history
    state = {"history": json.dumps([history]), "best": 0}
    state |= {f"{i}.{v.path}": keras.ops.convert_to_numpy(v) for i, v in enumerate(model.variables)}
    return devices, state
