"""Blocks: an attention with its norms and its MLP."""

import math

from keras_sepvit.complexity.attention import dsa, psa
from keras_sepvit.complexity.costs import Cost, layer_norm, linear, mlp
from keras_sepvit.geometry import as_pair, window_grid


def transformer_block(attention, channels, positions, mlp_ratio=4.0):
    """The `Cost` of an attention and an MLP, each with its norm (ViT, eq. 2 and 3).

    Args:
        attention: The `Cost` of the attention, its output projection included.
        channels: Channels of a position.
        positions: Number of positions, or tokens.
        mlp_ratio: Hidden channels of the MLP over its input channels.
    """
    norms = layer_norm(channels) + layer_norm(channels)
    return norms + attention + mlp(channels, int(channels * mlp_ratio), positions)


def sepvit_block(
    height,
    width,
    channels,
    window_size,
    mlp_ratio=4.0,
    window_tokens="learned",
    single_window_psa=False,
):
    """The `Cost` of a `SepViTBlock` on a map, padded to whole windows where need be.

    DSA, PSA where there are several windows, and the projection after both (paper,
    sections 3.2 to 3.4); a window of 14 instead of 7 makes it a GSA block.

    Args:
        height, width, channels: Shape of the map.
        window_size: Positions of a window: an int or a (height, width) pair.
        mlp_ratio, window_tokens, single_window_psa: As for `SepViTBlock`.
    """
    window = as_pair(window_size)
    windows, positions = math.prod(window_grid((height, width), window)), math.prod(window)
    has_psa = windows != 1 or single_window_psa
    has_token = has_psa and window_tokens in ("learned", "zeros")

    attention = dsa(windows, positions + has_token, channels)
    attention += linear(channels, channels, height * width)  # without the padding
    if has_psa:
        attention += psa(windows, positions, channels)
    if has_token and window_tokens == "learned":
        attention += Cost(parameters=windows * channels)
    if has_psa and window_tokens == "depthwise_conv":
        attention += Cost(
            parameters=(positions + 1) * channels, macs=windows * positions * channels
        )
    return transformer_block(attention, channels, height * width, mlp_ratio)
