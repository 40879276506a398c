"""What detectors are made of, against NumPy written from the definitions."""

import math

import keras
import numpy as np
import pytest
from helpers import BACKEND, run, to_numpy

from keras_sepvit.detection import Anchors, retinanet_losses
from keras_sepvit.detection.assignment import NEGATIVE, NEUTRAL, assign
from keras_sepvit.detection.boxes import clip, decode, encode, intersection_over_union

SMALL = Anchors(scale=2.0, strides=(8, 16))


def iou(a, b, dtype="float64"):
    """Of two boxes."""
    a, b = np.asarray(a, dtype), np.asarray(b, dtype)
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = sides.prod() if (sides > 0).all() else sides.dtype.type(0)
    areas = [np.prod(box[2:] - box[:2]) if (box[2:] > box[:2]).all() else 0 for box in (a, b)]
    union = areas[0] + areas[1] - shared
    return shared / union if union > 0 else 0


def random_boxes(rng, shape, places=9):
    """Corners at few places, so that there are ties; some boxes have no area, or a negative one."""
    corners = rng.integers(0, places, (*shape, 2))
    return np.concatenate([corners, corners + rng.integers(-1, 6, (*shape, 2))], -1).astype(
        "float32"
    )


def test_intersection_over_union():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, (3, 40)), random_boxes(rng, (3, 30))
    b[:, 0] = a[:, 0] = [2, 3, 5, 7]
    found = run(lambda x: intersection_over_union(*x), [a, b])
    expected = [[[iou(x, y) for y in b[i]] for x in a[i]] for i in range(3)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found == 0).any() and (found[:, 0, 0] == 1).all()
    shared = run(lambda x: intersection_over_union(*x), [a[0], b])  # axes in front broadcast
    np.testing.assert_allclose(shared[0], expected[0], atol=1e-6)


def test_coding():
    """There and back; by the definition; with growth limited; boxes without area are finite."""
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(-20, 60, (200, 2)), rng.uniform(1, 50, (200, 2))
    anchors = np.concatenate([corners, corners + sides], -1).astype("float32")
    boxes = np.roll(anchors, 1, axis=0)
    deviations = (0.1, 0.1, 0.2, 0.2)
    deltas, again, nothing = run(
        lambda x: (
            encode(*x, deviations),
            decode(x[0], encode(*x, deviations), deviations),
            encode(x[0], x[1] * 0 - 1),
        ),
        [anchors, boxes],
    )
    np.testing.assert_allclose(again, boxes, atol=1e-4)
    assert np.isfinite(nothing).all()
    way = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2
    own, other = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    expected = np.concatenate([way / own / 0.1, np.log(other / own) / 0.2], -1)
    np.testing.assert_allclose(deltas, expected, atol=2e-4)

    grown = to_numpy(decode(anchors[:1], [[0, 0, 50.0, -50.0]]))[0]
    width, height = own[0]
    assert grown[2] - grown[0] == pytest.approx(width * 1000 / 16, rel=1e-3)
    assert grown[3] - grown[1] == pytest.approx(height * 16 / 1000, rel=1e-2)


def test_clipping():
    boxes = np.array([[-5, -5, 70, 70], [10, 20, 30, 40], [90, 90, 99, 99]], "float32")
    found = to_numpy(clip(np.stack([boxes, boxes]), [[40, 60], [100, 20]]))
    np.testing.assert_array_equal(found[0], [[0, 0, 60, 40], [10, 20, 30, 40], [60, 40, 60, 40]])
    np.testing.assert_array_equal(found[1], [[0, 0, 20, 70], [10, 20, 20, 40], [20, 90, 20, 99]])
    np.testing.assert_array_equal(to_numpy(clip(boxes, (40, 60))), found[0])


def places(settings, sizes):
    """(stride, x, y) of each anchor, by loops."""
    for stride, (height, width) in zip(settings.strides, sizes, strict=True):
        for y in range(height):
            for x in range(width):
                yield from [(stride, x, y)] * settings.per_place


def test_anchors():
    settings = Anchors(3.0, 2, (0.5, 1.0, 3.0), (8, 16))
    sizes = [(5, 3), (3, 2)]
    expected = []
    for number, (stride, x, y) in enumerate(places(settings, sizes)):
        ratio, octave = divmod(number % 6, 2)
        side = stride * 3 * 2 ** (octave / 2)
        stretch = math.sqrt(settings.ratios[ratio])
        width, height = side / stretch, side * stretch
        centre = x * stride, y * stride
        expected.append(
            [centre[0] - width / 2, centre[1] - height / 2]
            + [centre[0] + width / 2, centre[1] + height / 2]
        )
    found = to_numpy(settings.boxes(sizes))
    assert [len(level) for level in found] == [5 * 3 * 6, 3 * 2 * 6]
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5)

    pictures = [(40, 24), (33, 8), (32, 9), (1, 1)]
    inside = to_numpy(settings.inside(sizes, np.array(pictures)))
    for row, (height, width) in zip(inside, pictures, strict=True):
        padded = [math.ceil(side / 32) * 32 for side in (height, width)]
        expected = [y * s < padded[0] and x * s < padded[1] for s, x, y in places(settings, sizes)]
        np.testing.assert_array_equal(row, expected)

    if BACKEND == "tensorflow":  # whose graphs may not know sizes
        import tensorflow as tf

        traced = tf.function(settings.boxes, [[[tf.TensorSpec((), "int32")] * 2] * 2])
        for level, same in zip(traced([[*map(tf.constant, s)] for s in sizes]), found, strict=True):
            np.testing.assert_array_equal(level, same)


def assigned(anchors, valid, boxes, labels, positive=0.5, negative=0.4, least=0.0):
    """By all pairs."""
    positive, negative, least = map(np.float32, (positive, negative, least))
    shares = np.array([[iou(a, b, "float32") for b in boxes] for a in anchors], "float32")
    shares[~valid] = 0
    shares[:, labels < 0] = 0
    rows = np.full(len(anchors), NEUTRAL)
    rows[shares.max(axis=1) < negative] = NEGATIVE
    sure = shares.max(axis=1) >= positive
    rows[sure] = shares.argmax(axis=1)[sure]
    for row, best in enumerate(shares.max(axis=0)):
        if best > 0 and best >= least:
            rows[shares[:, row] == best] = row
    rows[~valid] = NEUTRAL
    return rows


@pytest.mark.parametrize("thresholds", [(0.5, 0.4, 0.0), (0.7, 0.3, 0.3), (0.5, 0.5, 0.5)])
def test_assignment(thresholds):
    """Ties of all kinds, boxes without area, rows of padding anywhere, anchors that are out."""
    rng = np.random.default_rng(0)
    anchors, boxes = random_boxes(rng, (300, 25)), random_boxes(rng, (300, 6))
    labels = rng.integers(-1, 3, (300, 6))
    labels[:20] = -1
    valid = rng.random((300, 25)) < 0.8
    found = run(lambda x: assign(*x, *thresholds), [anchors, valid, boxes, labels])
    cases = zip(anchors, valid, boxes, labels, strict=True)
    expected = np.stack([assigned(*case, *thresholds) for case in cases])
    np.testing.assert_array_equal(found, expected)
    assert {NEGATIVE, NEUTRAL, 0, 5} <= {*expected.ravel().tolist()}
    one = run(lambda x: assign(*x, *thresholds), [anchors[50], valid[50], boxes[50], labels[50]])
    np.testing.assert_array_equal(one, expected[50])


def test_objects_that_no_anchor_is_like():
    """Outside of the picture, a fifth of a pixel wide, padding; and one between two anchors."""
    anchors = np.concatenate(to_numpy(Anchors().boxes([(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)])))
    outside, tiny = [-200, -200, -150, -150], [31, 31, 31.2, 31.2]
    boxes = np.array([outside, [10, 10, 42, 42], tiny, [-1] * 4, [-1] * 4], "float32")
    labels = np.array([0, 1, 2, -1, -1])
    valid = np.ones(len(anchors), bool)
    rows = run(lambda x: assign(*x), [anchors, valid, boxes, labels])
    np.testing.assert_array_equal(rows, assigned(anchors, valid, boxes, labels))
    shares = np.array([iou(anchor, tiny, "float32") for anchor in anchors])
    np.testing.assert_array_equal(rows == 2, shares == shares.max())
    assert {1, 2} < {*rows.tolist()} and (rows < 3).all()

    between = np.array([[4, 0, 36, 32]], "float32")
    pair = np.array([[0, 0, 32, 32], [8, 0, 40, 32], [100, 0, 132, 32]], "float32")
    rows = run(lambda x: assign(*x, 0.9), [pair, np.ones(3, bool), between, np.array([7])])
    assert rows.tolist() == [0, 0, NEGATIVE]


def losses(targets, maps, settings):
    """Totals of focal and L1 loss, and the weight, by loops over pictures and anchors."""
    sizes = [level.shape[1:3] for level in maps["classes"]]
    anchors = np.concatenate(to_numpy(settings.boxes(sizes)))
    values = [
        np.concatenate([level.reshape(len(level), len_, -1) for level, len_ in levels], axis=1)
        for levels in (
            [(level, h * w * 9) for level, (h, w) in zip(maps[name], sizes, strict=True)]
            for name in ("classes", "boxes")
        )
    ]
    classes, box, weight = 0.0, 0.0, 0
    for i, (logits, deltas) in enumerate(zip(*values, strict=True)):
        valid = to_numpy(settings.inside(sizes, targets["sizes"][i : i + 1]))[0].astype(bool)
        rows = assigned(anchors, valid, targets["boxes"][i], targets["labels"][i])
        weight += max((rows >= 0).sum(), 1)
        for row, anchor, logit, delta in zip(rows, anchors, logits, deltas, strict=True):
            if row == NEUTRAL:
                continue
            chance = 1 / (1 + np.exp(-logit.astype("float64")))
            is_class = np.zeros(len(logit), bool)
            if row >= 0:
                is_class[targets["labels"][i][row]] = True
                left, top, right, bottom = targets["boxes"][i][row]
                width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
                x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
                wanted = [((left + right) / 2 - x) / width, ((top + bottom) / 2 - y) / height]
                wanted += [np.log((right - left) / width), np.log((bottom - top) / height)]
                box += np.abs(wanted - delta).sum()
            classes -= (0.25 * (1 - chance) ** 2 * np.log(chance))[is_class].sum()
            classes -= (0.75 * chance**2 * np.log(1 - chance))[~is_class].sum()
    return classes, box, weight


@pytest.mark.parametrize("classes", [1, 80])
def test_losses(classes):
    """Pictures of other sizes than the canvas, without objects, with padding between objects."""
    rng = np.random.default_rng(classes)
    sizes = [(8, 6), (4, 3)]
    maps = {
        name: [rng.normal(0, 2, (3, *size, 9 * values)).astype("float32") for size in sizes]
        for name, values in (("classes", classes), ("boxes", 4))
    }
    corners = rng.uniform(0, 30, (3, 5, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.1, 30, (3, 5, 2))], -1)
    labels = rng.integers(0, classes, (3, 5))
    labels[0, [1, 4]], labels[1] = -1, -1
    targets = {
        "boxes": np.where(labels[..., None] >= 0, boxes, -1).astype("float32"),
        "labels": labels.astype("int32"),
        "sizes": np.array([(64, 48), (64, 48), (30, 48)], "int32"),
    }
    found = run(
        lambda x: retinanet_losses(x["targets"], x["maps"], SMALL),
        {"targets": targets, "maps": maps},
    )
    class_total, box_total, weight = losses(targets, maps, SMALL)
    assert found["class_loss"] == (pytest.approx(class_total, rel=1e-5), weight)
    assert found["box_loss"] == (pytest.approx(box_total, rel=1e-5), weight)
    del targets["sizes"]  # the third picture has more anchors then
    more = run(
        lambda x: retinanet_losses(x["targets"], x["maps"], SMALL),
        {"targets": targets, "maps": maps},
    )
    assert more["class_loss"][0] > found["class_loss"][0]
    targets["sizes"] = np.array([(64, 48)] * 3)
    assert more["class_loss"][0] == pytest.approx(losses(targets, maps, SMALL)[0], rel=1e-5)


def test_objects_outside_of_their_picture_count_nothing():
    """Though the coarsest anchors reach there."""
    maps = {
        name: [np.full((2, side, side, 9 * values), -2, "float32") for side in (8, 4, 2, 1, 1)]
        for name, values in (("classes", 3), ("boxes", 4))
    }
    outside = [[-200, -200, -150, -150], [10, -9, 42, 0], [64, 10, 90, 42], [10, 50, 42, 60]]
    inside = [[10, 10, 42, 42], [31, 31, 31.2, 31.2]]
    targets = {
        "boxes": np.array([outside + inside, [[-1] * 4] * 4 + inside], "float32"),
        "labels": np.array([[0, 1, 2, 0, 1, 2], [-1] * 4 + [1, 2]]),
        "sizes": np.array([[48, 64], [48, 64]], "int32"),
    }

    def alone(x, i):
        return retinanet_losses(*keras.tree.map_structure(lambda a: a[i : i + 1], x), Anchors())

    one, other = run(lambda x: (alone(x, 0), alone(x, 1)), [targets, maps])
    assert one == other and one["box_loss"][0] > 0
    del targets["sizes"]
    targets["boxes"][0, 3] = [10, 70, 42, 80]
    nothing = {"boxes": np.zeros((2, 0, 4), "float32"), "labels": np.zeros((2, 0), "int32")}
    whole, none = run(
        lambda x: [retinanet_losses(y, x["maps"], Anchors()) for y in x["targets"]],
        {"targets": [targets, nothing], "maps": maps},
    )
    assert whole["box_loss"][1] % 2 == 0
    assert none["box_loss"] == (0, 2) and none["class_loss"][0] > 0
