"""Opens sets of labelled images: the digits, a folder of class folders, a TFDS data set."""

import os
import pathlib

import numpy as np

from keras_sepvit.training.sources.digits import BRIGHTEST, load_digits_split
from keras_sepvit.training.sources.folder import FolderSource, has_validation, open_folder
from keras_sepvit.training.sources.source import ArraySource
from keras_sepvit.training.sources.tfds import open_tfds
from keras_sepvit.training.tensorflow import keep_off_gpus, tf

DIGITS = "digits"
DIGITS_SIZE = 32


def open_source(name, split, data_dir=None):
    """Opens a set of labelled images.

    Args:
        name: `"digits"`, the scans of scikit-learn's `load_digits` as RGB images of
            32 x 32; `"folder:PATH"`, or a path that exists: a folder of class
            folders; else the name of a TFDS data set, such as `"imagenet2012"`,
            `"tfds:imagenet_v2/matched-frequency:3.0.0"`.
        split: `"train"`, `"validation"`, or another split of the data set. For the
            digits `"train-fold2"` and `"validation-fold2"`, say, hold out another
            fifth; without a number it is fold 0, of 0 to 4. For TFDS also parts of
            splits such as `"train[:10%]"`. A folder is searched for a folder of that
            name in any case (`"val"` and `"valid"` will do for validation), with the
            class folders inside; if it has no such folders, it holds the class folders
            itself, and serves for every split. Of a folder's `"train"`, too,
            `"train-fold2"` and `"validation-fold2"` hold out a fifth of each class. Images
            in folders of a class folder are the class's. `str` of the source tells what
            is not read, and why.
        data_dir: Where TFDS keeps its data; by default `~/tensorflow_datasets`, or
            the environment variable `TFDS_DATA_DIR`.

    Returns:
        A `Source`.

    Raises:
        ValueError: if there is no such data set or split, or it holds no images, or
            TFDS cannot prepare it; the message tells how to.
        NotADirectoryError: if it is a file.
        FileNotFoundError: if the folder, or archives that TFDS needs, are missing.
        ImportError: if a package is missing.
    """
    keep_off_gpus()
    if name == DIGITS:
        return _open_digits(split)
    if name.startswith("folder:"):
        return open_folder(name.removeprefix("folder:"), split)
    if name.startswith("tfds:"):
        return open_tfds(name.removeprefix("tfds:"), split, data_dir)
    if pathlib.Path(name).is_dir():
        return open_folder(name, split)
    if pathlib.Path(name).is_file():
        raise NotADirectoryError(f"'{name}' is a file. Expected a folder of class folders.")
    if name.startswith((".", "~", os.sep)):
        raise FileNotFoundError(f"There is no folder '{name}'.")
    return open_tfds(name, split, data_dir)


def open_splits(name, train_split, validation_split, data_dir=None):
    """Opens what to train and what to validate on.

    Where a folder has none for `"validation"`, a fifth of each class of `"train"` is held out:
    they are `"train-fold0"` and `"validation-fold0"`.

    Args:
        name, data_dir: As for `open_source`.
        train_split: Split to train on.
        validation_split: Split to validate on; None for none.

    Returns:
        Two `Source`s; the second is None without a `validation_split`.

    Raises:
        As `open_source`.
    """
    source = open_source(name, train_split, data_dir)
    if validation_split is None:
        return source, None
    splits = train_split, validation_split
    if isinstance(source, FolderSource) and splits == ("train", "validation"):
        if not has_validation(source.name.removeprefix("folder:")):
            splits = "train-fold0", "validation-fold0"
            source = open_source(name, splits[0])
    return source, open_source(name, splits[1], data_dir)


def _open_digits(split):
    scans, labels = load_digits_split(split)
    scans = scans[..., None] * (255 / BRIGHTEST)
    images = tf.image.resize(scans.astype("float32"), (DIGITS_SIZE, DIGITS_SIZE)).numpy()
    images = np.rint(images).astype("uint8").repeat(3, axis=-1)
    return ArraySource(
        DIGITS, split, images, labels, classes=10, class_names=tuple(map(str, range(10)))
    )
