"""Decoding and suppression equal the loops of the textbook, on each backend."""

import json

import keras
import numpy as np
import pytest
from helpers import BACKEND, run, to_numpy
from keras import ops

from keras_sepvit.detection import decoding
from keras_sepvit.detection.anchors import Anchors
from keras_sepvit.detection.decoding import Detections, class_wise_detections

ANCHORS = Anchors(scale=2.0)
ALONE = Anchors(octaves=1, ratios=(1.0,), strides=(8, 16))  # one anchor a place
OUTPUTS = ("boxes", "labels", "confidence", "num_detections")


def greedy(boxes, scores, labels, score_threshold, iou_threshold, count):
    """One box after the other, sorted already: the places of those that stay."""
    kept = []
    for place in np.flatnonzero(scores > score_threshold):
        rivals = [other for other in kept if labels[other] == labels[place]]
        if len(kept) < count and (iou(boxes[place], boxes[rivals]) <= iou_threshold).all():
            kept.append(place)
    return kept


def iou(box, others):
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def decoded(classes, deltas, anchors, size, candidates, **limits):
    """The detections of one picture's maps, from the definition: boxes, labels, scores."""
    levels = []
    own = to_numpy(anchors.boxes([x.shape[:2] for x in classes]))
    for logits, offsets, boxes in zip(classes, deltas, own, strict=True):
        logits = logits.reshape(len(boxes), -1)
        flat = logits.ravel().astype("float32")
        best = np.lexsort((np.arange(flat.size), -flat))[:candidates]
        rows, labels = np.divmod(best, logits.shape[1])
        offsets = offsets.reshape(-1, 4)[rows].astype("float64")
        boxes = boxes[rows].astype("float64")
        sides = boxes[:, 2:] - boxes[:, :2]
        centres = (boxes[:, 2:] + boxes[:, :2]) / 2 + offsets[:, :2] * sides
        limit = np.log(1000 / 16)
        halves = sides * np.exp(np.clip(offsets[:, 2:], -limit, limit)) / 2
        boxes = np.concatenate([centres - halves, centres + halves], axis=1)
        boxes = np.clip(boxes, 0, [size[1], size[0]] * 2)
        levels.append((boxes, flat[best], labels))
    boxes, logits, labels = (np.concatenate(x) for x in zip(*levels, strict=True))
    order = np.lexsort((np.arange(len(logits)), -logits))
    boxes, logits, labels = boxes[order], logits[order], labels[order]
    scores = 1 / (1 + np.exp(-logits.astype("float64")))
    kept = greedy(boxes, scores, labels, **limits)
    return boxes[kept], labels[kept], scores[kept]


def detect(layer, maps, **sizes):
    return run(lambda outputs: layer(outputs, **sizes), maps)


def random_maps(anchors, size, classes, batch=2, seed=0, decimals=7, mean=-2.0):
    rng = np.random.default_rng(seed)
    maps = {"classes": [], "boxes": []}
    for stride in anchors.strides:
        shape = (batch, *(-(-side // stride) for side in size))
        logits = rng.normal(mean, 2, (*shape, anchors.per_place * classes))
        maps["classes"].append(np.round(logits, decimals).astype("float32"))
        deltas = rng.normal(0, 0.5, (*shape, anchors.per_place * 4))
        maps["boxes"].append(deltas.astype("float32"))
    return maps


def check(found, maps, anchors, sizes, candidates=1000, **limits):
    """Detections are those of the definition, in its order, with -1 behind them; their number."""
    limits = {"score_threshold": 0.05, "iou_threshold": 0.5, "count": 100, **limits}
    for picture, size in enumerate(sizes):
        classes, deltas = ([x[picture] for x in maps[name]] for name in ("classes", "boxes"))
        boxes, labels, scores = decoded(classes, deltas, anchors, size, candidates, **limits)
        number = int(found["num_detections"][picture])
        assert number == len(labels)
        np.testing.assert_array_equal(found["labels"][picture][:number], labels)
        np.testing.assert_allclose(found["confidence"][picture][:number], scores, atol=1e-6)
        np.testing.assert_allclose(found["boxes"][picture][:number], boxes, atol=1e-3)
        for name in OUTPUTS[:3]:
            assert found[name].shape[:2] == (len(sizes), limits["count"])
            assert (found[name][picture][number:] == -1).all()
    return found["num_detections"]


@pytest.mark.parametrize(
    "anchors, size, classes, settings, options",
    [
        (ANCHORS, (61, 77), 7, {}, {"decimals": 1}),
        (ANCHORS, (96, 64), 80, {"candidates": 200}, {"mean": -4.0}),
        (ANCHORS, (64, 64), 1, {"iou_threshold": 0.3, "score_threshold": 0.4}, {}),
        (ALONE, (32, 48), 3, {"max_detections": 30}, {"mean": 3.0}),  # few candidates
    ],
    ids=["equal scores", "80 classes", "one class", "few"],
)
def test_equals_the_definition(anchors, size, classes, settings, options):
    maps = random_maps(anchors, size, classes, **options)
    found = detect(Detections(anchors, **settings), maps, image_size=size)
    limits = {**settings, "count": settings.get("max_detections", 100)}
    limits.pop("max_detections", None)
    numbers = check(found, maps, anchors, [size] * 2, **limits)
    assert (numbers > 10).all()


def test_a_thousand_overlapping_boxes(monkeypatch):
    """In tiles of any size; boxes are clipped to the size of their own picture."""
    size = (96, 128)
    maps = random_maps(ANCHORS, size, 2, mean=1.0)
    for x in maps["boxes"]:
        x[..., 2:] += 1.5
    sizes = np.int32([[96, 128], [50, 100]])
    for tile in (256, 31):
        monkeypatch.setattr(decoding, "_TILE", tile)
        layer = Detections(ANCHORS, iou_threshold=0.8, max_detections=300)
        found = detect(layer, maps, image_size=size, sizes=sizes)
        numbers = check(found, maps, ANCHORS, sizes, iou_threshold=0.8, count=300)
    assert (numbers > 60).all() and found["boxes"][1, :, 2].max() == 100


def test_any_size_and_type():
    """In a graph of no fixed sizes, and of half precision: decoding is float32 all the same."""
    maps = random_maps(ALONE, (24, 40), 2, decimals=2)
    maps = {name: [x.astype("float16") for x in parts] for name, parts in maps.items()}
    keras.config.set_dtype_policy("mixed_float16")
    layer = Detections(ALONE)
    assert layer.compute_dtype == "float32"

    def compute(outputs, image_size):
        return layer(outputs, image_size=image_size)

    if BACKEND == "tensorflow":
        import tensorflow as tf

        signature = {
            name: [tf.TensorSpec((None, None, None, x.shape[-1]), x.dtype) for x in parts]
            for name, parts in maps.items()
        }

        compute = tf.function(compute, [signature, tf.TensorSpec((2,), "int32")])
    found = compute({n: [*map(ops.convert_to_tensor, x)] for n, x in maps.items()}, (24, 40))
    assert {ops.dtype(found[name]) for name in ("boxes", "confidence")} == {"float32"}
    assert {ops.dtype(found[name]) for name in ("labels", "num_detections")} == {"int32"}
    assert (check(to_numpy(found), maps, ALONE, [(24, 40)] * 2) > 5).all()


def one_anchor_maps(boxes, scores, size=(64, 64)):
    """Maps of `ALONE` whose first places give boxes (n, 4) of scores (n, classes)."""
    places = to_numpy(ALONE.boxes([[-(-side // 8) for side in size]] * 2))[0][: len(boxes)]
    maps = random_maps(ALONE, size, len(scores[0]), batch=1, mean=-30.0)
    logits, deltas = (
        maps[name][0].reshape(-1, n) for name, n in (("classes", len(scores[0])), ("boxes", 4))
    )
    sides = places[:, 2:] - places[:, :2]
    boxes, scores = np.float32(boxes), np.float64(scores)
    centres = (boxes[:, :2] + boxes[:, 2:] - places[:, :2] - places[:, 2:]) / 2 / sides
    growth = np.log((boxes[:, 2:] - boxes[:, :2]) / sides)
    deltas[: len(boxes)] = np.concatenate([centres, growth], axis=1)
    logits[: len(boxes)] = np.log(scores / (1 - scores))
    return maps


def test_classes_do_not_suppress_each_other():
    """One box may be of two classes; another class's box is no rival; equals keep their order."""
    rows = [[10, 10, 50, 50], [10, 10, 50, 50], [12, 10, 52, 50], [20, 2, 28, 12], [40, 40, 60, 60]]
    scores = np.full((5, 4), 1e-9)
    scores[0, 0], scores[1, 1], scores[2, 0] = 0.9, 0.8, 0.7
    scores[3, 2], scores[3, 3] = 0.6, 0.5
    scores[4, 1], scores[4, 3] = 0.5, 0.5
    maps = one_anchor_maps(rows, scores)
    found = detect(Detections(ALONE, max_detections=7), maps, image_size=(64, 64))
    np.testing.assert_array_equal(found["num_detections"], [6])
    np.testing.assert_array_equal(found["labels"], [[0, 1, 2, 3, 1, 3, -1]])
    np.testing.assert_allclose(found["confidence"], [[0.9, 0.8, 0.6, 0.5, 0.5, 0.5, -1]], atol=1e-6)
    places = [0, 1, 3, 3, 4, 4]
    np.testing.assert_allclose(found["boxes"][0, :6], np.float32(rows)[places], atol=1e-4)


def test_nothing_above_the_threshold():
    maps = random_maps(ALONE, (32, 32), 3, mean=-20.0)
    found = detect(Detections(ALONE, max_detections=9), maps, image_size=(32, 32))
    assert (found["num_detections"] == 0).all()
    assert all((found[name] == -1).all() and found[name].shape[1] == 9 for name in OUTPUTS[:3])


@pytest.mark.parametrize("decimals", [6, 1], ids=["distinct scores", "many equal scores"])
@pytest.mark.parametrize("candidates", [300, 150])
def test_of_boxes_for_all_classes(decimals, candidates):
    """KerasHub's form: of equals at the border of the candidates the lower place, too."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (3, 100, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (3, 100, 2))], axis=-1)
    boxes = boxes.astype("float32")
    scores = np.round(rng.uniform(0, 1, (3, 100, 3)), decimals).astype("float32")
    limits = {"score_threshold": 0.25, "iou_threshold": 0.5}
    found = class_wise_detections(boxes, scores, max_detections=40, candidates=candidates, **limits)
    kept_boxes, kept_scores, labels, numbers = to_numpy(found)
    for picture in range(3):
        flat = scores[picture].ravel()
        pairs = np.lexsort((np.arange(300), -flat))[:candidates]
        expected = greedy(boxes[picture][pairs // 3], flat[pairs], pairs % 3, count=40, **limits)
        number = len(expected)
        assert numbers[picture] == number > 20
        np.testing.assert_array_equal(labels[picture][:number], pairs[expected] % 3)
        np.testing.assert_array_equal(
            kept_boxes[picture][:number], boxes[picture][pairs[expected] // 3]
        )
        np.testing.assert_array_equal(kept_scores[picture][:number], flat[pairs[expected]])
        for padding in (kept_boxes[picture], kept_scores[picture], labels[picture]):
            assert (padding[number:] == -1).all()


def test_settings_are_checked_and_kept():
    layer = Detections(ANCHORS, score_threshold=0.1, iou_threshold=1)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    copy = keras.saving.deserialize_keras_object(config)
    assert (copy.anchors, copy.settings) == (ANCHORS, layer.settings)
    for name, value in (("score_threshold", 1.5), ("iou_threshold", -1), ("max_detections", 0)):
        with pytest.raises(ValueError, match=f"`{name}`.*{value}"):
            Detections(ANCHORS, **{name: value})
