"""From a source to batches of examples, whatever an example is.

An example is a dict of tensors of fixed shapes. The n-th one of an epoch, and what augmentation
does to it, are pure functions of (seed, epoch, n). A stream started in the middle of a run goes on
with the very batches that the uninterrupted run would have had. Every example has its slot in a
batch, also one that cannot be read: such a slot gets another example of its batch.
"""

import functools
import itertools

import numpy as np

from keras_sepvit.training.report import DataReport
from keras_sepvit.training.sources.groups import PADDING
from keras_sepvit.training.sources.source import ONE_PROCESS
from keras_sepvit.training.tensorflow import tf
from keras_sepvit.validation import counted, positive_int

# Images after which more unreadable ones than readable ones are an error.
_FIRST_IMAGES = 64

# Images that a thread decodes at a time, at most.
_LARGEST_CHUNK = 32

# Keys of a batch that are the pipeline's own.
_OWN = ("name", "readable", "fault")


# There is no Python control flow in it: converting it makes starts slower and errors obscure, and
# leaves files of killed runs in /tmp.
_without_autograph = tf.autograph.experimental.do_not_convert


@_without_autograph
def training_stream(
    source,
    transform,
    *,
    batch_size,
    seed,
    draw=None,
    start_epoch=0,
    start_step=0,
    shard=ONE_PROCESS,
    report=None,
):
    """Batches for training, epoch after epoch without end.

    Each epoch has its own order of the images. Of a source that can be read in any
    order (all but TFDS), the batches of all processes make up together, in their
    order, the batch that a single process would have had. The last images of an epoch
    that do not fill a batch are left out, of each group where the source has groups, whose images
    share no batch. In the place of an example that cannot be read
    is the next readable one of the batch, around its end.

    Args:
        source: A `Source`.
        transform: Function of what the source loads (a dict) and a stateless seed
            (int32 (2,)) that gives an example, a dict of tensors of fixed shapes. A scalar
            string `"fault"` in it, if it is not empty, says why training must stop.
        batch_size: Images in a batch of this process. All processes have the same.
        seed: Seed of the order and of the augmentation; int.
        draw: Function of a stateless seed, another for each step, and the number of images
            of all processes that gives a dict of tensors with a row for each of them, which
            the batches then have, too: draws that are made once for a whole batch.
        start_epoch, start_step: The first batch is the `start_step`-th of that epoch,
            both from 0.
        shard: The part of this process.
        report: A `DataReport` that unreadable images are added to.

    Returns:
        `tf.data.Dataset` of dicts of the example's tensors, stacked, and of the draws.

    Raises:
        ValueError: if the source cannot be trained on with this batch size. While
            it runs, through `DataReport.raising`: if no image of a batch can be read,
            or most of the first ones cannot, or an example has a fault.
    """
    report = DataReport() if report is None else report
    steps = steps_per_epoch(source, batch_size, shard)
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
        in_order = tf.reduce_all(batch["readable"] & (batch["fault"] == ""))
        examples = tf.cond(
            in_order,
            lambda: _examples(batch),
            lambda: _repair(batch, (number + 1) * batch_size, source, report),
        )
        if draw is None:
            return examples
        # Neither the order's key nor that of an image's augmentation: seeds are not negative.
        step = start_epoch * steps + start_step + number
        draws = draw(tf.stack([tf.cast(-1 - seed, tf.int64), step]), batch_size * shard.count)
        own = slice(shard.index * batch_size, (shard.index + 1) * batch_size)
        return {**examples, **{key: rows[own] for key, rows in draws.items()}}

    elements = tf.data.Dataset.range(start_epoch, np.iinfo(np.int64).max).flat_map(one_epoch)
    dataset = _batches(
        elements, source, lambda example, element: transform(example, element["seed"]), batch_size
    )
    dataset = dataset.enumerate().map(finish)
    return dataset.with_options(_options()).prefetch(tf.data.AUTOTUNE)


@_without_autograph
def evaluation_batches(source, transform, *, batch_size, shard=ONE_PROCESS, report=None):
    """All images once, in the order of the data, or group after group in that order.

    Every process gets equally many batches. What is missing in the last ones does not
    count, nor do images that cannot be read.

    Args:
        source: A `Source`.
        transform: Function of what the source loads (a dict) that gives an example, a dict
            of tensors of fixed shapes; see `training_stream`.
        batch_size: Images in a batch of this process. All processes have the same.
        shard: The part of this process.
        report: A `DataReport` that unreadable images are added to.

    Returns:
        `tf.data.Dataset` of dicts of the example's tensors, stacked, of `"name"`, the
        strings that tell the images, and of `"counts"`, bool (batch,).

    Raises:
        ValueError: while it runs, through `DataReport.raising`: if an example has a fault.
    """
    report = DataReport() if report is None else report
    steps = evaluation_steps(source, batch_size, shard)

    def finish(batch):
        with tf.control_dependencies([_inspect(batch, 0, source, report)]):
            counts = tf.identity(batch["readable"])
            return {**_examples(batch), "name": batch["name"], "counts": counts}

    elements = source.elements(0, seed=0, shuffle=False, shard=shard, block=batch_size)
    dataset = _batches(elements, source, lambda example, element: transform(example), batch_size)
    dataset = dataset.take(steps).map(finish)
    # Of record files TensorFlow cannot know, and Keras warns at the end of such a data set.
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    return dataset.with_options(_options()).prefetch(tf.data.AUTOTUNE)


def first_batches(stream, images):
    """The first batches of a `training_stream` that have so many images, all of one shape.

    Returns:
        List of dicts of NumPy arrays; of batches of another shape than the first one's none, and
        fewer where these are rare.
    """
    batches = stream.as_numpy_iterator()
    first = next(batches)
    shape = first["image"].shape
    looked_at = itertools.islice(batches, images)
    alike = (batch for batch in looked_at if batch["image"].shape == shape)
    return [first, *itertools.islice(alike, -(-images // shape[0]) - 1)]


def steps_per_epoch(source, batch_size, shard=ONE_PROCESS):
    """Batches of a training epoch, the same for every process.

    Raises:
        ValueError: if the source has not enough images for one.
    """
    images = positive_int("batch_size", batch_size) * shard.count
    steps = sum(size // images for size in source.group_sizes)
    if not steps:
        raise ValueError(
            f"{source.name} ({source.split}) has {counted(source.size, 'image')}, too few for a "
            f"batch of {images:,}. Received: batch_size={batch_size} for "
            f"{counted(shard.count, 'process')}."
        )
    return steps


def evaluation_steps(source, batch_size, shard=ONE_PROCESS):
    """Batches of an evaluation, the same for every process."""
    images = positive_int("batch_size", batch_size) * shard.count
    return sum(-(-size // images) for size in source.group_sizes)


def batch_names(source, epoch, step, *, batch_size, seed, shard=ONE_PROCESS):
    """What the images of a training batch are: a list of strings, in their order.

    Nothing is decoded. Arguments are those of `training_stream`, of which this is
    the batch at (epoch, step).
    """
    elements = source.elements(
        epoch, seed=seed, shuffle=True, shard=shard, block=batch_size, start=step * batch_size
    )
    return [
        element["name"].numpy().decode(errors="replace") for element in elements.take(batch_size)
    ]


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


def _batches(elements, source, transform, batch_size):
    """Batches of examples, with their names, faults and whether they are readable.

    What could not be read is 0. Behind the last image, one batch of zeros, without names,
    fills up the batch that it is in; elements of a source with groups fill theirs themselves.

    Args:
        elements: `tf.data.Dataset` of elements of `source`.
        source: The `Source`.
        transform: Function of what the source loads and of the element to an example.
        batch_size: Images in a batch.

    Returns:
        `tf.data.Dataset` of dicts.
    """
    chunk = max(size for size in range(1, _LARGEST_CHUNK + 1) if batch_size % size == 0)
    chunks = elements.batch(chunk).map(
        _chunk_reader(source, transform, chunk),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    if source.groups is None:
        empty = {key: tf.zeros(x.shape, x.dtype) for key, x in chunks.element_spec.items()}
        chunks = chunks.concatenate(tf.data.Dataset.from_tensors(empty).repeat(batch_size // chunk))

    def joined(values):
        values = tf.reshape(values, tf.concat([[batch_size], tf.shape(values)[2:]], axis=0))
        return tf.ensure_shape(values, (batch_size, *values.shape[1:]))

    return chunks.batch(batch_size // chunk, drop_remainder=True).map(
        lambda batch: {key: joined(values) for key, values in batch.items()}
    )


def _chunk_reader(source, transform, chunk):
    """A function from up to `chunk` elements, as one dict, to a dict of so many examples.

    An error reading one image must not end the stream, and only a data set can go on after
    one. So a chunk's images are read by a small data set of their own. Making it takes about
    a millisecond, whence chunks.
    """

    def decode(elements, group=None):
        known = {} if group is None else {"group": group}

        def read(element):
            loaded = {**source.load(element), **known}
            example = {"fault": "", **transform(loaded, element)}
            return {**_checked(example), "slot": element["slot"]}

        # Padding is at the end.
        count = tf.reduce_sum(tf.cast(elements["name"] != PADDING, tf.int32))
        elements = {key: values[:count] for key, values in elements.items()}
        dataset = tf.data.Dataset.from_tensor_slices({**elements, "slot": tf.range(count)})
        dataset = dataset.map(read)
        zeros = {key: tf.zeros(x.shape, x.dtype) for key, x in dataset.element_spec.items()}
        # TensorFlow logs why an image cannot be read.
        dataset = dataset.ignore_errors(log_warning=True)
        dataset = dataset.concatenate(tf.data.Dataset.from_tensors(zeros))
        # What could be read, in its order, and zeros at the end.
        examples = dataset.batch(chunk + 1).get_single_element()
        slots = examples.pop("slot")
        last = tf.size(slots) - 1
        rows = tf.tensor_scatter_nd_update(
            tf.fill([chunk], last), slots[:-1, tf.newaxis], tf.range(last)
        )

        def in_slots(values):
            values = tf.cond(last == chunk, lambda: values[:-1], lambda: tf.gather(values, rows))
            return tf.ensure_shape(values, (chunk, *values.shape[1:]))

        names = tf.concat([elements["name"], tf.fill([chunk - count], PADDING)], axis=0)
        return {
            **{key: in_slots(values) for key, values in examples.items()},
            "name": tf.ensure_shape(names, (chunk,)),
            "readable": rows < last,
        }

    if source.groups is None:
        return decode
    # A branch for each group, in which shapes are known.
    groups = range(len(source.group_sizes))
    return lambda elements: tf.switch_case(
        elements["group"][0], [functools.partial(decode, elements, group) for group in groups]
    )


def _examples(batch):
    """The batch without what is the pipeline's own."""
    return {key: values for key, values in batch.items() if key not in _OWN}


def _repair(batch, seen, source, report):
    """The examples of a batch, where the next readable one takes an unreadable one's place.

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
    return {key: tf.gather(values, nearest) for key, values in _examples(batch).items()}


def _inspect(batch, seen, source, report):
    """An operation that reports unreadable images, and fails where training makes no sense.

    `seen` is 0 in an evaluation, which goes on without the images that it lacks.
    """
    names, faults = batch["name"], batch["fault"]
    unreadable = tf.boolean_mask(names, ~batch["readable"] & (names != PADDING))
    faulty = faults != ""

    met = set()

    def tell(unreadable, faulty, faults, batch_size, seen):
        unreadable = [name.decode(errors="replace") for name in unreadable]
        met.update(unreadable)
        report.add(unreadable)
        data = f"{source.name} ({source.split})"
        advice = f"Check the files, such as {unreadable[0]}." if unreadable else ""
        reason = None
        if len(faulty):
            reason = f"{faults[0].decode()} for {faulty[0].decode(errors='replace')}."
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
            tf.boolean_mask(names, faulty),
            tf.boolean_mask(faults, faulty),
            tf.size(names),
            seen,
        ]
        return tf.group(tf.numpy_function(tell, arguments, []))

    # Python runs for these batches only.
    return tf.cond((tf.size(unreadable) > 0) | tf.reduce_any(faulty), call, tf.no_op)


def _checked(example):
    example = {key: tf.convert_to_tensor(value) for key, value in example.items()}
    for key, value in example.items():
        if not value.shape.is_fully_defined():
            raise ValueError(
                f"`transform` must give tensors of shapes known beforehand. Received: {key!r} of "
                f"shape {value.shape}."
            )
    return example
