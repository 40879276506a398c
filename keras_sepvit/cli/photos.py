"""Photos that a command reads, and the files that it writes for them."""

import glob
import pathlib

from keras_sepvit.cli.common import check_files_exist
from keras_sepvit.files import IMAGE_SUFFIXES, image_files


def photos_of(paths):
    """The files that paths, folders and patterns stand for, in order, and names for their results.

    The names are the files' own, without suffixes, below the folder that is read: no two are
    alike on any file system.

    Args:
        paths: Files; folders, of which all image files are read; patterns such as `photos/*.jpg`
            or `photos/**/*.jpg`, of which the image files and folders that match.

    Raises:
        FileNotFoundError: for a file that is not there, and folders and patterns without images.
    """
    files, names, taken = [], [], set()
    for path in paths:
        folder, inside = _inside(path)
        check_files_exist(*inside)
        for file in inside:
            name = first = file.relative_to(folder).with_suffix("")
            number = 1
            while str(name).casefold() in taken:
                number += 1
                name = first.with_name(f"{first.name}_{number}")
            taken.add(str(name).casefold())
            names.append(name)
        files += inside
    return files, names


def _inside(path):
    """The folder that a path reads, and the files in it."""
    if path.is_dir():
        inside = image_files(path)
        if not inside:
            raise FileNotFoundError(
                f"The folder {path} holds no images ({', '.join(IMAGE_SUFFIXES)})."
            )
        return path, inside
    if path.exists() or not glob.has_magic(str(path)):
        return path.parent, [path]
    matches = map(pathlib.Path, sorted(glob.glob(str(path.expanduser()), recursive=True)))
    inside = [file for match in matches for file in _images(match)]
    if not inside:
        raise FileNotFoundError(f"No image file matches {path} ({', '.join(IMAGE_SUFFIXES)}).")
    return _fixed(path), [*dict.fromkeys(inside)]  # `**` matches folders and what is in them


def _images(match):
    if match.is_dir():
        return image_files(match)
    return [match] if match.suffix.lower() in IMAGE_SUFFIXES else []


def _fixed(pattern):
    """The folder that a pattern begins with."""
    return next(part for part in pattern.expanduser().parents if not glob.has_magic(str(part)))


def outputs_of(folder, name, kinds):
    """Where the results of a photo go: dict of the kind to the path."""
    return {kind: folder / f"{name}_{kind}.png" for kind in kinds}


def check_outputs(folder, paths, files, outputs, overwrite):
    """Refuses a folder whose files would be read as photos, or replace what is there.

    Args:
        folder: The folder that is written to.
        paths: What is read, as it was given.
        files: The files that are read.
        outputs: Paths of all files that are written.
        overwrite: Whether those that are there may be replaced.
    """
    patterns = [path for path in paths if glob.has_magic(str(path)) and not path.exists()]
    below = [_fixed(path) for path in patterns if "**" in path.parts]
    for read in (*filter(pathlib.Path.is_dir, paths), *below):
        if folder.resolve().is_relative_to(read.resolve()):
            raise ValueError(
                f"--output: {folder} is or lies in {read}, where photos are read: the next time "
                "what is written would be taken for photos. Give a folder outside."
            )
    photos = {path.resolve() for path in files}
    for path in outputs:
        if path.resolve() in photos:
            raise ValueError(f"--output: {path} is one of the photos. Give another folder.")
        for pattern in patterns:
            whole = _fixed(pattern).resolve() / pattern.expanduser().relative_to(_fixed(pattern))
            if any(part.match(str(whole)) for part in (path.resolve(), *path.resolve().parents)):
                raise ValueError(
                    f"--output: {path} would be read as a photo the next time, by {pattern}. Give "
                    "another folder."
                )
        if path.exists() and not overwrite:
            raise FileExistsError(f"'{path}' exists. Pass --overwrite, or another --output.")
