"""Splits of folders: which folders are which, and what is held out. Without TensorFlow."""

import collections
import contextlib
import filecmp
import hashlib
import itertools
import os
import pathlib
import re

from keras_sepvit.files import is_of_system
from keras_sepvit.validation import counted
from keras_sepvit.warn import warn

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
# Of a folder of photos one part is held out: `"train-fold0"` and `"validation-fold0"` to "...9".
TENTHS = 10
# About how many files of equal name and size are read to tell whether they are copies.
_COMPARED = 20


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


def warn_of_copies(train, validation):
    """Warns of images of folders that are validated on and are copies of some to train on.

    Files of the same name and size are, if one of a few is whose bytes are compared.

    Args:
        train, validation: `Source`s; the second may be None.
    """
    held_out = _files(validation)
    by_name = collections.defaultdict(list)
    for path in _files(train, {path.name for path in held_out}):
        by_name[path.name].append(path)
    pairs = []
    with contextlib.suppress(OSError):  # what cannot be read is told elsewhere
        for path in held_out:
            size = path.stat().st_size if path.name in by_name else None
            same = (other for other in by_name.get(path.name, ()) if other.stat().st_size == size)
            pairs += [(path, other) for other in itertools.islice(same, 1)]
        some_pairs = pairs[:: max(len(pairs) // _COMPARED, 1)]
        if any(filecmp.cmp(*pair, shallow=False) for pair in some_pairs):
            path, other = pairs[0]
            warn(
                f"Of {counted(len(held_out), 'image')} to validate on {len(pairs):,} have the name "
                f"and size of one to train on, such as '{path}' and '{other}': results on copies "
                "say little. Take them out of one of the splits."
            )


def _files(source, names=None):
    """The files of a source of a folder, all or those of some names; none of other sources."""
    return [
        pathlib.Path(source.folder, path)
        for path in getattr(source, "paths", ())
        if names is None or os.path.basename(path) in names
    ]


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
