"""Pictures of boxes and class maps, drawn with Pillow. Without Keras."""

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_sepvit.files import replacing
from keras_sepvit.fonts import legible, short

_GAP = 6
_IGNORED = 255  # as in `keras_sepvit.segmentation.losses`
_GROUND = "background"  # the name of a class that is not coloured
_LEAST_FONT = 13  # pixels


def palette(classes):
    """The colours of classes: uint8 (classes, 3).

    A class has the same colour whatever the number of classes, at most 255.
    """
    return _colours()[:classes]


@functools.cache
def _colours():
    """255 colours, each as far from those before it as one can be."""
    levels = np.rint(np.linspace(0, 255, 8)).astype("int64")
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[np.ptp(grid, axis=1) > 70]  # no greys, which photos are full of
    chosen = [np.array([255, 73, 36])]
    distances = np.full(len(grid), np.iinfo("int64").max)
    while len(chosen) < _IGNORED:
        # Green counts most for the eye. In integers, so that all machines choose alike.
        new = np.sum((2, 4, 3) * (grid - chosen[-1]) ** 2, axis=1)
        distances = np.minimum(distances, new)
        chosen.append(grid[distances.argmax()])
    return np.array(chosen, "uint8")


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
    font = _font(file, max(10, picture.height // 24))
    colours = palette(len(class_names))
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


def draw_class_map(image, class_map, class_names=None, opacity=0.6, scale=1, legend=True):
    """A picture under the colours of a class map, with the names of the classes in it.

    Pixels of 255, which have no class, stay as they are, and those of a class named
    "background".

    Args:
        image: uint8 array (height, width, 3).
        class_map: Ints (height, width): classes from 0 on, at most 254, and 255.
        class_names: Names of the classes by number. Numbers take the place of those with
            characters that no font of the machine has, and of all without names.
        opacity: Of the colours, 0..1.
        scale: Whole number of pixels of the picture for one of the image.
        legend: Whether the names stand below or beside the picture.

    Returns:
        A Pillow image of mode RGB.

    Raises:
        ValueError: for a class map of another size or type, or of a class without a name.
    """
    class_map = _checked_class_map(class_map)
    if image.shape != (*class_map.shape, 3):
        raise ValueError(
            "`image` must have the shape (height, width, 3) with the size of `class_map`. "
            f"Received: {image.shape} and {class_map.shape}."
        )
    counts = np.bincount(class_map.ravel(), minlength=_IGNORED + 1)
    found = np.flatnonzero(counts[:_IGNORED])
    if class_names is None:
        class_names = [f"class {number}" for number in range(found.max(initial=0) + 1)]
    elif found.max(initial=0) >= len(class_names):
        raise ValueError(
            f"`class_map` has the class {found.max()}, but there are {len(class_names)} "
            f"`class_names`: its classes must be 0 to {len(class_names) - 1}, or 255 for none."
        )
    shown = _coloured(found, class_names)
    coloured = np.isin(np.arange(_IGNORED + 1), shown)[class_map][..., None]
    paint = np.concatenate([palette(_IGNORED), [[0, 0, 0]]])[class_map]
    mixed = np.rint((1 - opacity) * image + opacity * paint)
    picture = Image.fromarray(np.where(coloured, mixed, image).astype("uint8"))
    picture = picture.resize(
        (scale * picture.width, scale * picture.height), Image.Resampling.NEAREST
    )
    return with_legend(picture, shown, class_names) if legend else picture


def _coloured(classes, class_names):
    return [number for number in classes if str(class_names[number]).lower() != _GROUND]


def with_legend(picture, classes, class_names, size=None):
    """A picture with colours and names of classes below it or to its right.

    Args:
        picture: A Pillow image of mode RGB.
        classes: Numbers of the classes; that of the background has no colour.
        class_names: Names of all classes by number.
        size: Of the letters, in pixels; by default as the picture's longer side allows to read.

    Returns:
        A Pillow image of mode RGB, of the shape with the shortest longer side.
    """
    classes = _coloured(classes, class_names)
    if not classes:
        return picture
    names, file = legible(class_names)
    names = [short(names[number]) for number in classes]
    size = size or max(_LEAST_FONT, max(picture.size) // 70)
    font = _font(file, size)
    line, column = round(1.5 * size), 3 * size + int(max(map(font.getlength, names)))
    layouts = []
    for columns in range(1, len(names) + 1):
        rows = -(-len(names) // columns)
        width, height = columns * column, rows * line + size // 2
        for left, top in ((0, picture.height), (picture.width, 0)):
            sides = max(left + width, picture.width), max(top + height, picture.height)
            layouts.append((max(sides), min(sides), sides, left, top, rows))
    *_, sides, left, top, rows = min(layouts)
    sheet = Image.new("RGB", sides, "white")
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for place, (number, name) in enumerate(zip(classes, names, strict=True)):
        x = left + size // 2 + place // rows * column
        y = top + size // 2 + place % rows * line
        draw.rectangle((x, y, x + size, y + size), fill=tuple(map(int, palette(_IGNORED)[number])))
        draw.text((x + 1.5 * size, y + size / 2), name, fill="black", font=font, anchor="lm")
    return sheet


def save_class_map(path, class_map):
    """Writes a class map as a PNG with a palette: its pixels are the classes.

    The colours are those of `palette`; 255 is black.

    Args:
        path: The file, whose name ends in .png.
        class_map: Ints (height, width): classes from 0 on, at most 254, and 255.

    Raises:
        ValueError: for another suffix, or an array that is no class map.
    """
    if not str(path).lower().endswith(".png"):
        raise ValueError(f"Class maps are written as .png. Received: path={str(path)!r}.")
    image = Image.fromarray(_checked_class_map(class_map))
    image.putpalette(palette(_IGNORED).tobytes() + bytes(3))
    with replacing(path) as temporary:
        image.save(temporary)


def _checked_class_map(class_map):
    """A class map as uint8; refuses other arrays."""
    class_map = np.asarray(class_map)
    if class_map.ndim != 2 or class_map.dtype.kind not in "ui" or not class_map.size:
        raise ValueError(
            "`class_map` must be ints of shape (height, width). "
            f"Received: {class_map.dtype} {class_map.shape}."
        )
    if class_map.min() < 0 or class_map.max() > _IGNORED:
        raise ValueError(
            "`class_map` must have classes from 0 to 254, and 255 for none. Received values of "
            f"{class_map.min()} to {class_map.max()}."
        )
    return class_map.astype("uint8")


def _font(file, size):
    """A font of so many pixels, from the file that `legible` gives."""
    return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)


def in_rows(rows, titles, font=None):
    """Pictures side by side: a title for each row above it.

    Args:
        rows: Lists of Pillow images, all of one size.
        titles: The rows' titles.
        font: The file of the titles' font; None for Pillow's, with the characters of Latin-1.

    Returns:
        A Pillow image of mode RGB.
    """
    width, height = rows[0][0].size
    font = _font(font, 16)
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
