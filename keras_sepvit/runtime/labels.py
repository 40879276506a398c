"""The names of a model's classes."""

import os
import pathlib


def class_names(labels, classes):
    """Checked names of a model's classes.

    Args:
        labels: A text file (UTF-8) with one name a line, or a sequence of names.
        classes: Number of the model's classes.

    Returns:
        List of `classes` strings.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there are more or fewer names than classes.
    """
    if isinstance(labels, (str, os.PathLike)):
        path = pathlib.Path(labels)
        if not path.is_file():
            raise FileNotFoundError(f"File not found: {path}.")
        names = path.read_text(encoding="utf-8").splitlines()
        if len(names) != classes:
            raise ValueError(
                f"{path} must have one line for each of the model's {classes} classes. "
                f"It has {len(names)}."
            )
        return names
    names = [str(name) for name in labels]
    if len(names) != classes:
        raise ValueError(
            f"`labels` must have one name for each of the model's {classes} classes. "
            f"Received: {len(names)} names."
        )
    return names


def numbered(classes):
    """Names for classes that have none: `"class 0"`, `"class 1"` and so on."""
    return [f"class {number}" for number in range(classes)]
