"""Class maps in files, masks: what is read, and the check of all of a data set. With Pillow."""

import contextlib

import numpy as np
from PIL import Image

from keras_sepvit.runtime.images import orientation, upright
from keras_sepvit.segmentation.losses import IGNORED
from keras_sepvit.training.sources.photos import in_threads, size_lines

# Kinds of files whose values Pillow gives as they were written. PGM's it scales.
_LOSSLESS = ("PNG", "TIFF", "BMP", "GIF")
_SAVE = "Save masks as PNG, grey of 8 bits or with a palette, whose values are the classes."


def read_map(file, first=0):
    """The class map in a mask's file, upright.

    A pixel's value is its class: of grey with 8 or 16 bits the number itself, of a palette the
    index, whatever the colours are, of 1 bit 0 or 1. 255 is ignored. Of several frames the first
    counts.

    Args:
        file: Path of a PNG, TIFF, BMP or GIF file.
        first: The value of class 0. Values below are ignored, those above become smaller; of
            ADE20K it is 1.

    Returns:
        uint8 array (height, width): classes from 0 on, and 255.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, is of another kind or compressed as JPEG, has more than
            one channel, grey of 2 or 4 bits (which programs scale), or values that are no classes.
    """
    try:
        with Image.open(file) as image:
            fault = _fault(image)
            if not fault:
                image.load()  # a TIFF is upright now, a PNG has its metadata
                values = np.asarray(upright(image, orientation(image)))
    except FileNotFoundError:
        raise FileNotFoundError(f"File not found: {file}.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} cannot be read as a mask: {error}") from error
    if fault:
        raise ValueError(f"{file} is no mask of class numbers: {fault}. {_SAVE}")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > IGNORED:
        raise ValueError(
            f"{file} has the value {high if high > IGNORED else low}. Expected classes, 0 to "
            f"{IGNORED - 1}, and {IGNORED} for pixels that are ignored."
        )
    values = values.astype("uint8")
    if first:
        values = np.where((values < first) | (values == IGNORED), IGNORED, values - first)
    return values.astype("uint8")


def _fault(image):
    """Why an open image is no class map; an empty text if it is one."""
    if image.format not in _LOSSLESS or image.info.get("compression") == "jpeg":
        kind = "JPEG" if image.format in ("JPEG", "MPO", "TIFF") else image.format
        return f"{kind} does not keep values as they are"
    if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
        return f"its mode is {image.mode}, in the place of L, P, 1 or I;16"
    # What Pillow will do to the values: "L;4" are multiplied by 17, "L;I" inverted.
    decoder = image.tile[0][3] if image.tile else ""
    raw = decoder if isinstance(decoder, str) else decoder[0]
    if image.mode == "L" and str(raw).startswith("L;"):
        return "its grey has fewer than 8 bits, or is inverted, so that values are scaled"
    return ""


def check_map(class_map, classes, photo_size, path, first=0):
    """Refuses a class map with other classes, or of another size than its photo.

    Args:
        class_map: As `read_map` gives it.
        classes: Number of classes.
        photo_size: (height, width) of the upright photo.
        path: The mask's file, for the message.
        first: As for `read_map`.

    Raises:
        ValueError: naming the file, the value or both sizes, and what to do.
    """
    if class_map.shape != tuple(photo_size):
        sizes = "{} x {}, its photo {} x {} (height x width, upright)".format(
            *class_map.shape, *photo_size
        )
        raise ValueError(f"{path} is {sizes}. A mask has a value for each pixel of its photo.")
    highest = np.max(class_map, where=class_map != IGNORED, initial=0)
    if highest >= classes:
        raise ValueError(
            f"{path} has the value {highest + first}, but there are {classes} classes: expected "
            f"{first} to {classes + first - 1}, and {IGNORED} for pixels that are ignored. Correct "
            "the mask, or name all classes in classes.txt."
        )


def check_maps(source):
    """Reads all class maps of a source, before anything is trained on them.

    Args:
        source: One of `keras_sepvit.segmentation.sources`.

    Returns:
        Lines for a terminal: the data, sizes of the photos, and by class the images that have it
        and its share of the pixels. Photos that cannot be read are told: training leaves them
        out.

    Raises:
        ValueError: for the first mask that cannot be read or does not fit its photo and the
            classes, naming it; if no class but 0 has a pixel and others are ignored, as in masks
            of 0 and 255, or all are.
    """

    def read(number):
        try:
            size = source.photo_size(number)
        except OSError as error:
            return error
        return size, np.bincount(source.read_map(number, size).ravel(), minlength=IGNORED + 1)

    pixels, images = np.zeros((2, IGNORED + 1), "int64")
    sizes, unreadable = [], []
    with contextlib.closing(in_threads(read, range(source.size))) as results:
        for result in results:
            if isinstance(result, Exception):
                unreadable.append(result)
                continue
            size, counts = result
            sizes.append(size)
            pixels += counts
            images += counts > 0
    if not sizes:
        raise ValueError(f"None of the photos of {source} can be read: {unreadable[0]}")
    _check_binary(source, pixels)
    return "\n".join(_lines(source, sizes, unreadable, pixels, images))


def _check_binary(source, pixels):
    found = np.flatnonzero(pixels[:IGNORED])
    if pixels[IGNORED] and not found[found > 0].size:
        have = f"0 and {IGNORED}" if found.size else IGNORED
        raise ValueError(
            f"The masks of {source.name} ({source.split}) have no other values than {have}. "
            f"{IGNORED} is the ignored label, no class: write 1 for the second class."
        )


def _lines(source, sizes, unreadable, pixels, images):
    names = source.class_names or [f"class {number}" for number in range(source.classes)]
    yield str(source)
    yield from size_lines(sizes, unreadable)
    width = max(map(len, [*names, "ignored"]))
    yield f"{'class':{width}} {'images':>8} {'% of pixels':>12}"
    for name, number in [*zip(names, range(source.classes), strict=True), ("ignored", IGNORED)]:
        share = 100 * pixels[number] / pixels.sum()
        yield f"{name:{width}} {images[number]:>8,} {share:>12.2f}"
