"""What the tests of detectors share: a tiny one that finds much."""

import keras
import numpy as np
from helpers import SMALL, randomize, to_numpy

from keras_sepvit.detection import Anchors, MaskRCNN, RetinaNet
from keras_sepvit.export import default_images

SHAPE = (64, 96, 3)
NAMES = ("nut", "a bolt", "\u72ac")
ALONE = Anchors(octaves=1, ratios=(1.0,), strides=(8, 16))  # one anchor a place
ANSWERS = ("boxes", "labels", "confidence", "num_detections")


def tiny_detector(image_shape=SHAPE, classes=3, mean=-4.0, **options):
    """A RetinaNet of random weights; its logits have the mean `mean`, so that some are high."""
    options = {"anchor_scale": 2.0, "channels": 16, "num_convs": 1, **options}
    model = RetinaNet(SMALL, classes, image_shape=image_shape, **options)
    randomize(model)
    maps = to_numpy(model(default_images(SHAPE, 4)))
    head = model.get_layer("bbox_head")
    for layer, name, deviation, middle in (
        (head.retina_cls, "classes", 1.2, mean),
        (head.retina_reg, "boxes", 0.3, 0.0),
    ):
        values = np.concatenate([level.ravel() for level in maps[name]])
        scale = deviation / values.std()
        layer.kernel.assign(layer.kernel * scale)
        channels = maps[name][0].mean(axis=(0, 1, 2))
        layer.bias.assign((to_numpy(layer.bias) - channels) * scale + middle)
    return model


def tiny_instance_segmenter(image_shape=SHAPE, classes=3, **options):
    """A Mask R-CNN of random weights, whose answers have all sorts of scores, boxes and masks."""
    options = {"anchor_scale": 2.0, "channels": 16, "units": 32, "num_convs": 1, **options}
    model = MaskRCNN(SMALL, classes, image_shape=image_shape, **{"proposals": 100, **options})
    randomize(model)
    images = default_images(SHAPE, 4)
    rpn, box, mask = (model.get_layer(name) for name in ("rpn_head", "bbox_head", "mask_head"))
    for head, lasts in (
        (rpn, ((rpn.rpn_reg, 0.1), (rpn.rpn_cls, 2.0))),  # in the order of the head's outputs
        (box, ((box.fc_reg, 0.3), (box.fc_cls, 2.0))),
        (mask, ((mask.conv_logits, 2.0),)),
    ):
        found = keras.Model(model.inputs, head.output).predict(images, verbose=0)
        found = found if isinstance(found, list) else [found]
        for number, (last, deviation) in enumerate(lasts):
            step = len(found) // len(lasts)
            maps = found[number * step : (number + 1) * step]
            rows = np.concatenate([x.reshape(-1, x.shape[-1]) for x in maps])
            mean = rows.mean(axis=0)
            scale = deviation / (rows - mean).std()
            last.kernel.assign(last.kernel * scale)
            last.bias.assign((to_numpy(last.bias) - mean) * scale)
    background = 4.0 * np.eye(classes + 1)[-1]  # most boxes are nothing
    box.fc_cls.bias.assign(to_numpy(box.fc_cls.bias) + background)
    return model


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


def check_detections(found, maps, anchors, sizes, candidates=1000, **limits):
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
        for name in ANSWERS[:3]:
            assert found[name].shape[:2] == (len(sizes), limits["count"])
            assert (found[name][picture][number:] == -1).all()
    return found["num_detections"]


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


def other_classes(classes):
    """Boxes (n, 4), scores (n, classes), and what stays: (row, label, score), the best first.

    One box may be of two classes; another class's box is no rival; equals keep their order.
    """
    rows = [[10, 10, 50, 50], [10, 10, 50, 50], [12, 10, 52, 50], [20, 2, 28, 12], [40, 40, 60, 60]]
    scores = np.full((5, classes), 1e-9)
    scores[0, 0], scores[1, 1], scores[2, 0] = 0.9, 0.8, 0.7
    scores[3, 2], scores[3, 3] = 0.6, 0.5
    scores[4, 1], scores[4, 3] = 0.5, 0.5
    stays = [(0, 0, 0.9), (1, 1, 0.8), (3, 2, 0.6), (3, 3, 0.5), (4, 1, 0.5), (4, 3, 0.5)]
    return rows, scores, stays
