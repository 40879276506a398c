"""Photos with class maps in `tf.data`: the augmentation of ADE20K's training.

The augmentation is that of mmsegmentation, with which SepViT's authors trained; mmcv's rules for
sizes, and for pixels of masks. Three things are finer here: photos are resized as in evaluation,
antialiased where they become smaller; saturation and hue are not rounded to OpenCV's HSV of 8 bits;
pixels are rounded once, at the end. Everything is a function of its arguments alone.

Source: https://github.com/open-mmlab/mmsegmentation, `mmseg/datasets/pipelines/transforms.py`.
"""

import dataclasses
import os

from keras_sepvit.segmentation.losses import IGNORED
from keras_sepvit.segmentation.maps import read_map
from keras_sepvit.training.canvas import fitted, on_canvas
from keras_sepvit.training.distortion import distort, draw_distortion
from keras_sepvit.training.images import decode, is_upright_png, resize_and_crop
from keras_sepvit.training.tensorflow import tf
from keras_sepvit.validation import check_range, flag, interval, window_pair

# How often a crop without two classes is drawn again; the last one is taken as it is.
_REDRAWS = 10

# Depth and kind of colour, the bytes 24 and 25 of a PNG.
_GREY_OF_8_BITS = b"\x08\x00"


def decode_map(path, first=0):
    """`read_map` in a graph.

    Args:
        path: Scalar string tensor, the mask's file.
        first: As for `read_map`.

    Returns:
        uint8 tensor (height, width).

    Raises:
        tf.errors.InvalidArgumentError: when run, where `read_map` raises.
    """

    def read(path):
        return read_map(os.fsdecode(path if isinstance(path, bytes) else path.item()), first)

    def decode():
        values = tf.io.decode_png(content, 1)[..., 0]
        if not first:
            return values
        ignored = (values < first) | (values == IGNORED)
        return tf.where(ignored, tf.constant(IGNORED, tf.uint8), values - first)

    content = tf.io.read_file(path)
    # What nearly all masks are; the rest is left to Pillow.
    plain = is_upright_png(content) & (tf.strings.substr(content, 24, 2) == _GREY_OF_8_BITS)
    class_map = tf.cond(
        plain, decode, lambda: tf.numpy_function(read, [path], tf.uint8, stateful=False)
    )
    return tf.ensure_shape(class_map, (None, None))


def nearest_and_crop(class_map, size, corner, crop_size, flip=False):
    """A part of a class map of another size, by nearest pixels.

    Row i of n rows is that of index floor(i * height / n), as in mmcv.

    Args:
        class_map: uint8 tensor (height, width).
        size: The new (height, width).
        corner: (top, left) of the part.
        crop_size: (height, width) of the part.
        flip: Boolean or scalar tensor, whether to flip the part horizontally.

    Returns:
        uint8 tensor of shape `crop_size`.
    """
    shape = tf.shape(class_map)
    rows, columns = (
        (corner[axis] + tf.range(crop_size[axis])) * shape[axis] // size[axis] for axis in (0, 1)
    )
    columns = tf.where(flip, columns[::-1], columns)
    return tf.gather(tf.gather(class_map, rows), columns, axis=1)


def draw_corner(class_map, size, crop_size, largest_share, seed):
    """Where a crop begins that has two classes at least.

    Args:
        class_map: uint8 tensor (height, width), of the photo's own size.
        size: The size to which the photo is resized; a pair of scalars, as those below.
        crop_size: (height, width) of the crop, at most `size`.
        largest_share: Each class of the crop must have less than this share of its pixels that
            are not ignored. After ten crops that do not fit the eleventh is taken; the first one
            if the share is 1.
        seed: Integer tensor of shape (2,).

    Returns:
        int32 tensor (top, left).
    """
    draws = tf.random.stateless_uniform([1 + _REDRAWS, 2], seed, dtype=tf.float64, alg="philox")
    margin = tf.stack(size) - tf.stack(crop_size)
    corners = tf.cast(draws * tf.cast(margin + 1, tf.float64), tf.int32)
    if largest_share == 1:
        return corners[0]

    def unfit(number):
        crop = nearest_and_crop(class_map, size, corners[number], crop_size)
        crop = tf.cast(tf.reshape(crop, [-1]), tf.int32)
        counts = tf.math.bincount(crop, minlength=IGNORED + 1, maxlength=IGNORED + 1)[:IGNORED]
        most = largest_share * tf.cast(tf.reduce_sum(counts), tf.float64)
        fits = (tf.math.count_nonzero(counts) > 1) & (
            tf.cast(tf.reduce_max(counts), tf.float64) < most
        )
        return (number < _REDRAWS) & ~fits

    (number,) = tf.while_loop(unfit, lambda number: [number + 1], [tf.constant(0)])
    return corners[number]


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """The augmentation of ADE20K: random size, crop, flip, photometric distortion, padding.

    Attributes:
        image_size: (height, width) of the result, or one number for both.
        scale: Least and largest factor of `sides`, drawn uniformly.
        sides: The most that a photo's shorter and longer side become, times the factor; rounded
            down.
        largest_share: See `draw_corner`.
        flip: Probability of a horizontal flip.
        distortion: Whether colours are changed as `draw_distortion` says.

    Raises:
        ValueError: if an attribute is out of its range.
    """

    image_size: tuple
    scale: tuple = (0.5, 2.0)
    sides: tuple = (512, 2048)
    largest_share: float = 0.75
    flip: float = 0.5
    distortion: bool = True

    def __post_init__(self):
        for name, check in (
            ("image_size", window_pair),
            ("scale", interval),
            ("sides", window_pair),
            ("distortion", flag),
        ):
            object.__setattr__(self, name, check(name, getattr(self, name)))
        check_range("largest_share", self.largest_share, 0, 1)
        check_range("flip", self.flip, 0, 1)
        if self.sides[0] > self.sides[1]:
            raise ValueError(
                f"`sides` are the shorter and the longer one. Received: sides={self.sides}."
            )

    @tf.autograph.experimental.do_not_convert
    def __call__(self, image, class_map, seed):
        """Transforms a photo and its class map.

        Args:
            image: Scalar string tensor, or uint8 tensor (height, width, channels).
            class_map: uint8 tensor (height, width).
            seed: Integer tensor of shape (2,), as `tf.random.stateless_uniform` takes.

        Returns:
            uint8 tensors (*image_size, 3) and image_size, functions of the arguments alone.
            Right and below of a photo that is smaller have the mean colour, and 255.

        Raises:
            ValueError: if the image has another type or shape.
            tf.errors.InvalidArgumentError: when run, if the bytes cannot be decoded, or the class
                map has another size.
        """
        corner_seed, size_seed, colour_seed = tf.unstack(tf.random.split(seed, 3, alg="philox"))
        image = decode(image)
        photo_size = tf.shape(image)[:2]
        same = tf.debugging.assert_equal(
            tf.shape(class_map), photo_size, "The class map has another size than its image."
        )
        with tf.control_dependencies([] if same is None else [same]):
            class_map = tf.identity(class_map)
        draws = tf.random.stateless_uniform([2], size_seed, dtype=tf.float64, alg="philox")
        factor = self.scale[0] + draws[0] * (self.scale[1] - self.scale[0])
        flip = draws[1] < self.flip

        size = fitted(photo_size, tf.floor(factor * self.sides))
        part = tf.unstack(tf.minimum(size, self.image_size))
        size = tf.unstack(size)
        corner = draw_corner(class_map, size, part, self.largest_share, corner_seed)
        corner = tf.unstack(corner)
        image = resize_and_crop(image, size, corner, part, "bilinear", flip)
        class_map = nearest_and_crop(class_map, size, corner, part, flip)
        if self.distortion:
            image = distort(image, **draw_distortion(colour_seed))
        return on_canvas(image, self.image_size), _padded(class_map, self.image_size)


def _padded(class_map, canvas_size):
    height, width = tf.unstack(tf.shape(class_map))
    beside = [[0, canvas_size[0] - height], [0, canvas_size[1] - width]]
    class_map = tf.pad(class_map, beside, constant_values=tf.constant(IGNORED, tf.uint8))
    return tf.ensure_shape(class_map, canvas_size)
