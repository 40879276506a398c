"""Checks of arguments: each names the argument, the value and what was expected."""

import difflib
import functools
import inspect
import math
import numbers
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from keras_sepvit.geometry import as_pair

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# Names that arguments have in timm, torchvision and Hugging Face.
_ELSEWHERE = {
    "checkpoint": ("weights",),
    "checkpoint_path": ("weights",),
    "image_size": ("input_shape", "image_shape"),
    "img_size": ("input_shape", "image_shape"),
    "in_chans": ("input_shape", "image_shape"),
    "num_labels": ("classes",),
    "pretrained": ("weights",),
}


def likely_names(name, known):
    """Those of the `known` names that a wrong one may mean, the likeliest first; at most three.

    Names may have groups in front: `lr` and `optimizer.lr` mean `optimizer.learning_rate`.
    """
    group, _, name = name.lstrip("-").lower().replace("-", "_").rpartition(".")
    beside = [key for key in known if not group or key.rpartition(".")[0] == group]
    last = {key: key.rpartition(".")[2].lower() for key in known}
    words = {key: text.split("_") for key, text in last.items()}
    close = difflib.get_close_matches(name, last.values(), cutoff=0.75)
    for likely in (
        [key for key in known if last[key] == name or last[key] in _ELSEWHERE.get(name, ())],
        [key for key in known if "".join(word[0] for word in words[key] if word) == name],
        sorted((key for key in known if last[key] in close), key=lambda k: close.index(last[k])),
        [key for key in beside if {*words[key]} & {*name.split("_")}],
    ):
        if likely:
            return sorted(likely, key=lambda key: key.rpartition(".")[0] != group)[:3]
    return []


def did_you_mean(name, known, mark="`"):
    """A sentence on what a wrong name may mean, with a blank before it; else nothing."""
    likely = [f"{mark}{key}{mark}" for key in likely_names(name, known)]
    return f" Did you mean {' or '.join(likely)}?" if likely else ""


def first_line(error):
    """The first line of an error's text, else the name of its class."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def as_sentence(error):
    """The first line of an error's text, at most 200 characters of it, with a full stop."""
    return f"{first_line(error)[:200].rstrip(' .:')}."


def counted(number, noun):
    """A number with its noun: `1 image`, `1,000 classes`, `2 boxes`."""
    plural = "es" if noun.endswith(("s", "x")) else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def check_names(function, given, known, note=""):
    """Refuses names of arguments that a function does not have.

    Args:
        function: Its name.
        given, known: Names of arguments.
        note: Another sentence, for the end of the error.

    Raises:
        TypeError: as Python does, and saying which name may be meant.
    """
    for name in given:
        if name not in known:
            raise TypeError(
                f"`{function}` has no argument `{name}`.{did_you_mean(name, known)} "
                f"Its arguments are {', '.join(known)}.{note}"
            )


def checks_names(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Makes a function refuse arguments that it does not have by `check_names`."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def wrapper(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        check_names(function.__name__, kwargs, known)
        return function(*args, **kwargs)

    return wrapper


def refuse_path(name, model):
    """Refuses the path or the name of a model where the model itself is expected."""
    if not isinstance(model, (str, os.PathLike)):
        return
    path = os.fspath(model)
    advice = f"Load it first: `keras.saving.load_model({path!r})`"
    if path.lower().endswith((".tflite", ".onnx")):
        advice = f"`keras_sepvit.runtime.Predictor({path!r})` has methods of its own"
    elif not path.lower().endswith(".keras"):
        advice = "Build it first, or load a whole one from a .keras file"
    raise ValueError(
        f"`{name}` must be a Keras model, no path or name. Received: {path!r}. {advice}."
    )


def positive_int(name, value):
    """`value` as an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")
    return int(value)


def window_pair(name, value):
    """`value`, an int or a (height, width) pair of ints, as a pair."""
    sides = as_pair(value)
    if len(sides) != 2:
        raise ValueError(
            f"`{name}` must be an integer or a (height, width) pair. Received: {name}={value!r}."
        )
    return tuple(positive_int(name, side) for side in sides)


def positive_number(name, value):
    """`value` as a finite float above 0."""
    if not isinstance(value, numbers.Real) or not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be a number above 0. Received: {name}={value!r}.")
    return float(value)


def flag(name, value):
    """`value`, a boolean or the number 0 or 1, as a bool."""
    if value not in (0, 1):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}.")
    return bool(value)


def check_rate(name, value):
    """`value` as a float in [0, 1)."""
    if not isinstance(value, numbers.Real) or math.isnan(value) or not 0 <= value < 1:
        raise ValueError(
            f"`{name}` is a probability and must be at least 0 and below 1. "
            f"Received: {name}={value!r}."
        )
    return float(value)


def check_range(name, value, low, high):
    """Refuses what is no number from `low` to `high`."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ValueError(
            f"`{name}` must be a number from {low} to {high}. Received: {name}={value!r}."
        )


def check_sides(sides):
    """`sides`, of photos, as (shorter, longer)."""
    shorter, longer = window_pair("sides", sides)
    if shorter > longer:
        raise ValueError(f"`sides` are the shorter and the longer one. Received: sides={sides}.")
    return shorter, longer


def interval(name, value, largest=math.inf):
    """`value` as a pair of floats, 0 < low <= high <= `largest`."""
    if (
        not isinstance(value, (tuple, list))
        or len(value) != 2
        or not all(isinstance(x, numbers.Real) for x in value)
        or not 0 < value[0] <= value[1] <= largest
        or value[1] == math.inf
    ):
        limit = "" if largest == math.inf else f" <= {largest}"
        raise ValueError(
            f"`{name}` must be two numbers, 0 < low <= high{limit}. Received: {name}={value!r}."
        )
    return tuple(map(float, value))


def policy_of(dtype):
    """The dtype policy of a `dtype` argument; None is the global one."""
    import keras

    try:
        return keras.dtype_policies.get(dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`dtype` must be a dtype policy of Keras, such as 'float32', 'mixed_bfloat16' or "
            f"'mixed_float16'. Received: dtype={dtype!r}."
        ) from error


def check_choice(name, value, choices):
    """`value`, which must be one of `choices`."""
    if value not in choices:
        raise ValueError(
            f"Unknown `{name}`: {value!r}. Expected one of {', '.join(map(repr, choices))}."
        )
    return value


def check_map(layer_name, shape):
    """Refuses inputs other than (batch, height, width, channels)."""
    if len(shape) != 4:
        raise ValueError(
            f"Layer `{layer_name}` expects maps of shape (batch, height, width, channels). "
            f"Received a shape of rank {len(shape)}: {tuple(shape)}."
        )
    if shape[-1] is None:
        raise ValueError(
            f"Layer `{layer_name}` needs a static number of channels on the last axis. "
            f"Received shape: {tuple(shape)}."
        )


def check_heads(channels, num_heads):
    """Refuses a number of heads that does not divide the channels."""
    if channels % num_heads:
        raise ValueError(
            f"`num_heads` must divide the channels. Received: num_heads={num_heads} for "
            f"{channels} channels."
        )


def check_channels_last():
    """Refuses Keras's `channels_first` mode, which no layer here supports."""
    import keras

    if keras.config.image_data_format() == "channels_first":
        raise ValueError(
            "SepViT works on channels-last images and does not support "
            "`image_data_format='channels_first'`. Call "
            "`keras.config.set_image_data_format('channels_last')`, or set "
            "`image_data_format` in ~/.keras/keras.json, before building the model."
        )
