"""Tables and pictures of instance segmenters' mistakes."""

import json

import numpy as np
import pytest
from PIL import Image
from test_detection_report import FILES as DETECTION_FILES
from test_detection_scores import picture
from test_instance_scores import SIZE, ellipses, random_pictures

from keras_sepvit.instances import InstanceReport
from keras_sepvit.runtime.masks import decode, encode
from keras_sepvit.visualize import draw_instances

pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")

pytestmark = pytest.mark.once

FILES = {*DETECTION_FILES, "mask_precision_recall.png"}
GREY = np.full((*SIZE, 3), 128, "uint8")
NAMES = ("bolt", "nut", "washer")


def report_of(pictures, **how):
    report = InstanceReport(3, NAMES, (91, 0, 7), **how)
    for number, (truth, found) in enumerate(pictures):
        report.add(truth, found, GREY, f"{number}.jpg", number)
    return report


def test_files_tell_of_boxes_and_masks(tmp_path):
    """Of two processes, too: tables with both APs, results with RLEs and the data's own ids."""
    pictures = [*random_pictures(3, 12)]
    one = report_of(pictures)
    parts = [InstanceReport(3, NAMES, (91, 0, 7)) for _ in range(2)]
    for number, (truth, found) in enumerate(pictures):
        parts[number % 2].add(truth, found, GREY, f"{number}.jpg", number)
    report = InstanceReport(3, NAMES, (91, 0, 7))
    report.merge([part.state() for part in parts])
    assert report.text() == one.text() and report.result() == one.result()
    shown = report.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert {*shown} == {tmp_path / name for name in FILES if name.endswith(".png")}
    told = json.loads((tmp_path / "report.json").read_text("utf-8"))
    for name in ("ap", "ap50", "mask_ap", "mask_ap50"):
        assert told[name] == report.result()[name]
        assert np.mean([row[name] for row in told["classes"]]) == pytest.approx(told[name])
    boxes, masks = report.text().split("masks\n", 1)
    assert boxes.startswith(f"boxes\n  AP          {told['ap']:6.2f} %    AR, 1 box ")
    assert masks.startswith(f"  AP          {told['mask_ap']:6.2f} %    AR, 1 mask ")
    rows = iter(json.loads((tmp_path / "results.json").read_text("utf-8")))
    for number, (_, found) in enumerate(pictures):
        for mask, label in zip(found["masks"], found["labels"], strict=True):
            row = next(rows)
            assert (row["image_id"], row["category_id"]) == (number, (91, 0, 7)[label])
            np.testing.assert_array_equal(decode(row["segmentation"]), mask)
    assert next(rows, None) is None


def test_worst_photos_have_their_masks(tmp_path):
    """What is true beside what is found above 0.3; an object without a mask has its box."""
    boxes = [[20, 30, 120, 180], [100, 160, 240, 290]]
    masks = ellipses(boxes)
    truth = {**picture(boxes, [0, 2]), "masks": [encode(masks[0]), None]}
    found = {**picture(boxes, [0, 1], [0.9, 0.2]), "masks": masks}
    report = report_of([(truth, found)])
    report.write(tmp_path)
    ((_, image, _),) = report.worst.items
    assert image.shape[:2] == (320, 277)  # of 300 x 260
    scale = np.array([277 / 260, 320 / 300] * 2)
    large = [
        np.asarray(Image.fromarray(mask).resize((277, 320), Image.Resampling.NEAREST))
        for mask in masks
    ]
    left, right = (
        draw_instances(image, scale * rows, labels, shapes, confidence, NAMES)
        for rows, labels, shapes, confidence in (
            (boxes, [0, 2], [large[0], None], None),
            (boxes[:1], [0], large[:1], [0.9]),
        )
    )
    page = np.asarray(Image.open(tmp_path / "worst.png").convert("RGB")).astype(int)
    for picture_, start in ((left, 6), (right, 6 + 277 + 6)):
        part = page[30 : 30 + 320, start : start + 277]
        different = (np.abs(part - np.asarray(picture_)) > 2).any(axis=-1)
        assert different.mean() < 0.01  # the outline is where the mask is enlarged to


def test_nothing_to_tell_by_masks(tmp_path):
    """Objects without masks: no AP by masks, and the earlier picture of it goes."""
    report_of(random_pictures(3, 4)).write(tmp_path)
    box = picture([[20, 30, 120, 180]], [1])
    truth, found = {**box, "masks": [None]}, {**picture([], [], []), "masks": []}
    report = report_of([(truth, found)])
    assert "masks\n  AP               -      AR, 1 mask          -\n" in report.text()
    report.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"mask_precision_recall.png"}
