"""The check of a source of boxes before the first step."""

import contextlib

import numpy as np

from keras_sepvit.training.sources.photos import in_threads, size_lines
from keras_sepvit.validation import counted


def check_boxes(source):
    """Reads the sizes of a source's photos and counts its boxes, before anything is trained on.

    Args:
        source: A `BoxSource`.

    Returns:
        Lines for a terminal: the data and what was left out or clipped, sizes of the photos, how
        many have no boxes, and by class the photos that have it and its boxes. Photos that cannot
        be read are told: training leaves them out.

    Raises:
        ValueError: if a photo has another size than the file of the boxes says, naming both; if
            none can be read.
    """

    def read(number):
        try:
            size = source.photo_size(number)
        except OSError as error:
            return error
        return size, np.bincount(source.truth(number)["labels"], minlength=source.classes)

    boxes, photos = np.zeros((2, source.classes), "int64")
    sizes, unreadable, empty = [], [], 0
    with contextlib.closing(in_threads(read, range(source.size))) as results:
        for result in results:
            if isinstance(result, OSError):
                unreadable.append(result)
                continue
            size, counts = result
            sizes.append(size)
            boxes += counts
            photos += counts > 0
            empty += not counts.any()
    if not sizes:
        raise ValueError(f"None of the photos of {source} can be read: {unreadable[0]}")
    lines = [str(source), *size_lines(sizes, unreadable)]
    if empty:
        lines.append(f"{counted(empty, 'photo')} without boxes")
    width = max(map(len, [*source.class_names, "all"]))
    lines.append(f"{'class':{width}} {'photos':>8} {'boxes':>9}")
    rows = [*zip(source.class_names, photos, boxes, strict=True)]
    for name, count, number in [*rows, ("all", len(sizes) - empty, boxes.sum())]:
        lines.append(f"{name:{width}} {count:>8,} {number:>9,}")
    return "\n".join(lines)
