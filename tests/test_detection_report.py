"""Tables and pictures of detectors' mistakes."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from keras_sepvit.detection.matching import IN_CROWD, WRONG, match
from keras_sepvit.detection.report import DetectionReport
from tests.test_detection_scores import picture, random_pictures

pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")

pytestmark = pytest.mark.once

GREY = np.full((60, 90, 3), 128, "uint8")
FILES = {
    *("report.json", "results.json", "classes.csv", "confusion.csv", "confusion.png"),
    *("precision_recall.png", "worst.png"),
}


def report_of(pictures, classes=3, **how):
    report = DetectionReport(classes, **how)
    for number, (truth, found) in enumerate(pictures):
        report.add(truth, found, GREY, f"{number}.jpg", number)
    return report


def test_matches_are_those_of_cocos_evaluation():
    """Precision by recall at IoU 0.5, made of the matches, with crowds, ties, own areas."""
    report = DetectionReport(3)
    for truth, found in random_pictures(0):
        best = np.argsort(-found["confidence"], kind="stable")[:100]  # COCO's most
        report.add(truth, {key: values[best] for key, values in found.items()})
    rows = [(match(p.truth, p.found), p.found["labels"], p.found["confidence"], p.truth)
            for p in report.pictures]  # fmt: skip
    matches, labels, confidence = (np.concatenate(x) for x in [*zip(*rows, strict=True)][:3])
    assert {WRONG, IN_CROWD} < {*matches.tolist()}
    for label in range(3):
        chosen = (labels == label) & (matches != IN_CROWD)
        order = np.argsort(-confidence[chosen], kind="stable")
        right = np.cumsum(matches[chosen][order] >= 0)
        objects = sum(int(((t["labels"] == label) & ~t["crowd"]).sum()) for *_, t in rows)
        precision = right / np.arange(1, len(right) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(right / objects, np.linspace(0, 1, 101))
        expected = np.append(precision, 0)[np.minimum(places, len(precision))]
        np.testing.assert_allclose(report.evaluated().precision[0, :, label], expected, atol=1e-9)


def test_best_f1_is_that_of_its_threshold():
    report = report_of(random_pictures(1))
    best, matrix = report.at_best()
    shares = {}
    for threshold in np.arange(1, 100) / 100:
        kept = [
            (p.truth, {k: v[p.found["confidence"] > threshold] for k, v in p.found.items()})
            for p in report.pictures
        ]
        rows = [match(*pair) for pair in kept]
        right = sum((row >= 0).sum() for row in rows)
        wrong = sum((row == WRONG).sum() for row in rows)
        shares[threshold] = right / (right + wrong), right / report.counts()["objects"]
    f1 = {threshold: 2 * p * r / (p + r) for threshold, (p, r) in shares.items()}
    assert best["f1"] == pytest.approx(100 * max(f1.values()))
    assert best["f1"] == pytest.approx(100 * f1[best["threshold"]])
    expected = 100 * np.array(shares[best["threshold"]])
    assert (best["precision"], best["recall"]) == pytest.approx(expected)
    # Detections in crowds are in neither.
    assert matrix[:3].sum() == report.counts()["objects"]
    assert np.trace(matrix) / matrix[:, :3].sum() == pytest.approx(expected[0] / 100)
    assert np.trace(matrix) / matrix[:3].sum() == pytest.approx(expected[1] / 100)
    assert f"{best['f1']:.2f} % at a threshold of {best['threshold']:.2f}" in report.text()


def test_confusion_has_a_background():
    """One right, one of another class, one missed, one where nothing is, one in a crowd."""
    boxes = [[0, 0, 20, 20], [30, 0, 50, 20], [60, 0, 80, 20], [0, 30, 80, 60]]
    truth = {**picture(boxes, [0, 0, 1, 1]), "crowd": [False, False, False, True]}
    found = picture(
        [[0, 0, 20, 19], [30, 0, 50, 19], [60, 40, 70, 50], [82, 0, 90, 9], [60, 0, 80, 20]],
        [0, 1, 1, 1, 1],
        [0.5, 0.8, 0.7, 0.6, 0.005],  # the last below any threshold
    )
    report = report_of([(truth, found)], 2)
    np.testing.assert_array_equal(report.matrix, [[1, 1, 0], [0, 0, 1], [0, 1, 0]])
    assert report.at_best()[0]["threshold"] == 0.25  # the middle of those below 0.5


def test_worst_photos_come_first(tmp_path):
    """By F1 above 0.3, then by the number of mistakes; those without mistakes are not shown."""
    box, far = [10, 10, 40, 40], [50, 10, 80, 40]
    pictures = [
        (picture([box], [0]), picture([box], [0], [0.31])),  # right
        (picture([box, far], [0, 1]), picture([box], [0], [0.9])),  # one missed
        (picture([], []), picture([far], [1], [0.29])),  # too unsure to be seen
        (picture([box], [0]), picture([], [], [])),  # nothing found
        (picture([box, far], [0, 1]), picture([box, far], [1, 0], [0.9, 0.8])),  # all wrong
        (picture([], []), picture([far, box], [1, 1], [0.5, 0.4])),  # nothing there
    ]
    report = report_of(pictures, 2)
    told = [item for *_, item in report.worst.items]
    assert [item["image"] for item in told] == ["4.jpg", "5.jpg", "3.jpg", "1.jpg"]
    assert [item["f1"] for item in told] == pytest.approx([0, 0, 0, 200 / 3])
    assert [(item["missed"], item["wrong"]) for item in told] == [(2, 2), (0, 2), (1, 0), (1, 0)]
    # Boxes are drawn where they are in the smaller or larger picture: 320 x 213 of 90 x 60.
    np.testing.assert_allclose(told[3]["truth"]["boxes"][0], np.array(box) * 320 / 90, rtol=0.01)


@pytest.mark.parametrize("classes", [1, 3, 80])
def test_written_files(tmp_path, classes):
    pictures = [
        ({**truth, "labels": truth["labels"] * (classes > 1)},
         {**found, "labels": found["labels"] * (classes > 1)})
        for truth, found in random_pictures(2)
    ]  # fmt: skip
    names = ["Größe", "two\nlines", "三", *map(str, range(77))][:classes]
    ids = [7 * number for number in range(classes)]
    report = report_of(pictures, classes, class_names=names, category_ids=ids)
    shown = report.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert {*shown} == {tmp_path / name for name in FILES if name.endswith(".png")}
    for path in shown:
        with Image.open(path) as image:
            image.load()
    told = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert told["ap"] == report.result()["ap"] and told["images"] == 40
    assert told["best_f1"] == report.at_best()[0]
    aps = [row["ap"] for row in told["classes"] if row["ap"] is not None]
    assert np.mean(aps) == pytest.approx(told["ap"])
    with open(tmp_path / "classes.csv", encoding="utf-8") as file:
        assert [row["class"] for row in csv.DictReader(file)] == names
    with open(tmp_path / "confusion.csv", encoding="utf-8", newline="") as file:
        rows = [*csv.reader(file)]
    assert rows[0] == ["", *names, "background"]
    np.testing.assert_array_equal([row[1:] for row in rows[1:]], report.matrix.astype(str))
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert len(results) == sum(len(found["labels"]) for _, found in pictures)
    number = next(n for n, (_, found) in enumerate(pictures) if len(found["labels"]))
    first, found = results[0], pictures[number][1]
    left, top, right, bottom = found["boxes"][0]
    assert first["bbox"] == pytest.approx([left, top, right - left, bottom - top], rel=1e-6)
    assert first["score"] == pytest.approx(found["confidence"][0])
    assert (first["image_id"], first["category_id"]) == (number, ids[found["labels"][0]])


def test_nothing_to_tell(tmp_path):
    """No truth, no detection, neither: answers, and no picture of an earlier report stays."""
    report_of(random_pictures(3)).write(tmp_path)
    box = picture([[0, 0, 30, 30]], [1])
    for truth, found, missing in (
        (picture([], []), picture([], [], []), {"precision_recall.png", "worst.png"}),
        (picture([], []), picture([[0, 0, 9, 9]], [0], [0.9]), {"precision_recall.png"}),
        (box, picture([], [], []), set()),
    ):
        report = report_of([(truth, found)], 2)
        text, (best, matrix) = report.text(), report.at_best()
        assert ("  AP               -      AR, 1 box           -\n" in text) == (missing != set())
        assert best["threshold"] == 0.3 and best["f1"] == (0 if missing == set() else None)
        assert "-: nothing is found at any threshold" in text
        assert matrix.sum() == len(truth["labels"]) + len(found["labels"])
        report.write(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == FILES - missing


def test_processes_tell_together_what_one_does():
    pictures = [*random_pictures(4)]
    one = report_of(pictures)
    parts = [DetectionReport(3), DetectionReport(3)]
    for number, (truth, found) in enumerate(pictures):
        parts[number % 2].add(truth, found, GREY, f"{number}.jpg", number)
    merged = DetectionReport(3)
    merged.merge([part.state() for part in parts])
    assert merged.result() == one.result() and merged.text() == one.text()
    assert [item[0] for item in merged.worst.items] == [item[0] for item in one.worst.items]
    np.testing.assert_array_equal(merged.matrix, one.matrix)
