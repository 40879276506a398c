"""Masks of objects: what is read, repaired and refused, how they are cropped, how they are told."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from test_detection_data import content_of, save_photo, write_yolo

tf = pytest.importorskip("tensorflow")
oracle = pytest.importorskip("pycocotools.mask")
pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")

from keras_sepvit.detection import sources as detection_sources  # noqa: E402
from keras_sepvit.detection.check import check_boxes  # noqa: E402
from keras_sepvit.detection.images import TrainTransform, inside  # noqa: E402
from keras_sepvit.detection.picture import draw_labelled  # noqa: E402
from keras_sepvit.detection.segmentations import Segmentations, compressed, crop_of  # noqa: E402
from keras_sepvit.instances.sources import open_source, open_splits  # noqa: E402
from keras_sepvit.runtime.masks import decode, encode, paste  # noqa: E402
from keras_sepvit.training.canvas import place  # noqa: E402
from keras_sepvit.training.masks import cropped  # noqa: E402
from keras_sepvit.training.pipeline import (  # noqa: E402
    batch_names,
    evaluation_batches,
    training_stream,
)
from keras_sepvit.training.sources.scenes import DigitScenes  # noqa: E402
from keras_sepvit.visualize import palette  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SIZE = 40, 60
BOX = 10, 5, 20, 30  # left, top, width, height
POLYGON = [10.0, 5.0, 30.0, 12.5, 26.0, 35.0, 14.25, 28.0]
PAIRS = np.reshape(POLYGON, (-1, 2)).tolist()
LEFT, RIGHT = [11, 6, 17, 6, 14, 20], [20, 6, 29, 6, 29, 20]
LOW = [11, 25, 17, 25, 14, 34]
RECTANGLE = [10, 5, 30, 5, 30, 35, 10, 35]


def bitmap_of(*polygons, size=SIZE):
    """By COCO's own functions, as bool."""
    parts = oracle.frPyObjects([list(map(float, part)) for part in polygons], *size)
    return oracle.decode(oracle.merge(parts)).astype(bool)


MASK = bitmap_of(POLYGON)
COUNTS = np.diff([0, *np.flatnonzero(np.diff(MASK.T.ravel())) + 1, MASK.size]).tolist()
COMPRESSED = encode(MASK)["counts"]


def write(folder, segmentations, boxes=None, ids=None, **fields):
    """A folder in COCO's form of a photo for each segmentation, with one object; ... for none."""
    names = [f"{number}.png" for number in range(len(segmentations))]
    boxes = boxes or [BOX] * len(names)
    content = content_of(names, [(number, 1, [*box]) for number, box in enumerate(boxes)])
    for row, value in zip(content["annotations"], segmentations, strict=True):
        row.update({} if value is ... else {"segmentation": value}, **fields)
    for name in names:
        save_photo(folder / name)
    for image, row in zip(content["images"], content["annotations"], strict=True):
        if ids is not None:
            row["image_id"] = image["id"] = ids[image["id"]]
    (folder / "train.json").write_text(json.dumps(content))
    return str(folder)


def mask_in(source, number=0):
    """The mask of a photo's first object, bool (height, width), or None."""
    (mask, *_) = source.truth(number)["masks"]
    return mask if mask is None else decode(mask)


# What files say


@pytest.mark.parametrize(
    ("value", "expected", "note"),
    [
        ([POLYGON], MASK, ""),
        (POLYGON, MASK, "repaired: 1 mask of one flat list, taken as a polygon"),
        (PAIRS, MASK, ""),
        ([PAIRS], MASK, ""),
        ([POLYGON, [3, 4, 5, 6]], MASK, "1 mask without its parts of less than three points"),
        ([POLYGON, []], MASK, "1 mask without its parts of less than three points"),
        ([LEFT, RIGHT], bitmap_of(LEFT, RIGHT), ""),
        ([LEFT, RIGHT, LOW, RECTANGLE], bitmap_of(RECTANGLE), ""),
        ([LEFT, RIGHT, LOW, LEFT], bitmap_of(LEFT, RIGHT, LOW), ""),
        ([[11, 6, 17, 6]] * 3 + [LEFT], bitmap_of(LEFT), "1 mask without its parts"),
        ([RECTANGLE], bitmap_of(RECTANGLE), "masks: 1 mask in the shape of a box"),
        ({"size": [*SIZE], "counts": COUNTS}, MASK, ""),
        ({"size": [*SIZE], "counts": COMPRESSED}, MASK, ""),
        ([[-20, 5, 30, 5, 30, 70]], bitmap_of([-20, 5, 30, 5, 30, 70]), "1 mask reaching out of"),
        ([[12, 6, 1e12, 6, 1e12, 30, 12, 30]], bitmap_of([12, 6, 90, 6, 90, 30, 12, 30]), "reach"),
        *(
            (value, None, "masks: 1 object without one")
            for value in (..., None, [], [[]], {}, "", {"counts": []}, [*BOX], [[*BOX]], [[1, 2]])
        ),
    ],
    ids=lambda value: str(value)[:30] if not isinstance(value, np.ndarray) else "",
)
def test_kinds_of_masks(tmp_path, value, expected, note):
    """Flat lists, pairs, parts of two points, empty ones, four parts, boxes: repaired, and told."""
    source = open_source(write(tmp_path, [value]), "train")
    assert note in str(source)
    assert ("repaired: 1 mask " in str(source)) == ("repaired" in note or "parts" in note)
    assert " 0 " not in str(source)
    mask = mask_in(source)
    if expected is None:
        assert mask is None
        with pytest.raises(ValueError, match=r"No object of the split 'train' has a mask.*Label"):
            open_splits(str(tmp_path), validation_split=None)
    else:
        np.testing.assert_array_equal(mask, expected)


NOT_A_NUMBER = float("nan")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[10, 5, NOT_A_NUMBER, 12, 26, 35]], r"segmentation \[\[10, 5, NaN.*Expected finite"),
        ([[10, 5, 30, float("inf"), 26, 35]], "Expected finite numbers"),
        ([[10, 5, 30, 12, 26]], "an x and a y for each point, but a part has 5 numbers"),
        ([["10", "5", "30", "12", "26", "35"]], "Expected polygons, a list of lists"),
        ([[True, 5, 30, 12, 26, 35]], "Expected polygons"),
        ([POLYGON, 7], "Expected polygons"),
        (7, "Expected polygons, a list of lists x, y"),
        ("PPYo0", 'has segmentation "PPYo0". Expected polygons'),
        ({"size": [60, 40], "counts": COUNTS}, r"size of its photo, \[40, 60\].*not \[60, 40\]"),
        ({"counts": COUNTS}, r"size of its photo, \[40, 60\].*not None"),
        ({"size": [*SIZE], "counts": COUNTS[:-1]}, "add up to the photo's 2,400 pixels, not to"),
        ({"size": [*SIZE], "counts": [10, -10, 2400]}, "run lengths, 0 or more"),
        ({"size": [*SIZE], "counts": [10, 10**12]}, "run lengths, 0 or more"),
        ({"size": [*SIZE], "counts": [0.5, 2399.5]}, "run lengths, 0 or more"),
        ({"size": [*SIZE], "counts": "zzz"}, "run lengths, 0 or more"),
        ({"size": [*SIZE], "counts": COMPRESSED[:9]}, "run lengths, 0 or more"),
    ],
)
def test_masks_that_are_refused(tmp_path, value, message):
    """By file and object, with the value; a detector, which needs none, reads the file."""
    folder = write(tmp_path, [[POLYGON], value])
    with pytest.raises(ValueError, match=message) as error:
        open_source(folder, "train")
    assert str(error.value).startswith(f"{tmp_path / 'train.json'}: annotations[1] (id 1) has segm")
    source = detection_sources.open_source(folder, "train")
    assert "masks" not in source.truth(0)
    assert "masks" not in next(iter(source.examples(0, seed=0, shuffle=False)))


def test_what_trains_has_its_masks(tmp_path):
    """Crowds are left out, boxes clipped with their masks, objects without one keep their box."""
    content = json.loads((tmp_path / write(tmp_path, [[POLYGON]] * 4) / "train.json").read_text())
    rows = content["annotations"]
    crowd = {"size": [*SIZE], "counts": COUNTS}
    rows[0] |= {"iscrowd": 1, "segmentation": crowd}
    rows += [dict(rows[1], id=7, image_id=0), dict(rows[1], id=8, image_id=0, segmentation=[])]
    rows[1] |= {"bbox": [20, 5, 60, 60], "segmentation": [[20, 5, 90, 5, 90, 90, 20, 90]]}
    rows[2] |= {"bbox": [40, 20, 10, 10]}  # far from its mask
    rows[3] |= {"segmentation": [[12, 6, 12.1, 6, 12.1, 6.1]]}  # no pixel
    (tmp_path / "train.json").write_text(json.dumps(content))
    source = open_splits(str(tmp_path), validation_split=None)[0]
    told = check_boxes(source).splitlines()
    assert "left out: 1 crowd" in told[0]
    assert (
        "masks: 1 object without one, 1 object whose mask shows nothing in its box, 1 mask "
        "reaching out of the photo, 1 mask in the shape of a box" in told[0]
    )
    assert [line.split() for line in told[2:]] == [
        ["class", "photos", "boxes", "masks"],
        ["bolt", "4", "5", "3"],
        ["nut", "0", "0", "0"],
        ["all", "4", "5", "3"],
    ]
    masks = [e["masks"] for e in source.examples(0, seed=0, shuffle=False).as_numpy_iterator()]
    assert {(mask.shape, mask.dtype.name) for mask in masks} == {((2, 112, 112), "uint8")}
    left, top, width, height = BOX
    expected = cropped(MASK[top : top + height, left : left + width], (0, 0, width, height))
    np.testing.assert_array_equal(masks[0], [expected, np.zeros((112, 112))])
    assert (masks[1][0] == 255).all() and not masks[1][1].any()  # the visible part is full
    assert not masks[2].any() and not masks[3].any()
    assert source.truth(0)["masks"] == [encode(MASK), None]
    # As in the file, to evaluate.
    source = open_source(str(tmp_path), "train")
    assert [*source.truth(0)["crowd"]] == [True, False, False]
    np.testing.assert_array_equal(decode(source.truth(0)["masks"][0]), MASK)
    assert source.truth(2)["masks"] == [encode(MASK)]


def test_a_photo_that_cannot_be_read_has_no_masks(tmp_path):
    """Where the file does not tell its size, either."""
    write(tmp_path, [{"size": [*SIZE], "counts": COUNTS}] * 2)
    content = json.loads((tmp_path / "train.json").read_text())
    del content["images"][0]["height"]
    (tmp_path / "train.json").write_text(json.dumps(content))
    (tmp_path / "0.png").write_bytes(b"no picture")
    source = open_source(str(tmp_path), "train")
    assert source.paths == ["1.png"] and "1 photo not read" in str(source)
    np.testing.assert_array_equal(mask_in(source), MASK)


def test_masks_by_the_ids_of_photos(tmp_path):
    """Also in a held-out tenth, and of photos in no order."""
    ids = ["b", "a", 7, "07", 0, -3, "é", "x/y", 2**40, "", "k", "l"]
    polygons = [[(np.float64(POLYGON) + number / 4).tolist()] for number in range(12)]
    for source in open_splits(write(tmp_path, polygons, ids=ids)):
        for number in range(source.size):
            name, _, truth = source.read(number)
            key = source.image_id(number)
            assert key == ids[int(name.removesuffix(".png"))]
            expected = bitmap_of(*polygons[ids.index(key)])
            assert truth["masks"] == source.masks_of(key) == [encode(expected)]


def test_yolo_polygons(tmp_path):
    """In shares of the photo; rows of boxes have no mask."""
    train, _ = open_splits(str(write_yolo(tmp_path)))
    assert "masks: 2 objects without one" in str(train)
    paths = [pathlib.Path(path).name for path in train.paths]
    assert train.truth(paths.index("a.jpg"))["masks"] == [None, None]
    points = np.reshape([0.5, 0.2, 1, 0.2, 1.0, 0.6, 0.75, 0.6], (-1, 2)) * SIZE[::-1]
    np.testing.assert_array_equal(mask_in(train, paths.index("b.png")), bitmap_of(points.ravel()))


# Crops


def shapes():
    """Bitmaps and boxes: large and tiny, thin, with holes, boxes of fractions and beyond."""
    rng = np.random.default_rng(1)
    for number in range(60):
        height, width = rng.integers(30, 420, 2)
        centre, radii = rng.uniform(0, (width, height)), rng.uniform(1, 150, 2)
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 24)))
        rays = rng.uniform(0.4, 1, len(angles))[:, None] * radii
        points = centre + rays * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        bitmap = bitmap_of(points.ravel(), size=(height, width))
        if number % 4 == 0:
            bitmap = bitmap & ~bitmap_of((centre + rays / 3 - 2).ravel(), size=bitmap.shape)
        if bitmap.any():
            rows, columns = (np.flatnonzero(bitmap.any(axis=axis)) for axis in (1, 0))
            box = np.float64([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            yield bitmap, box + rng.uniform(-1, 1, 4) * (number % 3 == 0)
    for side, row in ((3, 1), (200, 60)):  # tiny, and a thin line in a long box
        bitmap = np.zeros((side, 300), bool)
        bitmap[row, 5 : 5 + side] = True
        yield bitmap, np.float64([5, row, 5 + side, row + 1])
        bitmap[row - 1, 7] = True
        yield bitmap, np.float64([5, row - 1, 5 + side, row + 1])


def mean_of_cells(bitmap, box, cells):
    """The share of each of cells x cells parts of a box that a bitmap covers, by its integral."""
    means = np.float64(bitmap)
    for low, high in ((box[1], box[3]), (box[0], box[2])):
        edges, places = np.linspace(low, high, cells + 1), np.arange(len(means) + 1)
        sums = np.pad(means.cumsum(axis=0), ((1, 0), (0, 0)))
        at = np.stack([np.interp(edges, places, column) for column in sums.T], axis=1)
        means = (np.diff(at, axis=0) * cells / (high - low)).T
    return means


def overlap(one, other):
    return (one & other).sum() / max((one | other).sum(), 1)


def test_crops_keep_the_targets_of_full_masks():
    """Those of 28 x 28, and the pixels of the photo: an IoU of 0.98 at least."""
    checked = 0
    for bitmap, box in shapes():
        crop = cropped(bitmap, box)
        assert crop.shape == (112, 112) and crop.dtype == np.uint8
        np.testing.assert_allclose(crop, 255 * mean_of_cells(bitmap, box, 112), atol=0.51)
        exact, found = mean_of_cells(bitmap, box, 28), crop.reshape(28, 4, 28, 4).mean(axis=(1, 3))
        assert overlap(found >= 127.5, exact >= 0.5) >= 0.98
        rows, columns = np.indices(bitmap.shape) + 0.5
        inside = (box[0] <= columns) & (columns < box[2]) & (box[1] <= rows) & (rows < box[3])
        assert overlap(paste(crop / 255, box, bitmap.shape), bitmap & inside) >= 0.98
        checked += 1
    assert checked > 50


def test_polygons_become_pixels_where_they_are():
    """Only around them, with the pixels that COCO's functions give of the whole photo."""
    rng = np.random.default_rng(5)
    for _ in range(60):
        size = rng.integers(20, 90, 2)
        parts = [
            (rng.uniform(-20, 110, 2) + rng.normal(0, 15, (rng.integers(3, 9), 2))).ravel()
            for _ in range(rng.integers(1, 4))
        ]
        masks = Segmentations()
        masks.add([part.tolist() for part in parts], size)
        (mask,), (box,) = masks.columns().values()
        full = bitmap_of(*parts, size=size)
        np.testing.assert_array_equal(decode(compressed(mask, size)), full)
        box = box + rng.uniform(-9, 9, 4) * (-1, -1, 1, 1)
        np.testing.assert_array_equal(crop_of(mask, size, box), cropped(full, box))
    assert not cropped(full, (5, 5, 5, 9)).any()  # a box without area


# Augmentation


def ellipse(size, centre, radii):
    rows, columns = np.indices(size) + 0.5
    return ((columns - centre[0]) / radii[0]) ** 2 + ((rows - centre[1]) / radii[1]) ** 2 <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"crops": 0.0, "flip": 1.0, "short_sides": (90, 170, 320)},
        {"crops": 1.0, "short_sides": (200, 300), "visible": 0.2},
    ],
)
def test_masks_follow_pixels(options):
    """Through resizing, crops and flips, with their boxes and labels, which go on as without."""
    objects = [
        ellipse((192, 288), (80, 60), (43, 31)) & ~ellipse((192, 288), (80, 60), (20, 12)),
        ellipse((192, 288), (200, 120), (6, 60)),
        ellipse((192, 288), (262, 30), (20, 24)),
    ]
    photo = np.stack([220 * np.uint8(mask) for mask in objects], axis=-1)
    spans = [[np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1)] for mask in objects]
    boxes = [[x[0], y[0], x[-1] + 1, y[-1] + 1] for x, y in spans] + [[-1] * 4] * 2
    boxes = np.float32(boxes)[[0, 3, 1, 2, 4]]  # padding in between, too
    masks = [cropped(mask, box) for mask, box in zip(objects, boxes[[0, 2, 3]], strict=True)]
    masks = np.insert(masks, [1, 3], 0, axis=0)
    labels = np.int32([0, -1, 1, 2, -1])
    transform = TrainTransform((330, 500), **options)
    data = tf.data.Dataset.range(40).map(lambda number: tf.cast(tf.stack([3, number]), tf.int32))
    calls = [
        data.map(lambda seed, more=more: transform(photo, boxes, labels, seed, *more))
        for more in ((masks,), ())
    ]
    cut = gone = 0
    for with_masks, without in zip(*(call.as_numpy_iterator() for call in calls), strict=True):
        for one, other in zip(with_masks[:4], without, strict=True):
            np.testing.assert_array_equal(one, other)
        canvas, moved, kept, size, shown = with_masks
        assert shown.shape == masks.shape and shown.dtype == np.uint8
        assert not shown[kept < 0].any()
        gone += 3 - np.sum(kept >= 0)
        for box, label, mask in zip(moved, kept, shown, strict=True):
            if label < 0:
                continue
            sides = box[2:] - box[:2]
            cut += not mask[:, [0, -1]].max(axis=0).min() or (box[:2] == 0).any()
            bright = canvas[..., label] > 110
            bright[size[0] :] = bright[:, size[1] :] = False
            found = paste(mask / 255, box, bright.shape)
            assert overlap(found, bright) >= (0.9 if sides.min() < 12 else 0.96), (label, box)
    assert (cut > 10 and gone > 10) == bool(options["crops"])


@pytest.mark.parametrize("scale", [1, 6])
def test_a_part_of_a_mask_is_that_of_the_full_one(scale):
    """Where a quarter of both sides is visible: the targets of it have an IoU of 0.98 at least."""
    rng = np.random.default_rng(3)
    size, centre, radii = scale * np.array([[150, 200], [90, 70], [66, 52]])
    bitmap = ellipse(size, centre, radii) & ~ellipse(size, 0.8 * centre, 0.3 * radii)
    box = np.concatenate([centre - radii, centre + radii]).astype("float32")
    whole, checked = cropped(bitmap, box), 0
    for _ in range(80):
        corner = np.tile(rng.integers(0, 110 * scale, 2), 2)
        part = rng.integers(30 * scale, 130 * scale, 2)
        boxes = tf.constant([box - corner], tf.float32)
        boxes, labels, masks = inside(
            boxes, tf.constant([4]), part, 0.0, tf.constant(whole[np.newaxis])
        )
        shown = boxes[0].numpy() + corner
        if labels[0] < 0 or ((shown - box)[2:] - (shown - box)[:2] < -1.5 * radii).any():
            continue
        found = masks[0].numpy().reshape(28, 4, 28, 4).mean(axis=(1, 3))
        assert overlap(found >= 127.5, mean_of_cells(bitmap, shown, 28) >= 0.5) >= 0.98
        checked += 1
    assert checked > 30


# Through the pipeline


def test_scenes_have_masks():
    train, validation = open_splits("scenes")
    scene = validation._scenes[3]
    truth = validation.truth(3)
    assert truth["masks"] == validation.masks_of(3) == [*map(encode, scene.masks)]
    arrays = DigitScenes("validation", 4).arrays()
    examples = validation.examples(0, seed=0, shuffle=False).take(4).as_numpy_iterator()
    for example, masks in zip(examples, arrays["masks"], strict=True):
        assert masks.shape == (6, 112, 112) == example["masks"].shape
        np.testing.assert_array_equal(example["masks"], masks)
        assert (masks.any(axis=(1, 2)) == (example["labels"] >= 0)).all()
    assert train.most == 12
    assert check_boxes(validation).splitlines()[-1].split() == ["all", "200", "661", "661"]


def test_batches_have_masks(tmp_path):
    """In training and evaluation, beside a photo that cannot be read."""
    folder = write(tmp_path, [[POLYGON], [], POLYGON, [LEFT, RIGHT], [RECTANGLE]])
    (tmp_path / "2.png").write_bytes(b"")
    source = open_source(folder, "train")
    transform = TrainTransform((80, 96), flip=0, short_sides=80)

    def call(example, seed):
        keys = "image", "boxes", "labels", "size", "masks"
        values = transform(
            example["image"], example["boxes"], example["labels"], seed, example["masks"]
        )
        return dict(zip(keys, values, strict=True))

    batch = next(training_stream(source, call, batch_size=5, seed=0).as_numpy_iterator())
    assert batch["masks"].shape == (5, 1, 112, 112)
    order = batch_names(source, 0, 0, batch_size=5, seed=0)
    for name, box, mask in zip(order, batch["boxes"][:, 0], batch["masks"][:, 0], strict=True):
        np.testing.assert_allclose(box, np.float32([10, 5, 30, 35]) * 1.6, atol=1e-4)
        if name != "2.png":
            (expected,) = source.truth(int(name[0]))["masks"]
            expected = np.zeros(SIZE, bool) if expected is None else decode(expected)
            np.testing.assert_array_equal(mask, cropped(expected, (10, 5, 30, 35)))
    evaluated = evaluation_batches(
        source,
        lambda example: {
            "image": place(example["image"], (48, 48))[0],
            "masks": example["masks"],
        },
        batch_size=3,
    )
    (first, second) = evaluated.as_numpy_iterator()
    assert first["masks"].shape == (3, 1, 112, 112) and [*first["counts"]] == [True, True, False]


def test_the_page_shows_masks(tmp_path):
    """In the colour of the class, within the box; objects without one are boxes."""
    images = np.full((2, 60, 80, 3), 100.0)
    boxes = np.tile(np.float32([20, 10, 60, 50]), (2, 2, 1))
    masks = np.zeros((2, 2, 112, 112), "uint8")
    masks[0, 0, :, :56] = 255
    targets = {"boxes": boxes, "labels": np.int32([[1, -1], [1, -1]]), "masks": masks}
    draw_labelled(tmp_path / "page.png", images, targets, ("bolt", "nut"))
    page = np.asarray(Image.open(tmp_path / "page.png"), int)
    colour = np.array(palette(2)[1], int)
    # Enlarged three times; away from outlines.
    left, right, other = page[90, 75], page[90, 150], page[90, 240 + 4 + 75]
    assert np.abs(left - (colour + 100) / 2).max() <= 1
    assert (right == 100).all() and (other == 100).all()
