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
        many have no boxes, and by class the photos that have it, its boxes and, of a source with
        masks, these. Photos that cannot be read are told: training leaves them out.

    Raises:
        ValueError: if a photo has another size than the file of the boxes says, naming both; if
            none can be read.
    """

    def read(number):
        try:
            size = source.photo_size(number)
        except OSError as error:
            return error
        truth = source.truth(number)
        labels = truth["labels"]
        kinds = [labels]
        if "masks" in truth:
            kinds.append(labels[[mask is not None for mask in truth["masks"]]])
        return size, [np.bincount(kind, minlength=source.classes) for kind in kinds]

    counts, photos = 0, np.zeros(source.classes, "int64")
    sizes, unreadable, empty = [], [], 0
    with contextlib.closing(in_threads(read, range(source.size))) as results:
        for result in results:
            if isinstance(result, OSError):
                unreadable.append(result)
                continue
            size, (boxes, *masks) = result
            sizes.append(size)
            counts += np.stack([boxes, *masks])
            photos += boxes > 0
            empty += not boxes.any()
    if not sizes:
        raise ValueError(f"None of the photos of {source} can be read: {unreadable[0]}")
    lines = [str(source), *size_lines(sizes, unreadable)]
    if empty:
        lines.append(f"{counted(empty, 'photo')} without boxes")
    width = max(map(len, [*source.class_names, "all"]))
    columns = ("photos", "boxes", "masks")[: 1 + len(counts)]
    rows = [*zip(source.class_names, photos, *counts, strict=True)]
    rows.append(("all", len(sizes) - empty, *counts.sum(axis=1)))
    lines.append(f"{'class':{width}} {' '.join(f'{name:>9}' for name in columns)}")
    for name, *numbers in rows:
        lines.append(f"{name:{width}} {' '.join(f'{number:>9,}' for number in numbers)}")
    return "\n".join(lines)
