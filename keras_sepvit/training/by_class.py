"""Results by class, of any task: tables for people and for programs, and the worst pictures."""

import csv
import json
import unicodedata

import numpy as np

from keras_sepvit.files import replacing
from keras_sepvit.fonts import shortened
from keras_sepvit.training.picture import SHOWN, draw_confusion, draw_images

# Rows of a table on a terminal; of more classes, those with the lowest results.
_SHOWN_ROWS = 30
_LETTERS = 32  # of a name there


def confusion_rows(matrix, class_names=None):
    """What a confusion matrix says of each class.

    Args:
        matrix: Ints (classes, classes): how many of a class, by row, were taken for one, by column.
        class_names: Names of the classes; their numbers are told without.

    Returns:
        A list of dicts: `class`; `images` of it; `recall`, the share of them that was found, and
        `precision`, the share of what was taken for it that is it, in percent, None where there is
        none; `taken_for`, the class that most of the others were taken for, and their `count`.
    """
    names = names_of(class_names, len(matrix))
    right, images, found = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    wrong = matrix - np.diag(right)
    most = wrong.argmax(axis=1)
    return [
        {
            "class": names[number],
            "images": int(images[number]),
            "recall": _percent(right[number], images[number]),
            "precision": _percent(right[number], found[number]),
            "taken_for": names[most[number]] if wrong[number].any() else None,
            "count": int(wrong[number, most[number]]),
        }
        for number in range(len(matrix))
    ]


def names_of(class_names, classes):
    """The names of classes as a list, or "class 0" and so on without."""
    return [f"class {i}" for i in range(classes)] if class_names is None else list(class_names)


def _percent(part, whole):
    return 100 * float(part) / float(whole) if whole else None


def rows_as_text(rows, lowest):
    """A table of rows, all with the same keys, in columns of equal width.

    Of many rows those are shown whose value of `lowest` is so, and a last line says it.
    """
    shown, more = rows, ""
    if len(rows) > _SHOWN_ROWS:
        known = [row for row in rows if row[lowest] is not None]
        shown = sorted(known, key=lambda row: row[lowest])[:_SHOWN_ROWS]
        more = f"\n({len(shown)} of {len(rows):,} classes, of the lowest {lowest})"
    titles = [key.replace("_", " ") for key in rows[0]]
    cells = [[_cell(value) for value in row.values()] for row in shown]
    widths = [max(map(_width, column)) for column in zip(titles, *cells, strict=True)]
    numbers = [any(isinstance(row[key], int | float) for row in rows) for key in rows[0]]
    lines = []
    for line in (titles, *cells):
        padded = []
        for cell, width, number in zip(line, widths, numbers, strict=True):
            space = " " * (width - _width(cell))
            padded.append(space + cell if number else cell + space)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines) + more


def _cell(value):
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else shortened(value, _LETTERS)


def _width(text):
    """Columns that a terminal gives a text: two for each wide (East Asian) letter."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def write_tables(folder, report, percent=False, names=None, title=""):
    """Writes `report.json`, `classes.csv`, `confusion.csv` and `confusion.png` into a folder.

    Args:
        folder: The folder, which is there.
        report: A `Report` with a confusion `matrix` and `class_names`.
        percent, title: As for `draw_confusion`.
        names: Of the matrix's rows; the `class_names` by default.
    """
    names = report.class_names if names is None else names
    record = {**report.result(), **report.counts(), **report.record()}
    with replacing(folder / "report.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False), "utf-8")
    write_rows(folder / "classes.csv", record["classes"])
    write_matrix(folder / "confusion.csv", report.matrix, names)
    draw_confusion(folder / "confusion.png", report.matrix, names, percent, title)


def write_rows(path, rows):
    """Writes rows, all with the same keys, as CSV in UTF-8."""
    with replacing(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def write_matrix(path, matrix, class_names):
    """Writes a confusion matrix as CSV in UTF-8, names in its first row and column."""
    with replacing(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["", *class_names])
            for name, row in zip(class_names, matrix.tolist(), strict=True):
                writer.writerow([name, *row])


class Worst:
    """The images with the highest badness so far.

    Attributes:
        items: Tuples of badness, image (uint8 array) and a dict that tells of it, the worst first.
    """

    def __init__(self):
        self.items = []

    def add(self, badness, images, tell):
        """Adds images.

        Args:
            badness: Array (images,).
            images: Array (images, height, width, 3), uint8.
            tell: Function of a row that gives a dict.
        """
        for row in np.argsort(-badness, kind="stable")[:SHOWN]:
            if len(self.items) < SHOWN or badness[row] > self.items[-1][0]:
                item = float(badness[row]), images[row].copy(), tell(row)
                self.merge([[*self.items, item]])

    def merge(self, lists):
        """Takes the worst of lists of items."""
        items = [item for items in lists for item in items]
        self.items = sorted(items, key=lambda item: -item[0])[:SHOWN]

    def draw(self, path, titles, font=None):
        """Draws the images below their titles; see `draw_images`."""
        draw_images(path, [image for _, image, _ in self.items], titles, font)
