"""Image files in folders of classes."""

import os
import pathlib

from keras_sepvit.files import IMAGE_SUFFIXES
from keras_sepvit.training.sources.source import IndexedSource
from keras_sepvit.training.tensorflow import tf

SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}


class FolderSource(IndexedSource):
    """Image files in one folder a class; a class's number is its folder's place among them.

    Attributes:
        folder: The folder that holds the class folders.
    """

    def __init__(self, name, split, folder, class_names):
        self.folder = folder
        files = [_image_files(folder / class_name) for class_name in class_names]
        super().__init__(
            name,
            split,
            size=sum(map(len, files)),
            classes=len(class_names),
            class_names=tuple(class_names),
        )
        self._files = tf.constant(
            [
                f"{class_name}/{file}"
                for class_name, names in zip(class_names, files, strict=True)
                for file in names
            ]
        )
        self._labels = tf.repeat(tf.range(len(files)), [len(names) for names in files])

    def load(self, element):
        path = tf.strings.join([f"{self.folder}{os.sep}", element["name"]])
        return {"image": tf.io.read_file(path), "label": self._labels[element["index"]]}

    def _name(self, index):
        return self._files[index]


def open_folder(path, split):
    """The `FolderSource` of a split; see `open_source`."""
    path = pathlib.Path(path).expanduser()
    name = f"folder:{path}"
    if not path.is_dir():
        raise FileNotFoundError(
            f"There is no folder '{path}' (looked for in '{path.absolute().parent}')."
        )
    present = {
        key: path / folder
        for key, folders in {**SPLIT_FOLDERS, split: SPLIT_FOLDERS.get(split, (split,))}.items()
        for folder in folders
        if (path / folder).is_dir()
    }
    if present and split not in present:
        raise ValueError(
            f"'{path}' has no folder for the split {split!r}. It has: "
            f"{', '.join(sorted(folder.name for folder in present.values()))}."
        )
    folder = present.get(split, path)
    class_names = _class_folders(folder)
    if "train" in present:
        # A class that a smaller split lacks must not renumber the others.
        known = _class_folders(present["train"])
        unknown = sorted(set(class_names) - set(known))
        if unknown:
            raise ValueError(
                f"'{folder}' has class folders that '{present['train']}' lacks: "
                f"{', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}."
            )
        class_names = known
    if not class_names:
        raise ValueError(
            f"'{folder}' has no class folders. Expected one folder a class, with image files "
            f"({', '.join(IMAGE_SUFFIXES)}) inside."
        )
    return FolderSource(name, split, folder, class_names)


def _class_folders(folder):
    """Names of the class folders, in the order of the classes' numbers."""
    with os.scandir(folder) as entries:
        names = [
            entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
        ]
    if all(name.isdecimal() for name in names):
        return sorted(names, key=int)  # ImageNet V2: "0" to "999"
    return sorted(names)


def _image_files(folder):
    """Names of the image files of a class, sorted; none where the folder is missing."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.name.startswith(".")
        )
