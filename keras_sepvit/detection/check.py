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
            return source.photo_size(number)
        except OSError as error:
            return error

    sizes, unreadable = [], []
    with contextlib.closing(in_threads(read, range(source.size))) as results:
        for size in results:
            if isinstance(size, OSError):
                unreadable.append(size)
                continue
            sizes.append(size)
    if not sizes:
        raise ValueError(f"None of the photos of {source} can be read: {unreadable[0]}")
    return "\n".join(_lines(source, sizes, unreadable))


def _lines(source, sizes, unreadable):
    boxes, photos = np.zeros((2, source.classes), "int64")
    empty = 0
    for number in range(source.size):
        counts = np.bincount(source.truth(number)["labels"], minlength=source.classes)
        boxes += counts
        photos += counts > 0
        empty += not counts.any()
    yield str(source)
    yield from size_lines(sizes, unreadable)
    if empty:
        yield f"{counted(empty, 'photo')} without boxes"
    width = max(map(len, [*source.class_names, "all"]))
    yield f"{'class':{width}} {'photos':>8} {'boxes':>9}"
    rows = [*zip(source.class_names, photos, boxes, strict=True)]
    for name, count, number in [*rows, ("all", source.size - empty, boxes.sum())]:
        yield f"{name:{width}} {count:>8,} {number:>9,}"
