"""PyTorch's side of weights: the table of names, checkpoints of all kinds, and the way back."""

import argparse
import pathlib
import pickle
import runpy
import subprocess
import sys

import keras
import numpy as np
import pytest
import reference
from helpers import randomize, tiny_backbone, to_numpy
from keras import layers
from weights_helpers import CLASSES, assert_same, classifier, load_quietly, refused, values

from keras_sepvit import SepViT, SepViTBackbone, SepViTLite
from keras_sepvit.weights import load_weights
from keras_sepvit.weights.pytorch import save_pytorch, to_keras, to_pytorch

torch = pytest.importorskip("torch")

NAMES = {"lite": "sepvit_lite", "tiny": "sepvit_t", "small": "sepvit_s", "base": "sepvit_b"}
FORMS = [
    (form, variant)
    for form, variants in reference.state_dict_shapes().items()
    for variant in variants
]


def save(arrays, path, **kwargs):
    torch.save({key: torch.from_numpy(array) for key, array in arrays.items()}, path, **kwargs)
    return path


@pytest.fixture(scope="module")
def source():
    """A random classifier, and its weights as PyTorch tensors."""
    model = classifier(seed=7)
    return model, {key: torch.from_numpy(array) for key, array in to_pytorch(model).items()}


@pytest.fixture(scope="module")
def untouched():
    return classifier(seed=9)


# The table.


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


@pytest.mark.once
@pytest.mark.slow
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


@pytest.mark.slow
def test_reference_logits(tmp_path):
    path = save(reference.state_dict("classification", "lite"), tmp_path / "lite.pth")
    model = SepViTLite(weights=str(path), include_preprocessing=False, classifier_activation=None)
    logits = to_numpy(model(reference.inputs(0, (2, 224, 224, 3))))
    expected = reference.load_expected("official_classification_lite")["logits"]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_dense_checkpoints_have_a_norm_and_head_without_use(tmp_path):
    model = tiny_backbone(dense=True, image_shape=(None, None, 3))
    randomize(model)
    path = save(to_pytorch(model), tmp_path / "dense.pth")
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


@pytest.mark.parametrize("name", ["model.h5", "model", "model.ckpt"])
def test_only_pytorch_files_are_written(name, source, tmp_path):
    with pytest.raises(ValueError, match=r"Expected a name ending in \.pth"):
        save_pytorch(source[0], tmp_path / name)


# Checkpoints of all kinds.

WRAPPERS = {
    "plain": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state, "meta": {"epoch": 3}},
    "both": lambda state: {"model": {"state_dict": state}},
    "training": lambda state: {
        "model": state,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "args": argparse.Namespace(lr=0.1, output_dir=None),
    },
    "module.": lambda state: {f"module.{key}": value for key, value in state.items()},
    "backbone.": lambda state: {f"backbone.{key}": value for key, value in state.items()},
    "module.backbone.": lambda state: {
        "state_dict": {f"module.backbone.{key}": value for key, value in state.items()}
    },
    "parameters": lambda state: {key: torch.nn.Parameter(t) for key, t in state.items()},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_checkpoints(wrapper, legacy, source, tmp_path):
    model, state_dict = source
    path = tmp_path / "checkpoint.pth"
    torch.save(WRAPPERS[wrapper](state_dict), path, _use_new_zipfile_serialization=not legacy)
    loaded = classifier()
    load_quietly(loaded, path)
    assert_same(values(loaded), values(model))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoints_of_other_precisions(dtype, suffix, source, tmp_path):
    state_dict = {key: value.to(getattr(torch, dtype)) for key, value in source[1].items()}
    path = tmp_path / f"checkpoint{suffix}"
    if suffix == ".pth":
        torch.save(state_dict, path)
    else:
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_file(state_dict, path)
    loaded = classifier()
    load_quietly(loaded, path)
    for key, array in to_pytorch(loaded).items():
        np.testing.assert_array_equal(array, state_dict[key].float().numpy(), err_msg=key)


def test_the_file_may_go_once_its_weights_are_loaded(source, tmp_path):
    """Arrays are read through a memory map, which no weight may go on using."""
    model, state_dict = source
    path = tmp_path / "checkpoint.pth"
    torch.save(state_dict, path)
    loaded = classifier(weights=path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_same(values(loaded), values(model))


def test_missing_and_surplus_keys_are_listed(source, untouched, tmp_path):
    state_dict = dict(source[1])
    del state_dict["blocks.0.0.norm1.weight"]
    state_dict["neck.conv.weight"] = torch.zeros(3, 4)
    path = tmp_path / "checkpoint.pth"
    torch.save(state_dict, path)
    message = refused(untouched, path, "2 weights differ")
    assert "stage1_block1/norm1/gamma: not in the file, (8,) in the model" in message
    assert "neck.conv.weight: (3, 4) in the file, not in the model" in message
    report = load_weights(classifier(), path, partial=True)
    assert report.new == ("stage1_block1/norm1/gamma",)
    assert report.unused == ("neck.conv.weight",)


def test_every_key_is_used_or_named(source, tmp_path):
    state_dict = {f"module.{key}": value for key, value in source[1].items()}
    path = tmp_path / "checkpoint.pth"
    torch.save(state_dict, path)
    report = load_quietly(tiny_backbone(dense=True), path)
    used = len(report.assigned)
    assert used + len(report.unused) == len(state_dict)
    assert set(report.unused) < set(state_dict)
    for name in report.unused + report.new:
        assert name in str(report)


def test_two_copies_of_a_weight_are_refused(source, untouched, tmp_path):
    state_dict = {**source[1], "backbone.norm.weight": torch.ones(32)}
    path = tmp_path / "checkpoint.pth"
    torch.save(state_dict, path)
    refused(untouched, path, "two values for 'norm.weight'")


def test_a_kernel_of_another_rank_is_a_difference(source, untouched, tmp_path):
    state_dict = {**source[1], "head.weight": source[1]["head.weight"][..., None, None]}
    path = tmp_path / "checkpoint.pth"
    torch.save(state_dict, path)
    message = refused(untouched, path, "1 weights differ")
    assert "head/kernel: (5, 32, 1, 1) in the file, (32, 5) in the model" in message


# The state dict of `vit_pytorch.sep_vit.SepViT(num_classes=3, dim=8, depth=(1,), heads=1)` of
# vit-pytorch 1.26.11, shortened.
LUCIDRAINS = {
    "layers.0.0.conv.weight": (8, 3, 7, 7),
    "layers.0.0.conv.bias": (8,),
    "layers.0.1.proj.weight": (8, 1, 3, 3),
    "layers.0.2.layers.0.0.window_tokens": (8,),
    "layers.0.2.layers.0.0.norm.g": (1, 8, 1, 1),
    "layers.0.2.layers.0.0.to_qkv.weight": (96, 8, 1),
    "layers.0.2.layers.0.0.window_tokens_to_qk.0.weight": (32,),
    "mlp_head.2.weight": (3, 8),
}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_other_sepvit_is_recognised(prefix, untouched, tmp_path):
    state_dict = {prefix + key: torch.zeros(shape) for key, shape in LUCIDRAINS.items()}
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": state_dict}, path)
    message = refused(untouched, path, "`vit-pytorch` package")
    assert "a different network" in message and "one window token a block" in message


# Hostile and broken checkpoints. Those of any kind of file are in test_weights.


class Trap:
    """Creates a file when unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path(self.target),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["alone", "beside", "raw pickle"])
def test_no_code_runs(place, legacy, source, untouched, tmp_path):
    path, trap = tmp_path / "checkpoint.pth", tmp_path / "sprung"
    if place == "raw pickle":
        path.write_bytes(pickle.dumps(Trap(trap), protocol=2 if legacy else 4))
    else:
        content = Trap(trap) if place == "alone" else {"model": source[1], "x": Trap(trap)}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    message = refused(untouched, path, "other than tensors, .*; it was not loaded")
    assert not trap.exists()
    assert "weights_only" not in message


def test_whole_modules_are_not_loaded(untouched, tmp_path):
    path = tmp_path / "module.pt"
    torch.save(torch.nn.Linear(2, 3), path)
    refused(untouched, path, "other than tensors.*torch.save")


@pytest.mark.parametrize(
    "content, match",
    [
        ([torch.zeros(3)], "no state dict but a list"),
        (torch.zeros(3), "no state dict but a Tensor"),
        ({}, "no state dict but an empty dict"),
        (
            {"epoch": 3, "net": {"a": torch.zeros(3)}},
            "2 of its 2 entries are no named tensors: 'epoch', 'net'",
        ),
        ({"model": {"a": torch.zeros(3), "b": 4}}, "1 of its 2 entries are .*: 'b'"),
        ({"a": torch.zeros(3)}, "no weights of SepViT, but a"),
        ({3: torch.zeros(3)}, "1 of its 1 entries are no named tensors: 3"),
    ],
)
def test_checkpoints_without_state_dict(content, match, untouched, tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    refused(untouched, path, match)


def test_tensors_that_claim_more_than_the_file_holds(source, untouched, tmp_path):
    tokens = torch.zeros(1).expand(1, 1 << 34, 1, 8)
    path = tmp_path / "checkpoint.pth"
    torch.save({**source[1], "blocks.0.0.win_tokens": tokens}, path)
    refused(untouched, path, "claims to hold")


def test_integers_are_no_weights(source, untouched, tmp_path):
    state_dict = {**source[1], "head.bias": torch.zeros(CLASSES, dtype=torch.int8)}
    path = tmp_path / "checkpoint.pth"
    torch.save(state_dict, path)
    refused(untouched, path, "'head.bias' as int8")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_truncated_legacy_checkpoints(share, source, untouched, tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(source[1], path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(untouched, path, "damaged")


def test_nan_in_a_checkpoint_warns(source, tmp_path):
    state_dict = {**source[1], "norm.bias": torch.full((32,), torch.nan)}
    path = tmp_path / "checkpoint.pth"
    torch.save(state_dict, path)
    with pytest.warns(UserWarning, match="the first is 'norm/beta'"):
        classifier(weights=path)


@pytest.mark.parametrize("package, suffix", [("torch", ".pth"), ("safetensors", ".safetensors")])
def test_a_package_that_is_missing_is_named(
    package, suffix, source, untouched, tmp_path, monkeypatch
):
    path = tmp_path / f"model{suffix}"
    save_pytorch(source[0], path)
    for name in list(sys.modules):
        if name == package or name.startswith("safetensors."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    before = values(untouched)
    match = rf"needs {package}.*pip install keras-sepvit\[convert\]"
    with pytest.raises(ImportError, match=match):
        load_weights(untouched, path)
    with pytest.raises(ImportError, match=match):
        save_pytorch(untouched, tmp_path / f"other{suffix}")
    assert_same(values(untouched), before)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


# Conversion.

SCRIPT = pathlib.Path(__file__).parents[1] / "conversion" / "convert_official.py"


def run_script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_script_converts_there_and_back(tmp_path, monkeypatch, capsys):
    arrays = reference.state_dict("classification", "lite")
    save(arrays, tmp_path / "lite.pth")
    run_script(monkeypatch, tmp_path / "lite.pth", tmp_path / "lite.keras")
    assert "Loaded 190 of the model's 190 weights" in capsys.readouterr().out
    loaded = keras.models.load_model(tmp_path / "lite.keras")
    assert loaded.output_shape == (None, 1000)
    run_script(monkeypatch, tmp_path / "lite.keras", tmp_path / "back.safetensors")
    run_script(monkeypatch, tmp_path / "back.safetensors", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth")
    assert list(back) == list(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(back[key].numpy(), array, err_msg=key)


def test_the_script_takes_size_classes_and_form(tmp_path, monkeypatch, capsys):
    save(reference.state_dict("classification", "lite"), tmp_path / "lite.pth")
    target = tmp_path / "lite.weights.h5"
    run_script(monkeypatch, tmp_path / "lite.pth", target, "--size", 256, 192, "--classes", 10)
    assert "2 weights not in the file" in capsys.readouterr().out
    SepViTLite(input_shape=(256, 192, 3), classes=10, weights=target)
    run_script(monkeypatch, tmp_path / "lite.pth", target, "--dense", "--variant", "sepvit_lite")
    output = capsys.readouterr().out
    assert "28 weights not in the file" in output and "10 arrays of the file not used" in output


def test_the_script_tells_errors_in_words(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        run_script(monkeypatch, tmp_path / "no.pth", tmp_path / "no.keras")
    assert caught.value.code == 2
    assert "Error: No such weights file" in capsys.readouterr().err


MEASURE = """
import re, sys
from keras_sepvit.convert import convert
convert(*sys.argv[1:])
memory = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(int(memory[1]) / 2**20)
"""


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_converting_sepvit_b_takes_little_memory(tmp_path, monkeypatch):
    save(reference.state_dict("classification", "base"), tmp_path / "base.pth")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parents[1]))
    files = [str(tmp_path / name) for name in ("base.pth", "base.weights.h5")]
    output = subprocess.run(
        [sys.executable, "-c", MEASURE, *files], check=True, capture_output=True, text=True
    ).stdout
    assert float(output) < 1.5  # GiB
