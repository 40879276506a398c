"""Suppression of boxes equals the loop of the textbook, on each backend."""

import numpy as np
import pytest
from helpers import to_numpy

from keras_sepvit.detection.decoding import class_wise_detections


def greedy(boxes, scores, score_threshold, iou_threshold, max_detections, candidates):
    """One box after the other, class by class: pairs of (box, class) of a picture."""
    classes = scores.shape[1]
    flat = scores.ravel()
    order = np.lexsort((np.arange(flat.size), -flat))[:candidates]
    kept = []
    for pair in order[flat[order] > score_threshold]:
        box, label = divmod(pair, classes)
        rivals = [other for other, other_label in kept if other_label == label]
        if all(iou(boxes[box], boxes[other]) <= iou_threshold for other in rivals):
            kept.append((box, label))
    return kept[:max_detections]


def iou(a, b):
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = np.prod(np.maximum(sides, 0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
    return shared / union if union > 0 else 0.0


@pytest.mark.parametrize("decimals", [6, 1], ids=["distinct scores", "many equal scores"])
def test_equals_the_greedy_loop(decimals):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (3, 100, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (3, 100, 2))], axis=-1)
    boxes = boxes.astype("float32")
    scores = np.round(rng.uniform(0, 1, (3, 100, 3)), decimals).astype("float32")
    # All pairs are candidates: which of equals at the border PyTorch takes is its own affair.
    limits = {"score_threshold": 0.25, "iou_threshold": 0.5, "candidates": 300}
    kept_boxes, kept_scores, labels, numbers = to_numpy(
        class_wise_detections(boxes, scores, max_detections=40, **limits)
    )
    for picture in range(3):
        expected = greedy(boxes[picture], scores[picture], max_detections=40, **limits)
        number = len(expected)
        assert numbers[picture] == number > 20
        indices, classes = map(list, zip(*expected, strict=True))
        np.testing.assert_array_equal(labels[picture][:number], classes)
        np.testing.assert_array_equal(kept_boxes[picture][:number], boxes[picture][indices])
        np.testing.assert_array_equal(
            kept_scores[picture][:number], scores[picture][indices, classes]
        )
        for padding in (kept_boxes[picture], kept_scores[picture], labels[picture]):
            assert (padding[number:] == -1).all()


def test_classes_do_not_suppress_each_other():
    """One box may be of two classes; another class's box is no rival; equals keep their order."""
    boxes = np.float32([[[10, 10, 50, 50], [10, 10, 50, 50], [12, 10, 52, 50], [80, 80, 99, 99]]])
    scores = np.zeros((1, 4, 4), "float32")
    scores[0, 0, 0], scores[0, 1, 1], scores[0, 2, 0] = 0.9, 0.8, 0.7
    scores[0, 3, 2], scores[0, 3, 3] = 0.6, 0.6
    limits = {"score_threshold": 0.05, "iou_threshold": 0.5, "max_detections": 6}
    _, kept, labels, number = to_numpy(
        class_wise_detections(boxes, scores, candidates=1000, **limits)
    )
    np.testing.assert_array_equal(number, [4])
    np.testing.assert_array_equal(labels, [[0, 1, 2, 3, -1, -1]])
    np.testing.assert_allclose(kept, [[0.9, 0.8, 0.6, 0.6, -1, -1]])


def test_nothing_above_the_threshold():
    boxes, scores = np.zeros((2, 3, 4), "float32"), np.full((2, 3, 2), 0.05, "float32")
    outputs = class_wise_detections(
        boxes, scores, score_threshold=0.05, iou_threshold=0.5, max_detections=9, candidates=4
    )
    boxes, scores, labels, number = to_numpy(outputs)
    assert (number == 0).all() and (boxes == -1).all() and (labels == -1).all()
    assert boxes.shape == (2, 9, 4)
