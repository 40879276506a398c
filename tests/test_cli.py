"""The command line, and the choice of a backend before Keras is imported."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from exported import IMAGE_SHAPE, pack_labels, probabilities, write_litert, write_onnx
from helpers import SMALL, randomize, to_numpy
from PIL import Image
from typer.testing import CliRunner

import keras_sepvit
from keras_sepvit import SepViT, complexity
from keras_sepvit.cli import app
from keras_sepvit.cli.common import parse_image_size
from keras_sepvit.configs import VARIANTS
from keras_sepvit.default_backend import choose_backend
from keras_sepvit.runtime import read_image

pytestmark = pytest.mark.by_default_on("torch")

CLASSES = 7
TINY_SHAPE = (64, 64, 3)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_json(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def assert_refused(result, *messages):
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    for message in messages:
        assert message in result.stderr


def tiny_classifier(classes=CLASSES, **kwargs):
    model = SepViT(SMALL, input_shape=TINY_SHAPE, classes=classes, **kwargs)
    randomize(model)
    return model


def linear_classifier(classes=CLASSES, channels=3):
    """A model that costs next to nothing, for what does not depend on the model."""
    return keras.Sequential(
        [
            keras.Input((56, 56, channels)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )


def scores_by_class(record):
    return {guess["class"]: guess["probability"] for guess in record["predictions"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def model(folder):
    model = tiny_classifier()
    model.save(folder / "tiny.keras")
    return model


@pytest.fixture(scope="module")
def model_file(folder, model):
    return folder / "tiny.keras"


@pytest.fixture(scope="module")
def linear_file(folder):
    linear_classifier().save(folder / "linear.keras")
    return folder / "linear.keras"


@pytest.fixture(scope="module")
def photo(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype="uint8")
    Image.fromarray(pixels).save(folder / "photo.png")
    return folder / "photo.png"


@pytest.fixture
def known(monkeypatch):
    """Makes the tiny configuration a variant, "sepvit_tiny"."""
    monkeypatch.setitem(VARIANTS, "sepvit_tiny", SMALL)


@pytest.fixture(scope="module")
def weights_file(folder, model):
    model.save_weights(folder / "tiny.weights.h5")
    return folder / "tiny.weights.h5"


@pytest.fixture(scope="module")
def expected(model_file, photo):
    """The probabilities by class of the photo with the tiny model."""
    (record,) = run_json("predict", model_file, photo, "--top", CLASSES)
    return scores_by_class(record)


@pytest.mark.once
def test_summary_as_a_table():
    result = run("summary", "sepvit_t")
    assert result.exit_code == 0
    total = complexity.sepvit("sepvit_t").cost
    for text in (f"{total.parameters:,}", "4.271", "4.519", "56 x 56 x 96", "224 x 224"):
        assert text in result.stdout
    rows = [line for line in result.stdout.splitlines() if "stage3" in line]
    assert len(rows) == 1
    assert "14 x 14 x 384" in rows[0] and " 6 " in rows[0] and "12,209,280" in rows[0]


@pytest.mark.once
def test_summary_as_json():
    summary = run_json("summary", "sepvit_lite", "--image-size", "192x320", "--classes", 10)
    expected = complexity.sepvit("sepvit_lite", (192, 320), classes=10)
    assert summary["image_size"] == [192, 320]
    assert [stage["name"] for stage in summary["stages"]] == [
        *(f"stage{number}" for number in range(1, 5)),
        "head",
    ]
    assert summary["stages"][0]["output_shape"] == [48, 80, 32]
    assert [stage["blocks"] for stage in summary["stages"]] == [1, 2, 6, 2, 0]
    for key in ("parameters", "macs", "macs_with_attention"):
        assert summary[key] == getattr(expected.cost, key)
        assert summary[key] == sum(stage[key] for stage in summary["stages"])


@pytest.mark.once
def test_summary_of_the_dense_form():
    summary = run_json("summary", "sepvit_t", "--dense", "--image-size", "250x333")
    assert summary["parameters"] == 33_655_392
    assert [stage["name"] for stage in summary["stages"]][-1] == "stage4"
    assert "dense form" in run("summary", "sepvit_t", "--dense").stdout


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["sepvit_xl"], ["'sepvit_xl'", "sepvit_lite"]),
        (["room.keras"], ["room.keras is the name of a file", "keras-sepvit benchmark room.keras"]),
        (["sepvit_t", "--image-size", "250"], ["250 x 250", "multiples of 32", "dense=True)`"]),
        (["sepvit_t", "--image-size", "0"], ["--image-size", "'0'"]),
        (["sepvit_t", "--image-size", "224,224"], ["--image-size", "'224,224'"]),
        (["sepvit_t", "--classes", "0"], ["--classes 0"]),
        (["sepvit_t", "--dense", "--classes", "10"], ["--classes", "--dense"]),
    ],
)
def test_summary_refuses(arguments, messages):
    assert_refused(run("summary", *arguments), *messages)


@pytest.mark.once
@pytest.mark.parametrize(
    ("text", "size"), [("224", (224, 224)), ("192x320", (192, 320)), ("1x1", (1, 1))]
)
def test_parse_image_size(text, size):
    assert parse_image_size(text) == size


@pytest.mark.once
@pytest.mark.parametrize("text", ["", "x", "0", "224x0", "224x", "-1", "2.5", "224 x 224", "1x2x3"])
def test_parse_image_size_refuses(text):
    with pytest.raises(ValueError, match="--image-size"):
        parse_image_size(text)


def test_predict_crops_the_centre(folder):
    # At this size the crop needs no interpolation: 56 of 64 pixels.
    model = linear_classifier()
    model.save(folder / "crop.keras")
    pixels = np.random.default_rng(1).integers(0, 256, (84, 64, 3), dtype="uint8")
    Image.fromarray(pixels).save(folder / "tall.png")

    (record,) = run_json("predict", folder / "crop.keras", folder / "tall.png", "--top", CLASSES)
    expected = to_numpy(model(pixels[None, 14:70, 4:60]))[0]
    scores = scores_by_class(record)
    np.testing.assert_allclose([scores[i] for i in range(CLASSES)], expected, atol=1e-5)


def test_predict_orders_and_cuts(linear_file, photo, folder):
    grey = folder / "grey.png"
    Image.open(photo).convert("L").rotate(180).save(grey)
    records = run_json("predict", linear_file, photo, grey, "--top", 3)
    assert [record["image"] for record in records] == [str(photo), str(grey)]
    for record in records:
        scores = [guess["probability"] for guess in record["predictions"]]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == 3
    assert records[0]["predictions"] != records[1]["predictions"]
    full = run_json("predict", linear_file, photo, "--top", 100)[0]["predictions"]
    assert [guess["class"] for guess in full[:3]] == [
        guess["class"] for guess in records[0]["predictions"]
    ]
    assert len(full) == CLASSES
    assert sum(guess["probability"] for guess in full) == pytest.approx(1, abs=1e-5)
    assert all(guess["label"] == f"class {guess['class']}" for guess in full)


def test_predict_as_text(linear_file, photo):
    result = run("predict", linear_file, photo)
    best = run_json("predict", linear_file, photo)[0]["predictions"]
    lines = result.stdout.splitlines()
    assert lines[0] == str(photo)
    assert [line.split(maxsplit=1)[1] for line in lines[1:]] == [guess["label"] for guess in best]
    assert lines[1].split()[0] == f"{best[0]['probability']:.2%}"


def test_predict_with_logits_and_without_preprocessing(model, photo, folder, expected):
    """The same weights give the same probabilities whatever the model leaves to its user."""
    bare = tiny_classifier(classifier_activation=None, include_preprocessing=False)
    bare.set_weights(model.get_weights())
    bare.save(folder / "bare.keras")
    (record,) = run_json("predict", folder / "bare.keras", photo, "--top", CLASSES)
    assert scores_by_class(record) == pytest.approx(expected, abs=1e-5)


@pytest.mark.by_default_on("tensorflow", "jax", "torch")
def test_predict_with_weights(known, weights_file, photo, expected):
    """Variant and number of classes are those of the file."""
    (record,) = run_json("predict", weights_file, photo, "--top", CLASSES)
    assert scores_by_class(record) == pytest.approx(expected, abs=1e-5)


def test_predict_with_a_model_for_any_size(photo, folder):
    any_size = keras.Sequential(
        [
            keras.Input((None, None, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="sigmoid"),
        ]
    )
    any_size.save(folder / "any.keras")
    (record,) = run_json("predict", folder / "any.keras", photo, "--image-size", "16x24")
    grey = np.asarray(Image.open(photo).convert("L"), "float32")
    expected = to_numpy(any_size(grey.mean(keepdims=True)[None, :, :, None]))[0]
    scores = scores_by_class(record)
    assert [scores[0], scores[1]] == pytest.approx(expected.tolist(), abs=0.02)
    assert_refused(run("predict", folder / "any.keras", photo), "--image-size")


def test_predict_with_labels(linear_file, photo, folder):
    names = [f"name {number}" for number in range(CLASSES)]
    (folder / "names.txt").write_text("\n".join(names) + "\n")
    record = run_json("predict", linear_file, photo, "--labels", folder / "names.txt")[0]
    for guess in record["predictions"]:
        assert guess["label"] == f"name {guess['class']}"

    (folder / "few.txt").write_text("\n".join(names[:-1]))
    result = run("predict", linear_file, photo, "--labels", folder / "few.txt")
    assert_refused(result, "few.txt", f"{CLASSES} classes", f"{CLASSES - 1}")


@pytest.mark.parametrize("offline", [False, True])
def test_predict_names_the_classes_of_imagenet(photo, folder, monkeypatch, offline):
    def decode_predictions(preds, top):
        if offline:
            raise Exception("URL fetch failure")
        assert preds.shape == (1000, 1000) and top == 1
        return [[("n0", f"name {row.argmax()}", row.max())] for row in preds]

    monkeypatch.setattr(
        "keras_sepvit.classification.classifier.decode_predictions", decode_predictions
    )
    linear_classifier(classes=1000).save(folder / "thousand.keras")
    record = run_json("predict", folder / "thousand.keras", photo)[0]
    name = "class" if offline else "name"
    for guess in record["predictions"]:
        assert guess["label"] == f"{name} {guess['class']}"


def test_predict_reads_folders_and_goes_on_after_a_bad_file(linear_file, photo, folder):
    album = folder / "album"
    (album / "more").mkdir(parents=True)
    for name in ("b.png", "more/ä.png"):
        (album / name).write_bytes(photo.read_bytes())
    (album / "a.png").write_bytes(photo.read_bytes()[:2000])
    (album / "notes.txt").write_text("no image either")
    result = run("predict", linear_file, album, photo, "--json")
    assert result.exit_code == 1
    records = json.loads(result.stdout)
    names = [record["image"] for record in records]
    assert names == [
        str(album / "a.png"),
        str(album / "b.png"),
        str(album / "more/ä.png"),
        str(photo),
    ]
    assert "cannot be read" in records[0]["error"] and "predictions" not in records[0]
    for record in records[1:]:
        assert scores_by_class(record) == pytest.approx(scores_by_class(records[3]), rel=1e-5)
    assert "1 of 4 images could not be read" in result.stderr and "ä" in result.stdout
    (folder / "nothing").mkdir()
    assert_refused(run("predict", linear_file, folder / "nothing"), "holds no images")


def test_registered_names_and_the_version(folder):
    Image.new("RGB", (32, 32)).save(folder / "black.png")
    (record,) = run_json("predict", "digits", folder / "black.png")
    assert len(record["predictions"]) == 5
    assert run("--version").stdout == f"keras-sepvit {keras_sepvit.__version__}\n"


def test_predict_refuses_arguments(known, model_file, weights_file, photo, folder):
    (folder / "weights.txt").write_text("no weights")
    (folder / "text.keras").write_text("no weights")
    (folder / "broken.keras").write_bytes(model_file.read_bytes()[:5000])
    (folder / "broken.weights.h5").write_bytes(weights_file.read_bytes()[:5000])
    for arguments, messages in (
        ([folder / "none.keras", photo], ["not found", "none.keras"]),
        ([folder, photo], ["is a folder", "Expected a file"]),
        ([model_file, photo, "--labels", folder], ["is a folder"]),
        (["digit", photo], ["digit is neither a file nor", "(digits)"]),
        ([folder / "text.keras", photo], ["text.keras", "is not a model file of Keras"]),
        ([model_file, folder / "none.png"], ["not found", "none.png"]),
        ([model_file, photo, "--labels", folder / "none.txt"], ["not found", "none.txt"]),
        ([model_file, photo, "--top", 0], ["--top", "0"]),
        ([model_file, photo, "--variant", "sepvit_tiny"], ["whole model", "--variant"]),
        ([model_file, photo, "--image-size", 32], ["64 x 64", "32 x 32"]),
        ([folder / "weights.txt", photo], ["weights.txt"]),
        ([folder / "broken.keras", photo], ["broken.keras"]),
        ([folder / "broken.weights.h5", photo], ["broken.weights.h5"]),
        ([weights_file, photo, "--variant", "sepvit_x"], ["'sepvit_x'"]),
        ([weights_file, photo, "--variant", "sepvit_lite"], ["tiny.weights.h5", "sepvit_lite"]),
        ([weights_file, photo, "--classes", 3], ["tiny.weights.h5", "3"]),
        ([weights_file, photo, "--image-size", "33"], ["33 x 33"]),
    ):
        assert_refused(run("predict", *arguments), *messages)


def test_predict_refuses_models(model, weights_file, photo, folder):
    headless = SepViT(SMALL, include_top=False, input_shape=TINY_SHAPE)
    headless.save(folder / "headless.keras")
    vector = [keras.Input((4,)), keras.layers.Dense(2)]
    keras.Sequential(vector).save(folder / "vector.keras")
    grey = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    keras.Sequential(grey).save(folder / "grey.keras")
    for name, message in (
        ("headless.keras", "no image classifier"),
        ("vector.keras", "no image classifier"),
        ("grey.keras", "Normalization"),
        (weights_file, "none of the known variants"),
    ):
        assert_refused(run("predict", folder / name, photo), message)


def test_predict_refuses_weights_without_a_head(known, photo, folder):
    headless = SepViT(SMALL, include_top=False, input_shape=TINY_SHAPE)
    headless.save_weights(folder / "headless.weights.h5")
    result = run("predict", folder / "headless.weights.h5", photo)
    assert_refused(result, "no classification head")


@pytest.fixture(scope="module")
def exported_files(folder):
    """The same classifier as .tflite, with the names of its classes, and as .onnx, without."""
    litert_file = write_litert(folder / "exported.tflite", batch_size=1)
    pack_labels(litert_file, ["a", "b", "c", "d", "e"])
    return litert_file, write_onnx(folder / "exported.onnx")


@pytest.mark.once
def test_predict_with_exported_models(exported_files, photo, folder):
    expected = probabilities(read_image(photo, *IMAGE_SHAPE)[None])[0]
    labels = folder / "exported.txt"
    labels.write_text("v\nw\nx\ny\nz\n")
    for path, names in zip(
        exported_files, ("abcde", [f"class {i}" for i in range(5)]), strict=True
    ):
        for arguments, shown in (([], names), (["--labels", labels], "vwxyz")):
            (record,) = run_json("predict", path, photo, "--image-size", "8x12", *arguments)
            assert [guess["class"] for guess in record["predictions"]] == [*(-expected).argsort()]
            for guess in record["predictions"]:
                assert guess["label"] == shown[guess["class"]]
                assert guess["probability"] == pytest.approx(expected[guess["class"]], abs=1e-6)


@pytest.mark.once
def test_predict_refuses_arguments_for_exported_models(exported_files, photo, folder):
    (folder / "broken.tflite").write_bytes(exported_files[0].read_bytes()[:500])
    for path in exported_files:
        for arguments, messages in (
            ([path, photo, "--variant", "sepvit_t"], ["whole model", "--variant"]),
            ([path, photo, "--classes", "5"], ["whole model", "--classes"]),
            ([path, photo, "--image-size", "32"], ["8 x 12", "32 x 32"]),
            ([path.with_name(f"none{path.suffix}"), photo], ["not found", "none"]),
            ([path.with_name("broken.tflite"), photo], ["broken.tflite", "TFLite"]),
        ):
            assert_refused(run("predict", *arguments), *messages)


WITHOUT_KERAS = """
import contextlib, io, json, runpy, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in ("keras", "tensorflow", "jax", "torch"):
            raise ImportError(f"{name} is hidden")

sys.meta_path.insert(0, Hidden())
results = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["keras-sepvit", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(out):
            try:
                runpy.run_module("keras_sepvit", run_name="__main__")
            except SystemExit as end:
                results.append([end.code, out.getvalue()])
print(json.dumps(results))
"""


@pytest.mark.once
def test_commands_that_need_no_keras(exported_files, photo):
    """`python -m keras_sepvit`, where Keras and the backends cannot be imported."""
    commands = [
        (["--help"], 0, "predict"),
        (["summary", "--help"], 0, "--image-size"),
        (["summary", "sepvit_xl"], 2, "'sepvit_xl'"),
        (["convert", "a.pth", "b.keras", "--image-size", "x"], 2, "--image-size"),
        *((["predict", str(path), str(photo)], 0, "%") for path in exported_files),
    ]
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_KERAS, json.dumps([command[0] for command in commands])],
        cwd=os.path.dirname(os.path.dirname(keras_sepvit.__file__)),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    outcomes = json.loads(result.stdout.splitlines()[-1])
    for (_, code, text), (actual_code, output) in zip(commands, outcomes, strict=True):
        assert actual_code == code, output
        assert text in output


@pytest.mark.once
def test_usage_errors_and_help():
    assert run("predict").exit_code == 2
    assert run("summary", "sepvit_t", "--size", "224").exit_code == 2
    listed = run("--help")
    assert listed.exit_code == 0
    assert "summary" in listed.stdout and "predict" in listed.stdout


@pytest.fixture
def fresh_process(monkeypatch, tmp_path):
    """As if Keras had not been imported; returns what sets the installed backends."""
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "keras")

    def install(*names):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in names or None)

    return install


@pytest.mark.once
@pytest.mark.parametrize(
    ("installed", "configured", "chosen"),
    [
        (["tensorflow", "jax", "torch"], None, None),
        (["jax", "torch"], None, "jax"),
        (["torch"], None, "torch"),
        (["jax", "torch"], '{"backend": "tensorflow"}', "jax"),
        (["jax", "torch"], '{"backend": "torch"}', None),
        (["jax"], '{"backend": "openvino"}', None),
        (["torch"], "{broken", "torch"),
        ([], None, None),
    ],
)
def test_choose_backend(fresh_process, tmp_path, installed, configured, chosen):
    fresh_process(*installed)
    if configured:
        (tmp_path / "keras.json").write_text(configured)
    choose_backend()
    assert os.environ.get("KERAS_BACKEND") == chosen


@pytest.mark.once
def test_choose_backend_leaves_the_users_choice(fresh_process, monkeypatch):
    fresh_process("torch")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    choose_backend()
    assert os.environ["KERAS_BACKEND"] == "tensorflow"


@pytest.mark.once
def test_choose_backend_leaves_an_imported_keras(fresh_process, monkeypatch):
    fresh_process("torch")
    monkeypatch.setitem(sys.modules, "keras", keras)
    choose_backend()
    assert "KERAS_BACKEND" not in os.environ


@pytest.mark.once
@pytest.mark.parametrize(
    "command, code, expected",
    [
        ("summary sepvit_lite --json", 0, '"parameters": 3661128'),
        ("evaluate digits --data digits", 2, 'TensorFlow.* pip install "keras-sepvit\\[train\\]"'),
    ],
)
def test_command_line_without_tensorflow(command, code, expected, tmp_path):
    """Where only JAX is installed, the command works without any setting, or asks for more."""
    pytest.importorskip("jax")
    program = """
import sys
from importlib.machinery import PathFinder

class OnlyJax(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.split(".")[0] in ("tensorflow", "torch")
        return None if hidden else super().find_spec(name, path, target)

sys.meta_path = [OnlyJax if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv[0] = "keras-sepvit"
from keras_sepvit.cli import main
main()
"""
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
    environment.pop("KERAS_BACKEND", None)
    root = os.path.dirname(os.path.dirname(keras_sepvit.__file__))
    result = subprocess.run(
        [sys.executable, "-c", program, *command.split()],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == code, result.stderr
    assert re.search(expected, result.stderr if code else result.stdout)
    assert "Traceback" not in result.stderr


# Commands in the tests' folder, and what stderr is.
OWN_LINES = {
    "predict": ("predict digits photo.png --top 1", ""),
    "evaluate": ("evaluate digits --data digits", ""),
    "a warning of train": (
        "train finetune data.name=folder:two model.weights=digits model.variant=sepvit_digits "
        "model.image_size=32 data.validation_split=null batch_size=2 jit_compile=false --dry-run",
        r"Warning: Loaded \d+ of the model's \d+ weights from '\S+digits.weights.h5'\.\n"
        r"2 weights not in the file.*\n2 arrays of the file not used: head/kernel, head/bias\.\n",
    ),
    "damaged JPEGs in training": (
        "train jpegs model.variant=sepvit_digits model.image_size=32 batch_size=4 epochs=2 "
        "optimizer.warmup_epochs=0 jit_compile=false",
        r"Skipped an image that cannot be read: b/cut off.jpg\n",
    ),
    "an error": ("evaluate digits --data nothing/at/all", r"Error: There is no .*\n"),
}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "command, stderr",
    [
        pytest.param(*case, id=name, marks=() if name == "predict" else pytest.mark.once)
        for name, case in OWN_LINES.items()
    ],
)
def test_a_commands_lines_are_its_own(command, stderr, photo, folder):
    """No line of TensorFlow, CUDA or JAX, and no line of code."""
    for name in "ab":
        (folder / "two" / name).mkdir(parents=True, exist_ok=True)
        (folder / "two" / name / "photo.png").write_bytes(photo.read_bytes())
        (folder / "jpegs" / name).mkdir(parents=True, exist_ok=True)
        for number in range(6):
            Image.open(photo).convert("RGB").save(folder / "jpegs" / name / f"{number}.jpg")
    content = (folder / "jpegs" / "b" / "0.jpg").read_bytes()
    (folder / "jpegs" / "b" / "cut off.jpg").write_bytes(content[: len(content) // 2])
    # Decoded, and told by libjpeg: "6 extraneous bytes before marker 0xd9".
    (folder / "jpegs" / "a" / "0.jpg").write_bytes(content[:-2] + b"rubble" + content[-2:])
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(keras_sepvit.__path__[0])}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    result = subprocess.run(
        [sys.executable, "-m", "keras_sepvit", *command.split()],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert re.fullmatch(stderr, result.stderr), result.stderr
    assert result.returncode == (2 if "Error" in stderr else 0)


def test_convert_writes_what_the_report_says(tmp_path):
    """To the form of the authors' PyTorch code, and from there to the dense form."""
    weights = tmp_path / "lite.weights.h5"
    keras_sepvit.SepViTLite(classes=3).save_weights(weights)
    result = run("convert", weights, tmp_path / "lite.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "Loaded 190 of the model's 190 weights" in result.stdout

    result = run(
        "convert", tmp_path / "lite.safetensors", tmp_path / "dense.weights.h5", "--dense", "--json"
    )
    report = json.loads(result.stdout)
    assert len(report["new"]) == 28 and len(report["unused"]) == 10
    backbone = keras_sepvit.SepViTBackbone.from_variant("sepvit_lite", dense=True)
    assert len(keras_sepvit.load_weights(backbone, tmp_path / "dense.weights.h5").new) == 0


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["missing.pth", "out.weights.h5"], ["missing.pth"]),
        (["missing.pth", "out.onnx"], ["out.onnx", ".weights.h5"]),
        (["missing.pth", "out.weights.h5", "--image-size", "big"], ["--image-size", "'big'"]),
    ],
)
def test_convert_refuses(arguments, messages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(run("convert", *arguments), *messages)
    assert list(tmp_path.iterdir()) == []
