"""Weights by name: the sets that come with the package, and those that users register.

There is no set for ImageNet: nobody has published one, and none has been trained here.
"""

import dataclasses
import importlib.resources
import math
import numbers
import re
import urllib.parse
from collections.abc import Mapping

from keras_sepvit.configs import DIGITS_CONFIG, SepViTConfig, Window, config_of, variant_config
from keras_sepvit.validation import positive_int, window_pair


@dataclasses.dataclass(frozen=True)
class PretrainedWeights:
    """A set of weights that has a name.

    Attributes:
        name: What the `weights` argument of a constructor calls it.
        url: `https://` address of the file; None for a file of this package.
        sha256: Checksum of the file, 64 hexadecimal digits in lower case.
        variant: Name of the variant or `SepViTConfig` that the weights are for.
        image_size: (height, width) in pixels that they were trained at.
        classes: Number of classes of the head.
        license: The license of the weights.
        metrics: Numbers by the name of what was measured.
        crop, interpolation: Of the photos that they were measured on, as in a
            `keras_sepvit.record.Record`; None where that is not known.
    """

    name: str
    url: str | None
    sha256: str
    variant: str | SepViTConfig
    image_size: tuple[int, int]
    classes: int
    license: str
    metrics: dict[str, float]
    crop: float | None = None
    interpolation: str | None = None


# docs/digits_model_card.md tells how they were made and measured.
_DIGITS = PretrainedWeights(
    name="digits",
    url=None,
    sha256="5c4f1cd093b493b04352776a3db5a0e7be527837c8828443b499ab318d455a0b",
    variant=DIGITS_CONFIG,
    image_size=(32, 32),
    classes=10,
    license="Apache-2.0",
    metrics={"held_out_accuracy": 0.9972},
    crop=1.0,
    interpolation="bilinear",
)

_registry = {_DIGITS.name: _DIGITS}


def register_weights(
    name: str,
    *,
    url: str,
    sha256: str,
    variant: str | SepViTConfig,
    image_size: Window,
    classes: int,
    license: str,
    metrics: Mapping[str, float],
) -> PretrainedWeights:
    """Gives weights at an address a name, for the `weights` argument of constructors.

    The file is downloaded when a model first asks for it, and kept in Keras's
    cache once its checksum has been compared.

    Args:
        name: Letters, digits, `-` and `_`; not yet registered.
        url: `https://` address of a file that `load_weights` takes.
        sha256: Checksum of the file: 64 hexadecimal digits.
        variant: Name of the variant, or the `SepViTConfig`, that they are for.
        image_size: The side in pixels, or (height, width), that they were trained
            at.
        classes: Number of classes of the head.
        license: The license of the weights, such as `"Apache-2.0"`.
        metrics: Finite numbers by the name of what was measured; may be empty.

    Returns:
        The `PretrainedWeights`.

    Raises:
        ValueError: for a name that is taken, and for an argument out of range.
    """
    weights = PretrainedWeights(
        name=_checked_name(name),
        url=_checked_url(url),
        sha256=_checked_sha256(sha256),
        variant=variant,
        image_size=window_pair("image_size", image_size),
        classes=positive_int("classes", classes),
        license=_checked_license(license),
        metrics=_checked_metrics(metrics),
    )
    variant_config(variant)
    _registry[name] = weights
    return weights


def registered_weights() -> dict[str, PretrainedWeights]:
    """All `PretrainedWeights` by name, in the order of their registration."""
    return dict(_registry)


def config_for_weights(argument, variant):
    """`config_of`; of the name of registered weights, the error says so."""
    if isinstance(variant, str) and variant in _registry:
        raise ValueError(
            f"Unknown `{argument}`: {variant!r} is the name of registered weights. Give "
            f"weights={variant!r}, and as `{argument}` the variant that they are for, "
            f"`keras_sepvit.weights.registered_weights()[{variant!r}].variant`."
        )
    return config_of(argument, variant)


def packaged_file(weights):
    """Context manager of the path of the file of `PretrainedWeights` without a `url`."""
    folder = importlib.resources.files("keras_sepvit") / "data"
    return importlib.resources.as_file(folder / f"{weights.name}.weights.h5")


def _checked_name(name):
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(
            "`name` must be a string of letters, digits, '-' and '_', so that it cannot be taken "
            f"for a file. Received: name={name!r}."
        )
    if name == "imagenet":
        raise ValueError(
            "`name='imagenet'` is the name that `keras.applications` gives to weights of every "
            "model, while a name here is of one set. Choose a name that tells the variant, such "
            "as 'sepvit_t_imagenet'."
        )
    if name in _registry:
        where = _registry[name].url or "a file of this package"
        raise ValueError(
            f"`name={name!r}` is registered already, for {where}. Choose another name."
        )
    return name


def _checked_url(url):
    parts = urllib.parse.urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme != "https" or not parts.hostname or parts.fragment:
        raise ValueError(
            "`url` must be an https:// address without '#', since weights are downloaded over "
            f"https only. Received: url={url!r}."
        )
    return url


def _checked_sha256(sha256):
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ValueError(
            "`sha256` must be the checksum of the file, a string of 64 hexadecimal digits. "
            f"Received: sha256={sha256!r}. Compute it with `sha256sum`."
        )
    return sha256.lower()


def _checked_license(license):
    if not isinstance(license, str) or not license.strip():
        raise ValueError(
            "`license` must name the license of the weights, such as 'Apache-2.0'. "
            f"Received: license={license!r}."
        )
    return license


def _checked_metrics(metrics):
    if not isinstance(metrics, Mapping) or not all(
        isinstance(name, str) and isinstance(value, numbers.Real) and math.isfinite(value)
        for name, value in metrics.items()
    ):
        raise ValueError(
            "`metrics` must be a dict of finite numbers by name, such as {'top1': 82.7}. "
            f"Received: metrics={metrics!r}."
        )
    return dict(metrics)
