"""Weights by name: the registry, and the digits weights that the package ships."""

import configparser
import hashlib
import pathlib
import re
import runpy

import h5py
import keras
import numpy as np
import pytest
from helpers import TINY, randomize, to_numpy

import keras_sepvit
from keras_sepvit import SepViT, register_weights
from keras_sepvit.configs import DIGITS_CONFIG
from keras_sepvit.weights import registry as registry_module
from keras_sepvit.weights.registry import packaged_file, registered_weights

ROOT = pathlib.Path(__file__).parents[1]
CARD = ROOT / "docs" / "digits_model_card.md"
CHECKSUM = "0123456789abcdef" * 4
FIELDS = {
    "url": "https://example.org/tiny.weights.h5",
    "sha256": CHECKSUM,
    "variant": TINY,
    "image_size": 64,
    "classes": 5,
    "license": "CC-BY-4.0",
    "metrics": {"top1": 12.5},
}


@pytest.fixture
def registry(monkeypatch):
    """Puts the registry back after the test."""
    monkeypatch.setattr(registry_module, "_registry", registered_weights())


@pytest.fixture(scope="module")
def other_sizes():
    """What `examples/digits_other_sizes.py` defines."""
    return runpy.run_path(str(ROOT / "examples" / "digits_other_sizes.py"))


@pytest.fixture(scope="module")
def held_out(other_sizes):
    """Held-out digits of 32 x 32 and their labels."""
    return other_sizes["held_out_digits"](32, 32)


# The digits weights.


def test_digits_weights_are_as_accurate_as_their_card_says(held_out):
    images, labels = held_out
    model = SepViT(DIGITS_CONFIG, classes=10, weights="digits")
    predictions = model.predict(images, batch_size=len(images), verbose=0).argmax(axis=1)
    accuracy = np.mean(predictions == labels)

    stated = registered_weights()["digits"].metrics["held_out_accuracy"]
    assert f"{stated:.2%}".replace("%", " %") in CARD.read_text("utf-8")
    assert accuracy >= stated - 0.005
    assert {variable.dtype for variable in model.weights} == {"float32"}


@pytest.mark.once
def test_held_out_digits_are_those_of_the_quick_start(held_out):
    _, images, _, labels = runpy.run_path(str(ROOT / "examples" / "quickstart.py"))["load_images"]()
    np.testing.assert_array_equal(held_out[0], images)
    np.testing.assert_array_equal(held_out[1], labels)


@pytest.mark.once
def test_accuracy_at_another_size_is_what_the_card_says(other_sizes):
    stated = re.search(r"^\| 28 x 28 \| do not scale \| ([\d.]+) ", CARD.read_text("utf-8"), re.M)[
        1
    ]
    assert not other_sizes["windows_scale"](28, 28) and other_sizes["windows_scale"](64, 96)
    images, labels = other_sizes["held_out_digits"](28, 28)
    accuracy = other_sizes["accuracy"]("digits", images, labels, pad_windows=True)
    assert abs(accuracy - float(stated)) < 0.5


@pytest.mark.once
def test_the_shipped_file_is_whole_and_small():
    digits = registered_weights()["digits"]
    with packaged_file(digits) as path:
        content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == digits.sha256
    assert len(content) < 500_000
    assert f"sha256 `{digits.sha256}`" in CARD.read_text("utf-8").replace("\n", " ")


@pytest.mark.once
def test_packages_contain_the_shipped_file():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    package = ROOT / "keras_sepvit"
    patterns = setup["options.package_data"]["keras_sepvit"].split()
    packaged = {path for pattern in patterns for path in package.glob(pattern)}
    assert package / "data" / "digits.weights.h5" in packaged


@pytest.mark.once
@pytest.mark.parametrize(
    "variant, classes, match",
    [
        (DIGITS_CONFIG, 1000, "classes=10, or pass skip_head_mismatch=True"),
        (TINY, 10, "Build the model that the file was made for"),
    ],
)
def test_digits_weights_fit_only_their_own_model(variant, classes, match):
    with pytest.raises(ValueError, match=match):
        SepViT(variant, classes=classes, weights="digits")


@pytest.mark.once
def test_the_script_writes_half_precision_that_keras_reads_too(tmp_path, capsys):
    script = runpy.run_path(str(ROOT / "conversion" / "make_digits_weights.py"))
    model = SepViT(DIGITS_CONFIG, classes=10)
    randomize(model)
    model.save(tmp_path / "digits.keras")
    output = tmp_path / "digits.weights.h5"
    script["main"](["--model", str(tmp_path / "digits.keras"), "--output", str(output)])

    content = output.read_bytes()
    assert hashlib.sha256(content).hexdigest() in capsys.readouterr().out
    assert len(content) < 500_000
    types = set()
    with h5py.File(output) as file:
        file.visititems(lambda _, item: types.add(getattr(item, "dtype", None)))
    assert types == {None, np.dtype("float16")}

    by_keras = SepViT(DIGITS_CONFIG, classes=10)
    by_keras.load_weights(output)
    for loaded in (by_keras, SepViT(DIGITS_CONFIG, classes=10, weights=output)):
        for variable, other in zip(loaded.weights, model.weights, strict=True):
            expected = to_numpy(other).astype("float16")
            np.testing.assert_array_equal(to_numpy(variable), expected, err_msg=other.path)


# The registry.


@pytest.mark.once
def test_a_registered_name_stands_for_its_file(registry, monkeypatch, tmp_path):
    model = SepViT(TINY, classes=5)
    randomize(model, 3)
    path = tmp_path / "tiny.weights.h5"
    model.save_weights(path)
    downloads = []

    def get_file(name, origin, file_hash, hash_algorithm, **kwargs):
        downloads.append((origin, file_hash, hash_algorithm))
        return str(path)

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    weights = register_weights("tiny-1_b", **{**FIELDS, "sha256": checksum.upper()})
    assert not downloads
    assert weights is registered_weights()["tiny-1_b"]
    assert weights.image_size == (64, 64) and weights.metrics == {"top1": 12.5}

    loaded = SepViT(TINY, classes=5, weights="tiny-1_b")
    assert downloads == [(FIELDS["url"], checksum, "sha256")]
    for variable, other in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), to_numpy(other), err_msg=other.path)


@pytest.mark.once
def test_unknown_names_list_those_registered(registry):
    register_weights("tiny", **FIELDS)
    with pytest.raises(ValueError, match=r"a registered name \('digits', 'tiny'\)"):
        SepViT(TINY, classes=5, weights="tinny")


@pytest.mark.once
def test_there_is_nothing_for_imagenet():
    assert list(registered_weights()) == ["digits"]
    with pytest.raises(ValueError, match="nobody has published ImageNet weights"):
        SepViT(TINY, weights="imagenet")


@pytest.mark.once
def test_a_name_is_registered_once(registry):
    register_weights("tiny", **FIELDS)
    with pytest.raises(ValueError, match="'tiny'` is registered already, for https://example.org/"):
        register_weights("tiny", **FIELDS)
    with pytest.raises(ValueError, match="registered already, for a file of this package"):
        register_weights("digits", **FIELDS)


@pytest.mark.once
@pytest.mark.parametrize("name", ["", "a.weights.h5", "a/b", "https://a", "a b", "a\n", None, 3])
def test_names_that_could_be_something_else(name, registry):
    with pytest.raises(ValueError, match="`name` must be a string of letters"):
        register_weights(name, **FIELDS)


@pytest.mark.once
@pytest.mark.parametrize(
    "field, value, match",
    [
        ("url", "http://example.org/a.weights.h5", "`url` must be an https:// address"),
        ("url", "file:///tmp/a.weights.h5", "`url` must be an https:// address"),
        ("url", "https:///a.weights.h5", "`url` must be an https:// address"),
        ("url", f"https://example.org/a.keras#sha256={CHECKSUM}", "without '#'"),
        ("url", None, "`url` must be an https:// address"),
        ("sha256", CHECKSUM[:-1], "string of 64 hexadecimal digits"),
        ("sha256", CHECKSUM[:-1] + "g", "string of 64 hexadecimal digits"),
        ("sha256", CHECKSUM + "\n", "string of 64 hexadecimal digits"),
        ("sha256", None, "string of 64 hexadecimal digits"),
        ("variant", "sepvit_x", "Unknown `variant`"),
        ("image_size", 0, "`image_size` must be a positive integer"),
        ("image_size", (32, 32, 3), "`image_size` must be an integer or a"),
        ("classes", 0, "`classes` must be a positive integer"),
        ("license", " ", "`license` must name the license"),
        ("license", None, "`license` must name the license"),
        ("metrics", [1.0], "`metrics` must be a dict of finite numbers"),
        ("metrics", {"top1": "high"}, "`metrics` must be a dict of finite numbers"),
        ("metrics", {"top1": float("nan")}, "`metrics` must be a dict of finite numbers"),
    ],
)
def test_what_cannot_be_registered(field, value, match, registry):
    with pytest.raises(ValueError, match=match):
        register_weights("tiny", **{**FIELDS, field: value})
    assert "tiny" not in registered_weights()


@pytest.mark.once
def test_imagenet_is_not_to_be_taken(registry):
    with pytest.raises(ValueError, match="Choose a name that tells the variant"):
        register_weights("imagenet", **FIELDS)


@pytest.mark.once
def test_the_registry_can_be_listed_but_not_changed_from_outside(registry):
    keras_sepvit.weights.registered_weights().clear()
    assert "digits" in registered_weights()
