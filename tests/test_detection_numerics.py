"""RetinaNet against mmdetection's numbers."""

import dataclasses

import keras
import numpy as np
import pytest
from helpers import loss_and_gradients, run, to_numpy
from reference import detection_batch, load_expected, sample_level, task_state_dict
from safetensors.numpy import load_file, save_file

from keras_sepvit import SepViTBackbone, load_weights, save_pytorch
from keras_sepvit.detection import RetinaNet, retinanet_losses
from keras_sepvit.detection.assignment import NEGATIVE, NEUTRAL, assign
from keras_sepvit.detection.boxes import encode, intersection_over_union
from keras_sepvit.detection.losses import level_losses
from keras_sepvit.weights.pytorch import _task_to_keras, to_keras

SIZES = (
    pytest.param("96x160", marks=pytest.mark.by_default_on("tensorflow", "torch")),
    "125x167",
)
UNUSED = ("backbone.norm.", "backbone.head.")  # of mmdet's dense backbone, by itself


def assert_close(actual, expected, name, tolerance=1e-4):
    """1e-4, absolute or relative, whichever is larger."""
    error = np.abs(actual - expected) / np.maximum(np.abs(expected), 1)
    assert error.max(initial=0) < tolerance, name


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A RetinaNet of any size with mmdet's seeded weights, which it also writes."""
    path = tmp_path_factory.mktemp("checkpoints") / "mmdet.safetensors"
    state_dict = task_state_dict("retinanet")
    save_file(state_dict, path)
    backbone = SepViTBackbone.from_variant(
        "sepvit_t", (None, None, 3), dense=True, drop_path_rate=0.0
    )
    model = RetinaNet(backbone, num_classes=80)
    report = load_weights(model, path)
    assert not report.new and all(name.startswith(UNUSED) for name in report.unused)
    save_pytorch(model, path)
    written = load_file(path)
    assert {k: v.shape for k, v in written.items()} == {k: v.shape for k, v in state_dict.items()}
    for key, value in state_dict.items():
        if not key.startswith(UNUSED):
            np.testing.assert_array_equal(written[key], value, err_msg=key)
    assert model.count_params() == 44_593_492
    return model


@pytest.fixture(scope="module", params=SIZES)
def found(request, model):
    """Of a size mmdet's arrays, the batch, and the network's maps of it."""
    expected = load_expected(f"official_retinanet_tiny_{request.param}")
    images, targets = detection_batch(expected)
    outputs = {"neck": model.get_layer("neck").output, **model.output}
    return expected, targets, run(keras.Model(model.inputs, outputs), images)


def own_padding(model):
    """The model's anchors where sizes are those that pictures are padded to by themselves."""
    return dataclasses.replace(model.anchors, multiple=1)


def map_sizes(maps):
    return [level.shape[1:3] for level in maps["classes"]]


def test_maps(found):
    expected, _, maps = found
    for ours, theirs in (("neck", "neck"), ("classes", "cls"), ("boxes", "box")):
        for level, value in enumerate(maps[ours], start=3):
            key = f"{theirs}{level}"
            assert value.shape == tuple(expected[f"{key}_shape"])
            assert_close(sample_level(value), expected[key], key)
            assert_close(value.mean(dtype="float64"), expected[f"{key}_mean"], key)


def test_anchors_and_their_objects(found, model):
    expected, targets, maps = found
    anchors, sizes = own_padding(model), map_sizes(maps)
    levels = to_numpy(anchors.boxes(sizes))
    for number, level in enumerate(levels):
        key = f"anchors{number}"
        assert level.shape == tuple(expected[f"{key}_shape"])
        # mmdet's sums are of float32.
        assert_close(level.sum(axis=0, dtype="float64"), expected[f"{key}_sum"], key)
        for rows, part in ((level[:12], "first"), (level[-12:], "last")):
            np.testing.assert_array_equal(rows, expected[f"{key}_{part}"])
    valid = to_numpy(anchors.inside(sizes, targets["sizes"])).astype(bool)
    ends = np.cumsum([len(level) for level in levels])[:-1]
    counts = [[part.sum() for part in np.split(row, ends)] for row in valid]
    np.testing.assert_array_equal(counts, expected["valid_counts"])
    if all(side % 32 == 0 for side in targets["sizes"].ravel()):
        of_pictures = model.anchors.inside(sizes, expected["batch_image_shapes"])
        np.testing.assert_array_equal(to_numpy(of_pictures), valid)

    every = np.concatenate(levels)
    rows = run(
        lambda x: assign(every, valid, x["boxes"], x["labels"]),
        {name: targets[name] for name in ("boxes", "labels")},
    )
    for i in range(3):
        counts = [(rows[i] >= 0).sum(), (rows[i] == NEGATIVE).sum()]
        counts.append((rows[i][valid[i]] == NEUTRAL).sum())
        np.testing.assert_array_equal(counts, expected[f"assign{i}_counts"])
        positive = np.flatnonzero(rows[i] >= 0)
        np.testing.assert_array_equal(positive, expected[f"assign{i}_anchor"])
        row = rows[i][positive].astype(int)
        np.testing.assert_array_equal(row, expected[f"assign{i}_gt"])
        real = targets["boxes"][i][targets["labels"][i] >= 0]
        if not len(real):
            assert not len(positive)
            continue
        np.testing.assert_array_equal(targets["labels"][i][row], expected[f"target{i}_labels"])
        deltas = to_numpy(encode(every[positive], targets["boxes"][i][row]))
        assert_close(deltas, expected[f"target{i}_deltas"], f"deltas of {i}")
        shares = to_numpy(intersection_over_union(every[valid[i]], real)).max(axis=1)
        assert_close(shares.sum(dtype="float64"), expected[f"assign{i}_iou_sum"], "sum")


def test_losses(found, model):
    expected, targets, maps = found
    anchors = own_padding(model)

    def all_losses(x):
        alone = []
        for i in (0, 1):
            picture = keras.tree.map_structure(lambda array: array[i : i + 1], x)  # noqa: B023
            alone.append(retinanet_losses(picture["targets"], picture["maps"], anchors))
        both = retinanet_losses(x["targets"], x["maps"], anchors)
        return level_losses(x["targets"], x["maps"], anchors), both, alone

    (levels, weight), losses, alone = run(all_losses, {"targets": targets, "maps": maps})
    assert weight == expected["loss_normaliser"]
    for part, (key, name) in enumerate((("cls", "class_loss"), ("bbox", "box_loss"))):
        by_level = np.array([level[part] for level in levels]) / weight
        assert_close(by_level, expected[f"loss_{key}_levels"], key)
        assert_close(losses[name][0] / losses[name][1], expected[f"loss_{key}"], key)
        for i in (0, 1):
            total, own_weight = alone[i][name]
            assert_close(total / own_weight, expected[f"loss_image{i}"][part], f"{key} of {i}")
    assert alone[1]["box_loss"][0] == 0


def test_detections(found, model):
    expected, _, maps = found
    sizes = expected["batch_image_shapes"].astype("int32")
    detections = run(lambda x: model.detections(x, sizes.max(axis=0), sizes), maps)
    for i in range(3):
        count = int(detections["num_detections"][i])
        assert count == len(expected[f"det{i}"])
        boxes, scores, labels = (
            detections[name][i, :count] for name in ("boxes", "confidence", "labels")
        )
        assert (np.diff(scores) <= 0).all()
        scale = expected["scale_factors"][i]
        for rows, own_boxes, key in (
            (expected[f"det{i}"], boxes, "det"),
            (expected[f"rescaled{i}"], boxes / scale, "rescaled"),
        ):
            for row, label in zip(rows, expected[f"{key}{i}_labels"], strict=True):
                # Where two scores are nearly equal the order may be another.
                far = np.abs(own_boxes - row[:4]).max(axis=1) + 10 * np.abs(scores - row[4])
                nearest = np.where(labels == label, far, np.inf).argmin()
                assert_close(own_boxes[nearest], row[:4], key, 1e-2)
                assert_close(scores[nearest], row[4], key)


def test_gradients(model):
    expected = load_expected("official_retinanet_tiny_125x167")
    images, targets = detection_batch(expected)

    def loss(labels, outputs):
        pairs = retinanet_losses(labels, outputs, own_padding(model)).values()
        return sum(total / weight for total, weight in pairs)

    total, gradients = loss_and_gradients(model, images, targets, loss=loss)
    assert_close(total, expected["loss_cls"] + expected["loss_bbox"], "total")
    for key, norm in zip(expected["gradient_keys"], expected["gradient_norms"], strict=True):
        path = _task_to_keras(key) or to_keras(key.removeprefix("backbone."))[0]
        assert np.linalg.norm(gradients[path]) == pytest.approx(norm, rel=1e-3), key
