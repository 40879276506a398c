"""The authors' initialisers, drawn with NumPy on the host.

Under JAX, Keras's own initialisers compile a program for each shape of weight,
which takes most of the time of building a model.
"""

import math

import keras
import numpy as np
from keras import initializers, ops


@keras.saving.register_keras_serializable(package="keras_sepvit")
class TruncatedNormal(initializers.TruncatedNormal):
    """`keras.initializers.TruncatedNormal`, drawn on the host; for dense kernels."""

    def __init__(self, mean=0.0, stddev=0.02, seed=None):
        super().__init__(mean=mean, stddev=stddev, seed=seed)

    def __call__(self, shape, dtype=None):
        generator = np.random.default_rng(self.seed)
        values = generator.standard_normal(shape, "float32")
        outside = np.abs(values) > 2
        while outside.any():
            values[outside] = generator.standard_normal(np.count_nonzero(outside), "float32")
            outside = np.abs(values) > 2
        return _tensor(self.mean + self.stddev * values, dtype)


@keras.saving.register_keras_serializable(package="keras_sepvit")
class FanOutNormal(initializers.RandomNormal):
    """Normal with variance 2 / fan-out, drawn on the host; for convolution kernels.

    The fan-out is the kernel's area times its outputs for each group: kernels are
    (height, width, input channels, filters), or (height, width, channels, 1) where
    depthwise.
    """

    def __init__(self, seed=None):
        super().__init__(seed=seed)

    def __call__(self, shape, dtype=None):
        height, width, _, outputs = shape
        stddev = math.sqrt(2.0 / (height * width * outputs))
        values = np.random.default_rng(self.seed).standard_normal(shape, "float32")
        return _tensor(stddev * values, dtype)

    def get_config(self):
        return {"seed": self._init_seed}


def _tensor(values, dtype):
    return ops.convert_to_tensor(values, dtype or keras.config.floatx())
