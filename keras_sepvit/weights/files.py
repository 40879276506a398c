"""Files of weights, recognised before they are read."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

from keras_sepvit.validation import first_line

PYTORCH_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".pth.tar")
SUFFIXES = (".weights.h5", ".keras", *PYTORCH_SUFFIXES)

HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"
PICKLE = b"\x80"

HDF5_KIND = "a weights file of Keras (HDF5)"
KERAS_KIND = "a model file of Keras (zip)"
SAFETENSORS_KIND = "a safetensors file"
TORCH_KIND = "a PyTorch checkpoint"

# What a file is by its suffix, and how it may start; those of no other suffix are of PyTorch.
_KINDS = {
    ".h5": (HDF5_KIND, HDF5),
    ".keras": (KERAS_KIND, ZIP),
    ".safetensors": (SAFETENSORS_KIND, ()),
}

# Files that are often found under the name of a weights file.
_OTHER_SIGNATURES = (
    (HDF5, "an HDF5 file"),
    (ZIP, "a zip archive"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"<!DOCTYPE", "a web page"),
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"\x00" * 16, "nothing but zeros at its start"),
)
_SIGNATURE_LENGTH = 32

# A real weights file holds about as many bytes as its arrays; compression saves little.
_LARGEST_EXPANSION = 100


def has_weights_suffix(path):
    """Whether a file of this name is one of weights, by its suffix."""
    return suffix_of(path) in (".h5", *SUFFIXES[1:])


def suffix_of(path):
    """The suffix of a file of weights in lower case; `.pth.tar` is one."""
    name = pathlib.Path(path).name.lower()
    return ".pth.tar" if name.endswith(".pth.tar") else pathlib.Path(name).suffix


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array in an open file.

    Attributes:
        name: Its name in the file.
        shape: Its shape in Keras's layout.
        dtype: Name of its type, such as `"float32"`.
        read: Returns it as a NumPy array; only while the file is open.
        grid: Of window tokens, the (rows, columns) of their windows; None where the
            file does not tell.
        anchor_scale: Of a detector's heads, that of its anchors; None where the file does not
            tell.
        part: The keys of a PyTorch checkpoint under which it lies, where they were chosen
            among several state dicts; else None.
    """

    name: str
    shape: tuple
    dtype: str
    read: Callable
    grid: tuple | None = dataclasses.field(default=None, kw_only=True)
    anchor_scale: float | None = dataclasses.field(default=None, kw_only=True)
    part: str | None = dataclasses.field(default=None, kw_only=True)


def numbered(path, taken):
    """`path`, with the first free number behind it where it is taken."""
    free, number = path, 1
    while free in taken:
        number += 1
        free = f"{path} ({number})"
    return free


def check_file(path):
    """Refuses what cannot be a file of the kind that its name says, by its first bytes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its name ends otherwise, if it is no regular file, empty, unreadable,
            or of another kind.
    """
    path = pathlib.Path(path)
    if not has_weights_suffix(path):
        raise ValueError(
            f"Unknown kind of weights file: '{path}'. Expected a name ending in one of "
            f"{', '.join(SUFFIXES)}."
        )
    kind, signatures = _KINDS.get(suffix_of(path), (TORCH_KIND, (ZIP, PICKLE)))
    if not path.exists():
        raise FileNotFoundError(
            f"No such weights file: '{path}' (looked for in '{path.absolute().parent}')."
        )
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not a regular file"
        raise ValueError(f"The weights file '{path}' is {what}. Expected {kind}.")
    try:
        with path.open("rb") as file:
            start = file.read(_SIGNATURE_LENGTH)
    except OSError as error:
        raise ValueError(
            f"The weights file '{path}' cannot be read: {error.strerror}. Check its permissions."
        ) from error
    if not start:
        raise ValueError(
            f"The weights file '{path}' is empty (0 bytes). Expected {kind}. Download or save it "
            "again."
        )
    if signatures and not start.startswith(signatures):
        found = next((name for sign, name in _OTHER_SIGNATURES if start.startswith(sign)), None)
        raise ValueError(
            f"The weights file '{path}' is not {kind}, as its name says: it holds "
            f"{found or f'other data, which starts with {start[:8]!r}'}. Download or save it again."
        )


def damaged(path, kind, error):
    """The error for a file that breaks off or contradicts itself."""
    return ValueError(
        f"The weights file '{path}' ({os.path.getsize(path):,} bytes) cannot be read as {kind}; it "
        f"is incomplete or damaged. Download or save it again. The reader said: {first_line(error)}"
    )


def check_expansion(path, declared_bytes):
    """Refuses a file that claims to hold far more data than its size allows."""
    size = os.path.getsize(path)
    if declared_bytes > _LARGEST_EXPANSION * size:
        raise ValueError(
            f"The weights file '{path}' has {size:,} bytes and claims to hold {declared_bytes:,}. "
            "It is damaged, or made to exhaust memory, and was not read."
        )
