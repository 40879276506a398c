"""Sets of photos with masks: detection's, with the masks of their objects."""

import numpy as np

from keras_sepvit.detection import sources
from keras_sepvit.detection.segmentations import compressed, crop_of
from keras_sepvit.runtime.masks import encode
from keras_sepvit.training.masks import MASK_SIZE
from keras_sepvit.training.tensorflow import tf


class _WithMasks:
    """What a `BoxSource` of detection gives, and the objects' masks.

    `load` also gives `"masks"`, uint8 (most, 112, 112): what each object covers of its box, as
    `training.masks.cropped` has it; zeros for one without a mask, and for padding. `truth` also
    gives `"masks"`, a list of what `masks_of` returns.
    """

    def load(self, element):
        example = super().load(element)
        # Behind the rest: scenes are made there.
        with tf.control_dependencies([example["labels"]]):
            index = tf.identity(element["index"])
        masks = tf.numpy_function(self._crops, [index], tf.uint8, stateful=False)
        masks = tf.pad(masks, [[0, self.most - tf.shape(masks)[0]], [0, 0], [0, 0]])
        return {**example, "masks": tf.ensure_shape(masks, (self.most, MASK_SIZE, MASK_SIZE))}

    def truth(self, number):
        return {**super().truth(number), "masks": self._compressed(number)}

    def masks_of(self, image_id):
        """The masks of a photo's objects, in the order of its boxes.

        Args:
            image_id: As `image_id` gives it.

        Returns:
            List of dicts in COCO's compressed form, `"size"`, [height, width] of the upright
            photo, and `"counts"`, a string; of None for objects without a mask.
        """
        return self._compressed(self._number_of(image_id))

    def _compressed(self, number):
        return [
            None if mask is None else compressed(mask, self.sizes[number])
            for mask in self._masks(number)
        ]

    def _crops(self, number):
        boxes, size = super().truth(number)["boxes"], self.sizes[number]
        crops = np.zeros((len(boxes), MASK_SIZE, MASK_SIZE), "uint8")
        for crop, mask, box in zip(crops, self._masks(number), boxes, strict=True):
            if mask is not None:
                crop[:] = crop_of(mask, size, box)
        return crops

    def _masks(self, number):
        """The masks of a photo's objects, as `detection.segmentations` has them."""
        raise NotImplementedError

    def _number_of(self, image_id):
        raise NotImplementedError


class SceneSource(_WithMasks, sources.SceneSource):
    """Scenes of handwritten digits with the masks of their visible parts."""

    def __init__(self, split):
        self._encoded = {}
        super().__init__(split)

    def _make(self, number):
        scene = self._scenes[number]
        self._encoded[int(number)] = [*map(encode, scene.masks)]
        return self._columns(scene)

    def _masks(self, number):
        self._scene(number)
        return self._encoded[int(number)]

    def _number_of(self, image_id):
        return image_id


class MaskFolderSource(_WithMasks, sources.BoxFolderSource):
    """Photos in a folder, with the boxes and masks of a file."""

    with_masks = True

    def __init__(self, name, split, photos, whole):
        super().__init__(name, split, photos, whole)
        self._numbers = {key: number for number, key in enumerate(photos.image_ids)}

    def _masks(self, number):
        return self._photos.masks_of(number)

    def _number_of(self, image_id):
        return self._numbers[image_id]


_KINDS = SceneSource, MaskFolderSource


def open_source(name, split):
    """Opens a set of photos with masks, all as in its files.

    Args:
        name: As for `keras_sepvit.detection.sources.open_source`. Masks are `segmentation` of
            files in COCO's form, polygons or run lengths, and rows of YOLO's that are polygons.
        split: Likewise.

    Returns:
        A `BoxSource`, whose examples and truth have masks.

    Raises:
        As there; ValueError, too, for masks that cannot be right; ImportError without
        faster-coco-eval.
    """
    return sources.open_source(name, split, _KINDS)


def open_splits(name, train_split="train", validation_split="validation", keep_empty=False):
    """Opens what to train and what to validate on, checked against each other.

    Objects without a mask that shows something in their box have zeros: they train their box only.

    Args:
        name, train_split, validation_split, keep_empty: As for
            `keras_sepvit.detection.sources.open_splits`.

    Returns:
        Two sources as `open_source` gives; the second is None without a `validation_split`.

    Raises:
        As `open_source`; ValueError, too, if both would have photos in common, and if none of the
        objects to train on has a mask.
    """
    return sources.open_splits(name, train_split, validation_split, keep_empty, _KINDS)
