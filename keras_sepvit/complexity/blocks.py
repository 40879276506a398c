"""Blocks: an attention with its norms and its MLP."""

import math

from keras_sepvit.complexity.attention import dsa, psa, twins_gsa, twins_lsa, w_msa
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
    padded = windows * positions
    has_psa = windows != 1 or single_window_psa
    has_token = has_psa and window_tokens in ("learned", "zeros")

    attention = dsa(windows, positions + has_token, channels) + linear(channels, channels, padded)
    if has_psa:
        attention += psa(windows, positions, channels)
    if has_token and window_tokens == "learned":
        attention += Cost(parameters=windows * channels)
    if has_psa and window_tokens == "depthwise_conv":
        attention += Cost(parameters=(positions + 1) * channels, macs=padded * channels)
    return transformer_block(attention, channels, height * width, mlp_ratio)


def swin_pair(height, width, channels, window_size, num_heads, mlp_ratio=4.0):
    """The `Cost` of two successive Swin blocks, with plain and shifted windows (Swin, eq. 3).

    Args:
        height, width, channels, window_size, num_heads: As for `w_msa`.
        mlp_ratio: As for `transformer_block`.
    """
    attention = w_msa(height, width, channels, window_size, num_heads)
    block = transformer_block(attention, channels, height * width, mlp_ratio)
    return block + block


def twins_pair(height, width, channels, window_size, reduction, mlp_ratio=4.0):
    """The `Cost` of two successive Twins-SVT blocks, with LSA and GSA (Twins, section 3.2).

    Args:
        height, width, channels, window_size: As for `twins_lsa`.
        reduction: As for `twins_gsa`.
        mlp_ratio: As for `transformer_block`.
    """
    local = twins_lsa(height, width, channels, window_size)
    reduced = twins_gsa(height, width, channels, reduction)
    return sum(
        (
            transformer_block(attention, channels, height * width, mlp_ratio)
            for attention in (local, reduced)
        ),
        Cost(),
    )
