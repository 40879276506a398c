"""Scores of class maps and their report: against mmseg's numbers, a plain loop, and by hand."""

import io
import json
import pathlib
import pickle

import numpy as np
import pytest
from PIL import Image

from keras_sepvit.runtime.canvas import fit_into
from keras_sepvit.segmentation import SegmentationReport, SegmentationScores
from keras_sepvit.segmentation.scores import by_class

pytestmark = pytest.mark.once

# `seg_...` and `ade_...` of mmsegmentation 0.30's own metrics; see `reference.py`.
METRICS = pathlib.Path(__file__).parent / "data" / "official_schedules_resizes_metrics.npz"


def png(class_map):
    file = io.BytesIO()
    Image.fromarray(np.asarray(class_map, "uint8")).save(file, "png")
    return file.getvalue()


def random_maps(rng, size, classes):
    """Truth, some of it ignored, and a prediction that is often right."""
    truth = rng.integers(0, classes, size).astype("uint8")
    prediction = np.where(rng.uniform(size=size) < 0.6, truth, rng.integers(0, classes, size))
    truth[rng.uniform(size=size) < 0.1] = 255
    return truth, prediction.astype("uint8")


def test_matrix_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    scores, expected = SegmentationScores(5), np.zeros((5, 5), int)
    for size in ((7, 11), (4, 3)):
        truth, prediction = random_maps(rng, size, 5)
        for true, found in zip(truth.ravel(), prediction.ravel(), strict=True):
            if true != 255:
                expected[true, found] += 1
        scores.add(truth, prediction)
    np.testing.assert_array_equal(scores.matrix, expected)
    assert scores.counts() == {"images": 2}


@pytest.mark.parametrize("name", ["seg", "ade"])
def test_agrees_with_mmseg(name):
    with np.load(METRICS) as file:
        expected = {key[4:]: file[key] for key in file if key.startswith(name)}
    truth = expected["truth"].astype("uint8")
    if name == "ade":  # as on disk: 0 has no class
        truth = np.where(truth == 0, 255, truth - 1).astype("uint8")
    scores = SegmentationScores(len(expected["IoU"]))
    for one_truth, prediction in zip(truth, expected["prediction"], strict=True):
        scores.add(one_truth, prediction)
    ious, accuracies = by_class(scores.matrix)
    np.testing.assert_allclose(ious, expected["IoU"], rtol=1e-6)
    np.testing.assert_allclose(accuracies, expected["Acc"], rtol=1e-6)
    result = scores.result()
    assert result["aacc"] == pytest.approx(100 * expected["aAcc"])
    assert result["miou"] == pytest.approx(100 * np.nanmean(expected["IoU"]))
    assert result["macc"] == pytest.approx(100 * np.nanmean(expected["Acc"]))


def test_counts_are_exact_beyond_what_float32_can_count():
    scores = SegmentationScores(2)
    scores.matrix[:] = [[2**24, 0], [0, 2**40]]
    scores.add([[0, 0, 1]], [[0, 1, 1]])
    assert scores.matrix.tolist() == [[2**24 + 1, 1], [0, 2**40 + 1]]
    assert scores.result()["aacc"] < 100


def test_classes_that_are_nowhere_and_found_alone():
    scores = SegmentationScores(4)
    scores.add([[0, 0, 0, 1, 255]], [[0, 0, 2, 1, 3]])  # 2 is found alone; 3 where nothing counts
    result = scores.result()
    assert result["miou"] == pytest.approx(100 * (2 / 3 + 1 + 0) / 3)
    assert result["macc"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert result["aacc"] == pytest.approx(75)


@pytest.mark.parametrize("kind", [SegmentationScores, SegmentationReport])
def test_processes_add_up_to_one(kind):
    rng = np.random.default_rng(1)
    photos = [random_maps(rng, (9, 12), 3) for _ in range(7)]
    image = np.zeros((9, 12, 3), "uint8")
    whole, parts = kind(3), [kind(3), kind(3), kind(3)]
    for number, (truth, prediction) in enumerate(photos):
        for scores in (whole, parts[number % 2]):  # the third process had none
            scores.add(truth, prediction, image, f"photo {number}")
    states = [pickle.loads(pickle.dumps(scores.state())) for scores in parts]
    parts[1].merge(states)
    assert parts[1].result() == whole.result() and parts[1].counts() == {"images": 7}
    if kind is SegmentationReport:
        assert parts[1].record() == whole.record()


def test_canvases_are_scored_at_the_photos_sizes():
    """Logits, and class maps of the canvas, where `fit_into` places photos and nowhere else."""
    sizes = (30, 45), (44, 20), (32, 48)
    canvas = (32, 48)
    rng = np.random.default_rng(2)
    truths = [rng.integers(0, 3, (2, 2)).repeat(n, 0).repeat(n, 1) for n in (23, 23, 24)]
    truths = [truth[:height, :width] for truth, (height, width) in zip(truths, sizes, strict=True)]
    logits = np.full((3, *canvas, 4), -5.0, "float32")
    logits[..., 3] = 5  # beside the photos, a class that is nowhere
    for row, truth in zip(logits, truths, strict=True):
        height, width = fit_into(truth.shape, canvas).size
        ys, xs = (
            ((np.arange(n) + 0.5) * side / n).astype(int)
            for n, side in zip((height, width), truth.shape, strict=True)
        )
        row[:height, :width] = 5 * np.eye(4)[truth[ys[:, None], xs]]
    examples = {
        "map": np.array([png(truth) for truth in truths], object),
        "image": np.zeros((3, *canvas, 3), "uint8"),
        "name": np.array([b"a", b"b", b"c\xff"], object),
    }
    for answers in (logits, logits.argmax(axis=-1).astype("uint8")):
        report = SegmentationReport(4)
        report.update(answers, examples)
        assert report.matrix.sum() == sum(truth.size for truth in truths)
        assert report.matrix[:, 3].sum() == 0
        assert report.result()["aacc"] > 95
        assert {told["image"] for *_, told in report.worst.items} == {"a", "b", "c\ufffd"}
    identical = SegmentationScores(4)
    identical.update(logits[2:], {key: values[2:] for key, values in examples.items()})
    assert identical.result() == {"miou": 100, "aacc": 100, "macc": 100}
    with pytest.raises(ValueError, match="logits of 4 classes, and the data have 3"):
        SegmentationScores(3).update(logits, examples)


@pytest.mark.parametrize("size", [(33, 2000), (2000, 33), (1013, 357), (641, 640), (400, 390)])
def test_class_maps_and_logits_come_back_alike(size):
    placement = fit_into(size, (640, 640))
    rng = np.random.default_rng(0)
    canvas = rng.integers(0, 4, (64, 64)).repeat(10, 0).repeat(10, 1).astype("uint8")
    from_map = placement.class_map(canvas)
    from_logits = placement.class_map(np.eye(4, dtype="float32")[canvas])
    assert from_map.shape == from_logits.shape == size
    assert from_map.dtype == from_logits.dtype == "uint8"
    assert (from_map == from_logits).mean() > 0.95
    # Each pixel is that of the canvas below its centre.
    rows, columns = (
        ((np.arange(n) + 0.5) * placed / n).astype(int)
        for n, placed in zip(size, placement.size, strict=True)
    )
    assert (from_map == canvas[rows[:, None], columns]).mean() > 0.99
    with pytest.raises(ValueError, match=r"a canvas of \(640, 640\) must have its size.*320"):
        placement.class_map(canvas[::2, ::2])


@pytest.mark.parametrize(
    "truth, prediction, message",
    [
        ([[0, 1]], [[0], [1]], r"one size. Received: \(1, 2\) and \(2, 1\)"),
        ([[0, 3]], [[0, 1]], "`truth` has the class 3, but there are 3, from 0 on"),
        ([[0, 1]], [[255, 1]], "`prediction` has the class 255, but there are 3"),
    ],
)
def test_refuses_other_maps(truth, prediction, message):
    with pytest.raises(ValueError, match=message):
        SegmentationScores(3).add(np.array(truth, "uint8"), np.array(prediction, "uint8"))


def test_nothing_to_measure():
    scores = SegmentationScores(3)
    scores.add(np.full((2, 2), 255, "uint8"), np.zeros((2, 2), "uint8"))
    with pytest.raises(ValueError, match="no pixel of the 1 images has a class"):
        scores.result()


def test_report_tells_by_class_and_shows_the_worst(tmp_path):
    report = SegmentationReport(3, ["background", "cat", "犬"])
    image = np.full((40, 60, 3), 128, "uint8")
    truth = np.zeros((40, 60), "uint8")
    truth[10:30, 10:30], truth[:5] = 1, 255
    for wrong in range(20):
        prediction = truth.copy()
        prediction[10 : 10 + wrong, 10:30] = 2
        prediction[truth == 255] = 2
        report.add(truth, prediction, image, f"folder/{wrong}.jpg")
    rows = report.record()["classes"]
    found = 20 * 20 - sum(range(20))
    assert [row["class"] for row in rows] == ["background", "cat", "犬"]
    assert [row["pixels"] for row in rows] == [20 * (35 * 60 - 400), 20 * 400, 0]
    assert rows[1]["iou"] == rows[1]["accuracy"] == pytest.approx(100 * found / 400)
    assert rows[1]["taken_for"] == "犬" and rows[2]["accuracy"] is None and rows[2]["iou"] == 0
    worst = report.record()["worst"]
    assert [told["image"] for told in worst] == [f"folder/{n}.jpg" for n in range(19, 3, -1)]
    assert worst[0]["miou"] == pytest.approx(100 * (1 + 1 / 20 + 0) / 3)
    text = report.text()
    assert "mean IoU" in text and f"{rows[1]['iou']:.2f}" in text
    (tmp_path / "worst.png").write_text("old")
    assert [path.name for path in report.write(tmp_path)] == ["confusion.png", "worst.png"]
    record = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert record["miou"] == report.result()["miou"] and record["classes"] == rows
    assert (tmp_path / "classes.csv").read_text("utf-8").count("\n") == 4
    with Image.open(tmp_path / "worst.png") as sheet:
        assert sheet.width > 6 * 256 and sheet.height > 8 * 171


def test_the_worst_stand_row_by_row_and_fill_the_sheet(tmp_path):
    report = SegmentationReport(2, ["background", "cat"])
    truth = np.zeros((40, 120), "uint8")
    truth[20:] = 1
    for wrong in range(6):
        prediction = truth.copy()
        prediction[20 : 21 + wrong] = 0
        image = np.broadcast_to(np.uint8([40 * wrong, 0, 200]), (40, 120, 3))
        report.add(truth, prediction, image, f"{wrong}.jpg")
    report.write(tmp_path)
    with Image.open(tmp_path / "worst.png") as file:
        sheet = np.asarray(file)
    places = [
        tuple(np.argwhere((sheet == (40 * wrong, 0, 200)).all(axis=-1))[0]) for wrong in range(6)
    ]
    assert places == sorted(places, reverse=True)
    assert len({row for row, _ in places}) == 3 and len({column for _, column in places}) == 2
    assert (sheet == 255).all(axis=-1).mean() < 0.4
