"""Pictures side by side, and with a legend."""

import numpy as np
from PIL import Image, ImageDraw

from keras_sepvit.fonts import legible, short
from keras_sepvit.validation import positive_int
from keras_sepvit.visualize.arguments import check_names, colour_of, font_of

_GAP = 6
_GROUND = "background"  # the name of a class that is not coloured
_LEAST_FONT = 13  # pixels


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
    font = font_of(font, 16)
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


def in_columns(rows, titles, columns, font=None, least_width=1):
    """Groups of pictures, each side by side below its title, in columns, row by row.

    Args:
        rows: Lists of Pillow images, all as long as one another; of any sizes.
        titles: Their titles.
        columns: How many groups stand side by side.
        font: As for `in_rows`.
        least_width: Of a picture's place.

    Returns:
        A Pillow image of mode RGB. Each of its rows is as high as the pictures in it.
    """
    width = max(least_width, *(picture.width for row in rows for picture in row))
    lines = []
    for start in range(0, len(rows), columns):
        line = slice(start, start + columns)
        size = width, max(picture.height for row in rows[line] for picture in row)
        lines.append(
            [
                in_rows([[_on_white(picture, size) for picture in row]], [title], font)
                for row, title in zip(rows[line], titles[line], strict=True)
            ]
        )
    block = lines[0][0].width
    sheet = Image.new(
        "RGB", (len(lines[0]) * block, sum(line[0].height for line in lines)), "white"
    )
    top = 0
    for line in lines:
        for number, picture in enumerate(line):
            sheet.paste(picture, (number * block, top))
        top += line[0].height
    return sheet


def _on_white(picture, size):
    ground = Image.new("RGB", size, "white")
    ground.paste(picture)
    return ground


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
    check_names("classes", np.asarray(classes), class_names)
    classes = coloured_classes(classes, class_names)
    if not classes:
        return picture
    names, file = legible(class_names)
    names = [short(names[number]) for number in classes]
    default = max(_LEAST_FONT, max(picture.size) // 70)
    size = default if size is None else positive_int("size", size)
    font = font_of(file, size)
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
        draw.rectangle((x, y, x + size, y + size), fill=colour_of(number))
        draw.text((x + 1.5 * size, y + size / 2), name, fill="black", font=font, anchor="lm")
    return sheet


def coloured_classes(classes, class_names):
    return [number for number in classes if str(class_names[number]).lower() != _GROUND]
