"""Wrote the files beside it, with the code of commit 6dd7624 on TensorFlow:

    KERAS_BACKEND=tensorflow PYTHONPATH=tests:. python tests/data/0.1.0/write.py

Kept to tell how they were made. They must load for ever: never write them again.
"""

import pathlib
import shutil
import tempfile

import keras
import numpy as np
from helpers import randomize
from test_files_of_0_1_0 import CLASSES, CONFIG, RECIPE

from keras_sepvit import SepViT, SepViTBackbone
from keras_sepvit.export import to_litert, to_onnx
from keras_sepvit.hub import SepViTBackbone as HubBackbone
from keras_sepvit.hub import (
    SepViTImageClassifier,
    SepViTImageClassifierPreprocessor,
    SepViTImageConverter,
)
from keras_sepvit.pytorch import save_pytorch
from keras_sepvit.classification import task
from keras_sepvit.training.optimizer import LayerwiseAdamW, layer_scales
from keras_sepvit.training import Trainer, load_recipe
from keras_sepvit.training.schedule import WarmupCosine
from keras_sepvit.weights import load_weights

FOLDER = pathlib.Path(__file__).parent


def main():
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype="uint8")
    model = SepViT(CONFIG, classes=CLASSES)
    randomize(model, seed=1)
    model.save(FOLDER / "classifier.keras")
    model.save_weights(FOLDER / "classifier.weights.h5")
    save_pytorch(model, FOLDER / "classifier.pth")
    to_litert(model, FOLDER / "classifier.tflite")
    to_onnx(model, FOLDER / "classifier.onnx")
    classifier = hub_classifier()
    classifier.save_to_preset(str(FOLDER / "preset"))
    nested = compiled_model()
    nested.save(FOLDER / "compiled.keras")
    np.savez(
        FOLDER / "outputs.npz",
        images=images,
        classifier=model.predict(images),
        preset=classifier.predict(images),
        compiled=nested.predict(images / np.float32(255)),
        run=checkpoint_of_a_run().predict(images),
    )


def hub_classifier():
    """A KerasHub classifier with the weights of the other files, and a head of its own."""
    backbone = HubBackbone.from_variant(CONFIG, image_shape=(32, 32, 3))
    load_weights(backbone, FOLDER / "classifier.weights.h5")
    converter = SepViTImageConverter((32, 32))
    classifier = SepViTImageClassifier(
        backbone, CLASSES, preprocessor=SepViTImageClassifierPreprocessor(converter)
    )
    randomize(classifier.output_dense, seed=2)
    return classifier


def compiled_model():
    """A backbone in another model, with an optimiser that has taken no step."""
    inputs = keras.Input((32, 32, 3))
    features = SepViTBackbone.from_variant(CONFIG, image_shape=(32, 32, 3))(inputs)
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(features))
    model = keras.Model(inputs, outputs)
    randomize(model, seed=3)
    schedule = WarmupCosine(peak=1e-3, steps=10, warmup_steps=2, initial=1e-6, final=1e-5)
    scales = layer_scales(model.trainable_variables, decay=0.75)
    model.compile(LayerwiseAdamW(scales, learning_rate=schedule), "mse")
    return model


def checkpoint_of_a_run():
    """Trains for an epoch, keeps the checkpoint alone, and returns the run's last model."""
    task.DIGITS_CONFIG = CONFIG
    with tempfile.TemporaryDirectory() as folder:
        Trainer(load_recipe("digits", RECIPE), folder).train()
        shutil.copy(pathlib.Path(folder, "checkpoint.npz"), FOLDER)
        return keras.saving.load_model(pathlib.Path(folder, "last.keras"))


if __name__ == "__main__":
    main()
