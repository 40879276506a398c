"""From one encoded image to one uint8 array, in TensorFlow operations for `tf.data`.

The random-resized crop, the flip and the evaluation's centre crop are those of timm and
torchvision, which the authors of SepViT trained with, and of Pillow underneath. Everything
is a function of its arguments alone.

An image is a scalar string tensor (an encoded JPEG, PNG, GIF, BMP or WebP, told apart by
content) or a uint8 tensor of shape (height, width, channels) with 1, 3 or 4 channels. Grey,
CMYK, 16-bit and transparent images become RGB; of an animation the first frame counts.
Bytes that are no image, or break off before the end of the part that is needed, raise
`tf.errors.InvalidArgumentError` when the operation runs.

Sources: timm, https://github.com/huggingface/pytorch-image-models; torchvision,
https://github.com/pytorch/vision; Pillow, https://python-pillow.org.
"""

import dataclasses
import math
import numbers

import tensorflow as tf

from keras_sepvit.training.randaugment import (
    RandAugment,
    brightness,
    check_range,
    color,
    contrast,
)
from keras_sepvit.validation import check_choice, window_pair

_TRIES = 10

# Kernels of `ScaleAndTranslate` by name; its cubic has a = -0.5, as Pillow's `resize`.
_KERNELS = {"bicubic": "keyscubic", "bilinear": "triangle"}


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

    def decode_jpeg():
        how = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}
        if choose_window is None:
            return tf.io.decode_jpeg(image, **how)
        window = choose_window(tf.io.extract_jpeg_shape(image)[:2])
        return tf.io.decode_and_crop_jpeg(image, window, **how)

    def decode_other():
        return crop(tf.io.decode_image(image, channels=3, expand_animations=False))

    return tf.ensure_shape(
        tf.cond(tf.io.is_jpeg(image), decode_jpeg, decode_other), (None, None, 3)
    )


def random_resized_crop(size, seed, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """Draws the window of torchvision's `RandomResizedCrop`.

    Args:
        size: int32 tensor (height, width) of the image.
        seed: Integer tensor of shape (2,).
        scale: Least and largest area, as a share of the image's.
        ratio: Least and largest width over height, drawn uniformly on a logarithmic scale.

    Returns:
        int32 tensor (top, left, height, width). If ten tries give no window inside the
        image: the largest in its centre of an allowed ratio.
    """
    height, width = tf.unstack(tf.cast(size, tf.float64))
    draws = tf.random.stateless_uniform([4, _TRIES], seed, dtype=tf.float64, alg="philox")
    area = height * width * (scale[0] + draws[0] * (scale[1] - scale[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = tf.exp(low + draws[1] * (high - low))
    widths, heights = tf.round(tf.sqrt(area * aspect)), tf.round(tf.sqrt(area / aspect))

    # After the tries comes the fallback, which always fits.
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first = tf.argmax(tf.concat([fits, [True]], 0))
    central_width = tf.minimum(width, tf.round(height * ratio[1]))
    central_height = tf.minimum(height, tf.round(width / ratio[0]))
    crop_width = tf.concat([widths, [central_width]], 0)[first]
    crop_height = tf.concat([heights, [central_height]], 0)[first]
    top = tf.concat([draws[2] * (height - heights + 1), [(height - central_height) / 2]], 0)[first]
    left = tf.concat([draws[3] * (width - widths + 1), [(width - central_width) / 2]], 0)[first]
    return tf.cast(tf.stack([top, left, crop_height, crop_width]), tf.int32)


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
    return _resize_and_crop(image, size, (0, 0), size, interpolation, flip)


def _resize_and_crop(image, size, corner, crop_size, interpolation, flip=False):
    """The part of `resize(image, size)` from `corner` (top, left) on."""
    # As Pillow does: first along rows, rounded to uint8, then along columns. Columns first
    # in memory, `ScaleAndTranslate` works on whole rows, and is twice as fast.
    image = tf.transpose(image, [1, 0, 2])
    image = _resize_first_axis(image, size[1], corner[1], crop_size[1], interpolation)
    columns = tf.range(crop_size[1])
    image = tf.gather(image, tf.where(flip, columns[::-1], columns))
    image = tf.transpose(image, [1, 0, 2])
    image = _resize_first_axis(image, size[0], corner[0], crop_size[0], interpolation)
    return tf.ensure_shape(image, (*crop_size, 3))


def _resize_first_axis(image, size, begin, crop_size, interpolation):
    shape = tf.shape(image)
    scale = tf.cast(tf.cast(size, tf.float64) / tf.cast(shape[0], tf.float64), tf.float32)
    values = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(image, [1, shape[0], 1, shape[1] * 3]),
        size=[crop_size, 1],
        scale=tf.stack([scale, 1.0]),
        translation=tf.stack([-tf.cast(begin, tf.float32), 0.0]),
        kernel_type=_KERNELS[interpolation],
        antialias=True,
    )
    values = tf.cast(tf.clip_by_value(values + 0.5, 0.0, 255.0), tf.uint8)
    return tf.reshape(values, [crop_size, shape[1], 3])


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """Random-resized crop, flip, then RandAugment or colour jitter, as in timm.

    Attributes:
        image_size: (height, width) of the result, or one number for both.
        scale: Least and largest area of the crop, as a share of the image's.
        ratio: Least and largest width over height of the crop.
        interpolation: `"bicubic"`, `"bilinear"`, or `"random"`, one of the two at a time.
            As in timm, RandAugment interpolates in the same way.
        flip: Probability of a horizontal flip.
        auto_augment: RandAugment in timm's notation (see `RandAugment.from_string`), or
            None.
        color_jitter: Brightness, contrast and saturation are multiplied, in random order,
            by factors that differ from 1 by up to this, 0 to 1. As in timm, it acts only
            where `auto_augment` is None, or with `force_color_jitter`.
        force_color_jitter: Whether `color_jitter` acts after RandAugment, too.

    Raises:
        ValueError: if an attribute is out of its range.
    """

    image_size: tuple
    scale: tuple = (0.08, 1.0)
    ratio: tuple = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    flip: float = 0.5
    auto_augment: str | None = None
    color_jitter: float = 0.4
    force_color_jitter: bool = False

    def __post_init__(self):
        object.__setattr__(self, "image_size", window_pair("image_size", self.image_size))
        object.__setattr__(self, "scale", _interval("scale", self.scale, 1))
        object.__setattr__(self, "ratio", _interval("ratio", self.ratio, math.inf))
        check_choice("interpolation", self.interpolation, (*_KERNELS, "random"))
        check_range("flip", self.flip, 0, 1)
        check_range("color_jitter", self.color_jitter, 0, 1)
        if self.auto_augment is not None:
            self._rand_augment()

    def _rand_augment(self):
        return RandAugment.from_string(self.auto_augment, interpolation=self.interpolation)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, image, seed):
        """Transforms an image.

        Args:
            image: Scalar string tensor, or uint8 tensor (height, width, channels).
            seed: Integer tensor of shape (2,), as `tf.random.stateless_uniform` takes.

        Returns:
            uint8 tensor of shape (*image_size, 3), a function of the arguments alone.

        Raises:
            ValueError: if the image has another type or shape.
            tf.errors.InvalidArgumentError: when run, if the bytes cannot be decoded.
        """
        seeds = tf.unstack(tf.random.split(seed, 3, alg="philox"))
        crop_seed, resize_seed, color_seed = seeds
        image = decode(
            image, lambda size: random_resized_crop(size, crop_seed, self.scale, self.ratio)
        )
        flip, bicubic = tf.unstack(tf.random.stateless_uniform([2], resize_seed, alg="philox"))
        flip = flip < self.flip
        if self.interpolation == "random":
            image = tf.cond(
                bicubic < 0.5,
                lambda: resize(image, self.image_size, "bicubic", flip),
                lambda: resize(image, self.image_size, "bilinear", flip),
            )
        else:
            image = resize(image, self.image_size, self.interpolation, flip)
        if self.auto_augment is not None:
            augment_seed = color_seed
            color_seed = tf.random.split(color_seed, 1, alg="philox")[0]
            image = self._rand_augment()(image, augment_seed)
        if self.color_jitter and (self.auto_augment is None or self.force_color_jitter):
            image = _color_jitter(image, self.color_jitter, color_seed)
        return image


@dataclasses.dataclass(frozen=True)
class EvalTransform:
    """Resize that keeps the ratio of the sides, then a centre crop, as in timm.

    The image is resized to the smallest size that covers `image_size` / `crop`, rounded
    down, and `image_size` is cut from its centre.

    Attributes:
        image_size: (height, width) of the result, or one number for both.
        crop: Share of the shorter side that is kept, above 0 and at most 1.
        interpolation: `"bicubic"` or `"bilinear"`.

    Raises:
        ValueError: if an attribute is out of its range.
    """

    image_size: tuple
    crop: float = 0.875
    interpolation: str = "bicubic"

    def __post_init__(self):
        object.__setattr__(self, "image_size", window_pair("image_size", self.image_size))
        check_range("crop", self.crop, 0, 1)
        if self.crop == 0:
            raise ValueError("`crop` must be above 0. Received: crop=0.")
        check_choice("interpolation", self.interpolation, tuple(_KERNELS))

    def resized_size(self, size):
        """The size that an image is resized to before the crop.

        Args:
            size: int32 tensor (height, width) of the image.

        Returns:
            int32 tensor (height, width), nowhere less than `image_size`.
        """
        least = tuple(math.floor(side / self.crop) for side in self.image_size)
        size = tf.cast(size, tf.int32)
        if least[0] == least[1]:  # torchvision rounds the longer side down
            return least[0] * size // tf.reduce_min(size)
        size = tf.cast(size, tf.float64)  # and timm rounds both to the nearest number
        return tf.cast(tf.round(size / tf.reduce_min(size / least)), tf.int32)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, image):
        """Transforms an image.

        Args:
            image: Scalar string tensor, or uint8 tensor (height, width, channels).

        Returns:
            uint8 tensor of shape (*image_size, 3).

        Raises:
            ValueError: if the image has another type or shape.
            tf.errors.InvalidArgumentError: when run, if the bytes cannot be decoded.
        """
        image = decode(image)
        size = self.resized_size(tf.shape(image)[:2])
        corner = tf.round(tf.cast(size - self.image_size, tf.float64) / 2)
        return _resize_and_crop(image, size, corner, self.image_size, self.interpolation)


def _color_jitter(image, strength, seed):
    """torchvision's `ColorJitter` of brightness, contrast and saturation."""
    draws = tf.random.stateless_uniform([2, 3], seed, alg="philox")
    factors = 1 + strength * (2 * draws[0] - 1)
    order = tf.argsort(draws[1])
    for i in range(3):
        image = tf.switch_case(
            order[i],
            [
                lambda image=image: brightness(image, factors[0]),
                lambda image=image: contrast(image, factors[1]),
                lambda image=image: color(image, factors[2]),
            ],
        )
    return image


def _interval(name, value, largest):
    """`value` as a pair of floats, 0 < low <= high <= `largest`."""
    if (
        not isinstance(value, (tuple, list))
        or len(value) != 2
        or not all(isinstance(x, numbers.Real) for x in value)
        or not 0 < value[0] <= value[1] <= largest
        or value[1] == math.inf
    ):
        limit = "" if largest == math.inf else f" <= {largest}"
        raise ValueError(
            f"`{name}` must be two numbers, 0 < low <= high{limit}. Received: {name}={value!r}."
        )
    return tuple(map(float, value))
