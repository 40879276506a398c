"""The `weights` argument: what it may be, and downloads."""

import hashlib
import pathlib

import keras
import numpy as np
import pytest
from weights_helpers import (
    assert_same,
    classifier,
    save_h5,
    values,
)

from keras_sepvit import SepViT, SepViTBackbone
from keras_sepvit.weights import load_weights

pytestmark = pytest.mark.once


def test_there_are_no_imagenet_weights():
    with pytest.raises(ValueError, match="nobody has published ImageNet weights"):
        classifier(weights="imagenet")


@pytest.mark.parametrize("weights", ["numbers", "weights.npz", "model.onnx", "weights.json", ""])
def test_unknown_weights_list_what_is_allowed(weights):
    with pytest.raises(ValueError, match=r"None, .*\.weights\.h5, \.keras, \.pth.*#sha256="):
        classifier(weights=weights)


@pytest.mark.parametrize("weights", [3, True, 1.5, ["a.keras"], b"a.keras", np.zeros(3)])
def test_weights_of_other_types(weights):
    with pytest.raises(ValueError, match="`weights` must be None, .* Received"):
        classifier(weights=weights)
    with pytest.raises(ValueError, match="`source` must be the path of a weights file"):
        load_weights(classifier(), weights)


CHECKSUM = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "address, match",
    [
        (f"http://example.org/a.weights.h5#sha256={CHECKSUM}", "https:// only"),
        (f"ftp://example.org/a.weights.h5#sha256={CHECKSUM}", "https:// only"),
        (f"file:///tmp/a.weights.h5#sha256={CHECKSUM}", "https:// only"),
        (f"https:///a.weights.h5#sha256={CHECKSUM}", "https:// only"),
        ("https://example.org/a.weights.h5", "needs the checksum"),
        ("https://example.org/a.weights.h5#", "needs the checksum"),
        ("https://example.org/a.weights.h5#sha256=", "needs the checksum"),
        (f"https://example.org/a.weights.h5#sha256={CHECKSUM[:-1]}", "needs the checksum"),
        (f"https://example.org/a.weights.h5#sha256={CHECKSUM[:-1]}g", "needs the checksum"),
        (f"https://example.org/a.weights.h5#md5={CHECKSUM}", "needs the checksum"),
        (f"https://example.org/a.weights.h5?sha256={CHECKSUM}", "needs the checksum"),
        (f"https://example.org/weights#sha256={CHECKSUM}", "file ending in one of"),
        (f"https://example.org/#sha256={CHECKSUM}", "file ending in one of"),
    ],
)
def test_addresses_that_are_refused_without_a_connection(address, match, monkeypatch):
    monkeypatch.setattr(keras.utils, "get_file", lambda *args, **kwargs: pytest.fail("connected"))
    with pytest.raises(ValueError, match=match):
        classifier(weights=address)


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Files by address, which stand for the network; Keras checks and keeps them as ever."""
    files = {}

    def retrieve(address, target, report):
        if address not in files:
            raise OSError("no route to host")
        pathlib.Path(target).write_bytes(files[address])

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", retrieve)
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return files


def test_an_address_is_downloaded_once_and_checked(server, source, tmp_path):
    model, path = source
    content = path.read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    server["https://example.org/a/tiny.weights.h5?download=1"] = content
    address = f"https://example.org/a/tiny.weights.h5?download=1#sha256={checksum.upper()}"
    assert_same(values(classifier(weights=address)), values(model))
    cached = list((tmp_path / "home").rglob("*.h5"))
    assert len(cached) == 1 and checksum in cached[0].name
    server.clear()
    assert_same(values(classifier(weights=address)), values(model))


def test_files_of_the_same_name_do_not_collide(server, source, tmp_path):
    models = [source[0], classifier(seed=11)]
    for number, model in enumerate(models):
        content = save_h5(model, tmp_path / f"{number}.weights.h5").read_bytes()
        address = f"https://example.org/{number}/same.weights.h5"
        server[address] = content
        loaded = classifier(weights=f"{address}#sha256={hashlib.sha256(content).hexdigest()}")
        assert_same(values(loaded), values(model))


def test_a_download_with_another_checksum_is_refused(server, source):
    server["https://example.org/tiny.weights.h5"] = source[1].read_bytes()
    with pytest.raises(ValueError, match="does not have the checksum"):
        classifier(weights=f"https://example.org/tiny.weights.h5#sha256={CHECKSUM}")


def test_a_failed_download_is_told(server):
    with pytest.raises(OSError, match="cannot be downloaded: no route to host"):
        classifier(weights=f"https://example.org/tiny.weights.h5#sha256={CHECKSUM}")


@pytest.mark.parametrize("build", [SepViT, SepViTBackbone.from_variant])
def test_weights_are_checked_before_a_model_is_built(build, tmp_path, monkeypatch):
    def built(*args, **kwargs):
        raise AssertionError("a model is built")

    for module in ("backbone", "classification.classifier"):
        monkeypatch.setattr(f"keras_sepvit.{module}.sepvit_features", built)
    (tmp_path / "picture.keras").write_bytes(b"\x89PNG and so on")
    for weights, error, match in (
        ("no_such_name", ValueError, "Unknown `weights`"),
        (3, ValueError, "Received: int"),
        (tmp_path / "missing.weights.h5", FileNotFoundError, "No such weights file"),
        (tmp_path / "picture.keras", ValueError, "a PNG image"),
        (tmp_path / "weights.txt", ValueError, "Unknown kind of weights file"),
    ):
        with pytest.raises(error, match=match):
            build("sepvit_t", weights=weights)
    with pytest.raises(AssertionError, match="a model is built"):
        build("sepvit_t")
