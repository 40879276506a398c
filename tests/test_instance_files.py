"""Files of instance segmenters: what they give, in their runtimes and in photos, and what not."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from detectors import NAMES, SHAPE, tiny_instance_segmenter
from export_helpers import exporting, kinds_and_precisions
from helpers import BACKEND
from PIL import Image
from typer.testing import CliRunner

from keras_sepvit.cli import app
from keras_sepvit.detection import MaskRCNN, detect
from keras_sepvit.export import (
    default_images,
    to_litert,
    to_onnx,
    to_saved_model,
    to_stablehlo,
    to_tensorrt,
    to_tftrt,
    to_torch,
)
from keras_sepvit.export.check_detections import measure_detections
from keras_sepvit.export.litert_graph import inspect
from keras_sepvit.export.model import prepare
from keras_sepvit.inference import KerasDetector, KerasInstanceSegmenter, attach_record, load_model
from keras_sepvit.runtime import FileInstanceSegmenter, Predictor
from keras_sepvit.runtime.masks import decode

EXPORTS = {"tflite": to_litert, "onnx": to_onnx}
OUTPUTS = {
    "boxes": ((100, 4), "float32"),
    "labels": ((100,), "int32"),
    "confidence": ((100,), "float32"),
    "num_detections": ((), "int32"),
    "masks": ((100, 28, 28), "float32"),
}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = tiny_instance_segmenter()
    attach_record(model, NAMES)
    return model


@pytest.fixture(scope="module")
def images():
    """Pictures, one all grey."""
    images = default_images(SHAPE, 8, seed=2)
    images[3] = 127
    return images.astype("uint8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    """The model, and a photo."""
    folder = tmp_path_factory.mktemp("instance_files")
    model.save(folder / "model.keras")
    pixels = default_images(SHAPE, 6, seed=2)[5].astype("uint8")
    Image.fromarray(pixels).resize((121, 80)).save(folder / "photo.png")
    return folder


@pytest.fixture(scope="module")
def files(folder, model):
    """Path and report of the model's file in a format and precision, made once."""
    return exporting(model, folder, SHAPE)


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize(
    "kind, quantize, pixels, short",
    kinds_and_precisions(
        EXPORTS, [(None, 0.05, 1e-3), ("float16", None, 0.05), ("int8", None, 0.25)]
    ),
    ids=str,
)
def test_instances_are_keras(kind, quantize, pixels, short, model, files, images):
    """In the file's runtime, masks too; the record travels."""
    path, report = files(kind, quantize)
    predictor = Predictor(path, threads=1)
    assert isinstance(predictor, FileInstanceSegmenter)
    assert (predictor.image_shape, tuple(predictor.class_names)) == (SHAPE, NAMES)
    record = predictor.record
    assert (record.task, record.image_size, record.interpolation) == (
        *("instances", SHAPE[:2], "bilinear"),
    )
    found = predictor.predict(images)
    assert {n: (x.shape[1:], x.dtype.name) for n, x in found.items()} == OUTPUTS
    expected = model.predict(images.astype("float32"), verbose=0)
    assert (expected["confidence"] > 0.1).sum() > 5 * len(images)
    measured = measure_detections(expected, found, SHAPE[:2])
    assert pixels is None or measured.max_error < pixels
    assert measured.relative_error < short
    assert report.compared == "detections" and report.top1_agreement is not None
    masks = found["masks"]
    assert masks.min() >= 0 and masks.max() <= 1 and masks.std() > 0.1
    rest = np.arange(100) >= found["num_detections"][:, None]
    assert (masks[rest] == 0).all() and (found["boxes"][rest] == -1).all()
    if quantize is None:  # the same objects, one by one
        for name in OUTPUTS:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-3)
    assert predictor.predict(images[:0])["masks"].shape == (0, 100, 28, 28)


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_operators(files):
    """Of LiteRT builtin ones of four axes; of ONNX the standard's, decoding in float32."""
    import onnx

    graph = inspect(files("tflite")[0])
    assert graph.max_rank <= 4 and not graph.gpu_obstacles and "WHILE" not in graph.operators
    assert graph.operators["NON_MAX_SUPPRESSION_V4"] == 2
    assert not any("Flex" in name or "CUSTOM" in name for name in graph.operators)
    proto = onnx.load(files("onnx")[0])
    operators = [node.op_type for node in proto.graph.node]
    assert operators.count("NonMaxSuppression") == 2 and "Loop" not in operators
    assert {node.domain for node in proto.graph.node} == {""}
    assert [entry.domain for entry in proto.opset_import] == [""]
    # In half precision what tells where boxes are stays float32: all that is made whole numbers,
    # of levels and places in maps, and all between the two suppressions and the answers.
    proto = onnx.load(files("onnx", "float16")[0])
    makers = {name: node for node in proto.graph.node for name in node.output}
    roots = [name for node in proto.graph.node if node.op_type == "Floor" for name in node.input]
    roots += ["boxes", "confidence"]
    before, halves = set(), []
    while roots:
        node = makers.get(roots.pop())
        if node is None or node.name in before or node.op_type in ("Conv", "Gemm", "MatMul"):
            continue
        before.add(node.name)
        to = [attribute.i for attribute in node.attribute if attribute.name == "to"]
        halves += [node.name] * (onnx.TensorProto.FLOAT16 in to)
        roots += node.input
    assert len(before) > 200 and not halves


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_any_batch_and_settings(model, files, images):
    """Three in a file for one, for three and for any; thresholds and numbers other than own."""
    expected = Predictor(files("onnx")[0]).predict(images[:3])
    for path, _ in (files("onnx", batch_size=None), files("tflite", batch_size=None)):
        found = Predictor(path).predict(images[:3])
        for name in OUTPUTS:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-3)
    options = {"max_detections": 7, "score_threshold": 0.3, "iou_threshold": 0.2}
    few = Predictor(files("tflite", batch_size=3, **options)[0]).predict(images[:3])
    other = MaskRCNN.from_config({**model.get_config(), **options})
    other.set_weights(model.get_weights())
    expected = other.predict(images[:3].astype("float32"), verbose=0)
    for name in OUTPUTS:
        np.testing.assert_allclose(few[name], expected[name], atol=1e-3)
    assert few["masks"].shape == (3, 7, 28, 28) and few["confidence"].max() > 0.3


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["keras", *EXPORTS])
def test_masks_in_photos(kind, model, folder, files):
    """In the photo's own pixels, as `detect` of the model gives them."""
    if kind != "keras" and BACKEND != "tensorflow":
        pytest.skip("involves no backend")
    predictor = (
        KerasInstanceSegmenter(folder / "model.keras")
        if kind == "keras"
        else Predictor(files(kind)[0])
    )
    (expected,) = detect(model, [folder / "photo.png"], threshold=0.2)
    found = predictor.detect(folder / "photo.png", threshold=0.2)
    assert found["masks"].dtype == bool and found["masks"].shape[1:] == (80, 121)
    assert len(found["masks"]) == len(found["boxes"]) > 2 and found["masks"].any()
    assert found["names"] == [NAMES[label] for label in found["labels"]] == expected["names"]
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=0.05)
    np.testing.assert_allclose(found["confidence"], expected["confidence"], atol=1e-3)
    assert (found["masks"] == expected["masks"]).mean() > 0.999


ALONE_IN_PROCESS = """
import sys
import numpy as np
from keras_sepvit.runtime import Predictor
np.save(sys.argv[3], Predictor(sys.argv[1]).detect(sys.argv[2])["masks"])
assert not {"keras", "tensorflow", "jax", "torch"} & set(sys.modules)
"""


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_files_run_without_keras(files, folder, tmp_path):
    path, photo, output = files("onnx")[0], folder / "photo.png", tmp_path / "masks.npy"
    subprocess.run([sys.executable, "-c", ALONE_IN_PROCESS, path, photo, output], check=True)
    np.testing.assert_array_equal(np.load(output), Predictor(path).detect(photo)["masks"])


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
@pytest.mark.parametrize("export", [to_saved_model, to_stablehlo])
def test_other_formats(export, model, tmp_path):
    suffix = ".stablehlo" if export is to_stablehlo else ""
    report = export(model, tmp_path / f"model{suffix}", verbose=False)
    assert report.compared == "detections" and report.max_error < 0.05


@pytest.mark.once("tensorflow")
def test_wrong_masks_are_told(model):
    deployment = prepare(model)
    images = default_images(SHAPE, 2)
    expected = deployment.predict(images)
    found = {name: values.copy() for name, values in expected.items()}
    found["masks"][0, 0, 3, 3] += 0.01
    measured = deployment.measure(expected, found, "float32")
    assert measured.max_error == pytest.approx(0.5, abs=1e-3)
    assert measured.relative_error < 1e-3
    found["masks"][:] = 1 - found["masks"]
    measured = deployment.measure(expected, found, "int8")
    assert measured.relative_error > deployment.tolerances["int8"].relative_error


@pytest.mark.once("tensorflow")
def test_what_does_not_suit_instance_segmenters_is_refused(model, folder, tmp_path):
    path = tmp_path / "model.tflite"
    calibrated = {"calibration_images": default_images(SHAPE, 32)}
    for wrong, message in (
        (lambda: prepare(model, raw=True), "`raw` is for detectors without masks.*instance segm"),
        (lambda: prepare(model, layout="mediapipe"), "`layout` is for detectors without masks"),
        (lambda: prepare(model, score_threshold=2), "`score_threshold` must be a number from 0"),
        (lambda: prepare(model, logits=True), "`logits` is for segmenters"),
        (lambda: to_torch(model, tmp_path / "m.pt2"), "no suppression of boxes. Take LiteRT, ONNX"),
        # Before what is missing here is told.
        (lambda: to_tensorrt(model, tmp_path / "m.engine"), "TensorRT hold no suppression"),
        (lambda: to_tftrt(model, tmp_path / "m", python="no"), "TF-TRT hold no suppression"),
        (lambda: prepare(model, max_detections=2001), "`max_detections` must be .* from 1 to 2000"),
        (lambda: to_litert(model, path, quantize="full_int8", **calibrated), "Pass quantize='int8"),
        (lambda: to_litert(model, path, crop=0.5), "fitted whole.*an instance segmenter, takes"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    assert isinstance(load_model(folder / "model.keras"), MaskRCNN)
    assert KerasDetector(model).predict(default_images(SHAPE, 1))["masks"].any()


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_commands(folder, tmp_path):
    """The exported file, and what predict tells of a photo by it, are the model's."""
    path, photo = tmp_path / "model.onnx", folder / "photo.png"
    options = ["--format", "onnx", "--max-detections", "20", "--output", path, "--json"]
    told = json.loads(run("export", folder / "model.keras", *options))
    assert told["compared"] == "detections" and told["max_error"] < 0.05
    assert Predictor(path).predict(default_images(SHAPE, 1))["masks"].shape == (1, 20, 28, 28)
    options = ["--output", tmp_path / "drawn", "--threshold", "0.2", "--json"]
    (record,) = json.loads(run("predict", path, photo, *options))
    found = Predictor(path).detect(photo, threshold=0.2)
    assert [x["label"] for x in record["detections"]] == found["names"] != []
    for detection, mask in zip(record["detections"], found["masks"], strict=True):
        np.testing.assert_array_equal(decode(detection["segmentation"]), mask)
    assert Image.open(record["overlay"]).width >= 121


def run(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout
