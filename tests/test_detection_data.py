"""Photos with boxes: what is read, what is refused, and how it is told."""

import json
import os
import pathlib
import unicodedata
import warnings

import numpy as np
import pytest
from PIL import Image

tf = pytest.importorskip("tensorflow")

from keras_sepvit.detection.check import check_boxes  # noqa: E402
from keras_sepvit.detection.images import TrainTransform  # noqa: E402
from keras_sepvit.detection.picture import draw_labelled  # noqa: E402
from keras_sepvit.detection.sources import open_source, open_splits  # noqa: E402
from keras_sepvit.training.canvas import place  # noqa: E402
from keras_sepvit.training.pipeline import evaluation_batches, training_stream  # noqa: E402
from keras_sepvit.training.sources.scenes import DigitScenes  # noqa: E402
from keras_sepvit.training.sources.splits import warn_of_copies  # noqa: E402
from keras_sepvit.visualize import palette  # noqa: E402

pytestmark = pytest.mark.once

BCCD = pathlib.Path(__file__).parents[2] / "shared" / "data" / "bccd"
CLASSES = [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}]


def save_photo(path, size=(40, 60), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (90, 120, 30)).save(path, **options)


def content_of(names, boxes=(), categories=CLASSES, size=(40, 60)):
    """COCO's form of photos by name, and of boxes: image, category, [left, top, width, height]."""
    height, width = size
    images = [
        {"id": number, "file_name": name, "height": height, "width": width}
        for number, name in enumerate(names)
    ]
    annotations = [
        {"id": number, "image_id": image, "category_id": category, "bbox": box}
        for number, (image, category, box) in enumerate(boxes)
    ]
    return {"images": images, "annotations": annotations, "categories": list(categories)}


def write(file, names, boxes=(), photos=None, **options):
    """Writes a JSON file, and its photos into the folder `photos`, by default the file's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        save_photo((photos or file.parent) / name, options.get("size", (40, 60)))
    file.write_text(json.dumps(content_of(names, boxes, **options)))
    return file


BOXES = [(0, 1, [10, 5, 20, 30]), (0, 2, [0, 0, 5, 5]), (1, 2, [30, 8, 30, 16])]
# As (left, top, right, bottom), by photo.
READ = {"a.jpg": [[10, 5, 30, 35], [0, 0, 5, 5]], "b.png": [[30, 8, 60, 24]], "c.jpg": []}
LABELS = {"a.jpg": [0, 1], "b.png": [1], "c.jpg": []}


def assert_read(source, boxes=READ, labels=LABELS):
    """That a source gives these by name, in the graph and without."""
    assert [os.path.basename(source.read(number)[0]) for number in range(source.size)] == [*boxes]
    examples = source.examples(0, seed=0, shuffle=False).as_numpy_iterator()
    for number, example in enumerate(examples):
        name, photo, truth = source.read(number)
        assert os.fsdecode(example["name"]) == name == source.paths[number]
        key = os.path.basename(name)
        count = len(boxes[key])
        np.testing.assert_allclose(truth["boxes"], np.reshape(boxes[key], (-1, 4)), atol=1e-4)
        np.testing.assert_array_equal(truth["labels"], labels[key])
        assert json.loads(example["id"]) == source.image_id(number)
        for value in (example["photo_size"], source.sizes[number], source.photo_size(number)):
            assert tuple(value) == photo.shape[:2]
        for column, padding in (("boxes", -1), ("labels", -1), ("crowd", False), ("area", 0)):
            assert example[column].dtype == truth[column].dtype
            assert len(example[column]) == source.most
            np.testing.assert_array_equal(example[column][:count], truth[column])
            assert (example[column][count:] == padding).all()


# Classes


def test_classes_are_in_the_order_of_their_ids(tmp_path):
    """Ids with gaps, in no order, of which one has no object."""
    categories = [{"id": 91, "name": "washer"}, {"id": 0, "name": "bolt"}, {"id": 7, "name": "nut"}]
    names = [f"{number}.png" for number in range(9)]
    boxes = [(number, (91, 0)[number % 2], [number, 1, 10, 10]) for number in range(9)]
    write(tmp_path / "train" / "_annotations.coco.json", names, boxes, categories=categories)
    # Another split has other numbers for the same names, lacks one, and knows one without objects.
    others = [{"id": 5, "name": "washer"}, {"id": 7, "name": "bolt"}, {"id": 1, "name": "screw"}]
    boxes = [(0, 5, [1, 2, 3, 4]), (0, 7, [1, 2, 3, 4])]
    write(tmp_path / "valid" / "_annotations.coco.json", ["v.png"], boxes, categories=others)
    train, validation = open_splits(str(tmp_path))
    assert train.class_names == validation.class_names == ("bolt", "nut", "washer")
    assert train.category_ids == (0, 7, 91)
    assert [train.truth(number)["labels"][0] for number in range(9)] == [2, 0] * 4 + [2]
    assert [*validation.truth(0)["labels"]] == [2, 0]
    # Of `nut`, which has none there, it is one that is free.
    assert validation.category_ids == (7, 92, 5)
    write(tmp_path / "valid" / "_annotations.coco.json", ["v.png"], categories=[])
    assert open_splits(str(tmp_path))[1].category_ids == (0, 7, 91)
    others[2]["id"], boxes[0] = 5, (0, 5, [1, 2, 3, 4])
    others[0]["id"] = 1
    write(tmp_path / "valid" / "_annotations.coco.json", ["v.png"], boxes, categories=others)
    with pytest.raises(ValueError, match=r"valid.*has objects of categories that .*train.*: screw"):
        open_splits(str(tmp_path))


@pytest.mark.parametrize(
    ("parents", "used", "classes"),
    [
        (("none", "parts", "parts"), (1, 2), ("bolt", "nut")),
        (("parts", "parts", "parts"), (1, 2), ("bolt", "nut")),
        ((None, "parts", "none"), (2,), ("bolt", "nut")),
        (("none", "parts", "parts"), (0, 1), ("parts", "bolt", "nut")),
        (("none", "none", "none"), (0, 1, 2), ("parts", "bolt", "nut")),
        (("none", "none", "none"), (), ("parts", "bolt", "nut")),
        ((None, None, None), (1,), ("parts", "bolt", "nut")),
        ((..., ..., ...), (1,), ("parts", "bolt", "nut")),
        (("tools", "metal", "metal"), (1,), ("parts", "bolt", "nut")),
    ],
)
def test_a_root_category_is_no_class(tmp_path, parents, used, classes):
    categories = [
        {"id": number, "name": name, **({} if parent is ... else {"supercategory": parent})}
        for number, (name, parent) in enumerate(zip(("parts", "bolt", "nut"), parents, strict=True))
    ]
    boxes = [(0, category, [0, 0, 9, 9]) for category in used]
    write(tmp_path / "all.json", ["a.png"], boxes, categories=categories)
    source = open_source(str(tmp_path), "test")
    assert source.class_names == classes
    told = "left out, as a category above others without objects: parts" in str(source)
    assert told == (len(classes) == 2)
    names = [source.class_names[label] for label in source.truth(0)["labels"]]
    assert names == [("parts", "bolt", "nut")[category] for category in used]


# Photos


@pytest.mark.parametrize("number", [6, 8, 3, 5])
def test_photos_are_upright(tmp_path, number):
    """Boxes are those of the upright photo; other sizes are refused by both."""
    upright = np.full((120, 80, 3), 20, "uint8")
    upright[70:110, 10:40] = 220
    inverse = {6: 8, 8: 6}.get(number, number)
    stored = Image.fromarray(upright).transpose((None, 0, 3, 1, 5, 4, 6, 2)[inverse - 1])
    exif = Image.Exif()
    exif[0x0112] = number
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    content = content_of(["a.jpg"], [(0, 1, [10, 70, 30, 40])], size=(120, 80))
    file = tmp_path / "all.json"
    file.write_text(json.dumps(content))
    source = open_source(str(tmp_path), "train")
    check_boxes(source)
    _, photo, truth = source.read(0)
    assert photo.shape == (120, 80, 3)
    transform = TrainTransform((60, 60), flip=0, short_sides=(40,), long_side=60)
    (example,) = source.examples(0, seed=0, shuffle=False).as_numpy_iterator()
    canvas, boxes, _, size = transform(
        example["image"], example["boxes"], example["labels"], [0, 1]
    )
    for pixels, (left, top, right, bottom) in (
        (photo, truth["boxes"][0]),
        (canvas[:60, :40].numpy(), boxes[0].numpy()),
    ):
        rows, columns = (
            (pixels.mean(axis=-1) > 120).any(axis=axis).nonzero()[0] for axis in (1, 0)
        )
        edges = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        np.testing.assert_allclose((left, top, right, bottom), edges, atol=1)
    del content["images"][0]["width"]  # then it is the photo's
    file.write_text(json.dumps(content))
    assert tuple(open_source(str(tmp_path), "train").sizes[0]) == (120, 80)
    for stated, remedy in (((80, 120), "notes a turn .EXIF"), ((100, 100), "Correct the size")):
        content["images"][0].update(height=stated[0], width=stated[1])
        file.write_text(json.dumps(content))
        source = open_source(str(tmp_path), "train")
        with pytest.raises(ValueError, match=remedy):
            source.read(0)
        with pytest.raises(ValueError, match=remedy) as error:
            check_boxes(source)
        text = str(error.value)
        assert "a.jpg is 120 x 80, but" in text and f"says {stated[0]} x {stated[1]}" in text
        assert "\n" not in text
    assert size.numpy().tolist() == [60, 40]


def test_all_names_of_photos(tmp_path):
    """With folders, blanks, accents in two spellings, any case, backslashes, in `images`."""
    names = ["a.JPG", "in/side/b v.2.webp", "été 青.png", "c.jpeg"]
    file = write(
        tmp_path / "labels.json", names, [(2, 1, [1, 2, 3, 4])], photos=tmp_path / "images"
    )
    accents = tmp_path / "images" / "été 青.png"
    accents.rename(accents.with_name(unicodedata.normalize("NFD", accents.name)))
    content = json.loads(file.read_text())
    content["images"][1]["file_name"] = "in\\side\\b v.2.webp"
    content["images"][3]["file_name"] = "./c.jpeg"
    content["images"][0]["file_name"] = str(tmp_path / "images" / "a.JPG")
    file.write_text(json.dumps(content))
    save_photo(tmp_path / "images" / "in" / "more.png")
    source = open_source(str(tmp_path), "test")
    assert source.notes == ("not read, 1 photo that labels.json does not name: in/more.png",)
    assert source.whole and source.folder == tmp_path / "images"
    assert [unicodedata.normalize("NFC", path) for path in source.paths] == names
    check_boxes(source)
    boxes = {os.path.basename(path): [] for path in source.paths}
    key = os.path.basename(source.paths[2])
    assert_read(source, {**boxes, key: [[1, 2, 4, 6]]}, {**boxes, key: [0]})


# What is left out, and told


def test_what_is_trained_on(tmp_path):
    """Evaluation has all as it is; training leaves out, clips and counts."""
    boxes = [
        (0, 1, [-5, 10, 20, 10]),  # clipped
        (0, 1, [50, 30, 30, 30]),  # clipped
        (0, 2, [5, 5, 0, 0]),
        (0, 2, [5, 5, 9, 0.0]),
        (0, 2, [5, 5, 9, 0.9]),
        (0, 2, [59.5, 5, 9, 9]),  # half a pixel of it is in the photo
        (0, 2, [60, 5, 9, 9]),  # nothing
        (0, 2, [5, 5, 9, 9]),  # a crowd
        (2, 2, [5, 5, 0, 9]),
        (3, 1, [5, 5, 9, 9]),
        (4, 1, [0, 0, 60.005, 40.005]),
    ]
    names = ["a.png", "empty.png", "flat.png", "small.png", "whole.png"]
    file = write(tmp_path / "train.json", names, boxes)
    content = json.loads(file.read_text())
    content["annotations"][7].update(iscrowd=1, area=12.5)
    content["annotations"][0]["area"] = 77
    content["images"][3]["height"] = 31
    save_photo(tmp_path / "small.png", (31, 60))
    file.write_text(json.dumps(content))

    whole = open_source(str(tmp_path), "train")
    assert (whole.size, whole.most, whole.split) == (5, 8, "train")
    np.testing.assert_array_equal(whole.truth(0)["boxes"][0], [-5, 10, 15, 20])
    assert [*whole.truth(0)["crowd"]] == [False] * 7 + [True]
    assert whole.truth(0)["area"][[0, 1, 7]].tolist() == [77, 900, 12.5]
    assert str(whole).endswith(
        "; as in the file: 4 boxes reaching out of the photo, 3 boxes without area, which nothing "
        "can find"
    )
    checked = check_boxes(whole).splitlines()
    assert checked[1:3] == ["photos of 31 x 60 to 40 x 60 pixels", "1 photo without boxes"]
    assert [line.split() for line in checked[3:]] == [
        ["class", "photos", "boxes"],
        ["bolt", "3", "4"],
        ["nut", "2", "7"],
        ["all", "4", "11"],
    ]

    source = open_splits(str(tmp_path), "train", None)[0]
    np.testing.assert_allclose(source.truth(0)["boxes"], [[0, 10, 15, 20], [50, 30, 60, 40]])
    assert source.paths == ["a.png", "flat.png", "whole.png"] and source.most == 2
    assert not len(source.truth(1)["labels"])  # labelled, but nothing to learn from
    np.testing.assert_array_equal(source.truth(2)["boxes"], [[0, 0, 60, 40]])
    assert str(source).endswith(
        "; left out: 1 crowd, 3 boxes without area, 1 box outside of its photo, 2 boxes with a "
        "side under 1 pixel, 1 photo without boxes, 1 photo with a side under 32 pixels; clipped: "
        "2 boxes to the photo"
    )
    source = open_splits(str(tmp_path), "train", None, keep_empty=True)[0]
    assert source.paths == names and "without boxes" not in str(source)


def test_nothing_to_train_on(tmp_path):
    """A split without a box is refused for training, and answers in validation."""
    write(tmp_path / "val.json", ["b.png"])
    box, start = [1, 1, 9, 9], "'train' has a box to train on: .*train.json has 1 photo and "
    for boxes, size, message in (
        ([], (40, 60), "0 boxes; left out: 1 photo without boxes. Label some"),
        ([box], (30, 60), "1 box; left out: .* under 32 pixels. data.keep_empty=true trains"),
        ([[0.1, 0.1, 0.5, 0.5]], (40, 60), "1 box; .* under 1 pixel. Boxes are in pixels: multi"),
    ):
        write(tmp_path / "train.json", ["a.png"], [(0, 1, box) for box in boxes], size=size)
        with pytest.raises(ValueError, match=start + message):
            open_splits(str(tmp_path))
    content = content_of(["a.png"], [(0, 1, box)])
    content["annotations"][0]["iscrowd"] = 1
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=start + "1 box; left out: 1 crowd. Set iscrowd to 0"):
        open_splits(str(tmp_path), keep_empty=True)
    write(tmp_path / "train.json", ["a.png"], [(0, 1, [1, 1, 9, 9])])
    _, validation = open_splits(str(tmp_path))
    assert validation.most == 1 and "1 photo without boxes" in check_boxes(validation)
    assert_read(validation, {"b.png": []}, {"b.png": []})
    (tmp_path / "val.json").unlink()
    with pytest.raises(ValueError, match="of 1 image none is held out. .*validation_split=null"):
        open_splits(str(tmp_path))


def test_photos_that_cannot_be_read(tmp_path):
    """Told before training; without a size in the file, left out."""
    file = write(tmp_path / "all.json", READ, BOXES)
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    source = open_source(str(tmp_path), "train")
    assert "left out, 1 photo that cannot be read: " in check_boxes(source)
    with pytest.raises(OSError, match="a.jpg cannot be read"):
        source.read(0)
    content = json.loads(file.read_text())
    del content["images"][0]["height"]
    file.write_text(json.dumps(content))
    source = open_source(str(tmp_path), "train")
    assert source.paths == ["b.png", "c.jpg"] and "1 photo not read: " in str(source)
    assert_read(source, {key: READ[key] for key in source.paths}, LABELS)


def change(key, number=0, **values):
    """A function that changes a row of a list; without values, takes fields out of it."""

    def call(content):
        content[key][number].update(values)

    return call


def without(key, number, field):
    return lambda content: content[key][number].pop(field)


BBOX = "four numbers, left, top, width and height in pixels, of which none is negative"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            change("annotations", bbox="10 5 20 30"),
            rf'annotations\[0\] \(id 0\) has bbox "10 5.*{BBOX}',
        ),
        (
            change("annotations", 1, bbox=["1", 2, 3, 4]),
            r'annotations\[1\] .*has bbox \["1", 2, 3, 4\]',
        ),
        (
            change("annotations", 2, bbox=[1, 2, 3]),
            r"annotations\[2\] .*has bbox \[1, 2, 3\]\. Exp",
        ),
        (change("annotations", bbox=[1, 2, 3, 4, 5]), rf"has bbox \[1, 2, 3, 4, 5\].*{BBOX}"),
        (change("annotations", bbox=[1, float("nan"), 3, 4]), r"has bbox \[1, NaN, 3, 4\]"),
        (change("annotations", bbox=[1, 2, float("inf"), 4]), r"has bbox \[1, 2, Infinity, 4\]"),
        (change("annotations", bbox=[1, 2, -3, 4]), r"has bbox \[1, 2, -3, 4\]"),
        (change("annotations", bbox=[True, 2, 3, 4]), r"has bbox \[true, 2, 3, 4\]"),
        (change("annotations", bbox=None), "has bbox null"),
        (without("annotations", 0, "bbox"), "has bbox nothing"),
        (change("annotations", category_id=3), "has category_id 3.*id of one of its categories"),
        (change("annotations", category_id="1"), 'has category_id "1"'),
        (without("annotations", 1, "category_id"), "has category_id nothing"),
        (change("annotations", image_id=9), "has image_id 9. Expected the id of one of its images"),
        (change("annotations", image_id="0"), 'has image_id "0"'),
        (change("annotations", image_id=[0]), r"has image_id \[0\]"),
        (change("annotations", area="12"), 'has area "12"'),
        (change("annotations", area=float("nan")), "has area NaN. Expected a number of at least 0"),
        (change("annotations", area=-1), "has area -1"),
        (change("annotations", iscrowd=2), "has iscrowd 2. Expected 0 or 1"),
        (change("annotations", iscrowd="0"), 'has iscrowd "0"'),
        (
            change("images", 1, id=0),
            r"images\[1\] has id 0. Expected another than that of images\[0\]",
        ),
        (change("images", 1, id=None), r"images\[1\] has id null"),
        (change("images", 2, file_name="a.jpg"), r"images\[2\] \(id 2\) has file_name \"a.jpg\""),
        (change("images", 2, file_name="./a.jpg"), r"another than that of images\[0\]"),
        (
            change("images", 2, file_name=7),
            "has file_name 7. Expected the name of the photo's file",
        ),
        (change("images", 2, file_name="d.jpg"), r"names 1 photo that '.*' does not have: d.jpg"),
        (change("images", width="60"), 'has width "60"'),
        (
            change("images", height=0),
            "has height 0. Expected a whole number of pixels, or to be left",
        ),
        (change("images", height=40.5), "has height 40.5"),
        (change("images", height=float("inf")), "has height Infinity"),
        (change("categories", 1, id=1), r"categories\[1\] has id 1. Expected another"),
        (change("categories", 1, id="2"), r'categories\[1\] has id "2"'),
        (
            change("categories", 1, name=" bolt"),
            r'categories\[1\] \(id 2\) has name " bolt". Exp.*anoth',
        ),
        (change("categories", 1, name=""), r'has name "". Expected the name of a class'),
        (change("categories", 1, name=None), "has name null"),
        (lambda x: x.pop("annotations"), "no list of annotations.*It has: images, categories"),
        (lambda x: x.pop("images"), "no list of images"),
        (lambda x: x.pop("categories"), "no list of categories"),
        (lambda x: x.update(images={}), "no list of images"),
        (lambda x: x.update(annotations=[[1, 2]]), "no list of annotations"),
        (lambda x: x.update(annotations=[], categories=[]), "has no categories"),
    ],
)
def test_files_that_are_refused(tmp_path, spoil, message):
    """By one line that names file, object, value and what to do."""
    file = write(tmp_path / "all.json", READ, BOXES)
    content = json.loads(file.read_text())
    spoil(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        open_source(str(tmp_path), "train")
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [', "all.json is no JSON: Expecting value: line 1 column 13"),
        (b"", "all.json is no JSON"),
        (b"\xff\xfe\x00", "all.json is no JSON"),
        (b"[]", "no list of images.*It has: list"),
        (b'"text"', "no list of images.*It has: str"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "all.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        open_source(str(tmp_path), "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ids", [(0, 1, 2), (1, 1, 1), (None, None, "x")])
def test_ids_of_annotations_mean_nothing(tmp_path, ids):
    file = write(tmp_path / "all.json", READ, BOXES)
    content = json.loads(file.read_text())
    for row, number in zip(content["annotations"], ids, strict=True):
        row["id"] = number
    content["images"][0]["id"], content["annotations"][0]["image_id"] = "zero", "zero"
    content["annotations"][1]["image_id"] = "zero"
    file.write_text(json.dumps(content), "utf-8-sig")  # as Windows' editors write
    source = open_source(str(tmp_path), "train")
    assert_read(source)
    assert [source.image_id(number) for number in range(3)] == ["zero", 1, 2]


# Layouts

LAYOUTS = {
    "COCO's own": ("annotations/instances_{}2017.json", "{}2017", ("train", "val")),
    "in a folder": (
        "coco/annotations/instances_{}2017.json",
        "coco/images/{}2017",
        ("train", "val"),
    ),
    "Roboflow's": ("{}/_annotations.coco.json", "{}", ("train", "valid")),
    "images of all": ("annotations/{}.json", "images", ("train", "validation")),
    "images of splits": ("Annotations/{}.json", "images/{}", ("Train", "VAL")),
    "images of splits inside": ("annotations/{}.json", "{}/images", ("train", "valid")),
    "beside the photos": ("{}.json", ".", ("train", "val")),
    "images in splits": ("{}/labels.json", "{}/images", ("training", "Validation")),
    "annotations in splits": ("{}/annotations/all.json", "{}/data", ("train", "val")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_splits(tmp_path, layout):
    file, photos, splits = LAYOUTS[layout]
    expected = {"c.jpg": [[1, 2, 4, 6]]}
    for split, names, boxes in (
        (splits[0], READ, BOXES),
        (splits[1], expected, [(0, 2, [1, 2, 3, 4])]),
    ):
        folder = tmp_path / photos.format(split)
        if photos.format(split) in ("images", "."):  # the same names would be the same photos
            folder, file_names = folder / split, [*names]
            for name in names:
                save_photo(folder / name)
            content = content_of([f"{split}/{name}" for name in file_names], boxes)
            place = tmp_path / file.format(split)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(content))
        else:
            write(tmp_path / file.format(split), names, boxes, photos=folder)
    if layout == "COCO's own":
        for other in ("captions_train2017", "person_keypoints_val2017", "image_info_test2017"):
            (tmp_path / "annotations" / f"{other}.json").write_text("{}")
    (tmp_path / "README.txt").write_text("")
    train, validation = open_splits(str(tmp_path), keep_empty=True)
    assert (train.split, validation.split, train.whole) == ("train", "validation", False)
    assert_read(train)
    assert_read(validation, expected, {"c.jpg": [1]})
    assert train.file == tmp_path / file.format(splits[0])
    assert not train.notes and not validation.notes
    assert open_source(f"folder:{tmp_path}", "val").paths == validation.paths
    with pytest.raises(ValueError, match=r"no file of boxes for the split 'test'. It has: .*rain"):
        open_source(str(tmp_path), "test")


def test_without_splits_a_tenth_is_held_out(tmp_path):
    names = [f"{number}.png" for number in range(23)]
    write(tmp_path / "all.json", names, [(number, 1, [number, 1, 9, 9]) for number in range(23)])
    (tmp_path / "package.json").write_text('{"name": "no data"}')
    train, validation = open_splits(str(tmp_path))
    assert (train.split, validation.split) == ("train-fold0", "validation-fold0")
    assert (train.size, validation.size, train.whole) == (21, 2, False)
    assert "held out for validation: 2 images, a tenth" in str(train)
    assert not {*train.paths} & {*validation.paths}
    for source in (train, validation):
        for number, path in enumerate(source.paths):
            assert source.truth(number)["boxes"][0, 0] == int(path[:-4]) == source.image_id(number)
    folds = [open_source(str(tmp_path), f"validation-fold{fold}") for fold in range(10)]
    paths = sum((fold.paths for fold in folds), [])
    whole = open_source(str(tmp_path), "test")
    assert sorted(paths) == sorted(whole.paths) == sorted(names) and whole.whole
    assert open_splits(str(tmp_path), "train", None)[1] is None
    with pytest.raises(ValueError, match="23 images of .* in common. Hold out a tenth"):
        open_splits(str(tmp_path), "train", "test")
    with pytest.raises(ValueError, match="'train-fold0' to 'train-fold9'"):
        open_source(str(tmp_path), "train-fold10")
    with pytest.raises(ValueError, match="nothing for the split 'mine', nor for others"):
        open_source(str(tmp_path), "mine")
    # A split of one's own, by the name of its file.
    (tmp_path / "all.json").rename(tmp_path / "mine.json")
    assert open_source(str(tmp_path), "mine").size == 23


@pytest.mark.parametrize("copies", [True, False])
def test_copies_in_the_validation_data_are_told(tmp_path, copies):
    """Photos of the same name and size are copies if they have the same content, too."""
    names = [f"{number}.bmp" for number in range(30)]  # of one size all
    for split in ("train", "valid"):
        boxes = [(number, 1, [1, 1, 9, 9]) for number in range(30)]
        write(
            tmp_path / split / "boxes.json", names[:25] if split == "valid" else names, boxes[:25]
        )
    for name in names[24 if copies else 0 :]:
        Image.new("RGB", (60, 40), (9, 9, 9)).save(tmp_path / "train" / name)
    sources = open_splits(str(tmp_path))
    if not copies:
        with warnings.catch_warnings(action="error"):
            warn_of_copies(*sources)
        return
    with pytest.warns(UserWarning, match="Of 25 images .* 25 have the name .*valid/0.bmp' and .*"):
        warn_of_copies(*sources)
    with warnings.catch_warnings(action="error"):
        warn_of_copies(sources[0], None)


def test_a_split_without_a_file_of_boxes_is_told(tmp_path):
    write(tmp_path / "train" / "boxes.json", ["a.png", "b.png"], [(0, 1, [1, 1, 9, 9])] * 2)
    save_photo(tmp_path / "valid" / "c.png")
    train, validation = open_splits(str(tmp_path), keep_empty=True)
    assert "not read, as no file of boxes tells of it: valid" in train.notes
    assert validation.split == "validation-fold0"


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder '.*nowhere'"):
        open_splits(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file. Expected the folder of photos and"):
        open_source(f"folder:{tmp_path / 'file'}", "train")
    save_photo(tmp_path / "images" / "a.png")
    with pytest.raises(ValueError, match="has no file of boxes. Expected .*It has: images, file"):
        open_source(str(tmp_path), "train")
    for name in ("train", "valid"):
        save_photo(tmp_path / "bare" / name / "a.png")
    with pytest.raises(ValueError, match="bare' has no file of boxes. .* It has: train, valid"):
        open_splits(str(tmp_path / "bare"))
    for name in ("all.json", "b.json"):
        write(tmp_path / name, ["a.png"])
    with pytest.raises(ValueError, match="several files of boxes .*: all.json, b.json"):
        open_source(str(tmp_path), "train")


@pytest.mark.skipif(not BCCD.is_dir(), reason="needs the photos of blood cells")
def test_blood_cells(tmp_path):
    """Real data as published, in Roboflow's form."""
    train, validation = open_splits(str(BCCD))
    test = open_source(str(BCCD), "test")
    assert [source.size for source in (train, validation, test)] == [205, 87, 72]
    assert train.class_names == ("Platelets", "RBC", "WBC") and train.category_ids == (1, 2, 3)
    assert "left out: 1 box without area" in check_boxes(train)
    assert "as in the file: 1 box without area" in check_boxes(validation)
    boxes = [
        sum(len(source.truth(number)["labels"]) for number in range(source.size))
        for source in (train, validation, test)
    ]
    assert boxes == [2804, 1138, 945] and train.most == 28
    transform = TrainTransform((120, 160), crops=0.5, short_sides=(96, 120), long_side=160)
    batch = next(iter(stream_of(train, transform, 16)))
    draw_labelled(tmp_path / "page.png", batch["image"], batch, train.class_names)
    assert Image.open(tmp_path / "page.png").size == (4 * 164 - 4, 4 * 124 - 4)


# YOLO's form


def write_yolo(folder, **keys):
    """Photos with the boxes of `READ` in `images/train`, one in `images/val`; a data.yaml."""
    rows = {
        "train/a.jpg": "0 0.333333 0.5 0.33333333 0.75\n\n1 0.0416667 0.0625 8.33333e-2 0.125\n",
        "train/b.png": "1 0.5 0.2 1 0.2 1.0 0.6 0.75 0.6",
        "train/c.jpg": "",
        "val/d.jpg": "0.0 0.5 0.5 1 1",
    }
    for name, text in rows.items():
        save_photo(folder / "images" / name)
        label = (folder / "labels" / name).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(text)
    keys = {"names": ["bolt", "nut"], "train": "images/train", "val": "images/val", **keys}
    (folder / "data.yaml").write_text(json.dumps(keys, ensure_ascii=False))  # which is YAML, too
    return folder


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"names": {0: "bolt", 1: "nut"}, "nc": 2},
        {"path": "."},
        {"path": "../datasets/bolts", "test": "images/none"},
        {"train": "../images/train", "val": ["../images/val"]},
        {"path": "images", "train": "train", "val": "val", "test": None},
        {"train": ["train.txt"], "val": "images/val"},
    ],
)
def test_yolo(tmp_path, keys):
    write_yolo(tmp_path, **keys)
    lines = "\n".join(f"./images/train/{name}" for name in READ)
    (tmp_path / "train.txt").write_text(lines + "\n")
    (tmp_path / "labels" / "train" / "classes.txt").write_text("bolt\nnut")
    train, validation = open_splits(str(tmp_path), keep_empty=True)
    assert train.class_names == ("bolt", "nut") and train.category_ids == (0, 1)
    # The polygon's box around it.
    boxes = {**READ, "b.png": [[30, 8, 60, 24]]}
    assert_read(train, boxes)
    assert_read(validation, {"d.jpg": [[0, 0, 60, 40]]}, {"d.jpg": [0]})
    assert train.image_id(0) == train.paths[0]
    told = ("read in the folder of data.yaml, as its path ../datasets/bolts is not there",)
    assert train.notes == (told if "datasets" in keys.get("path", "") else ())
    check_boxes(train)


def test_yolo_is_told(tmp_path):
    write_yolo(tmp_path, val=None, names={"0": "no", "1": "1e3"})
    (tmp_path / "labels" / "train" / "c.txt").unlink()
    (tmp_path / "labels" / "train" / "lone.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "images" / "train" / "broken.jpg").write_bytes(b"no picture")
    source = open_source(str(tmp_path), "train")
    assert source.class_names == ("no", "1e3")  # as written
    assert_read(source)
    for text in (
        "1 photo not read: ",
        "broken.jpg cannot be read",
        "1 photo without a file of labels, taken as empty",
        "not read, labels without a photo: lone.txt",
    ):
        assert text in str(source)
    # Labels beside the photos, no `images` in the path.
    (tmp_path / "images").rename(tmp_path / "photos")
    for path in (tmp_path / "labels" / "train").iterdir():
        path.rename(tmp_path / "photos" / "train" / path.name)
    (tmp_path / "data.yaml").write_text("names: [bolt, nut]\ntrain: photos/train\n")
    assert_read(open_source(str(tmp_path), "train"))
    assert open_splits(str(tmp_path))[1].split == "validation-fold0"
    (tmp_path / "data.yaml").write_text("nc: 2\ntrain: photos/train\n")
    assert open_source(str(tmp_path), "train").class_names == ("class 0", "class 1")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "2 0.5 0.5 0.1 0.1",
            "a.txt, line 2 has the class 2. Expected 0 to 1: correct",
        ),
        ("-1 0.5 0.5 0.1 0.1", "has the class -1"),
        ("0.5 0.5 0.5 0.1 0.1", "has the class 0.5"),
        ("nan 0.5 0.5 0.1 0.1", "has the class nan"),
        (
            "0 30 20 10 10",
            "line 2 has the value 30. Expected .*: divide pixels by",
        ),
        ("0 0.5 0.5 1.01 0.1", "has the value 1.01"),
        ("0 0.5 0.5 -0.1 0.1", "has the value -0.1"),
        ("0 0.5 nan 0.1 0.1", "has the value nan"),
        ("0 0.5 0.5 0.1", "has 3 numbers behind the class. Expected class, then x, y"),
        ("0 0.5 0.5 0.1 0.1 0.9", "has 5 numbers behind the class"),
        ("bolt 0.5 0.5 0.1 0.1", "'bolt 0.5 0.5 0.1 0.1' are no numbers"),
        ("0,0.5,0.5,0.1,0.1", "are no numbers"),
        (b"\xff\x00", "a.txt is no text"),
    ],
)
def test_yolo_rows_that_are_refused(tmp_path, row, message):
    write_yolo(tmp_path)
    file = tmp_path / "labels" / "train" / "a.txt"
    row = row if isinstance(row, bytes) else row.encode()
    file.write_bytes(b"0 0.5 0.5 0.1 0.1\n" + row)
    with pytest.raises(ValueError, match=message) as error:
        open_source(str(tmp_path), "train")
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"nc": 3}, "has nc 3 and 2 names"),
        ({"names": ["bolt", "bolt "]}, "has names bolt twice"),
        ({"names": ["bolt", ""]}, r"has names \['bolt', ''\]. Expected a list"),
        ({"names": "bolt"}, "has names 'bolt'. Expected a list"),
        ({"names": []}, r"has names \[\]"),
        ({"names": {0: "bolt", 2: "nut"}}, "has names for the classes 0, 2. Expected one for each"),
        ({"names": [["bolt"]]}, r"has names \[\['bolt'\]\]"),
        ({"train": "images/nowhere"}, "has train: images/nowhere, but there is no '.*nowhere'"),
        ({"train": "lost.txt"}, r"lost.txt lists files that are not there, 1: .*gone.jpg"),
        ({"train": "twice.txt"}, "has photos twice in a split: .*a.jpg"),
        (
            {"train": "images/bare"},
            "no photo of train has labels, there is no '.*b.txt'",
        ),
        ({"kpt_shape": [4, 3]}, "has kpt_shape: rows of key points"),
    ],
)
def test_yaml_that_is_refused(tmp_path, keys, message):
    write_yolo(tmp_path, **keys)
    save_photo(tmp_path / "images" / "bare" / "b.png")
    (tmp_path / "lost.txt").write_text("./gone.jpg")
    (tmp_path / "twice.txt").write_text("images/train/a.jpg\nimages/train/a.jpg")
    with pytest.raises(ValueError, match=message) as error:
        open_source(str(tmp_path), "train")
    assert "\n" not in str(error.value)
    (tmp_path / "data.yaml").write_text("names: [a\n- b")
    with pytest.raises(ValueError, match="data.yaml is no YAML"):
        open_source(str(tmp_path), "train")
    (tmp_path / "data.yaml").write_text("train: images/train\n")
    with pytest.raises(ValueError, match="data.yaml has no names. Expected a list of the classes"):
        open_source(str(tmp_path), "train")


# Scenes, and the way into batches


def test_scenes():
    train, validation = open_splits("scenes")
    assert (train.size, validation.size, train.most, validation.most) == (4_000, 200, 12, 6)
    assert train.class_names == tuple("0123456789") and train.category_ids == tuple(range(10))
    expected = DigitScenes("train", 4_000, digits=(4, 12))[17]
    name, image, truth = train.read(17)
    assert (name, train.image_id(17)) == ("scenes/train:17", 17)
    np.testing.assert_array_equal(image, expected.image)
    np.testing.assert_array_equal(truth["boxes"], expected.boxes)
    np.testing.assert_array_equal(truth["labels"], expected.labels)
    examples = validation.examples(0, seed=0, shuffle=False).take(3).as_numpy_iterator()
    for number, example in enumerate(examples):
        name, image, truth = validation.read(number)
        assert example["name"].decode() == name and json.loads(example["id"]) == number
        assert tuple(example["photo_size"]) == tuple(validation.sizes[number]) == (128, 128)
        np.testing.assert_array_equal(example["image"], image)
        for key, values in truth.items():
            np.testing.assert_array_equal(example[key][: len(values)], values)
        assert (example["labels"][len(truth["labels"]) :] == -1).all()
    lines = check_boxes(validation).splitlines()
    assert lines[1] == "photos of 128 x 128 pixels" and len(lines) == 3 + 11
    assert open_splits("scenes", "train-fold1", None)[1] is None


def stream_of(source, transform, batch_size):
    """Batches to train on, as a task makes them."""

    def call(example, seed):
        values = transform(example["image"], example["boxes"], example["labels"], seed)
        return dict(zip(("image", "boxes", "labels", "size"), values, strict=True))

    return training_stream(source, call, batch_size=batch_size, seed=1).as_numpy_iterator()


def test_batches_of_a_folder(tmp_path):
    """Photos and boxes come together through the pipeline; damaged photos are left out."""
    names = [f"{number}.png" for number in range(6)]
    boxes = [(number, 1, [10 * number % 45, 5, 9, 21]) for number in range(6)]
    write(tmp_path / "all.json", names, boxes)
    for number, (_, _, (left, top, width, height)) in enumerate(boxes):
        pixels = np.full((40, 60, 3), 40, "uint8")
        pixels[top : top + height, left : left + width] = 200
        Image.fromarray(pixels).save(tmp_path / names[number])
    source = open_splits(str(tmp_path), "train", None)[0]
    stream = stream_of(source, TrainTransform((80, 96), short_sides=(60, 80)), 6)
    for batch in (next(stream), next(stream)):
        for image, (box,), label, size in zip(
            batch["image"], batch["boxes"], batch["labels"], batch["size"], strict=True
        ):
            bright = image[: size[0], : size[1]].mean(axis=-1) > 120
            rows, columns = (np.flatnonzero(bright.any(axis=axis)) for axis in (1, 0))
            edges = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            np.testing.assert_allclose(box, edges, atol=1)
            assert label == [0]
    (tmp_path / "4.png").write_bytes(b"")

    def call(example):
        image, size = place(example["image"], (48, 48))
        return {"image": image, "size": size, "id": example["id"]}

    (batch,) = evaluation_batches(source, call, batch_size=6)
    np.testing.assert_array_equal(batch["counts"], np.arange(6) != 4)
    np.testing.assert_array_equal(batch["size"][0], (32, 48))


# The page of labelled photos


@pytest.mark.parametrize(("count", "size"), [(1, (60, 80)), (6, (60, 80)), (40, (800, 1344))])
def test_the_page_has_each_photo_with_its_boxes(tmp_path, count, size):
    """At most 16, four in a row, small ones enlarged and large ones shrunk."""
    images = np.full((count, *size, 3), 100.0)
    boxes = np.full((count, 3, 4), -1.0)
    height, width = size
    boxes[:, 0] = width / 4, height / 2, width / 2, height
    labels = np.tile([1, -1, -1], (count, 1))
    targets = {"boxes": boxes, "labels": labels}
    draw_labelled(tmp_path / "page.png", images, targets, ("bolt", "nut"))
    page = np.asarray(Image.open(tmp_path / "page.png"))
    shown = min(count, 16)
    height, width = (180, 240) if size == (60, 80) else (381, 640)
    columns, rows = min(shown, 4), -(-shown // 4)
    assert page.shape == (rows * (height + 4) - 4, columns * (width + 4) - 4, 3)
    for number in range(shown):
        row, column = divmod(number, 4)
        photo = page[row * (height + 4) :, column * (width + 4) :][:height, :width]
        assert (photo[: height // 4] == 100).all() and (photo[:, width * 5 // 8 :] == 100).all()
        painted = (photo == palette(2)[1]).all(axis=-1)
        columns_of_box = np.flatnonzero(painted[height * 3 // 4])
        assert abs(columns_of_box[0] - width // 4) <= 1
        assert abs(columns_of_box[-1] + 1 - width // 2) <= 1
    draw_labelled(tmp_path / "page.png", images[:2], targets)  # numbers in the place of names
