"""Images of which some never share a batch with others, such as those of two shapes."""

import numpy as np

from keras_sepvit.training.tensorflow import tf

# The name of what fills up a batch of an evaluation.
PADDING = ""


class Groups:
    """An order of images in blocks, each of one group's.

    In a shuffled epoch the blocks of all groups come in a random order, and so do the images
    within each group; those that fill no block are left out. Otherwise group follows group in the
    order of the data, and padding fills up the last block of each. Either order is a function of
    the position alone.

    Args:
        numbers: int (images,), the group of each image, from 0.
        block: Images of a block.
        shuffle: Whether the order is random.
    """

    def __init__(self, numbers, block, shuffle):
        numbers = np.asarray(numbers)
        sizes = np.bincount(numbers)
        blocks = sizes // block if shuffle else -(-sizes // block)
        self.count = len(sizes)
        self.blocks = int(blocks.sum())
        self._block = block
        self._shuffle = shuffle
        self._images = tf.constant(np.argsort(numbers, kind="stable"), tf.int64)
        self._sizes = tf.constant(sizes, tf.int64)
        # The first image and the first block of each group, and the block behind its last one.
        self._first = tf.constant(np.cumsum(sizes) - sizes, tf.int64)
        self._begin = tf.constant(np.cumsum(blocks) - blocks, tf.int64)
        self._end = tf.constant(np.cumsum(blocks), tf.int64)

    def image(self, position, keys):
        """What is at a position of the order.

        Args:
            position: Scalar int64.
            keys: Random bits of the epoch, int32 (1 + groups, 2).

        Returns:
            Scalars: the image, int64; its group, int32; whether it is none but padding, bool.
        """
        block, place = position // self._block, position % self._block
        if self._shuffle:
            block = _shuffled(block, keys[0], self.blocks)
        group = tf.searchsorted(self._end, block[tf.newaxis], side="right")[0]
        size = self._sizes[group]
        place += (block - self._begin[group]) * self._block
        padding = place >= size
        if self._shuffle:
            place = _shuffled(place, keys[1 + group], size)
        return self._images[self._first[group] + tf.minimum(place, size - 1)], group, padding


def _shuffled(number, key, count):
    return tf.random.experimental.index_shuffle(number, key, tf.cast(count, tf.int64) - 1)
