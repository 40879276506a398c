"""Pictures of boxes, class maps, attention among windows, by Pillow. Without Keras."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_sepvit.files import replacing
from keras_sepvit.fonts import legible, short
from keras_sepvit.palette import palette
from keras_sepvit.validation import check_range, positive_int, window_pair

_GAP = 6
_IGNORED = 255  # as in `keras_sepvit.segmentation.losses`
_GROUND = "background"  # the name of a class that is not coloured
_LEAST_FONT = 13  # pixels
_SIDE_OF_A_LINE = 500  # pixels of a picture's longer side for one of an outline's width


def draw_boxes(image, boxes, labels, class_names, confidence=None, scale=1):
    """A picture with boxes and the names of their classes.

    Args:
        image: uint8 array (height, width, 3).
        boxes: (n, 4): (left, top, right, bottom) in pixels of the image.
        labels: Ints (n,); rows with labels below 0 are left out.
        class_names: Names of the classes by label. Numbers take the place of those with
            characters that no font of the machine has. From the 256th on, colours repeat.
        confidence: Optional (n,) of 0..1, written behind the names.
        scale: Whole number of pixels of the picture for one of the image.

    Returns:
        A Pillow image of mode RGB.

    Raises:
        ValueError: for arrays of other shapes or types, sides that are not finite, a label
            without a name, and a `scale` below 1.
    """
    picture = Image.fromarray(_checked_image(image))
    scale = positive_int("scale", scale)
    labels = np.asarray(labels)
    _check_names("labels", labels, class_names, least=-math.inf)
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
    picture = picture.resize((picture.width * scale, picture.height * scale))
    draw = ImageDraw.Draw(picture)
    class_names, file = legible(class_names)
    font = _font(file, max(10, picture.height // 24))
    order = np.arange(len(labels)) if confidence is None else np.argsort(confidence, kind="stable")
    for number in order:  # the surest last, above the others
        label = int(labels[number])
        if label < 0:
            continue
        left, top, right, bottom = (scale * float(side) for side in boxes[number])
        colour = tuple(map(int, palette(_IGNORED)[label % _IGNORED]))
        draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour)
        text = class_names[label]
        if confidence is not None:
            text += f" {confidence[number]:.0%}"
        ground = draw.textbbox((left + 1, top + 1), text, font=font)
        draw.rectangle(ground, fill=colour)
        draw.text((left + 1, top + 1), text, fill=(0, 0, 0), font=font)
    return picture


def draw_window_attention(image, attention, window, window_size, scale=1):
    """A picture on which each window is as bright as another one attends to it (PSA).

    Args:
        image: uint8 array (height, width, 3).
        attention: Weights (heads, windows, windows), whose mean over heads is drawn: of a
            picture, what `SepViTBlock.window_attention` gives.
        window: (row, column), from 0, of the window that attends. It gets a frame.
        window_size: (height, width) of a window in pixels of the image: positions of the map
            times its stride. The last windows may reach beyond the image.
        scale: Whole number of pixels of the picture for one of the image.

    Returns:
        A Pillow image of mode RGB.

    Raises:
        ValueError: for arrays of other shapes or types, windows that are not those of the image,
            weights that are negative or not finite, and a `scale` below 1.
    """
    image, scale = _checked_image(image), positive_int("scale", scale)
    height, width = window_pair("window_size", window_size)
    rows, columns = -(-image.shape[0] // height), -(-image.shape[1] // width)
    weights = np.asarray(attention, "float64")
    if weights.ndim != 3 or weights.shape[1:] != (rows * columns,) * 2 or not np.all(weights >= 0):
        raise ValueError(
            "`attention` must be weights from 0 on, (heads, windows, windows), with the "
            f"{rows} x {columns} windows of {height} x {width} pixels of the image. "
            f"Received: {weights.dtype} {weights.shape}."
        )
    row, column = window
    if not (0 <= row < rows and 0 <= column < columns):
        raise ValueError(f"`window` must be one of {rows} x {columns}. Received: window={window}.")
    light = weights.mean(axis=0)[row * columns + column].reshape(rows, columns)
    light = light / max(light.max(), np.finfo("float64").tiny)
    light = light.repeat(height, axis=0).repeat(width, axis=1)[: image.shape[0], : image.shape[1]]
    picture = np.stack([image.mean(axis=-1) * (0.15 + 0.85 * light)] * 3, axis=-1)
    picture[..., 0] += 90 * light  # warm where it is bright, on black photos too
    picture = Image.fromarray(np.clip(np.rint(picture), 0, 255).astype("uint8"))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.NEAREST)
    top, left, bottom, right = (
        row * height,
        column * width,
        (row + 1) * height,
        (column + 1) * width,
    )
    end = min(scale * right, picture.width) - 1, min(scale * bottom, picture.height) - 1
    line = max(round(max(picture.size) / _SIDE_OF_A_LINE), 1)
    frame = (scale * left, scale * top, *end)
    ImageDraw.Draw(picture).rectangle(frame, outline=(0, 255, 255), width=line)
    return picture


def draw_class_map(image, class_map, class_names=None, opacity=0.6, scale=1, legend=True):
    """A picture under the colours of a class map, with the names of the classes in it.

    Areas have an outline in the full colour, that of the legend. Within, the picture is grey
    below the colour, so that it changes no hue. Pixels of 255, which have no class, stay as they
    are, and those of a class named "background".

    Args:
        image: uint8 array (height, width, 3).
        class_map: Ints (height, width): classes from 0 on, at most 254, and 255.
        class_names: Names of the classes by number. Numbers take the place of those with
            characters that no font of the machine has, and of all without names.
        opacity: Of the colours within the outlines, 0..1.
        scale: Whole number of pixels of the picture for one of the image.
        legend: Whether the names stand below or beside the picture.

    Returns:
        A Pillow image of mode RGB.

    Raises:
        ValueError: for an image or a class map of another size or type, a class without a name,
            an `opacity` outside of 0..1, and a `scale` below 1.
    """
    image, class_map = _checked_image(image), _checked_class_map(class_map)
    check_range("opacity", opacity, 0, 1)
    scale = positive_int("scale", scale)
    if image.shape != (*class_map.shape, 3):
        raise ValueError(
            "`image` must have the shape (height, width, 3) with the size of `class_map`. "
            f"Received: {image.shape} and {class_map.shape}."
        )
    counts = np.bincount(class_map.ravel(), minlength=_IGNORED + 1)
    found = np.flatnonzero(counts[:_IGNORED])
    if class_names is None:
        class_names = [f"class {number}" for number in range(found.max(initial=0) + 1)]
    _check_names("class_map", found, class_names)
    shown = _coloured(found, class_names)
    # Enlarged first: outlines are as thin in pictures of any scale.
    image, class_map = (x.repeat(scale, 0).repeat(scale, 1) for x in (image, class_map))
    coloured = np.isin(np.arange(_IGNORED + 1), shown)[class_map][..., None]
    paint = np.concatenate([palette(_IGNORED), np.zeros((1, 3), "uint8")])[class_map]
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    outline = _outline(class_map, -(-max(class_map.shape) // _SIDE_OF_A_LINE))[..., None]
    mixed = np.where(outline, paint, np.rint((1 - opacity) * grey + opacity * paint))
    picture = Image.fromarray(np.where(coloured, mixed, image).astype("uint8"))
    return with_legend(picture, shown, class_names) if legend else picture


def _outline(class_map, width):
    """Where pixels of another class are at most `width` above, below, left or right."""
    outline = np.zeros(class_map.shape, bool)
    for classes, near in ((class_map, outline), (class_map.T, outline.T)):
        for distance in range(1, width + 1):
            differs = classes[distance:] != classes[:-distance]
            near[distance:] |= differs
            near[: len(differs)] |= differs
    return outline


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

    Raises:
        ValueError: for what is no Pillow image, a class without a name, and a `size` below 1.
    """
    if not isinstance(picture, Image.Image):
        raise ValueError(
            f"`picture` must be a Pillow image. Received: {type(picture).__name__}. "
            "`PIL.Image.fromarray` makes one of an array."
        )
    _check_names("classes", np.asarray(classes), class_names)
    classes = _coloured(classes, class_names)
    if not classes:
        return picture
    names, file = legible(class_names)
    names = [short(names[number]) for number in classes]
    default = max(_LEAST_FONT, max(picture.size) // 70)
    size = default if size is None else positive_int("size", size)
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
        draw.rectangle(
            (x, y, x + size, y + size), fill=tuple(map(int, palette(_IGNORED)[number % _IGNORED]))
        )
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


def _checked_image(image):
    """An image as an array; refuses what is none of 0..255."""
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != "uint8" or not array.size:
        got = f"{array.dtype} {array.shape}" if array.ndim else f"{type(image).__name__} {image!r}"
        raise ValueError(
            f"`image` must be a uint8 array of shape (height, width, 3). Received: {got}. Multiply "
            "floats of 0..1 by 255; `keras_sepvit.runtime.images.read_photo` reads files."
        )
    return array


def _check_names(name, numbers, class_names, least=0):
    """Refuses numbers of classes below `least`, and those without a name."""
    kind = numbers.dtype.kind if numbers.size else "u"
    if numbers.ndim != 1 or kind not in "uif" or (numbers % 1 != 0).any():
        raise ValueError(
            f"`{name}` must be whole numbers of classes, in one row. "
            f"Received: {numbers.dtype} {numbers.shape}."
        )
    wrong = numbers[(numbers < least) | (numbers >= len(class_names))]
    if wrong.size:
        raise ValueError(
            f"`{name}` has the class {wrong[0]}, but there are {len(class_names)} `class_names`, "
            f"for the classes 0 to {len(class_names) - 1}. Give a name for each class."
        )


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

    Raises:
        ValueError: for no pictures, those of several sizes, and another number of titles.
    """
    sizes = {picture.size for row in rows for picture in row}
    if len(sizes) != 1 or not rows[0]:
        raise ValueError(
            "`rows` must be lists of pictures, all of one size, with one in the first at least. "
            f"Received: {len(rows)} rows, of the sizes {sorted(sizes)}."
        )
    if len(titles) != len(rows):
        raise ValueError(
            f"`titles` must have one for each row. Received: {len(titles)} for {len(rows)} rows."
        )
    ((width, height),) = sizes
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
        shown = np.asarray(found["confidence"]) >= threshold
        boxes, labels, confidence = (
            np.asarray(found[name])[shown] for name in ("boxes", "labels", "confidence")
        )
        rows[0].append(draw_boxes(image, boxes, labels, class_names, confidence, scale))
        rows[1].append(draw_boxes(image, truth["boxes"], truth["labels"], class_names, scale=scale))
    return in_rows(rows, [f"found, from {threshold:.0%} on", "true"])
