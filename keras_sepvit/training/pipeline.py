"""From a source to batches of uint8 images.

The n-th image of an epoch, and what augmentation does to it, are pure functions of
(seed, epoch, n). A stream started in the middle of a run goes on with the very batches
that the uninterrupted run would have had. Every image has its slot in a batch, also one
that cannot be read: such a slot gets another image of its batch.
"""

import contextlib
import logging
import threading

import numpy as np

from keras_sepvit.training.sources import ONE_PROCESS, tf
from keras_sepvit.validation import positive_int

# How many names of unreadable images a report shows.
_SHOWN_NAMES = 20

# Images after which more unreadable ones than readable ones are an error.
_FIRST_IMAGES = 64

# Images that a thread decodes at a time, at most.
_LARGEST_CHUNK = 32

# What reading a data set's files of records raises, unlike reading one image.
_RECORD_ERRORS = (tf.errors.DataLossError, tf.errors.NotFoundError)

# The name of what fills up an evaluation's last batch: a zero, as all of it.
_PADDING = ""

_log = logging.getLogger(__name__)


class DataReport:
    """The images of a data set that could not be read.

    Attributes:
        names: Their names, each once, in the order in which they were met.
        failure: Why the pipeline stopped, or None.
    """

    def __init__(self):
        self.names = []
        self.failure = None
        self._known = set()
        self._lock = threading.Lock()

    def __str__(self):
        if not self.names:
            return "all images could be read"
        shown = ", ".join(self.names[:_SHOWN_NAMES])
        more = ", ..." if self.unreadable > _SHOWN_NAMES else ""
        return f"{self.unreadable:,} images could not be read: {shown}{more}"

    @property
    def unreadable(self):
        """The number of images that could not be read."""
        return len(self.names)

    def add(self, names):
        """Adds images, and warns of the first ones."""
        with self._lock:
            for name in names:
                if name not in self._known:
                    self._known.add(name)
                    self.names.append(name)
                    if len(self.names) <= _SHOWN_NAMES:
                        _log.warning("Skipped an image that cannot be read: %s", name)

    @contextlib.contextmanager
    def raising(self):
        """Turns TensorFlow's error into a ValueError where the data are why it stopped."""
        try:
            yield
        except Exception as error:  # each backend's `fit` has its own way of passing it on
            reason = self.failure
            if reason is None and isinstance(error, _RECORD_ERRORS):
                reason = (
                    f"A file of records is damaged or missing: {str(error).splitlines()[0]} "
                    "Prepare the data set again."
                )
            if reason is None:
                raise
            raise ValueError(reason) from error


def training_stream(
    source,
    transform,
    *,
    batch_size,
    seed,
    start_epoch=0,
    start_step=0,
    shard=ONE_PROCESS,
    report=None,
):
    """Batches for training, epoch after epoch without end.

    Each epoch has its own order of the images. Of a source that can be read in any
    order (all but TFDS), the batches of all processes make up together, in their
    order, the batch that a single process would have had. The last images of an epoch
    that do not fill a batch are left out. In the place of an image that cannot be read,
    and of its label, is the next readable one of the batch, around its end.

    Args:
        source: A `Source` with one label an image.
        transform: Function of an image (encoded, a scalar string tensor; or uint8
            (h, w, c)) and a stateless seed (int32 (2,)), both TensorFlow tensors,
            that gives a uint8 image (height, width, channels), always of one shape.
        batch_size: Images in a batch of this process. All processes have the same.
        seed: Seed of the order and of the augmentation; int.
        start_epoch, start_step: The first batch is the `start_step`-th of that epoch,
            both from 0.
        shard: The part of this process.
        report: A `DataReport` that unreadable images are added to.

    Returns:
        `tf.data.Dataset` of images, uint8 (batch, height, width, channels), and
        labels, int32 (batch,).

    Raises:
        ValueError: if the source cannot be trained on, or not with this batch size. While
            it runs, through `DataReport.raising`: if no image of a batch can be read,
            or most of the first ones cannot, or a label is out of range.
    """
    report = DataReport() if report is None else report
    steps = steps_per_epoch(source, batch_size, shard)
    if source.multi_label:
        raise ValueError(
            f"{source.name} has sets of labels, which serve for evaluation only. Train on a data "
            "set with one label an image."
        )
    if not 0 <= start_step <= steps:
        raise ValueError(
            f"`start_step` must be a step of an epoch, which has {steps}. Received: {start_step}."
        )

    def one_epoch(epoch):
        first = tf.where(tf.equal(epoch, start_epoch), start_step, 0)
        start = tf.cast(first, tf.int64) * batch_size
        elements = source.elements(
            epoch, seed=seed, shuffle=True, shard=shard, block=batch_size, start=start
        )
        key = _augmentation_key(seed, epoch)
        return elements.take(steps * batch_size - start).map(
            lambda element: {**element, "seed": _image_seed(key, element["position"])}
        )

    def finish(number, batch):
        in_order = tf.reduce_all(batch["readable"] & _valid_labels(batch["label"], source))
        return tf.cond(
            in_order,
            lambda: (batch["image"], batch["label"]),
            lambda: _repair(batch, (number + 1) * batch_size, source, report),
        )

    elements = tf.data.Dataset.range(start_epoch, np.iinfo(np.int64).max).flat_map(one_epoch)
    dataset = _decoded_batches(
        elements, source, lambda image, element: transform(image, element["seed"]), batch_size
    )
    dataset = dataset.enumerate().map(finish)
    return dataset.with_options(_options()).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(source, transform, *, batch_size, shard=ONE_PROCESS, report=None):
    """All images once, in the order of the data.

    Every process gets equally many batches. What is missing in the last ones has
    weight 0, as have images that cannot be read.

    Args:
        source: A `Source`.
        transform: Function of an image (encoded, a scalar string tensor; or uint8
            (h, w, c)) that gives a uint8 image (height, width, channels), always of
            one shape.
        batch_size: Images in a batch of this process. All processes have the same.
        shard: The part of this process.
        report: A `DataReport` that unreadable images are added to.

    Returns:
        `tf.data.Dataset` of images, uint8 (batch, height, width, channels); labels,
        int32 (batch,), or uint8 (batch, classes) with 1 for every label of the image
        where the source has sets of labels; and weights, float32 (batch,), 1 or 0.

    Raises:
        ValueError: while it runs, through `DataReport.raising`: if a label is out of
            range.
    """
    report = DataReport() if report is None else report
    steps = evaluation_steps(source, batch_size, shard)

    def finish(batch):
        with tf.control_dependencies([_inspect(batch, 0, source, report)]):
            weights = tf.cast(batch["readable"], tf.float32)
        return batch["image"], batch["label"], weights

    elements = source.elements(0, seed=0, shuffle=False, shard=shard, block=batch_size)
    dataset = _decoded_batches(
        elements, source, lambda image, element: transform(image), batch_size
    )
    dataset = dataset.take(steps).map(finish)
    # Of record files TensorFlow cannot know, and Keras warns at the end of such a data set.
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    return dataset.with_options(_options()).prefetch(tf.data.AUTOTUNE)


def steps_per_epoch(source, batch_size, shard=ONE_PROCESS):
    """Batches of a training epoch, the same for every process.

    Raises:
        ValueError: if the source has not enough images for one.
    """
    images = positive_int("batch_size", batch_size) * shard.count
    if source.size < images:
        raise ValueError(
            f"The {source.size:,} images of {source.name} ({source.split}) do not make a batch of "
            f"{images:,}. Received: batch_size={batch_size} for {shard.count} processes."
        )
    return source.size // images


def evaluation_steps(source, batch_size, shard=ONE_PROCESS):
    """Batches of an evaluation, the same for every process."""
    return -(-source.size // (positive_int("batch_size", batch_size) * shard.count))


def batch_names(source, epoch, step, *, batch_size, seed, shard=ONE_PROCESS):
    """What the images of a training batch are: a list of strings, in their order.

    Nothing is decoded. Arguments are those of `training_stream`, of which this is
    the batch at (epoch, step).
    """
    elements = source.elements(
        epoch, seed=seed, shuffle=True, shard=shard, block=batch_size, start=step * batch_size
    )
    return [element["name"].numpy().decode() for element in elements.take(batch_size)]


def _options():
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = 0  # as many threads as cores
    # Each process reads its own part already.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options


def _augmentation_key(seed, epoch):
    """int32 scalar for an epoch: with the position, the seed of an image's augmentation.

    Other random bits than those that the order is made of.
    """
    pair = tf.stack([tf.cast(seed, tf.int64), -1 - tf.cast(epoch, tf.int64)])
    return tf.random.stateless_uniform([], pair, minval=None, maxval=None, dtype=tf.int32)


def _image_seed(key, position):
    """The stateless seed of an image's augmentation, int32 (2,)."""
    return tf.stack([key, tf.cast(position, tf.int32)])


def _decoded_batches(elements, source, transform, batch_size):
    """Batches of images, labels, names and whether they are readable.

    Where a label or an image could not be had, it is 0. Behind the last image, one
    batch of such images, without names, fills up the batch that it is in.

    Args:
        elements: `tf.data.Dataset` of elements of `source`.
        source: The `Source`.
        transform: Function of an image and its element to a uint8 image.
        batch_size: Images in a batch.

    Returns:
        `tf.data.Dataset` of dicts.
    """
    chunk = max(size for size in range(1, _LARGEST_CHUNK + 1) if batch_size % size == 0)
    chunks = elements.batch(chunk).map(
        _chunk_decoder(source, transform, chunk),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    empty = {key: tf.zeros(spec.shape, spec.dtype) for key, spec in chunks.element_spec.items()}
    chunks = chunks.concatenate(tf.data.Dataset.from_tensors(empty).repeat(batch_size // chunk))
    return chunks.batch(batch_size // chunk, drop_remainder=True).map(
        lambda batch: {
            key: tf.reshape(value, (batch_size, *value.shape[2:])) for key, value in batch.items()
        }
    )


def _chunk_decoder(source, transform, chunk):
    """A function from up to `chunk` elements, as one dict, to a dict of so many images.

    An error reading one image must not end the stream, and only a data set can go on after
    one. So a chunk's images are read by a small data set of their own. Making it takes about
    a millisecond, whence chunks.
    """

    def read(element):
        example = source.load(element)
        label = example["label"]
        if source.multi_label:
            label = tf.reduce_max(tf.one_hot(label, source.classes, dtype=tf.uint8), axis=0)
        image = _checked_image(transform(example["image"], element))
        return {"image": image, "label": label, "slot": element["slot"]}

    # No Python control flow here: converting it only makes tracing slow and errors obscure.
    @tf.autograph.experimental.do_not_convert
    def decode(elements):
        names = elements["name"]
        count = tf.size(names)
        dataset = tf.data.Dataset.from_tensor_slices({**elements, "slot": tf.range(count)})
        dataset = dataset.map(read)
        black = {key: tf.zeros(x.shape, x.dtype) for key, x in dataset.element_spec.items()}
        # TensorFlow logs why an image cannot be read.
        dataset = dataset.ignore_errors(log_warning=True)
        dataset = dataset.concatenate(tf.data.Dataset.from_tensors(black))
        # What could be read, in its order, and a black image at the end.
        images, labels, slots = map(
            dataset.batch(chunk + 1).get_single_element().get, ("image", "label", "slot")
        )
        last = tf.size(slots) - 1
        rows = tf.tensor_scatter_nd_update(
            tf.fill([chunk], last), slots[:-1, tf.newaxis], tf.range(last)
        )
        images = tf.cond(last == chunk, lambda: images[:-1], lambda: tf.gather(images, rows))
        names = tf.concat([names, tf.fill([chunk - count], _PADDING)], axis=0)
        return {
            "image": tf.ensure_shape(images, (chunk, *images.shape[1:])),
            "label": tf.gather(labels, rows),
            "name": tf.ensure_shape(names, (chunk,)),
            "readable": rows < last,
        }

    return decode


def _valid_labels(labels, source):
    """Booleans: which of the labels are numbers of a class."""
    if source.multi_label:
        return tf.ones(tf.shape(labels)[:1], tf.bool)
    return (labels >= 0) & (labels < source.classes)


def _repair(batch, seen, source, report):
    """Images and labels of a batch, where each unreadable image gives way to the next readable one.

    Args:
        batch: Dict of the batch.
        seen: How many images the stream has given, with those of this batch.
        source: Where they come from.
        report: The `DataReport`.
    """
    readable = batch["readable"]
    with tf.control_dependencies([_inspect(batch, seen, source, report)]):
        slots = tf.range(tf.size(readable))
    # Row by row, the way from a slot on to every other.
    distances = tf.math.floormod(slots[None, :] - slots[:, None], tf.size(readable))
    nearest = tf.argmin(tf.where(readable[None, :], distances, tf.size(readable)), axis=1)
    return tf.gather(batch["image"], nearest), tf.gather(batch["label"], nearest)


def _inspect(batch, seen, source, report):
    """An operation that reports unreadable images, and fails where training makes no sense.

    `seen` is 0 in an evaluation, which goes on without the images that it lacks.
    """
    names = batch["name"]
    unreadable = tf.boolean_mask(names, ~batch["readable"] & (names != _PADDING))
    wrong = ~_valid_labels(batch["label"], source)

    met = set()

    def tell(unreadable, mislabelled, labels, batch_size, seen):
        unreadable = [name.decode() for name in unreadable]
        met.update(unreadable)
        report.add(unreadable)
        data = f"{source.name} ({source.split})"
        advice = f"Check the files, such as {unreadable[0]}." if unreadable else ""
        reason = None
        if len(mislabelled):
            reason = (
                f"Labels of {data} are out of range: expected 0 to {source.classes - 1}. "
                f"Received: {labels[0]} for {mislabelled[0].decode()}."
            )
        elif seen and len(unreadable) == batch_size:
            reason = f"None of the {batch_size} images of a batch of {data} can be read. {advice}"
        elif seen >= _FIRST_IMAGES and len(met) > seen / 2:
            reason = f"{len(met):,} of the first {seen:,} images of {data} cannot be read. {advice}"
        if reason is not None:
            # Prefetching may go on to the next error; the first one counts.
            report.failure = report.failure or reason
            raise ValueError(reason)

    def call():
        arguments = [
            unreadable,
            tf.boolean_mask(names, wrong),
            tf.boolean_mask(batch["label"], wrong),
            tf.size(names),
            seen,
        ]
        return tf.group(tf.numpy_function(tell, arguments, []))

    # Python runs for these batches only.
    return tf.cond((tf.size(unreadable) > 0) | tf.reduce_any(wrong), call, tf.no_op)


def _checked_image(image):
    if image.dtype != tf.uint8 or image.shape.rank != 3 or not image.shape.is_fully_defined():
        raise ValueError(
            "`transform` must give uint8 images of a shape known beforehand, (height, width, "
            f"channels). Received: {image.dtype.name} {image.shape}."
        )
    return image
