"""Images of classification in `tf.data`: the random crop of training, the evaluation's centre crop.

The random-resized crop, the flip and the evaluation's centre crop are those of timm and
torchvision, which the authors of SepViT trained with. Everything is a function of its arguments
alone.

Sources: timm, https://github.com/huggingface/pytorch-image-models; torchvision,
https://github.com/pytorch/vision.
"""

import dataclasses
import math

from keras_sepvit.classification.randaugment import (
    RandAugment,
    brightness,
    color,
    contrast,
)
from keras_sepvit.training.images import KERNELS, decode, resize, resize_and_crop
from keras_sepvit.training.tensorflow import tf
from keras_sepvit.validation import check_choice, check_range, interval, window_pair

_TRIES = 10


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
        object.__setattr__(self, "scale", interval("scale", self.scale, 1))
        object.__setattr__(self, "ratio", interval("ratio", self.ratio))
        check_choice("interpolation", self.interpolation, (*KERNELS, "random"))
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
        check_choice("interpolation", self.interpolation, tuple(KERNELS))

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
        return resize_and_crop(image, size, corner, self.image_size, self.interpolation)


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
