"""Scenes of handwritten digits, with boxes, instance masks and class maps.

Small pictures to try detectors and segmenters on, without any download: scikit-learn's real
scans, at random places, sizes and colours over a textured background, overlapping a little.
Scenes of a split show digits of that split alone. Without TensorFlow and Keras.
"""

import dataclasses

import numpy as np
from PIL import Image

from keras_sepvit.training.masks import MASK_SIZE, cropped
from keras_sepvit.training.sources.digits import BRIGHTEST, load_digits_split

CLASS_NAMES = tuple(map(str, range(10)))

# A pixel belongs to a digit where its ink covers that much of it.
_INK = 0.4
# Of a digit that much must stay visible; places are drawn again up to so many times.
_VISIBLE = 0.85
_ATTEMPTS = 20
# Least difference between the brightness of a digit and that of the ground under it.
_CONTRAST = 70


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture and what is in it.

    Attributes:
        image: uint8 (height, width, 3), RGB.
        boxes: float32 (digits, 4), (left, top, right, bottom) in pixels: the tightest
            around the visible part of a digit.
        labels: int32 (digits,), the digits 0..9.
        masks: bool (digits, height, width), the visible part of each digit.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray

    @property
    def class_map(self):
        """uint8 (height, width): 0 for the ground, 1 + the digit elsewhere."""
        numbers = (1 + self.labels).astype("uint8")[:, None, None]
        return np.max(self.masks * numbers, axis=0, initial=0).astype("uint8")


class DigitScenes:
    """A sequence of `Scene`s, made when they are asked for.

    Each is a function of split, seed and its number alone.

    Args:
        split: `"train"` or `"validation"`, of whose digits they are made; also
            `"train-fold2"` and so on, as `open_source` has them.
        count: Number of scenes.
        image_size: (height, width) in pixels.
        digit_sizes: Smallest and largest side of a digit's scan in pixels.
        digits: Smallest and largest number of digits in a scene. There are fewer where
            no place is found for one.
        seed: Seed of the scenes.

    Raises:
        ValueError: for an unknown split, and digits larger than the image.
    """

    def __init__(
        self, split, count, image_size=(128, 128), digit_sizes=(20, 48), digits=(1, 6), seed=0
    ):
        if digit_sizes[1] > min(image_size):
            raise ValueError(
                f"Digits of up to {digit_sizes[1]} pixels do not fit into an image of "
                f"{image_size[0]} x {image_size[1]}. Received: digit_sizes={digit_sizes}."
            )
        self.image_size = tuple(image_size)
        self._count = count
        self._digit_sizes = digit_sizes
        self.digits = tuple(digits)
        self._seed = (seed, *split.encode())
        self._scans, self._labels = load_digits_split(split)

    def __len__(self):
        return self._count

    def __getitem__(self, number):
        if not 0 <= number < self._count:
            raise IndexError(f"There are {self._count} scenes. Received: {number}.")
        rng = np.random.default_rng((*self._seed, number))
        image = _ground(rng, self.image_size)
        masks, labels = [], []
        for _ in range(rng.integers(*self.digits, endpoint=True)):
            scan = rng.integers(len(self._scans))
            placed = self._place(rng, self._scans[scan], masks)
            if placed is not None:
                mask, ink = placed
                image = _write(rng, image, ink)
                masks = [other & ~mask for other in masks] + [mask]
                labels.append(self._labels[scan])
        masks = np.array(masks, bool).reshape(-1, *self.image_size)
        return Scene(
            image=np.clip(np.rint(image), 0, 255).astype("uint8"),
            boxes=np.array([_box(mask) for mask in masks], "float32").reshape(-1, 4),
            labels=np.array(labels, "int32"),
            masks=masks,
        )

    def arrays(self):
        """All scenes, for `fit` and `predict`.

        Returns:
            Dict of `"images"` uint8 (scenes, height, width, 3); `"boxes"` float32
            (scenes, most digits, 4) and `"labels"` int32 (scenes, most digits), padded
            with -1; `"masks"` uint8 (scenes, most digits, 112, 112), what digits cover of their
            boxes, shares of 255, padded with 0; `"class_maps"` uint8 (scenes, height, width).
        """
        scenes = [self[number] for number in range(len(self))]
        boxes = np.full((len(scenes), self.digits[1], 4), -1, "float32")
        labels = np.full((len(scenes), self.digits[1]), -1, "int32")
        masks = np.zeros((*labels.shape, MASK_SIZE, MASK_SIZE), "uint8")
        for number, scene in enumerate(scenes):
            boxes[number, : len(scene.boxes)] = scene.boxes
            labels[number, : len(scene.labels)] = scene.labels
            for place, (mask, box) in enumerate(zip(scene.masks, scene.boxes, strict=True)):
                masks[number, place] = cropped(mask, box)
        return {
            "images": np.stack([scene.image for scene in scenes]),
            "boxes": boxes,
            "labels": labels,
            "masks": masks,
            "class_maps": np.stack([scene.class_map for scene in scenes]),
        }

    def _place(self, rng, scan, masks):
        """A digit's mask and ink (height, width), 0..1; None where there is no place for it."""
        height, width = self.image_size
        side = rng.integers(*self._digit_sizes, endpoint=True)
        scan = Image.fromarray((scan / BRIGHTEST).astype("float32"))
        digit = np.clip(np.asarray(scan.resize((side, side), Image.Resampling.BICUBIC)), 0, 1)
        for _ in range(_ATTEMPTS):
            top = rng.integers(height - side, endpoint=True)
            left = rng.integers(width - side, endpoint=True)
            ink = np.zeros((height, width), "float32")
            ink[top : top + side, left : left + side] = digit
            mask = ink >= _INK
            if all(np.sum(other & ~mask) >= _VISIBLE * np.sum(other) for other in masks):
                return mask, ink
        return None


def scenes_of(split):
    """The `DigitScenes` to train on, 4,000 of 4 to 12 digits, or to validate on, 200 of 1 to 6.

    Those to train on are fuller: a scene teaches by the pixels of its digits, which cover a fifth
    of it there and a tenth in the others.
    """
    size, digits = (4_000, (4, 12)) if split.startswith("train") else (200, (1, 6))
    return DigitScenes(split, size, digits=digits)


def _ground(rng, image_size):
    """A textured picture: coarse and fine noise in two colours; float32 (height, width, 3)."""
    height, width = image_size
    mix = np.zeros((height, width), "float32")
    for cells, weight in ((3, 0.6), (9, 0.3), (27, 0.15)):
        noise = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype("float32"))
        mix += weight * np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
    mix = np.clip(0.5 + 0.5 * mix, 0, 1)[..., None]
    colours = rng.uniform(40, 215, (2, 3))
    # Two colours of about the same brightness, so that digits are told by more than light.
    colours[1] += colours[0].mean() - colours[1].mean() + rng.uniform(-30, 30)
    grain = rng.normal(0, 4, (height, width, 1))
    return (mix * colours[0] + (1 - mix) * colours[1] + grain).astype("float32")


def _write(rng, image, ink):
    """The image with a digit in a colour that is brighter or darker than the ground there."""
    ground = np.average(image.mean(axis=-1), weights=ink)
    brighter = rng.uniform() < 0.5 if _CONTRAST < ground < 255 - _CONTRAST else ground < 128
    low, high = (ground + _CONTRAST, 255) if brighter else (0, ground - _CONTRAST)
    colour = np.clip(rng.uniform(low, high) + rng.uniform(-25, 25, 3), 0, 255)
    return image + ink[..., None] * (colour - image)


def _box(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
