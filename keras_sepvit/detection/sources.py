"""Sets of photos with boxes: scenes of digits, folders in COCO's and in YOLO's form."""

import functools
import json
import os
import pathlib

import numpy as np

from keras_sepvit.detection.box_folder import BoxFolder
from keras_sepvit.detection.photo_boxes import PhotoBoxes
from keras_sepvit.runtime.images import open_image
from keras_sepvit.training.sources.photos import upright_size
from keras_sepvit.training.sources.scenes import CLASS_NAMES, scenes_of
from keras_sepvit.training.sources.source import IndexedSource
from keras_sepvit.training.sources.splits import TENTHS, check_apart, fold_of, tenth_of
from keras_sepvit.training.tensorflow import tf
from keras_sepvit.validation import counted

SCENES = "scenes"


class BoxSource(IndexedSource):
    """Photos with boxes, (left, top, right, bottom) in pixels of the upright photo.

    `load` gives `"image"`, a scalar string (an encoded photo) or uint8 (height, width, 3);
    `"photo_size"`, int32 (2,), its height and width; `"id"`, a scalar string, its `image_id` as
    JSON; and of its boxes `"boxes"` float32 (most, 4) and `"labels"` int32 (most,), padded with -1,
    `"crowd"` bool (most,) and `"area"` float32 (most,), the objects' own. Attributes are those of
    a `Source`, and:

    Attributes:
        most: The most boxes of a photo, at least 1.
        sizes: int32 (size, 2), (height, width) of the photos.
        category_ids: What the data call the classes, by label; ints.
        notes: How the data were understood, and what is left out; a tuple of sentences.
    """

    def __init__(self, name, split, *, sizes, most, class_names, category_ids, notes=()):
        self.sizes = sizes
        self.most = max(most, 1)
        self.category_ids = category_ids
        self.notes = tuple(notes)
        super().__init__(
            name, split, size=len(sizes), classes=len(class_names), class_names=class_names
        )

    def __str__(self):
        return "; ".join((super().__str__(), *self.notes))

    def read(self, number):
        """An example, without TensorFlow.

        Args:
            number: Its place in the order of the data, from 0.

        Returns:
            Its name; the upright photo, uint8 (height, width, 3); what `truth` gives.

        Raises:
            OSError: if the photo cannot be read.
            ValueError: if it has another size than the file of the boxes says, naming both.
        """
        raise NotImplementedError

    def truth(self, number):
        """A photo's boxes: `"boxes"`, `"labels"`, `"crowd"`, `"area"` of `load`, without padding.

        Args:
            number: As for `read`.

        Returns:
            Dict of NumPy arrays.
        """
        raise NotImplementedError

    def image_id(self, number):
        """What the data call a photo, an int or a string."""
        raise NotImplementedError

    def photo_size(self, number):
        """(height, width) of a photo in its file; raises as `read`."""
        raise NotImplementedError

    def _example(self, image, photo_size, image_id, boxes, labels, crowd, area):
        """What `load` gives, of tensors without padding."""

        def padded(values, value):
            beside = [[0, self.most - tf.shape(labels)[0]]] + [[0, 0]] * (values.shape.rank - 1)
            values = tf.pad(values, beside, constant_values=tf.constant(value, values.dtype))
            return tf.ensure_shape(values, (self.most, *values.shape[1:]))

        return {
            "image": image,
            "photo_size": photo_size,
            "id": image_id,
            "boxes": padded(boxes, -1),
            "labels": padded(labels, -1),
            "crowd": padded(crowd, False),
            "area": padded(area, 0),
        }


class SceneSource(BoxSource):
    """Scenes of handwritten digits, of 128 x 128; those of `scenes_of`.

    Each is made when it is first asked for and kept, 50 KB: making it takes longer than the
    augmentation.
    """

    def __init__(self, split):
        self._scenes = scenes_of(split)
        self._scene = functools.cache(self._make)
        super().__init__(
            SCENES,
            split,
            sizes=np.tile(np.int32(self._scenes.image_size), (len(self._scenes), 1)),
            most=self._scenes.digits[1],
            class_names=CLASS_NAMES,
            category_ids=tuple(range(len(CLASS_NAMES))),
        )

    def load(self, element):
        index = element["index"]
        kinds = (tf.uint8, tf.float32, tf.int32, tf.float32)
        values = tf.numpy_function(self._scene, [index], kinds, stateful=False)
        shapes = (*self._scenes.image_size, 3), (None, 4), (None,), (None,)
        values = (tf.ensure_shape(x, y) for x, y in zip(values, shapes, strict=True))
        image, boxes, labels, area = values
        size, crowd = tf.constant(self._scenes.image_size), tf.zeros_like(labels, tf.bool)
        return self._example(image, size, tf.strings.as_string(index), boxes, labels, crowd, area)

    def read(self, number):
        return f"{self.name}/{self.split}:{number}", self._scene(number)[0], self.truth(number)

    def truth(self, number):
        _, boxes, labels, area = self._scene(number)
        crowd = np.zeros(len(labels), bool)
        return {"boxes": boxes, "labels": labels, "crowd": crowd, "area": area}

    def image_id(self, number):
        return number

    def photo_size(self, number):
        return self._scenes.image_size

    def _make(self, number):
        return self._columns(self._scenes[number])

    def _columns(self, scene):
        area = np.prod(scene.boxes[:, 2:] - scene.boxes[:, :2], axis=1)
        return scene.image, scene.boxes, scene.labels, area

    def _name(self, index):
        return tf.strings.join([f"{self.name}/{self.split}:", tf.strings.as_string(index)])


class BoxFolderSource(BoxSource):
    """Photos in a folder, with the boxes of a file.

    Args:
        name, split: As for `Source`.
        photos: The `PhotoBoxes`.
        whole: Whether they are all that there is.

    Attributes:
        folder: The folder of the photos.
        paths: Their files as paths from there; the examples' names.
        file: The file of the boxes, or that tells where they are.
        with_masks: Whether it needs photos whose masks have been read.
    """

    with_masks = False

    def __init__(self, name, split, photos, whole):
        self.folder = photos.folder
        self.paths = photos.paths
        self.file = photos.file
        self.whole = whole
        self._photos = photos
        super().__init__(
            name,
            split,
            sizes=photos.sizes,
            most=photos.most,
            class_names=photos.class_names,
            category_ids=photos.category_ids,
            notes=photos.notes,
        )
        # As bytes: a file's name may be no UTF-8.
        self._names = tf.constant([os.fsencode(path) for path in self.paths])
        self._root = os.fsencode(self.folder) + b"/"
        self._ids = tf.constant([json.dumps(key) for key in photos.image_ids])
        self._sizes = tf.constant(photos.sizes)
        self._starts = tf.constant(photos.starts)
        self._columns = {
            key: tf.constant(getattr(photos, key)) for key in ("boxes", "labels", "crowd", "area")
        }

    def load(self, element):
        index = element["index"]
        path = tf.strings.join([self._root, self._names[index]])
        own = slice(self._starts[index], self._starts[index + 1])
        columns = {key: column[own] for key, column in self._columns.items()}
        image = tf.io.read_file(path)
        return self._example(image, self._sizes[index], self._ids[index], **columns)

    def read(self, number):
        try:
            photo = np.asarray(open_image(self.folder / self.paths[number]))
        except ValueError as error:
            raise OSError(str(error)) from error
        self._check_size(number, photo.shape[:2])
        return self.paths[number], photo, self.truth(number)

    def truth(self, number):
        return self._photos.of(number)

    def image_id(self, number):
        return self._photos.image_ids[number]

    def photo_size(self, number):
        size = upright_size(self.folder / self.paths[number])
        self._check_size(number, size)
        return size

    def _check_size(self, number, size):
        stated = self.sizes[number]
        if tuple(size) == tuple(stated):
            return
        remedy = "Correct the size, or put the photo there that was labelled"
        if tuple(size) == tuple(stated[::-1]):
            remedy = (
                "Size and boxes must be those of the upright photo: where its file notes a turn "
                "(EXIF orientation), save it upright or take the note out"
            )
        raise ValueError(
            f"{self.folder / self.paths[number]} is {size[0]} x {size[1]}, but {self.file} says "
            f"{stated[0]} x {stated[1]} (height x width, upright). {remedy}."
        )

    def _name(self, index):
        return self._names[index]


def open_source(name, split, kinds=(SceneSource, BoxFolderSource)):
    """Opens a set of photos with boxes, all as in its files.

    Args:
        name: `"scenes"`: scenes of handwritten digits of 128 x 128, made when they are asked for,
            4,000 of 4 to 12 digits to train on, 200 of 1 to 6 to validate on. Or
            `"folder:PATH"`, or a path that exists, of a folder with one of these: COCO's own
            `annotations/instances_train2017.json` beside `train2017`; JSON files in COCO's form
            among the photos of a split (`train/_annotations.coco.json`), or called as it
            (`annotations/train.json`), the photos in `images`, in a folder of the split or beside
            the file; one such file for all; YOLO's `data.yaml`. Classes are the categories of the
            training split by ascending id, found by name in the others.
        split: `"train"`, `"validation"` (also `val`, `valid`; in any case), `"test"`, or another
            that names folders or files. `"train-fold2"` and `"validation-fold2"`, say, hold out
            another tenth of a folder's `"train"`, or of all where there are no splits; another
            fifth of the digits that scenes are made of.
        kinds: The classes of scenes' and folders' sources; `with_masks` of the second tells
            whether masks are read from files.

    Returns:
        A `BoxSource`. `str` of it tells how a folder was understood, and what is odd.

    Raises:
        FileNotFoundError, NotADirectoryError: if there is no such folder.
        ValueError: if there is no such split; for files that cannot be right, naming the object or
            line, its value and what to do; if photos are missing.
        ImportError: for the scenes, without scikit-learn; for `data.yaml`, without PyYAML.
    """
    scenes, photos = kinds
    if name == SCENES:
        return scenes(split)
    return _open(_folder_of(name, photos), split, photos, PhotoBoxes.for_evaluation)


def open_splits(
    name,
    train_split="train",
    validation_split="validation",
    keep_empty=False,
    kinds=(SceneSource, BoxFolderSource),
):
    """Opens what to train and what to validate on, checked against each other.

    Where a folder has none for `"validation"`, a tenth of `"train"` is held out: they are
    `"train-fold0"` and `"validation-fold0"`. What is trained on lacks crowds and boxes with a side
    under 1 pixel, and has its boxes clipped to the photos.

    Args:
        name: As for `open_source`.
        train_split: Split to train on.
        validation_split: Split to validate on, as it is in its files; None for none.
        keep_empty: Whether to train on photos without boxes, and on those with a side under 32
            pixels, too.
        kinds: As for `open_source`.

    Returns:
        Two `BoxSource`s; the second is None without a `validation_split`.

    Raises:
        As `open_source`. ValueError, too, if both would have photos in common.
    """
    scenes, photos = kinds
    if name == SCENES:
        return scenes(train_split), None if validation_split is None else scenes(validation_split)
    folder = _folder_of(name, photos)
    splits, unread = (train_split, validation_split), ()
    if splits == ("train", "validation") and "validation" not in folder.splits(""):
        splits = "train-fold0", "validation-fold0"
        unread = ("validation",)

    def choose(boxes):
        notes = [note for split in unread for note in folder.unread(split, boxes)]
        return _to_learn_from(boxes.noted(*notes), splits[0], keep_empty)

    source = _open(folder, splits[0], photos, choose)
    if splits[1] is None:
        return source, None
    validation = _open(folder, splits[1], photos, PhotoBoxes.for_evaluation)
    files = [[one.folder / path for path in one.paths] for one in (source, validation)]
    check_apart(folder.path, *files)
    return source, validation


def _folder_of(name, kind):
    path = pathlib.Path(name.removeprefix("folder:")).expanduser()
    if path.is_file():
        raise NotADirectoryError(f"'{path}' is a file. Expected the folder of photos and boxes.")
    if not path.is_dir():
        raise FileNotFoundError(
            f"There is no folder '{path}' (looked for in '{path.absolute().parent}'). Photos with "
            f"boxes are {SCENES!r}, or a folder in COCO's or YOLO's form."
        )
    return BoxFolder(path, kind.with_masks)


def _open(folder, split, kind, choose):
    fold = fold_of(split, TENTHS, "Tenths")
    photos, whole = folder.read("train" if fold else split)
    if fold:
        numbers, notes = tenth_of(photos.paths, *fold)
        photos, whole = photos.take(numbers).noted(*notes), False
    return kind(folder.name, split, choose(photos), whole)


def _to_learn_from(photos, split, keep_empty):
    """What of photos is trained on; refuses those without a box."""
    learned = photos.for_training(keep_empty)
    if len(photos) and not len(learned.labels):
        remedy = "Label some"
        if len(photos.for_training(keep_empty=True).labels):
            remedy = "data.keep_empty=true trains on small photos, too"
        elif len(photos.labels) and photos.crowd.all():
            remedy = "Set iscrowd to 0 for boxes around one object"
        elif len(photos.labels) and photos.boxes.max() <= 1:
            remedy = "Boxes are in pixels: multiply shares of a photo by its width and height"
        found = f"{counted(len(photos), 'photo')} and {counted(len(photos.labels), 'box')}"
        raise ValueError(
            f"No photo of the split {split!r} has a box to train on: {photos.file} has {found}"
            f"{'; '.join(['', *learned.notes])}. {remedy}."
        )
    if learned.masks is not None and not any(mask is not None for mask in learned.masks):
        raise ValueError(
            f"No object of the split {split!r} has a mask: {photos.file} has "
            f"{counted(len(learned.labels), 'box')} to train on"
            f"{'; '.join(['', *learned.notes])}. Label polygons, or train a detector "
            "(task=detection)."
        )
    return learned
