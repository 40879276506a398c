"""Masks and folders of photos with masks: what is read, what is refused, and how it is told."""

import io
import os
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

tf = pytest.importorskip("tensorflow")

from keras_sepvit.segmentation.images import decode_map  # noqa: E402
from keras_sepvit.segmentation.maps import check_maps, read_map  # noqa: E402
from keras_sepvit.segmentation.picture import draw_maps  # noqa: E402
from keras_sepvit.segmentation.sources import open_source, open_splits  # noqa: E402
from keras_sepvit.training.pipeline import evaluation_batches, training_stream  # noqa: E402
from keras_sepvit.training.sources.photos import upright_size  # noqa: E402
from keras_sepvit.training.sources.scenes import DigitScenes  # noqa: E402
from keras_sepvit.visualize import palette as palette_of_classes  # noqa: E402

pytestmark = pytest.mark.once

SHAPE = (32, 24)


def scene(classes=3, shape=SHAPE, seed=0):
    """A class map of large regions, all classes in it."""
    coarse = np.random.default_rng(seed).permutation(np.arange(12).reshape(4, 3) % classes)
    return coarse.repeat(shape[0] // 4, axis=0).repeat(shape[1] // 3, axis=1).astype("uint8")


def grey(values):
    return Image.fromarray(values.astype("uint8"))


def palette(values, bits=8):
    image = grey(values)
    image.putpalette(
        np.random.default_rng(1).integers(0, 256, 3 * 2**bits).astype("uint8").tobytes()
    )
    return image


def transparent(values):
    image = grey(values)
    image.info["transparency"] = 1
    return image


def sixteen(values):
    return Image.fromarray(values.astype("uint16"))


def write(folder, name, mask, classes=("ground", "grün", "青"), photo=None):
    """Adds a photo and its mask, an image or an array, to a folder."""
    mask = grey(mask) if isinstance(mask, np.ndarray) else mask
    photo = photo or Image.new("RGB", mask.size, (90, 120, 30))
    for kind, image, suffix in (("images", photo, ".jpg"), ("masks", mask, ".png")):
        path = folder / kind / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    if classes:
        (folder / "classes.txt").write_text("\n".join(classes), "utf-8")
    return folder


def loaded(source):
    """Names and class maps by the graph, in the order of the data."""
    elements = source.examples(0, seed=0, shuffle=False).as_numpy_iterator()
    return [(os.fsdecode(element["name"]), element["map"]) for element in elements]


def assert_read(source, expected):
    """That a source gives these maps by name, in the graph and without."""
    names = [source.read(number)[0] for number in range(source.size)]
    assert names == [name for name, _ in loaded(source)] == [*expected]
    for number, (_, class_map) in enumerate(loaded(source)):
        name, photo, other = source.read(number)
        assert photo.shape == (*class_map.shape, 3) and photo.dtype == other.dtype == "uint8"
        np.testing.assert_array_equal(class_map, expected[name])
        np.testing.assert_array_equal(other, expected[name])


# Masks


@pytest.mark.parametrize(
    ("make", "kind", "classes"),
    [
        (grey, "png", 3),
        (palette, "png", 3),
        (lambda x: palette(x, bits=2), "png", 3),
        (palette, "gif", 3),
        (palette, "bmp", 3),
        (grey, "tiff", 3),
        (sixteen, "png", 3),
        (sixteen, "tiff", 3),
        (lambda x: Image.fromarray(x.astype("int32")), "tiff", 3),
        (lambda x: Image.fromarray(x.astype(bool)), "png", 2),
        (lambda x: grey(np.where(x == 2, 255, x)), "png", 3),
        (transparent, "png", 3),
    ],
)
def test_all_kinds_of_masks_are_the_same_numbers(tmp_path, make, kind, classes):
    class_map = scene(classes)
    image = make(class_map)
    path = tmp_path / f"mask.{kind}"
    image.save(path, **({"bits": 2} if image.mode == "P" and kind == "png" else {}))
    expected = class_map
    if 255 in np.asarray(image).astype(int):
        expected = np.where(class_map == 2, 255, class_map)
    np.testing.assert_array_equal(read_map(path), expected)
    np.testing.assert_array_equal(decode_map(str(path)), expected)
    # ADE20K's: 0 is ignored, and 255 stays.
    shifted = np.where(expected == 0, 255, np.where(expected == 255, 255, expected - 1))
    np.testing.assert_array_equal(read_map(path, first=1), shifted)
    np.testing.assert_array_equal(decode_map(str(path), first=1), shifted)


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("where", ["jpg", "png"])
def test_photos_and_masks_are_upright(tmp_path, number, where):
    """A bright rectangle and its mask agree, stored in any orientation."""
    class_map = scene(2)
    turned = Image.fromarray(class_map * 200)
    inverse = {6: 8, 8: 6}.get(number, number)
    if inverse > 1:
        turned = turned.transpose((None, 0, 3, 1, 5, 4, 6, 2)[inverse - 1])
    exif = Image.Exif()
    exif[0x0112] = number
    write(tmp_path, "a", class_map, ("ground", "thing"))
    if where == "jpg":
        turned.convert("RGB").save(tmp_path / "images" / "a.jpg", exif=exif, quality=95)
    else:
        grey(np.asarray(turned) // 200).save(tmp_path / "masks" / "a.png", exif=exif)
        grey(class_map * 200).convert("RGB").save(tmp_path / "images" / "a.jpg", quality=95)
    assert upright_size(tmp_path / "images" / "a.jpg") == SHAPE
    source = open_source(str(tmp_path), "train")
    _, photo, labels = source.read(0)
    np.testing.assert_array_equal(labels, class_map)
    np.testing.assert_array_equal(loaded(source)[0][1], class_map)
    assert ((photo.mean(axis=-1) > 100) == labels).mean() > 0.97
    check_maps(source)


def jpeg(values):
    file = io.BytesIO()
    grey(values).save(file, "JPEG")
    return Image.open(file)


def of_mode(mode):
    return lambda values: Image.fromarray(values).convert("L").convert(mode)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (of_mode("LA"), {}, "its mode is LA, in the place of L, P, 1 or I;16"),
        (of_mode("RGB"), {}, "its mode is RGB,"),
        (of_mode("RGBA"), {}, "its mode is RGBA,"),
        (jpeg, {"format": "JPEG"}, "JPEG does not keep values"),
        (of_mode("F"), {"format": "TIFF"}, "its mode is F,"),
        (grey, {"format": "TIFF", "compression": "jpeg"}, "JPEG does not keep values"),
        (grey, {"format": "PPM"}, "PPM does not keep values"),
        (grey, {"bits": 4}, "fewer than 8 bits"),
        (lambda x: sixteen(x + np.uint16(300)), {}, "has the value 302. Expected classes, 0 to"),
    ],
)
def test_masks_of_other_kinds_are_refused(tmp_path, make, options, message):
    """By one line that names file and mode, whatever reads them; also before training."""
    path = tmp_path / "masks" / "b.png"
    write(write(tmp_path, "a", scene()), "b", scene())
    make(scene()).save(path, **{"format": "PNG", **options})
    for call in (lambda: read_map(path), lambda: check_maps(open_source(str(tmp_path), "train"))):
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.function(decode_map)(tf.constant(str(path)))


@pytest.mark.parametrize(
    ("mask", "classes", "message"),
    [
        (255 * scene(2), 2, "no other values than 0 and 255. 255 is the ignored label, no class"),
        (np.full(SHAPE, 255), 3, "no other values than 255. 255 is the ignored label"),
        (scene(4), 3, r"b.png has the value 3, but there are 3 classes: expected 0 to 2, and 255"),
        (scene(3, (24, 33)), 3, r"b.png is 24 x 33, its photo 32 x 24 \(height x width, upright\)"),
        (scene(3).T, 3, r"b.png is 24 x 32, its photo 32 x 24"),
        (b"no picture", 3, r"b.png cannot be read as a mask"),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path, mask, classes, message):
    names = ("ground", "thing", "other")[:classes]
    write(tmp_path, "b", scene(2), names)
    if isinstance(mask, bytes):
        (tmp_path / "masks" / "b.png").write_bytes(mask)
    else:
        grey(mask).save(tmp_path / "masks" / "b.png")
    source = open_source(str(tmp_path), "train")
    with pytest.raises(ValueError, match=message) as error:
        check_maps(source)
    assert "\n" not in str(error.value)
    if "no other values" not in message:
        with pytest.raises(ValueError, match=message):
            source.read(0)


def test_the_check_counts_by_class(tmp_path):
    class_map = np.zeros(SHAPE, "uint8")
    class_map[:8], class_map[8:16, :6] = 2, 255
    write(write(tmp_path, "a", class_map), "b", np.zeros((40, 24), "uint8"))
    lines = check_maps(open_source(str(tmp_path), "train")).splitlines()
    assert lines[0].startswith(f"folder:{tmp_path} (train, 2 images, 3 classes)")
    assert lines[1] == "photos of 32 x 24 to 40 x 24 pixels"
    rows = {line.split()[0]: line.split()[1:] for line in lines[3:]}
    pixels = 72 * 24
    assert rows == {
        "ground": ["2", f"{100 * (pixels - 240) / pixels:.2f}"],
        "grün": ["0", "0.00"],
        "青": ["1", f"{100 * 192 / pixels:.2f}"],
        "ignored": ["1", f"{100 * 48 / pixels:.2f}"],
    }

    (tmp_path / "images" / "b.jpg").write_bytes(b"no picture")
    source = open_source(str(tmp_path), "train")
    assert "left out, 1 photo that cannot be read: " in check_maps(source)
    with pytest.raises(OSError, match="b.jpg cannot be read"):
        source.read(1)
    (tmp_path / "images" / "a.jpg").unlink()
    (tmp_path / "masks" / "a.png").unlink()
    with pytest.raises(ValueError, match="None of the photos of"):
        check_maps(open_source(str(tmp_path), "train"))


# Folders

LAYOUTS = {
    "splits inside": ("images/train", "masks/train", "images/val", "masks/val"),
    "in splits": ("Train/Images", "Train/masks", "valid/images", "valid/MASKS"),
    "other names of splits": (
        *("Images/training", "annotations/train"),
        *("Images/Validation", "annotations/validation"),
    ),
    "in a folder": ("data/images/train", "data/masks/train", "data/images/val", "data/masks/val"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_splits(tmp_path, layout):
    places = [tmp_path / place for place in LAYOUTS[layout]]
    expected = [{}, {}]
    names = ("a.JPG", "in/side/b.v2.webp", "été 1.png"), ("c.tif", os.fsdecode(b"in/\xff.jpeg"))
    for number, (images, masks) in enumerate((places[:2], places[2:])):
        for name in names[number]:
            class_map = scene(3, seed=len(name))
            mask = (masks / name).with_suffix(".PNG" if name == "c.tif" else ".png")
            for path, image in ((images / name, grey(class_map)), (mask, palette(class_map))):
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
            expected[number][name] = class_map
    (places[0] / "notes.json").write_text("{}")
    (places[1] / ".DS_Store").write_text("")
    train, validation = open_splits(f"folder:{tmp_path}")
    for source, maps in ((train, expected[0]), (validation, expected[1])):
        assert_read(source, maps)
        assert (source.classes, source.class_names, source.whole) == (3, None, False)
        assert "no classes.txt: its masks have the classes 0 to 2" in str(source)
    assert (train.split, validation.split) == ("train", "validation")
    assert open_source(str(tmp_path), "val").masks == validation.masks
    assert "1 file not read, of other kinds (1 .json)" in str(train)
    with pytest.raises(ValueError, match=r"no folder for the split 'test'. It has: .*rain"):
        open_source(str(tmp_path), "test")


def test_a_name_from_a_mac_is_the_same(tmp_path):
    write(tmp_path, "é", scene())
    mask = tmp_path / "masks" / "é.png"
    mask.rename(mask.with_name(unicodedata.normalize("NFD", "é") + ".png"))
    assert_read(open_source(str(tmp_path), "test"), {"é.jpg": scene()})


def test_without_splits_a_tenth_is_held_out(tmp_path):
    for number in range(23):
        write(tmp_path, f"{number // 10}/{number}", scene(3, seed=number))
    train, validation = open_splits(str(tmp_path), "train", "validation")
    assert (train.split, validation.split) == ("train-fold0", "validation-fold0")
    assert (train.size, validation.size) == (21, 2)
    assert "held out for validation: 2 images, a tenth" in str(train)
    assert train.class_names == validation.class_names == ("ground", "grün", "青")
    assert not {*train.paths} & {*validation.paths}
    folds = [open_source(str(tmp_path), f"validation-fold{fold}") for fold in range(10)]
    paths = sum((fold.paths for fold in folds), [])
    whole = open_source(str(tmp_path), "validation")
    assert sorted(paths) == sorted(whole.paths) and len(paths) == whole.size == 23
    assert whole.whole and not train.whole
    assert open_splits(str(tmp_path), "train", None)[1] is None
    with pytest.raises(ValueError, match="23 images of .* in common. Hold out a tenth"):
        open_splits(str(tmp_path), "train", "test")
    with pytest.raises(ValueError, match="'train-fold0' to 'train-fold9'"):
        open_source(str(tmp_path), "train-fold10")
    with pytest.raises(ValueError, match="no folder for the split 'mine', nor for others"):
        open_source(str(tmp_path), "mine")


@pytest.mark.parametrize("table", [True, False])
def test_ade20k(tmp_path, table):
    """0 is ignored and the rest counts from 1; other data in the same folders are as they are."""
    root = tmp_path / "ADEChallengeData2016"
    stored = scene(3)
    stored[0, :3] = 0, 150, 151
    for split, kind in (("training", "train"), ("validation", "val")):
        for folder, image in (("images", grey(stored)), ("annotations", grey(stored))):
            place = root / folder / split
            place.mkdir(parents=True)
            suffix = ".jpg" if folder == "images" else ".png"
            image.save(place / f"ADE_{kind}_00000001{suffix}")
    if table:
        rows = ["Idx\tRatio\tTrain\tVal\tName"]
        rows += [f"{number}\t0.1\t9\t9\tname {number}, other" for number in range(1, 151)]
        (root / "objectInfo150.txt").write_text("\n".join(rows))
    train, validation = open_splits(str(tmp_path))
    assert train.classes == validation.classes == 150
    names = tuple(f"name {number}" for number in range(1, 151))
    assert train.class_names == validation.class_names == (names if table else None)
    assert "labels of ADE20K: 0 is ignored, 1 is the first class" in str(train)
    with pytest.raises(
        ValueError, match="has the value 151, but there are 150 classes: expected 1"
    ):
        check_maps(train)
    stored[0, 2] = 255
    grey(stored).save(root / "annotations/training/ADE_train_00000001.png")
    expected = np.where(stored == 0, 255, np.where(stored == 255, 255, stored - 1))
    assert_read(train, {"ADE_train_00000001.jpg": expected})
    assert expected[0, 1] == 149
    check_maps(train)

    # The same folders with other names, as of DRIVE: 0 is a class.
    (root / "objectInfo150.txt").unlink(missing_ok=True)
    for path in [*root.rglob("ADE*")]:
        path.rename(path.with_name(path.name.replace("ADE_", "")))
    assert open_splits(str(tmp_path))[0].classes == 152
    assert np.unique(open_splits(str(tmp_path))[0].read(0)[2])[0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: [(x / f"masks/{name}.png").unlink() for name in "bd"],
            r"2 of '.*images' without a mask: b.jpg, d.jpg",
        ),
        (lambda x: (x / "images/c.jpg").unlink(), r"1 of '.*masks' without a photo: c.png"),
        (
            lambda x: [(x / "images/c.jpg").unlink(), (x / "masks/a.png").unlink()],
            "without a mask: a.jpg; 1 of .*masks' without a photo: c.png",
        ),
        (
            lambda x: shutil.copy(x / "images/a.jpg", x / "images/a.jpeg"),
            "two files of one name: a.jpeg, a.jpg",
        ),
        (lambda x: shutil.rmtree(x / "masks"), "no folders images and masks.*It has: images,"),
        (lambda x: (x / "classes.txt").write_text("\n" * 3), r"classes.txt' has 0 lines"),
        (lambda x: (x / "classes.txt").write_text("a\n" * 256), r"has 256 lines. .* of 1 to 255"),
        (lambda x: [shutil.rmtree(x / "masks"), (x / "masks").mkdir()], "4 of .* without a mask"),
        (
            lambda x: [[path.unlink() for path in (x / y).iterdir()] for y in ("images", "masks")],
            "holds no images",
        ),
    ],
)
def test_folders_that_are_refused(tmp_path, change, message):
    for name in "abcd":
        write(tmp_path, name, scene())
    change(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        open_source(str(tmp_path), "train")
    assert "\n" not in str(error.value)


def test_names_that_are_no_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder '.*nowhere'"):
        open_splits(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(
        NotADirectoryError, match="is a file. Expected a folder of images and masks"
    ):
        open_source(f"folder:{tmp_path / 'file'}", "train")
    write(tmp_path, "a", np.full(SHAPE, 255), classes=None)
    with pytest.raises(ValueError, match="No pixel of the masks in '.*' has a class"):
        open_source(str(tmp_path), "train")


# Scenes, and the way into batches


def test_scenes():
    train, validation = open_splits("scenes")
    assert (train.size, validation.size) == (4_000, 200)
    assert train.classes == 11 and train.class_names[:2] == ("background", "0")
    expected = DigitScenes("train", 4_000, digits=(4, 12))[17]
    name, image, class_map = train.read(17)
    assert name == "scenes/train:17"
    np.testing.assert_array_equal(image, expected.image)
    np.testing.assert_array_equal(class_map, expected.class_map)
    examples = validation.examples(0, seed=0, shuffle=False).take(3).as_numpy_iterator()
    for number, example in enumerate(examples):
        name, image, class_map = validation.read(number)
        assert example["name"].decode() == name
        np.testing.assert_array_equal(example["image"], image)
        np.testing.assert_array_equal(example["map"], class_map)
    lines = check_maps(validation).splitlines()
    assert lines[1] == "photos of 128 x 128 pixels" and len(lines) == 3 + 12
    with pytest.raises(ValueError, match="no split 'test'"):
        open_source("scenes", "test")


def test_batches_of_a_folder(tmp_path):
    """Photos and masks come together through the pipeline; damaged masks are left out."""
    for number in range(6):
        shape = (32 + 4 * (number % 3), 24)
        class_map = scene(3, shape, seed=number)
        write(tmp_path, str(number), class_map, photo=grey(80 * class_map))
    source = open_source(str(tmp_path), "train")

    def transform(example, seed=None):
        image = tf.io.decode_jpeg(example["image"], 3)[:32, :24]
        image, labels = tf.ensure_shape(image, (32, 24, 3)), example["map"][:32, :24]
        return {"image": image, "map": tf.ensure_shape(labels, (32, 24))}

    stream = training_stream(source, transform, batch_size=6, seed=1)
    for batch in stream.take(2).as_numpy_iterator():
        close = np.abs(batch["image"].mean(axis=-1) - 80.0 * batch["map"]) < 30
        assert close.mean() > 0.97
    (tmp_path / "masks" / "4.png").write_bytes(b"")
    batches = evaluation_batches(source, transform, batch_size=6)
    (batch,) = batches.as_numpy_iterator()
    np.testing.assert_array_equal(batch["counts"], np.arange(6) != 4)


# The page of labelled photos


@pytest.mark.parametrize("count", [1, 6, 40])
def test_the_page_has_each_photo_under_its_classes(tmp_path, count):
    """At most 16, four in a row; 255 and the ground are as they were. Names stand beside them."""
    names = ("background", "grün", "other")
    images = np.arange(count)[:, None, None, None] * np.ones((1, 60, 80, 3)) + 100.0
    maps = np.zeros((count, 60, 80), "int32")
    maps[:, 10:20, :40], maps[:, 30:40, 50:70], maps[:, 50:] = 1, 2, 255
    draw_maps(tmp_path / "page.png", images, maps, names)
    page = np.asarray(Image.open(tmp_path / "page.png"))
    shown, scale = min(count, 16), 3
    columns, rows = min(shown, 4), -(-shown // 4)
    height, width = scale * (64 * rows - 4), scale * (84 * columns - 4)
    assert page.shape[0] > height or page.shape[1] > width  # a legend
    for number in range(shown):
        row, column = divmod(number, 4)
        photo = page[scale * 64 * row :, scale * 84 * column :][: 60 * scale : scale, ::scale][
            :, :80
        ]
        ground = 100 + number
        assert (photo[:10] == ground).all() and (photo[50:] == ground).all()
        # Within their outlines.
        for label, place in ((1, photo[11:19, 1:39]), (2, photo[31:39, 51:69])):
            paint = 0.4 * ground + 0.6 * palette_of_classes(3)[label]
            np.testing.assert_allclose(place, np.broadcast_to(paint, place.shape), atol=1)
    draw_maps(tmp_path / "page.png", images, maps)  # numbers in the place of names
