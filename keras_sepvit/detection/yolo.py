"""Boxes in YOLO's form: a `data.yaml`, and a text file beside each photo. With NumPy.

Source: https://docs.ultralytics.com/datasets/detect.
"""

import collections
import dataclasses
import pathlib

import numpy as np

from keras_sepvit.detection.photo_boxes import PhotoBoxes, in_order
from keras_sepvit.detection.segmentations import Segmentations
from keras_sepvit.files import image_files
from keras_sepvit.runtime.labels import numbered
from keras_sepvit.training.sources.photos import upright_sizes
from keras_sepvit.training.sources.splits import some, split_of
from keras_sepvit.validation import counted

# What a share may be beyond 0 and 1, as rounding leaves it.
_ROUNDING = 1e-3

_ROW = "class, then x, y of the centre, width and height in shares of the photo, 0 to 1"


@dataclasses.dataclass(frozen=True)
class YoloFile:
    """What a `data.yaml` says.

    Attributes:
        file: Its path.
        class_names: Tuple of strings.
        root: What `path` says, or nothing.
        splits: Dict of split to its key there and what that says: of a folder of photos or a text
            file that lists them, or a list of these.
    """

    file: pathlib.Path
    class_names: tuple
    root: str
    splits: dict

    def places(self, split):
        """Paths of a split's folders or lists.

        Raises:
            ValueError: if there is none of that name.
        """
        key, values = self.splits[split]
        # `path` is often that of another machine; Roboflow's `../train/images` lie in the folder.
        roots = self.file.parent / pathlib.Path(self.root).expanduser(), self.file.parent
        places = []
        for value in values if isinstance(values, list) else [values]:
            value = str(value).replace("\\", "/")
            ways = [value] + [value.removeprefix("../")] * value.startswith("../")
            tried = [root / way for way in ways for root in roots]
            places += [next(filter(pathlib.Path.exists, tried), None)]
            if places[-1] is None:
                raise ValueError(
                    f"{self.file} has {key}: {value}, but there is no '{tried[0]}'. Correct `path` "
                    f"or `{key}` there."
                )
        return places


def read_yaml(file):
    """Reads a `data.yaml`.

    Args:
        file: Its path.

    Returns:
        A `YoloFile`; None for another YAML file, without `train`, `val` or `test`, or without
        `names` and `nc` unless it is called data.

    Raises:
        ValueError: if it cannot be read, or its names or folders cannot be right.
        ImportError: without PyYAML.
    """
    try:
        import yaml
    except ImportError as error:
        raise ImportError(
            'data.yaml is read with PyYAML: pip install "keras-sepvit[train]".'
        ) from error

    file = pathlib.Path(file)
    try:
        # All as text: a class may be called "no", or 1e3.
        content = yaml.load(file.read_text("utf-8-sig"), Loader=yaml.BaseLoader)
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is no YAML: {reason}. Correct it.") from error
    splits = {}
    if isinstance(content, dict):
        splits = {split_of(key, "train"): key for key in content if split_of(key, "train")}
    # Other programs' files may have such keys.
    if not splits or not ({"names", "nc"} & {*content} or file.stem.lower() == "data"):
        return None
    if "kpt_shape" in content:
        raise ValueError(f"{file} has kpt_shape: rows of key points. Expected boxes; {_ROW}.")
    splits = {
        split: (key, content[key])
        for split, key in splits.items()
        if content[key] not in ("", "~", "null", [])
    }
    return YoloFile(file, _names(file, content), str(content.get("path", "")), splits)


def _names(file, content):
    names, count = content.get("names"), content.get("nc")
    if names is None:
        names = numbered(int(count)) if str(count).isdecimal() else []
    if isinstance(names, dict):
        numbers = [str(number) for number in range(len(names))]
        if {*names} != {*numbers}:
            raise ValueError(
                f"{file} has names for the classes {some([*names])}. Expected one for each number "
                f"from 0 to {len(names) - 1}."
            )
        names = [names[number] for number in numbers]
    right = isinstance(names, list) and names and all(isinstance(x, str) for x in names)
    names = [" ".join(name.split()) for name in names] if right else []
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or "" in names or twice:
        problem = f"names {some(twice)} twice" if twice else "no names"
        if "names" in content and not twice:
            problem = f"names {content['names']!r}"[:80]
        raise ValueError(
            f"{file} has {problem}. Expected a list of the classes' names, each another, or "
            "a mapping of their numbers."
        )
    if count is not None and str(count) != str(len(names)):
        raise ValueError(
            f"{file} has nc {count} and {counted(len(names), 'name')}. Correct one, or take nc out."
        )
    return tuple(names)


def read_yolo(yolo, split, masks=False):
    """Reads the boxes of a split.

    The labels of `images/a.jpg` are in `labels/a.txt`, those of other photos beside them. Rows of
    more numbers are polygons, of which the box around is taken. A photo without a file has none.

    Args:
        yolo: A `YoloFile`.
        split: One of its splits.
        masks: Whether the polygons are read, too, as the objects' masks.

    Returns:
        `PhotoBoxes`, whose image ids are the photos' paths.

    Raises:
        ValueError: for what cannot be right, naming file, line, value and what to do.
        ImportError: for masks without faster-coco-eval.
    """
    places = yolo.places(split)
    folder, photos = _photos(yolo.file, places)
    sizes, unreadable = upright_sizes(photos)
    notes = []
    if yolo.root and not (yolo.file.parent / pathlib.Path(yolo.root).expanduser()).is_dir():
        notes.append(
            f"read in the folder of {yolo.file.name}, as its path {yolo.root} is not there"
        )
    if unreadable:
        photos = [photo for photo, size in zip(photos, sizes, strict=True) if size[0]]
        sizes = sizes[sizes[:, 0] > 0]
        notes.append(f"{counted(len(unreadable), 'photo')} not read: {unreadable[0]}")
    files = [_label_file(photo) for photo in photos]
    lacking = sum(not file.is_file() for file in files)
    if photos and lacking == len(photos):
        raise ValueError(
            f"{yolo.file}: no photo of {split} has labels, there is no '{files[0]}', say. Put a "
            "text file for each into a folder labels beside images."
        )
    if lacking:
        notes.append(f"{counted(lacking, 'photo')} without a file of labels, taken as empty")
    if all(map(pathlib.Path.is_dir, places)):
        beside = {file.parent for file in files}
        more = {path for place in beside for path in place.glob("*.txt")}
        if lone := sorted(path.name for path in more - {*files, *map(_names_beside, files)}):
            notes.append(f"not read, labels without a photo: {some(lone)}")
    photo_of, columns = _columns(files, sizes, len(yolo.class_names), masks)
    paths = [path.relative_to(folder).as_posix() for path in photos]
    return PhotoBoxes(
        file=yolo.file,
        folder=folder,
        paths=paths,
        image_ids=paths,
        sizes=sizes,
        class_names=yolo.class_names,
        category_ids=tuple(range(len(yolo.class_names))),
        notes=tuple(notes),
        **in_order(photo_of, len(paths), **columns),
    )


def _photos(file, places):
    """The folder that all photos are in, and their paths, place by place."""
    photos = []
    for place in places:
        if place.is_dir():
            photos += image_files(place)
            continue
        lines = [line.strip() for line in place.read_text("utf-8-sig").splitlines()]
        listed = [place.parent / line for line in lines if line]
        if missing := [str(path) for path in listed if not path.is_file()]:
            raise ValueError(
                f"{place} lists files that are not there, {len(missing):,}: {some(missing)}. "
                "Correct the list, or put them there."
            )
        photos += listed
    twice = [str(path) for path, count in collections.Counter(photos).items() if count > 1]
    if twice:
        raise ValueError(f"{file} has photos twice in a split: {some(twice)}. Take one out.")
    folder = places[0]
    while not all(path.is_relative_to(folder) for path in photos):
        folder = folder.parent
    return folder, photos


def _label_file(photo):
    """Where the labels of a photo are."""
    places = [number for number, part in enumerate(photo.parts[:-1]) if part.lower() == "images"]
    for number in places[-1:]:
        name = "LABELS" if photo.parts[number].isupper() else "labels"
        file = pathlib.Path(*photo.parts[:number], name, *photo.parts[number + 1 :])
        if file.with_suffix(".txt").is_file() or not photo.with_suffix(".txt").is_file():
            return file.with_suffix(".txt")
    return photo.with_suffix(".txt")


def _names_beside(file):
    return file.with_name("classes.txt")  # as labelling programs leave it


def _columns(files, sizes, classes, masks):
    """The number of each object's photo, and columns of objects in pixels, as `PhotoBoxes` has."""
    photo_of, labels, boxes, read = [], [], [], Segmentations() if masks else None
    for number, (file, size) in enumerate(zip(files, sizes, strict=True)):
        side = size[::-1].astype("float64")
        for label, box, polygon in _rows(file, classes) if file.is_file() else ():
            photo_of.append(number)
            labels.append(label)
            boxes.append(np.tile(side, 2) * box)
            if masks:
                points = (np.reshape(polygon, (-1, 2)) * side).tolist()
                read.add([points] if points else None, size)
    boxes = np.reshape(boxes, (-1, 4))
    return photo_of, {
        "boxes": boxes.astype("float32"),
        "labels": np.array(labels, "int32"),
        "crowd": np.zeros(len(labels), bool),
        "area": np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).astype("float32"),
        **(read.columns() if masks else {}),
    }


def _rows(file, classes):
    """What `_row` gives of each line of a file."""
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except ValueError as error:
        raise ValueError(f"{file} is no text: {error}. Expected rows of {_ROW}.") from error
    return [
        _row(f"{file}, line {number}", line, classes)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _row(place, line, classes):
    """Label, box, (left, top, right, bottom), and polygon, x, y, ..., in shares, of a line."""
    try:
        label, *values = map(float, line.split())
    except ValueError:
        raise ValueError(f"{place}: {line[:80]!r} are no numbers. Expected {_ROW}.") from None
    if label not in range(classes):
        raise ValueError(
            f"{place} has the class {line.split()[0]}. Expected 0 to {classes - 1}: correct it, or "
            "name all classes in data.yaml."
        )
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(
            f"{place} has {len(values)} numbers behind the class. Expected {_ROW}; or a polygon, "
            "x and y of three corners at least."
        )
    wrong = [value for value in values if not -_ROUNDING <= value <= 1 + _ROUNDING]
    if wrong:
        raise ValueError(
            f"{place} has the value {wrong[0]:g}. Expected {_ROW}: divide pixels by the photo's "
            "width or height."
        )
    if len(values) == 4:
        x, y, width, height = values
        width, height = max(width, 0.0), max(height, 0.0)
        return label, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), ()
    box = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    return label, box, values
