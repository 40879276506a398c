"""Mask R-CNN against mmdetection's numbers."""

import dataclasses

import keras
import numpy as np
import pytest
from helpers import run, to_numpy
from reference import detection_batch, load_expected, sample_level, task_state_dict
from rois_reference import reference_roi_align
from safetensors.numpy import load_file, save_file

from keras_sepvit import SepViTBackbone, load_weights, save_pytorch
from keras_sepvit.detection import MaskRCNN, mask_rcnn_losses
from keras_sepvit.detection.assignment import NEGATIVE, NEUTRAL, assign
from keras_sepvit.detection.proposals import masks_of_labels, roi_detections, rpn_proposals
from keras_sepvit.detection.rois import roi_levels
from keras_sepvit.detection.sampling import sample_anchors, sample_rois

SIZES = (
    pytest.param("96x160", marks=pytest.mark.by_default_on("tensorflow", "torch")),
    "125x167",
)
PICTURES = range(3)
UNUSED = ("backbone.norm.", "backbone.head.")
ALL = 5000  # more samples than there are: mmdet's kept all


def assert_close(actual, expected, name, tolerance=1e-4):
    """1e-4, absolute or relative, whichever is larger."""
    error = np.abs(actual - expected) / np.maximum(np.abs(expected), 1)
    assert error.max(initial=0) < tolerance, (name, error.max())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A Mask R-CNN of any size with mmdet's seeded weights, which it also writes."""
    path = tmp_path_factory.mktemp("checkpoints") / "mmdet.safetensors"
    state_dict = task_state_dict("mask_rcnn")
    save_file(state_dict, path)
    backbone = SepViTBackbone.from_variant(
        "sepvit_t", (None, None, 3), dense=True, drop_path_rate=0.0
    )
    model = MaskRCNN(backbone, num_classes=80)
    report = load_weights(model, path)
    assert not report.new and all(name.startswith(UNUSED) for name in report.unused)
    assert model.count_params() == 53_929_296
    save_pytorch(model, path)
    written = load_file(path)
    assert {k: v.shape for k, v in written.items()} == {k: v.shape for k, v in state_dict.items()}
    for key, value in state_dict.items():
        if not key.startswith(UNUSED):
            np.testing.assert_array_equal(written[key], value, err_msg=key)
    return model


@pytest.fixture(scope="module", params=SIZES)
def found(request, model):
    """Of a size mmdet's arrays, the targets, and the first stage's maps."""
    expected = load_expected(f"official_mask_rcnn_tiny_{request.param}")
    images, targets = detection_batch(expected)
    targets["masks"] = np.zeros((*targets["labels"].shape, 112, 112), "uint8")
    for box in np.ndindex(*targets["labels"].shape):
        targets["masks"][box] = ellipse() * (targets["labels"][box] >= 0)
    return expected, targets, first_stage(model, images)


def ellipse():
    """That in a box, each place's share in 0..255."""
    offsets = ((np.arange(112 * 4) + 0.5) / (112 * 2) - 1) ** 2
    inside = offsets[:, None] + offsets <= 1
    return np.round(255 * inside.reshape(112, 4, 112, 4).mean(axis=(1, 3)))


def first_stage(model, images):
    neck, last, rpn = (model.get_layer(name).output for name in ("neck", "p6", "rpn_head"))
    outputs = {"maps": [*neck, last], "rpn": {"boxes": rpn[:5], "classes": rpn[5:]}}
    return run(keras.Model(model.inputs, outputs), images)


def second_stage(model, maps, rois, head):
    """What a head gives of boxes of one picture, cut out as mmdet does by default."""
    align, head = model.get_layer(f"{head}_roi_extractor"), model.get_layer(f"{head}_head")
    return run(head, reference_roi_align(maps, rois, align.size))


def own_padding(model):
    """The model's anchors where sizes are those that pictures are padded to by themselves."""
    return dataclasses.replace(model.anchors, multiple=1)


def canvas(expected):
    return tuple(expected["batch_image_shapes"].max(axis=0).tolist())


def proposals_of(model, maps, expected, candidates):
    sizes = expected["batch_image_shapes"].astype("int32")
    return run(
        lambda rpn: rpn_proposals(rpn, model.anchors, canvas(expected), sizes, candidates),
        maps["rpn"],
    )


def test_first_stage(found, model):
    """Maps; anchors and their objects."""
    expected, targets, maps = found
    for theirs, levels in (
        ("neck", maps["maps"]),
        ("rpn_cls", maps["rpn"]["classes"]),
        ("rpn_box", maps["rpn"]["boxes"]),
    ):
        for level, value in enumerate(levels, start=2):
            key = f"{theirs}{level}"
            assert value.shape == tuple(expected[f"{key}_shape"])
            assert_close(sample_level(value), expected[key], key)

    anchors = own_padding(model)
    sizes = [level.shape[1:3] for level in maps["rpn"]["classes"]]
    places = to_numpy(anchors.boxes(sizes))
    for number, level in enumerate(places):
        assert_close(level.sum(axis=0, dtype="float64"), expected[f"anchors{number}_sum"], "sum")
    places = np.concatenate(places)
    valid = to_numpy(anchors.inside(sizes, targets["sizes"])).astype(bool)
    rows = run(
        lambda x: assign(places, valid, x["boxes"], x["labels"], 0.7, 0.3, 0.3),
        {name: targets[name] for name in ("boxes", "labels")},
    )
    for i in PICTURES:
        counts = [(rows[i] >= 0).sum(), (rows[i] == NEGATIVE).sum()]
        counts.append((rows[i][valid[i]] == NEUTRAL).sum())
        np.testing.assert_array_equal(counts, expected[f"rpn_assign{i}_counts"])
        positive = np.flatnonzero(rows[i] >= 0)
        np.testing.assert_array_equal(positive, expected[f"rpn_assign{i}_anchor"])
        np.testing.assert_array_equal(rows[i][positive], expected[f"rpn_assign{i}_gt"])


def test_regions(found, model):
    """RoIAlign with two samples a side, and the heads on what mmdet cuts out by default."""
    expected, _, maps = found
    maps, rois = maps["maps"][:4], expected["rois"]
    images = rois[:, 0].astype(int)
    levels = roi_levels(rois[:, 1:])
    np.testing.assert_array_equal(to_numpy(levels), expected["roi_levels"])
    own = [[level[image] for level in maps] for image in images]
    for head in ("bbox", "mask"):
        align = model.get_layer(f"{head}_roi_extractor")
        # All boxes on each picture.
        regions = run(lambda x: align(*x), (maps, np.tile(rois[:, 1:], (3, 1, 1))))  # noqa: B023
        regions = regions.reshape(3, len(rois), *regions.shape[1:])[images, range(len(rois))]
        rows = slice(10 if head == "mask" else None)
        step, key = (2 if head == "mask" else 1), f"roi{align.size}_sampling2"
        assert_close(regions[rows, ::step, ::step, ::32], expected[key], key)
        assert_close(regions.mean(axis=(1, 2, 3)), expected[f"{key}_box_means"], key)
        adaptive = np.concatenate(
            [
                reference_roi_align(levels, box[np.newaxis], align.size)
                for levels, box in zip(own, rois[:, 1:], strict=True)
            ]
        )
        answers = run(model.get_layer(f"{head}_head"), adaptive)
        if head == "bbox":
            assert_close(answers["classes"], expected["roi_cls"], "classes")
            assert_close(answers["boxes"][:, ::8], expected["roi_box"], "boxes")
        else:
            assert_close(answers[rows, ::4, ::4, ::5], expected["roi_mask"], "masks")
            assert_close(answers.mean(axis=(1, 2, 3)), expected["roi_mask_box_means"], "means")


def test_proposals(found, model):
    expected, _, maps = found
    boxes, scores = proposals_of(model, maps, expected, 1000)
    for i in PICTURES:
        number = (scores[i] >= 0).sum()
        assert number == expected[f"proposals{i}_count"] and not boxes[i, number:].any()
        rows = np.concatenate([boxes[i], np.maximum(scores[i], 0)[:, None]], axis=1)
        sums = rows.sum(axis=0, dtype="float64")
        np.testing.assert_allclose(sums, expected[f"proposals{i}_sum"], rtol=1e-5)
        for row in expected[f"proposals{i}"]:
            far = np.abs(boxes[i] - row[:4]).max(axis=1) + 10 * np.abs(scores[i] - row[4])
            assert_close(rows[far.argmin()], row, "proposal", 1e-3)


def test_losses(found, model):
    """All of them, of all anchors and proposals, as mmdet's samplers had them; what they drew."""
    expected, targets, maps = found
    size = canvas(expected)
    proposals, scores = proposals_of(model, maps, expected, 2000)
    for i in PICTURES:
        assert (scores[i] >= 0).sum() == expected[f"train_proposals{i}_count"]
        sums = proposals[i].sum(axis=0, dtype="float64")
        np.testing.assert_allclose(sums, expected[f"train_proposals{i}_sum"][:4], rtol=1e-5)

    def sampled(x):
        first = sample_anchors(x["targets"], x["rpn"], own_padding(model), size, 0, 2 * ALL)
        second = sample_rois(x["targets"], x["proposals"], x["scores"], 80, size, 0, ALL)
        return {**first, **second}

    arrays = {"targets": targets, "proposals": proposals, "scores": scores, "rpn": maps["rpn"]}
    outputs = run(sampled, arrays)
    labels, rois = outputs["roi_labels"], outputs["rois"]
    positives = ((labels >= 0) & (labels < 80)).sum(axis=1)
    np.testing.assert_array_equal(positives, expected["rcnn_positives"])
    np.testing.assert_array_equal((labels == 80).sum(axis=1), expected["rcnn_negatives"])

    most = outputs["roi_deltas"].shape[1]
    outputs["classes"] = np.zeros((*labels.shape, 81), "float32")
    outputs["boxes"] = np.zeros((3, most, 4), "float32")
    outputs["masks"] = np.zeros((3, most, 28, 28), "float32")
    exact, start, bits = np.zeros_like(outputs["masks"]), 0, []
    for i, own in enumerate(positives):
        levels = [level[i] for level in maps["maps"][:4]]
        count = own + (labels[i] == 80).sum()
        answers = second_stage(model, levels, rois[i, :count], "bbox")
        outputs["classes"][i, :count] = answers["classes"]
        if not own:
            continue
        # Ours in mmdet's order; some boxes are there twice.
        theirs, order = expected[f"rcnn_pos{i}_boxes"], []
        for far in np.abs(theirs[:, None] - rois[i, :own]).max(axis=2):
            far[order] = np.inf
            order.append(far.argmin())
        assert_close(rois[i, order], theirs, "samples", 1e-3)
        rows = slice(start, start := start + own)
        np.testing.assert_array_equal(labels[i, order], expected["rcnn_target_labels"][rows])
        assert_close(
            outputs["roi_deltas"][i, order], expected["rcnn_target_deltas"][rows], "deltas"
        )
        of_label = range(own), labels[i, :own].astype(int)
        outputs["boxes"][i, :own] = answers["boxes"].reshape(-1, 80, 4)[of_label]
        masks = second_stage(model, levels, rois[i, :own], "mask")
        outputs["masks"][i, :own] = masks.transpose(0, 3, 1, 2)[of_label]
        for place, row in zip(order, expected[f"rcnn_pos{i}_gt"], strict=True):
            bitmap = full_size_ellipse(expected[f"gt{i}_boxes"][row], size)
            cells = reference_roi_align([bitmap], rois[i, place : place + 1], 28, strides=(1,))
            exact[i, place] = cells[0, ..., 0] >= 0.5
        bits.append(exact[i, order])
    bits = np.concatenate(bits)
    np.testing.assert_array_equal(bits.sum(axis=(1, 2)), expected["mask_targets_sums"])
    outputs["mask_valid"] = outputs["mask_valid"].astype(bool)
    valid = outputs["mask_valid"]
    np.testing.assert_array_equal(valid.sum(axis=1), positives)
    ours = outputs["mask_targets"][valid] > 0
    shared = (ours & (exact[valid] > 0)).sum() / (ours | (exact[valid] > 0)).sum()
    assert shared > 0.98
    for name in ("rpn_labels", "roi_labels"):
        outputs[name] = outputs[name].astype("int32")
    outputs["mask_targets"] = exact
    pairs = to_numpy(mask_rcnn_losses(targets, keras.tree.map_structure(np.asarray, outputs)))
    assert pairs["rpn_class_loss"][1] == expected["rpn_loss_normaliser"]
    for name, key in (
        ("rpn_class_loss", "loss_rpn_cls"),
        ("rpn_box_loss", "loss_rpn_bbox"),
        ("class_loss", "rcnn_loss_cls"),
        ("box_loss", "rcnn_loss_bbox"),
        ("mask_loss", "rcnn_loss_mask"),
    ):
        total, weight = pairs[name]
        assert_close(total / weight, expected[key], name)


def full_size_ellipse(box, size):
    """The ellipse in a box as a bitmap (height, width, 1)."""
    centre, sides = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    x, y = (
        ((np.arange(side) + 0.5 - centre[axis]) / sides[axis]) ** 2
        for axis, side in enumerate(size[::-1])
    )
    return (x + y[:, None] <= 1).astype("float32")[..., None]


def test_detections(found, model):
    """Boxes, and the logits of their masks."""
    expected, _, maps = found
    sizes = expected["batch_image_shapes"].astype("int32")
    rois, scores = proposals_of(model, maps, expected, 1000)
    for i in PICTURES:
        levels = [level[i] for level in maps["maps"][:4]]
        answers = second_stage(model, levels, rois[i], "bbox")
        arrays = {"answers": answers, "rois": rois[i : i + 1], "scores": scores[i : i + 1]}
        detections = run(
            lambda x: roi_detections(
                *(x["answers"], x["rois"], x["scores"], canvas(expected), sizes[i : i + 1])  # noqa: B023
            ),
            arrays,
        )
        number = int(detections["num_detections"][0])
        assert number == len(expected[f"det{i}"])
        boxes, found_scores, labels = (
            detections[name][0, :number] for name in ("boxes", "confidence", "labels")
        )
        order = []
        for row, label in zip(expected[f"det{i}"], expected[f"det{i}_labels"], strict=True):
            far = np.abs(boxes - row[:4]).max(axis=1) + 10 * np.abs(found_scores - row[4])
            order.append(np.where(labels == label, far, np.inf).argmin())
            assert_close(boxes[order[-1]], row[:4], "box", 1e-2)
            assert_close(found_scores[order[-1]], row[4], "score")
        order = order[:4]
        # Cut out of mmdet's boxes: the logits tell differences that boxes may have.
        masks = second_stage(model, levels, expected[f"det{i}"][:4, :4], "mask")
        own = run(
            lambda x: masks_of_labels(x["masks"], x["labels"]),
            {"masks": masks, "labels": labels[None, order].astype("int32")},
        )
        assert_close(own[0], expected[f"mask{i}_logits"], "masks")
