"""Which boxes that were found are which true ones, at one IoU threshold. Without Keras."""

import numpy as np

WRONG = -1  # matches nothing
IN_CROWD = -2  # lies in a crowd of its class: neither right nor wrong
IOU = 0.5


def match(truth, found):
    """The objects that detections match, each at most once, as in COCO's evaluation.

    The surest detection goes first, and takes the object of its class that it overlaps most, by an
    IoU of 0.5 at least. Detections above any threshold have the same matches without the others.

    Args:
        truth: A `Picture`'s, see `keras_sepvit.detection.scores`.
        found: A `Picture`'s.

    Returns:
        int64 (detections,): row of the truth, `WRONG` or `IN_CROWD`.
    """
    overlaps = overlap(found["boxes"], truth["boxes"], truth["crowd"])
    overlaps[found["labels"][:, None] != truth["labels"][None, :]] = 0
    return _greedy(overlaps, found["confidence"], truth["crowd"])


def confusion(truth, found, matches, threshold, classes):
    """The confusion matrix of a picture, with a last row and column for the background.

    Args:
        truth, found: A `Picture`'s.
        matches: What `match` gives for them.
        threshold: Detections with a confidence above it count.
        classes: Number of classes.

    Returns:
        int64 (classes + 1, classes + 1): objects of a class, by row, that were taken for one, by
        column: where detections that match none of their class overlap objects that none matches
        by an IoU of 0.5 at least, the surest first. The last column has objects that nothing
        matches, the last row detections where there is nothing. Crowds do not count.
    """
    matrix = np.zeros((classes + 1, classes + 1), "int64")
    sure = found["confidence"] > threshold
    right = matches[sure & (matches >= 0)]
    np.add.at(matrix, (truth["labels"][right], truth["labels"][right]), 1)
    left = ~truth["crowd"]
    left[right] = False
    wrong = np.flatnonzero(sure & (matches == WRONG))
    overlaps = overlap(found["boxes"][wrong], truth["boxes"][left])
    others = _greedy(overlaps, found["confidence"][wrong])
    taken = np.flatnonzero(left)[others[others >= 0]]
    np.add.at(matrix, (truth["labels"][taken], found["labels"][wrong[others >= 0]]), 1)
    left[taken] = False
    np.add.at(matrix, (truth["labels"][left], classes), 1)
    np.add.at(matrix, (classes, found["labels"][wrong[others == WRONG]]), 1)
    return matrix


def overlap(found, true, crowd=None):
    """Intersection over union of boxes; of crowds, over the area of what was found.

    Args:
        found: (n, 4), (left, top, right, bottom).
        true: (m, 4).
        crowd: bool (m,); none are by default.

    Returns:
        float64 (n, m), 0 for boxes without area.
    """
    low = np.maximum(found[:, None, :2], true[None, :, :2])
    high = np.minimum(found[:, None, 2:], true[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=-1)
    areas, true_areas = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (found, true))
    union = areas[:, None] + true_areas[None, :] - shared
    if crowd is not None:
        union = np.where(crowd, areas[:, None], union)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _greedy(overlaps, confidence, crowd=None):
    """Row by row, the surest first, the free column of the highest overlap."""
    columns = np.zeros(overlaps.shape[1], bool) if crowd is None else crowd
    chosen = np.full(len(overlaps), WRONG)
    free = overlaps.copy()
    free[:, columns] = 0
    order = np.argsort(-confidence, kind="stable")
    for row in order[(overlaps[order] >= IOU).any(axis=1)]:
        # Of equal overlaps the last one, as in COCO's evaluation.
        best = free.shape[1] - 1 - free[row, ::-1].argmax()
        if free[row, best] >= IOU:
            chosen[row] = best
            free[:, best] = 0
        elif (overlaps[row, columns] >= IOU).any():
            chosen[row] = IN_CROWD
    return chosen
