"""Pictures of boxes with the names of their classes."""

import math

import numpy as np
from PIL import Image, ImageDraw

from keras_sepvit.fonts import legible, short
from keras_sepvit.validation import check_range, positive_int
from keras_sepvit.visualize.arguments import (
    SIDE_OF_A_LINE,
    check_names,
    checked_image,
    colour_of,
    font_of,
)
from keras_sepvit.visualize.pages import in_rows

_LEAST_FONT = 11  # pixels
# Pixels for one of a letter's height: of a picture's longer side, of its shorter one, and of the
# side of the square that each of its boxes would have as its share.
_SIDES_OF_A_LETTER = (45, 12, 6)
_LUMINANCE = (0.299, 0.587, 0.114)


def draw_boxes(image, boxes, labels, confidence=None, class_names=None, scale=1):
    """A picture with boxes and the names of their classes.

    Lines are as thin as the picture allows, and lie inside of their boxes. A name stands above
    its box, or where it covers fewest of the others and stays in the picture; the surest lie
    above the others.

    Args:
        image: uint8 array (height, width, 3).
        boxes: (n, 4): (left, top, right, bottom) in pixels of the image.
        labels: Ints (n,); rows with labels below 0 are left out.
        confidence: Optional (n,) of 0..1, written behind the names.
        class_names: Names of the classes by label. Numbers take the place of those with
            characters that no font of the machine has, and of all without names. From the 256th
            on, colours repeat.
        scale: Whole number of pixels of the picture for one of the image.

    Returns:
        A Pillow image of mode RGB.

    Raises:
        ValueError: for arrays of other shapes or types, sides that are not finite, a label
            without a name, and a `scale` below 1.
    """
    return draw_objects(image, boxes, labels, confidence, class_names, scale)


def draw_objects(image, boxes, labels, confidence, class_names, scale, paint=None):
    """As `draw_boxes`, on what is painted before.

    Args:
        paint: Function of the enlarged Pillow image, the rows of `labels` that are shown, the
            surest first, their colours, and the width of a line, that gives another such image.
    """
    picture = Image.fromarray(checked_image(image))
    scale = positive_int("scale", scale)
    labels = np.asarray(labels)
    if class_names is None:
        class_names = [f"class {number}" for number in range(int(labels.max(initial=-1)) + 1)]
    check_names("labels", labels, class_names, least=-math.inf)
    boxes = np.asarray(boxes, "float64") if len(labels) else np.empty((0, 4))
    if boxes.shape != (len(labels), 4):
        raise ValueError(
            "`boxes` must have the shape (n, 4) for n `labels`. Received: "
            f"{boxes.shape} for {len(labels)}."
        )
    if not np.isfinite(boxes[labels >= 0]).all():
        raise ValueError("`boxes` must be finite. Received NaN or infinite values.")
    if confidence is not None and np.shape(confidence) != labels.shape:
        raise ValueError(
            "`confidence` must have a number for each of `labels`. Received: "
            f"{np.shape(confidence)} for {len(labels)}."
        )
    shown = np.flatnonzero(labels >= 0)
    if confidence is not None:
        confidence = np.asarray(confidence)
        shown = shown[np.argsort(-confidence[shown], kind="stable")]
    picture = picture.resize((picture.width * scale, picture.height * scale))
    line = -(-max(picture.size) // SIDE_OF_A_LINE)
    colours = [colour_of(int(label)) for label in labels[shown]]
    if paint is not None:
        picture = paint(picture, shown, colours, line)
    draw = ImageDraw.Draw(picture)
    # A side far outside is no number for Pillow.
    corners = np.clip(scale * boxes[shown], -line, np.tile(picture.size, 2) + line)
    corners = np.rint(corners).astype("int64")
    for (left, top, right, bottom), colour in reversed([*zip(corners, colours, strict=True)]):
        end = max(right - 1, left), max(bottom - 1, top)
        draw.rectangle((left, top, *end), outline=colour, width=line)
    names, file = legible(class_names)
    share = math.isqrt(math.prod(picture.size) // max(len(shown), 1))
    sides = max(picture.size), min(picture.size), share
    heights = (side // pixels for side, pixels in zip(sides, _SIDES_OF_A_LETTER, strict=True))
    font = font_of(file, max(_LEAST_FONT, min(heights)))
    texts = [short(names[int(label)]) for label in labels[shown]]
    if confidence is not None:
        texts = [
            f"{text}  {share:.0%}" for text, share in zip(texts, confidence[shown], strict=True)
        ]
    _write(draw, picture.size, corners, texts, colours, font)
    return picture


def _write(draw, size, corners, texts, colours, font):
    """Writes the texts of boxes, the best first, each on a ground of its colour."""
    edges = [font.getbbox(text) for text in ("Ag", *texts)]
    up, down = min(edge[1] for edge in edges), max(edge[3] for edge in edges)
    pad = max((down - up) // 6, 1)
    height = down - up + 2 * pad
    rows, taken = [], np.empty((0, 4))
    for box, text, colour in zip(corners, texts, colours, strict=True):
        while text and font.getlength(text) + 2 * pad > size[0]:  # of a narrow picture
            text = text[:-1]
        place = _place(box, (math.ceil(font.getlength(text)) + 2 * pad, height), taken, size)
        taken = np.concatenate([taken, [place]])
        rows.append((place, text, colour))
    for (left, top, right, bottom), text, colour in reversed(rows):
        draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)
        ink = "black" if np.dot(_LUMINANCE, colour) > 110 else "white"
        draw.text((left + pad, top + pad - up), text, fill=ink, font=font)


def _place(box, label, taken, size):
    """Where a label of (width, height) covers least of the places that are `taken`.

    Above its box first, then below, inside at its top, inside at its bottom; always in the
    picture of `size`.
    """
    left, top, right, bottom = box
    width, height = label
    corners = [
        (x, y) for y in (top - height, bottom, top, bottom - height) for x in (left, right - width)
    ]
    corners = np.clip(corners, 0, np.maximum(np.subtract(size, label), 0))
    places = np.concatenate([corners, corners + label], axis=1)
    low = np.maximum(places[:, None, :2], taken[None, :, :2])
    high = np.minimum(places[:, None, 2:], taken[None, :, 2:])
    covered = np.maximum(high - low, 0).prod(axis=-1).sum(axis=-1)
    return places[covered.argmin()]


def detections_beside_truth(images, detections, truths, class_names, threshold=0.3, scale=3):
    """Pictures with the boxes found, above the same with the true ones.

    Args:
        images: uint8 arrays (height, width, 3), all of one size.
        detections: A dict for each of `"boxes"`, `"labels"` and `"confidence"`, as
            `draw_boxes` takes them.
        truths: A dict for each of `"boxes"` and `"labels"`.
        class_names: Names of the classes by label.
        threshold: Boxes with a confidence above it are drawn.
        scale: As for `draw_boxes`.

    Returns:
        A Pillow image of mode RGB.

    Raises:
        ValueError: as `draw_boxes` and `in_rows`; for no images, other numbers of `detections`
            or `truths`, and a `threshold` outside of 0..1.
    """
    check_range("threshold", threshold, 0, 1)
    if not len(images) == len(detections) == len(truths) > 0:
        raise ValueError(
            "`images`, `detections` and `truths` must be of one length, 1 at least. "
            f"Received: {len(images)}, {len(detections)} and {len(truths)}."
        )
    rows = [[], []]
    for image, found, truth in zip(images, detections, truths, strict=True):
        rows[0].append(
            draw_boxes(image, **sure(found, threshold), class_names=class_names, scale=scale)
        )
        rows[1].append(
            draw_boxes(image, truth["boxes"], truth["labels"], class_names=class_names, scale=scale)
        )
    return in_rows(rows, [f"found, above {threshold:.0%}", "true"])


def sure(found, threshold):
    """Of the dict of a picture's detections those with a confidence above `threshold`."""
    kept = np.asarray(found["confidence"]) > threshold
    keys = (key for key in ("boxes", "labels", "confidence", "masks") if key in found)
    return {key: np.asarray(found[key])[kept] for key in keys}
