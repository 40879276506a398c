"""Sets of photos with class maps: scenes of digits, folders of images and masks, ADE20K."""

import collections
import functools
import os
import pathlib

import numpy as np

from keras_sepvit.files import is_of_system
from keras_sepvit.runtime.images import open_image
from keras_sepvit.segmentation.images import decode_map
from keras_sepvit.segmentation.maps import check_map, read_map
from keras_sepvit.segmentation.mask_folder import MaskFolder, is_image, pairs_of
from keras_sepvit.training.sources.photos import upright_size
from keras_sepvit.training.sources.scenes import CLASS_NAMES, scenes_of
from keras_sepvit.training.sources.source import IndexedSource
from keras_sepvit.training.sources.splits import (
    TENTHS,
    check_apart,
    fold_of,
    not_read,
    some,
    tenth_of,
)
from keras_sepvit.training.tensorflow import tf

SCENES = "scenes"


class MapSource(IndexedSource):
    """Photos with class maps, uint8 (height, width) of their size; 255 is ignored.

    `load` gives `"image"`, a scalar string (an encoded photo) or uint8 (height, width, 3), and
    `"map"`, uint8 (height, width). Attributes are those of a `Source`.
    """

    def read(self, number):
        """An example, without TensorFlow.

        Args:
            number: Its place in the order of the data, from 0.

        Returns:
            Its name; the upright photo, uint8 (height, width, 3); its class map, uint8
            (height, width).

        Raises:
            OSError: if the photo cannot be read.
            ValueError: if the mask is refused, naming its file.
        """
        raise NotImplementedError

    def photo_size(self, number):
        """(height, width) of a photo; raises as `read`."""
        raise NotImplementedError

    def read_map(self, number, photo_size):
        """The class map of a photo of that size, uint8 (height, width); raises as `read`."""
        raise NotImplementedError


class SceneSource(MapSource):
    """Scenes of handwritten digits, of 128 x 128; those of `scenes_of`.

    Each is made when it is first asked for and kept, 64 KB: making it takes twice the time of the
    augmentation.
    """

    def __init__(self, split):
        self._scenes = scenes_of(split)
        self._pair = functools.cache(self._make)
        super().__init__(
            SCENES,
            split,
            size=len(self._scenes),
            classes=1 + len(CLASS_NAMES),
            class_names=("background", *CLASS_NAMES),
        )

    def load(self, element):
        pair = tf.numpy_function(
            self._pair, [element["index"]], (tf.uint8, tf.uint8), stateful=False
        )
        shapes = (*self._scenes.image_size, 3), self._scenes.image_size
        image, class_map = (tf.ensure_shape(x, y) for x, y in zip(pair, shapes, strict=True))
        return {"image": image, "map": class_map}

    def read(self, number):
        return f"{self.name}/{self.split}:{number}", *self._pair(number)

    def photo_size(self, number):
        return self._scenes.image_size

    def read_map(self, number, photo_size):
        return self._pair(number)[1]

    def _make(self, number):
        scene = self._scenes[number]
        return scene.image, scene.class_map

    def _name(self, index):
        return tf.strings.join([f"{self.name}/{self.split}:", tf.strings.as_string(index)])


class MaskFolderSource(MapSource):
    """Photos and masks in two folders, with the same names but for their suffixes.

    Attributes:
        folder: The folder of the photos.
        paths: Their files as paths from there; the examples' names.
        masks: The masks' files, absolute or as the folder was given, in the same order.
        notes: How the folder was understood, and what is not read; a tuple of sentences.
    """

    def __init__(self, name, split, part, pairs, labels, notes, whole):
        self.folder = part.images
        self.paths = [photo for photo, _ in pairs]
        self.masks = [part.masks / mask for _, mask in pairs]
        self.notes = tuple(notes)
        self.whole = whole
        self._first = labels.first
        self._photos = [part.images / path for path in self.paths]
        super().__init__(
            name,
            split,
            size=len(pairs),
            classes=labels.classes,
            class_names=labels.names,
        )
        # As bytes: a file's name may be no UTF-8.
        columns = {"name": self.paths, "photo": self._photos, "mask": self.masks}
        self._files = {
            key: tf.constant([os.fsencode(path) for path in paths])
            for key, paths in columns.items()
        }

    def __str__(self):
        return "; ".join((super().__str__(), *self.notes))

    def load(self, element):
        photo, mask = (self._files[key][element["index"]] for key in ("photo", "mask"))
        return {"image": tf.io.read_file(photo), "map": decode_map(mask, self._first)}

    def read(self, number):
        try:
            photo = np.asarray(open_image(self._photos[number]))
        except ValueError as error:
            raise OSError(str(error)) from error
        return self.paths[number], photo, self.read_map(number, photo.shape[:2])

    def photo_size(self, number):
        return upright_size(self._photos[number])

    def read_map(self, number, photo_size):
        class_map = read_map(self.masks[number], self._first)
        check_map(class_map, self.classes, photo_size, self.masks[number], self._first)
        return class_map

    def _name(self, index):
        return self._files["name"][index]


def open_source(name, split):
    """Opens a set of photos with class maps.

    Args:
        name: `"scenes"`: scenes of handwritten digits of 128 x 128, made when they are asked for,
            4,000 of 4 to 12 digits to train on, 200 of 1 to 6 to validate on. Or
            `"folder:PATH"`, or a path that exists: a folder with `images` and `masks`, in which a
            photo and its mask have the same path but for the suffix; `read_map` tells what masks
            may be. They have folders of splits inside (`images/train`), lie in such
            (`train/images`), or have none and serve for every split. `classes.txt` in the folder
            has a class's name a line; without, classes are counted in the masks. `annotations`
            serve as `masks`, and of ADE20K's own files, told by `objectInfo150.txt` or names such
            as `ADE_val_00000001.jpg`, the value 0 is ignored and 1 the first class.
        split: `"train"`, `"validation"` (also `val`, `valid`; in any case), `"test"`, or the name
            of another folder in `images`. `"train-fold2"` and `"validation-fold2"`, say, hold out
            another tenth of a folder's `"train"`, or of all where there are no splits; another
            fifth of the digits that scenes are made of.

    Returns:
        A `MapSource`. `str` of it tells how a folder was understood, and what is not read.

    Raises:
        FileNotFoundError, NotADirectoryError: if there is no such folder.
        ValueError: if there is no such split; if photos lack masks or masks photos, naming them;
            for masks that are refused, where classes are counted.
        ImportError: for the scenes, without scikit-learn.
    """
    if name == SCENES:
        return SceneSource(split)
    return _open_folder(_folder_of(name), split)


def open_splits(name, train_split="train", validation_split="validation"):
    """Opens what to train and what to validate on, checked against each other.

    Where a folder has none for `"validation"`, a tenth of `"train"` is held out: they are
    `"train-fold0"` and `"validation-fold0"`.

    Args:
        name: As for `open_source`.
        train_split: Split to train on.
        validation_split: Split to validate on; None for none.

    Returns:
        Two `MapSource`s; the second is None without a `validation_split`.

    Raises:
        As `open_source`. ValueError, too, if both would have images in common.
    """
    if name == SCENES:
        sources = [SceneSource(train_split)]
        return *sources, None if validation_split is None else SceneSource(validation_split)
    folder = _folder_of(name)
    splits = train_split, validation_split
    if splits == ("train", "validation") and "validation" not in folder.parts("validation"):
        splits = "train-fold0", "validation-fold0"
    source = _open_folder(folder, splits[0])
    if splits[1] is None:
        return source, None
    validation = _open_folder(folder, splits[1])
    check_apart(folder.path, source.masks, validation.masks)
    return source, validation


def _folder_of(name):
    path = pathlib.Path(name.removeprefix("folder:")).expanduser()
    if path.is_file():
        raise NotADirectoryError(f"'{path}' is a file. Expected a folder of images and masks.")
    if not path.is_dir():
        raise FileNotFoundError(
            f"There is no folder '{path}' (looked for in '{path.absolute().parent}'). Photos with "
            f"class maps are {SCENES!r}, or a folder of images and masks."
        )
    return MaskFolder(path)


def _open_folder(folder, split):
    fold = fold_of(split, TENTHS, "Tenths")
    part, whole = folder.part("train" if fold else split)
    pairs = pairs_of(part)
    notes = [folder.labels.note] if folder.labels.note else []
    if beside := folder.beside(split):
        notes.append(f"not read, beside the splits: {some(beside)}")
    if fold:
        numbers, more = tenth_of([photo for photo, _ in pairs], *fold)
        pairs, whole, notes = [pairs[number] for number in numbers], False, [*notes, *more]
    other = collections.Counter(
        path.suffix.lower() or "without suffix"
        for path in (*part.images.rglob("*"), *part.masks.rglob("*"))
        if path.is_file() and not is_image(path.name) and not is_of_system(path.name)
    )
    if other:
        notes.append(not_read(other))
    return MaskFolderSource(folder.name, split, part, pairs, folder.labels, notes, whole)
