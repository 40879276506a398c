"""Parameters and multiply-accumulates (MACs) of SepViT, by closed formulas.

MACs are those of one image, in two conventions:

- `macs`: layers with weights only (convolutions and dense layers), which is
  what profilers count that hook into modules;
- `macs_with_attention`: the same plus both matrix products of each attention,
  queries by keys and weights by values. These are the figures of the paper's
  table 2, whose column is headed FLOPs: for SepViT-Lite, T, S and B at 224 x 224
  the formulas give 0.57, 4.52, 7.46 and 13.05 billion, the paper 0.6, 4.5, 7.5
  and 13.1; without the products they would be 0.49, 4.27, 7.06 and 12.52.

Neither counts norms, biases, activations, softmax, pooling or additions, and
one MAC is one multiplication with its addition. Padding counts where a layer
computes on it.

The formulas of the attention are those of the paper's complexity analysis
(arXiv 2203.15380, section 3.2), for N windows of P positions on a map of
H x W = N * P positions with C channels:

    DSA: 3 N (P + 1) C^2 + 2 N (P + 1)^2 C
    PSA: 2 N C^2 + N^2 C + N H W C, and H W C^2 for the output projection
"""

import dataclasses

from keras_sepvit.backbone import STRIDES, variant_architecture
from keras_sepvit.configs import as_pair
from keras_sepvit.validation import positive_int
from keras_sepvit.windows import padded_size

IMAGE_CHANNELS = 3


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a layer, or a part of the network, costs; costs add up with `+`.

    Attributes:
        parameters: Number of weights.
        macs: Multiply-accumulates of convolutions and dense layers.
        attention_macs: Multiply-accumulates of the attention's products.
    """

    parameters: int = 0
    macs: int = 0
    attention_macs: int = 0

    @property
    def macs_with_attention(self):
        return self.macs + self.attention_macs

    def __add__(self, other):
        return Cost(
            self.parameters + other.parameters,
            self.macs + other.macs,
            self.attention_macs + other.attention_macs,
        )


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of the network, or its head.

    Attributes:
        name: `"stage1"` to `"stage4"`, or `"head"`.
        output_shape: Shape of its output, without the batch.
        blocks: Number of its blocks.
        layers: The `Cost` of each of its layers, by the layer's name in the model.
    """

    name: str
    output_shape: tuple
    blocks: int
    layers: dict

    @property
    def cost(self):
        return sum(self.layers.values(), Cost())


@dataclasses.dataclass(frozen=True)
class Complexity:
    """The cost of a network, stage by stage.

    Attributes:
        stages: A `Stage` for each stage, and one for the head where there is one.
    """

    stages: tuple

    @property
    def cost(self):
        return sum((stage.cost for stage in self.stages), Cost())


def sepvit(variant, image_size=(224, 224), classes=1000, dense=False, pad_windows=False):
    """The complexity of a SepViT for RGB images of a given size.

    Args:
        variant: `"sepvit_lite"`, `"sepvit_t"`, `"sepvit_s"`, `"sepvit_b"`, or a
            `SepViTConfig`.
        image_size: (height, width) of the images, or one int for both.
        classes: Number of classes of the head, which the dense form has not.
        dense: The dense form, see `SepViTBackbone`. Learned window tokens are
            zeros there.
        pad_windows: Keep the size of the windows at every image size, as in
            `SepViT`. Always so in the dense form; windows scale with the image
            otherwise.

    Returns:
        `Complexity`.

    Raises:
        ValueError: for an unknown variant, and a size or number of classes that
            the network cannot take.
    """
    height, width = (positive_int("image_size", side) for side in as_pair(image_size))
    pad = dense or pad_windows
    architecture = variant_architecture(variant, (height, width, IMAGE_CHANNELS), scale=not pad)
    window_tokens = architecture["window_tokens"]
    if dense and window_tokens == "learned":
        window_tokens = "zeros"

    stages = []
    channels = IMAGE_CHANNELS
    for number, (dim, windows, stride) in enumerate(
        zip(architecture["hidden_dims"], architecture["window_sizes"], STRIDES, strict=True), 1
    ):
        name = f"stage{number}"
        overlapping = architecture["patch_embedding"] == "overlapping"
        height, width = (_embedded_size(side, stride, overlapping) for side in (height, width))
        if not pad:
            _check_windows_fit(height, width, windows)
        layers = {
            f"{name}_embed": patch_embedding(height, width, channels, dim, stride, overlapping)
        }
        for block, window in enumerate(windows, start=1):
            layers[f"{name}_block{block}"] = sepvit_block(
                height, width, dim, window, architecture["mlp_ratio"], window_tokens, dense
            )
            if block == 1:
                layers[f"{name}_peg"] = convolution(3, dim, dim, height * width, groups=dim)
        if dense:
            layers[f"{name}_norm"] = layer_norm(dim)
        stages.append(Stage(name, (height, width, dim), len(windows), layers))
        channels = dim
    if not dense:
        head = linear(channels, positive_int("classes", classes), positions=1)
        layers = {"norm": layer_norm(channels), "head": head}
        stages.append(Stage("head", (classes,), 0, layers))
    return Complexity(tuple(stages))


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

    Args:
        height, width, channels: Shape of the map.
        window_size: Positions of a window: an int or a (height, width) pair.
        mlp_ratio, window_tokens, single_window_psa: As for `SepViTBlock`.
    """
    window_height, window_width = as_pair(window_size)
    positions = window_height * window_width
    padded = padded_size(height, window_height) * padded_size(width, window_width)
    windows = padded // positions
    has_psa = windows != 1 or single_window_psa
    has_token = has_psa and window_tokens in ("learned", "zeros")

    cost = layer_norm(channels) + dsa(windows, positions + has_token, channels)
    if has_psa:
        cost += psa(windows, positions, channels)
    if has_token and window_tokens == "learned":
        cost += Cost(parameters=windows * channels)
    if has_psa and window_tokens == "depthwise_conv":
        cost += Cost(parameters=(positions + 1) * channels, macs=padded * channels)
    cost += linear(channels, channels, padded)  # the projection after both attentions
    return cost + layer_norm(channels) + mlp(channels, int(channels * mlp_ratio), height * width)


def dsa(windows, tokens, channels):
    """The `Cost` of depthwise self-attention: all pairs of tokens inside each window.

    Args:
        windows: Number of windows.
        tokens: Tokens of a window, the window token included.
        channels: Channels of a token.
    """
    products = Cost(attention_macs=2 * windows * tokens**2 * channels)
    return linear(channels, 3 * channels, windows * tokens) + products


def psa(windows, positions, channels):
    """The `Cost` of pointwise self-attention: all pairs of windows, by their tokens.

    Args:
        windows: Number of windows.
        positions: Positions of a window.
        channels: Channels of a position.
    """
    scores = windows**2 * channels
    products = Cost(attention_macs=scores + scores * positions)
    return layer_norm(channels) + linear(channels, 2 * channels, windows) + products


def mlp(channels, hidden_dim, positions):
    """The `Cost` of an `MLP` on a number of positions."""
    return linear(channels, hidden_dim, positions) + linear(hidden_dim, channels, positions)


def patch_embedding(height, width, channels, filters, strides, overlapping=True):
    """The `Cost` of a `PatchEmbedding` with an output of height x width."""
    kernel_size = 2 * strides - 1 if overlapping else strides
    return convolution(kernel_size, channels, filters, height * width) + layer_norm(filters)


def convolution(kernel_size, inputs, outputs, positions, groups=1):
    """The `Cost` of a square convolution with a bias and that many output positions."""
    kernel = kernel_size**2 * (inputs // groups) * outputs
    return Cost(parameters=kernel + outputs, macs=positions * kernel)


def linear(inputs, outputs, positions):
    """The `Cost` of a dense layer with a bias on a number of positions."""
    return convolution(1, inputs, outputs, positions)


def layer_norm(channels):
    """The `Cost` of a layer normalisation: its scale and offset."""
    return Cost(parameters=2 * channels)


def _embedded_size(side, stride, overlapping):
    """The side of the map that a patch embedding makes of a map or image."""
    embedded = -(-side // stride) if overlapping else side // stride
    if not embedded:
        raise ValueError(
            f"`image_size` is too small: non-overlapping patches of {stride} do not fit a side of "
            f"{side}. Use a larger image."
        )
    return embedded


def _check_windows_fit(height, width, windows):
    for window_height, window_width in windows:
        if height % window_height or width % window_width:
            raise ValueError(
                f"Windows of {window_height} x {window_width} do not fit a map of {height} x "
                f"{width}. Use another `image_size` or other windows, pad_windows=True, or "
                "dense=True."
            )
