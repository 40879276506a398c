"""How an exported detector's answers compare with the Keras model's. Imports no Keras."""

import numpy as np

from keras_sepvit.export.check import Agreement, Tolerance, check_outputs
from keras_sepvit.runtime.detector import MEDIAPIPE, from_mediapipe

# As `check.TOLERANCES`; largest errors are in pixels.
DETECTION_TOLERANCES = {
    "float32": Tolerance(max_error=0.05),
    "tf32": Tolerance(relative_error=0.05),
    "float16": Tolerance(relative_error=0.05),
    "dynamic_int8": Tolerance(relative_error=0.25),
    "int8": Tolerance(relative_error=0.25),
    "int8_float16": Tolerance(relative_error=0.25),
}

# Detections with a score above it are compared: those of less come and go with rounding.
LEAST_SCORE = 0.1

# A detection is found again if one of the same class overlaps it by that.
_LEAST_OVERLAP = 0.5

# Pixels that a difference of 1 between scores counts as.
_PIXELS_OF_SCORES = 50.0


def measure_detections(expected, found, image_size):
    """The `Agreement` of two dicts of detections by name, the first the Keras model's.

    Each detection of the one with a score above 0.1, the best first, is looked for among those of
    its class in the other, where each is found once; then the other way round. Its error is by how
    many pixels a side of its box is off, or by how much its score or a value of its mask is, of
    which 0.001 counts as 0.05 pixel; one that is not found is off by the longer side of the image.
    Relative errors are what intersection over union, of boxes and of masks, and score are short
    of 1. What is at the end of a full list, where rounding decides, counts for nothing.

    Args:
        expected, found: Answers by name of the file of a detector or instance segmenter: see
            `keras_sepvit.runtime.detector`.
        image_size: (height, width) of the images.
    """
    check_outputs(expected, found)
    if {*expected} == {*MEDIAPIPE}:
        expected, found = (from_mediapipe(x, image_size) for x in (expected, found))
    largest, shortfalls, again = 0.0, [0.0], []
    for ours, theirs in ((expected, found), (found, expected)):
        for number in range(len(ours["labels"])):
            one, other = (_taken(answers, number) for answers in (ours, theirs))
            errors, shortfall = _differences(one, other, max(image_size))
            largest = max(largest, *errors, 0.0)
            shortfalls += shortfall
            again += [error < max(image_size) for error in errors]
    return Agreement(
        max_error=float(largest),
        relative_error=float(np.mean(shortfalls[1:] or shortfalls)),
        compared="detections",
        top1_agreement=float(np.mean(again)) if again else None,
        images=len(expected["labels"]),
    )


def _taken(answers, number):
    """Boxes, labels, scores and masks of a picture, and the least score to look for."""
    boxes, labels, scores = (answers[name][number] for name in ("boxes", "labels", "confidence"))
    # Where there are none, they count as all covered.
    masks = answers["masks"][number] if "masks" in answers else np.ones((len(boxes), 1))
    least = LEAST_SCORE
    if labels[-1] >= 0:  # full: the last may be another's by a hair
        least = max(least, scores[-1] + 2e-3)
    return boxes, labels, scores, masks, least


def _differences(one, other, missing):
    """Errors and relative errors of those of `one`, in lists."""
    boxes, labels, scores, masks, least = one
    other_boxes, other_labels, other_scores, other_masks, _ = other
    free = other_labels >= 0
    errors, shortfalls = [], []
    for box, label, score, mask in zip(boxes, labels, scores, masks, strict=True):
        if label < 0 or score <= least or not _area(box):  # which no photo shows
            continue
        overlap = np.where(free & (other_labels == label), _overlap(box, other_boxes), -1.0)
        best = overlap.argmax()
        if overlap[best] < _LEAST_OVERLAP:
            errors.append(missing)
            shortfalls.append(1.0)
            continue
        free[best] = False
        difference = abs(score - other_scores[best])
        low, high = (choose(mask, other_masks[best]) for choose in (np.minimum, np.maximum))
        off_by = max(difference, (high - low).max())
        errors.append(max(np.abs(box - other_boxes[best]).max(), _PIXELS_OF_SCORES * off_by))
        covered = low.sum() / max(high.sum(), 1e-6)
        shortfalls.append(1 - overlap[best] * (1 - difference) * covered)
    return errors, shortfalls


def _overlap(box, others):
    """Intersection over union of a box with others."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    return shared / (_area(box) + _area(others) - shared)


def _area(boxes):
    return np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
