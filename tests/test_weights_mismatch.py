"""Weights that do not fit a model, and values that are no weights."""

import dataclasses
import pathlib
import re

import h5py
import keras
import numpy as np
import pytest
from helpers import BACKEND, TINY, tiny_backbone
from keras import layers
from weights_helpers import (
    CLASSES,
    assert_same,
    classifier,
    load_quietly,
    refused,
    save_h5,
    values,
)

from keras_sepvit import SepViTLite
from keras_sepvit.weights import load_weights

HERE = pathlib.Path(__file__).parent


@pytest.mark.once
def test_a_mismatch_tells_both_sides_and_what_to_do(source):
    _, path = source
    message = refused(SepViTLite(), path, "do not fit model `sepvit_lite`")
    assert str(path) in message and "Nothing was loaded" in message
    assert "File: stages of (8, 16, 24, 32) channels and (1, 2, 2, 1) blocks" in message
    assert "Model: sepvit_lite (stages of (32, 64, 128, 256)" in message
    assert "stage1_embed/proj/kernel: (7, 7, 3, 8) in the file, (7, 7, 3, 32)" in message
    listed = re.findall(r"^  stage\S+: ", message, flags=re.MULTILINE)
    assert len(listed) == 5
    total, more = (int(re.search(p, message)[1]) for p in (r"(\d+) differences", r"and (\d+) more"))
    assert total == more + 5


@pytest.mark.once
def test_a_mismatch_names_the_variant_of_the_file(tmp_path):
    lite = SepViTLite(classes=CLASSES)
    path = save_h5(lite, tmp_path / "lite.weights.h5")
    message = refused(classifier(), path, "do not fit model")
    assert "File: sepvit_lite (" in message and "`SepViT('sepvit_lite')`" in message
    assert f"classification form, {CLASSES} classes" in message
    backbone = tiny_backbone()
    message = refused(backbone, path, "do not fit model")
    assert "`SepViTBackbone.from_variant('sepvit_lite')`" in message
    with pytest.raises(ValueError, match=r"here `SepViT\(keras_sepvit\.configs\.DIGITS_CONFIG\)`"):
        classifier(weights="digits")


@pytest.mark.once
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


@pytest.mark.once
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


@pytest.mark.once
def test_a_partial_load_of_nothing_is_an_error(tmp_path):
    other = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="dense")])
    path = save_h5(other, tmp_path / "other.weights.h5")
    for partial in (False, True):
        message = refused(classifier(), path, "no weights of SepViT", partial=partial)
        assert "dense/kernel" in message


@pytest.mark.once
def test_a_model_whose_weights_have_the_same_names_is_refused(source):
    _, path = source
    inputs = keras.Input((64, 64, 3))
    twins = [tiny_backbone(name=name)(inputs) for name in ("left", "right")]
    both = keras.Model(inputs, layers.Concatenate()(twins))
    refused(both, path, "several weights with the path 'stage1_embed/proj/kernel'")


@pytest.mark.once
@pytest.mark.parametrize("model", [None, "sepvit_t", layers.Dense(3)])
def test_only_models_take_weights(model, source):
    with pytest.raises(ValueError, match="`model` must be a Keras model"):
        load_weights(model, source[1])


@pytest.mark.once
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


@pytest.mark.once
def test_other_types_than_floats_are_refused(source, tmp_path):
    _, good = source
    path = tmp_path / "quantised.weights.h5"
    path.write_bytes(good.read_bytes())
    with h5py.File(path, "r+") as file:
        group = file["layers/dense/vars"]
        del group["1"]
        group["1"] = np.zeros(CLASSES, "int8")
    refused(classifier(), path, "'head/bias' as int8")


@pytest.mark.once
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_warn(value, tmp_path):
    model = classifier(seed=1)
    bias = model.get_layer("stage2_peg").proj.bias
    bias.assign(np.full(bias.shape, value))
    path = save_h5(model, tmp_path / "nan.weights.h5")
    with pytest.warns(
        UserWarning, match="NaN or infinite, in 1 .* 'stage2_peg/proj/bias'"
    ) as caught:
        report = load_weights(classifier(), path)
        classifier(weights=path)
    assert len(report.assigned) == len(model.weights)
    # Told of the lines that called the package, not of lines in it.
    assert {pathlib.Path(warning.filename).parent for warning in caught} == {HERE}


@pytest.mark.once
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantised_weights_are_told_with_all_their_classes(mode, tmp_path):
    model = classifier()
    model.quantize(mode)
    path = save_h5(model, tmp_path / "quantised.weights.h5")
    message = refused(classifier(), path, "One of them is quantised")
    assert message.count(f"classification form, {CLASSES} classes") == 2


@pytest.mark.by_default_on("torch")
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
