"""TensorFlow as the reader of data, whatever the backend is."""

import functools

import keras

from keras_sepvit.warn import warn

try:
    import tensorflow as tf
except ImportError as error:
    raise ImportError(
        "Training and evaluation data are read with TensorFlow, whatever the backend is: "
        'pip install "keras-sepvit[train]".'
    ) from error

__all__ = ["keep_off_gpus", "tf"]


@functools.cache
def keep_off_gpus():
    """Leaves the GPUs to JAX or PyTorch, where one of them is the backend.

    TensorFlow would reserve their memory with its first operation.
    """
    if keras.config.backend() == "tensorflow":
        return
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        warn(
            "TensorFlow was used before the data were opened, and may hold the memory of the "
            "GPUs. Open the data first.",
        )
