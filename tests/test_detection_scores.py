"""COCO's scores of boxes, against pycocotools and by hand."""

import contextlib
import io

import numpy as np
import pytest

from keras_sepvit.detection.scores import BOX_SCORES, box_scores

pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")

pytestmark = pytest.mark.once


def picture(boxes, labels, confidence=None):
    row = {"boxes": np.array(boxes, "float32").reshape(-1, 4), "labels": np.array(labels, int)}
    return row if confidence is None else {**row, "confidence": np.array(confidence)}


def random_pictures(rng, count, **extra):
    pictures = []
    for _ in range(count):
        number = rng.integers(0, 8)
        corners = rng.uniform(0, 200, (number, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(8, 140, (number, 2))], axis=1)
        pictures.append(picture(boxes, rng.integers(0, 3, number), **extra))
    return pictures


def test_equals_pycocotools():
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    rng = np.random.default_rng(0)
    truths = random_pictures(rng, 30)
    detections = []
    for truth in truths:
        kept = rng.uniform(size=len(truth["labels"])) < 0.8
        moved = truth["boxes"][kept] + rng.normal(0, 6, (kept.sum(), 4))
        noise = random_pictures(rng, 1)[0]
        boxes = np.concatenate([moved, noise["boxes"]])
        labels = np.concatenate([truth["labels"][kept], noise["labels"]])
        detections.append(picture(boxes, labels, rng.uniform(0.1, 1, len(labels))))

    def rows(pictures):
        for number, row in enumerate(pictures):
            for index, (box, label) in enumerate(zip(row["boxes"], row["labels"], strict=True)):
                left, top, right, bottom = map(float, box)
                entry = {
                    "image_id": number,
                    "category_id": int(label),
                    "bbox": [left, top, right - left, bottom - top],
                }
                if "confidence" in row:
                    entry["score"] = float(row["confidence"][index])
                yield entry

    truth_rows = [
        {**row, "id": number, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]}
        for number, row in enumerate(rows(truths), start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": number} for number in range(30)],
            "annotations": truth_rows,
            "categories": [{"id": label} for label in range(3)],
        }
        truth.createIndex()
        evaluation = cocoeval.COCOeval(truth, truth.loadRes([*rows(detections)]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    scores = box_scores(truths, detections)
    assert tuple(scores) == BOX_SCORES
    np.testing.assert_allclose([*scores.values()], 100 * evaluation.stats, atol=1e-6)
    assert 5 < scores["AP"] < 95


def test_no_detection_scores_nothing():
    truths = [
        picture([[0, 0, 20, 20], [20, 20, 70, 70]], [0, 1]),
        picture([[0, 0, 50, 50], [60, 60, 110, 110]], [1, 1]),
    ]
    scores = box_scores(truths, [picture([], [], [])] * 2)
    for name in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AR_100"):
        assert scores[name] == 0.0
    assert scores["AP_large"] is None and scores["AR_large"] is None


def test_nothing_to_find_has_no_score():
    empty = picture([], [])
    found = picture([[0, 0, 5, 5]], [2], [0.9])
    assert set(box_scores([empty, empty], [found, picture([], [], [])]).values()) == {None}


def test_padding_is_no_object():
    truth = picture([[0, 0, 40, 40], [-1, -1, -1, -1]], [1, -1])
    detection = picture([[0, 0, 40, 40], [-1, -1, -1, -1]], [1, -1], [0.7, -1])
    assert box_scores([truth], [detection])["AP"] == pytest.approx(100.0)


def test_refuses_other_pictures():
    with pytest.raises(ValueError, match="1 truths, 2 detections"):
        box_scores([picture([], [])], [picture([], [], [])] * 2)
