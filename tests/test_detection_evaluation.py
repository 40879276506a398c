"""Detectors measured on photos, by callback, function and command; predictions of the command."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
from helpers import SMALL, randomize
from PIL import Image
from test_cli import assert_refused, linear_classifier, run, run_json

from keras_sepvit.detection import (
    AveragePrecision,
    DetectionReport,
    RetinaNet,
    detect,
    evaluate,
    sources,
)
from keras_sepvit.detection.detector import convert_boxes
from keras_sepvit.inference import KerasDetector, attach_record
from keras_sepvit.record import Record, attach
from keras_sepvit.runtime import ImageDetector, Predictor
from keras_sepvit.segmentation import MeanIoU, segment
from keras_sepvit.training.report import DataReport

pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")

NAMES = ("bolt", "nut", "washer")
SIZES = [(40, 60), (64, 96), (96, 64)]
SHAPE = (64, 96, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine photos with an object each, categories in no order; two without objects, one bad."""
    folder = tmp_path_factory.mktemp("detection")
    (folder / "data" / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    photos, annotations = [], []
    for number in range(12):
        height, width = SIZES[number % 3]
        name = f"größe {number}.png"
        photos.append({"id": 7 * number, "file_name": name, "height": height, "width": width})
        image = rng.integers(0, 90, (height, width, 3), "uint8")
        if number < 9:
            left, top = rng.integers(2, 20, 2).tolist()
            side = 11 + number
            image[top : top + side, left : left + side] = 200
            category = (91, 0, 7)[number % 3]
            box = {"bbox": [left, top, side, side], "area": side**2, "iscrowd": 0}
            annotations.append({"id": 0, "image_id": 7 * number, "category_id": category, **box})
        Image.fromarray(image).save(folder / "data" / "train" / name)
    for number, row in enumerate(annotations):
        row["id"] = number % 2  # 0, and doubled
    categories = [{"id": 91, "name": "washer"}, {"id": 0, "name": "bolt"}, {"id": 7, "name": "nut"}]
    content = {"images": photos, "annotations": annotations, "categories": categories}
    (folder / "data" / "train" / "_annotations.coco.json").write_text(json.dumps(content))
    (folder / "data" / "train" / "größe 11.png").write_text("no picture")
    linear_classifier(3).save(folder / "classifier.keras")
    return folder


@pytest.fixture(scope="module")
def source(folder):
    return sources.open_source(str(folder / "data"), "train")


def detector(image_shape=SHAPE, bounding_box_format="xyxy", backbone=SMALL):
    """With random weights, that finds something everywhere."""
    keras.utils.set_random_seed(0)
    shape = image_shape if backbone is SMALL else None
    model = RetinaNet(backbone, 3, bounding_box_format, image_shape=shape, channels=8, num_convs=1)
    randomize(model)
    return model


def plain_backbone():
    """Three convolutions, which compile fast."""
    inputs = x = keras.Input(SHAPE)
    outputs = {}
    for level, stride in (("P3", 8), ("P4", 2), ("P5", 2)):
        x = outputs[level] = keras.layers.Conv2D(8, stride, stride, padding="same")(x)
    model = keras.Model(inputs, outputs)
    model.pyramid_outputs = outputs
    return model


class Oracle(ImageDetector):
    """Finds what is true, by the photo's pixels; classes in another order than the data's."""

    image_shape, class_names, record = SHAPE, ("washer", "bolt", "nut"), None

    def __init__(self, source):
        self._truths = {}
        for number in range(source.size):
            try:
                _, image, truth = source.read(number)
            except OSError:
                continue
            self._truths[image.tobytes()] = truth

    def detect(self, photo, threshold=0.3):
        truth = self._truths[photo.tobytes()]
        assert threshold == 0
        labels = (np.array([1, 2, 0]))[truth["labels"]]
        return {**truth, "labels": labels, "confidence": np.full(len(labels), 0.7, "float32")}


@pytest.mark.once
def test_truth_given_back_is_right(source, tmp_path):
    """Classes are matched by name; results have the file's own ids."""
    assert tuple(source.class_names) == NAMES
    details, report = DetectionReport(3, NAMES, source.category_ids), DataReport()
    names = Oracle.class_names
    how = {"class_names": names, "details": details, "report": report}
    result = evaluate(Oracle(source), source, **how)
    assert result["ap"] == result["ap50"] == pytest.approx(100) and result["ap_large"] is None
    assert (result["images"], result["objects"], result["unreadable"]) == (11, 9, 1)
    assert result["shapes"] == 1 and "größe 11.png" in report.names[0]
    details.write(tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text("utf-8"))
    with open(source.file, encoding="utf-8") as file:
        truth = json.load(file)["annotations"]
    expected = {(row["image_id"], row["category_id"], *row["bbox"]) for row in truth}
    assert {(row["image_id"], row["category_id"], *row["bbox"]) for row in rows} == expected
    assert {row["category_id"] for row in rows} == {0, 7, 91}
    assert details.worst.items == [] and np.trace(details.matrix) == 9
    with pytest.raises(ValueError, match="'washer', 'bolt', 'x'"):
        evaluate(Oracle(source), source, class_names=("washer", "bolt", "x"))
    with pytest.raises(ValueError, match="`sides` is for models of Keras"):
        evaluate(Oracle(source), source, sides=(32, 64))
    with pytest.raises(ValueError, match="`model` must be a detector.*Received: `s"):
        evaluate(linear_classifier(3), source)
    with pytest.raises(ValueError, match="`model` must be a Keras model, no path.*Load it first"):
        evaluate("model.keras", source)
    with pytest.raises(ValueError, match="`source` must be photos with boxes"):
        evaluate(Oracle(source), [1])


@pytest.mark.thorough
def test_results_are_those_of_what_detect_finds(source):
    """In batches or one by one, of a model for one size or for any."""
    for shape, sides, shapes in ((SHAPE, None, 1), ((None, None, 3), (64, 96), 2)):
        model = detector(shape)
        result = evaluate(model, source, batch_size=2, sides=sides)
        assert result["shapes"] == shapes and result["unreadable"] == 1
        expected = DetectionReport(3)
        for number in range(11):
            _, image, truth = source.read(number)
            (found,) = detect(model, [image], threshold=0, sides=sides)
            expected.add(truth, found, image_id=source.image_id(number))
        assert len(expected.pictures[0].found["labels"])
        for name, value in expected.result().items():
            assert result[name] == pytest.approx(value, abs=1e-3)
    with pytest.raises(ValueError, match=r"has 4 classes, and .*\) has 3\."):
        evaluate(RetinaNet(SMALL, 4, image_shape=SHAPE, channels=8, num_convs=1), source)


@pytest.mark.by_default_on("tensorflow", "torch")
@pytest.mark.parametrize("box_format", ["xyxy", "rel_center_xywh"])
def test_average_precision_in_the_logs_of_fit(box_format):
    """Of arrays and of batches, of boxes in any format; NaN where there is no object."""
    rng = np.random.default_rng(0)
    model = detector(bounding_box_format=box_format, backbone=plain_backbone())
    images = rng.uniform(-1, 1, (5, *SHAPE)).astype("float32")
    found = model.predict(images, verbose=0)
    assert (found["num_detections"] > 3).all()
    targets = {"boxes": found["boxes"][:, :3].copy(), "labels": found["labels"][:, :3].copy()}
    targets["boxes"][1, 1:], targets["labels"][1, 1:] = -1, -1
    nothing = {"boxes": np.full((5, 2, 4), -1.0), "labels": np.full((5, 2), -1)}
    batches = [
        (images[rows], {name: values[rows] for name, values in targets.items()})
        for rows in (slice(0, 2), slice(2, 5))
    ]
    scores = DetectionReport(3)
    for number in range(5):
        truth = {name: values[number] for name, values in targets.items()}
        pair = [
            {**part, "boxes": np.asarray(convert_to_pixels(part["boxes"], box_format))}
            for part in (truth, {name: values[number] for name, values in found.items()})
        ]
        scores.add(*pair)
    for data, expected in (
        ((images, targets), scores),
        (batches, scores),
        ((images, nothing), None),
    ):
        callback, logs = AveragePrecision(data, batch_size=2), {"loss": 1.0}
        callback.set_model(model)
        callback.on_epoch_end(0, logs)
        assert {*logs} == {"loss", "val_AP", "val_AP50"}
        if expected is None:
            assert np.isnan(logs["val_AP"]) and np.isnan(logs["val_AP50"])
        else:
            result = expected.result()
            assert 0 < result["ap50"] <= 100
            assert logs["val_AP"] == pytest.approx(result["ap"], abs=0.1)
            assert logs["val_AP50"] == pytest.approx(result["ap50"], abs=0.1)
    if box_format == "xyxy":
        model.compile("sgd", jit_compile=False)
        held_out = images[:2], {name: values[:2] for name, values in targets.items()}
        history = model.fit(*held_out, callbacks=[AveragePrecision(held_out)], verbose=2).history
        assert {"loss", "val_AP", "val_AP50"} <= {*history} and 0 <= history["val_AP50"][0] <= 100


@pytest.mark.once
@pytest.mark.parametrize("callback", [AveragePrecision, MeanIoU])
@pytest.mark.parametrize(
    "data, message",
    [
        (iter([(np.zeros(1), {})]), "ends with the first"),
        (np.zeros((2, 4, 4, 3)), "Received: ndarray"),
        (None, "Received: NoneType"),
    ],
    ids=["iterator", "array", "none"],
)
def test_data_of_callbacks_are_refused_at_once(callback, data, message):
    with pytest.raises(ValueError, match=f"`data` must be .*{message}"):
        callback(data)


@pytest.mark.once
def test_one_photo_is_no_list():
    for photo in (np.zeros((20, 30, 3), "uint8"), np.zeros((20, 30), "uint8")):
        for function in (detect, segment):
            with pytest.raises(ValueError, match="must be a list.* one array of shape .20, 30"):
                function(None, photo)


def convert_to_pixels(boxes, box_format):
    boxes = convert_boxes(boxes, box_format, "xyxy", *SHAPE[:2])
    return keras.ops.convert_to_numpy(boxes)


# The commands


@pytest.fixture(scope="module")
def model_file(folder):
    model = detector()
    attach(model, dataclasses.replace(attach_record(model, NAMES), category_ids=(0, 7, 91)))
    model.save(folder / "model.keras")
    return folder / "model.keras"


@pytest.mark.thorough
@pytest.mark.once
def test_evaluate_command(folder, source, model_file, tmp_path):
    details = DetectionReport(3, NAMES, source.category_ids)
    model = KerasDetector(model_file)._model
    expected = evaluate(model, source, details=details)
    command = ["evaluate", model_file, "--data", folder / "data", "--split", "train"]
    record = run_json(*command, "--output", tmp_path / "out", "--csv", tmp_path / "rows.csv")
    for name, value in expected.items():
        assert record[name] == (value if value is None else pytest.approx(value, abs=1e-4))
    told = json.loads(json.dumps(details.record()))
    assert record["best_f1"] == told["best_f1"] and record["classes"] == told["classes"]
    assert record["image_size"] == [64, 96] and "größe 11.png" in record["unreadable_names"][0]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("report.json", "results.json", "classes.csv", "confusion.csv", "confusion.png"),
        *("precision_recall.png", "worst.png"),
    }
    results = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert {row["category_id"] for row in results} <= {0, 7, 91}
    assert {row["image_id"] for row in results} <= {7 * number for number in range(11)}
    assert (tmp_path / "rows.csv").read_text("utf-8").startswith("class,ap,ap50,objects,recall")
    text = run(*command).stdout
    assert (
        "11 images\n  AP  " in text
        and "AP, large        -      AR, large" in text
        and "best F1" in text
    )
    assert "left out: 1 image could not be read" in text


@pytest.mark.thorough
@pytest.mark.once
def test_predict_command(folder, model_file, tmp_path):
    """Of a pattern in quotes; the same as `detect`; the pictures are the photos with boxes."""
    photos = folder / "data" / "train"
    command = ["predict", model_file, photos / "größe [0-2].png"]
    output = tmp_path / "deep" / "out"
    records = run_json(*command, "--threshold", 0.06, "--output", output)
    assert [record["image"] for record in records] == [
        str(photos / f"größe {number}.png") for number in range(3)
    ]
    seen = 0
    for record in records:
        found = KerasDetector(model_file).detect(record["image"], threshold=0.06)
        rows = record["detections"]
        assert [row["label"] for row in rows] == found["names"]
        for row in rows:
            number = row["class"]
            assert (row["label"], row["category_id"]) == (NAMES[number], (0, 7, 91)[number])
        boxes = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(boxes, found["boxes"], atol=1e-4)
        np.testing.assert_allclose([row["score"] for row in rows], found["confidence"], rtol=1e-5)
        picture = Image.open(record["overlay"])
        photo = Image.open(record["image"])
        assert picture.size == tuple(side * (512 // max(photo.size)) for side in photo.size)
        seen += len(rows)
    assert seen > 3
    assert {path.name for path in output.iterdir()} == {f"größe {n}_overlay.png" for n in range(3)}
    assert_refused(run(*command, "--output", output), "größe 0_overlay.png' exists", "--overwrite")
    few = run_json(*command, "--threshold", 0, "--classes", "nut, bolt", "--max-detections", 2)
    assert all(len(record["detections"]) <= 2 for record in few)
    assert {row["label"] for record in few for row in record["detections"]} <= {"nut", "bolt"}
    assert run(*command, "--threshold", 1).stdout.splitlines()[1] == "  nothing"
    first = run(*command, "--threshold", 0).stdout.splitlines()[1]
    assert first.split()[1] in NAMES and " at " in first and " x " in first


@pytest.fixture(scope="module")
def exported(folder):
    """An .onnx file whose one detection, a nut, is the same in each image of 64 x 96."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    answers = {
        "boxes": np.full((1, 4, 4), -1, "float32"),
        "labels": np.array([[1, -1, -1, -1]], "int32"),
        "confidence": np.array([[0.75, -1, -1, -1]], "float32"),
        "num_detections": np.array([1], "int32"),
    }
    answers["boxes"][0, 0] = 6, 12, 18, 30
    kinds = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values))
            for name, values in answers.items()
        ],
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, *SHAPE))],
        [
            helper.make_tensor_value_info(name, kinds[values.dtype.name], values.shape)
            for name, values in answers.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    how = ((64, 96), 3, "0..255", None, "bilinear", None, NAMES, "0.1.0", (0, 7, 91))
    record = Record("detection", *how)
    metadata = {"keras_sepvit.json": record.to_json(), "class_names": json.dumps(NAMES)}
    helper.set_model_props(model, metadata)
    onnx.save(model, folder / "nuts.onnx")
    return folder / "nuts.onnx"


@pytest.mark.once
def test_commands_with_an_exported_file(folder, source, exported):
    photo = folder / "data" / "train" / "größe 0.png"  # 40 x 60, 1.6 times as large on the canvas
    (record,) = run_json("predict", exported, photo)
    nut = {"class": 1, "label": "nut", "category_id": 7, "score": 0.75}
    assert record == {"image": str(photo), "detections": [{**nut, "bbox": [3.75, 7.5, 7.5, 11.25]}]}
    lines = run("predict", exported, photo, "--threshold", "0.75").stdout.splitlines()
    assert lines == [str(photo), "  nothing"]
    details = DetectionReport(3, NAMES)
    expected = evaluate(Predictor(exported), source, details=details)
    found = run_json("evaluate", exported, "--data", folder / "data", "--split", "train")
    assert {name: found[name] for name in expected} == expected
    assert found["best_f1"] == details.record()["best_f1"] and found["image_size"] == [64, 96]
    assert details.matrix[:, 1].sum() == 11  # one in each photo that can be read
    refused = run("evaluate", exported, "--data", folder / "data", "--split", "train", "--sides", 9)
    assert_refused(refused, "--sides is for models of Keras")


@pytest.mark.thorough
@pytest.mark.once
def test_an_exported_file_is_measured(folder, model_file, tmp_path):
    shutil.copytree(folder / "data" / "train", tmp_path / "data" / "validation")
    output = tmp_path / "model.onnx"
    arguments = ["export", model_file, "--format", "onnx", "--output", output]
    record = run_json(*arguments, "--data", tmp_path / "data")
    held_out = sources.open_source(str(tmp_path / "data"), "validation")
    expected = evaluate(Predictor(output), held_out)
    assert record["scores"]["file"] == {name: expected[name] for name in ("ap", "ap50")}
    assert record["scores"]["keras"] == pytest.approx(record["scores"]["file"], abs=0.1)
    assert record["data"] == f"folder:{tmp_path / 'data'}"


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments, messages",
    [
        ("predict MODEL PHOTO --top 3", ["--top is for segmenters and classifiers", "a detector"]),
        ("predict MODEL PHOTO --crop 0.9", ["--crop is for classifiers", "is a detector"]),
        ("predict MODEL PHOTO --threshold 1.5", ["--threshold", "1.5"]),
        ("predict MODEL PHOTO --max-detections 0", ["--max-detections", "0"]),
        (
            "predict MODEL PHOTO --classes nut,screw",
            ["no class 'screw'", "'bolt', 'nut', 'washer'"],
        ),
        ("predict MODEL PHOTO --image-size 32", ["64 x 96", "32 x 32"]),
        ("predict MODEL DATA/*.jpg", ["No image file matches", "*.jpg"]),
        (
            "predict CLASSIFIER PHOTO --threshold 0.5",
            ["--threshold is for instance segmenters and detectors"],
        ),
        ("predict CLASSIFIER PHOTO --classes nut", ["whole model"]),
        (
            "predict CLASSIFIER PHOTO --output out",
            ["--output is for segmenters, instance segmenters and detectors"],
        ),
        ("predict digits PHOTO --classes nut", ["--classes of weights must be their number"]),
        ("evaluate MODEL", ["model.keras is not in the folder of its training", "--data FOLDER"]),
        ("evaluate MODEL --data DATA --flip", ["--flip is for segmenters", "is a detector"]),
        ("evaluate MODEL --data DATA --split train --sides 32", ["--sides is for models of any"]),
        (
            "evaluate CLASSIFIER --data DATA --sides 32",
            ["--sides is for segmenters, instance segmenters and detectors"],
        ),
    ],
)
def test_bad_input_is_told_in_one_line(arguments, messages, folder, model_file):
    words = {
        "MODEL": model_file,
        "CLASSIFIER": folder / "classifier.keras",
        "DATA": folder / "data",
        "PHOTO": folder / "data" / "train" / "größe 0.png",
        "DATA/*.jpg": folder / "data" / "*.jpg",
    }
    assert_refused(run(*(words.get(word, word) for word in arguments.split())), *messages)
