"""One rule for pictures of all formats: training and prediction decode alike."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from keras_sepvit.runtime.images import open_image
from keras_sepvit.training.images import decode
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


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0junk"])
def test_damaged_metadata_do_not_hide_a_picture(exif):
    content = encode(photo(), "JPEG", exif=exif)
    plain = decode(encode(photo(), "JPEG"))
    np.testing.assert_array_equal(decode(content), plain)
    np.testing.assert_array_equal(open_image(io.BytesIO(content)), plain)
