"""COCO's scores of masks, against pycocotools and by hand."""

import contextlib
import io
import json
import pickle

import numpy as np
import pytest
from test_detection_scores import picture, random_boxes

from keras_sepvit.detection.scores import BOX_SCORES, DetectionScores
from keras_sepvit.instances import InstanceScores
from keras_sepvit.runtime.masks import encode, paste

pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")

pytestmark = pytest.mark.once

SIZE = (300, 260)


def ellipses(boxes, size=SIZE):
    """bool (n, height, width): what the ellipses in boxes cover."""
    y, x = np.indices(size) + 0.5
    left, top, right, bottom = np.reshape(boxes, (-1, 4)).T[:, :, None, None]
    across, down = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)
    return across**2 + down**2 <= 1


def random_pictures(seed, count=30):
    """Truth and detections with masks; crowds, ties, own areas, pictures without one of both.

    A tenth of the objects has no mask; those of detections may be empty.
    """
    rng = np.random.default_rng(seed)
    for number in range(count):
        objects = 40 if number == 5 else rng.choice([0, 1, 3, 8])
        boxes = random_boxes(rng, objects).clip(0, 259)
        labels = rng.integers(0, 3 if objects < 40 else 1, objects)  # more than 100 of one class
        masks = ellipses(boxes)
        truth = {
            "boxes": boxes,
            "labels": labels,
            "crowd": rng.uniform(size=objects) < 0.15,
            "area": masks.sum(axis=(1, 2)) * rng.uniform(0.7, 1.3, objects),
            "masks": [encode(m) if rng.uniform() < 0.9 else None for m in masks],
        }
        copies = rng.integers(0, 3) if objects < 40 else 3
        found = np.concatenate([boxes] * copies + [random_boxes(rng, rng.integers(0, 9))])
        found = found + rng.normal(0, 3, found.shape) * (rng.uniform(size=(len(found), 1)) < 0.7)
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        guess = np.concatenate([labels] * copies + [rng.integers(0, 3, 99)])[: len(found)]
        if number % 9 == 4:
            found, guess = found[:0], guess[:0]
        confidence = np.rint(20 * rng.uniform(0.05, 1, len(found))) / 20
        masks = ellipses(found) & (rng.uniform(size=(len(found), 1, 1)) < 0.95)
        yield truth, {"boxes": found, "labels": guess, "confidence": confidence, "masks": masks}


def pycocotools_masks(pictures):
    """pycocotools' evaluation of masks, with what it needs for objects without: a crowd."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    mask = pytest.importorskip("pycocotools.mask")
    truths, found = [], []
    for image_id, (truth, answer) in enumerate(pictures):
        for index, box in enumerate(truth["boxes"]):
            rle = truth["masks"][index]
            if rle is None:
                area = np.zeros(SIZE, "uint8", order="F")
                (left, top), (right, bottom) = np.floor(box[:2]), np.ceil(box[2:])
                area[int(top) : int(bottom), int(left) : int(right)] = 1
            truths.append(
                {
                    "id": len(truths) + 1,
                    "image_id": image_id,
                    "category_id": int(truth["labels"][index]),
                    "segmentation": rle or mask.encode(area),
                    "area": float(truth["area"][index]),
                    "iscrowd": int(truth["crowd"][index] or rle is None),
                }
            )
        for index, shape in enumerate(answer["masks"]):
            found.append(
                {
                    "image_id": image_id,
                    "category_id": int(answer["labels"][index]),
                    "segmentation": mask.encode(np.asfortranarray(shape, "uint8")),
                    "score": float(answer["confidence"][index]),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        data = coco.COCO()
        height, width = SIZE
        data.dataset = {
            "images": [{"id": n, "height": height, "width": width} for n in range(len(pictures))],
            "annotations": truths,
            "categories": [{"id": number} for number in range(3)],
        }
        data.createIndex()
        evaluation = cocoeval.COCOeval(data, data.loadRes(found), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools(seed):
    """Also where two processes have added the pictures; boxes score as detectors'."""
    pictures = [*random_pictures(seed)]
    expected = pycocotools_masks(pictures)
    processes, boxes = (InstanceScores(3), InstanceScores(3)), DetectionScores(3)
    for number, (truth, found) in enumerate(pictures):
        processes[number % 3 == 0].add(truth, found, image_id=number, photo_size=SIZE)
        boxes.add(truth, found, image_id=number)
    scores = InstanceScores(3)
    scores.merge(pickle.loads(pickle.dumps([process.state() for process in processes])))
    result, own = scores.result(), boxes.result()
    assert [*result] == [*own, *(f"mask_{name}" for name in own)] and len(result) == 24
    assert {name: result[name] for name in own} == own
    by_masks = [result[f"mask_{name.lower()}"] for name in BOX_SCORES]
    np.testing.assert_allclose(by_masks, 100 * expected.stats, atol=1e-6)
    precision = scores.evaluated("segm").precision
    np.testing.assert_allclose(precision, expected.eval["precision"][:, :, :, 0, -1], atol=1e-9)
    assert 5 < result["mask_ap"] < 95 and result["mask_ap"] != result["ap"]
    without = [
        rle is None and not crowd
        for truth, _ in pictures
        for rle, crowd in zip(truth["masks"], truth["crowd"], strict=True)
    ]
    assert scores.counts() == {**boxes.counts(), "without_mask": sum(without)} and any(without)


def instance(boxes, labels, masks, confidence=None):
    return {**picture(boxes, labels, confidence), "masks": masks}


def test_objects_without_a_mask_are_neither_found_nor_missed():
    """Of two alike in their boxes one has no mask: what is found of it does not count."""
    boxes = [[10, 10, 50, 50], [60, 60, 100, 100]]
    masks = ellipses(boxes, (120, 120))
    truth = instance(boxes, [0, 0], [encode(masks[0]), None])
    for found, confidence, mask_ap in (
        ([0], [0.9], 100),  # the other is not missed
        ([0, 1], [0.5, 0.9], 100),  # and not wrong where it is found
        ([0, 1, 1], [0.5, 0.9, 0.9], 100),
        ([1], [0.9], 0),
    ):
        answer = instance(np.array(boxes)[found], [0] * len(found), masks[found], confidence)
        scores = InstanceScores(1)
        scores.add(truth, answer, photo_size=(120, 120))
        assert scores.result()["mask_ap"] == pytest.approx(mask_ap)
        assert scores.result()["ap"] < 100 or len(found) == 2
        assert scores.counts() == {"images": 1, "objects": 2, "without_mask": 1}
    scores = InstanceScores(1)  # nothing to find by masks
    scores.add(instance(boxes, [0, 0], [None, None]), answer, photo_size=(120, 120))
    assert scores.result()["mask_ap"] is None and scores.result()["ap"] is not None


def test_photos_on_canvases_are_scored_in_their_own_pixels():
    """Of 40 x 100 on a canvas of 64 x 64; one box reaches into the padding, with its mask."""
    boxes, masks = np.array([[10, 5, 50, 35], [60, 20, 90, 60]], "float64"), np.zeros((2, 28, 28))
    masks[:, :14] = masks[0, :, :14] = 1  # the upper half; of the first the left one, too
    inside = boxes.clip(0, [100, 40, 100, 40])
    expected = [paste(mask, box, (40, 100)) for mask, box in zip(masks, boxes, strict=True)]
    assert expected[1][20:40, 60:90].all() and expected[1].sum() == 600
    truth = {
        "boxes": np.concatenate([inside, [[-1] * 4]])[np.newaxis],
        "labels": np.array([[1, 0, -1]]),
        "crowd": np.zeros((1, 3), bool),
        "area": np.array([[900, 600, -1]], "float32"),
    }
    examples = {
        **truth,
        "image": np.zeros((1, 64, 64, 3), "uint8"),
        "photo_size": np.array([[40, 100]]),
        "name": np.array([b"a.jpg"], object),
        "id": np.array([b'"a"'], object),
    }
    placed = np.full((1, 4, 4), -1, "float32")
    placed[0, :2] = boxes * [0.64, 0.65, 0.64, 0.65]  # 26 rows of 40
    answers = {
        "boxes": placed,
        "labels": np.array([[1, 0, -1, -1]], "int32"),
        "confidence": np.array([[0.9, 0.8, -1, -1]], "float32"),
        "masks": np.concatenate([masks, np.zeros((2, 28, 28))])[np.newaxis].astype("float32"),
    }
    scores = InstanceScores(2, {"a": [encode(mask) for mask in expected]}.get)
    scores.update(answers, examples)
    result = scores.result()
    assert result["ap"] == result["mask_ap"] == pytest.approx(100)
    (shown,) = scores.pictures
    assert [*shown.found["masks"]] == [*shown.truth["masks"]] == [encode(m) for m in expected]
    assert json.dumps(shown.found["masks"].tolist())


@pytest.mark.parametrize(
    "labels, masks, found, message",
    [
        ([0, -1], [None] * 2, 0, "`truth` must have masks for each of 1 labels. Received: 2"),
        ([0], [encode(np.ones((9, 8), bool))], 0, r"`truth` .*\(8, 9\).*Received: \(9, 8\)"),
        ([0], [None], 2, "`found` must have masks for each of 1 labels. Received: 2"),
        ([1], [None], 1, "`truth` must have labels .* of the 1 classes"),
    ],
)
def test_refuses_other_masks(labels, masks, found, message):
    truth = instance([[0, 0, 4, 4]] * len(labels), labels, masks)
    answer = instance([[0, 0, 4, 4]], [0], np.ones((found, 8, 9), bool), [0.5])
    with pytest.raises(ValueError, match=message):
        InstanceScores(1).add(truth, answer, photo_size=(8, 9))


def test_no_detection_scores_nothing():
    boxes = [[0, 0, 20, 20], [20, 20, 70, 70], [80, 20, 130, 70], [80, 80, 130, 130]]
    truth = instance(boxes, [0, 1, 1, 1], [encode(m) for m in ellipses(boxes)])
    scores = InstanceScores(2)
    assert {*scores.result().values()} == {None}
    scores.add(truth, instance([], [], np.zeros((0, *SIZE), bool), []), photo_size=SIZE)
    result = scores.result()
    assert result["mask_ap"] == result["mask_ap_small"] == result["mask_ar_100"] == 0
    assert result["mask_ap_large"] is None
