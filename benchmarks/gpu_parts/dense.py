"""The networks of dense tasks on T: inference, detections as `predict` gives them, training steps.

Training is the models' own `fit` with AdamW, on one batch that stays on the device.
"""

import functools
import itertools

import keras
import numpy as np

from gpu_parts.building import on_host, to_device
from gpu_parts.throughput import timed
from gpu_parts.training import fit_steps
from keras_sepvit.benchmark import programs
from keras_sepvit.benchmark.programs import random_boxes
from keras_sepvit.benchmark.run import MODES
from keras_sepvit.detection import RetinaNet
from keras_sepvit.policy import dtype_policy
from keras_sepvit.segmentation import SemanticFPN, UPerNet

CLASSES = 80
NETWORKS = {"semantic_fpn": SemanticFPN, "upernet": UPerNet, "retinanet": RetinaNet}


def run(job, sizes, rows):
    precision = sizes.train_precisions[0]
    for name, dense in sizes.dense.items():
        what = {"backend": job["backend"], "network": name, "precision": precision}
        what["size"] = dense.image_size
        made = {}
        training = {**what, "what": "dense training", "batch": dense.train_batch}
        rows.add(training, functools.partial(steps, made, name, dense, precision, sizes))
        for batch_size in dense.batches if made else ():
            inference = {**what, "what": "dense inference", "batch": batch_size}
            rows.add(inference, functools.partial(outputs, made, dense, batch_size))
            if name == "retinanet":
                predicting = {**inference, "what": "dense predict"}
                rows.add(predicting, functools.partial(answers, made, dense, batch_size))
        made.clear()


def steps(made, name, dense, precision, sizes):
    """Trains on one batch; leaves the model in `made`."""
    keras.utils.set_random_seed(0)
    with on_host():
        with dtype_policy(precision):
            model = NETWORKS[name](
                sizes.networks[sizes.main], CLASSES, image_shape=(*dense.image_size, 3)
            )
        model.compile(keras.optimizers.AdamW(1e-4))
        model.optimizer.build(model.trainable_variables)
    to_device([*model.variables, *model.optimizer.variables])
    made["model"] = model
    batch = keras.tree.map_structure(
        keras.ops.convert_to_tensor, random_batch(name, dense.image_size, dense.train_batch)
    )
    return fit_steps(
        model, lambda: (batch for _ in itertools.count()), sizes.steps, dense.train_batch
    )


def outputs(made, dense, batch_size):
    """Times the network alone, whose outputs stay on the device."""
    batch = keras.ops.convert_to_tensor(random_images(dense.image_size, batch_size))
    mode = MODES[keras.config.backend()][0]
    return timed(programs.forward(made["model"], batch, mode), batch_size)


def answers(made, dense, batch_size):
    images = random_images(dense.image_size, batch_size)
    return timed(lambda: made["model"].predict_on_batch(images), batch_size)


def random_images(image_size, count):
    shape = (count, *image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape).astype("float32")


def random_batch(name, image_size, count):
    """Images, and class maps or boxes."""
    rng = np.random.default_rng(0)
    images = random_images(image_size, count)
    if name != "retinanet":
        return images, rng.integers(0, CLASSES, (count, *image_size)).astype("uint8")
    return images, random_boxes(rng, images.shape, CLASSES)
