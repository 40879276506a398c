"""The kinds of attention that the SepViT paper compares: global, reduced, windowed, separable.

For a map of H x W positions with C channels, attention products included (H W C^2
terms are dense layers, all others products):

    MSA    4 H W C^2 + 2 (H W)^2 C                 Swin, eq. 1; of ViT, appendix A
    SRA    2 H W C^2 + 2 K C^2 + K R^2 C^2 + 2 H W K C
           with K = H W / R^2 keys; the third term only for R > 1
                                                   PVT, section 3.3
    W-MSA  4 H W C^2 + 2 M^2 H W C                 Swin, eq. 2
    LSA    as W-MSA                                Twins, section 3.2
    GSA    as SRA, R x R positions a key           Twins, section 3.2
    DSA    3 H W C^2 + 3 N C^2 + 2 N (M^2 + 1)^2 C SepViT, section 3.2
    PSA    H W C^2 + 2 N C^2 + N^2 C + N H W C     SepViT, section 3.2
    GSA    as DSA, for larger windows              SepViT, section 3.3

with windows of M x M positions, N of them. Two things bear the name GSA: the global
sub-sampled attention of Twins and the grouped self-attention of SepViT.

Papers: ViT arXiv 2010.11929, PVT 2102.12122, Swin 2103.14030, Twins 2104.13840,
SepViT 2203.15380. Of the formulas of SepViT's complexity analysis the section is
cited, since equations are numbered differently in its versions; PVT and Twins give
orders of magnitude only (R^2 times less than MSA; H^2 W^2 C / R^2), from which the
terms in C^2 are missing.

All functions raise a `ValueError` for arguments that are no positive integers.
"""

from keras_sepvit.complexity.costs import Cost, convolution, layer_norm, linear
from keras_sepvit.geometry import as_pair, window_grid
from keras_sepvit.validation import positive_int


def msa(tokens, channels):
    """The `Cost` of multi-head self-attention among all tokens (ViT, appendix A; Swin, eq. 1).

    Args:
        tokens: Number of tokens; height * width of a map.
        channels: Channels of a token.
    """
    _check(tokens=tokens, channels=channels)
    products = Cost(attention_macs=2 * tokens**2 * channels)
    return linear(channels, 4 * channels, tokens) + products


def sra(height, width, channels, reduction):
    """The `Cost` of spatial-reduction attention (PVT, section 3.3).

    All positions attend to a smaller map of keys and values, which a convolution
    as wide as its stride and a norm make of the map. With a reduction of 1 there
    are none.

    Args:
        height, width, channels: Shape of the map.
        reduction: Side of the square of positions that become one key.

    Raises:
        ValueError: also for a map that is smaller than `reduction`.
    """
    _check(height=height, width=width, channels=channels, reduction=reduction)
    keys = (height // reduction) * (width // reduction)
    if not keys:
        raise ValueError(
            f"`reduction` must not be larger than the map. Received: reduction={reduction} for a "
            f"map of {height} x {width}."
        )
    queries = height * width
    cost = linear(channels, 2 * channels, queries)  # queries, and the output projection
    if reduction > 1:
        cost += convolution(reduction, channels, channels, keys) + layer_norm(channels)
    cost += linear(channels, 2 * channels, keys)
    return cost + Cost(attention_macs=2 * queries * keys * channels)


def w_msa(height, width, channels, window_size, num_heads):
    """The `Cost` of window attention, plain or shifted (Swin, eq. 2, section 3.2).

    The map is padded to whole windows where need be, and the shift is cyclic:
    W-MSA and SW-MSA cost the same.

    Args:
        height, width, channels: Shape of the map.
        window_size: Positions of a window: an int or a (height, width) pair.
        num_heads: Attention heads, each of which has its table of biases by
            relative position: parameters, and no MACs.
    """
    _check(num_heads=num_heads)
    window_height, window_width = as_pair(window_size)
    table = (2 * window_height - 1) * (2 * window_width - 1) * num_heads
    return twins_lsa(height, width, channels, window_size) + Cost(parameters=table)


def twins_lsa(height, width, channels, window_size):
    """The `Cost` of locally-grouped self-attention (Twins, section 3.2).

    Args:
        height, width, channels: Shape of the map, padded to whole windows where
            need be.
        window_size: Positions of a window: an int or a (height, width) pair.
    """
    window_height, window_width = window = as_pair(window_size)
    _check(height=height, width=width, channels=channels)
    _check(window_height=window_height, window_width=window_width)
    rows, columns = window_grid((height, width), window)
    positions = rows * window_height * columns * window_width
    products = Cost(attention_macs=2 * positions * window_height * window_width * channels)
    return linear(channels, 4 * channels, positions) + products


def twins_gsa(height, width, channels, reduction):
    """The `Cost` of global sub-sampled attention (Twins, section 3.2): that of `sra`.

    Twins sub-samples by a convolution as wide as its stride, as PVT does.

    Args:
        height, width, channels, reduction: As for `sra`.
    """
    return sra(height, width, channels, reduction)


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
