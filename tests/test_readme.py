"""README's Python runs, and the parser takes every command line of the pages."""

import dataclasses
import pathlib
import re
import shlex
import warnings

import numpy as np
import pytest
import typer
from helpers import BACKEND, SMALL

import keras_sepvit
from keras_sepvit.cli import app
from keras_sepvit.configs import VARIANTS

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


@pytest.mark.skipif(BACKEND != "torch", reason="compiled by none under PyTorch")
def test_python_of_the_readme_runs(tmp_path, monkeypatch):
    """In order, with small networks for the family's, and what it takes for granted."""
    hub = pytest.importorskip("keras_sepvit.hub", reason="needs KerasHub")
    small = dataclasses.replace(SMALL, image_size=224, window_sizes=((7,), (14,), (7,), (7,)))
    for name in ("sepvit_lite", "sepvit_t"):
        monkeypatch.setitem(VARIANTS, name, small)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", BACKEND)  # which a block changes: undone afterwards
    keras_sepvit.SepViTT().save_weights("trained_at_224.weights.h5")
    hub.SepViTImageClassifier(
        hub.SepViTBackbone.from_variant(SMALL, (64, 64, 3)),
        num_classes=2,
        preprocessor=hub.SepViTImageClassifierPreprocessor(hub.SepViTImageConverter((64, 64))),
    ).save_to_preset("sepvit_t_trained")
    photos = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype="uint8")
    labels = np.array([0, 9])
    names = {"train_images": photos, "train_labels": labels, "raw_uint8_images": photos}
    names |= {"test_images": photos, "test_labels": labels}

    blocks = re.findall(r"^```python\n(.*?)^```", PAGES[0].read_text("utf-8"), re.M | re.S)
    assert len(blocks) > 5
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The structure of `inputs`")
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)
    np.testing.assert_allclose(names["probabilities"].sum(axis=-1), 1, atol=1e-5)
    assert list(names["features"]) == ["P2", "P3", "P4", "P5"]
    assert [found.shape for found in names["maps"]] == [(224, 224)] * len(names["images"])


def command_lines(text):
    """What follows `keras-sepvit` in lines of code, and in code within prose."""
    text = text.replace("\\\n", " ")
    lines = re.findall(r"^ *(?:\w+=\S+ +|srun +)*keras-sepvit (.+)$", text, re.M)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    spans = re.findall(r"`(?:\w+=\S+ )*keras-sepvit\s([^`]+)`", prose)
    return [line.removesuffix("&") for line in (*lines, *spans)]


@pytest.mark.once
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_have_no_places_left_to_fill(page):
    assert re.findall(r"@\w+@|\bTODO\b|\bFIXME\b|\bTBD\b", page.read_text("utf-8")) == []


LINES = [(page.name, line) for page in PAGES for line in command_lines(page.read_text("utf-8"))]


@pytest.mark.once
@pytest.mark.parametrize("page, line", LINES)
def test_command_lines_of_the_pages_parse(page, line):
    name, *arguments = shlex.split(line, comments=True)
    command = typer.main.get_command(app).commands[name]
    if arguments and arguments != ["--help"]:
        command.make_context(name, arguments)


@pytest.mark.once
def test_all_commands_are_shown():
    assert {line.split()[0] for _, line in LINES} == set(typer.main.get_command(app).commands)
