"""Files that are never half written, and the names of those that hold images."""

import contextlib
import os
import pathlib
import re
import secrets
import shutil

# Of image files, in lower case. All are read in training and by `runtime.read_image` alike.
IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)

# What systems put into folders, in lower case; so are names that start with a dot.
_SERVICE_NAMES = (
    *("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"),
    *("thumbs.db", "desktop.ini"),
)


def is_of_system(name):
    """Whether a file or folder of this name is the system's, not the user's."""
    return name.startswith(".") or name.lower() in _SERVICE_NAMES


def image_files(folder):
    """The image files in a folder and the folders in it, in the order of their paths."""
    folder = pathlib.Path(folder)
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(map(is_of_system, path.relative_to(folder).parts))
    )


@contextlib.contextmanager
def replacing(path, folder=False):
    """A path to write to that takes the place of `path` when all went well.

    It lies in the same folder and has the same suffixes. If the body fails, it
    is removed and `path` stays as it was.

    Args:
        path: What is to be written.
        folder: Whether it is a folder instead of a file.

    Raises:
        ValueError: if the folder that `path` lies in does not exist, or `path` is a
            folder where a file is to be written.
    """
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"Cannot write '{path}': there is no folder '{path.parent}'. Create it.")
    if path.is_dir() and not folder:
        raise ValueError(f"Cannot write '{path}': it is a folder. Give the name of a file.")
    temporary = _temporary_name(path)
    try:
        temporary.mkdir() if folder else temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some writers leave files that only their owner can read
        _replace(temporary, path)
    finally:
        _remove(temporary)


def _temporary_name(path):
    return path.with_name(f".{secrets.token_hex(8)}.{path.name}")


def _replace(temporary, path):
    if not path.is_dir():
        os.replace(temporary, path)
        return
    # A folder cannot be renamed onto another that has files.
    old = _temporary_name(path)
    path.rename(old)
    try:
        temporary.rename(path)
    except BaseException:
        old.rename(path)
        raise
    _remove(old)


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder):
    """Removes what `replacing` left in a folder where its process was killed."""
    for path in pathlib.Path(folder).iterdir():
        if path.is_file() and re.match(r"\.[0-9a-f]{16}\.", path.name):
            path.unlink()
