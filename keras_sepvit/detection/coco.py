"""Boxes in COCO's JSON form, read and checked. With NumPy.

Source: https://cocodataset.org/#format-data.
"""

import json
import os
import pathlib
import posixpath
import unicodedata

import numpy as np

from keras_sepvit.detection.photo_boxes import PhotoBoxes, in_order
from keras_sepvit.detection.segmentations import Segmentations
from keras_sepvit.files import image_files
from keras_sepvit.training.sources.photos import upright_sizes
from keras_sepvit.training.sources.splits import some
from keras_sepvit.validation import counted

_NUMBER = {int, float}
_NO_PARENT = (None, "", "none")


def read_coco(file, folders, train=None, shared=(), masks=False):
    """Reads a file in COCO's form.

    Classes are the categories by ascending id. A category that others name as their
    `supercategory`, and that has no objects, is none (Roboflow's root). Sizes that the file lacks
    are those of the photos.

    Args:
        file: Path of the JSON file.
        folders: Where the photos may be; the first folder that has all of them counts.
        train: `PhotoBoxes` of the split whose classes these are; the file's own without. They are
            found by their names; one that the file lacks keeps its id.
        shared: Folders with other files' photos. Of others it is told what the file does not name.
        masks: Whether the objects' masks are read, too.

    Returns:
        `PhotoBoxes`.

    Raises:
        ValueError: for what cannot be right, naming the file, the object, its value and what to do;
            if photos are missing.
        ImportError: for masks without faster-coco-eval.
    """
    file = pathlib.Path(file)
    images, annotations, categories = _contents(file)
    own = _names(_Checked(file, "categories", categories))
    listed = {*own.values()}
    labels = _Checked(file, "annotations", annotations)
    category_of = labels.column("category_id", {int}, "a category's id, a whole number")
    right = [key in listed for key in category_of]
    labels.check(right, "category_id", "the id of one of its categories")
    classes, notes = _classes(file, categories, own, {*category_of}, train)

    photos = _Checked(file, "images", images)
    image_ids = photos.column("id", {int, str}, "a whole number or text")
    photos.check_unique("id", image_ids)
    names = photos.column("file_name", {str}, "the name of the photo's file")
    folder, paths = _located(file, names, folders)
    photos.check_unique("file_name", paths)
    if folder not in shared:
        notes += _unnamed(file, folder, paths)
    sizes, unreadable = _sizes(photos, folder, paths)

    number_of = {key: number for number, key in enumerate(image_ids)}
    image_of = labels.column("image_id", {int, str}, "the id of one of its images")
    right = [key in number_of for key in image_of]
    labels.check(right, "image_id", "the id of one of its images")
    label_of = {category: label for label, category in enumerate(classes.values())}
    boxes = _boxes(labels)
    area = labels.column("area", {*_NUMBER, type(None)}, "a number, or to be left out")
    area = np.array([np.nan if value is None else value for value in area], "float64")
    given = np.array([row.get("area") is not None for row in annotations], bool)
    labels.check(~given | (np.isfinite(area) & (area >= 0)), "area", "a number of at least 0")
    crowd = labels.column("iscrowd", {int, bool}, "0 or 1", default=0)
    labels.check(np.isin(crowd, (0, 1)), "iscrowd", "0 or 1")
    photo_of = [number_of[key] for key in image_of]
    columns = {}
    if masks:
        columns, repaired = _masks(labels, sizes[photo_of])
        notes += repaired
    result = PhotoBoxes(
        file=file,
        folder=folder,
        paths=paths,
        image_ids=image_ids,
        sizes=sizes,
        class_names=tuple(classes),
        category_ids=tuple(classes.values()),
        notes=tuple(notes),
        **in_order(
            photo_of,
            len(paths),
            **columns,
            boxes=(boxes + np.pad(boxes[:, :2], ((0, 0), (2, 0)))).astype("float32"),
            labels=np.array([label_of[key] for key in category_of], "int32"),
            crowd=np.array(crowd, bool),
            area=np.where(given, area, boxes[:, 2] * boxes[:, 3]).astype("float32"),
        ),
    )
    if unreadable:
        result = result.take(np.flatnonzero(sizes[:, 0] > 0)).noted(
            f"{counted(len(unreadable), 'photo')} not read: {unreadable[0]}"
        )
    return result


class _Checked:
    """Rows of one of a file's lists, of which an error names the first that is wrong."""

    def __init__(self, file, key, rows):
        self.file, self.key, self.rows = file, key, rows

    def column(self, name, kinds, expected, default=None):
        """The values of a field, which must be of one of these types."""
        values = [row.get(name, default) for row in self.rows]
        if not {*map(type, values)} <= kinds:
            number = next(n for n, value in enumerate(values) if type(value) not in kinds)
            self.refuse(number, name, expected)
        return values

    def check(self, right, name, expected):
        """Refuses the first row that is not `right`, bool (rows,)."""
        if not np.all(right):
            self.refuse(int(np.argmin(right)), name, expected)

    def check_unique(self, name, values):
        """Refuses the second row of two with the same value."""
        if len({*values}) != len(values):
            seen = {}
            for number, value in enumerate(values):
                if value in seen:
                    first = f"{self.key}[{seen[value]}]"
                    self.refuse(number, name, f"another than that of {first}")
                seen[value] = number

    def refuse(self, number, name, expected):
        row = self.rows[number]
        value = json.dumps(row[name], ensure_ascii=False)[:80] if name in row else "nothing"
        own = f" (id {row['id']})" if name != "id" and "id" in row else ""
        raise ValueError(
            f"{self.file}: {self.key}[{number}]{own} has {name} {value}. Expected {expected}. "
            "Correct it, or take the row out."
        )


def _contents(file):
    """The lists of images, annotations and categories, each of dicts."""
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is no JSON: {error}. Export it again, or copy it whole."
        ) from error
    keys = ("images", "annotations", "categories")
    for key in keys:
        found = content.get(key) if isinstance(content, dict) else None
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            have = [*content] if isinstance(content, dict) else type(content).__name__
            raise ValueError(
                f"{file} has no list of {key}. Expected COCO's form, an object with the lists "
                f"{', '.join(keys)}, of which annotations may be empty. It has: "
                f"{some(have) if isinstance(have, list) else have}."
            )
    return [content[key] for key in keys]


def _names(rows):
    """Dict of the categories' names to ids, by ascending id."""
    ids = rows.column("id", {int}, "a whole number")
    rows.check_unique("id", ids)
    names = rows.column("name", {str}, "the name of a class, text")
    names = [" ".join(name.split()) for name in names]
    rows.check([name != "" for name in names], "name", "the name of a class")
    rows.check_unique("name", names)
    return dict(sorted(zip(names, ids, strict=True), key=lambda pair: pair[1]))


def _classes(file, categories, own, used, train):
    """Dict of name to id in the order of the labels, and what to say of it."""
    if train is not None:
        known = [key not in used or name in train.class_names for name, key in own.items()]
        unknown = [name for name, right in zip(own, known, strict=True) if not right]
        if unknown:
            raise ValueError(
                f"{file} has objects of categories that {train.file} has no class for: "
                f"{some(unknown)}. Name classes alike in both, and train on all of them."
            )
        classes, free = {}, max([*own.values(), *train.category_ids]) + 1
        for name, key in zip(train.class_names, train.category_ids, strict=True):
            classes[name] = own.get(name, free if key in own.values() else key)
            free += classes[name] == free
        return classes, []
    parents = {row["id"]: row.get("supercategory") for row in categories}
    above = [parents[key] for name, key in own.items() if parents[key] != name]
    roots = [
        name
        for name, key in own.items()
        if name in above and key not in used and parents[key] in (*_NO_PARENT, name)
    ]
    own = {name: key for name, key in own.items() if name not in roots}
    if not own:
        raise ValueError(f"{file} has no categories. List the classes of its objects there.")
    note = f"left out, as a category above others without objects: {some(roots)}"
    return own, [note] if roots else []


def _boxes(labels):
    """float64 (boxes, 4), (left, top, width, height)."""
    expected = "four numbers, left, top, width and height in pixels, of which none is negative"
    boxes = labels.column("bbox", {list}, expected)
    kinds = {type(side) for box in boxes for side in box}
    if {*map(len, boxes)} <= {4} and kinds <= _NUMBER:
        boxes = np.array(boxes, "float64").reshape(-1, 4)
        right = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= 0).all(axis=1)
    else:
        right = [len(box) == 4 and {*map(type, box)} <= _NUMBER for box in boxes]
    labels.check(right, "bbox", expected)
    return boxes


def _masks(labels, sizes):
    """Columns of the objects' masks in photos of these sizes, and what to say of them."""
    masks = Segmentations()
    for number, (row, size) in enumerate(zip(labels.rows, sizes, strict=True)):
        try:  # a photo that cannot be read has no size
            masks.add(row.get("segmentation") if size.all() else None, size)
        except ValueError as error:
            labels.refuse(number, "segmentation", str(error))
    return masks.columns(), masks.notes


def _located(file, names, folders):
    """The folder that the photos are in, and their paths from there."""
    missing = {}
    for folder in folders:
        paths = [
            os.path.relpath(name, folder) if os.path.isabs(name) else posixpath.normpath(name)
            for name in names
        ]
        paths = [path if os.path.isfile(folder / path) else None for path in paths]
        if None in paths and folder.is_dir():
            paths = _as_listed(folder, names, paths)
        if None not in paths:
            return folder, paths
        missing[folder] = [name for name, path in zip(names, paths, strict=True) if path is None]
    folder = min(missing, key=lambda folder: len(missing[folder]))
    raise ValueError(
        f"{file} names {counted(len(missing[folder]), 'photo')} that '{folder}' does not have: "
        f"{some(missing[folder])}. Put them there, or take them and their annotations out of the "
        "file."
    )


def _as_listed(folder, names, paths):
    """Paths of the files that have the same name but for how it is written."""

    def key(path):
        # Names from a Mac may have their accents as characters of their own.
        return unicodedata.normalize("NFC", posixpath.normpath(path.replace("\\", "/")))

    files = [path.relative_to(folder).as_posix() for path in image_files(folder)]
    listed = {key(path): path for path in files}
    return [path or listed.get(key(name)) for name, path in zip(names, paths, strict=True)]


def _unnamed(file, folder, paths):
    """Sentences, one or none, on photos of the folder that the file does not name."""
    files = {path.relative_to(folder).as_posix() for path in image_files(folder)}
    more = sorted(files - {*paths})
    photos = counted(len(more), "photo")
    return [f"not read, {photos} that {file.name} does not name: {some(more)}"] if more else []


def _sizes(photos, folder, paths):
    """int32 (photos, 2), (0, 0) of those that cannot be read; errors of these."""
    expected = "a whole number of pixels, or to be left out"
    sizes = np.zeros((len(paths), 2))
    for axis, name in enumerate(("height", "width")):
        values = photos.column(name, {*_NUMBER, type(None)}, expected)
        sizes[:, axis] = [0 if value is None else value for value in values]
        given = np.array([value is not None for value in values], bool)
        whole = (sizes[:, axis] >= 1) & (sizes[:, axis] == np.floor(sizes[:, axis]))
        photos.check(~given | (whole & np.isfinite(sizes[:, axis])), name, expected)
    sizes = sizes.astype("int32")
    lacking = np.flatnonzero((sizes == 0).any(axis=1))
    sizes[lacking], unreadable = upright_sizes([folder / paths[number] for number in lacking])
    return sizes, unreadable
