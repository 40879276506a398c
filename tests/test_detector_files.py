"""Files of detectors: what they carry, their runtimes, objects in photos, the command."""

import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from detectors import (
    ALONE,
    NAMES,
    SHAPE,
    check_detections,
    one_anchor_maps,
    other_classes,
    random_maps,
    tiny_detector,
)
from export_helpers import exporting, kinds_and_precisions, linear_model
from helpers import BACKEND
from PIL import Image
from typer.testing import CliRunner

from keras_sepvit.cli import app
from keras_sepvit.detection import detect
from keras_sepvit.detection.layers import Detections
from keras_sepvit.export import default_images, to_litert, to_onnx, to_saved_model, to_torch
from keras_sepvit.export.check_detections import measure_detections
from keras_sepvit.export.litert_convert import convert
from keras_sepvit.export.litert_graph import inspect
from keras_sepvit.export.model import prepare
from keras_sepvit.export.onnx import write_with_tf2onnx, write_with_torch
from keras_sepvit.export.worker import convert_on
from keras_sepvit.inference import KerasDetector, KerasPredictor, attach_record, load_model
from keras_sepvit.record import Record
from keras_sepvit.runtime import ImageDetector, Predictor, open_model
from keras_sepvit.runtime.canvas import fit_into
from keras_sepvit.runtime.detector import in_photo

EXPORTS = {"tflite": to_litert, "onnx": to_onnx}
OUTPUTS = ("boxes", "labels", "confidence", "num_detections")

# What decides on boxes in LiteRT files; XNNPACK takes all in front of it in one part.
CHOICE = {
    *("TOPK_V2", "GATHER", "NON_MAX_SUPPRESSION_V4", "SELECT_V2", "GREATER", "GREATER_EQUAL"),
    *("LESS", "FLOOR_DIV", "FLOOR_MOD", "NEG", "SUB", "ADD", "MINIMUM", "MAXIMUM", "CAST", "TILE"),
    *("RESHAPE", "STRIDED_SLICE", "CONCATENATION", "PACK", "REDUCE_MAX", "SUM", "SQRT"),
}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = tiny_detector()
    attach_record(model, NAMES)
    model.record = dataclasses.replace(model.record, category_ids=(7, 0, 91))
    return model


@pytest.fixture(scope="module")
def images():
    """Pictures, one all grey."""
    images = default_images(SHAPE, 20, seed=2)
    images[3] = 127
    return images.astype("uint8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    """The model, and photos of all shapes."""
    folder = tmp_path_factory.mktemp("detector_files")
    model.save(folder / "model.keras")
    pixels = default_images((80, 50, 3), 4).astype("uint8")
    Image.fromarray(pixels[0]).save(folder / "photo.png")
    Image.fromarray(pixels[1]).resize((2000, 33)).save(folder / "wide.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to look at it
    turned = Image.fromarray(pixels[3]).transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "turned.png", exif=exif)
    Image.fromarray(pixels[3]).save(folder / "upright.png")
    return folder


@pytest.fixture(scope="module")
def files(folder, model):
    """Path and report of the model's file in a format and precision, made once."""
    return exporting(model, folder, SHAPE)


def agreement(model, images, found):
    expected = model.predict(images.astype("float32"), verbose=0)
    assert (expected["confidence"] > 0.1).sum() > 5 * len(images)
    return measure_detections(expected, found, SHAPE[:2])


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize(
    "kind, quantize, pixels, short",
    kinds_and_precisions(
        EXPORTS, [(None, 0.05, 1e-3), ("float16", None, 0.05), ("int8", None, 0.25)]
    ),
    ids=str,
)
def test_detections_are_keras(kind, quantize, pixels, short, model, files, images):
    """In the file's runtime; the record travels; scores keep their values in 8 bits."""
    path, report = files(kind, quantize)
    predictor = Predictor(path, threads=1)
    assert isinstance(predictor, ImageDetector)
    assert (predictor.image_shape, tuple(predictor.class_names)) == (SHAPE, NAMES)
    record = predictor.record
    assert (record.task, record.image_size, record.pixels) == ("detection", SHAPE[:2], "0..255")
    assert (record.class_names, record.activation) == (NAMES, None)
    assert (record.interpolation, record.category_ids) == ("bilinear", (7, 0, 91))

    found = predictor.predict(images)
    shapes = {name: (x.shape[1:], x.dtype.name) for name, x in found.items()}
    assert shapes == {
        "boxes": ((100, 4), "float32"),
        "labels": ((100,), "int32"),
        "confidence": ((100,), "float32"),
        "num_detections": ((), "int32"),
    }
    measured = agreement(model, images, found)
    assert pixels is None or measured.max_error < pixels
    assert measured.relative_error < short
    assert report.compared == "detections" and report.top1_agreement is not None
    scores = found["confidence"][found["labels"] >= 0]
    assert len(np.unique(scores)) >= 50 and 0 < scores.min() and scores.max() <= 1
    for name in OUTPUTS[:3]:
        rest = np.arange(100) >= found["num_detections"][:, None]
        assert (found[name][rest] == -1).all() and (found[name][..., 0] != -1).any()
    assert predictor.predict(images[:0])["boxes"].shape == (0, 100, 4)


@pytest.mark.once("tensorflow")
def test_litert_files_suit_phones(files):
    """Builtin operators of four axes; what is left to slow kernels chooses boxes, no more."""
    graph = inspect(files("tflite")[0])
    assert graph.max_rank <= 4 and not graph.gpu_obstacles
    assert {*graph.not_delegated} <= CHOICE
    assert graph.not_delegated["NON_MAX_SUPPRESSION_V4"] == 1 and "WHILE" not in graph.operators
    assert not any("Flex" in name or "CUSTOM" in name for name in graph.operators)


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_onnx_files_have_the_standard_operator(files):
    import onnx

    for quantize in (None, "float16"):
        proto = onnx.load(files("onnx", quantize)[0])
        operators = [node.op_type for node in proto.graph.node]
        assert operators.count("NonMaxSuppression") == 1 and "Loop" not in operators
        # Decoding is float32: nothing behind it is cast to half precision.
        reached = set()
        for node in proto.graph.node:
            if node.op_type in ("Exp", "TopK") or reached & {*node.input}:
                reached.update(node.output)
                to = [attribute.i for attribute in node.attribute if attribute.name == "to"]
                assert onnx.TensorProto.FLOAT16 not in to
        assert "boxes" in reached and len(reached) > 100


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_any_batch_and_settings(model, files, images):
    """Of three in a file for one, for three and for any; thresholds; MediaPipe's layout."""
    expected = Predictor(files("onnx")[0]).predict(images[:3])
    many = Predictor(files("onnx", batch_size=None)[0]).predict(images[:3])
    few = Predictor(files("tflite", batch_size=3, max_detections=7)[0]).predict(images[:3])
    any_size = Predictor(files("tflite", batch_size=None)[0]).predict(images[:3])
    pipe, _ = files("tflite", layout="mediapipe")
    layout = Predictor(pipe).predict(images[:3])
    for other in (many, layout, any_size):
        for name in OUTPUTS:
            np.testing.assert_allclose(other[name], expected[name], atol=1e-3)
    for name in OUTPUTS[:3]:
        np.testing.assert_allclose(few[name], expected[name][:, :7], atol=1e-3)
    raw = open_model(pipe).outputs(images[:1].astype("float32"))
    assert {*raw} == {"location", "category", "score", "number_of_detections"}
    assert raw["location"].max() <= 1 and raw["location"].min() == 0
    shapes = [tuple(x["shape"]) for x in Interpreter(str(pipe)).get_output_details()]
    assert shapes == [(1, 100, 4), (1, 100), (1, 100), (1,)]
    with pytest.raises(Exception, match="(?i)shape|dimension|element"):
        open_model(files("tflite")[0]).outputs(images[:3].astype("float32"))
    with pytest.raises(Exception, match="(?i)dimension|shape"):
        open_model(files("onnx")[0]).outputs(images[:3].astype("float32"))


def decoding_alone(classes, layer):
    """A model whose image holds the maps of the finest level of `ALONE`, logits before deltas."""
    image = keras.Input((8, 8, classes + 4), name="image")
    taken = np.eye(classes + 4, dtype="float32")[None, None]

    def conv(kernel, bias, strides):
        filters = kernel.shape[-1]
        own = keras.layers.Conv2D(filters, 1, strides)
        outputs = own(image)
        own.set_weights([kernel, np.full(filters, bias, "float32")])
        return outputs

    maps = {
        "classes": [conv(taken[..., :classes], 0, 1), conv(0 * taken[..., :classes], -30, 2)],
        "boxes": [conv(taken[..., classes:], 0, 1), conv(0 * taken[..., classes:], 0, 2)],
    }
    return keras.Model(image, layer(maps, image_size=(64, 64)))


CONVERTERS = {"litert": convert, "torch": write_with_torch, "tf2onnx": write_with_tf2onnx}


@pytest.fixture(scope="module", params=[(kind, n) for kind in CONVERTERS for n in (1, 80)], ids=str)
def decoding_file(request, tmp_path_factory):
    """A file of so many classes that gives detections from maps as its image; their number.

    That of one class takes batches of any size.
    """
    if BACKEND != "tensorflow":
        pytest.skip("involves no backend")
    kind, classes = request.param
    suffix, form = (".tflite", {}) if kind == "litert" else (".onnx", {"opset": 18})
    path = tmp_path_factory.mktemp("decoding") / f"file{suffix}"
    model = decoding_alone(classes, Detections(ALONE))
    backend = "torch" if kind == "torch" else "tensorflow"
    batch_size = None if classes == 1 else 1
    convert_on(backend, CONVERTERS[kind], model, path, batch_size=batch_size, **form)
    return open_model(path), classes


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
@pytest.mark.parametrize(
    "options", [{"mean": 0.0}, {"mean": 1.0, "decimals": 0}, {"mean": -30.0}], ids=str
)
def test_files_decode_by_the_definition(decoding_file, options):
    """Of one class and eighty; more objects than fit, equal scores, and nothing at all."""
    file, classes = decoding_file
    maps = random_maps(ALONE, (64, 64), classes, batch=1, **options)
    maps["classes"][1][:], maps["boxes"][1][:] = -30, 0
    found = file.outputs(np.concatenate([maps["classes"][0], maps["boxes"][0]], axis=-1))
    (number,) = check_detections(found, maps, ALONE, [(64, 64)])
    assert number == 0 if options["mean"] < -9 else number == 100 if classes == 80 else number > 9


@pytest.mark.once("tensorflow")
@pytest.mark.skipif(BACKEND != "tensorflow", reason="involves no backend")
def test_float16_files_rank_many_candidates(tmp_path):
    """The best go first among more than the 2,048 integers that half precision has."""
    layer = Detections(ALONE, candidates=4096)
    path = tmp_path / "file.tflite"
    convert(decoding_alone(80, layer), path, batch_size=1, precision="float16")
    maps = random_maps(ALONE, (64, 64), 80, batch=1, mean=1.0)
    for name in maps:  # numbers that half precision has
        maps[name][0] = maps[name][0].astype("float16").astype("float32")
    maps["classes"][1][:], maps["boxes"][1][:] = -30, 0
    file = open_model(path)
    found = file.outputs(np.concatenate([maps["classes"][0], maps["boxes"][0]], axis=-1))
    assert check_detections(found, maps, ALONE, [(64, 64)], candidates=4096) == 100


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_files_keep_boxes_of_other_classes(decoding_file):
    file, classes = decoding_file
    if classes == 1:
        pytest.skip("has no other class")
    rows, scores, expected = other_classes(classes)
    maps = one_anchor_maps(rows, scores)
    found = file.outputs(np.concatenate([maps["classes"][0], maps["boxes"][0]], axis=-1))
    assert found["num_detections"] == len(expected)
    for place, (row, label, score) in enumerate(expected):
        assert found["labels"][0, place] == label
        assert found["confidence"][0, place] == pytest.approx(score, abs=1e-5)
        np.testing.assert_allclose(found["boxes"][0, place], rows[row], atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["keras", *EXPORTS])
def test_photos_of_all_kinds(kind, model, folder, files, images):
    """In the photo's pixels: alone, of a batch and on the image; long and turned ones, arrays."""
    if kind != "keras" and BACKEND != "tensorflow":
        pytest.skip("involves no backend")
    file = folder / "model.keras"
    predictor = KerasDetector(file) if kind == "keras" else Predictor(files(kind)[0])
    assert tuple(predictor.class_names) == NAMES
    assert predictor.record.category_ids == (7, 0, 91)
    photos = [folder / f"{name}.png" for name in ("photo", "wide", "turned", "upright")]
    expected = detect(model, photos, threshold=0.1, batch_size=3)
    assert [len(found["labels"]) > 2 for found in expected] == [True] * 4
    for photo, size, other in zip(
        photos, [(80, 50), (33, 2000), (80, 50), (80, 50)], expected, strict=True
    ):
        found = predictor.detect(photo, threshold=0.1)
        assert found["names"] == [NAMES[label] for label in found["labels"]] == other["names"]
        np.testing.assert_array_equal(found["labels"], other["labels"])
        np.testing.assert_allclose(found["confidence"], other["confidence"], atol=1e-3)
        scale = max(size[0] / SHAPE[0], size[1] / SHAPE[1])
        np.testing.assert_allclose(found["boxes"], other["boxes"], atol=0.05 * scale)
        assert (found["boxes"] >= 0).all() and (found["boxes"] <= [*size[::-1]] * 2).all()
        # The same by `predict` on the canvas.
        placement = fit_into(size, SHAPE[:2])
        answers = predictor.predict(predictor.read_image(photo)[None])
        inside = in_photo({n: x[0] for n, x in answers.items()}, placement, 0.1)
        np.testing.assert_allclose(inside["boxes"], found["boxes"], atol=1e-3)
    np.testing.assert_allclose(expected[2]["boxes"], expected[3]["boxes"], atol=1e-3)
    pixels = np.asarray(Image.open(photos[3]))
    np.testing.assert_array_equal(predictor.detect(pixels, 0.1)["boxes"], found["boxes"])


@pytest.mark.once("tensorflow")
def test_boxes_come_back_from_the_canvas():
    """Of photos of all sizes, long ones too, to a thousandth of a pixel."""
    rng = np.random.default_rng(0)
    for side in range(33, 2001):
        for size in ((side, 640), (33, side), (side, 2000), (1013, side)):
            corners = np.sort(rng.uniform(0, 1, (2, 2)), axis=0) * size[::-1]
            boxes = np.float32([[*corners[0], *corners[1]], [0, 0, size[1], size[0]]])
            placement = fit_into(size, (640, 640))
            on_canvas = placement.to_canvas(boxes)
            assert (on_canvas[:, 2:] <= np.float32(placement.size[::-1]) + 1e-3).all()
            np.testing.assert_allclose(placement.to_photo(on_canvas), boxes, atol=1e-3)


ALONE_IN_PROCESS = """
import sys
import numpy as np
from keras_sepvit.runtime import Predictor
np.save(sys.argv[3], Predictor(sys.argv[1]).detect(sys.argv[2])["boxes"])
assert not {"keras", "tensorflow", "jax", "torch"} & set(sys.modules)
"""


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize("kind", kinds_and_precisions(EXPORTS, [()]))
def test_files_run_without_keras(kind, files, folder, tmp_path):
    path, photo, output = files(kind)[0], folder / "photo.png", tmp_path / "boxes.npy"
    subprocess.run([sys.executable, "-c", ALONE_IN_PROCESS, path, photo, output], check=True)
    np.testing.assert_array_equal(np.load(output), Predictor(path).detect(photo)["boxes"])


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_other_formats(model, tmp_path):
    """Boxes, or a line that says what to do; raw maps by name in all."""
    report = to_saved_model(model, tmp_path / "saved", verbose=False)
    assert report.compared == "detections" and report.max_error < 0.05
    with pytest.raises(ValueError, match="torch.export hold no suppression.*`raw=True`"):
        to_torch(model, tmp_path / "model.pt2")
    path = tmp_path / "raw.tflite"
    report = to_litert(model, path, raw=True, verbose=False)
    assert report.compared == "logits" and report.not_delegated == {}
    names = {f"{kind}_P{level}" for kind in ("classes", "boxes") for level in range(3, 8)}
    assert {*open_model(path).output_names} == names
    with pytest.raises(ValueError, match="raw maps, no boxes. Export it without `raw`"):
        Predictor(path)


@pytest.mark.once("tensorflow")
def test_wrong_detections_are_told(model):
    """By pixels, by scores, by what is missing; not by what is last in a full list."""
    deployment = prepare(model)
    images = default_images(SHAPE, 4)
    expected = deployment.predict(images)

    def measured(change):
        found = {name: values.copy() for name, values in expected.items()}
        change(found)
        return deployment.measure(expected, found, "float32")

    same = measured(lambda found: None)
    assert (same.max_error, same.relative_error, same.top1_agreement) == (0, 0, 1)

    def shift(found):
        found["boxes"][0, 1] += [0, 0, 0.4, 0]

    assert measured(shift).max_error == pytest.approx(0.4, abs=1e-4)

    def other_class(found):
        found["labels"][0, 0] = (found["labels"][0, 0] + 1) % 3

    wrong = measured(other_class)
    assert wrong.max_error == max(SHAPE) and wrong.top1_agreement < 1

    def lower(found):
        found["confidence"][0, 0] -= 0.01

    assert measured(lower).max_error == pytest.approx(0.5, abs=1e-3)

    def last(found):
        found["boxes"][:, -1] = 0

    assert measured(last).max_error == 0


@pytest.mark.once("tensorflow")
def test_keras_files_have_a_record(model, folder, tmp_path):
    loaded = load_model(folder / "model.keras")
    assert loaded.record == model.record and loaded.record.task == "detection"
    old = json.loads(model.record.to_json())
    del old["category_ids"]
    assert Record.from_json(json.dumps(old), "old").category_ids is None
    assert "category_ids" not in Record.from_json(json.dumps(old), "old").to_json()
    any_size = tiny_detector((None, None, 3))
    attach_record(any_size, NAMES)
    assert any_size.record.image_size == (None, None)
    with pytest.raises(ValueError, match="exported models have a fixed size"):
        prepare(any_size)
    any_size.record = dataclasses.replace(any_size.record, image_size=SHAPE[:2])
    assert prepare(any_size).image_shape == SHAPE


@pytest.mark.once("tensorflow")
def test_what_does_not_suit_detectors_is_refused(model, folder, tmp_path):
    path = tmp_path / "model.tflite"
    calibrated = {"calibration_images": default_images(SHAPE, 32)}
    for wrong, message in (
        (lambda: prepare(model, logits=True), "`logits` is for segmenters"),
        (lambda: prepare(model, activation="softmax"), "`activation` is for classifiers"),
        (lambda: prepare(model, class_names=NAMES[1:]), "model's 3 classes. Received: 2"),
        (lambda: prepare(linear_model(), raw=True), "`raw` is for detectors"),
        (lambda: prepare(model, raw=True, iou_threshold=0.4), "`iou_threshold` is of detections"),
        (lambda: prepare(model, layout="coco"), "Unknown `layout`: 'coco'"),
        (lambda: prepare(model, score_threshold=2), "`score_threshold` must be a number from 0"),
        (lambda: to_litert(model, path, quantize="full_int8", **calibrated), "nothing in.*--raw"),
        (lambda: to_litert(model, path, crop=0.5), "photos are fitted whole.*a detector"),
        (lambda: attach_record(model, crop=0.5), "the model is a detector"),
        (lambda: KerasDetector(linear_model()), "no detector"),
        (lambda: KerasPredictor(model), "is a detector, no image classifier. .*KerasDetector"),
        (lambda: KerasDetector(model, ["a"]), "3 classes.*1 names"),
        (lambda: KerasDetector(model).detect(folder / "photo.png", 7), "`threshold` must be"),
        (lambda: detect(model, ["x.png"], max_detections=101), "at most the model's, 100"),
        (lambda: detect(model, ["x.png"], sides=(8, 9)), "`sides` is for models of any"),
        (lambda: detect(model, "x.png"), r"`photos` must be a list"),
        (lambda: detect(linear_model(), ["x.png"]), "must be a detector of keras_sepvit"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_the_export_command(folder, tmp_path):
    arguments = ["export", folder / "model.keras", "--format", "litert", "--threshold", "0.2"]
    arguments += ["--iou", "0.4", "--max-detections", "20", "--layout", "mediapipe", "--json"]
    path = tmp_path / "model.tflite"
    result = CliRunner().invoke(app, [*map(str, arguments), "--output", str(path)])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["compared"] == "detections"
    found = Predictor(path).predict(default_images(SHAPE, 2).astype("uint8"))
    assert found["boxes"].shape == (2, 20, 4)
    assert found["confidence"][found["labels"] >= 0].min() > 0.2
    wrong = ["export", str(folder / "model.keras"), "--format", "onnx", "--layout", "mediapipe"]
    result = CliRunner().invoke(app, wrong)
    assert result.exit_code == 2 and "not for --format onnx" in result.stderr
