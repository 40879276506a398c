"""Pictures of boxes and class maps, drawn with Pillow. Without Keras."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_sepvit.fonts import legible

_GAP = 6


def class_colours(count):
    """`count` colours that are told apart: uint8 (count, 3)."""
    golden = 0.618  # hues of neighbours lie far apart
    hues = (0.03 + golden * np.arange(count)) % 1
    colours = [colorsys.hsv_to_rgb(hue, 0.85, 1.0) for hue in hues]
    return np.rint(255 * np.array(colours).reshape(-1, 3)).astype("uint8")


def draw_boxes(image, boxes, labels, class_names, confidence=None, scale=1):
    """A picture with boxes and the names of their classes.

    Args:
        image: uint8 array (height, width, 3).
        boxes: (n, 4): (left, top, right, bottom) in pixels of the image.
        labels: Ints (n,); rows with labels below 0 are left out.
        class_names: Names of the classes by label. Numbers take the place of those with
            characters that no font of the machine has.
        confidence: Optional (n,) of 0..1, written behind the names.
        scale: Whole number of pixels of the picture for one of the image.

    Returns:
        A Pillow image of mode RGB.
    """
    picture = Image.fromarray(image)
    picture = picture.resize((picture.width * scale, picture.height * scale))
    draw = ImageDraw.Draw(picture)
    class_names, file = legible(class_names)
    size = max(10, picture.height // 24)
    font = ImageFont.truetype(file, size) if file else ImageFont.load_default(size)
    colours = class_colours(len(class_names))
    order = np.arange(len(labels)) if confidence is None else np.argsort(confidence, kind="stable")
    for number in order:  # the surest last, above the others
        label = int(labels[number])
        if label < 0:
            continue
        left, top, right, bottom = (scale * float(side) for side in boxes[number])
        colour = tuple(map(int, colours[label]))
        draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour)
        text = class_names[label]
        if confidence is not None:
            text += f" {confidence[number]:.0%}"
        ground = draw.textbbox((left + 1, top + 1), text, font=font)
        draw.rectangle(ground, fill=colour)
        draw.text((left + 1, top + 1), text, fill=(0, 0, 0), font=font)
    return picture


def draw_class_map(image, class_map, classes, opacity=0.6, scale=1):
    """A picture under the colours of a class map.

    Args:
        image: uint8 array (height, width, 3).
        class_map: Ints (height, width); 0, the ground, and 255, ignored, are not coloured.
        classes: Number of classes, with the ground.
        opacity: Of the colours, 0..1.
        scale: Whole number of pixels of the picture for one of the image.

    Returns:
        A Pillow image of mode RGB.
    """
    colours = class_colours(classes)
    class_map = np.asarray(class_map)
    coloured = (class_map > 0) & (class_map < classes)
    paint = colours[np.where(coloured, class_map, 0)]
    mixed = (1 - opacity) * image + opacity * paint
    pixels = np.where(coloured[..., None], np.rint(mixed), image).astype("uint8")
    picture = Image.fromarray(pixels)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def in_rows(rows, titles):
    """Pictures side by side: a title for each row above it.

    Args:
        rows: Lists of Pillow images, all of one size.
        titles: The rows' titles.

    Returns:
        A Pillow image of mode RGB.
    """
    width, height = rows[0][0].size
    font = ImageFont.load_default(size=16)
    line = 24
    columns = max(map(len, rows))
    sheet = Image.new(
        "RGB",
        (_GAP + columns * (width + _GAP), _GAP + len(rows) * (line + height + _GAP)),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for row, (pictures, title) in enumerate(zip(rows, titles, strict=True)):
        top = _GAP + row * (line + height + _GAP)
        draw.text((_GAP, top), title, fill="black", font=font)
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (_GAP + column * (width + _GAP), top + line))
    return sheet


def detections_beside_truth(images, detections, truths, class_names, threshold=0.3, scale=3):
    """Pictures with the boxes found, above the same with the true ones.

    Args:
        images: uint8 arrays (height, width, 3), all of one size.
        detections: A dict for each of `"boxes"`, `"labels"` and `"confidence"`, as
            `draw_boxes` takes them.
        truths: A dict for each of `"boxes"` and `"labels"`.
        class_names: Names of the classes by label.
        threshold: Least confidence of what is drawn.
        scale: As for `draw_boxes`.

    Returns:
        A Pillow image of mode RGB.
    """
    rows = [[], []]
    for image, found, truth in zip(images, detections, truths, strict=True):
        shown = np.asarray(found["confidence"]) >= threshold
        boxes, labels, confidence = (
            np.asarray(found[name])[shown] for name in ("boxes", "labels", "confidence")
        )
        rows[0].append(draw_boxes(image, boxes, labels, class_names, confidence, scale))
        rows[1].append(draw_boxes(image, truth["boxes"], truth["labels"], class_names, scale=scale))
    return in_rows(rows, [f"found, from {threshold:.0%} on", "true"])
