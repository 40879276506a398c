"""COCO's scores of boxes, against pycocotools and by hand."""

import contextlib
import io

import numpy as np
import pytest

from keras_sepvit.detection.scores import BOX_SCORES, DetectionScores, box_scores

pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")

pytestmark = pytest.mark.once

CATEGORY_IDS = (0, 7, 91)


def picture(boxes, labels, confidence=None):
    row = {"boxes": np.array(boxes, "float32").reshape(-1, 4), "labels": np.array(labels, int)}
    return row if confidence is None else {**row, "confidence": np.array(confidence)}


def random_boxes(rng, count):
    """Boxes of all three sizes in 300 x 300; those of a quarter on a grid, where IoUs are equal."""
    corners = rng.uniform(0, 200, (count, 2))
    sides = rng.choice([14, 50, 130], (count, 1)) * rng.uniform(0.7, 1.3, (count, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1)
    return np.where(rng.uniform(size=(count, 1)) < 0.25, np.rint(boxes / 10) * 10, boxes)


def random_pictures(seed, count=40):
    """Truth and detections with crowds, ties, own areas, empty pictures, up to 130 boxes."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        objects = rng.choice([0, 1, 3, 8, 60], p=[0.2, 0.3, 0.3, 0.15, 0.05])
        boxes = random_boxes(rng, objects)
        labels = rng.integers(0, 3 if objects < 60 else 1, objects)  # more than 100 of one class
        truth = {
            "boxes": boxes,
            "labels": labels,
            "crowd": rng.uniform(size=objects) < 0.15,
            "area": np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * rng.uniform(0.3, 1, objects),
        }
        copies = rng.integers(0, 3) if objects < 60 else 2
        found = np.concatenate([boxes] * copies + [random_boxes(rng, rng.integers(0, 12))])
        found = found + rng.normal(0, 3, found.shape) * (rng.uniform(size=(len(found), 1)) < 0.7)
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        guess = np.concatenate([labels] * copies + [rng.integers(0, 3, 99)])[: len(found)]
        if number % 9 == 4:
            found, guess = found[:0], guess[:0]
        confidence = np.rint(20 * rng.uniform(0.05, 1, len(found))) / 20
        yield truth, {"boxes": found, "labels": guess, "confidence": confidence}


def pycocotools_scores(pictures, image_ids):
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")

    def rows(part, image_id):
        for index, (left, top, right, bottom) in enumerate(part["boxes"].tolist()):
            row = {
                "image_id": image_id,
                "category_id": CATEGORY_IDS[part["labels"][index]],
                "bbox": [left, top, right - left, bottom - top],
            }
            if "confidence" in part:
                row["score"] = float(part["confidence"][index])
            else:
                row["iscrowd"] = int(part["crowd"][index])
                row["area"] = float(part["area"][index])
            yield row

    truths, found = (
        [row for image_id, pair in zip(image_ids, pictures, strict=True)
         for row in rows(pair[part], image_id)]
        for part in (0, 1)
    )  # fmt: skip
    for number, row in enumerate(truths):
        row["id"] = 3 * number + 5
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": image_id} for image_id in image_ids],
            "annotations": truths,
            "categories": [{"id": number} for number in CATEGORY_IDS],
        }
        truth.createIndex()
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed):
    """Also where two processes have added the pictures, in another order."""
    pictures = [*random_pictures(seed)]
    image_ids = [7 * number % 101 for number in range(len(pictures))]
    expected = pycocotools_scores(pictures, image_ids)
    processes = DetectionScores(3), DetectionScores(3)
    for number, (truth, found) in enumerate(pictures):
        processes[number % 3 == 0].add(truth, found, image_id=image_ids[number])
    scores = DetectionScores(3)
    scores.merge([process.state() for process in processes])
    result = scores.result()
    assert [*result] == [name.lower() for name in BOX_SCORES]
    np.testing.assert_allclose([*result.values()], 100 * expected.stats, atol=1e-6)
    np.testing.assert_allclose(
        scores.evaluated().precision, expected.eval["precision"][:, :, :, 0, -1], atol=1e-9
    )
    assert 5 < result["ap"] < 95
    objects = sum((~truth["crowd"]).sum() for truth, _ in pictures)
    assert scores.counts() == {"images": 40, "objects": objects}
    in_order = sorted(range(len(pictures)), key=image_ids.__getitem__)
    alone = box_scores(*zip(*(pictures[number] for number in in_order), strict=True))
    assert [*alone.values()] == [*result.values()]


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
    assert set(box_scores([], []).values()) == {None}


@pytest.mark.parametrize("image_ids", [(0, 1), (1, 1), ("a", None)])
def test_the_users_ids_do_no_harm(image_ids):
    scores = DetectionScores(2)
    for number, image_id in enumerate(image_ids):
        boxes, labels = [[5, 5, 40 + number, 40], [60, 60, 90, 99]], [number, 1]
        scores.add(picture(boxes, labels), picture(boxes, labels, [0.5, 0.4]), image_id=image_id)
    assert scores.result()["ap"] == pytest.approx(100)


def test_photos_on_canvases_are_scored_in_their_own_pixels():
    """Of 40 x 100 and 300 x 150 on a canvas of 64 x 64, padded rows and bytes for names."""
    truth = {
        "boxes": np.array([[[10, 5, 50, 35], [-1] * 4], [[15, 30, 140, 280], [0, 0, 9, 9]]], "f4"),
        "labels": np.array([[1, -1], [0, 1]], "int32"),
        "crowd": np.array([[False, False], [False, True]]),
        "area": np.array([[1000.0, -1], [31250, 81]], "float32"),
    }
    examples = {
        **truth,
        "image": np.zeros((2, 64, 64, 3), "uint8"),
        "photo_size": np.array([[40, 100], [300, 150]], "int32"),
        "name": np.array([b"a.jpg", b"b.jpg"], object),
        "id": np.array([b"12", b'"007"'], object),
    }
    # 0.64 and 26 / 40; 64 / 300 and 0.2133: as `fit_into` rounds them.
    factors = np.float32([[0.64, 26 / 40] * 2, [32 / 150, 64 / 300] * 2])
    boxes = np.full((2, 3, 4), -1, "float32")
    boxes[:, 0] = truth["boxes"][:, 0] * factors
    answers = {
        "boxes": boxes,
        "labels": np.array([[1, -1, -1], [0, -1, -1]], "int32"),
        "confidence": np.array([[0.9, -1, -1], [0.8, -1, -1]], "float32"),
    }
    scores = DetectionScores(2)
    scores.update(answers, examples)
    assert scores.counts() == {"images": 2, "objects": 2}
    assert scores.result()["ap"] == pytest.approx(100)
    assert scores.result()["ap_small"] == pytest.approx(100)  # 40 x 30 by its box
    assert [shown.image_id for shown in scores.pictures] == [12, "007"]
    for shown in scores.pictures:
        np.testing.assert_allclose(shown.found["boxes"], shown.truth["boxes"][:1], rtol=1e-5)


def test_padding_is_no_object():
    truth = picture([[0, 0, 40, 40], [-1, -1, -1, -1]], [1, -1])
    detection = picture([[0, 0, 40, 40], [-1, -1, -1, -1]], [1, -1], [0.7, -1])
    assert box_scores([truth], [detection])["AP"] == pytest.approx(100.0)


@pytest.mark.parametrize(
    "truth, found, message",
    [
        (picture([[0, 0, 1, 1]], [2]), picture([], [], []), "`truth` .*2 classes.*the class 2"),
        (picture([], []), picture([[0, 0, np.inf, 1]], [1], [0.5]), "`found` .*boxes.*infinite"),
        (picture([], []), picture([[0, 0, 1, 1]], [1], [0.5, 1]), r"confidence \(1,\).*\(2,\)"),
    ],
)
def test_refuses_what_is_no_detection(truth, found, message):
    with pytest.raises(ValueError, match=message):
        DetectionScores(2).add(truth, found)


def test_refuses_other_pictures():
    with pytest.raises(ValueError, match="1 truths, 2 detections"):
        box_scores([picture([], [])], [picture([], [], [])] * 2)
