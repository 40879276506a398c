"""From one encoded image to one uint8 array, in TensorFlow operations for `tf.data`.

Everything is a function of its arguments alone.

An image is a scalar string tensor (an encoded image of any kind that Pillow reads, told apart by
content) or a uint8 tensor of shape (height, width, channels) with 1, 3 or 4 channels. Encoded
images become what `keras_sepvit.runtime.read_image` reads: see there. TensorFlow itself decodes
JPEG and PNG, in parallel; Pillow the rest. Bytes that are no image, or break off before the end of
the part that is needed, raise `tf.errors.InvalidArgumentError` when the operation runs.
"""

import io

import numpy as np

from keras_sepvit.runtime.images import open_image, orientation
from keras_sepvit.training.tensorflow import tf

# Kernels of `ScaleAndTranslate` by name; its cubic has a = -0.5, as Pillow's `resize`.
KERNELS = {"bicubic": "keyscubic", "bilinear": "triangle"}


def decode(image, choose_window=None):
    """Decodes an image, or a part of it, to RGB.

    Args:
        image: Scalar string tensor, or uint8 tensor (height, width, channels).
        choose_window: Function of the size, an int32 tensor (height, width), that returns
            the part to decode, an int32 tensor (top, left, height, width). By default all.
            Of a JPEG no other part is decoded; the colours of the part's last column, which
            JPEG stores at half the resolution, then lack their right neighbour and can
            differ by a few levels.

    Returns:
        uint8 tensor of shape (height, width, 3).

    Raises:
        ValueError: if the tensor has another type or shape.
        tf.errors.InvalidArgumentError: when run, if the bytes cannot be decoded.
    """
    image = tf.convert_to_tensor(image)
    encoded = image.dtype == tf.string and image.shape.rank in (0, None)
    pixels = image.dtype == tf.uint8 and image.shape.rank == 3 and image.shape[-1] in (1, 3, 4)
    if not encoded and not pixels:
        raise ValueError(
            "An image must be a scalar string tensor (an encoded image) or a uint8 tensor of shape "
            "(height, width, channels) with 1, 3 or 4 channels. Received a tensor of dtype "
            f"{image.dtype.name} and shape {image.shape}."
        )

    def crop(image):
        if choose_window is None:
            return image
        top, left, height, width = tf.unstack(choose_window(tf.shape(image)[:2]))
        return image[top : top + height, left : left + width]

    if pixels:
        return crop(tf.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3])

    # Operations of a branch that is not taken cost time, too: `choose_window` stands outside.
    is_jpeg = tf.io.is_jpeg(image)
    size, number, other = tf.cond(is_jpeg, lambda: _open_jpeg(image), lambda: _open_other(image))
    window = None if choose_window is None else choose_window(size)

    def crop_other():
        if window is None:
            return other
        return tf.slice(other, tf.concat([window[:2], [0]], 0), tf.concat([window[2:], [3]], 0))

    decoded = tf.cond(is_jpeg, lambda: _decode_jpeg(image, size, window, number), crop_other)
    return tf.ensure_shape(decoded, (None, None, 3))


_PNG = b"\x89PNG\r\n\x1a\n"
# What is in every PNG that notes an orientation, and in every JPEG that notes another than 1: the
# tag 0x0112 of EXIF, high or low byte first, of the usual type (short) or another; or that of XMP.
_IN_PNG = ("eXIf", "XML:com.adobe.xmp", "Raw profile type exif")
_IN_JPEG = (
    r"\x01\x12\x00(?:\x03\x00\x00\x00\x01\x00[\x02-\x08]|[^\x03]\x00\x00\x00\x01)",
    r"\x12\x01(?:\x03\x00\x01\x00\x00\x00[\x02-\x08]|[^\x03]\x00\x01\x00\x00\x00)",
    r"tiff:Orientation(?:=\"|>)[2-8]",
)
# They stand in front of the pixels, EXIF by its standard first. What may be before them are a few
# segments of 64 KB, or a colour profile of half a megabyte.
_JPEG_HEAD = 2**20


def _contains(content, patterns):
    # A replacement searches ten times faster than `regex_full_match`.
    rest = content
    for pattern in patterns:
        rest = tf.strings.regex_replace(rest, pattern, "", replace_global=False)
    return tf.strings.length(rest) < tf.strings.length(content)


def _open_jpeg(image):
    """Upright size, orientation, and no pixels yet."""

    def read_orientation():
        number = tf.numpy_function(_jpeg_orientation, [image], tf.int64, stateful=False)
        return tf.ensure_shape(number, ())

    head = tf.strings.substr(image, 0, _JPEG_HEAD)
    number = tf.cond(_contains(head, _IN_JPEG), read_orientation, lambda: tf.constant(1, tf.int64))
    size = tf.io.extract_jpeg_shape(image)[:2]
    return tf.where(number >= 5, size[::-1], size), number, tf.zeros((0, 0, 3), tf.uint8)


def _open_other(image):
    """Size, the orientation 1, and the pixels."""
    pixels = tf.cond(
        is_upright_png(image), lambda: tf.io.decode_png(image, 3), lambda: _pillow(image)
    )
    return tf.shape(pixels)[:2], tf.constant(1, tf.int64), pixels


def is_upright_png(content):
    """Whether a file's bytes, a scalar string tensor, are a PNG that notes no orientation."""
    return (tf.strings.substr(content, 0, 8) == _PNG) & ~_contains(content, _IN_PNG)


def _decode_jpeg(image, size, window, number):
    how = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}

    def decode(window):
        if window is None:
            return tf.io.decode_jpeg(image, **how)
        return tf.io.decode_and_crop_jpeg(image, window, **how)

    def decode_turned():
        # The upright image is the stored one, transposed or not, then flipped or not.
        transposed = number >= 5
        flips = tf.stack([(number - 1) % 4 >= 2, number % 4 >= 2])
        stored = None
        if window is not None:
            corner, part = window[:2], window[2:]
            corner = tf.where(flips, size - corner - part, corner)
            stored = tf.concat(
                [tf.where(transposed, pair[::-1], pair) for pair in (corner, part)], 0
            )
        turned = tf.transpose(decode(stored), tf.where(transposed, [1, 0, 2], [0, 1, 2]))
        return tf.reverse(turned, tf.boolean_mask([0, 1], flips))

    return tf.cond(number == 1, lambda: decode(window), decode_turned)


def _jpeg_orientation(content):
    from PIL import Image

    try:
        with Image.open(_file(content)) as file:
            return np.int64(orientation(file))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error  # what TensorFlow makes an InvalidArgumentError


def _file(content):
    """A string tensor as `numpy_function` passes it: bytes in a graph, an array without."""
    return io.BytesIO(content if isinstance(content, bytes) else content.item())


def _pillow(image):
    def read(content):
        return np.asarray(open_image(_file(content)))

    return tf.ensure_shape(
        tf.numpy_function(read, [image], tf.uint8, stateful=False), (None, None, 3)
    )


def resize(image, size, interpolation="bicubic", flip=False):
    """Resizes an image, antialiased, as `PIL.Image.resize` does.

    The result differs from Pillow's by 1 in less than one value of a thousand (bicubic) or a
    hundred (bilinear): weights are float32 here and fixed-point numbers there. Where an image
    is enlarged bilinearly, many values lie halfway between integers, and up to a tenth differ.

    Args:
        image: uint8 tensor of shape (height, width, 3).
        size: The new (height, width).
        interpolation: `"bicubic"` or `"bilinear"`.
        flip: Boolean or scalar tensor, whether to flip the result horizontally.

    Returns:
        uint8 tensor of shape (*size, 3).
    """
    return resize_and_crop(image, size, (0, 0), size, interpolation, flip)


def resize_and_crop(image, size, corner, crop_size, interpolation, flip=False):
    """The part of `resize(image, size)` from `corner` (top, left) on.

    Numbers in `size`, `corner` and `crop_size` may be scalar tensors; those of the first two
    fractions, float64.
    """
    # As Pillow does: first along rows, rounded to uint8, then along columns. Columns first
    # in memory, `ScaleAndTranslate` works on whole rows, and is twice as fast; and a matrix of
    # bytes is transposed twice as fast as one of pixels.
    height = tf.shape(image)[0]
    columns = tf.transpose(tf.reshape(image, [height, -1]))
    columns = tf.reshape(columns, [-1, 3 * height])
    columns = _resize_first_axis(columns, size[1], corner[1], crop_size[1], interpolation)
    order = tf.range(crop_size[1])
    columns = tf.gather(columns, tf.where(flip, order[::-1], order))
    rows = tf.transpose(tf.reshape(columns, [-1, height]))
    rows = _resize_first_axis(rows, size[0], corner[0], crop_size[0], interpolation)
    return tf.reshape(rows, (*crop_size, 3))


def _resize_first_axis(matrix, size, begin, crop_size, interpolation):
    shape = tf.shape(matrix)
    scale = tf.cast(tf.cast(size, tf.float64) / tf.cast(shape[0], tf.float64), tf.float32)
    values = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(matrix, [1, shape[0], 1, shape[1]]),
        size=[crop_size, 1],
        scale=tf.stack([scale, 1.0]),
        translation=tf.stack([-tf.cast(begin, tf.float32), 0.0]),
        kernel_type=KERNELS[interpolation],
        antialias=True,
    )
    values = tf.cast(tf.clip_by_value(values + 0.5, 0.0, 255.0), tf.uint8)
    return tf.reshape(values, [crop_size, shape[1]])
