"""Folders of photos and masks: where they are, which belong together, what the classes are."""

import collections
import dataclasses
import functools
import pathlib
import re
import unicodedata

import numpy as np

from keras_sepvit.files import IMAGE_SUFFIXES, image_files
from keras_sepvit.runtime.labels import read_names
from keras_sepvit.segmentation.losses import IGNORED
from keras_sepvit.segmentation.maps import read_map
from keras_sepvit.training.sources.photos import in_threads
from keras_sepvit.training.sources.splits import SPLIT_FOLDERS, listed, some, split_of

_IMAGES = ("images",)
_MASKS = ("masks", "annotations")

_ADE_CLASSES = 150
_ADE_NAMES = "objectInfo150.txt"
_ADE_FILE = re.compile(r"ADE_(train|val|test)_\d+\.jpg")


@dataclasses.dataclass(frozen=True)
class Part:
    """The folders of a split's photos and masks."""

    images: pathlib.Path
    masks: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Labels:
    """Number of classes, their names or None, the value of the first, and what to say of it."""

    classes: int
    names: tuple | None
    first: int = 0
    note: str = ""


class MaskFolder:
    """A folder of photos and masks.

    Attributes:
        name: As `open_source` takes it.
        path: The folder that has the `images` and `masks`, or splits of them.
    """

    def __init__(self, path):
        self.name = f"folder:{path}"
        self.path = path
        while not self._part(self.path) and not self.parts(""):
            inner = listed(self.path)[0]
            # Down ADEChallengeData2016/, say, as archives unpack.
            if len(inner) != 1 or inner[0].lower() in _IMAGES + _MASKS:
                raise ValueError(
                    f"'{path}' has no folders images and masks. Expected them in it, or in folders "
                    "of splits such as train; a photo and its mask have the same name. It has: "
                    f"{some(sum(listed(self.path), [])) or 'nothing'}."
                )
            self.path = self.path / inner[0]

    def parts(self, split):
        """Dict of split to the list of its `Part`s; empty for a folder without splits."""
        whole = self._part(self.path)
        found = collections.defaultdict(list)
        for name in listed(whole.images if whole else self.path)[0]:
            key = split_of(name, split)
            if key and whole:
                masks = [x for x in listed(whole.masks)[0] if split_of(x, split) == key]
                found[key].append(Part(whole.images / name, whole.masks / (masks or [name])[0]))
            elif key and self._part(self.path / name):
                found[key].append(self._part(self.path / name))
        # Photos beside folders: those are no splits, whatever they are called.
        flat = whole and any(map(is_image, listed(whole.images)[1]))
        return {} if flat else dict(found)

    def part(self, split):
        """The `Part` of a split, and whether it is all that there is."""
        split = split_of(split, split)
        parts = self.parts(split)
        if not parts:
            if split not in SPLIT_FOLDERS:
                raise ValueError(
                    f"'{self.path}' has no folder for the split {split!r}, nor for others: all of "
                    f"it serves for each of {', '.join(SPLIT_FOLDERS)}."
                )
            return self._part(self.path), True
        if len(parts.get(split, ())) != 1:
            problem = "several folders" if split in parts else "no folder"
            have = ", ".join(
                str(x.images.relative_to(self.path)) for y in parts.values() for x in y
            )
            raise ValueError(
                f"'{self.path}' has {problem} for the split {split!r}. It has: {have}."
            )
        return parts[split][0], False

    def beside(self, split):
        """Names of folders beside those of splits, which are not read; none without splits."""
        whole = self._part(self.path)
        names = listed(whole.images if whole else self.path)[0] if self.parts(split) else []
        return [name for name in names if not split_of(name, split)]

    @functools.cached_property
    def labels(self):
        """The `Labels` of all splits."""
        parts = [part for parts in self.parts("").values() for part in parts if part.masks.is_dir()]
        parts = parts or [self._part(self.path)]
        if (self.path / "classes.txt").is_file():
            names = read_names(self.path / "classes.txt")
            if not 1 <= len(names) <= IGNORED:
                raise ValueError(
                    f"'{self.path / 'classes.txt'}' has {len(names)} lines. Expected a class's "
                    f"name in each, of 1 to {IGNORED} classes."
                )
            return Labels(len(names), tuple(names))
        named = self.path / _ADE_NAMES
        files = [path.name for part in parts for path in image_files(part.images)]
        if named.is_file() or (files and all(map(_ADE_FILE.fullmatch, files))):
            names = tuple(_ade_names(named)) if named.is_file() else None
            note = "labels of ADE20K: 0 is ignored, 1 is the first class"
            return Labels(len(names or range(_ADE_CLASSES)), names, first=1, note=note)
        masks = [path for part in parts for path in image_files(part.masks)]
        highest = max(in_threads(_highest, masks), default=-1)
        if highest < 0:
            raise ValueError(
                f"No pixel of the masks in '{self.path}' has a class: all are {IGNORED}, which is "
                "ignored."
            )
        note = f"no classes.txt: its masks have the classes 0 to {highest}"
        return Labels(highest + 1, None, note=note)

    @staticmethod
    def _part(folder):
        folders = {name.lower(): name for name in listed(folder)[0]}
        images, masks = (
            next((folder / folders[name] for name in names if name in folders), None)
            for names in (_IMAGES, _MASKS)
        )
        return Part(images, masks) if images and masks else None


def pairs_of(part):
    """Paths of photos and of their masks, each from its folder, in the photos' order."""
    photos, masks = _by_stem(part.images), _by_stem(part.masks)
    lone = {
        f"{len(names):,} of '{folder}' without a {other}": some(names)
        for folder, other, names in (
            (part.images, "mask", [photos[stem] for stem in photos if stem not in masks]),
            (part.masks, "photo", [masks[stem] for stem in masks if stem not in photos]),
        )
        if names
    }
    if lone:
        raise ValueError(
            "A photo and its mask must have the same name but for the suffix. There are "
            f"{'; '.join(f'{what}: {names}' for what, names in lone.items())}."
        )
    return [(photo, masks[stem]) for stem, photo in photos.items()]


def _by_stem(folder):
    """Dict of path without suffix to path, both from a folder, of the image files in it."""
    paths = {}
    for path in image_files(folder):
        path = path.relative_to(folder)
        # Names from a Mac may have their accents as characters of their own.
        stem = unicodedata.normalize("NFC", path.with_suffix("").as_posix())
        if stem in paths:
            raise ValueError(
                f"'{folder}' has two files of one name: {some([paths[stem], path.as_posix()])}. "
                "Rename one, and the mask or photo that goes with it."
            )
        paths[stem] = path.as_posix()
    return paths


def _highest(mask):
    class_map = read_map(mask)
    return int(np.max(class_map.astype("int32"), where=class_map != IGNORED, initial=-1))


def _ade_names(file):
    """The first name of each class in ADE20K's table, of which the last column has all."""
    for line in read_names(file)[1:]:
        yield re.split("[,;]", line.split("\t")[-1])[0].strip()


def is_image(name):
    return pathlib.Path(name).suffix.lower() in IMAGE_SUFFIXES
