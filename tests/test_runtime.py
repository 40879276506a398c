"""Predictions with exported models, in their own runtimes."""

import dataclasses
import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from exported import (
    CLASSES,
    IMAGE_SHAPE,
    NAMES,
    RECORD,
    pack,
    pack_labels,
    probabilities,
    random_images,
    write_litert,
    write_onnx,
)
from PIL import Image

from keras_sepvit import SepViT
from keras_sepvit.configs import DIGITS_CONFIG, IMAGENET_MEAN, IMAGENET_VARIANCE
from keras_sepvit.export import to_litert
from keras_sepvit.record import Record
from keras_sepvit.runtime import Predictor, read_image
from keras_sepvit.runtime.labels import class_names

pytestmark = pytest.mark.once("tensorflow")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runtime")


@pytest.fixture(scope="module")
def litert_file(folder):
    return write_litert(folder / "model.tflite", batch_size=1)


@pytest.fixture(scope="module")
def onnx_file(folder):
    return write_onnx(folder / "model.onnx")


@pytest.mark.parametrize(
    ("write", "arguments", "tolerance"),
    [
        (write_litert, {"batch_size": 1}, 1e-6),
        (write_litert, {"batch_size": 4}, 1e-6),
        (write_litert, {}, 1e-6),
        (write_litert, {"dtype": "uint8"}, 1e-6),
        (write_litert, {"integers": "int8", "batch_size": 1}, 0.03),
        (write_litert, {"integers": "uint8", "batch_size": 1}, 0.03),
        (write_litert, {"image_shape": (6, 6, 1)}, 1e-6),
        (write_onnx, {"batch_size": 1}, 1e-6),
        (write_onnx, {"batch_size": 4}, 1e-6),
        (write_onnx, {}, 1e-6),
        (write_onnx, {"dtype": "float16"}, 5e-3),
        (write_onnx, {"dtype": "uint8"}, 1e-6),
    ],
)
def test_predict(tmp_path, write, arguments, tolerance):
    """More images than fit a batch, of every type, and none."""
    suffix = ".tflite" if write is write_litert else ".onnx"
    predictor = Predictor(write(tmp_path / f"model{suffix}", **arguments), threads=1)
    images = random_images(21, image_shape=predictor.image_shape)
    expected = probabilities(images)
    assert np.ptp(expected, axis=0).min() > 0.4  # far more than the tolerance
    for dtype in ("uint8", "float32", "float64", "int32"):
        outputs = predictor.predict(images.astype(dtype))
        assert outputs.dtype == "float32"
        np.testing.assert_allclose(outputs, expected, atol=tolerance)
    assert predictor.predict(images[:0]).shape == (0, CLASSES)


def test_exported_digits_as_keras_has_them(folder):
    model = SepViT(DIGITS_CONFIG, classes=10, weights="digits")
    names = [f"digit {number}" for number in range(10)]
    to_litert(model, folder / "digits.tflite", class_names=names, verbose=False)
    predictor = Predictor(folder / "digits.tflite")
    assert predictor.class_names == names
    images = random_images(8, image_shape=predictor.image_shape)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(predictor.predict(images), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["litert", "onnx"])
def test_class_names(folder, litert_file, onnx_file, kind):
    bare = litert_file if kind == "litert" else onnx_file
    named = folder / f"named{bare.suffix.upper()}"  # suffixes in capitals are as good
    if kind == "litert":
        named.write_bytes(bare.read_bytes())
        pack_labels(named, NAMES)
    else:
        write_onnx(named, class_names=NAMES)

    assert Predictor(bare).class_names == [f"class {number}" for number in range(CLASSES)]
    predictor = Predictor(named)
    assert predictor.class_names == NAMES
    images = random_images(3)
    np.testing.assert_allclose(predictor.predict(images), probabilities(images), atol=1e-6)
    assert Predictor(named, labels=NAMES[::-1]).class_names == NAMES[::-1]
    labels = folder / "labels.txt"
    labels.write_text("\n".join(NAMES), encoding="utf-8")
    assert Predictor(bare, labels=labels).class_names == NAMES


@pytest.fixture(params=["litert", "onnx"])
def recorded(request, tmp_path, litert_file):
    """A function that writes a model file with a record, or with the text of one."""

    def write(record):
        text = record if isinstance(record, str) else record.to_json()
        if request.param == "onnx":
            return write_onnx(tmp_path / "recorded.onnx", record=text)
        path = tmp_path / "recorded.tflite"
        path.write_bytes(litert_file.read_bytes())
        pack(path, "keras_sepvit.json", text)
        return path

    return write


def test_the_record_is_followed(recorded, folder):
    """Pixels, crop and interpolation are what the file says, unless others are given."""
    path = recorded(RECORD)
    predictor = Predictor(path)
    images = random_images(3)
    normalized = (images - np.array(IMAGENET_MEAN)) / np.sqrt(IMAGENET_VARIANCE)
    np.testing.assert_allclose(predictor.predict(images), probabilities(normalized), atol=1e-6)
    assert np.abs(probabilities(normalized) - probabilities(images)).max() > 0.1
    photo = folder / "recorded.png"
    Image.fromarray(random_images(1, image_shape=(30, 20, 3))[0]).save(photo)
    expected = read_image(photo, *IMAGE_SHAPE, crop=1.0, interpolation="bilinear")
    np.testing.assert_array_equal(predictor.read_image(photo), expected)
    assert predictor.top(photo) == predictor.top(expected)

    unknown = Predictor(recorded(dataclasses.replace(RECORD, crop=None, interpolation=None)))
    assert (unknown.crop, unknown.interpolation) == (0.875, "bicubic")
    path = recorded(RECORD)
    given = Predictor(path, pixels="0..255", crop=0.5, interpolation="bicubic")
    np.testing.assert_allclose(given.predict(images), probabilities(images), atol=1e-6)
    expected = read_image(photo, *IMAGE_SHAPE, crop=0.5)
    np.testing.assert_array_equal(given.read_image(photo), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": "unknown"}, "does not tell what pixels it takes.*give `pixels`"),
        ({"activation": "linear"}, "gives logits, no probabilities"),
        ({"task": "features", "activation": None}, "gives features, no probabilities"),
        ({"crop": 0}, "record.*cannot be read.*crop=0"),
        ({"interpolation": "x"}, "record.*cannot be read.*Unknown `interpolation`"),
        (None, "record.*cannot be read.*no record"),
    ],
)
def test_refuses_records(recorded, change, message):
    path = recorded("no record" if change is None else dataclasses.replace(RECORD, **change))
    with pytest.raises(ValueError, match=message):
        Predictor(path)
    if change == {"pixels": "unknown"}:
        assert Predictor(path, pixels="0..255").predict(random_images(1)).shape == (1, CLASSES)


def test_a_record_of_a_later_version_is_read():
    text = json.dumps({**json.loads(RECORD.to_json()), "invented_later": 1})
    assert Record.from_json(text, "file") == RECORD


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of LiteRT's own
def test_what_runs_a_file_can_be_chosen(litert_file, onnx_file):
    images = random_images(2)
    predictor = Predictor(onnx_file, threads=2, providers=("CPUExecutionProvider",))
    np.testing.assert_allclose(predictor.predict(images), probabilities(images), atol=1e-6)
    for path, arguments, message in (
        (onnx_file, {"providers": ("NoProvider",)}, "`providers` must be of.*CPU.*'NoProvider'"),
        (onnx_file, {"providers": ()}, "`providers` must be of those"),
        (litert_file, {"delegates": ("absent.so",)}, "`delegates` cannot be loaded.*absent.so"),
        (litert_file, {"providers": ("CPUExecutionProvider",)}, "are ONNX Runtime's"),
        (onnx_file, {"delegates": ("absent.so",)}, "are LiteRT's"),
        (onnx_file, {"pixels": "0..1"}, "Unknown `pixels`: '0..1'. Expected one of '0..255'"),
        (onnx_file, {"crop": 2}, "crop=2"),
        (onnx_file, {"interpolation": "nearest"}, "'nearest'"),
    ):
        with pytest.raises(ValueError, match=message):
            Predictor(path, **arguments)


def test_top(folder, litert_file):
    predictor = Predictor(litert_file, labels=NAMES)
    pixels = random_images(1, image_shape=(30, 20, 3))[0]
    Image.fromarray(pixels).save(folder / "photo.png")
    image = read_image(folder / "photo.png", *IMAGE_SHAPE)
    scores = probabilities(image[None])[0]
    order = np.argsort(-scores)
    best = predictor.top(folder / "photo.png", k=3)
    assert [prediction.number for prediction in best] == order[:3].tolist()
    assert [prediction.label for prediction in best] == [NAMES[i] for i in order[:3]]
    assert [prediction.probability for prediction in best] == pytest.approx(
        scores[order[:3]], abs=1e-6
    )
    assert predictor.top(image, k=100)[:3] == best
    assert len(predictor.top(image, k=100)) == CLASSES


def test_read_image(folder):
    """The centre 87.5 %, of the result's proportions, the right way up."""
    y, x = np.mgrid[:80, :128]
    pixels = np.stack([2 * y, 2 * x, 0 * x], axis=-1).astype("uint8")
    Image.fromarray(pixels).save(folder / "ramp.png")
    # A square of 70 pixels, from (5, 29) on, at half its size.
    image = read_image(folder / "ramp.png", 35, 35)
    assert image.shape == (35, 35, 3) and image.dtype == "uint8"
    inner = np.s_[2:-2]
    np.testing.assert_allclose(image[inner, 0, 0], 2 * (5.5 + 2 * np.arange(35))[inner], atol=2)
    np.testing.assert_allclose(image[0, inner, 1], 2 * (29.5 + 2 * np.arange(35))[inner], atol=2)

    turned = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to look at it
    turned.save(folder / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(folder / "turned.png", 35, 35), image)
    assert read_image(folder / "ramp.png", 10, 20, channels=1).shape == (10, 20, 1)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("none.tflite", FileNotFoundError, "none.tflite"),
        ("model.h5", ValueError, "Unknown kind"),
        (b"", ValueError, "not a TFLite model"),
        (b"# A text\n", ValueError, "not a TFLite model"),
        (2000, ValueError, "cannot be run as a TFLite model"),
        ("text.onnx", ValueError, "cannot be run as an ONNX model"),
    ],
)
def test_refuses_files(tmp_path, litert_file, content, error, message):
    (tmp_path / "model.h5").write_bytes(b"weights")
    (tmp_path / "text.onnx").write_bytes(b"# A text\n")
    path = tmp_path / "model.tflite"
    if isinstance(content, str):
        path = tmp_path / content
    else:
        data = litert_file.read_bytes()[:content] if isinstance(content, int) else content
        path.write_bytes(data)
    with pytest.raises(error, match=message):
        Predictor(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": 2}, "no image classifier"),
        ({"declared_shape": (3, 8, 12)}, "1 or 3 channels"),
        ({"declared_shape": ("height", "width", 3)}, "any size"),
        ({"dtype": "int64"}, r"tensor\(int64\)"),
        ({"class_names": NAMES[:-1]}, "4 class names for its 5 classes"),
        ({"class_names": {"0": "Ant"}}, "JSON list"),
    ],
)
def test_refuses_models(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        Predictor(write_onnx(tmp_path / "model.onnx", **arguments))


def test_refuses_arguments(folder, onnx_file):
    predictor = Predictor(onnx_file)
    images = random_images(2)
    (folder / "few.txt").write_text("one\ntwo\n")
    for wrong, message in (
        (lambda: predictor.predict(images[0]), r"\(count, 8, 12, 3\).*\(8, 12, 3\)"),
        (lambda: predictor.predict(images[:, :4]), r"\(2, 4, 12, 3\)"),
        (lambda: predictor.predict(images.astype("complex64")), "complex64"),
        (
            lambda: predictor.predict(np.where([[[[0]]], [[[1]]]], np.nan, images)),
            r"NaN or infinite values in 1 of 2 images; the first is images\[1\]",
        ),
        (lambda: predictor.top(np.full_like(images[0], np.inf, "float32")), r"images\[0\]"),
        (lambda: predictor.top(images[0], k=0), "k=0"),
        (lambda: Predictor(onnx_file, threads=0), "threads=0"),
        (lambda: Predictor(onnx_file, labels=NAMES[:2]), "5 classes.*2 names"),
        (lambda: Predictor(onnx_file, labels=folder / "few.txt"), "few.txt.*5 classes.*has 2"),
        (lambda: predictor.top(onnx_file), "model.onnx cannot be read as an image"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    for wrong in (
        lambda: predictor.top(folder / "none.png"),
        lambda: Predictor(onnx_file, labels=folder / "none.txt"),
    ):
        with pytest.raises(FileNotFoundError, match="none"):
            wrong()


@pytest.mark.parametrize(
    "change, warned",
    [
        (lambda images: images / np.float32(255), True),
        (lambda images: images / np.float32(127.5) - 1, True),
        (lambda images: images > 128, None),
        (lambda images: images, False),
        (lambda images: 0 * images, False),  # a black photo
        (lambda images: images * 1.3 - 40, False),  # resized by cubic curves
        (lambda images: images - np.float32(118), True),
        (lambda images: images * 257, True),
        (lambda images: images.astype("uint16") * 257, True),
        (lambda images: images.astype("int32") - 128, True),
        (lambda images: images.astype("int64") + 1, True),
        (lambda images: images.astype("int64"), False),
    ],
)
def test_images_that_are_not_of_0_to_255_are_told(onnx_file, change, warned):
    predictor, images = Predictor(onnx_file), change(random_images(2).astype("float32"))
    if warned is None:
        with pytest.raises(ValueError, match="0..255. Received: bool"):
            predictor.predict(images)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        predictor.predict(images)
    assert [str(warning.message)[:31] for warning in caught] == warned * [
        "`images` are taken as 0..255, b"
    ]
    assert all(warning.filename == __file__ for warning in caught)


def test_refuses_logits(tmp_path):
    predictor = Predictor(write_onnx(tmp_path / "logits.onnx", softmax=False))
    with pytest.raises(ValueError, match="no probabilities.*softmax"):
        predictor.predict(random_images(2))


@pytest.mark.parametrize(
    ("kind", "package"), [("litert", "ai-edge-litert"), ("onnx", "onnxruntime")]
)
def test_missing_runtime(litert_file, onnx_file, monkeypatch, kind, package):
    for module in ("ai_edge_litert", "ai_edge_litert.interpreter", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"keras-sepvit\[export\].*pip install {package}"):
        Predictor(litert_file if kind == "litert" else onnx_file)


ALONE = """
import json, sys

before = set(sys.modules)
from keras_sepvit.runtime import Predictor
imported = sorted({name.partition(".")[0] for name in set(sys.modules) - before})

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in ("keras", "tensorflow", "jax", "torch"):
            raise ImportError(f"{name} is hidden")

sys.meta_path.insert(0, Hidden())
labels = [Predictor(path).top(sys.argv[1])[0].label for path in sys.argv[2:]]
print(json.dumps([imported, labels]))
"""


def test_runs_without_keras(folder, litert_file, onnx_file):
    """In a process of its own: the import brings NumPy alone, predictions need no Keras."""
    image = random_images(1)[0]
    Image.fromarray(image).save(folder / "alone.png")
    output = subprocess.run(
        [sys.executable, "-c", ALONE, folder / "alone.png", litert_file, onnx_file],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ).stdout
    imported, labels = json.loads(output.splitlines()[-1])
    packages = {name for name in imported if "cython" not in name}  # which NumPy 1 brings along
    assert packages - sys.stdlib_module_names == {"keras_sepvit", "numpy"}
    best = probabilities(read_image(folder / "alone.png", *IMAGE_SHAPE)[None])[0].argmax()
    assert labels == [f"class {best}"] * 2


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize("ending", ["", "\n", "\r\n\r\n", "\n \n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_names_are_read_whatever_the_editor(encoding, ending, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(("R\xf6slein\ngr\xfcn wei\xdf\nrot" + ending).encode(encoding))
    assert class_names(path, 3) == ["R\xf6slein", "gr\xfcn wei\xdf", "rot"]


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize("content", [b"\x89PNG\0\0\0\r", b"\xff\xfea\0b"])
def test_names_in_a_file_that_is_no_text_are_refused(content, tmp_path):
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(ValueError, match="labels.txt must be a text file.*starts with"):
        class_names(tmp_path / "labels.txt", 2)
