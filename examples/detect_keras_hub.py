"""Trains KerasHub's RetinaNet on SepViT to find handwritten digits in scenes, and looks at it.

    pip install "keras-sepvit[hub,train,detection]"
    python examples/detect_keras_hub.py

makes 6,000 scenes of scikit-learn's digits to train on and 200 of held-out digits, trains from
random weights for some minutes, and prints, under Keras's progress bar, with the TensorFlow
backend:

    Before training: AP50 0.0 %, AP 0.0 %
    After 1500 steps: AP50 74.1 %, AP 48.4 %
    Saved outputs/detect_keras_hub/detector.keras; loaded again, it finds the same
    Drew outputs/detect_keras_hub/predictions.png

The picture has scenes with the boxes found above those that are true. `--weights digits` starts
from the packaged classifier of digits. The backend is that of `KERAS_BACKEND`.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import digit_scenes as example
import keras

from keras_sepvit import hub
from keras_sepvit.configs import DIGITS_CONFIG


def build(weights, steps):
    detector = hub.retinanet(
        DIGITS_CONFIG,
        num_classes=example.CLASSES,
        image_shape=example.IMAGE_SHAPE,
        weights=weights,
        anchor_size=example.ANCHOR_SIZE,
        # Both are KerasHub's arguments; with group norm heads learn in far fewer steps.
        pre_logits_num_conv_layers=1,
        use_prediction_head_norm=True,
    )
    detector.compile(
        example.optimizer(2e-3, steps),
        **hub.retinanet_losses(example.CLASSES),
        jit_compile=example.JIT_COMPILE,
    )
    return detector


if __name__ == "__main__":
    options = example.options(__doc__, "outputs/detect_keras_hub")
    keras.utils.set_random_seed(0)
    example.run(build(options.weights, options.steps), "labels", options)
