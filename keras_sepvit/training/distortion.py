"""Photometric distortion of photos in `tf.data`, that of mmsegmentation, mmdetection and SSD.

Saturation and hue are not rounded to OpenCV's HSV of 8 bits; pixels are rounded once, at the end.
"""

from keras_sepvit.training.tensorflow import tf

# Largest changes: of 255, factors' of 1, and of a turn of hues.
_BRIGHTNESS, _FACTOR, _HUE = 32, 0.5, 18 / 180


def draw_distortion(seed):
    """Amounts of the photometric distortion: each changes a photo with a probability of a half.

    Args:
        seed: Integer tensor of shape (2,).

    Returns:
        Dict of what `distort` takes.
    """
    draws = tf.random.stateless_uniform([2, 5], seed, alg="philox")
    amounts = tf.where(draws[0] < 0.5, 2 * draws[1] - 1, 0.0)  # -1..1
    return {
        "brightness": _BRIGHTNESS * amounts[0],
        "contrast": 1 + _FACTOR * amounts[1],
        "saturation": 1 + _FACTOR * amounts[2],
        "hue": _HUE * amounts[3],
        "contrast_first": draws[0, 4] < 0.5,
    }


def distort(image, brightness, contrast, saturation, hue, contrast_first):
    """Changes brightness, contrast, saturation and hue of a photo.

    Args:
        image: uint8 tensor (height, width, 3).
        brightness: What is added to each value.
        contrast: Factor of each value.
        saturation, hue: Factor and sum of those of HSV, both in 0..1; hues go round.
        contrast_first: Whether contrast is changed before saturation and hue, or after them.

    Returns:
        uint8 tensor (height, width, 3). After each step values are clipped to 0..255.
    """

    def change_colours(image):
        hues, saturations, values = tf.unstack(tf.image.rgb_to_hsv(image / 255), axis=-1)
        hues = tf.math.floormod(hues + hue, 1.0)
        saturations = tf.minimum(saturations * saturation, 1.0)
        return 255 * tf.image.hsv_to_rgb(tf.stack([hues, saturations, values], axis=-1))

    def clipped(image):
        return tf.clip_by_value(image, 0.0, 255.0)

    image = clipped(tf.cast(image, tf.float32) + brightness)
    image = clipped(image * tf.where(contrast_first, contrast, 1.0))
    unchanged = (saturation == 1.0) & (hue == 0.0)
    image = tf.cond(unchanged, lambda: image, lambda: change_colours(image))
    image = clipped(image * tf.where(contrast_first, 1.0, contrast))
    return tf.cast(tf.round(image), tf.uint8)
