"""What is done to a whole batch on the device: random erasing, mixup and CutMix.

Images stay in 0..255, the range of the models' input: their own first layer normalises them,
and since mixing is linear it makes no difference that it comes before.
"""

import math

import keras
from keras import layers, ops, random

from keras_sepvit.configs import IMAGENET_MEAN, IMAGENET_VARIANCE

# Of random erasing, as in timm: area as a share of the image's, and height over width.
ERASED_AREA = (0.02, 1 / 3)
ERASED_RATIO = (0.3, 1 / 0.3)
# Rectangles that do not fit into the image are drawn again, up to ten times.
ERASING_ATTEMPTS = 10


class BatchAugmentation(layers.Layer):
    """Random erasing, then mixup or CutMix, with soft targets.

    Random erasing (arXiv 1708.04896) as timm's mode `pixel`: a rectangle becomes noise, a normal
    number for each pixel and channel after normalisation. Mixup (arXiv 1710.09412) and CutMix
    (arXiv 1905.04899) as timm's mode `batch`: one draw for the batch, and each image is mixed
    with that at the mirrored place in the batch.

    Args:
        classes: Number of classes.
        erase_rate: Probability of erasing in an image.
        mixup, cutmix: Alpha of the Beta distribution of the share of an image that stays; 0 for
            none.
        cutmix_rate: Probability of CutMix instead of mixup, where both are on.
        label_smoothing: Share of the target spread evenly over all classes.
        seed: Seed of all draws.

    Input: images (batch, height, width, 3) of 0..255, uint8 or float, and int labels (batch,).

    Output: images, float32 of about 0..255, and targets (batch, classes), float32, each row of
        sum 1. Outside training: unchanged images and one-hot targets.
    """

    def __init__(
        self,
        classes,
        erase_rate=0.0,
        mixup=0.0,
        cutmix=0.0,
        cutmix_rate=0.5,
        label_smoothing=0.0,
        seed=None,
        **kwargs,
    ):
        # Half precision cannot hold 0..255 with the fractions that mixing makes.
        super().__init__(dtype="float32", **kwargs)
        self.classes = classes
        self.erase_rate = erase_rate
        self.mixup = mixup
        self.cutmix = cutmix
        if not (mixup and cutmix):
            cutmix_rate = 1.0 if cutmix else 0.0
        self.cutmix_rate = cutmix_rate
        self.label_smoothing = label_smoothing
        self.seed_generator = random.SeedGenerator(seed)
        self.built = True

    def call(self, images, labels, training=False):
        images = ops.cast(images, "float32")
        targets = ops.one_hot(labels, self.classes, dtype="float32")
        if not training:
            return images, targets
        if self.erase_rate:
            images = self.erase(images)
        if self.label_smoothing:
            targets = targets * (1 - self.label_smoothing) + self.label_smoothing / self.classes
        if self.mixup or self.cutmix:
            images, targets = self.mix(images, targets)
        return images, targets

    def erase(self, images):
        """Replaces a rectangle of some images by noise."""
        batch, height, width, _ = ops.shape(images)
        noise = random.normal(ops.shape(images), dtype="float32", seed=self.seed_generator)
        noise = noise * ops.sqrt(ops.array(IMAGENET_VARIANCE)) + ops.array(IMAGENET_MEAN)
        attempts = (batch, ERASING_ATTEMPTS)
        area = self._uniform(attempts, *ERASED_AREA) * height * width
        ratio = ops.exp(self._uniform(attempts, *map(math.log, ERASED_RATIO)))
        heights = ops.round(ops.sqrt(area * ratio))
        widths = ops.round(ops.sqrt(area / ratio))
        fits = ops.logical_and(heights < height, widths < width)
        first = ops.argmax(ops.cast(fits, "int32"), axis=1)[:, None]
        erased = ops.take_along_axis(ops.cast(fits, "float32"), first, axis=1)[:, 0]
        erased = erased * ops.cast(self._uniform((batch,)) < self.erase_rate, "float32")
        heights = ops.take_along_axis(heights, first, axis=1)[:, 0] * erased
        widths = ops.take_along_axis(widths, first, axis=1)[:, 0] * erased
        tops = ops.floor(self._uniform((batch,)) * (height - heights + 1))
        lefts = ops.floor(self._uniform((batch,)) * (width - widths + 1))
        inside = _rectangles(height, width, tops, lefts, tops + heights, lefts + widths)
        return ops.where(inside[..., None], noise, images)

    def mix(self, images, targets):
        """Mixes each image and target with those at the mirrored place in the batch."""
        _, height, width, _ = ops.shape(images)
        if self.cutmix:
            # The box has a share of 1 - kept of the image before it is cut off at the borders.
            kept = random.beta((1,), self.cutmix, self.cutmix, seed=self.seed_generator)
            half = ops.sqrt(1.0 - ops.cast(kept, "float32")) / 2
            half_height, half_width = ops.floor(half * height), ops.floor(half * width)
            row = ops.floor(self._uniform((1,)) * height)
            column = ops.floor(self._uniform((1,)) * width)
            inside = _rectangles(
                height,
                width,
                row - half_height,
                column - half_width,
                row + half_height,
                column + half_width,
            )
            shares = ops.cast(ops.logical_not(inside), "float32")
        if self.mixup:
            kept = random.beta((1, 1, 1), self.mixup, self.mixup, seed=self.seed_generator)
            kept = ops.cast(kept, "float32") * ops.ones((1, height, width), dtype="float32")
            if self.cutmix:
                use_cutmix = self._uniform((1, 1, 1)) < self.cutmix_rate
                shares = ops.where(use_cutmix, shares, kept)
            else:
                shares = kept
        images = images * shares[..., None] + ops.flip(images, axis=0) * (1 - shares[..., None])
        share = ops.mean(shares)
        return images, targets * share + ops.flip(targets, axis=0) * (1 - share)

    def _uniform(self, shape, low=0.0, high=1.0):
        return random.uniform(shape, low, high, dtype="float32", seed=self.seed_generator)

    def compute_output_spec(self, images, labels, training=False):
        batch = images.shape[0]
        return (
            keras.KerasTensor(images.shape, "float32"),
            keras.KerasTensor((batch, self.classes), "float32"),
        )


def _rectangles(height, width, tops, lefts, bottoms, rights):
    """Bool maps (n, height, width), true from each top and left up to bottom and right."""
    rows = ops.arange(height, dtype="float32")[None, :]
    columns = ops.arange(width, dtype="float32")[None, :]
    in_rows = ops.logical_and(rows >= tops[:, None], rows < bottoms[:, None])
    in_columns = ops.logical_and(columns >= lefts[:, None], columns < rights[:, None])
    return ops.logical_and(in_rows[:, :, None], in_columns[:, None, :])
