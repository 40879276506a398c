"""Class names in pictures."""

import pathlib
import sys
import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from keras_sepvit import fonts
from keras_sepvit.classification.picture import draw_classes
from keras_sepvit.visualize import draw_boxes

pytestmark = pytest.mark.once

NAMES = ("cat", "猫", "犬", "кот", "$a_$", "née")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine whose one font beside matplotlib's has ASCII and the given characters."""

    def with_characters(characters):
        pen = TTGlyphPen(None)
        pen.moveTo((100, 0))
        for corner in ((100, 700), (800, 700), (800, 0)):
            pen.lineTo(corner)
        pen.closePath()
        codes = [*range(32, 127), *map(ord, characters)]
        glyphs = {code: f"g{code}" for code in codes}
        builder = FontBuilder(1000, isTTF=True)
        builder.setupGlyphOrder([".notdef", *glyphs.values()])
        builder.setupCharacterMap(glyphs)
        builder.setupGlyf(dict.fromkeys([".notdef", *glyphs.values()], pen.glyph()))
        builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *glyphs.values()], (900, 100)))
        builder.setupHorizontalHeader(ascent=800, descent=-200)
        builder.setupNameTable({"familyName": "Two", "styleName": "Regular", "psName": "Two"})
        builder.setupOS2()
        builder.setupPost()
        file = str(tmp_path / "two.ttf")
        builder.save(file)
        (last_resort,) = pathlib.Path(font_manager.__file__).parent.rglob("LastResort*.ttf")
        broken = tmp_path / "broken.ttf"
        broken.write_text("no font")
        found = [str(last_resort), str(broken), file]
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: found)
        fonts._legible.cache_clear()
        return file

    yield with_characters
    fonts._legible.cache_clear()


@pytest.mark.parametrize(
    "characters, expected",
    [
        ("", ["cat", "class 1", "class 2", "кот", "$a_$", "née"]),  # matplotlib's own font
        ("猫犬кот", ["cat", "猫", "犬", "кот", "$a_$", "class 5"]),
        ("猫犬котé", [*NAMES]),
    ],
)
def test_a_font_with_the_characters_else_the_number(machine, characters, expected, tmp_path):
    file = machine(characters)
    names, used = fonts.legible(NAMES)
    assert names == expected
    assert (used == file) == bool(characters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib tells of missing glyphs
        images = np.zeros((6, 8, 8, 3))
        draw_classes(tmp_path / "batch.png", images, np.eye(6), NAMES)
    assert Image.open(tmp_path / "batch.png").size[0] > 100


def test_boxes_are_named_with_a_font_that_has_the_characters(machine):
    machine("猫")
    grey = np.full((60, 90, 3), 128, "uint8")
    drawn = [
        np.asarray(draw_boxes(grey, [[5, 5, 80, 50]], [0], class_names=[name])) for name in "猫犬"
    ]
    box, wider = ((picture != 128).any(axis=-1).sum() for picture in drawn)
    assert box < wider  # one character; "class 0"


def test_without_matplotlib_names_beyond_latin_1_are_numbers(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    fonts._legible.cache_clear()
    assert fonts.legible(NAMES) == (["cat", "class 1", "class 2", "class 3", "$a_$", "née"], None)
    assert fonts.legible(["cat", "dog"]) == (["cat", "dog"], None)
    fonts._legible.cache_clear()
