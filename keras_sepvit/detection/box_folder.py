"""Folders of photos with boxes: which of the known layouts they have. With NumPy."""

import collections
import dataclasses
import pathlib
import re

from keras_sepvit.detection.coco import read_coco
from keras_sepvit.detection.yolo import read_yaml, read_yolo
from keras_sepvit.files import image_files
from keras_sepvit.training.sources.splits import SPLIT_FOLDERS, listed, some, split_of

_ANNOTATIONS = "annotations"
# Folders that may hold the photos of a file that lies above them.
_IMAGES = ("images", "data")
# What else is in COCO's own folder of annotations.
_OTHER = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")


@dataclasses.dataclass(frozen=True)
class CocoFile:
    """A file in COCO's form, and the folders that its photos may be in."""

    file: pathlib.Path
    folders: tuple


class BoxFolder:
    """A folder of photos with boxes.

    Args:
        path: Its path.
        masks: Whether the objects' masks are read, too.

    Attributes:
        name: As `open_source` takes it.
        path: The folder that has the files, or the folders of splits.

    Raises:
        ValueError: if it has none of the layouts.
    """

    def __init__(self, path, masks=False):
        self.name = f"folder:{path}"
        self.path = path
        self._masks = masks
        self._boxes = {}
        while not self.splits(""):
            inner, files = listed(self.path)
            if len(inner) != 1 or inner[0].lower() in (_ANNOTATIONS, *_IMAGES):
                raise ValueError(
                    f"'{path}' has no file of boxes. Expected annotations/instances_train.json, "
                    "train/_annotations.coco.json, another JSON file in COCO's form beside its "
                    f"photos, or YOLO's data.yaml. It has: {some(inner + files) or 'nothing'}."
                )
            self.path = self.path / inner[0]  # as archives unpack

    def splits(self, split):
        """Dict of split, also one called `split`, to its files; of None where there are none."""
        folders, files = listed(self.path)
        for name in files:
            if name.lower().endswith((".yaml", ".yml")) and (yolo := read_yaml(self.path / name)):
                return {key: [yolo] for key in yolo.splits}
        found = self._coco(folders, split)
        named = {key: _likely(places) for key, places in found.items() if key and places}
        return named or {key: _likely(places) for key, places in found.items()}

    def _coco(self, folders, split):
        """Dict of split, or None for files that tell none, to `CocoFile`s."""
        found = collections.defaultdict(list)
        above = [name for name in folders if name.lower() == _ANNOTATIONS]
        for folder in (self.path, *(self.path / name for name in above)):
            for file in _json_files(folder):
                key = _split_in([file.stem, *re.split(r"[\W_]+", file.stem)], split)
                found[key].append(CocoFile(file, self._places(file.stem, key, split)))
        for name in folders:
            if key := _split_in([name], split):
                folder = self.path / name
                places = (folder, *(folder / images for images in _IMAGES), self.path)
                files = _json_files(folder) or _json_files(folder / _ANNOTATIONS)
                if files:
                    found[key] += [CocoFile(file, places) for file in files]
        return found

    def read(self, split):
        """The `PhotoBoxes` of a split, and whether they are all that there is.

        Raises:
            ValueError: if there is no such split, or several; as `read_coco` and `read_yolo`.
        """
        split = split_of(split, split)
        splits = self.splits(split)
        if None in splits and split not in SPLIT_FOLDERS:
            raise ValueError(
                f"'{self.path}' has nothing for the split {split!r}, nor for others: all of it "
                f"serves for each of {', '.join(SPLIT_FOLDERS)}."
            )
        return self._read(None if None in splits else split, splits), None in splits

    def _read(self, split, splits):
        if split in self._boxes:
            return self._boxes[split]
        if len(splits.get(split, ())) != 1:
            files = splits.get(split) or sum(splits.values(), [])
            have = some([str(place.file.relative_to(self.path)) for place in files])
            problem = "several files" if split in splits else "no file"
            raise ValueError(
                f"'{self.path}' has {problem} of boxes for the split {split!r}. It has: {have}."
            )
        (place,) = splits[split]
        if isinstance(place, CocoFile):
            others = [file for key in splits if key != split for file in splits[key]]
            train = self._read("train", splits) if split != "train" and "train" in splits else None
            shared = {folder for file in others for folder in file.folders}
            boxes = read_coco(place.file, place.folders, train, shared, self._masks)
        else:
            boxes = read_yolo(place, split, self._masks)
        self._boxes[split] = boxes
        return boxes

    def unread(self, split, photos):
        """Sentences, one or none, on a split's folders with photos, none of these `PhotoBoxes`."""
        read = {photos.folder / path for path in photos.paths}
        names = [
            name
            for name in listed(self.path)[0]
            if split_of(name, split) == split
            and (files := image_files(self.path / name))
            and read.isdisjoint(files)
        ]
        return [f"not read, as no file of boxes tells of it: {some(names)}"] if names else []

    def _places(self, stem, key, split):
        """Folders that may have the photos of a file above them, the likeliest first."""
        bases = [self.path / name for name in _IMAGES] + [self.path]
        names = [stem, re.split(r"_", stem)[-1]]
        for base in filter(pathlib.Path.is_dir, bases):
            names += [name for name in listed(base)[0] if key and _split_in([name], split) == key]
        names = [place for name in dict.fromkeys(names) for place in (name, f"{name}/{_IMAGES[0]}")]
        inner = [base / name for base in bases for name in names]
        return tuple(folder for folder in (*inner, *bases) if folder.is_dir())


def _split_in(words, split):
    """The split that one of a name's words tells, as `train2017` or `Valid`; None without."""
    for word in words:
        if key := split_of(word, split) or split_of(re.sub(r"[\W_]*\d+$", "", word), split):
            return key
    return None


def _json_files(folder):
    if not folder.is_dir():
        return []
    files = [folder / name for name in listed(folder)[1] if name.lower().endswith(".json")]
    return [file for file in files if not file.name.startswith(_OTHER)]


def _likely(places):
    """Of several files those in COCO's form, by a look at their text."""
    if len(places) == 1:
        return places
    return [
        place
        for place in places
        if all(f'"{key}"'.encode() in place.file.read_bytes() for key in ("images", "categories"))
    ]
