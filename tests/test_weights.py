"""Loading weights files: what fits, what is refused, and that nothing is half done."""

import dataclasses
import hashlib
import os
import pathlib
import re
import subprocess
import sys
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest
from helpers import BACKEND, TINY, images, randomize, tiny_backbone, to_numpy
from keras import layers
from weights_helpers import (
    CLASSES,
    PSA_WEIGHTS,
    SUFFIXES,
    assert_same,
    classifier,
    load_quietly,
    refused,
    save_h5,
    values,
    write,
)

from keras_sepvit import SepViTBackbone, SepViTLite
from keras_sepvit.configs import VARIANTS
from keras_sepvit.convert import convert
from keras_sepvit.weights import load_pretrained, load_weights


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A random classifier and its `.weights.h5` file."""
    model = classifier(seed=7)
    return model, save_h5(model, tmp_path_factory.mktemp("source") / "tiny.weights.h5")


# What fits.


@pytest.mark.parametrize("kind", ["weights.h5", "keras"])
def test_a_file_of_the_same_model_loads_bit_exactly(kind, tmp_path):
    model = classifier(seed=1)
    model.compile(keras.optimizers.AdamW(), "categorical_crossentropy", metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / f"model.{kind}"
    write(model, path)

    loaded = classifier(weights=str(path))
    assert_same(values(loaded), values(model))
    report = load_quietly(loaded, path)
    assert set(report.assigned) == set(values(model))
    assert report.resized == report.new == report.unused == ()
    assert str(report) == f"Loaded {len(model.weights)} of the model's {len(model.weights)} " + (
        f"weights from '{path}'."
    )


def test_files_do_not_depend_on_preprocessing_names_or_drop_path(source):
    model, path = source
    loaded = classifier(weights=path, include_preprocessing=False, name="other", drop_path_rate=0.4)
    assert_same(values(loaded), values(model))


def test_a_backbone_in_another_model_takes_the_weights(source):
    model, path = source
    inputs = keras.Input((64, 64, 3))
    features = layers.GlobalAveragePooling2D()(tiny_backbone()(inputs))
    outer = keras.Model(inputs, layers.Dense(CLASSES, name="head")(features))
    load_quietly(outer, path)
    assert_same(values(outer), values(model))


def test_a_file_of_a_nested_backbone_loads(source, tmp_path):
    model, _ = source
    inputs = keras.Input((64, 64, 3))
    outer = keras.Model(inputs, layers.Dense(3, name="classes")(tiny_backbone()(inputs)))
    randomize(outer, 4)
    path = save_h5(outer, tmp_path / "outer.weights.h5")
    loaded = tiny_backbone()
    report = load_quietly(loaded, path, partial=True)
    assert report.unused == ("classes/kernel", "classes/bias")
    expected = values(outer)
    assert_same(values(loaded), {path: expected[path] for path in values(loaded)})


@pytest.mark.parametrize("kind", ["backbone", "no_top"])
def test_a_head_without_place_is_reported_and_no_reason_to_warn(kind, source):
    model, path = source
    loaded = tiny_backbone() if kind == "backbone" else classifier(include_top=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        report = load_pretrained(loaded, path)
    assert report.unused == ("head/kernel", "head/bias")
    expected = values(model)
    assert_same(values(loaded), {path: expected[path] for path in values(loaded)})


@pytest.mark.parametrize("size", [(32, 32), (96, 96), (128, 128), (96, 160)])
def test_scaled_windows_take_every_weight(size, source):
    model, path = source
    loaded = classifier(input_shape=(*size, 3))
    report = load_quietly(loaded, path)
    assert report.resized == report.new == report.unused == ()
    assert_same(values(loaded), values(model))


def test_lite_weights_of_224_fit_other_sizes(tmp_path):
    model = SepViTLite(classes=CLASSES)
    randomize(model)
    path = save_h5(model, tmp_path / "lite.weights.h5")
    for size in ((192, 192), (256, 256), (288, 288), (384, 384), (192, 320)):
        loaded = SepViTLite(classes=CLASSES, input_shape=(*size, 3))
        report = load_quietly(loaded, path)
        assert report.resized == report.new == report.unused == (), size
        assert_same(values(loaded), values(model))


def bilinear(grid, rows, columns):
    """A (height, width, channels) grid at other sizes, with half-pixel centres, in float64."""

    def weights(size, target):
        matrix = np.zeros((target, size))
        for i in range(target):
            x = min(max((i + 0.5) * size / target - 0.5, 0), size - 1)
            left = int(x)
            matrix[i, left] += 1 - (x - left)
            matrix[i, min(left + 1, size - 1)] += x - left
        return matrix

    height, width, _ = grid.shape
    return np.einsum(
        "yh,xw,hwc->yxc", weights(height, rows), weights(width, columns), grid.astype("float64")
    )


@pytest.mark.parametrize(
    "size, grids",
    [
        # Windows of 4; 2 and 4; 2 and 4: the rows and columns of windows of each block with tokens.
        ((128, 128), {"stage1_block1": (8, 8), "stage2_block1": (8, 8), "stage2_block2": (4, 4)}),
        ((64, 96), {"stage1_block1": (4, 6), "stage2_block1": (4, 6), "stage2_block2": (2, 3)}),
        ((70, 50), {"stage1_block1": (5, 4), "stage2_block1": (5, 4), "stage2_block2": (3, 2)}),
        ((48, 64), {"stage1_block1": (3, 4), "stage2_block1": (3, 4)}),
    ],
)
def test_tokens_are_resized_over_their_grid(size, grids, source):
    model, path = source
    loaded = classifier(input_shape=(*size, 3), pad_windows=True)
    report = load_weights(loaded, path)
    before, after = values(model), values(loaded)
    assert set(grids) <= {name.removesuffix("/win_tokens") for name in report.resized}
    for block, (rows, columns) in grids.items():
        tokens = before[f"{block}/win_tokens"]
        side = int(tokens.shape[1] ** 0.5)
        expected = bilinear(tokens.reshape(side, side, -1), rows, columns)
        assert after[f"{block}/win_tokens"].shape == (1, rows * columns, 1, tokens.shape[-1])
        np.testing.assert_allclose(
            after[f"{block}/win_tokens"].reshape(expected.shape), expected, atol=1e-6
        )
    for name in report.assigned:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_blocks_that_gain_windows_keep_their_new_psa(source):
    _, path = source
    loaded = classifier(input_shape=(128, 128, 3), pad_windows=True)
    before = values(loaded)
    report = load_weights(loaded, path)
    # At 64 one window: the windows of 4 of stage 3, and of 2 of stage 4.
    expected = {
        f"{block}/{weight}"
        for block in ("stage3_block2", "stage4_block1")
        for weight in [*PSA_WEIGHTS, "win_tokens"]
    }
    assert set(report.new) == expected
    after = values(loaded)
    for name in expected:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    assert report.unused == ()


def test_blocks_that_lose_windows_leave_psa_unused(source):
    _, path = source
    loaded = classifier(input_shape=(32, 32, 3), pad_windows=True)
    report = load_weights(loaded, path)
    expected = {
        f"{block}/{weight}"
        for block in ("stage2_block2", "stage3_block1")
        for weight in [*PSA_WEIGHTS, "win_tokens"]
    }
    assert set(report.unused) == expected
    assert report.new == ()


def test_windows_of_another_number_need_padding(source):
    _, path = source
    architecture = {**TINY.architecture(), "image_shape": (128, 128, 3)}
    message = refused(SepViTBackbone(**architecture), path, "do not fit model")
    assert "stage3_block2/win_tokens: not in the file" in message
    assert "pad_windows=True" in message


def test_tokens_of_a_rectangle_fit_only_its_own_grid(tmp_path):
    """From 4 x 6 windows: neither square, nor, at 64 x 64, as many."""
    wide = classifier(input_shape=(64, 96, 3), pad_windows=True, seed=2)
    path = save_h5(wide, tmp_path / "wide.weights.h5")
    again = classifier(input_shape=(64, 96, 3), pad_windows=True)
    load_quietly(again, path)
    assert_same(values(again), values(wide))
    message = refused(classifier(pad_windows=True), path, "do not fit model")
    assert "stage1_block1/win_tokens: (1, 24, 1, 8) in the file, (1, 16, 1, 8)" in message


@pytest.mark.parametrize(
    "variant, tokens, new", [("sepvit_t", 6, 28), ("sepvit_s", 10, 44), ("sepvit_b", 10, 44)]
)
def test_the_dense_form_takes_exactly_what_the_authors_take(variant, tokens, new, tmp_path):
    config = dataclasses.replace(
        VARIANTS[variant], hidden_dims=(4, 8, 12, 16), num_heads=(1, 1, 1, 1), mlp_ratio=1.0
    )
    model = classifier(config, seed=3)
    path = save_h5(model, tmp_path / "classifier.weights.h5")
    loaded = SepViTBackbone.from_variant(config, dense=True, image_shape=(None, None, 3))
    initial = values(loaded)
    report = load_quietly(loaded, path)

    norms = [name for name in report.new if re.match(r"stage\d_norm/", name)]
    assert (len(norms), len(report.new)) == (8, new)
    rest = {name.split("/", 1)[1] for name in report.new if name not in norms}
    assert rest == set(PSA_WEIGHTS)
    dropped = [name for name in report.unused if name.endswith("/win_tokens")]
    assert len(dropped) == tokens
    others = {"norm/gamma", "norm/beta", "head/kernel", "head/bias"}
    assert set(report.unused) == {*dropped, *others}
    before, after = values(model), values(loaded)
    for name, value in after.items():
        expected = initial[name] if name in report.new else before[name]
        np.testing.assert_array_equal(value, expected, err_msg=name)


def test_dense_weights_load_in_the_dense_form(tmp_path):
    model = tiny_backbone(dense=True, image_shape=(None, None, 3))
    randomize(model)
    path = save_h5(model, tmp_path / "dense.weights.h5")
    loaded = tiny_backbone(dense=True, image_shape=(64, 96, 3))
    report = load_quietly(loaded, path)
    assert report.new == report.unused == ()
    assert_same(values(loaded), values(model))


@pytest.mark.parametrize("missing", ["stage2_norm", "stage3_block2/attn/psa_qk"])
def test_a_dense_file_must_be_whole(missing, tmp_path):
    model = tiny_backbone(dense=True, image_shape=(None, None, 3))
    path = save_h5(model, tmp_path / "dense.weights.h5")
    remove_layer(path, missing)
    message = refused(tiny_backbone(dense=True), path, "do not fit model")
    assert f"{missing}/" in message and "not in the file" in message


def remove_layer(path, layer):
    """Deletes the variables of a layer from a `.weights.h5` file."""
    with h5py.File(path, "r+") as file:
        name, *children = layer.split("/")
        groups = file["layers"].values()
        group = next(g for g in groups if g["vars"].attrs["name"] == name)
        del group["/".join([*children, "vars"])]


@pytest.mark.parametrize("skip", [{}, {"partial": True}, {"skip_head_mismatch": True}])
def test_dense_weights_are_no_classifiers(skip, tmp_path):
    model = tiny_backbone(dense=True, image_shape=(None, None, 3))
    path = save_h5(model, tmp_path / "dense.weights.h5")
    message = refused(classifier(), path, "dense form, for detection", **skip)
    assert "dense=True" in message


# The head.


def test_another_number_of_classes_is_refused_unless_asked_for(source):
    _, path = source
    message = refused(classifier(classes=3), path, "do not fit model")
    assert "head/kernel: (32, 5) in the file, (32, 3) in the model" in message
    assert "classes=5" in message and "skip_head_mismatch=True" in message
    with pytest.raises(ValueError, match="skip_head_mismatch=True"):
        classifier(classes=3, weights=path)


def test_another_number_of_classes_keeps_the_random_head(source):
    model, path = source
    loaded = classifier(classes=3, seed=5)
    before = values(loaded)
    with pytest.warns(UserWarning, match="initial values: head/kernel, head/bias"):
        report = load_pretrained(loaded, path, skip_head_mismatch=True)
    assert report.new == report.unused == ("head/kernel", "head/bias")
    expected = {**values(model), "head/kernel": before["head/kernel"]}
    assert_same(values(loaded), {**expected, "head/bias": before["head/bias"]})


def test_the_same_number_of_classes_keeps_the_files_head(source):
    model, path = source
    loaded = classifier()
    assert load_quietly(loaded, path, skip_head_mismatch=True).new == ()
    assert_same(values(loaded), values(model))


def test_a_file_without_head(tmp_path):
    path = save_h5(tiny_backbone(), tmp_path / "backbone.weights.h5")
    message = refused(classifier(), path, "do not fit model")
    assert "include_top=False" in message and "skip_head_mismatch=True" in message
    report = load_weights(classifier(), path, skip_head_mismatch=True)
    assert report.new == ("head/kernel", "head/bias")
    assert report.unused == ()


def test_skipping_the_head_skips_nothing_else(source):
    _, path = source
    wider = dataclasses.replace(TINY, hidden_dims=(8, 16, 24, 64))
    refused(classifier(wider, classes=3), path, "head/kernel|more", skip_head_mismatch=True)


# What does not fit.


def test_a_mismatch_tells_both_sides_and_what_to_do(source):
    _, path = source
    message = refused(SepViTLite(), path, "do not fit model `sepvit_lite`")
    assert str(path) in message and "Nothing was loaded" in message
    assert "File: stages of (8, 16, 24, 32) channels and (1, 2, 2, 1) blocks" in message
    assert "Model: sepvit_lite (stages of (32, 64, 128, 256)" in message
    assert "stage1_embed/proj/kernel: (7, 7, 3, 8) in the file, (7, 7, 3, 32)" in message
    listed = re.findall(r"^  stage\S+: ", message, flags=re.MULTILINE)
    assert len(listed) == 5
    total, more = (int(re.search(p, message)[1]) for p in (r"(\d+) weights", r"and (\d+) more"))
    assert total == more + 5


def test_a_mismatch_names_the_variant_of_the_file(tmp_path):
    lite = SepViTLite(classes=CLASSES)
    path = save_h5(lite, tmp_path / "lite.weights.h5")
    message = refused(classifier(), path, "do not fit model")
    assert "File: sepvit_lite (" in message and "`SepViT('sepvit_lite')`" in message
    assert f"classification form, {CLASSES} classes" in message


def test_other_depths_are_missing_or_surplus(source, tmp_path):
    _, path = source
    deeper = dataclasses.replace(
        TINY, depths=(1, 2, 2, 2), window_sizes=((4,), (2, 4), (2, 4), (2, 2))
    )
    message = refused(classifier(deeper), path, "do not fit model")
    assert re.search(r"stage4_block2/norm1/gamma: not in the file, \(32,\) in the model", message)
    longer = save_h5(classifier(deeper), tmp_path / "longer.weights.h5")
    message = refused(classifier(), longer, "do not fit model")
    assert re.search(r"stage4_block2/\S+: \(.*\) in the file, not in the model", message)


def test_a_partial_load_reports_what_it_left(source):
    model, path = source
    deeper = dataclasses.replace(
        TINY,
        depths=(1, 2, 2, 2),
        window_sizes=((4,), (2, 4), (2, 4), (2, 2)),
        hidden_dims=(8, 16, 24, 64),
    )
    loaded = classifier(deeper)
    initial = values(loaded)
    report = load_quietly(loaded, path, partial=True)
    before, after = values(model), values(loaded)
    assert set(report.assigned) | set(report.new) == set(after)
    assert set(report.assigned) | set(report.unused) == set(before)
    assert "stage3_block2/attn/proj/kernel" in report.assigned
    assert "stage4_block2/norm1/gamma" in report.new
    assert "stage4_block1/norm1/gamma" in set(report.new) & set(report.unused)
    for name, value in after.items():
        expected = before[name] if name in report.assigned else initial[name]
        np.testing.assert_array_equal(value, expected, err_msg=name)


def test_a_partial_load_of_nothing_is_an_error(tmp_path):
    other = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="dense")])
    path = save_h5(other, tmp_path / "other.weights.h5")
    for partial in (False, True):
        message = refused(classifier(), path, "no weights of SepViT", partial=partial)
        assert "dense/kernel" in message


def test_a_model_whose_weights_have_the_same_names_is_refused(source):
    _, path = source
    inputs = keras.Input((64, 64, 3))
    twins = [tiny_backbone(name=name)(inputs) for name in ("left", "right")]
    both = keras.Model(inputs, layers.Concatenate()(twins))
    refused(both, path, "several weights with the path 'stage1_embed/proj/kernel'")


@pytest.mark.parametrize("model", [None, "sepvit_t", layers.Dense(3)])
def test_only_models_take_weights(model, source):
    with pytest.raises(ValueError, match="`model` must be a Keras model"):
        load_weights(model, source[1])


def test_a_damaged_array_leaves_the_model_as_it_was(source, tmp_path):
    """The last array read fails, when all others are fine."""
    _, good = source
    path = tmp_path / "damaged.weights.h5"
    path.write_bytes(good.read_bytes())
    with h5py.File(path, "r+") as file:
        group = file["layers/dense/vars"]
        value = group["1"][()]
        del group["1"]
        group.create_dataset("1", data=value, chunks=True, fletcher32=True)
    with h5py.File(path) as file:
        offset = file["layers/dense/vars/1"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff")
    refused(classifier(), path, "incomplete or damaged")


def test_other_types_than_floats_are_refused(source, tmp_path):
    _, good = source
    path = tmp_path / "quantised.weights.h5"
    path.write_bytes(good.read_bytes())
    with h5py.File(path, "r+") as file:
        group = file["layers/dense/vars"]
        del group["1"]
        group["1"] = np.zeros(CLASSES, "int8")
    refused(classifier(), path, "'head/bias' as int8")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_warn(value, tmp_path):
    model = classifier(seed=1)
    bias = model.get_layer("stage2_peg").proj.bias
    bias.assign(np.full(bias.shape, value))
    path = save_h5(model, tmp_path / "nan.weights.h5")
    with pytest.warns(UserWarning, match="NaN or infinite, in 1 .* 'stage2_peg/proj/bias'"):
        report = load_weights(classifier(), path)
    assert len(report.assigned) == len(model.weights)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_files_of_other_precisions_load(dtype, tmp_path):
    if (dtype, BACKEND) == ("float64", "jax"):
        pytest.skip("JAX has no float64 by default")
    keras.config.set_dtype_policy(dtype)
    path = tmp_path / "model.weights.h5"
    model = classifier(seed=1)
    model.save_weights(path)
    expected = values(model)
    keras.config.set_dtype_policy("float32")
    loaded = classifier()
    load_quietly(loaded, path)
    assert {variable.dtype for variable in loaded.weights} == {"float32"}
    assert_same(values(loaded), expected)


# The `weights` argument.


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


# Files that are none, or hostile.


@pytest.fixture(scope="module")
def untouched():
    return classifier(seed=9)


@pytest.mark.parametrize("suffix", SUFFIXES)
class TestBadFiles:
    def test_missing(self, suffix, untouched, tmp_path):
        refused(untouched, tmp_path / f"no{suffix}", "No such weights file", FileNotFoundError)

    def test_empty(self, suffix, untouched, tmp_path):
        path = tmp_path / f"empty{suffix}"
        path.touch()
        refused(untouched, path, "is empty")

    def test_folder(self, suffix, untouched, tmp_path):
        path = tmp_path / f"folder{suffix}"
        path.mkdir()
        refused(untouched, path, "is a folder")

    def test_pipe(self, suffix, untouched, tmp_path):
        path = tmp_path / f"pipe{suffix}"
        os.mkfifo(path)
        refused(untouched, path, "not a regular file")

    def test_no_permission(self, suffix, untouched, tmp_path, monkeypatch):
        path = tmp_path / f"secret{suffix}"
        path.write_bytes(b"secret")

        def forbidden(self, *args, **kwargs):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(pathlib.Path, "open", forbidden)  # root may read everything
        refused(untouched, path, "cannot be read: Permission denied")

    @pytest.mark.parametrize(
        "content, what",
        [
            (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG image"),
            (b"\xff\xd8\xff\xe0" + bytes(100), "a JPEG image"),
            (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
            (b"x" * 1000, "other data"),
        ],
    )
    def test_renamed(self, suffix, content, what, untouched, tmp_path):
        path = tmp_path / f"renamed{suffix}"
        path.write_bytes(content)
        expected = "incomplete or damaged" if suffix == ".safetensors" else what
        refused(untouched, path, expected)

    def test_three_gigabytes_of_zeros(self, suffix, untouched, tmp_path):
        path = tmp_path / f"sparse{suffix}"
        with path.open("wb") as file:
            file.truncate(3 << 30)
        refused(untouched, path, "zeros|incomplete or damaged")

    def test_truncated(self, suffix, source, untouched, tmp_path):
        model, _ = source
        if suffix in (".pth", ".safetensors"):
            pytest.importorskip("torch")
        whole = tmp_path / f"whole{suffix}"
        write(model, whole)
        content = whole.read_bytes()
        for share in (0.001, 0.3, 0.9, 0.9999):
            path = tmp_path / f"truncated{suffix}"
            path.write_bytes(content[: max(int(len(content) * share), 9)])
            refused(untouched, path, "incomplete or damaged")

    def test_of_another_kind(self, suffix, source, untouched, tmp_path):
        """A good file under the name of another kind."""
        model, _ = source
        for other in SUFFIXES:
            if other == suffix:
                continue
            if {suffix, other} & {".pth", ".safetensors"}:
                pytest.importorskip("torch")
            path = tmp_path / f"whole{other}"
            write(model, path)
            renamed = path.rename(tmp_path / f"renamed{suffix}")
            refused(untouched, renamed, "is not|incomplete or damaged|no state dict|without `model")


def test_unknown_suffixes(untouched, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, a=np.zeros(3))
    refused(untouched, path, r"Unknown kind of weights file.*\.weights\.h5, \.keras, \.pth")


@pytest.mark.parametrize("trick", ["external data", "virtual data"])
def test_hdf5_does_not_reach_outside_the_file(trick, source, untouched, tmp_path):
    path, outside = hostile_h5(source, tmp_path)
    with h5py.File(path, "r+") as file:
        group = file["layers/dense/vars"]
        del group["1"]
        if trick == "external data":
            raw = [(str(outside), 0, 4 * CLASSES)]
            group.create_dataset("1", (CLASSES,), "float32", external=raw)
        else:
            layout = h5py.VirtualLayout((CLASSES,), "float32")
            layout[:] = h5py.VirtualSource(str(outside), "1", (CLASSES,))
            group.create_virtual_dataset("1", layout)
    refused(untouched, path, "is not in the file")


@pytest.mark.parametrize("place", ["layers/dense/vars/1", "layers/dense", "elsewhere"])
@pytest.mark.parametrize("kind", ["external", "soft", "dangling"])
def test_links_in_hdf5_are_refused(kind, place, source, untouched, tmp_path):
    path, outside = hostile_h5(source, tmp_path)
    with h5py.File(path, "r+") as file:
        if place in file:
            del file[place]
        file[place] = {
            "external": h5py.ExternalLink(str(outside), "/1"),
            "soft": h5py.SoftLink("/layers/layer_normalization/vars/1"),
            "dangling": h5py.SoftLink("/no/such/place"),
        }[kind]
    refused(untouched, path, f"has a link to other data at '{place}', which was not followed")
    refused(untouched, path, "link to other data", partial=True)


def hostile_h5(source, folder):
    """A copy of a good file, and a file beside it that it could lead to."""
    path, outside = folder / "hostile.weights.h5", folder / "outside.h5"
    path.write_bytes(source[1].read_bytes())
    with h5py.File(outside, "w") as file:
        file["1"] = np.ones(CLASSES, "float32")
    return path, outside


def test_hdf5_that_claims_more_than_it_holds(source, tmp_path, untouched):
    _, good = source
    path = tmp_path / "bomb.weights.h5"
    path.write_bytes(good.read_bytes())
    with h5py.File(path, "r+") as file:
        group = file["layers/sep_vi_t_block/vars"]
        del group["0"]
        group.create_dataset("0", (1, 1 << 34, 1, 8), "float32", chunks=(1, 1024, 1, 8))
    refused(untouched, path, "claims to hold 549,7")


def test_hdf5_with_data_of_no_shape(source, untouched, tmp_path):
    path = tmp_path / "null.weights.h5"
    path.write_bytes(source[1].read_bytes())
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/1"]
        file["layers/dense/vars/1"] = h5py.Empty("float32")
    refused(untouched, path, "is not in the file")


def test_hdf5_of_something_else(untouched, tmp_path):
    path = tmp_path / "other.weights.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((3, 4))
    refused(untouched, path, "without the layers of a Keras 3 model. At its top: images")


def test_hdf5_without_layer_names(source, untouched, tmp_path):
    path = tmp_path / "old.weights.h5"
    path.write_bytes(source[1].read_bytes())
    with h5py.File(path, "r+") as file:
        del file["layers/peg/proj/vars"].attrs["name"]
    refused(untouched, path, "does not tell the name of the layer")


def test_hdf5_with_two_layers_of_one_name(source, untouched, tmp_path):
    path = tmp_path / "twins.weights.h5"
    path.write_bytes(source[1].read_bytes())
    with h5py.File(path, "r+") as file:
        file["layers/peg_1/vars"].attrs["name"] = "stage1_peg"
    refused(untouched, path, "several weights named 'stage1_peg/proj/kernel'")


def test_a_zip_that_is_no_model(untouched, tmp_path):
    path = tmp_path / "other.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    refused(untouched, path, "without `model.weights.h5`")


def test_a_zip_bomb(untouched, tmp_path):
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(1 << 26))
    refused(untouched, path, "claims to hold 67,108,864")


def test_a_damaged_compressed_zip_member(source, untouched, tmp_path):
    path = tmp_path / "damaged.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(source[1], "model.weights.h5")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = b"\xff" * 64
    path.write_bytes(content)
    refused(untouched, path, "incomplete or damaged")


def test_a_damaged_zip_member(source, untouched, tmp_path):
    path = tmp_path / "damaged.keras"
    source[0].save(path)
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("model.weights.h5")
    with path.open("r+b") as file:
        file.seek(member.header_offset + member.file_size // 2)
        file.write(b"\xff" * 64)
    refused(untouched, path, "incomplete or damaged")


# Between backends, and from one kind of file to another.

SAVE_ELSEWHERE = """
import sys
import numpy as np
from helpers import BACKEND, TINY, images, randomize, to_numpy
from keras_sepvit import SepViT
folder, other_backend = sys.argv[1:]
assert BACKEND == other_backend
model = SepViT(TINY, classes=5, classifier_activation=None)
randomize(model, 3)
model.save_weights(f"{folder}/model.weights.h5")
if BACKEND != "jax":  # which would compile each operation for one use
    np.save(f"{folder}/logits.npy", to_numpy(model(127 + 50 * images((2, 64, 64, 3)))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("other", [b for b in ("tensorflow", "jax", "torch") if b != BACKEND])
def test_weights_of_another_backend_load_and_give_the_same_outputs(other, tmp_path):
    folders = [pathlib.Path(__file__).parent, pathlib.Path(__file__).parents[1]]
    subprocess.run(
        [sys.executable, "-c", SAVE_ELSEWHERE, str(tmp_path), other],
        check=True,
        env={
            **os.environ,
            "KERAS_BACKEND": other,
            "PYTHONPATH": os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")]),
        },
    )
    model = classifier(classifier_activation=None, weights=tmp_path / "model.weights.h5")
    assert_same(values(model), values(classifier(seed=3)))
    if other == {"tensorflow": "torch", "jax": "tensorflow", "torch": "tensorflow"}[BACKEND]:
        expected = np.load(tmp_path / "logits.npy")
        assert np.abs(expected).max() > 0.1
        actual = to_numpy(model(127 + 50 * images((2, 64, 64, 3))))
        np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["weights.h5", "keras"])
def test_convert_between_kinds_of_keras_files(kind, source, tmp_path):
    model, path = source
    target = tmp_path / f"converted.{kind}"
    report = convert(path, target, variant=TINY)
    assert report.new == report.unused == ()
    assert_same(values(classifier(weights=target)), values(model))
    if kind == "keras":
        assert_same(values(keras.models.load_model(target)), values(model))
    assert [file.name for file in tmp_path.iterdir()] == [target.name]


def test_convert_to_another_size_class_count_and_form(source, tmp_path):
    _, path = source
    target = tmp_path / "converted.weights.h5"
    report = convert(path, target, variant=TINY, image_size=(96, 64), classes=3)
    assert report.new == ("head/kernel", "head/bias")
    load_quietly(classifier(input_shape=(96, 64, 3), classes=3), target)

    report = convert(path, target, variant=TINY, dense=True)
    assert len([name for name in report.new if name.startswith("stage4_norm")]) == 2
    load_quietly(tiny_backbone(dense=True, image_shape=(None, None, 3)), target)
    assert convert(target, tmp_path / "again.weights.h5", variant=TINY).unused == ()


def test_convert_tells_the_variant_from_the_file(tmp_path):
    model = SepViTLite(classes=CLASSES)
    path = save_h5(model, tmp_path / "lite.weights.h5")
    convert(path, tmp_path / "again.weights.h5")
    loaded = SepViTLite(classes=CLASSES, weights=tmp_path / "again.weights.h5")
    assert_same(values(loaded), values(model))


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({}, r"none of the variants; they have stages of \(8, 16, 24, 32\) channels"),
        ({"variant": "sepvit_t"}, "do not fit model"),
        ({"variant": "sepvit_x"}, "Unknown `variant`"),
        ({"variant": TINY, "dense": True, "classes": 3}, "dense form has no `classes`"),
        ({"variant": TINY, "dense": True, "image_size": (64, 64)}, "has no `image_size`"),
        ({"variant": TINY, "image_size": (50, 50)}, "cannot take images of 50 x 50"),
        ({"variant": TINY, "classes": 0}, "`classes` must be a positive integer"),
    ],
)
def test_convert_refuses_and_writes_nothing(kwargs, match, source, tmp_path):
    _, path = source
    target = tmp_path / "target.weights.h5"
    target.write_bytes(b"precious")
    with pytest.raises(ValueError, match=match):
        convert(path, target, **kwargs)
    assert target.read_bytes() == b"precious"
    assert [file.name for file in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize("name", ["x.h5", "x.npz", "x", "x.weights"])
def test_convert_knows_what_it_can_write(name, source, tmp_path):
    with pytest.raises(ValueError, match="Unknown kind of file to write"):
        convert(source[1], tmp_path / name, variant=TINY)


def test_convert_needs_the_folder(source, tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        convert(source[1], tmp_path / "no" / "x.keras", variant=TINY)
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(ValueError, match="it is a folder"):
        convert(source[1], tmp_path / "folder.keras", variant=TINY)


def test_a_write_that_fails_leaves_the_old_file(source, tmp_path, monkeypatch):
    target = tmp_path / "target.weights.h5"
    target.write_bytes(b"precious")

    def fail(model, path):
        pathlib.Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(keras.Model, "save_weights", fail)
    with pytest.raises(OSError, match="No space left"):
        convert(source[1], target, variant=TINY)
    assert target.read_bytes() == b"precious"
    assert [file.name for file in tmp_path.iterdir()] == [target.name]
