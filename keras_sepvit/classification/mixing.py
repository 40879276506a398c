"""Random erasing, mixup and CutMix: drawn on the host, done to whole batches on the device.

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


def draw_erasing(seed, size, image_size, rate):
    """Draws the rectangle of each image that random erasing fills with noise.

    Args:
        seed: Stateless seed, int (2,).
        size: Number of images.
        image_size: (height, width).
        rate: Probability of erasing in an image.

    Returns:
        float32 tensor (size, 4) of top, left, bottom and right in pixels; of no area where nothing
        is erased.
    """
    from keras_sepvit.training.tensorflow import tf

    height, width = image_size
    draws = tf.random.stateless_uniform((4, size, ERASING_ATTEMPTS), seed)
    low, high = ERASED_AREA
    area = (low + (high - low) * draws[0]) * height * width
    low, high = map(math.log, ERASED_RATIO)
    ratio = tf.exp(low + (high - low) * draws[1])
    heights, widths = tf.round(tf.sqrt(area * ratio)), tf.round(tf.sqrt(area / ratio))
    fits = tf.cast((heights < height) & (widths < width), tf.float32)
    first = tf.one_hot(tf.argmax(fits, axis=1), ERASING_ATTEMPTS) * fits
    erased = tf.cast(draws[2, :, 0] < rate, tf.float32)
    heights = tf.reduce_sum(heights * first, axis=1) * erased
    widths = tf.reduce_sum(widths * first, axis=1) * erased
    tops = tf.floor(draws[3, :, 0] * (height - heights + 1))
    lefts = tf.floor(draws[3, :, 1] * (width - widths + 1))
    return tf.stack([tops, lefts, tops + heights, lefts + widths], axis=1)


def draw_mixing(seed, size, image_size, group, mixup, cutmix, cutmix_rate):
    """Draws mixup or CutMix for groups of images, as timm's mode `batch` does for a batch.

    Args:
        seed: Stateless seed, int (2,).
        size: Number of images.
        image_size: (height, width).
        group: Images that have the same draws; a divisor of `size`.
        mixup, cutmix: Alpha of the Beta distribution of the share of an image that stays; 0 for
            none.
        cutmix_rate: Probability of CutMix instead of mixup, where both are on.

    Returns:
        Dict of float32 tensors: `"kept"` (size,), the share of an image that mixup keeps, and
        `"box"` (size, 4), the top, left, bottom and right of what CutMix pastes, in pixels. Where
        one of the two acts, the other has a share of 1 or a box of no area.
    """
    from keras_sepvit.training.tensorflow import tf

    height, width = image_size
    groups = size // group
    seeds = tf.unstack(tf.random.split(seed, 5))

    def beta(alpha, index):
        gammas = [tf.random.stateless_gamma((groups,), seeds[index + i], alpha) for i in (0, 1)]
        return gammas[0] / (gammas[0] + gammas[1])

    uniform = tf.random.stateless_uniform((3, groups), seeds[4])
    cuts = uniform[0] < (cutmix_rate if mixup and cutmix else float(cutmix > 0))
    kept = tf.where(cuts, 1.0, beta(mixup, 0)) if mixup else tf.ones(groups)
    box = tf.zeros((groups, 4))
    if cutmix:
        # The box has a share of 1 - kept of the image before it is cut off at the borders.
        half = tf.sqrt(1.0 - beta(cutmix, 2)) / 2
        half_height, half_width = tf.floor(half * height), tf.floor(half * width)
        row, column = tf.floor(uniform[1] * height), tf.floor(uniform[2] * width)
        box = tf.stack(
            [
                tf.maximum(row - half_height, 0.0),
                tf.maximum(column - half_width, 0.0),
                tf.minimum(row + half_height, height),
                tf.minimum(column + half_width, width),
            ],
            axis=1,
        )
        box = tf.where(cuts[:, None], box, 0.0)
    return {"kept": tf.repeat(kept, group), "box": tf.repeat(box, group, axis=0)}


class BatchAugmentation(layers.Layer):
    """Random erasing, then mixup or CutMix, with soft targets, as drawn beforehand.

    Random erasing (arXiv 1708.04896) as timm's mode `pixel`: a rectangle becomes noise, a normal
    number for each pixel and channel after normalisation. Mixup (arXiv 1710.09412) and CutMix
    (arXiv 1905.04899) as timm's mode `batch`: each image is mixed with that at the mirrored place
    in its group.

    Args:
        classes: Number of classes.
        label_smoothing: Share of the target spread evenly over all classes.
        group: Consecutive images that are mixed among themselves; a divisor of the batch.
        seed: Seed of the noise.

    Input: dict of `"image"` (batch, height, width, 3) of 0..255, uint8 or float, int `"label"`
        (batch,), and, each where it is to happen, `"erased"` (batch, 4), as `draw_erasing` gives
        it, and `"kept"` and `"box"`, as `draw_mixing` does.

    Output: images, float32 of about 0..255, and targets (batch, classes), float32, each row of
        sum 1.
    """

    def __init__(self, classes, label_smoothing=0.0, group=1, seed=None, **kwargs):
        # Half precision cannot hold 0..255 with the fractions that mixing makes.
        super().__init__(dtype="float32", **kwargs)
        self.classes = classes
        self.label_smoothing = label_smoothing
        self.group = group
        self.seed_generator = random.SeedGenerator(seed)
        self.built = True

    def call(self, batch):
        images = ops.cast(batch["image"], "float32")
        targets = ops.one_hot(batch["label"], self.classes, dtype="float32")
        if "erased" in batch:
            images = self.erase(images, batch["erased"])
        if self.label_smoothing:
            targets = targets * (1 - self.label_smoothing) + self.label_smoothing / self.classes
        if "kept" in batch:
            images, targets = self.mix(images, targets, batch["kept"], batch["box"])
        return images, targets

    def erase(self, images, rectangles):
        """Replaces a rectangle of each image by noise."""
        noise = random.normal(ops.shape(images), dtype="float32", seed=self.seed_generator)
        noise = noise * ops.sqrt(ops.array(IMAGENET_VARIANCE)) + ops.array(IMAGENET_MEAN)
        return ops.where(_inside(rectangles, images)[..., None], noise, images)

    def mix(self, images, targets, kept, box):
        """Mixes each image and target with those at the mirrored place in the group."""
        shares = ops.where(_inside(box, images), 0.0, kept[:, None, None])
        share = ops.mean(shares, axis=(1, 2))[:, None]
        shares = shares[..., None]
        return (
            images * shares + self.mirrored(images) * (1 - shares),
            targets * share + self.mirrored(targets) * (1 - share),
        )

    def mirrored(self, x):
        """What is at the mirrored place in the group of each row."""
        shape = ops.shape(x)
        groups = ops.reshape(x, (-1, self.group, *shape[1:]))
        return ops.reshape(ops.flip(groups, axis=1), shape)

    def compute_output_spec(self, batch):
        shape = batch["image"].shape
        return (
            keras.KerasTensor(shape, "float32"),
            keras.KerasTensor((shape[0], self.classes), "float32"),
        )


def _inside(boxes, images):
    """Bool maps (batch, height, width), true inside the (top, left, bottom, right) of each row."""
    _, height, width, _ = ops.shape(images)
    rows = ops.arange(height, dtype="float32")[None, :]
    columns = ops.arange(width, dtype="float32")[None, :]
    tops, lefts, bottoms, rights = (boxes[:, i, None] for i in range(4))
    in_rows = ops.logical_and(rows >= tops, rows < bottoms)
    in_columns = ops.logical_and(columns >= lefts, columns < rights)
    return ops.logical_and(in_rows[:, :, None], in_columns[:, None, :])
