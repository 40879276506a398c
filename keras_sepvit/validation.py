"""Checks of arguments: each names the argument, the value and what was expected."""

import math
import numbers

from keras_sepvit.geometry import as_pair


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


def check_rate(name, value):
    """`value` as a float in [0, 1)."""
    if not isinstance(value, numbers.Real) or math.isnan(value) or not 0 <= value < 1:
        raise ValueError(
            f"`{name}` is a probability and must be at least 0 and below 1. "
            f"Received: {name}={value!r}."
        )
    return float(value)


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
