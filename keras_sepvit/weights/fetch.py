"""Finds the file that a `weights` argument stands for, and downloads it where it must."""

import contextlib
import os
import pathlib
import re
import urllib.parse

import keras

from keras_sepvit.weights.files import SUFFIXES, has_weights_suffix
from keras_sepvit.weights.registry import packaged_file, registered_weights


def local_file(weights):
    """Context manager of the path of the file that a `weights` argument stands for.

    Args:
        weights: As for `load_pretrained`.

    Raises:
        ValueError: for `"imagenet"`, for which no weights exist, and other values.
        OSError: if the download fails.
    """
    if isinstance(weights, os.PathLike):
        return contextlib.nullcontext(weights)
    if not isinstance(weights, str):
        raise ValueError(
            "`weights` must be None, a registered name, a path or an address. "
            f"Received: {type(weights).__name__}."
        )
    registered = registered_weights()
    if weights in registered:
        entry = registered[weights]
        if entry.url is None:
            return packaged_file(entry)
        return contextlib.nullcontext(_download(f"{entry.url}#sha256={entry.sha256}"))
    if weights == "imagenet":
        raise ValueError(
            "`weights='imagenet'`: nobody has published ImageNet weights for SepViT. Use "
            "`weights=None` and train the model, or give the path of weights that you have: "
            f"{', '.join(SUFFIXES)}."
        )
    if "://" in weights:
        return contextlib.nullcontext(_download(weights))
    if has_weights_suffix(weights):
        return contextlib.nullcontext(weights)
    names = ", ".join(map(repr, registered))
    raise ValueError(
        f"Unknown `weights`: {weights!r}. Expected None, a registered name ({names}), the path of "
        f"a file ending in one of {', '.join(SUFFIXES)}, or an address "
        "'https://...#sha256=<checksum>' of one."
    )


def _download(weights):
    """The local copy of the file at `https://...#sha256=<checksum>`."""
    address, _, fragment = weights.partition("#")
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError(f"`weights` is downloaded over https:// only. Received: {weights!r}.")
    checksum = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment.lower())
    if not checksum:
        raise ValueError(
            "An address in `weights` needs the checksum of its file: '#sha256=' and 64 hexadecimal "
            f"digits at its end. Received: {weights!r}. If you trust the file, download it, and "
            "compute its checksum with `sha256sum`."
        )
    name = re.sub(r"[^\w.-]", "_", pathlib.PurePosixPath(parts.path).name)
    if not has_weights_suffix(name):
        raise ValueError(
            f"The address in `weights` must be of a file ending in one of {', '.join(SUFFIXES)}. "
            f"Received: {weights!r}."
        )
    try:
        return keras.utils.get_file(
            # With the checksum: another file of the same name is another entry of the cache.
            f"{checksum[1]}-{name}",
            origin=address,
            file_hash=checksum[1],
            hash_algorithm="sha256",
            cache_subdir="models",
        )
    except ValueError as error:
        raise ValueError(
            f"The file at {address} does not have the checksum {checksum[1]}: it has changed, or "
            "the download was cut off. Nothing was loaded."
        ) from error
    except Exception as error:  # Keras raises this very class
        raise OSError(f"The weights at {address} cannot be downloaded: {error}") from error
