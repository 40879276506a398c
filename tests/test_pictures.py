"""One rule for pictures of all formats: training and prediction decode alike."""

import io
import os
import struct

import numpy as np
import pytest
from PIL import Image

from keras_sepvit.runtime.images import open_image
from keras_sepvit.training import images
from keras_sepvit.training.images import decode
from keras_sepvit.training.pipeline import batch_names
from keras_sepvit.training.sources.labelled import open_source
from keras_sepvit.training.tensorflow import tf

pytestmark = pytest.mark.once

ORIENTATION = 0x0112


def photo(height=40, width=56):
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), "uint8"))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_alpha(image):
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def deep():
    """16 bits, as (values, their high byte as RGB)."""
    values = np.random.default_rng(0).integers(0, 65536, (40, 56)).astype("uint16")
    return values, np.repeat((values >> 8)[..., None], 3, axis=-1)


def pgm(values):
    height, width = values.shape
    return b"P5 %d %d 65535\n" % (width, height) + values.astype(">u2").tobytes()


def tiff_of_twelve_bits(values):
    """Two values of 12 bits."""
    packed = bytes([values[0] >> 4, (values[0] & 15) << 4 | values[1] >> 8, values[1] & 255])
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
    tags.append((279, 3))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start = struct.pack("<2sHI", b"II", 42, 12)
    return start + packed + b"\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


def table():
    """Files by name, each with its pixels; None for lossy ones."""
    image = photo()
    pixels = np.asarray(image)
    grey = np.asarray(image.convert("L").convert("RGB"))
    palette = image.quantize(32)
    indexed = np.asarray(palette.convert("RGB"))
    values, high = deep()
    bits = np.asarray(image.convert("1").convert("RGB"))
    frames = {"save_all": True, "append_images": [image.rotate(180)]}
    clear = {"transparency": bytes(range(32))}
    lossless = {"lossless": True, "exact": True}
    return {
        "jpeg": (encode(image, "JPEG"), None),
        "jpeg, cmyk": (encode(image.convert("CMYK"), "JPEG"), None),
        "png": (encode(image, "PNG"), pixels),
        "png, grey": (encode(image.convert("L"), "PNG"), grey),
        "png, 1 bit": (encode(image.convert("1"), "PNG"), bits),
        "png, alpha": (encode(with_alpha(image), "PNG"), pixels),
        "png, grey and alpha": (encode(with_alpha(image.convert("L")), "PNG"), grey),
        "png, clear colour": (encode(image, "PNG", transparency=image.getpixel((0, 0))), pixels),
        "png, palette": (encode(palette, "PNG"), indexed),
        "png, clear palette": (encode(palette, "PNG", **clear), indexed),
        "png, 16 bits": (encode(Image.fromarray(values), "PNG"), high),
        "png, frames": (encode(image, "PNG", **frames), pixels),
        "bmp": (encode(image, "BMP"), pixels),
        "bmp, grey": (encode(image.convert("L"), "BMP"), grey),
        "bmp, 1 bit": (encode(image.convert("1"), "BMP"), bits),
        "bmp, palette": (encode(palette, "BMP"), indexed),
        "gif": (encode(palette, "GIF"), indexed),
        "gif, frames": (encode(palette, "GIF", save_all=True, append_images=[image]), indexed),
        "gif, clear colour": (encode(palette, "GIF", transparency=3), indexed),
        "webp": (encode(image, "WEBP"), None),
        "webp, alpha": (encode(with_alpha(image), "WEBP", **lossless), pixels),
        "webp, frames": (encode(image, "WEBP", **frames, lossless=True), pixels),
        "avif": (encode(image, "AVIF"), None),
        "tiff": (encode(image, "TIFF"), pixels),
        "tiff, pages": (encode(image, "TIFF", **frames), pixels),
        "tiff, cmyk": (encode(Image.new("CMYK", (9, 8), (255, 0, 0, 0)), "TIFF"), None),
        "tiff, 16 bits": (encode(Image.fromarray(values), "TIFF"), high),
        "tiff, 16 bits, motorola": (
            encode(Image.frombytes("I;16B", (56, 40), values.astype(">u2").tobytes()), "TIFF"),
            high,
        ),
        "tiff, 12 bits": (
            tiff_of_twelve_bits((0x123, 0xFED)),
            np.repeat(np.uint8([[[0x12], [0xFE]]]), 3, axis=-1),
        ),
        "pgm, 16 bits": (pgm(values), high),
    }


@pytest.mark.parametrize("name", table())
def test_both_decoders_read_the_same(name):
    content, expected = table()[name]
    trained, predicted = decode(content).numpy(), np.asarray(open_image(io.BytesIO(content)))
    np.testing.assert_array_equal(trained, predicted)
    assert trained.std() > 0 or name == "tiff, cmyk"
    if expected is not None:
        np.testing.assert_array_equal(trained, expected)
    height, width = trained.shape[:2]
    window = (height // 3, width // 4, height // 2 or 1, width // 2)
    part = decode(content, lambda size: tf.constant(window))
    if not name.startswith("jpeg"):  # where a part's last column may differ
        top, left, rows, columns = window
        np.testing.assert_array_equal(part, trained[top : top + rows, left : left + columns])


@pytest.mark.parametrize(("mode", "dtype"), [("F", "<f4"), ("I", "<i4")])
def test_pixels_without_a_range_are_refused_by_both(mode, dtype):
    values = np.arange(6).reshape(2, 3).astype(dtype)
    content = encode(Image.frombytes(mode, (3, 2), values.tobytes()), "TIFF")
    with pytest.raises(ValueError, match="no known range. Save it with 8 or 16 bits, unsigned"):
        open_image(io.BytesIO(content))
    with pytest.raises(tf.errors.InvalidArgumentError, match="no known range"):
        tf.function(decode)(content)


def noted(image, kind, orientation, how):
    """A file that notes an orientation: in EXIF, or in XMP as some editors do."""
    if how == "xmp":
        xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'
        return encode(image, kind, xmp=xmp.encode())
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(image, kind, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "how"),
    [("JPEG", "exif"), ("JPEG", "xmp"), ("PNG", "exif"), ("WEBP", "exif"), ("TIFF", "exif")],
)
def test_all_eight_orientations_are_upright(kind, how, orientation):
    # Orientation 6, say: the stored rows run from the top right corner down.
    upright = np.zeros((48, 64, 3), "uint8")
    upright[:16, :16] = 255, 0, 0
    upright[32:, :16] = 0, 255, 0
    upright[:16, 48:] = 0, 0, 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    content = noted(Image.fromarray(np.ascontiguousarray(stored)), kind, orientation, how)
    trained, predicted = decode(content).numpy(), np.asarray(open_image(io.BytesIO(content)))
    np.testing.assert_array_equal(trained, predicted)
    assert np.abs(trained.astype(int) - upright).mean() < 20  # of 255; lossy, at the edges
    sizes = []

    def choose(size):
        sizes.append(tuple(size.numpy()))
        return tf.constant((8, 32, 30, 32))  # of the upright image

    part = decode(content, choose).numpy()
    assert sizes == [(48, 64)]
    difference = np.abs(part.astype(int) - trained[8:38, 32:])
    assert part.shape == (30, 32, 3) and difference[1:-1, 1:-1].max() <= 2


def with_segments(content, *segments):
    """A JPEG with pairs of the number of an APP segment and its text in front of all else."""
    parts = (
        bytes((0xFF, 0xE0 + number)) + (len(text) + 2).to_bytes(2, "big") + text
        for number, text in segments
    )
    return content[:2] + b"".join(parts) + content[2:]


@pytest.mark.parametrize("how", ["exif", "xmp"])
@pytest.mark.parametrize(
    "front",
    {
        "nothing": [],
        "a thumbnail": [(13, encode(photo(200, 300), "JPEG"))],
        "two of 64 KB": [(13, bytes(65533)), (1, b"http://ns.adobe.com/xmp/" + bytes(65000))],
        "a profile of half a megabyte": [
            (2, b"ICC_PROFILE\0" + bytes((number, 8)) + bytes(65519)) for number in range(1, 9)
        ],
    }.items(),
    ids=lambda item: item[0],
)
def test_orientations_are_found_behind_other_metadata(front, how):
    content = noted(photo(30, 40), "JPEG", 6, how)
    content = with_segments(content, *front[1])
    np.testing.assert_array_equal(decode(content), open_image(io.BytesIO(content)))
    assert decode(content).shape == (40, 30, 3)


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("kind, orientation", [("H", 1), ("H", 8), ("I", 1), ("I", 3), ("B", 6)])
def test_orientations_of_any_type_are_read(byte_order, kind, orientation, monkeypatch):
    """Python is asked only where there is something to turn, or an unusual type."""
    exif = Image.Exif()
    exif.endian = byte_order
    value = struct.pack(byte_order + kind, orientation).ljust(4, b"\0")
    number = {"B": 1, "H": 3, "I": 4}[kind]
    entry = struct.pack(byte_order + "HHI", ORIENTATION, number, 1) + value
    mark = {"<": b"II*\0\x08\0\0\0", ">": b"MM\0*\0\0\0\x08"}[byte_order]
    block = b"Exif\0\0" + mark + struct.pack(byte_order + "H", 1) + entry + bytes(4)
    content = encode(photo(30, 40), "JPEG", exif=block)
    asked = []
    read = images._jpeg_orientation
    monkeypatch.setattr(images, "_jpeg_orientation", lambda x: asked.append(1) or read(x))
    np.testing.assert_array_equal(decode(content), open_image(io.BytesIO(content)))
    assert bool(asked) == (orientation != 1 or kind != "H")


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0junk"])
def test_damaged_metadata_do_not_hide_a_picture(exif):
    content = encode(photo(), "JPEG", exif=exif)
    plain = decode(encode(photo(), "JPEG"))
    np.testing.assert_array_equal(decode(content), plain)
    np.testing.assert_array_equal(open_image(io.BytesIO(content)), plain)


# Folders


def write(root, *paths):
    """A picture at each path that has an image's suffix, text at others."""
    for number, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        kind = {".tif": "TIFF", ".webp": "WEBP", ".png": "PNG"}.get(file.suffix.lower(), "JPEG")
        text = file.suffix in (".txt", ".heic", ".xml")
        file.write_bytes(b"text" if text else encode(photo(8 + number, 9), kind))
    return root


def contents(source):
    """Labels of a source's files by name; each file is decoded."""
    found = {}
    for example in source.examples(0, seed=0, shuffle=False).as_numpy_iterator():
        assert decode(example["image"]).shape[-1] == 3
        found[example["name"]] = example["label"]
    return found


def test_a_folder_loses_no_file(tmp_path):
    files = ("cat/a.webp", "cat/b.tif", "cat/c.jfif", "cat/2020/may/d.JPG", "dog/e.png")
    write(tmp_path, *files, "cat/x.heic", "dog/notes.txt", "dog/y.heic", "alone.jpg")
    write(tmp_path, "__MACOSX/cat/._a.jpg", "cat/._b.jpg", "cat/.hidden/f.jpg", "dog/Thumbs.db")
    (tmp_path / "empty").mkdir()
    write(tmp_path, "annotations/a.xml")
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
    source = open_source(str(tmp_path), "train")
    assert source.class_names == ("cat", "dog")
    assert contents(source) == {name.encode(): int(name[0] == "d") for name in files}
    assert source.skipped == (
        "no classes, without pictures: annotations, empty",
        "4 files not read, of other kinds (2 .heic, 1 .xml, 1 .txt)",
        "1 picture not read, outside of class folders",
    )
    assert str(source).endswith("5 images, 2 classes); " + "; ".join(source.skipped))


def test_names_that_are_no_utf8(tmp_path):
    folder = os.fsencode(write(tmp_path, "cat/a.jpg") / "cat")
    os.rename(folder + b"/a.jpg", folder + b"/caf\xe9.jpg")
    source = open_source(str(tmp_path), "train")
    assert contents(source) == {b"cat/caf\xe9.jpg": 0}
    assert batch_names(source, 0, 0, batch_size=1, seed=0) == ["cat/caf\ufffd.jpg"]
    os.rename(folder, os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(ValueError, match=r"class folder b'caf\\xe9' .* no UTF-8. Rename it"):
        open_source(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("files", "split", "expected"),
    [
        (("Train/a/1.jpg", "VALID/a/2.jpg"), "validation", {b"a/2.jpg": "a"}),
        (("train/a/1.jpg", "train/b/1.jpg", "val/b/2.jpg"), "validation", {b"b/2.jpg": "b"}),
        (("train/a/1.jpg", "validation/a/2.jpg"), "train", {b"a/1.jpg": "a"}),
        (("flowers/a/1.jpg", "flowers/b/1.jpg"), "train", {b"a/1.jpg": "a", b"b/1.jpg": "b"}),
        (("flowers/train/a/1.jpg", "flowers/val/a/2.jpg"), "validation", {b"a/2.jpg": "a"}),
        (("only/1.jpg", "only/2.jpg"), "train", {b"only/1.jpg": "only", b"only/2.jpg": "only"}),
        (("train/1.jpg", "bus/1.jpg"), "train", {b"bus/1.jpg": "bus", b"train/1.jpg": "train"}),
        (
            ("2/x.jpg", "01/x.jpg", "1/x.jpg"),
            "test",
            dict(zip((b"01/x.jpg", b"1/x.jpg", b"2/x.jpg"), ("01", "1", "2"), strict=True)),
        ),
    ],
    ids=str,
)
def test_folders_as_people_name_them(tmp_path, files, split, expected):
    source = open_source(str(write(tmp_path, *files)), split)
    found = {name: source.class_names[label] for name, label in contents(source).items()}
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        (("train/a/1.jpg", "holdout/a/1.jpg"), "validation", "It has: holdout, train"),
        (("train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"), "validation", "several folders.*valid"),
        (("train/1.jpg", "test/2.jpg"), "train", "no class folders in its folders test, train"),
        (("a/1.heic", "note.txt"), "train", "no class folders with pictures.*It has: a, note.txt"),
    ],
)
def test_folders_that_are_refused_tell_what_is_there(tmp_path, files, split, message):
    with pytest.raises(ValueError, match=message):
        open_source(str(write(tmp_path, *files)), split)
