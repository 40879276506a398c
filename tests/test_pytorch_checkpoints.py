"""Checkpoints of PyTorch of all kinds: wrapped, of other precisions, broken and hostile."""

import argparse
import collections
import pathlib
import pickle
import sys

import numpy as np
import pytest
from helpers import tiny_backbone
from weights_helpers import (
    CLASSES,
    assert_same,
    classifier,
    load_quietly,
    refused,
    torch_source,
    values,
)

from keras_sepvit.weights import load_weights, save_pytorch
from keras_sepvit.weights.pytorch import to_pytorch

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def source():
    return torch_source()


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
    "_orig_mod.": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "net.encoder._orig_mod.": lambda state: {
        "state_dict": {f"net.encoder._orig_mod.{key}": value for key, value in state.items()}
    },
    "model_state_dict": lambda state: {"model_state_dict": state, "epoch": 3},
    "params": lambda state: {"params": {f"model.{key}": value for key, value in state.items()}},
    "ema alone": lambda state: {"model_ema": {"decay": {}, "module": state}, "model": {}},
    "averaged": lambda state: {
        "n_averaged": torch.tensor(3),
        **{f"module._orig_mod.{key}": value for key, value in state.items()},
    },
    "other data": lambda state: {
        "model": state,
        "best": np.float64(0.9),
        "history": np.arange(3),
        "folder": pathlib.Path("/data"),
        "counts": collections.defaultdict(list, {"a": [1]}),
    },
    "omegaconf": lambda state: {
        "state_dict": state,
        "config": pytest.importorskip("omegaconf").OmegaConf.create({"a": [1, {"b": None}]}),
    },
    "parameters": lambda state: {key: torch.nn.Parameter(t) for key, t in state.items()},
}


@pytest.mark.once
@pytest.mark.parametrize("name", ["a.pth.tar", "a.ckpt", "a.PTH", "a.Pth.Tar", "a.best.ckpt"])
def test_names_of_checkpoints(name, source, tmp_path):
    torch.save(source[1], tmp_path / name)
    loaded = classifier()
    load_quietly(loaded, tmp_path / name)
    assert_same(values(loaded), values(source[0]))


@pytest.mark.parametrize(
    "averaged, inner",
    [("model_ema", None), ("state_dict_ema", None), ("ema", "module")],
)
def test_averaged_weights_come_before_others(averaged, inner, source, tmp_path):
    state = {inner: source[1]} if inner else source[1]
    raw = {key: value + 1 for key, value in source[1].items()}
    torch.save({"model": raw, averaged: state}, tmp_path / "checkpoint.pth")
    model = classifier(seed=3)
    report = load_weights(model, tmp_path / "checkpoint.pth")
    assert_same(values(model), values(source[0]))
    assert report.part == (f"{averaged}.{inner}" if inner else averaged)
    assert f"from '{report.part}' of '" in str(report)


@pytest.mark.by_default_on("torch")
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
        torch.save({key: torch.nn.Parameter(value) for key, value in state_dict.items()}, path)
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


@pytest.mark.once
def test_missing_and_surplus_keys_are_listed(source, untouched, tmp_path):
    state_dict = dict(source[1])
    del state_dict["blocks.0.0.norm1.weight"]
    state_dict["extra.conv.weight"] = torch.zeros(3, 4)
    path = tmp_path / "checkpoint.pth"
    torch.save(state_dict, path)
    message = refused(untouched, path, "2 differences:")
    assert "stage1_block1/norm1/gamma: not in the file, (8,) in the model" in message
    assert "extra.conv.weight: (3, 4) in the file, not in the model" in message
    report = load_weights(classifier(), path, partial=True)
    assert report.new == ("stage1_block1/norm1/gamma",)
    assert report.unused == ("extra.conv.weight",)


@pytest.mark.once
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


@pytest.mark.once
def test_two_copies_of_a_weight_are_refused(source, untouched, tmp_path):
    state_dict = {**source[1], "backbone.norm.weight": torch.ones(32)}
    path = tmp_path / "checkpoint.pth"
    torch.save(state_dict, path)
    refused(untouched, path, "two values for 'norm.weight'")


@pytest.mark.once
def test_a_kernel_of_another_rank_is_a_difference(source, untouched, tmp_path):
    state_dict = {**source[1], "head.weight": source[1]["head.weight"][..., None, None]}
    path = tmp_path / "checkpoint.pth"
    torch.save(state_dict, path)
    message = refused(untouched, path, "1 difference:")
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


@pytest.mark.once
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_other_sepvit_is_recognised(prefix, untouched, tmp_path):
    state_dict = {prefix + key: torch.zeros(shape) for key, shape in LUCIDRAINS.items()}
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": state_dict}, path)
    message = refused(untouched, path, "`vit-pytorch` package")
    assert "a different network" in message and "one window token a block" in message


# Hostile and broken checkpoints. Those of any kind of file are in test_weights_files.


class Trap:
    """Creates a file when unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path(self.target),))


@pytest.mark.once
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


@pytest.mark.once
def test_whole_modules_are_not_loaded(untouched, tmp_path):
    path = tmp_path / "module.pt"
    torch.save(torch.nn.Linear(2, 3), path)
    refused(untouched, path, "other than tensors.*torch.save")


@pytest.mark.once
@pytest.mark.parametrize(
    "content, match",
    [
        ([torch.zeros(3)], "no state dict but a list"),
        (torch.zeros(3), "no state dict but a Tensor"),
        ({}, "no state dict but an empty dict"),
        (
            {"epoch": 3, "best": {"a": torch.zeros(3)}},
            "2 of its 2 entries are no named tensors: 'epoch', 'best'",
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


@pytest.mark.once
def test_tensors_that_claim_more_than_the_file_holds(source, untouched, tmp_path):
    tokens = torch.zeros(1).expand(1, 1 << 34, 1, 8)
    path = tmp_path / "checkpoint.pth"
    torch.save({**source[1], "blocks.0.0.win_tokens": tokens}, path)
    refused(untouched, path, "claims to hold")


@pytest.mark.once
def test_integers_are_no_weights(source, untouched, tmp_path):
    state_dict = {**source[1], "head.bias": torch.zeros(CLASSES, dtype=torch.int8)}
    path = tmp_path / "checkpoint.pth"
    torch.save(state_dict, path)
    refused(untouched, path, "'head.bias' as int8")


@pytest.mark.once
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


@pytest.mark.once
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
    match = rf'needs the module `{package}.*pip install "keras-sepvit\[convert\]"'
    with pytest.raises(ImportError, match=match):
        load_weights(untouched, path)
    with pytest.raises(ImportError, match=match):
        save_pytorch(untouched, tmp_path / f"other{suffix}")
    assert_same(values(untouched), before)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
