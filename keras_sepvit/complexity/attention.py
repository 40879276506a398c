"""The kinds of attention of SepViT: inside windows and groups of them, and among windows.

With attention's products, for a map of H x W positions with C channels in N windows of
M x M positions (terms in C^2 are dense layers, all others products; arXiv 2203.15380):

    DSA    3 H W C^2 + 3 N C^2 + 2 N (M^2 + 1)^2 C    section 3.2
    PSA    H W C^2 + 2 N C^2 + N^2 C + N H W C        section 3.2
    GSA    as DSA, for larger windows                 section 3.3

Sections are cited, since equations are numbered differently in the paper's versions. All
functions raise a `ValueError` for arguments that are no positive integers.
"""

from keras_sepvit.complexity.costs import Cost, layer_norm, linear
from keras_sepvit.validation import positive_int


def dsa(windows, tokens, channels):
    """The `Cost` of depthwise self-attention (SepViT, section 3.2): pairs inside each window.

    Without an output projection, which SepViT has after PSA.

    Args:
        windows: Number of windows.
        tokens: Tokens of a window, the window token included.
        channels: Channels of a token.
    """
    _check(windows=windows, tokens=tokens, channels=channels)
    products = Cost(attention_macs=2 * windows * tokens**2 * channels)
    return linear(channels, 3 * channels, windows * tokens) + products


def gsa(windows, positions, channels, group_size, window_token=True):
    """The `Cost` of grouped self-attention (SepViT, section 3.3): DSA in groups of windows.

    Neighbouring windows are joined to a larger one: four windows of 7 x 7 to one
    of 14 x 14. Without an output projection, as `dsa`.

    Args:
        windows: Number of windows, before they are joined.
        positions: Positions of a window, before they are joined.
        channels: Channels of a position.
        group_size: Windows of a group.
        window_token: Whether each group has a window token.

    Raises:
        ValueError: also for windows that do not divide into groups.
    """
    _check(windows=windows, positions=positions, channels=channels, group_size=group_size)
    if windows % group_size:
        raise ValueError(
            "`group_size` must divide the number of windows. Received: "
            f"group_size={group_size} for {windows} windows."
        )
    return dsa(windows // group_size, group_size * positions + bool(window_token), channels)


def psa(windows, positions, channels):
    """The `Cost` of pointwise self-attention (SepViT, section 3.2): all pairs of windows.

    Without the output projection, which the paper counts here (H W C^2).

    Args:
        windows: Number of windows.
        positions: Positions of a window.
        channels: Channels of a position.
    """
    _check(windows=windows, positions=positions, channels=channels)
    scores = windows**2 * channels
    products = Cost(attention_macs=scores + scores * positions)
    return layer_norm(channels) + linear(channels, 2 * channels, windows) + products


def _check(**arguments):
    for name, value in arguments.items():
        positive_int(name, value)
