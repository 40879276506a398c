"""A few of the pictures to train on, as they are."""

import functools

import numpy as np

from keras_sepvit.training.images import decode, resize
from keras_sepvit.training.pipeline import first_batches, training_stream
from keras_sepvit.training.report import DataReport
from keras_sepvit.training.tensorflow import tf

_PICTURES = 64
_BATCH = 8


def sample_pictures(source, image_size, seed):
    """The first pictures of a run, whole and without augmentation.

    Args:
        source: The `Source` of training.
        image_size: (height, width) that they are resized to.
        seed: Seed of the run, which decides their order.

    Returns:
        uint8 array (pictures, *image_size, 3); of 64 pictures, where there are as many.
    """
    transform = functools.partial(_whole, image_size=image_size)
    batch_size = min(_BATCH, max(source.group_sizes))
    report = DataReport()
    stream = training_stream(source, transform, batch_size=batch_size, seed=seed, report=report)
    # Of a small set the stream would begin anew.
    count = min(_PICTURES, source.size // batch_size * batch_size)
    with report.raising():
        batches = first_batches(stream, count)
    return np.concatenate([batch["image"] for batch in batches])


@tf.autograph.experimental.do_not_convert
def _whole(example, seed, image_size):
    return {"image": resize(decode(example["image"]), image_size, "bilinear")}
