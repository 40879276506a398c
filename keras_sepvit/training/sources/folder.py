"""Image files in folders of classes."""

import collections
import os
import pathlib

from keras_sepvit.files import IMAGE_SUFFIXES
from keras_sepvit.training.sources.source import IndexedSource
from keras_sepvit.training.sources.splits import (
    SPLIT_FOLDERS,
    fold_of,
    held_out,
    listed,
    not_read,
    some,
    split_of,
)
from keras_sepvit.training.tensorflow import tf
from keras_sepvit.validation import counted

# Of each class, one part is held out: `"train-fold0"` and `"validation-fold0"` to "...-fold4".
FOLDS = 5


class FolderSource(IndexedSource):
    """Image files in one folder a class; a class's number is its folder's place among them.

    Attributes:
        folder: The folder that holds the class folders.
        paths: The files as paths from there, in the order of the classes.
        skipped: What in it is not read, and why; a tuple of strings, empty if all is read.
    """

    def __init__(self, name, split, folder, class_names, files, skipped=(), whole=False):
        self.folder = folder
        self.whole = whole
        self.skipped = tuple(skipped)
        files = [files.get(class_name, []) for class_name in class_names]
        self.paths = [path for names in files for path in names]
        super().__init__(
            name,
            split,
            size=len(self.paths),
            classes=len(class_names),
            class_names=tuple(class_names),
        )
        # As bytes: a file's name may be no UTF-8.
        self._files = tf.constant([os.fsencode(path) for path in self.paths])
        self._labels = tf.repeat(tf.range(len(files)), [len(names) for names in files])

    def __str__(self):
        return "; ".join((super().__str__(), *self.skipped))

    def load(self, element):
        path = tf.strings.join([os.fsencode(self.folder) + b"/", element["name"]])
        return {"image": tf.io.read_file(path), "label": self._labels[element["index"]]}

    def _name(self, index):
        return self._files[index]


def open_folder(path, split):
    """The `FolderSource` of a split; see `open_source`."""
    name = f"folder:{pathlib.Path(path).expanduser()}"
    fold = fold_of(split, FOLDS, "Fifths")
    if fold is None:
        whole = not _layout(path, split)[2]
        return FolderSource(name, split, *_open(path, split), whole=whole)
    folder, class_names, files, skipped = _open(path, "train")
    part, number = fold
    wanted = part == "validation"
    kept = {
        class_name: [path for path, out in held_out(paths, number, FOLDS) if out == wanted]
        for class_name, paths in files.items()
    }
    count = sum(map(len, files.values())) - sum(map(len, kept.values()))
    if not wanted:
        skipped = [
            *skipped,
            f"held out for validation: {counted(count, 'image')}, a fifth of each class",
        ]
    elif without := [class_name for class_name in class_names if not kept.get(class_name)]:
        skipped = [*skipped, f"no images to validate on in {some(without)}"]
    return FolderSource(name, split, folder, class_names, kept, skipped)


def has_validation(path):
    """Whether a folder has one for the split `"validation"` in it."""
    return "validation" in _layout(path, "validation")[2]


def _layout(path, split):
    """Where the folders of splits or classes are, and what is there.

    Returns:
        Folder; names of the folders in it; those of splits, dict of split to list; those that
        have a split's name and no folders in them.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(
            f"There is no folder '{path}' (looked for in '{path.absolute().parent}')."
        )
    folders, files = listed(path)
    while len(folders) == 1 and not _images(files):  # flowers/flowers/, as archives unpack
        inner = path / folders[0]
        if not listed(inner)[0] or split_of(folders[0], split):
            break
        path, (folders, files) = inner, listed(inner)

    present, flat = {}, []
    for folder in folders:
        key = split_of(folder, split)
        if key and listed(path / folder)[0]:
            present.setdefault(key, []).append(folder)
        elif key:
            flat.append(folder)
    return path, folders, present, flat


def _open(path, split):
    """Folder, names of classes, files by class, and what is not read, of a split."""
    path, folders, present, flat = _layout(path, split)
    if present and len(present.get(split, ())) != 1:
        problem = "several folders" if split in present else "no folder"
        raise ValueError(
            f"'{path}' has {problem} for the split {split!r}. It has: {', '.join(folders)}."
        )
    known = {*SPLIT_FOLDERS, *sum(SPLIT_FOLDERS.values(), ())}
    if not present and split.lower() not in known:
        raise ValueError(
            f"'{path}' has no folder for the split {split!r}, nor for others: all of it serves for "
            f"each of {', '.join(SPLIT_FOLDERS)}. It has: {some(folders)}."
        )
    if not present and flat == folders and any(_images(listed(path / key)[1]) for key in flat):
        raise ValueError(
            f"'{path}' has no class folders in its folders {', '.join(flat)}, but pictures. "
            "Expected one folder a class inside of each."
        )
    skipped = []
    if present:
        beside = [folder for folder in folders if not split_of(folder, split)]
        if beside:
            skipped.append(f"not read, beside the splits: {some(beside)}")
    folder = path / present[split][0] if present else path
    found, more = _scan(folder)
    class_names = _in_order(found)
    if len(present.get("train", ())) == 1 and split != "train":
        # A class that a smaller split lacks must not renumber the others.
        train = path / present["train"][0]
        known = _in_order(_scan(train)[0])
        unknown = sorted(set(class_names) - set(known))
        if unknown:
            raise ValueError(
                f"'{folder}' has class folders that '{train}' lacks: "
                f"{', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}."
            )
        class_names = known
    if not class_names:
        raise ValueError(
            f"'{folder}' has no class folders with pictures. Expected one folder a class, with "
            f"image files ({', '.join(IMAGE_SUFFIXES)}) inside. It has: "
            f"{some(sum(listed(folder), [])) or 'nothing'}."
        )
    return folder, class_names, found, skipped + more


def _images(files):
    return [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]


def _scan(folder):
    """The image files of each class that has any, and what else there is, as sentences."""
    class_folders, beside = listed(folder)
    found, empty, other = {}, [], collections.Counter()
    for class_name in class_folders:
        images = []
        _collect(folder, class_name, images, other, set())
        if images:
            found[class_name] = images
        else:
            empty.append(class_name)
    for class_name in found:
        if os.fsencode(class_name).decode("utf-8", "ignore") != class_name:
            raise ValueError(
                f"The class folder {os.fsencode(class_name)!r} in '{folder}' has a name that is "
                "no UTF-8. Rename it: names of classes are text."
            )
    skipped = []
    if empty:
        skipped.append(f"no classes, without pictures: {some(empty)}")
    if other:
        skipped.append(not_read(other))
    if _images(beside):
        skipped.append(
            f"{counted(len(_images(beside)), 'picture')} not read, outside of class folders"
        )
    return found, skipped


def _collect(root, folder, images, other, above):
    """Adds the images below a folder, as paths from `root`, and counts other files' suffixes."""
    real = os.path.realpath(root / folder)
    if real in above:  # a link back
        return
    folders, files = listed(root / folder)
    for file in files:
        if file.lower().endswith(IMAGE_SUFFIXES):
            images.append(f"{folder}/{file}")
        else:
            other[os.path.splitext(file)[1].lower() or "without suffix"] += 1
    for inner in folders:
        _collect(root, f"{folder}/{inner}", images, other, above | {real})


def _in_order(names):
    """Names of classes in the order of their numbers."""
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))  # ImageNet V2: "0" to "999"
    return sorted(names)
