"""RandAugment on uint8 images, in TensorFlow operations for `tf.data`.

The fifteen operations, their magnitudes and their probabilities are those of timm
(`timm.data.auto_augment`), which the authors of SepViT trained with. Each operation
is a function of its arguments alone, so that a pipeline can be repeated exactly. All
take and give images of shape (height, width, 3), dtype uint8, with values of 0 to 255.

The tonal operations give what Pillow gives bit for bit. Those that move pixels follow
the arithmetic of Pillow's `Image.transform` in float32 where Pillow has float64: for a
random factor 25 values in a million differ, by 1. More do, also by 1, for round factors
with which many exact results are integers, such as a translation by 1.2 pixels: there
truncation decides.

Sources: RandAugment, https://arxiv.org/abs/1909.13719; timm,
https://github.com/huggingface/pytorch-image-models; Pillow, https://python-pillow.org.
"""

import math
from typing import NamedTuple

from keras_sepvit.classification.randaugment_settings import LARGEST_MAGNITUDE, RandAugmentSettings
from keras_sepvit.configs import MEAN_COLOUR
from keras_sepvit.training.tensorflow import tf
from keras_sepvit.validation import check_choice

# Rec. 601 luma in 1/65536, as Pillow converts RGB to grey. Every sum of these with
# uint8 values is an integer below 2**24, and so exact in float32.
_LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)


def autocontrast(image):
    """Stretches each channel to 0..255. Equals `PIL.ImageOps.autocontrast`."""
    image = _as_image(image)
    # In float64 and in this order, because the result is truncated.
    low = tf.cast(tf.reduce_min(image, axis=(0, 1)), tf.float64)
    high = tf.cast(tf.reduce_max(image, axis=(0, 1)), tf.float64)
    flat = high <= low
    scale = 255 / tf.where(flat, 255 * tf.ones_like(low), high - low)
    offset = tf.where(flat, tf.zeros_like(low), -low * scale)
    values = tf.cast(_as_rows(image), tf.float64)
    values = values * _along_row(scale, image) + _along_row(offset, image)
    return tf.reshape(tf.cast(values, tf.uint8), tf.shape(image))


def equalize(image):
    """Makes each channel's histogram uniform. Equals `PIL.ImageOps.equalize`."""
    image = _as_image(image)
    entries = tf.cast(_as_rows(image), tf.int32) + _along_row([0, 256, 512], image)
    counts = tf.math.bincount(tf.reshape(entries, [-1]), minlength=768, maxlength=768)
    counts = tf.reshape(counts, [3, 256])
    # The pixels of the channel's highest value do not count.
    highest = tf.cast(tf.reduce_max(image, axis=(0, 1)), tf.int32)
    pixels = tf.reduce_sum(counts, axis=1) - tf.gather(counts, highest, batch_dims=1)
    step = (pixels // 255)[:, None]
    table = (step // 2 + tf.cumsum(counts, axis=1, exclusive=True)) // tf.maximum(step, 1)
    table = tf.where(step == 0, tf.range(256)[None], tf.minimum(table, 255))
    table = tf.reshape(tf.cast(table, tf.uint8), [-1])
    return tf.reshape(tf.gather(table, entries), tf.shape(image))


def invert(image):
    """Replaces each value x by 255 - x. Equals `PIL.ImageOps.invert`."""
    return 255 - _as_image(image)


def posterize(image, bits):
    """Keeps the highest `bits` (0 to 8) bits of each value; 0 gives black.

    Equals `PIL.ImageOps.posterize`, which refuses 0 in later releases.
    """
    mask = 256 - tf.bitwise.left_shift(1, 8 - tf.cast(bits, tf.int32))
    return tf.bitwise.bitwise_and(_as_image(image), tf.cast(mask, tf.uint8))


def solarize(image, threshold):
    """Inverts the values from `threshold` (0 to 256) on. Equals `PIL.ImageOps.solarize`."""
    pixels = tf.cast(_as_image(image), tf.float32)
    inverted = tf.cast(pixels >= tf.cast(threshold, tf.float32), tf.float32)
    return tf.cast(pixels + inverted * (255 - 2 * pixels), tf.uint8)


def solarize_add(image, amount, threshold=128):
    """Adds `amount` (0 to 255) to the values below `threshold` (0 to 256), up to 255."""
    pixels = tf.cast(_as_image(image), tf.float32)
    below = tf.cast(pixels < tf.cast(threshold, tf.float32), tf.float32)
    return _to_uint8(pixels + below * tf.cast(amount, tf.float32))


def color(image, factor):
    """Colourfulness: `factor` 0 gives grey, 1 the image. Equals `PIL.ImageEnhance.Color`."""
    pixels = tf.cast(_as_image(image), tf.float32)
    return _blend(_grey(pixels, channels=3), pixels, factor)


def contrast(image, factor):
    """Distance from the mean grey, times `factor`. Equals `PIL.ImageEnhance.Contrast`."""
    pixels = tf.cast(_as_image(image), tf.float32)
    total = tf.reduce_sum(tf.cast(_grey(pixels, channels=1), tf.int64))
    number = tf.cast(tf.reduce_prod(tf.shape(pixels)[:2]), tf.int64)
    mean = tf.floor(tf.cast(total, tf.float64) / tf.cast(number, tf.float64) + 0.5)
    return _blend(tf.cast(mean, tf.float32), pixels, factor)


def brightness(image, factor):
    """The values times `factor` (0 or more). Equals `PIL.ImageEnhance.Brightness`."""
    return _to_uint8(tf.cast(_as_image(image), tf.float32) * tf.cast(factor, tf.float32))


def sharpness(image, factor):
    """`factor` 0 gives a smoothed image, 1 the image. Equals `PIL.ImageEnhance.Sharpness`."""
    image = _as_image(image)
    pixels = tf.cast(image, tf.float32)
    # The smoothing kernel is ((1, 1, 1), (1, 5, 1), (1, 1, 1)) / 13. Its sums are
    # integers; halves do not occur.
    rows = pixels[:-2] + pixels[1:-1] + pixels[2:]
    sums = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    centre = pixels[1:-1, 1:-1]
    inner = _blend(tf.floor((sums + 4 * centre + 6.5) * (1 / 13)), centre, factor)
    # Pillow leaves the border as it is.
    middle = image[1:-1]
    middle = tf.concat([middle[:, :1], inner, middle[:, 1:][:, -1:]], axis=1)
    return tf.ensure_shape(tf.concat([image[:1], middle, image[1:][-1:]], axis=0), image.shape)


def shear_x(image, factor, interpolation="bicubic", fill=MEAN_COLOUR):
    """Moves row y to the left by `factor` * (y + 0.5) pixels.

    Args:
        image: The image.
        factor: Scalar, pixels a row.
        interpolation: `"bilinear"` or `"bicubic"`.
        fill: Colour of what lies outside the image, three values of 0 to 255.
    """
    image = _as_image(image)
    rows = tf.range(tf.shape(image)[0])
    shifts = _to_float64(factor) * (tf.cast(rows, tf.float64) + 0.5)
    return _move_rows(image, shifts, interpolation, fill)


def shear_y(image, factor, interpolation="bicubic", fill=MEAN_COLOUR):
    """Moves column x up by `factor` * (x + 0.5) pixels; see `shear_x`."""
    return _transpose(shear_x(_transpose(_as_image(image)), factor, interpolation, fill))


def translate_x(image, share, interpolation="bicubic", fill=MEAN_COLOUR):
    """Moves the image to the left by `share` times its width; see `shear_x`."""
    image = _as_image(image)
    height, width = tf.unstack(tf.shape(image)[:2])
    shift = _to_float64(share) * tf.cast(width, tf.float64)
    return _move_rows(image, tf.fill([height], shift), interpolation, fill)


def translate_y(image, share, interpolation="bicubic", fill=MEAN_COLOUR):
    """Moves the image up by `share` times its height; see `shear_x`."""
    return _transpose(translate_x(_transpose(_as_image(image)), share, interpolation, fill))


def rotate(image, degrees, interpolation="bicubic", fill=MEAN_COLOUR):
    """Turns the image about its centre, counter-clockwise by `degrees`; see `shear_x`."""
    image = _as_image(image)
    check_choice("interpolation", interpolation, tuple(_INTERPOLATIONS))
    height, width = tf.unstack(tf.shape(image)[:2])
    angle = -tf.math.floormod(_to_float64(degrees), 360.0) * (math.pi / 180)
    cosine, sine = (tf.round(x * 1e15) / 1e15 for x in (tf.cos(angle), tf.sin(angle)))
    centre_x, centre_y = (tf.cast(x, tf.float64) / 2 for x in (width, height))

    # Positions in the source of every pixel's centre.
    x = tf.cast(tf.range(width), tf.float64)[None] + 0.5
    y = tf.cast(tf.range(height), tf.float64)[:, None] + 0.5
    x, y = (
        (cosine * x + sine * y) + ((cosine * -centre_x + sine * -centre_y) + centre_x),
        (-sine * x + cosine * y) + ((-sine * -centre_x + cosine * -centre_y) + centre_y),
    )
    columns, weights_x, inside_x = _taps(x, width, interpolation)
    rows, weights_y, inside_y = _taps(y, height, interpolation)

    flat = tf.reshape(image, [-1, 3])
    interpolate = _INTERPOLATIONS[interpolation][1]
    weights_x, weights_y = (
        tf.broadcast_to(weights[..., None], tf.shape(image)) for weights in (weights_x, weights_y)
    )
    values = interpolate(
        [
            interpolate(
                [tf.cast(tf.gather(flat, row * width + column), tf.float32) for column in columns],
                weights_x,
            )
            for row in rows
        ],
        weights_y,
    )
    inside = (inside_x & inside_y)[..., None]
    rotated = tf.where(inside, _to_uint8(values), tf.constant(fill, tf.uint8))
    return tf.ensure_shape(rotated, image.shape)


def _as_image(image):
    image = tf.convert_to_tensor(image)
    if image.dtype != tf.uint8:
        raise ValueError(
            "`image` must hold uint8 values of 0 to 255. "
            f"Received dtype: {image.dtype.name}. Augment before normalising."
        )
    if image.shape.rank != 3 or image.shape[-1] != 3:
        raise ValueError(
            f"`image` must have shape (height, width, 3). Received shape: {image.shape}."
        )
    return image


# TensorFlow is several times faster along long inner axes than along three channels.


def _as_rows(image):
    """The image as a matrix (height, width * 3)."""
    return tf.reshape(image, [tf.shape(image)[0], -1])


def _along_row(channels, image):
    """Three numbers, one a channel, repeated along a row: (width * 3,)."""
    return tf.tile(channels, [tf.shape(image)[1]])


def _grey(pixels, channels):
    """Grey values, integers in float32, in each of `channels` equal channels."""
    weights = tf.constant([[weight] * channels for weight in _LUMA])
    return tf.floor(tf.tensordot(pixels, weights, 1) + 0.5)


def _blend(degenerate, pixels, factor):
    """`PIL.Image.blend`: in float32 and in this order, because the result is truncated."""
    return _to_uint8(degenerate + tf.cast(factor, tf.float32) * (pixels - degenerate))


def _to_float64(value):
    """A number or tensor as float64; `tf.cast` would take a Python float through float32."""
    return tf.cast(value, tf.float64) if tf.is_tensor(value) else tf.constant(value, tf.float64)


def _to_uint8(values):
    """Clips and truncates."""
    return tf.cast(tf.clip_by_value(values, 0.0, 255.0), tf.uint8)


def _transpose(image):
    return tf.transpose(image, [1, 0, 2])


def _bilinear(taps, weight):
    left, right = taps
    return left + (right - left) * weight


def _bicubic(taps, weight):
    """Cubic convolution with a = -1, as Pillow's `transform` (its `resize` has -0.5)."""
    first, left, right, last = taps
    head = first - left
    cubic = right - last + head
    return left + weight * (right - first + weight * (head + cubic - weight * cubic))


# By name: where the taps begin, from the pixel at or before a position; and the rule.
_INTERPOLATIONS = {"bilinear": ((0, 1), _bilinear), "bicubic": ((-1, 0, 1, 2), _bicubic)}


def _taps(positions, size, interpolation):
    """The pixels along one axis that positions are interpolated from.

    Returns:
        A list of indices (clipped to the image), the float32 position between the two
        middle ones, and whether a position is inside the image.
    """
    floor = tf.floor(positions - 0.5)
    weight = tf.cast((positions - 0.5) - floor, tf.float32)
    inside = (positions >= 0) & (positions < tf.cast(size, tf.float64))
    floor = tf.cast(floor, tf.int32)
    offsets = _INTERPOLATIONS[interpolation][0]
    return [tf.clip_by_value(floor + i, 0, size - 1) for i in offsets], weight, inside


def _move_rows(image, shifts, interpolation, fill):
    """Moves each row to the left by a float64 number of pixels."""
    height, width = tf.unstack(tf.shape(image)[:2])
    check_choice("interpolation", interpolation, tuple(_INTERPOLATIONS))
    offsets, interpolate = _INTERPOLATIONS[interpolation]
    shifts = shifts[:, None]
    floor = tf.floor(shifts)
    # All pixels of a row lie at the same distance from their neighbours, so that one
    # look-up serves all taps.
    columns = tf.range(width + len(offsets) - 1) + offsets[0] + tf.cast(floor, tf.int32)
    indices = tf.range(height)[:, None] * width + tf.clip_by_value(columns, 0, width - 1)
    pixels = _as_rows(tf.gather(tf.reshape(image, [-1, 3]), indices))
    pixels = tf.cast(pixels, tf.float32)
    taps = [pixels[:, 3 * i : 3 * (i + width)] for i in range(len(offsets))]
    moved = _to_uint8(interpolate(taps, tf.cast(shifts - floor, tf.float32)))

    begin = tf.cast(tf.math.ceil(-shifts - 0.5), tf.int32)
    end = tf.cast(tf.math.ceil(tf.cast(width, tf.float64) - shifts - 0.5), tf.int32)
    column = tf.repeat(tf.range(width), 3)[None]
    colours = tf.broadcast_to(_along_row(tf.constant(fill, tf.uint8), image), tf.shape(moved))
    moved = tf.where((column >= begin) & (column < end), moved, colours)
    return tf.ensure_shape(tf.reshape(moved, tf.shape(image)), image.shape)


class Draw(NamedTuple):
    """What `RandAugment` draws for an image; tensors of shape (operations,).

    Attributes:
        operation: int32, index into `OPERATIONS`.
        applied: bool, whether it is applied.
        magnitude: float64, 0 to 10.
        negative: bool, whether its argument is negated, where it has a sign.
        bicubic: bool, whether pixels are interpolated bicubically where the
            interpolation is random.
    """

    operation: tf.Tensor
    applied: tf.Tensor
    magnitude: tf.Tensor
    negative: tf.Tensor
    bicubic: tf.Tensor


def _bits(level, increasing):
    bits = tf.cast(level * 4, tf.int32)
    return 4 - bits if increasing else bits


def _threshold(level, increasing):
    threshold = tf.minimum(tf.cast(level * 256, tf.int32), 256)
    return 256 - threshold if increasing else threshold


def _factor(level, sign, increasing):
    if increasing:
        return tf.maximum(1 + sign * (level * 0.9), 0.1)
    return level * 1.8 + 0.1


# By timm's name: a function of image, level (magnitude / 10), sign (1 or -1),
# `increasing`, and the keywords of what moves pixels.
_TONAL = {
    "AutoContrast": lambda image, level, sign, inc: autocontrast(image),
    "Equalize": lambda image, level, sign, inc: equalize(image),
    "Invert": lambda image, level, sign, inc: invert(image),
    "Posterize": lambda image, level, sign, inc: posterize(image, _bits(level, inc)),
    "Solarize": lambda image, level, sign, inc: solarize(image, _threshold(level, inc)),
    "SolarizeAdd": lambda image, level, sign, inc: solarize_add(
        image, tf.minimum(tf.cast(level * 110, tf.int32), 128)
    ),
    "Color": lambda image, level, sign, inc: color(image, _factor(level, sign, inc)),
    "Contrast": lambda image, level, sign, inc: contrast(image, _factor(level, sign, inc)),
    "Brightness": lambda image, level, sign, inc: brightness(image, _factor(level, sign, inc)),
    "Sharpness": lambda image, level, sign, inc: sharpness(image, _factor(level, sign, inc)),
}
_MOVING = {
    "Rotate": lambda image, level, sign, **how: rotate(image, sign * level * 30, **how),
    "ShearX": lambda image, level, sign, **how: shear_x(image, sign * level * 0.3, **how),
    "ShearY": lambda image, level, sign, **how: shear_y(image, sign * level * 0.3, **how),
    "TranslateX": lambda image, level, sign, **how: translate_x(image, sign * level * 0.45, **how),
    "TranslateY": lambda image, level, sign, **how: translate_y(image, sign * level * 0.45, **how),
}
OPERATIONS = (*_TONAL, *_MOVING)


class RandAugment(RandAugmentSettings):
    """Applies random operations of random strength to an image, as timm does.

    For each image `operations` times: one of the fifteen operations is chosen
    uniformly, is applied with a probability, at a magnitude drawn from a normal
    distribution and clipped to 0..10. Rotations, shears and translations (and, where
    `increasing`, the enhancements) go either way with equal probability.

    Attributes and errors are those of `RandAugmentSettings`.
    """

    def draw(self, seed):
        """Draws the operations for an image.

        Args:
            seed: Integer tensor of shape (2,).

        Returns:
            A `Draw`, a function of the seed alone.
        """
        draws = tf.random.stateless_uniform(
            [5, self.operations], seed, dtype=tf.float64, alg="philox"
        )
        operation, applied, magnitude, negative, bicubic = tf.unstack(draws)
        magnitude = self.magnitude + self.magnitude_std * tf.math.ndtri(magnitude)
        return Draw(
            operation=tf.cast(operation * len(OPERATIONS), tf.int32),
            applied=applied < self.probability,
            magnitude=tf.clip_by_value(magnitude, 0, LARGEST_MAGNITUDE),
            negative=negative < 0.5,
            bicubic=bicubic < 0.5,
        )

    def apply(self, image, operation, magnitude, negative=False):
        """Applies one operation.

        Args:
            image: uint8 tensor of shape (height, width, 3).
            operation: One of `OPERATIONS`.
            magnitude: Number or scalar tensor, 0 to 10.
            negative: Boolean or scalar tensor, whether to negate the argument of an
                operation that goes either way.

        Returns:
            A uint8 tensor of the same shape. With random interpolation: bicubic.

        Raises:
            ValueError: if there is no such operation.
        """
        check_choice("operation", operation, OPERATIONS)
        interpolation = "bicubic" if self.interpolation == "random" else self.interpolation
        return self._apply(image, operation, magnitude, negative, interpolation)

    def _apply(self, image, operation, magnitude, negative, interpolation):
        level = _to_float64(magnitude) / LARGEST_MAGNITUDE
        sign = tf.where(negative, tf.constant(-1.0, tf.float64), tf.constant(1.0, tf.float64))
        if operation in _TONAL:
            return _TONAL[operation](image, level, sign, self.increasing)
        how = {"interpolation": interpolation, "fill": self.fill}
        return _MOVING[operation](image, level, sign, **how)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, image, seed):
        """Augments an image.

        Args:
            image: uint8 tensor of shape (height, width, 3).
            seed: Integer tensor of shape (2,), as `tf.random.stateless_uniform` takes.

        Returns:
            A uint8 tensor of the same shape, a function of the arguments alone.
        """
        image = _as_image(image)
        draw = self.draw(seed)
        index = draw.operation
        if self.interpolation == "random":
            # Those that interpolate come last, and once more with the other rule.
            branches = [(name, "bilinear") for name in OPERATIONS]
            branches += [(name, "bicubic") for name in _MOVING]
            index += tf.where(draw.bicubic & (index >= len(_TONAL)), len(_MOVING), 0)
        else:
            branches = [(name, self.interpolation) for name in OPERATIONS]
        index = tf.where(draw.applied, index, len(branches))  # one more, which changes nothing

        def step(i, image):
            functions = [
                _bound(self._apply, image, name, draw.magnitude[i], draw.negative[i], how)
                for name, how in branches
            ]
            image = tf.switch_case(index[i], [*functions, _bound(tf.identity, image)])
            return i + 1, image

        return tf.while_loop(
            lambda i, image: i < self.operations, step, (0, image), parallel_iterations=1
        )[1]


def _bound(function, *arguments):
    return lambda: function(*arguments)
