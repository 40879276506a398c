"""Instance segmenters measured on photos, by function and command; predictions of the command."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from helpers import SMALL, randomize
from PIL import Image
from test_cli import assert_refused, run, run_json

from keras_sepvit.detection import MaskRCNN, RetinaNet, detect
from keras_sepvit.detection.detector import convert_boxes
from keras_sepvit.inference import KerasInstanceSegmenter, attach_record
from keras_sepvit.instances import InstanceReport, MaskAveragePrecision, evaluate, sources
from keras_sepvit.record import attach
from keras_sepvit.runtime import ImageInstanceSegmenter
from keras_sepvit.runtime.canvas import fit_into
from keras_sepvit.runtime.masks import decode, encode, paste
from keras_sepvit.scores import preprocess

pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")

NAMES = ("bolt", "nut", "washer")
SIZES = [(40, 60), (64, 96), (96, 64)]
SHAPE = (64, 96, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine photos: a triangle in each but the last two, one as run lengths, one without a mask."""
    folder = tmp_path_factory.mktemp("instances")
    (folder / "data" / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    photos, annotations = [], []
    for number in range(9):
        height, width = SIZES[number % 3]
        name = f"größe {number}.png"
        photos.append({"id": 7 * number, "file_name": name, "height": height, "width": width})
        Image.fromarray(rng.integers(0, 90, (height, width, 3), "uint8")).save(
            folder / "data" / "train" / name
        )
        if number > 6:
            continue
        left, top = rng.integers(2, 20, 2).tolist()
        side = 11 + number
        mask = np.zeros((height, width), bool)
        mask[top : top + side, left : left + side] = np.tri(side)
        triangle = [left, top, left, top + side, left + side, top + side]
        annotations.append(
            {
                **{"id": number, "image_id": 7 * number, "category_id": (91, 0, 7)[number % 3]},
                **{"bbox": [left, top, side, side], "area": side**2 / 2, "iscrowd": 0},
                "segmentation": {0: encode(mask), 1: []}.get(number, [triangle]),
            }
        )
    categories = [{"id": 91, "name": "washer"}, {"id": 0, "name": "bolt"}, {"id": 7, "name": "nut"}]
    content = {"images": photos, "annotations": annotations, "categories": categories}
    (folder / "data" / "train" / "_annotations.coco.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def source(folder):
    return sources.open_source(str(folder / "data"), "train")


def segmenter(image_shape=SHAPE, bounding_box_format="xyxy"):
    """With random weights, that finds something everywhere."""
    keras.utils.set_random_seed(0)
    model = MaskRCNN(
        *(SMALL, 3, bounding_box_format, image_shape),
        channels=8,
        units=16,
        num_convs=1,
        proposals=30,
        samples=8,
        max_detections=12,
    )
    randomize(model)
    for weight in model.trainable_weights:
        if "_reg/" in weight.path:  # so that boxes are near their anchors
            weight.assign(0.02 * weight)
        if "_cls/" in weight.path:  # so that scores are not all 1, whose order is rounding's
            weight.assign(0.05 * weight)
    return model


class Oracle(ImageInstanceSegmenter):
    """Finds what is true, by the photo's pixels; a box without a mask's whole."""

    image_shape, class_names, record = SHAPE, NAMES, None

    def __init__(self, source):
        self._truths = {}
        for number in range(source.size):
            _, image, truth = source.read(number)
            self._truths[image.tobytes()] = truth

    def detect(self, photo, threshold=0.3):
        truth = self._truths[photo.tobytes()]
        masks = np.zeros((len(truth["labels"]), *photo.shape[:2]), bool)
        for mask, rle, box in zip(masks, truth["masks"], truth["boxes"], strict=True):
            left, top, right, bottom = box.astype(int)
            mask[top:bottom, left:right] = True
            if rle is not None:
                mask[:] = decode(rle)
        return {**truth, "masks": masks, "confidence": np.full(len(masks), 0.7, "float32")}


@pytest.mark.once
def test_truth_given_back_is_right(source, tmp_path):
    """By boxes and by masks, of polygons, run lengths and an object without a mask."""
    details = InstanceReport(3, NAMES, source.category_ids)
    result = evaluate(Oracle(source), source, details=details)
    for name in ("ap", "ap50", "mask_ap", "mask_ap50", "mask_ar_100"):
        assert result[name] == pytest.approx(100)
    assert (result["images"], result["objects"], result["without_mask"]) == (9, 7, 1)
    details.write(tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert [row["image_id"] for row in rows] == [7 * number for number in range(7)]
    assert {row["category_id"] for row in rows} == {0, 7, 91}
    for row in rows:
        (rle,) = source.masks_of(row["image_id"])
        assert rle is None or row["segmentation"] == rle
    with pytest.raises(ValueError, match="`source` must be photos with boxes and masks"):
        evaluate(Oracle(source), [1])
    retinanet = RetinaNet(SMALL, 3, image_shape=SHAPE, channels=8, num_convs=1)
    with pytest.raises(ValueError, match="`model` must be an instance segmenter.*`retina"):
        evaluate(retinanet, source)
    without = Oracle(source)
    without.detect = lambda photo, threshold: {
        key: rows for key, rows in Oracle.detect(without, photo).items() if key != "masks"
    }
    with pytest.raises(ValueError, match="`found` must have masks"):
        evaluate(without, source)


@pytest.mark.thorough
@pytest.mark.parametrize("box_format", ["xyxy", "rel_yxyx"])
def test_masks_lie_in_the_photos_pixels(box_format):
    """Of a photo that is fitted into the canvas: those of the answers, pasted there."""
    model = segmenter(bounding_box_format=box_format)
    photo = np.random.default_rng(0).integers(0, 255, (100, 110, 3), "uint8")
    (found,) = detect(model, [photo], threshold=0)
    placement = fit_into((100, 110), (64, 96))
    images = preprocess(model, placement.place(photo)[np.newaxis])
    answers = segmenter().predict_on_batch(images)
    boxes, masks = (keras.ops.convert_to_numpy(answers[key])[0] for key in ("boxes", "masks"))
    boxes = boxes / np.tile(placement.scale[::-1], 2)
    inside = (boxes[:, 0] < 110) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    expected = [paste(mask, box, (100, 110)) for mask, box in zip(masks, boxes, strict=True)]
    count = int(answers["num_detections"][0])
    rows = np.flatnonzero(inside[:count])
    assert found["masks"].dtype == bool and found["masks"].shape == (len(rows), 100, 110)
    assert len(rows) > 3 and (boxes[rows, 2] > 115).any()  # some reach into the padding
    differing = [
        (mask != expected[row]).mean() for mask, row in zip(found["masks"], rows, strict=True)
    ]
    assert max(differing) < 1e-3 and found["masks"].any() and not found["masks"].all()
    (few,) = detect(model, [photo], threshold=0, max_detections=2)
    np.testing.assert_array_equal(few["masks"], found["masks"][:2])


@pytest.mark.by_default_on("torch")
@pytest.mark.parametrize("box_format", ["xyxy", "rel_yxyx"])
def test_average_precision_by_masks_in_the_logs_of_fit(box_format):
    """What is found is true, but of one object, which has no mask, and one with an empty half."""
    model = segmenter(bounding_box_format=box_format)
    images = np.random.default_rng(0).uniform(-1, 1, (2, *SHAPE)).astype("float32")
    found = {name: np.array(rows) for name, rows in model.predict(images, verbose=0).items()}
    labels = np.where(found["confidence"] > 0, found["labels"], -1)
    masks = np.uint8(255 * np.round(found["masks"]))
    targets = {"boxes": found["boxes"], "labels": labels, "masks": masks}
    assert (labels[:, :4] >= 0).all() and masks[0].any()
    expected = InstanceReport(3)
    pixels = keras.ops.convert_to_numpy(
        convert_boxes(found["boxes"], box_format, "xyxy", *SHAPE[:2])
    )
    masks[0, 0] = 0
    for number in range(2):
        rows = labels[number] >= 0
        boxes = pixels[number][rows]
        shapes, true = (
            [paste(mask, box, SHAPE[:2]) for mask, box in zip(part[rows], boxes, strict=True)]
            for part in (found["masks"][number], masks[number] / 255)
        )
        rles = [
            encode(mask) if crop.any() else None
            for mask, crop in zip(true, masks[number][rows], strict=True)
        ]
        truth = {"boxes": boxes, "labels": labels[number][rows]}
        answer = {**truth, "masks": shapes, "confidence": found["confidence"][number][rows]}
        expected.add({**truth, "masks": rles}, answer, photo_size=SHAPE[:2])
    callback, logs = MaskAveragePrecision((images, targets), batch_size=1), {}
    callback.set_model(model)
    callback.on_epoch_end(0, logs)
    result = expected.result()
    assert logs["val_AP"] == pytest.approx(100, abs=0.1) and 0 < logs["val_mask_AP"] < 100
    for name, key in (("val_mask_AP", "mask_ap"), ("val_mask_AP50", "mask_ap50")):
        assert logs[name] == pytest.approx(result[key], abs=0.1)


# The commands


@pytest.fixture(scope="module")
def model_file(folder):
    model = segmenter()
    attach(model, dataclasses.replace(attach_record(model, NAMES), category_ids=(0, 7, 91)))
    assert model.record.task == "instances"
    model.save(folder / "model.keras")
    return folder / "model.keras"


@pytest.mark.thorough
@pytest.mark.once
def test_commands(folder, source, model_file, tmp_path):
    """`evaluate` prints both tables; `predict` tells masks as run lengths, and draws them."""
    found = KerasInstanceSegmenter(model_file)
    details = InstanceReport(3, NAMES, source.category_ids)
    expected = evaluate(found._model, source, details=details)
    command = ["evaluate", model_file, "--data", folder / "data", "--split", "train"]
    record = run_json(*command, "--output", tmp_path / "out")
    for name, value in expected.items():
        assert record[name] == (value if value is None else pytest.approx(value, abs=1e-4))
    assert record["classes"] == json.loads(json.dumps(details.record()))["classes"]
    assert (tmp_path / "out" / "worst.png").exists()
    text = run(*command).stdout
    assert "boxes\n  AP  " in text and "masks\n  AP  " in text and "mask ap50" in text

    photo = folder / "data" / "train" / "größe 0.png"
    command = ["predict", model_file, photo, "--threshold", 0.06, "--output", tmp_path / "drawn"]
    (record,) = run_json(*command)
    answer = found.detect(photo, threshold=0.06)
    assert len(record["detections"]) == len(answer["names"]) > 1
    for row, label, mask in zip(
        record["detections"], answer["labels"], answer["masks"], strict=True
    ):
        assert (row["class"], row["category_id"]) == (label, (0, 7, 91)[label])
        assert row["segmentation"] == encode(mask) and len(row["bbox"]) == 4
    with Image.open(record["overlay"]) as opened:
        assert opened.size == (480, 320)
    few = run_json("predict", model_file, photo, "--threshold", 0, "--classes", "nut")
    assert {row["label"] for row in few[0]["detections"]} <= {"nut"}
    refused = run("predict", model_file, photo, "--top", 3)
    assert_refused(refused, "--top is for segmenters and classifiers", "is an instance segmenter")
