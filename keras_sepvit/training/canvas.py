"""Photos on canvases in `tf.data`: sizes and padding, as in `keras_sepvit.runtime.canvas`."""

from keras_sepvit.configs import MEAN_COLOUR
from keras_sepvit.training.images import decode, resize
from keras_sepvit.training.tensorflow import tf


def fitted(size, sides):
    """The size of a photo whose shorter and longer side become as large as `sides` allow.

    Args:
        size: int32 tensor (height, width).
        sides: The most that the shorter and the longer side may become: integers.

    Returns:
        int32 tensor (height, width), as `runtime.canvas.fit_sides` and mmcv round it.
    """
    size, sides = tf.cast(size, tf.float64), tf.cast(sides, tf.float64)
    return scaled(size, tf.minimum(sides[0] / tf.reduce_min(size), sides[1] / tf.reduce_max(size)))


def fitted_into(size, canvas_size):
    """The largest size of a photo that fits onto a canvas, as `runtime.canvas.fit_into` has it.

    Args:
        size: int32 tensor (height, width) of the photo.
        canvas_size: (height, width).

    Returns:
        int32 tensor (height, width).
    """
    size = tf.cast(size, tf.float64)
    return scaled(size, tf.reduce_min(tf.cast(canvas_size, tf.float64) / size))


def scaled(size, scale):
    """A size, float64 (height, width), times a scale, rounded as mmcv does; int32, at least 1."""
    return tf.maximum(tf.cast(size * scale + 0.5, tf.int32), 1)


@tf.autograph.experimental.do_not_convert
def place(image, canvas_size):
    """A photo as large as a canvas allows, in its upper left corner; `runtime.canvas.fit_into`.

    Args:
        image: Scalar string tensor, or uint8 tensor (height, width, channels).
        canvas_size: (height, width).

    Returns:
        uint8 tensor (*canvas_size, 3), with the mean colour beside and below the photo; int32
        tensor (height, width), the photo's size there.

    Raises:
        ValueError: if the image has another type or shape.
        tf.errors.InvalidArgumentError: when run, if the bytes cannot be decoded.
    """
    image = decode(image)
    size = fitted_into(tf.shape(image)[:2], canvas_size)
    return on_canvas(resize(image, tf.unstack(size), "bilinear"), canvas_size), size


def on_canvas(image, canvas_size):
    """A canvas with a photo in its upper left corner, and the mean colour right of it and below.

    Args:
        image: uint8 tensor (height, width, 3).
        canvas_size: (height, width), at least the photo's.

    Returns:
        uint8 tensor (*canvas_size, 3).
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    mean = tf.constant(MEAN_COLOUR, tf.uint8)
    beside = tf.broadcast_to(mean, (height, canvas_size[1] - width, 3))
    below = tf.broadcast_to(mean, (canvas_size[0] - height, canvas_size[1], 3))
    # Eight times as fast as to pad and choose between the two.
    canvas = tf.concat([tf.concat([image, beside], axis=1), below], axis=0)
    return tf.ensure_shape(canvas, (*canvas_size, 3))
