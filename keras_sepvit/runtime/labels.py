"""The names of a model's classes."""

import codecs
import contextlib
import os
import pathlib


def class_names(labels, classes):
    """Checked names of a model's classes.

    Args:
        labels: A text file with one name a line, as `read_names` reads it, or a sequence of
            names.
        classes: Number of the model's classes; None where it is not known.

    Returns:
        List of `classes` strings.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there are more or fewer names than classes, or the file is no text.
    """
    if isinstance(labels, (str, os.PathLike)):
        path = pathlib.Path(labels)
        if not path.is_file():
            raise FileNotFoundError(f"File not found: {path}.")
        names = read_names(path)
        if classes not in (None, len(names)):
            raise ValueError(
                f"{path} must have one line for each of the model's {classes} classes. "
                f"It has {len(names)}."
            )
        return names
    names = [str(name) for name in labels]
    if classes not in (None, len(names)):
        raise ValueError(
            f"`labels` must have one name for each of the model's {classes} classes. "
            f"Received: {len(names)} names."
        )
    return names


def read_names(path):
    """The lines of a text file, without blank ones at its end.

    UTF-8 or UTF-16 by its byte order mark, which belongs to no name; without one UTF-8, else
    Latin-1, which Windows' older editors write.

    Raises:
        ValueError: if the file is no text.
    """
    content = pathlib.Path(path).read_bytes()
    encodings = ("utf-8-sig", "latin-1")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ("utf-16",)
    for encoding in encodings:
        with contextlib.suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            break
    else:
        text = "\0"
    if "\0" in text:
        raise ValueError(
            f"{path} must be a text file with one class name a line, in UTF-8 or UTF-16. It holds "
            f"other data, which starts with {content[:8]!r}."
        )
    return [line.strip() for line in text.rstrip().splitlines()]


def numbered(classes):
    """Names for classes that have none: `"class 0"`, `"class 1"` and so on."""
    return [f"class {number}" for number in range(classes)]
