"""Loading weights files: what fits, at other sizes, in the other form, and heads."""

import dataclasses
import re
import warnings

import h5py
import keras
import numpy as np
import pytest
from helpers import TINY, randomize, tiny_backbone
from keras import layers
from weights_helpers import (
    CLASSES,
    PSA_WEIGHTS,
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
from keras_sepvit.weights import load_pretrained, load_weights

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


@pytest.mark.once
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


@pytest.mark.once
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


@pytest.mark.once
@pytest.mark.parametrize("size", [(32, 32), (96, 96), (128, 128), (96, 160)])
def test_scaled_windows_take_every_weight(size, source):
    model, path = source
    loaded = classifier(input_shape=(*size, 3))
    report = load_quietly(loaded, path)
    assert report.resized == report.new == report.unused == ()
    assert_same(values(loaded), values(model))


@pytest.mark.once
def test_lite_weights_of_224_fit_other_sizes(tmp_path):
    model = SepViTLite(classes=CLASSES)
    randomize(model)
    path = save_h5(model, tmp_path / "lite.weights.h5")
    for size in ((384, 384), (192, 320)):
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


@pytest.mark.once
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


@pytest.mark.once
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


@pytest.mark.once
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


@pytest.mark.once
def test_windows_of_another_number_need_padding(source):
    _, path = source
    architecture = {**TINY.architecture(), "image_shape": (128, 128, 3)}
    message = refused(SepViTBackbone(**architecture), path, "do not fit model")
    assert "stage3_block2/win_tokens: not in the file" in message
    assert "pad_windows=True" in message


@pytest.fixture(scope="module")
def wide():
    """Of blocks with 4 x 6 and 2 x 3 windows."""
    return classifier(input_shape=(64, 96, 3), pad_windows=True, seed=2)


@pytest.mark.once
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize("size, rows, columns, blocks", [((96, 64), 6, 4, 6), ((64, 64), 4, 4, 4)])
def test_files_tell_the_grid_of_tokens(wide, suffix, size, rows, columns, blocks, tmp_path):
    """As many windows the other way round are no reason to copy their tokens as they are."""
    path = tmp_path / f"wide{suffix}"
    write(wide, path)
    again = classifier(input_shape=(64, 96, 3), pad_windows=True)
    assert load_quietly(again, path).resized == ()
    assert_same(values(again), values(wide))

    other = classifier(input_shape=(*size, 3), pad_windows=True)
    resized = load_weights(other, path).resized
    assert len(resized) == blocks and "stage1_block1/win_tokens" in resized
    tokens = values(wide)["stage1_block1/win_tokens"].reshape(4, 6, -1)
    found = values(other)["stage1_block1/win_tokens"].reshape(rows, columns, -1)
    np.testing.assert_allclose(found, bilinear(tokens, rows, columns), atol=1e-6)


def test_keras_itself_refuses_tokens_of_another_grid(wide, tmp_path):
    path = save_h5(wide, tmp_path / "wide.weights.h5")
    wide.load_weights(path)
    other = classifier(input_shape=(96, 64, 3), pad_windows=True)
    with pytest.raises(ValueError, match=r"of \(6, 4\) windows, and the file of \(4, 6\)"):
        other.load_weights(path)


@pytest.mark.once
@pytest.mark.parametrize("suffix", [".weights.h5", ".safetensors"])
def test_files_without_the_grid_of_tokens_warn_where_it_matters(wide, suffix, source, tmp_path):
    """Those of older versions, and of PyTorch."""
    path = tmp_path / f"wide{suffix}"
    write(wide, path)
    square = tmp_path / "square.weights.h5"
    square.write_bytes(source[1].read_bytes())
    for old in (path, square):
        if old.suffix == ".h5":
            with h5py.File(old, "r+") as file:
                for group in file["layers"].values():
                    group["vars"].pop("window_grid", None)
    load_quietly(classifier(), square)
    for size in ((64, 96), (96, 64)):
        other = classifier(input_shape=(*size, 3), pad_windows=True)
        with pytest.warns(UserWarning, match="does not tell the rows and columns"):
            report = load_weights(other, path)
        assert report.resized == ()
        assert_same(values(other), values(wide))
    message = refused(classifier(pad_windows=True), path, "do not fit model")
    assert "stage1_block1/win_tokens: (1, 24, 1, 8) in the file, (1, 16, 1, 8)" in message


@pytest.mark.once
def test_a_grid_that_contradicts_the_tokens_is_damage(source, tmp_path, untouched):
    path = tmp_path / "damaged.weights.h5"
    path.write_bytes(source[1].read_bytes())
    with h5py.File(path, "r+") as file:
        del file["layers/sep_vi_t_block/vars/window_grid"]
        file["layers/sep_vi_t_block/vars/window_grid"] = [3, 5]
    refused(untouched, path, "incomplete or damaged")


@pytest.mark.once
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


@pytest.mark.once
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


@pytest.mark.once
@pytest.mark.parametrize("skip", [{}, {"partial": True}, {"skip_head_mismatch": True}])
def test_dense_weights_are_no_classifiers(skip, tmp_path):
    model = tiny_backbone(dense=True, image_shape=(None, None, 3))
    path = save_h5(model, tmp_path / "dense.weights.h5")
    message = refused(classifier(), path, "dense form, for detection", **skip)
    assert "dense=True" in message


# The head.


@pytest.mark.once
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


@pytest.mark.once
def test_the_same_number_of_classes_keeps_the_files_head(source):
    model, path = source
    loaded = classifier()
    assert load_quietly(loaded, path, skip_head_mismatch=True).new == ()
    assert_same(values(loaded), values(model))


@pytest.mark.once
def test_a_file_without_head(tmp_path):
    path = save_h5(tiny_backbone(), tmp_path / "backbone.weights.h5")
    message = refused(classifier(), path, "do not fit model")
    assert "include_top=False" in message and "skip_head_mismatch=True" in message
    report = load_weights(classifier(), path, skip_head_mismatch=True)
    assert report.new == ("head/kernel", "head/bias")
    assert report.unused == ()


@pytest.mark.once
def test_skipping_the_head_skips_nothing_else(source):
    _, path = source
    wider = dataclasses.replace(TINY, hidden_dims=(8, 16, 24, 64))
    refused(classifier(wider, classes=3), path, "head/kernel|more", skip_head_mismatch=True)
