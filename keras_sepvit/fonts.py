"""Class names in pictures, and fonts of this machine that have their characters. Without Keras."""

import functools

_LETTERS = 24  # of a name in a picture


def legible(names):
    """Class names as a picture can show them.

    Args:
        names: Names of the classes.

    Returns:
        The names, `"class N"` in the place of one that the font lacks characters of; and the file
        of the font: None for the default one, which has ASCII. Where matplotlib, which knows the
        machine's fonts, is not installed, that is Pillow's, with the characters of Latin-1.
    """
    return _legible(tuple(map(str, names)))


@functools.cache
def _legible(names):
    if all(name.isascii() for name in names):
        return [*names], None
    best, file = [name.isascii() or _is_latin_1(name) for name in names], None
    for candidate in _fonts():
        characters = _characters(candidate)
        if not characters.issuperset(range(32, 127)):
            continue
        shown = [characters.issuperset(map(ord, name)) for name in names]
        if file is None or sum(shown) > sum(best):
            best, file = shown, candidate
        if all(shown):
            break
    numbered = [name if best[i] else f"class {i}" for i, name in enumerate(names)]
    return numbered, file


def _is_latin_1(name):
    return all(ord(character) < 256 for character in name)


def _fonts():
    """Files of fonts: that of matplotlib's pictures first."""
    try:
        from matplotlib import font_manager
    except ImportError:
        return []
    return [font_manager.findfont("DejaVu Sans"), *sorted(font_manager.findSystemFonts())]


def _characters(file):
    """Code points that a font has; none where it cannot be read, or shows them all as boxes."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
        # Apple's Last Resort, which comes with matplotlib, and bitmaps, which do not scale.
        if "LastResort" in font.postscript_name or not font.scalable:
            return set()
        return set(font.get_charmap())
    except (OSError, RuntimeError):
        return set()


def short(name):
    """A name as pictures show it: in one line, without its middle where it is long."""
    return shortened(" ".join(name.split()), _LETTERS)


def shortened(text, length):
    """A text without its middle where it is longer: names often differ at their ends."""
    return text if len(text) <= length else f"{text[: length // 2 - 2]}...{text[1 - length // 2 :]}"
