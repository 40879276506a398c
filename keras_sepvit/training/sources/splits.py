"""Splits of folders: which folders are which, and what is held out. Without TensorFlow."""

import hashlib
import os
import re

from keras_sepvit.files import is_of_system
from keras_sepvit.validation import counted

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
# Of a folder of photos one part is held out: `"train-fold0"` and `"validation-fold0"` to "...9".
TENTHS = 10


def split_of(folder, split):
    """The split that a folder's name tells, of the known ones and `split`; or None."""
    for key, names in {**SPLIT_FOLDERS, split: SPLIT_FOLDERS.get(split, (split,))}.items():
        if folder.lower() in (key.lower(), *map(str.lower, names)):
            return key
    return None


def fold_of(split, folds, parts):
    """What a split's name holds out.

    Args:
        split: Its name.
        folds: Number of the parts, of which one is held out.
        parts: What they are called.

    Returns:
        `("train", 2)` of `"train-fold2"`, say, `"validation"` alike; None of other names.

    Raises:
        ValueError: if there are not so many parts.
    """
    match = re.fullmatch(r"(train|validation)-fold(\d+)", split)
    if match is None:
        return None
    if int(match[2]) >= folds:
        raise ValueError(
            f"A folder has no split {split!r}. {parts} that are held out are '{match[1]}-fold0' to "
            f"'{match[1]}-fold{folds - 1}'."
        )
    return match[1], int(match[2])


def held_out(paths, fold, folds):
    """Pairs of an image's path and whether it is held out, in their order.

    Checksums of the paths decide, so that images that are added later move few others. Of two
    images and more, at least one is held out in fold 0; none is of a single one.
    """
    order = sorted(paths, key=lambda path: hashlib.sha256(os.fsencode(path)).digest())
    count = len(order)
    start, end = (max(round(count * n / folds), min(n, count)) for n in (fold, fold + 1))
    part = set(order[start:end] if count > 1 else ())
    return [(path, path in part) for path in paths]


def tenth_of(paths, part, fold):
    """What belongs to one side of a tenth that is held out.

    Args:
        paths: Paths of the images.
        part, fold: As `fold_of` gives them.

    Returns:
        Numbers of the images, from 0; a tuple of what to say of it, which may be empty.

    Raises:
        ValueError: if there are too few images to hold one out.
    """
    wanted = part == "validation"
    sides = held_out(paths, fold, TENTHS)
    numbers = [number for number, (_, out) in enumerate(sides) if out == wanted]
    if wanted and paths and not numbers:
        raise ValueError(
            f"The split '{part}-fold{fold}' holds no images: of {counted(len(paths), 'image')} "
            "none is held out. Add images, or set data.validation_split=null."
        )
    if wanted:
        return numbers, ()
    images = counted(len(paths) - len(numbers), "image")
    return numbers, (f"held out for validation: {images}, a tenth",)


def check_apart(folder, train, validation):
    """Refuses, with a ValueError, images of a folder that are trained and validated on."""
    both = {*train} & {*validation}
    if both:
        raise ValueError(
            f"Training and validation would have {counted(len(both), 'image')} of '{folder}' in "
            "common. Hold out a tenth with data.train_split=train-fold0 "
            "data.validation_split=validation-fold0, or set data.validation_split=null."
        )


def listed(folder):
    """Names of the folders and files in a folder, sorted, without those of the system."""
    folders, files = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_of_system(entry.name):
                (folders if entry.is_dir() else files).append(entry.name)
    return sorted(folders), sorted(files)


def not_read(suffixes):
    """A sentence on files of other kinds, of a `Counter` of their suffixes."""
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common(5))
    return f"{counted(suffixes.total(), 'file')} not read, of other kinds ({kinds})"


def some(names):
    """Up to ten names as text, and how many more there are."""
    names = [ascii(name)[1:-1] if not name.isprintable() else name for name in names]
    return ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")
