"""Photos with boxes in `tf.data`: the augmentation of COCO's training.

The augmentation is that of mmdetection, with which SepViT's authors trained: DETR's. Three things
are finer here: photos are resized as in evaluation, antialiased where they become smaller; a crop
is cut out of the photo itself, and resized once; pixels are rounded once, at the end. Everything is
a function of its arguments alone.

Source: https://github.com/open-mmlab/mmdetection, `mmdet/datasets/pipelines/transforms.py`;
https://github.com/facebookresearch/detr, `datasets/coco.py`.
"""

import dataclasses

from keras_sepvit.training.canvas import fitted, on_canvas, scaled
from keras_sepvit.training.distortion import distort, draw_distortion
from keras_sepvit.training.images import decode, resize_and_crop
from keras_sepvit.training.tensorflow import tf
from keras_sepvit.validation import check_range, flag, positive_int, window_pair

# DETR's crops: the shorter side of a photo before, and least and largest side of the crop.
_SHORT_SIDES = (400, 500, 600)
_CROP_SIDES = (384, 600)


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """The augmentation of COCO: random size, crop, flip, photometric distortion, padding.

    A photo is fitted into a shorter side, one of `short_sides`, and `long_side`, and into the
    canvas, whatever is smaller.

    Attributes:
        image_size: (height, width) of the canvas, or one number for both.
        flip: Probability of a horizontal flip.
        short_sides: The most that the shorter side may become: a number, or several, of which one
            is drawn.
        long_side: The most that the longer side may become.
        crops: Probability of a crop: of the photo whose shorter side is 400, 500 or 600, and whose
            longer one is at most `long_side`, a part of 384 to 600 pixels each way, as far as it
            has them, which takes the photo's place.
        distortion: Whether colours are changed as `draw_distortion` says.
        visible: The least share of a box's area that must stay visible in a crop; a box with less
            is left out. 0 keeps all of which anything is visible.
        turned: Whether the canvas is turned, (width, height), as portraits have it.

    Raises:
        ValueError: if an attribute is out of its range.
    """

    image_size: tuple
    flip: float = 0.5
    short_sides: tuple = (800,)
    long_side: int = 1333
    crops: float = 0.0
    distortion: bool = False
    visible: float = 0.0
    turned: bool = False

    def __post_init__(self):
        for name, check in (
            ("image_size", window_pair),
            ("short_sides", _sides),
            ("long_side", positive_int),
            ("distortion", flag),
            ("turned", flag),
        ):
            object.__setattr__(self, name, check(name, getattr(self, name)))
        for name in ("flip", "crops", "visible"):
            check_range(name, getattr(self, name), 0, 1)

    @property
    def canvas_size(self):
        """(height, width) of the results."""
        return self.image_size[::-1] if self.turned else self.image_size

    @tf.autograph.experimental.do_not_convert
    def __call__(self, image, boxes, labels, seed, masks=None):
        """Transforms a photo and its boxes.

        Args:
            image: Scalar string tensor, or uint8 tensor (height, width, channels).
            boxes: float32 tensor (most, 4), (left, top, right, bottom) in the photo's pixels.
            labels: int32 tensor (most,); rows below 0 are padding.
            seed: Integer tensor of shape (2,), as `tf.random.stateless_uniform` takes.
            masks: Optional uint8 tensor (most, side, side), shares of 255 of each box that its
                object covers.

        Returns:
            Functions of the arguments alone: uint8 (*canvas_size, 3), with the mean colour right of
            the photo and below; the boxes of it, float32 (most, 4), and labels, int32 (most,),
            padded with -1; int32 (2,), its height and width on the canvas. With `masks` these, too,
            of the boxes' visible parts, padded with 0.

        Raises:
            ValueError: if the image has another type or shape.
            tf.errors.InvalidArgumentError: when run, if the bytes cannot be decoded.
        """
        place_seed, colour_seed = tf.unstack(tf.random.split(seed, 2, alg="philox"))
        image = decode(image)
        photo_size = tf.shape(image)[:2]
        draws = tf.random.stateless_uniform([8], place_seed, dtype=tf.float64, alg="philox")
        whole, corner, part = tf.cond(
            draws[0] < self.crops,
            lambda: self._crop(photo_size, draws[1:6]),
            lambda: (photo_size, tf.zeros_like(photo_size), photo_size),
        )
        size = self._size(part, _one_of(self.short_sides, draws[6]))
        flip = draws[7] < self.flip

        boxes = boxes * _by_side(_factors(whole, photo_size)) - _by_side(corner)
        boxes, labels, *shown = inside(boxes, labels, part, self.visible, masks)
        boxes = tf.minimum(boxes * _by_side(_factors(size, part)), _by_side(size))
        boxes = tf.where(flip, _flipped(boxes, size[1]), boxes)
        boxes = tf.where(labels[:, tf.newaxis] < 0, -1.0, boxes)

        factors = size / part  # float64
        image = resize_and_crop(
            image,
            tf.unstack(factors * tf.cast(whole, tf.float64)),
            tf.unstack(factors * tf.cast(corner, tf.float64)),
            tf.unstack(size),
            "bilinear",
            flip,
        )
        if self.distortion:
            image = distort(image, **draw_distortion(colour_seed))
        flipped_axes = tf.boolean_mask([2], [flip])
        shown = [tf.reverse(masks, flipped_axes) for masks in shown]
        return on_canvas(image, self.canvas_size), boxes, labels, size, *shown

    def _crop(self, photo_size, draws):
        """The size of a photo, and corner and size of a part of that; int32 (2,) each."""
        whole = fitted(photo_size, (_one_of(_SHORT_SIDES, draws[0]), self.long_side))
        least, most = (tf.minimum(whole, side) for side in _CROP_SIDES)
        part = least + _below(most - least + 1, draws[1:3])
        return whole, _below(whole - part + 1, draws[3:5]), part

    def _size(self, part, short_side):
        sides = tf.cast(part, tf.float64)
        scale = tf.minimum(
            tf.cast(short_side, tf.float64) / tf.reduce_min(sides),
            self.long_side / tf.reduce_max(sides),
        )
        canvas = tf.cast(self.canvas_size, tf.float64)
        return scaled(sides, tf.minimum(scale, tf.reduce_min(canvas / sides)))


def inside(boxes, labels, size, visible=0.0, masks=None):
    """The part of boxes that is inside of a picture.

    Args:
        boxes: float32 tensor (most, 4), (left, top, right, bottom).
        labels: int32 tensor (most,); rows below 0 are padding.
        size: int32 tensor (height, width).
        visible: The least share of a box's area that must be inside.
        masks: Optional uint8 tensor (most, side, side), shares of 255 of the boxes.

    Returns:
        Boxes and labels, of the same shapes: clipped boxes of those that are left, in their order,
        then -1. With `masks` these, too, of the clipped boxes, then 0.
    """
    sides = _by_side(size)
    clipped = tf.clip_by_value(boxes, 0.0, sides)
    height, width = (clipped[:, 2 + axis] - clipped[:, axis] for axis in (1, 0))
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    stays = (labels >= 0) & (width > 0) & (height > 0) & (width * height >= visible * area)
    shown = tf.where(stays[:, tf.newaxis], clipped, -1.0)
    order = tf.argsort(tf.cast(~stays, tf.int32), stable=True)
    result = tf.gather(shown, order), tf.gather(tf.where(stays, labels, -1), order)
    if masks is None:
        return result
    cut = tf.where(stays & tf.reduce_any(clipped != boxes, axis=1))
    parts = _part_of(tf.gather_nd(masks, cut), tf.gather_nd(boxes, cut), tf.gather_nd(clipped, cut))
    masks = tf.tensor_scatter_nd_update(masks, cut, parts)
    masks = tf.where(stays[:, tf.newaxis, tf.newaxis], masks, tf.zeros((), tf.uint8))
    return *result, tf.gather(masks, order)


def _part_of(masks, boxes, parts):
    """Masks (n, side, side) of `boxes` (n, 4), of the `parts` (n, 4) of these."""
    side = masks.shape[-1]
    edges = tf.range(side + 1, dtype=tf.float32)

    def weights(axis):
        """(n, side, side): shares of a part's rows or columns, one each, in those of the box."""
        begin, end = boxes[:, axis, tf.newaxis], boxes[:, 2 + axis, tf.newaxis]
        low, high = parts[:, axis, tf.newaxis], parts[:, 2 + axis, tf.newaxis]
        step = (high - low) / (end - begin)
        places = ((low - begin) / (end - begin) * side + step * edges)[..., tf.newaxis]
        upper = tf.minimum(places[:, 1:], edges[1:])
        lower = tf.maximum(places[:, :-1], edges[:-1])
        return tf.maximum(upper - lower, 0) / step[..., tf.newaxis]

    means = tf.matmul(weights(1), tf.cast(masks, tf.float32))
    means = tf.matmul(means, weights(0), transpose_b=True)
    return tf.cast(tf.clip_by_value(tf.round(means), 0, 255), tf.uint8)


def _sides(name, value):
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not sides:
        raise ValueError(f"`{name}` must have a side at least. Received: {name}={value!r}.")
    return tuple(positive_int(name, side) for side in sides)


def _below(counts, draws):
    """Whole numbers from 0 to below `counts`, of draws from 0 to below 1."""
    return tf.cast(draws * tf.cast(counts, tf.float64), tf.int32)


def _one_of(values, draw):
    return tf.constant(values)[_below(len(values), draw)]


def _factors(size, before):
    """float32 (2,): of the rounded sizes, one for each axis, as in mmcv."""
    return tf.cast(tf.cast(size, tf.float64) / tf.cast(before, tf.float64), tf.float32)


def _by_side(pair):
    """A vertical and a horizontal number as float32 (4,), for the sides of boxes."""
    vertical, horizontal = tf.unstack(tf.cast(pair, tf.float32))
    return tf.stack([horizontal, vertical, horizontal, vertical])


def _flipped(boxes, width):
    left, top, right, bottom = tf.unstack(boxes, axis=-1)
    width = tf.cast(width, tf.float32)
    return tf.stack([width - right, top, width - left, bottom], axis=-1)
