"""PyTorch's side of weights: the table of names, and the way there and back."""

import pathlib

import keras
import numpy as np
import pytest
import reference
from helpers import randomize, tiny_backbone, to_numpy
from keras import layers
from weights_helpers import (
    assert_same,
    classifier,
    load_quietly,
    refused,
    save_torch,
    torch_source,
    values,
)

from keras_sepvit import SepViT, SepViTBackbone, SepViTLite
from keras_sepvit.weights import save_pytorch
from keras_sepvit.weights.pytorch import to_keras, to_pytorch

torch = pytest.importorskip("torch")

NAMES = {"lite": "sepvit_lite", "tiny": "sepvit_t", "small": "sepvit_s", "base": "sepvit_b"}
FORMS = [
    (form, variant)
    for form, variants in reference.state_dict_shapes().items()
    for variant in variants
]


@pytest.fixture(scope="module")
def source():
    return torch_source()


# The table.


@pytest.mark.once
@pytest.mark.parametrize(
    "key, expected",
    [
        ("patch_embeds.0.proj.weight", ("stage1_embed/proj/kernel", (2, 3, 1, 0))),
        ("patch_embeds.3.norm.bias", ("stage4_embed/norm/beta", None)),
        ("pos_block.1.proj.0.weight", ("stage2_peg/proj/kernel", (2, 3, 0, 1))),
        ("blocks.2.13.attn.DSA_qkv.weight", ("stage3_block14/attn/dsa_qkv/kernel", (1, 0))),
        ("blocks.0.0.win_tokens", ("stage1_block1/win_tokens", None)),
        (
            "blocks.0.0.attn.win_tokens_norm.weight",
            ("stage1_block1/attn/win_tokens_norm/gamma", None),
        ),
        ("norm_list.2.weight", ("stage3_norm/gamma", None)),
        ("norm.weight", ("norm/gamma", None)),
        ("head.weight", ("head/kernel", (1, 0))),
        ("head.weight.extra", None),
        ("blocks.0.attn.proj.weight", None),
        ("xnorm.weight", None),
        ("patch_embeds.0.proj.running_mean", None),
    ],
)
def test_keys(key, expected):
    assert to_keras(key) == expected


@pytest.mark.once
@pytest.mark.parametrize("form, variant", FORMS)
def test_every_key_has_a_variable_of_its_own(form, variant):
    keys = list(reference.state_dict_shapes()[form][variant])
    variables = [to_keras(key) for key in keys]
    assert None not in variables
    assert len({path for path, _ in variables}) == len(keys)


@pytest.mark.thorough
@pytest.mark.once
@pytest.mark.parametrize("form, variant", FORMS)
def test_models_have_the_authors_state_dict(form, variant):
    """Keys, their order, shapes and types: all that `strict=True` asks for, and more."""
    name = NAMES.get(variant)
    if form == "classification":
        model = SepViT(name)
    else:
        model = SepViTBackbone.from_variant(name, dense=True, image_shape=(None, None, 3))
    arrays = to_pytorch(model)
    expected = reference.state_dict_shapes()[form][variant]
    assert list(arrays) == list(expected)
    assert {key: list(array.shape) for key, array in arrays.items()} == expected
    assert {array.dtype.name for array in arrays.values()} == {"float32"}


# Agreement with the authors' code: here through `weights=`; test_numerics.py has all variants.


@pytest.mark.by_default_on("tensorflow", "torch")
def test_reference_logits(tmp_path):
    path = save_torch(reference.state_dict("classification", "lite"), tmp_path / "lite.pth")
    model = SepViTLite(weights=str(path), include_preprocessing=False, classifier_activation=None)
    logits = to_numpy(model(reference.inputs(0, (2, 224, 224, 3))))
    expected = reference.load_expected("official_classification_lite")["logits"]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_dense_checkpoints_have_a_norm_and_head_without_use(tmp_path):
    model = tiny_backbone(dense=True, image_shape=(None, None, 3))
    randomize(model)
    path = save_torch(to_pytorch(model), tmp_path / "dense.pth")
    loaded = tiny_backbone(dense=True)
    report = load_quietly(loaded, path)
    assert report.unused == ("norm.weight", "norm.bias", "head.weight", "head.bias")
    assert report.new == ()
    assert_same(values(loaded), values(model))
    message = refused(classifier(), path, "do not fit model")
    assert "dense form, no head in use" in message


# Round trips.


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("dense", [False, True])
def test_the_round_trip_is_bit_exact(suffix, dense, tmp_path):
    def build():
        return tiny_backbone(dense=True, image_shape=(None, None, 3)) if dense else classifier()

    model = build()
    randomize(model)
    path = tmp_path / f"model{suffix}"
    save_pytorch(model, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == readable_mode(tmp_path)
    loaded = build()
    load_quietly(loaded, path)
    assert_same(values(loaded), values(model))
    if suffix != ".safetensors":
        assert list(torch.load(path)) == list(to_pytorch(model))
    again, expected = to_pytorch(loaded), to_pytorch(model)
    assert list(again) == list(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(again[key], array, err_msg=key)


def readable_mode(folder):
    path = folder / "mode"
    path.touch()
    mode = path.stat().st_mode & 0o777
    path.unlink()
    return mode


def test_a_layer_computes_the_same_in_pytorch(source):
    """The layouts: a convolution, a depthwise convolution and a dense layer, run by PyTorch."""
    model, state_dict = source
    rng = np.random.default_rng(0)
    functional = torch.nn.functional
    x = rng.standard_normal((1, 12, 15, 3)).astype("float32")
    image = torch.from_numpy(x).permute(0, 3, 1, 2)
    embed = functional.conv2d(
        image,
        state_dict["patch_embeds.0.proj.weight"],
        state_dict["patch_embeds.0.proj.bias"],
        stride=4,
        padding=3,
    )
    embed = functional.layer_norm(
        embed.permute(0, 2, 3, 1),
        (8,),
        state_dict["patch_embeds.0.norm.weight"],
        state_dict["patch_embeds.0.norm.bias"],
        eps=1e-5,
    )
    actual = to_numpy(model.get_layer("stage1_embed")(x))
    np.testing.assert_allclose(actual, embed.numpy(), atol=1e-5)

    x = rng.standard_normal((1, 5, 7, 8)).astype("float32")
    image = torch.from_numpy(x).permute(0, 3, 1, 2)
    weight, bias = (state_dict[f"pos_block.0.proj.0.{name}"] for name in ("weight", "bias"))
    peg = image + functional.conv2d(image, weight, bias, padding=1, groups=8)
    actual = to_numpy(model.get_layer("stage1_peg")(x))
    np.testing.assert_allclose(actual, peg.permute(0, 2, 3, 1).numpy(), atol=1e-5)

    x = rng.standard_normal((3, 32)).astype("float32")
    head = functional.linear(
        torch.from_numpy(x), state_dict["head.weight"], state_dict["head.bias"]
    )
    actual = to_numpy(model.get_layer("head")(x))
    np.testing.assert_allclose(actual, functional.softmax(head, -1).numpy(), atol=1e-5)


def test_the_dense_form_has_an_unused_norm_and_head():
    arrays = to_pytorch(tiny_backbone(dense=True))
    assert list(arrays)[:2] == ["norm_list.0.weight", "norm_list.0.bias"]
    assert list(arrays)[-4:] == ["norm.weight", "norm.bias", "head.weight", "head.bias"]
    np.testing.assert_array_equal(arrays["norm.weight"], np.ones(32))
    np.testing.assert_array_equal(arrays["head.weight"], np.zeros((1000, 32)))
    assert not arrays["norm.bias"].any() and not arrays["head.bias"].any()


def test_bfloat16_weights_become_float32(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    model = classifier(seed=1)
    expected = values(model)
    save_pytorch(model, tmp_path / "model.pth")
    keras.config.set_dtype_policy("float32")
    loaded = classifier(weights=tmp_path / "model.pth")
    assert_same(values(loaded), expected)


def test_weights_that_the_authors_do_not_have():
    with pytest.raises(ValueError, match="stage1_block1/attn/win_kernel"):
        to_pytorch(tiny_backbone(window_tokens="depthwise_conv"))
    inputs = keras.Input((64, 64, 3))
    model = keras.Model(inputs, layers.Dense(3, name="classes")(tiny_backbone()(inputs)))
    with pytest.raises(ValueError, match="2 weights that .*: classes/kernel, classes/bias"):
        to_pytorch(model)


def test_a_write_that_fails_leaves_the_old_file(source, tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    path.write_bytes(b"precious")

    def fail(state_dict, target):
        pathlib.Path(target).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save_pytorch(source[0], path)
    assert path.read_bytes() == b"precious"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.once
@pytest.mark.parametrize("name", ["model.h5", "model"])
def test_only_pytorch_files_are_written(name, source, tmp_path):
    with pytest.raises(ValueError, match=r"Expected a name ending in one of \.pth"):
        save_pytorch(source[0], tmp_path / name)
