"""What a set of images is: an order for every epoch, and a way to read each one.

The order is a pure function of (seed, epoch), so that a run can go on anywhere in it. Elements of
that order are cheap; reading and parsing an image is a step of its own, which a pipeline does in
parallel.
"""

import dataclasses

import numpy as np

from keras_sepvit.training.sources.groups import PADDING, Groups
from keras_sepvit.training.tensorflow import keep_off_gpus, tf
from keras_sepvit.validation import counted


@dataclasses.dataclass(frozen=True)
class Shard:
    """Which part of the data a process reads.

    Attributes:
        index: Number of this process, from 0.
        count: Number of processes of the run.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self):
        if not 0 <= self.index < self.count:
            raise ValueError(
                "`index` must be at least 0 and below `count`. "
                f"Received: index={self.index}, count={self.count}."
            )


ONE_PROCESS = Shard()


class Source:
    """A set of labelled images.

    Attributes:
        name: What `open_source` calls it.
        split: Name of the part of it.
        size: Number of images.
        classes: Number of classes.
        class_names: Their names in the order of their numbers, or None.
        multi_label: Whether an image has a set of labels, possibly empty. A label is
            then an int32 tensor of shape (labels,) in place of a scalar.
        crop: Share of the shorter side that evaluation usually keeps.
        indexed: Whether images can be found without reading those before them.
        whole: Whether these are all images of a folder without folders of splits.
        groups: int (size,), the group of each image, from 0, where images of different groups
            must not share a batch; None where all may. What is loaded of a source with groups
            gets its own as `"group"`, an int, before it is transformed: examples of each may
            have shapes of their own.
    """

    groups = None
    whole = False
    crop = 0.875
    indexed = False

    def __init__(self, name, split, *, size, classes, class_names=None, multi_label=False):
        if not size:
            raise ValueError(f"The split {split!r} of {name} holds no images.")
        keep_off_gpus()
        self.name = name
        self.split = split
        self.size = size
        self.classes = classes
        self.class_names = class_names
        self.multi_label = multi_label

    def __str__(self):
        images = counted(self.size, "image")
        return f"{self.name} ({self.split}, {images}, {counted(self.classes, 'class')})"

    def elements(self, epoch, *, seed, shuffle, shard=ONE_PROCESS, block=1, start=0):
        """The order of one epoch, without reading the images.

        With `groups`, each block of all processes is of one group: see `Groups`.

        Args:
            epoch: Number of the epoch; int, or scalar int64 tensor.
            seed: Seed of the order; int.
            shuffle: Whether each epoch has its own random order. Otherwise all have
                that of the data.
            shard: The part of this process: in the epoch's global order, of every
                `shard.count * block` positions the `shard.index`-th block.
            block: Length of the blocks; a process's images in a batch.
            start: How many of this process's elements to leave out; int, or scalar
                int64 tensor.

        Returns:
            `tf.data.Dataset` of dicts, in which `"position"` (scalar int64) is the
            position in the epoch's global order and `"name"` (scalar string) tells
            the image; it is empty for padding. The rest is for `load`.
        """
        raise NotImplementedError

    def load(self, element):
        """`"image"` (encoded, a scalar string; or uint8 (height, width, channels)) and `"label"`.

        Fails, in the graph, where an image cannot be read.
        """
        raise NotImplementedError

    @property
    def group_sizes(self):
        """Numbers of images of the groups, a list; without groups, that of all images."""
        return [self.size] if self.groups is None else np.bincount(self.groups).tolist()

    def shard_size(self, shard, block=1):
        """How many elements an epoch of a process has, before any are left out."""
        raise NotImplementedError

    def examples(self, epoch, *, seed, shuffle, shard=ONE_PROCESS, block=1, start=0):
        """One epoch as `tf.data.Dataset` of `"image"`, `"label"`, `"position"` and `"name"`.

        Arguments are those of `elements`, values those of `load` and `elements`.
        """

        def example(element):
            known = {key: element[key] for key in ("position", "name")}
            return {**self.load(element), **known}

        elements = self.elements(
            epoch, seed=seed, shuffle=shuffle, shard=shard, block=block, start=start
        )
        return elements.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


class IndexedSource(Source):
    """A source whose images can be read in any order.

    An epoch is a permutation of all images, the same for any number of processes.
    """

    indexed = True

    def elements(self, epoch, *, seed, shuffle, shard=ONE_PROCESS, block=1, start=0):
        start = tf.cast(start, tf.int64)
        if self.groups is not None:
            return self._grouped(epoch, seed, shuffle, shard, block, start)
        key = order_key(seed, epoch, 2)

        def element(slot):
            position = global_position(slot, shard, block)
            index = position
            if shuffle:
                index = tf.random.experimental.index_shuffle(
                    position, key, tf.constant(self.size - 1, tf.int64)
                )
            return {"position": position, "name": self._name(index), "index": index}

        end = tf.maximum(start, self.shard_size(shard, block))
        return tf.data.Dataset.range(start, end).map(element)

    def _grouped(self, epoch, seed, shuffle, shard, block, start):
        groups = Groups(self.groups, block * shard.count, shuffle)
        keys = tf.reshape(order_key(seed, epoch, 2 + 2 * groups.count), (-1, 2))

        def element(slot):
            position = global_position(slot, shard, block)
            index, group, padding = groups.image(position, keys)
            name = tf.where(padding, PADDING, self._name(index))
            return {"position": position, "name": name, "index": index, "group": group}

        end = tf.maximum(start, groups.blocks * block)
        return tf.data.Dataset.range(start, end).map(element)

    def shard_size(self, shard, block=1):
        rounds, rest = divmod(self.size, shard.count * block)
        return rounds * block + min(max(rest - shard.index * block, 0), block)

    def _name(self, index):
        raise NotImplementedError


class ArraySource(IndexedSource):
    """Images in memory: uint8 (count, height, width, channels), with int labels (count,)."""

    crop = 1.0  # such images are small, and no photographs with a border to spare

    def __init__(self, name, split, images, labels, *, classes, class_names=None):
        super().__init__(name, split, size=len(images), classes=classes, class_names=class_names)
        self._images = tf.constant(images, tf.uint8)
        self._labels = tf.constant(labels, tf.int32)

    def load(self, element):
        index = element["index"]
        return {"image": self._images[index], "label": self._labels[index]}

    def _name(self, index):
        return tf.strings.join([f"{self.name}/{self.split}:", tf.strings.as_string(index)])


def order_key(seed, epoch, length):
    """int32 (length,) of random bits for an epoch."""
    pair = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
    return tf.random.stateless_uniform([length], pair, minval=None, maxval=None, dtype=tf.int32)


def global_position(slot, shard, block):
    """Position in the global order of the `slot`-th element of a process."""
    return (slot // block * shard.count + shard.index) * block + slot % block
