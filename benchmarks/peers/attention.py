"""Attention and blocks of other networks: global, reduced, windowed, convolutional.

For a map of H x W positions with C channels, attention products included (terms in C^2 are
dense layers and full convolutions, 9 C those of 3 x 3 depthwise ones, all others products):

    MSA    4 H W C^2 + 2 (H W)^2 C                 Swin, eq. 1; of ViT, appendix A
    SRA    2 H W C^2 + 2 K C^2 + K R^2 C^2 + 2 H W K C
           with K = H W / R^2 keys; the third term only for R > 1
                                                   PVT, section 3.3
    W-MSA  4 H W C^2 + 2 M^2 H W C                 Swin, eq. 2
    LSA    as W-MSA                                Twins, section 3.2
    GSA    as SRA, R x R positions a key           Twins, section 3.2
    CvT    9 C (H W + 2 K) + 2 H W C^2 + 2 K C^2 + 2 H W K C
           with K = H W / S^2 keys by convolutions of stride S
                                                   CvT, section 3.2

with windows of M x M positions. Papers: ViT arXiv 2010.11929, PVT 2102.12122, Swin
2103.14030, Twins 2104.13840, CvT 2103.15808. PVT, Twins and CvT give orders of magnitude
only (R^2, S^2 times less than MSA; H^2 W^2 C / R^2); their other terms follow from the
definitions. SepViT's own attention is in `keras_sepvit.complexity`.

All functions raise a `ValueError` for arguments that are no positive integers.
"""

from keras_sepvit.complexity.blocks import transformer_block
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


def conv_attention(height, width, channels, kernel_size=3, stride=2, class_token=False):
    """The `Cost` of attention with convolutional projections (CvT, section 3.2).

    Queries, keys and values each come from the map by a depthwise convolution with a
    batch norm, and a dense layer; those of keys and values have a stride. Positions at
    the border count fully, as in the padded convolutions of the authors' code.

    Args:
        height, width, channels: Shape of the map.
        kernel_size: Side of the convolutions' kernels.
        stride: Stride of keys and values: 2, or 1 for as many keys as queries.
        class_token: Whether a token beside the map takes part, past the convolutions.
    """
    _check(height=height, width=width, channels=channels, kernel_size=kernel_size, stride=stride)
    queries = height * width
    keys = -(-height // stride) * -(-width // stride)
    # A batch norm has as many parameters as a layer norm: a scale and an offset a channel.
    cost = sum(
        (
            convolution(kernel_size, channels, channels, positions, groups=channels, bias=False)
            + layer_norm(channels)
            for positions in (queries, keys, keys)
        ),
        Cost(),
    )
    queries, keys = queries + class_token, keys + class_token
    cost += linear(channels, 2 * channels, queries)  # queries, and the output projection
    cost += linear(channels, 2 * channels, keys)
    return cost + Cost(attention_macs=2 * queries * keys * channels)


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


def _check(**arguments):
    for name, value in arguments.items():
        positive_int(name, value)
