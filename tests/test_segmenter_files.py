"""Files of segmenters: what they carry, their runtimes, class maps of photos, the commands."""

import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from export_helpers import exporting, kinds_and_precisions, linear_model
from helpers import BACKEND, SMALL, randomize
from PIL import Image
from typer.testing import CliRunner

from keras_sepvit import SepViTBackbone
from keras_sepvit.cli import app
from keras_sepvit.export import ExportError, default_images, to_litert, to_onnx, to_saved_model
from keras_sepvit.export.check import compare
from keras_sepvit.export.litert_graph import inspect
from keras_sepvit.export.model import prepare
from keras_sepvit.inference import KerasPredictor, KerasSegmenter, attach_record, load_model
from keras_sepvit.record import Record
from keras_sepvit.runtime import ImageSegmenter, Predictor
from keras_sepvit.runtime.canvas import fit_into
from keras_sepvit.segmentation import SemanticFPN, UPerNet

SHAPE = (64, 96, 3)
NAMES = ("background", "a cat", "dog", "eel \N{LATIN SMALL LETTER E WITH ACUTE}", "\u72ac")
EXPORTS = {"tflite": to_litert, "onnx": to_onnx}


def semantic_fpn(image_shape=SHAPE):
    return SemanticFPN(SMALL, len(NAMES), image_shape, neck_channels=8, head_channels=8)


def upernet(image_shape=SHAPE):
    return UPerNet(SMALL, len(NAMES), image_shape, head_channels=8, auxiliary_channels=8)


@pytest.fixture(scope="module")
def model():
    """A segmenter of random weights that gives all classes, with a record."""
    keras.utils.set_random_seed(0)
    model = semantic_fpn()
    randomize(model)
    logits = model.predict(default_images(SHAPE, 4), verbose=0)
    bias = model.get_layer("decode_head").conv_seg.bias
    bias.assign(bias - logits.mean(axis=(0, 1, 2)))
    attach_record(model, NAMES)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    """Photos of all shapes, and the model."""
    folder = tmp_path_factory.mktemp("segmenter_files")
    model.save(folder / "model.keras")
    photos = folder / "photos"
    photos.mkdir()
    pixels = default_images((80, 50, 3), 4).astype("uint8")
    Image.fromarray(pixels[0]).save(photos / "photo.png")
    Image.fromarray(pixels[1]).resize((2000, 33)).save(photos / "wide.png")
    Image.fromarray(pixels[2]).convert("L").save(photos / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to look at it
    turned = Image.fromarray(pixels[3]).transpose(Image.Transpose.ROTATE_90)
    turned.save(photos / "turned.png", exif=exif)
    Image.fromarray(pixels[3]).save(folder / "upright.png")
    return folder


@pytest.fixture(scope="module")
def files(folder, model):
    """Path and report of the model's file in a format and precision, made once."""
    return exporting(model, folder, SHAPE)


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize(
    "kind, quantize, least",
    kinds_and_precisions(EXPORTS, [(None, 0.999), ("float16", 0.99), ("int8", 0.9)]),
    ids=str,
)
def test_class_maps_are_keras(kind, quantize, least, model, files, folder):
    """In the file's runtime, at the images' size and at the photo's own; the record travels."""
    path, report = files(kind, quantize)
    predictor = Predictor(path, threads=1)
    assert isinstance(predictor, ImageSegmenter)
    assert (predictor.image_shape, tuple(predictor.class_names)) == (SHAPE, NAMES)
    record = predictor.record
    assert (record.task, record.image_size, record.pixels) == ("segmentation", SHAPE[:2], "0..255")
    assert (record.class_names, record.activation) == (NAMES, None)
    assert (record.crop, record.interpolation) == (None, "bilinear")

    images = default_images(SHAPE, 5, seed=2).astype("uint8")
    expected = model.predict(images, verbose=0).argmax(axis=-1)
    assert (np.bincount(expected.ravel()) > expected.size / 50).sum() >= 3
    found = predictor.predict(images)
    assert found.dtype == "uint8" and found.shape == expected.shape
    assert (found == expected).mean() >= least
    assert report.compared == "class maps" and report.top1_agreement >= least
    assert predictor.predict(images[:0]).shape == (0, *SHAPE[:2])

    photo = folder / "photos" / "photo.png"
    class_map = predictor.segment(photo)
    assert class_map.shape == (80, 50) and class_map.dtype == "uint8"
    (on_canvas,) = predictor.predict(predictor.read_image(photo)[None])
    rows, columns = ((np.arange(n) + 0.5) * 0.8 for n in class_map.shape)
    nearest = on_canvas[rows.astype(int)[:, None], columns.astype(int)]
    assert (class_map == nearest).mean() > 0.99


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
@pytest.mark.parametrize("kind", EXPORTS)
def test_logits_are_keras(kind, model, files, folder):
    path, report = files(kind, logits=True)
    predictor = Predictor(path)
    assert report.compared == "logits" and report.max_error < 1e-4
    assert predictor.record.activation == "linear" and report.top1_agreement > 0.999
    images = default_images(SHAPE, 3, seed=2).astype("uint8")
    head = keras.Model(model.inputs, model.head_logits).predict(images, verbose=0)
    from_file = predictor._file(images.astype("float32"))
    assert from_file.shape == (3, SHAPE[0] // 4, SHAPE[1] // 4, len(NAMES))
    np.testing.assert_allclose(from_file, head, atol=1e-4)
    found = predictor.predict(images)
    np.testing.assert_allclose(found, model.predict(images, verbose=0), atol=1e-4)
    photo = folder / "photos" / "photo.png"
    assert (predictor.segment(photo) == KerasSegmenter(model).segment(photo)).mean() > 0.999


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
@pytest.mark.parametrize("build", [semantic_fpn, upernet])
@pytest.mark.parametrize("logits", [False, True])
def test_litert_files_suit_phones(build, logits, tmp_path):
    """All but the choice of a class is XNNPACK's; no tensor has more axes than GPUs take."""
    model = build((61, 77, 3))
    randomize(model)
    path = tmp_path / "model.tflite"
    report = to_litert(model, path, logits=logits, verbose=False)
    assert report.max_error < 1e-4 and report.top1_agreement > 0.999
    graph = inspect(path)
    assert graph.max_rank <= 4 and graph.partitions == 1
    assert {*graph.not_delegated} == (set() if logits else {"ARG_MAX", "CAST"})
    assert not any("Flex" in name for name in graph.operators)
    assert Predictor(path).class_names == ([f"class {n}" for n in range(5)] if logits else None)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["keras", "tflite", "onnx"])
def test_photos_of_all_kinds(kind, folder, files):
    """Long ones, grey ones, those taken sideways; arrays as files."""
    if kind != "keras" and BACKEND != "tensorflow":
        pytest.skip("involves no backend")
    file = folder / "model.keras"
    predictor = KerasSegmenter(file) if kind == "keras" else Predictor(files(kind)[0])
    assert tuple(predictor.class_names) == NAMES
    photos = folder / "photos"
    for name, size in {"wide": (33, 2000), "grey": (80, 50), "turned": (80, 50)}.items():
        found = predictor.segment(photos / f"{name}.png")
        assert found.shape == size and found.dtype == "uint8" and found.max() < len(NAMES)
    np.testing.assert_array_equal(found, predictor.segment(folder / "upright.png"))
    pixels = np.asarray(Image.open(folder / "upright.png"))
    np.testing.assert_array_equal(found, predictor.segment(pixels))
    transparent = np.dstack([pixels, np.zeros_like(pixels[..., 0])])
    np.testing.assert_array_equal(found, predictor.segment(transparent))
    grey = np.asarray(Image.open(photos / "grey.png"))
    expected = predictor.segment(photos / "grey.png")
    for array in (grey, grey[..., None]):
        np.testing.assert_array_equal(expected, predictor.segment(array))
    assert len(np.unique(found)) > 1


@pytest.mark.by_default_on("torch")
def test_keras_files_have_a_record(model, folder, tmp_path):
    """That of one size and of any; with names in it, or beside it."""
    loaded = load_model(folder / "model.keras")
    assert type(loaded) is SemanticFPN and loaded.record == model.record
    assert loaded.record.activation == "linear" and loaded.record.task == "segmentation"
    assert keras.saving.load_model(folder / "model.keras").record == model.record
    any_size = semantic_fpn((None, None, 3))
    any_size.set_weights(model.get_weights())
    any_size.save(tmp_path / "any.keras")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    segmenter = KerasSegmenter(tmp_path / "any.keras")
    assert tuple(segmenter.class_names) == NAMES and segmenter.image_shape == (None, None, 3)
    assert segmenter.record.image_size == (None, None)
    images = default_images(SHAPE, 1).astype("uint8")
    np.testing.assert_allclose(
        segmenter.predict(images), KerasSegmenter(model).predict(images), atol=1e-4
    )


@pytest.mark.thorough
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_class_maps_are_deployed_in_float32(policy, model):
    """Of a model that normalises no images itself, too."""
    keras.config.set_dtype_policy(policy)
    backbone = SepViTBackbone.from_variant(SMALL, image_shape=SHAPE, dense=True)
    bare = SemanticFPN(backbone, len(NAMES), neck_channels=8, head_channels=8)
    weights = [weight for weight in model.weights if "normalization" not in weight.path]
    for weight, source in zip(bare.weights, weights, strict=True):
        weight.assign(keras.ops.copy(source))
    deployment = prepare(bare, normalize=True)
    assert deployment.takes_pixels and deployment.outputs == {"class_map": SHAPE[:2]}
    images = default_images(SHAPE, 2)
    outputs = deployment.model.predict(images, verbose=0)
    assert outputs["class_map"].dtype == "uint8"
    expected = model.predict(images, verbose=0)
    found = deployment.predict(images)
    np.testing.assert_array_equal(outputs["class_map"], found["class_map"])
    assert (found["class_map"] == expected.argmax(axis=-1)).mean() > 0.999
    first, second = np.sort(expected, axis=-1)[..., :-3:-1].transpose(3, 0, 1, 2)
    np.testing.assert_allclose(found["lead"], first - second, atol=1e-4)


@pytest.mark.once("tensorflow")
def test_wrong_class_maps_are_refused(model):
    """By how sure Keras is where they differ, not by how many pixels do."""
    deployment = prepare(model)
    images = default_images(SHAPE, 2)
    expected = deployment.predict(images)
    class_maps, leads = expected["class_map"], expected["lead"]

    def agreement(wrong, precision):
        found = {"class_map": np.where(wrong, (class_maps + 1) % 5, class_maps).astype("float32")}
        return compare(found, deployment, images, precision)

    exact = agreement(np.zeros(class_maps.shape, bool), "float32")
    assert (exact.max_error, exact.relative_error, exact.top1_agreement) == (0, 0, 1)
    undecided = leads <= np.quantile(leads, 0.01)
    found = agreement(undecided, "int8")
    assert found.top1_agreement == pytest.approx(0.99, abs=0.002)
    assert found.max_error == pytest.approx(np.quantile(leads, 0.01) / 2, rel=0.1)
    assert found.relative_error < 0.01
    with pytest.raises(ExportError, match="largest error .* of class maps.* agreement 99.00%"):
        agreement(leads >= np.quantile(leads, 0.99), "float32")
    with pytest.raises(ExportError, match="relative error .* of class maps"):
        agreement(leads >= np.quantile(leads, 0.8), "int8")
    with pytest.raises(ExportError, match=r"has the outputs \['logits'\]"):
        compare({"logits": class_maps}, deployment, images, "float32")


ALONE = """
import sys
import numpy as np
from keras_sepvit.runtime import Predictor
np.save(sys.argv[3], Predictor(sys.argv[1]).segment(sys.argv[2]))
assert not {"keras", "tensorflow", "jax", "torch"} & set(sys.modules)
"""


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize("kind", kinds_and_precisions(EXPORTS, [()]))
def test_files_run_without_keras(kind, files, folder, tmp_path):
    path, photo = files(kind)[0], folder / "photos" / "photo.png"
    output = tmp_path / "map.npy"
    subprocess.run([sys.executable, "-c", ALONE, path, photo, output], check=True)
    np.testing.assert_array_equal(np.load(output), Predictor(path).segment(photo))


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_saved_models_give_class_maps(model, tmp_path):
    report = to_saved_model(model, tmp_path / "saved", verbose=False)
    assert report.max_error < 1e-4 and "no signature for encoded" in report.notes[0]


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_what_does_not_suit_segmenters_is_refused(model, files, folder, tmp_path):
    predictor = Predictor(files("onnx")[0])
    backbone = SepViTBackbone.from_variant(SMALL, (None, None, 3), dense=True)
    path = tmp_path / "model.onnx"
    for wrong, message in (
        (lambda: predictor.predict(np.zeros((1, 96, 64, 3), "uint8")), r"\(count, 64, 96, 3\)"),
        (lambda: predictor.predict(np.full((1, *SHAPE), np.nan)), "NaN"),
        (lambda: predictor.segment(np.zeros((4, 4, 2), "uint8")), r"A photo must be.*\(4, 4, 2\)"),
        (lambda: predictor.segment(Image.new("L", (4, 4))), r"asarray\(image.convert\('RGB'\)\)"),
        (lambda: predictor.segment(np.zeros((4, 0, 3), "uint8")), "must have pixels"),
        (lambda: predictor.segment(np.zeros((4, 4, 3))), r"float64 \(4, 4, 3\)"),
        (lambda: predictor.segment(folder / "model.keras"), "cannot be read as an image"),
        (lambda: Predictor(files("onnx")[0], crop=1.0), "leave out `crop`"),
        (lambda: Predictor(files("onnx", logits=True)[0], labels=["a"]), "5 classes.*1 names"),
        (lambda: Predictor(files("onnx")[0], labels=["a"]), "5 classes.*1 names"),
        (lambda: KerasSegmenter(model, ["a"]), "5 classes.*1 names"),
        (lambda: KerasSegmenter(linear_model()), "no segmenter: expected one input"),
        (lambda: KerasSegmenter(backbone), "no segmenter"),
        (lambda: attach_record(backbone), "no segmenter"),
        (lambda: attach_record(model, crop=0.5), "`crop`, `interpolation` and `activation` are"),
        (lambda: prepare(linear_model(), logits=True), "`logits` is for segmenters.*`probabil"),
        (lambda: prepare(model, activation="softmax"), "`activation` is for classifiers"),
        (lambda: prepare(model, class_names=NAMES[1:]), "model's 5 classes. Received: 4"),
        (lambda: to_onnx(model, path, interpolation="bilinear"), "photos are fitted whole"),
        (lambda: prepare(semantic_fpn((None, None, 3))), "exported models have a fixed size"),
        (lambda: prepare(model, image_size=(64, 64)), r"64 x 96. Received: image_size=\(64, 64\)"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    with pytest.raises(FileNotFoundError, match="none.jpg"):
        predictor.segment("none.jpg")
    for segmenter in (predictor, KerasSegmenter(model)):
        with pytest.raises(AttributeError, match=r"'top'. It is a segmenter: `segment\(photo\)`"):
            segmenter.top(folder / "upright.png")
    with pytest.raises(AttributeError, match=r"'segment'. It is a classifier: `top\(image\)`"):
        KerasPredictor(linear_model()).segment(folder / "upright.png")


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_an_own_segmenter_is_exported_by_its_record(tmp_path):
    """A plain Keras model, from images to logits of their size."""
    inputs = keras.Input((16, 24, 3))
    x = keras.layers.Conv2D(3, 3, padding="same")(keras.layers.Rescaling(1 / 255)(inputs))
    own = keras.Model(inputs, x)
    assert prepare(own).task == "features"
    attach_record(own, ["a", "b", "c"])
    path = tmp_path / "own.onnx"
    to_onnx(own, path, verbose=False)
    images = default_images((16, 24, 3), 2)
    expected = own.predict(images, verbose=0).argmax(axis=-1)
    predictor = Predictor(path)
    assert (predictor.predict(images) == expected).mean() > 0.999
    assert predictor.class_names == ["a", "b", "c"]
    attach_record(own)
    own.layers[-1].bias.assign([0, 0, 9])
    to_onnx(own, path, verbose=False, overwrite=True)  # which does not tell how many classes
    Image.fromarray(images[0].astype("uint8")).save(tmp_path / "photo.png")
    (tmp_path / "few.txt").write_text("one\n")
    result = run("predict", path, tmp_path / "photo.png", "--labels", tmp_path / "few.txt")
    assert result.exit_code == 2 and "--labels has 1 names" in result.stderr


@pytest.mark.once("tensorflow")
def test_records_of_segmenters_are_read():
    how = ("0..255", None, "bilinear", "linear", NAMES, "0.1.0")
    record = Record("segmentation", (None, None), 3, *how)
    assert Record.from_json(record.to_json(), "file") == record
    maps = dataclasses.replace(record, activation=None, class_names=None)
    assert Record.from_json(maps.to_json(), "file") == maps


# The commands


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_photos_become_masks_and_overlays(folder, tmp_path):
    """Of all files in folders, two of one name; a bad one is told at the end.

    Nothing that is there is replaced unless asked for, photos never.
    """
    more = tmp_path / "more"
    for name in ("photo.jpg", "a/photo.jpg", "b/photo.jpg"):
        (more / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(folder / "upright.png").save(more / name)
    (tmp_path / "more" / "bad.jpg").write_text("no picture")
    output = tmp_path / "deep" / "output"
    photos = folder / "photos"
    arguments = ["predict", folder / "model.keras", photos, tmp_path / "more", "--output", output]
    result = run(*arguments, "--json", "--top", 2)
    assert result.exit_code == 1 and "bad.jpg cannot be read" in result.stderr
    records = {record["image"]: record for record in json.loads(result.stdout)}
    assert len(records) == 8
    segmenter = KerasSegmenter(folder / "model.keras")
    for path, record in records.items():
        if "error" in record:
            continue
        class_map = segmenter.segment(path)
        mask = Image.open(record["mask"])
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), class_map)
        overlay = Image.open(record["overlay"])  # with its legend, larger than the photo
        assert overlay.mode == "RGB" and overlay.width * overlay.height > class_map.size
        shares = [np.mean(class_map == found["class"]) for found in record["classes"]]
        assert shares == pytest.approx([found["share"] for found in record["classes"]])
        assert shares == sorted(shares, reverse=True) and 0 < len(shares) <= 2
        assert all(found["label"] == NAMES[found["class"]] for found in record["classes"])
    names = {
        f"{name}_{kind}.png"
        for name in ("grey", "photo", "photo_2", "turned", "wide", "a/photo", "b/photo")
        for kind in ("mask", "overlay")
    }
    made = {path for path in output.rglob("*") if path.is_file()}
    assert {path.relative_to(output).as_posix() for path in made} == names
    assert records[str(more / "a" / "photo.jpg")]["mask"] == str(output / "a" / "photo_mask.png")
    own = more / "a" / "photo_overlay.png"
    Image.open(folder / "upright.png").save(own)
    content = {path: path.read_bytes() for path in (*made, own)}
    photo, beside, again = more / "b" / "photo.jpg", more / "a" / "photo.jpg", "--overwrite"
    for images, to, message in (
        ([photos, more, again], more, "where photos are read"),
        ([more, again], more / "masks", "where photos are read"),
        ([more], output, "photo_mask.png' exists. Pass --overwrite"),
        ([beside], more / "a", "photo_overlay.png' exists. Pass --overwrite"),
        ([beside, own, again], more / "a", "photo_overlay.png is one of the photos"),
    ):
        result = run("predict", "--output", to, folder / "model.keras", *images)
        assert result.exit_code == 2 and message in result.stderr, result.output
        assert all(path.read_bytes() == old for path, old in content.items())
    assert not (more / "a" / "photo_mask.png").exists() and not (more / "masks").exists()
    (output / "photo_mask.png").write_text("old")
    result = run("predict", folder / "model.keras", photo, "--output", output, again)
    assert result.exit_code == 0
    np.testing.assert_array_equal(
        np.asarray(Image.open(output / "photo_mask.png")), segmenter.segment(photo)
    )
    result = run("predict", folder / "model.keras", photos / "photo.png")
    best = records[str(photos / "photo.png")]["classes"][0]
    assert result.stdout.splitlines()[1].split() == [f"{best['share']:.2%}", *best["label"].split()]


@pytest.mark.once("tensorflow")
def test_a_segmenter_goes_from_the_command_to_a_file(folder, tmp_path):
    """Calibrated on canvases; the file predicts as the model."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, pixels in enumerate(default_images((40, 40, 3), 41, seed=5)):
        Image.fromarray(pixels.astype("uint8")).save(photos / f"{number}.png")
    path = tmp_path / "model.tflite"
    arguments = ["export", folder / "model.keras", "--format", "litert", "--output", path]
    result = run(*arguments, "--quantize", "int8", "--calibration", photos, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["images"] == 8 and report["top1_agreement"] > 0.9
    assert report["compared"] == "class maps"
    photo = photos / "0.png"
    result = run("predict", path, photo, "--output", tmp_path / "output")
    assert result.exit_code == 0, result.output
    mask = np.asarray(Image.open(tmp_path / "output" / "0_mask.png"))
    np.testing.assert_array_equal(mask, Predictor(path).segment(photo))
    canvas = Predictor(path).read_image(photo)
    np.testing.assert_array_equal(
        canvas[:, :64], np.asarray(Image.open(photo).resize((64, 64), Image.Resampling.BILINEAR))
    )
    np.testing.assert_array_equal(
        canvas, fit_into((40, 40), SHAPE[:2]).place(np.asarray(Image.open(photo)))
    )
    assert (canvas[:, 64:] == (124, 116, 104)).all()
    result = run(*arguments, "--logits", "--overwrite", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["compared"] == "logits"
    assert Predictor(path).record.activation == "linear"


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_a_segmenter_of_any_size_is_exported_at_one(model, files, folder, tmp_path):
    """As one that was made for that size: the same operators and classes."""
    any_size = semantic_fpn((None, None, 3))
    any_size.set_weights(model.get_weights())
    attach_record(any_size, NAMES)
    any_size.save(tmp_path / "any.keras")
    path, report = files("onnx")
    arguments = ["export", tmp_path / "any.keras", "--format", "onnx", "--json"]
    arguments += ["--output", tmp_path / "any.onnx"]
    result = run(*arguments)
    assert result.exit_code == 2 and "any size: say which with --image-size" in result.stderr
    result = run(*arguments, "--image-size", "64x96")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["operators"] == report.operators
    ours, expected = Predictor(tmp_path / "any.onnx"), Predictor(path)
    assert ours.image_shape == SHAPE and ours.record == expected.record
    images = default_images(SHAPE, 2)
    np.testing.assert_array_equal(ours.predict(images), expected.predict(images))


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["predict", "model.keras", "upright.png", "--crop", "1"], "--crop is for classifiers"),
        (["predict", "model.keras", "upright.png", "--image-size", "64"], "images of 64 x 96"),
        (["predict", "model.keras", "upright.png", "--output", "upright.png"], "is a file"),
        (["predict", "model.keras", "upright.png", "--overwrite"], "goes with --output"),
        (["predict", "linear.keras", "upright.png", "--output", "x"], "--output is for segmenters"),
        (["predict", "maps.tflite", "upright.png", "--crop", "1"], "leave out --crop"),
        (["predict", "maps.tflite", "upright.png", "--labels", "few.txt"], "each of the model's 5"),
        (["export", "linear.keras", "--format", "onnx", "--logits"], "--logits is for segmenters"),
        (["export", "model.keras", "--format", "onnx", "--crop", "1"], "photos are fitted whole"),
    ],
)
def test_wrong_options_are_refused(arguments, message, folder, files, monkeypatch):
    linear_model().save(folder / "linear.keras")
    (folder / "few.txt").write_text("one\n")
    (folder / "maps.tflite").write_bytes(files("tflite")[0].read_bytes())
    monkeypatch.chdir(folder)
    result = run(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert message in result.stderr
