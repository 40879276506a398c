"""Finds the file that a `weights` argument stands for, and downloads it where it must."""

import contextlib
import dataclasses
import os
import pathlib
import re
import urllib.parse

import keras

from keras_sepvit.weights.files import SUFFIXES, has_weights_suffix
from keras_sepvit.weights.registry import PretrainedWeights, packaged_file, registered_weights


@dataclasses.dataclass(frozen=True)
class Download:
    """A file to download.

    Attributes:
        address: Its `https://` address.
        checksum: Its SHA-256, 64 hexadecimal digits.
        name: Its name in the cache.
    """

    address: str
    checksum: str
    name: str


def local_file(weights):
    """Context manager of the path of the file that a `weights` argument stands for.

    Args:
        weights: As for `load_pretrained`.

    Raises:
        ValueError: for `"imagenet"`, for which no weights exist, and other values.
        OSError: if the download fails.
    """
    source = locate(weights)
    if isinstance(source, PretrainedWeights):
        return packaged_file(source)
    return contextlib.nullcontext(_fetch(source) if isinstance(source, Download) else source)


def locate(weights):
    """What a `weights` argument stands for, without a download.

    Args:
        weights: As for `load_pretrained`.

    Returns:
        A path; a `Download`; or the `PretrainedWeights` of a file of the package.

    Raises:
        ValueError: for `"imagenet"`, for which no weights exist, and other values.
    """
    if isinstance(weights, os.PathLike):
        return weights
    if not isinstance(weights, str):
        raise ValueError(
            "`weights` must be None, a registered name, a path or an address. "
            f"Received: {type(weights).__name__}."
        )
    registered = registered_weights()
    if weights in registered:
        entry = registered[weights]
        return entry if entry.url is None else _parse(f"{entry.url}#sha256={entry.sha256}")
    if weights == "imagenet":
        raise ValueError(
            "`weights='imagenet'`: nobody has published ImageNet weights for SepViT. Use "
            "`weights=None` and train the model, or give the path of weights that you have: "
            f"{', '.join(SUFFIXES)}."
        )
    if "://" in weights:
        return _parse(weights)
    if has_weights_suffix(weights):
        return weights
    names = ", ".join(map(repr, registered))
    raise ValueError(
        f"Unknown `weights`: {weights!r}. Expected None, a registered name ({names}), the path of "
        f"a file ending in one of {', '.join(SUFFIXES)}, or an address "
        "'https://...#sha256=<checksum>' of one."
    )


def _parse(weights):
    """The `Download` of the file at `https://...#sha256=<checksum>`."""
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
    # With the checksum: another file of the same name is another entry of the cache.
    return Download(address, checksum[1], f"{checksum[1]}-{name}")


def _fetch(download):
    """The path of the local copy of a `Download`."""
    try:
        return keras.utils.get_file(
            download.name,
            origin=download.address,
            file_hash=download.checksum,
            hash_algorithm="sha256",
            cache_subdir="models",
        )
    except ValueError as error:
        raise ValueError(
            f"The file at {download.address} does not have the checksum {download.checksum}: it "
            "has changed, or the download was cut off. Nothing was loaded."
        ) from error
    except Exception as error:  # Keras raises this very class
        raise OSError(f"The weights at {download.address} cannot be downloaded: {error}") from error
