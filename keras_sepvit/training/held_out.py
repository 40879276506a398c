"""Held-out data for callbacks of a plain `fit`. Without TensorFlow."""

import keras
import numpy as np


class HeldOut:
    """Batches of images and targets, as NumPy arrays, that can be gone through again and again.

    Args:
        data: A pair of an array of images and targets, an array or a dict of them; or batches of
            such pairs, such as a `tf.data.Dataset`.
        batch_size: Images of a batch, of arrays.

    Raises:
        ValueError: for other data, and for an iterator, which ends with the first epoch.
    """

    def __init__(self, data, batch_size):
        pair = isinstance(data, tuple | list) and len(data) == 2
        self._is_pair = pair and hasattr(data[0], "shape")
        if not self._is_pair and (hasattr(data, "shape") or not hasattr(data, "__iter__")):
            raise ValueError(
                "`data` must be a pair of an array of images and their targets, or batches of such "
                f"pairs. Received: {type(data).__name__}."
            )
        if iter(data) is data:
            raise ValueError(
                "`data` must be batches that can be gone through again after each epoch. Received: "
                f"{type(data).__name__}, which ends with the first. Give a list of them or a "
                "`tf.data.Dataset`."
            )
        self._data, self._batch_size = data, batch_size

    def __iter__(self):
        if not self._is_pair:
            for images, targets in self._data:
                yield images, keras.tree.map_structure(keras.ops.convert_to_numpy, targets)
            return
        images, targets = self._data
        for start in range(0, len(images), self._batch_size):
            rows = slice(start, start + self._batch_size)
            own = keras.tree.map_structure(lambda values, rows=rows: values[rows], targets)
            yield images[rows], keras.tree.map_structure(np.asarray, own)
