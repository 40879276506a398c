"""Decoding and suppression equal the loops of the textbook, on each backend."""

import json

import keras
import numpy as np
import pytest
from detectors import (
    ALONE,
    ANSWERS,
    check_detections,
    greedy,
    one_anchor_maps,
    other_classes,
    random_maps,
)
from helpers import BACKEND, run, to_numpy
from keras import ops

from keras_sepvit.detection import decoding
from keras_sepvit.detection.anchors import Anchors
from keras_sepvit.detection.decoding import class_wise_detections
from keras_sepvit.detection.layers import Detections

ANCHORS = Anchors(scale=2.0)


def detect(layer, maps, **sizes):
    return run(lambda outputs: layer(outputs, **sizes), maps)


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
    numbers = check_detections(found, maps, anchors, [size] * 2, **limits)
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
        numbers = check_detections(found, maps, ANCHORS, sizes, iou_threshold=0.8, count=300)
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
    assert (check_detections(to_numpy(found), maps, ALONE, [(24, 40)] * 2) > 5).all()


def test_classes_do_not_suppress_each_other():
    rows, scores, expected = other_classes(4)
    maps = one_anchor_maps(rows, scores)
    found = detect(Detections(ALONE, max_detections=7), maps, image_size=(64, 64))
    places, labels, scores = (list(values) for values in zip(*expected, strict=True))
    np.testing.assert_array_equal(found["num_detections"], [len(places)])
    np.testing.assert_array_equal(found["labels"], [[*labels, -1]])
    np.testing.assert_allclose(found["confidence"], [[*scores, -1]], atol=1e-6)
    np.testing.assert_allclose(found["boxes"][0, :-1], np.float32(rows)[places], atol=1e-4)


def test_nothing_above_the_threshold():
    maps = random_maps(ALONE, (32, 32), 3, mean=-20.0)
    found = detect(Detections(ALONE, max_detections=9), maps, image_size=(32, 32))
    assert (found["num_detections"] == 0).all()
    assert all((found[name] == -1).all() and found[name].shape[1] == 9 for name in ANSWERS[:3])


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
