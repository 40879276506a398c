"""What costs are, and those of the plain layers."""

import dataclasses


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
    """A stage of a network, or its head.

    Attributes:
        name: `"stage1"` to `"stage4"`, or `"head"`.
        output_shape: Shape of its output, without the batch.
        blocks: Number of its blocks.
        layers: The `Cost` of each of its layers, by name; those of a SepViT are
            the names in the model.
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


def convolution(kernel_size, inputs, outputs, positions, groups=1, bias=True):
    """The `Cost` of a square convolution with that many output positions."""
    kernel = kernel_size**2 * (inputs // groups) * outputs
    return Cost(parameters=kernel + outputs * bias, macs=positions * kernel)


def linear(inputs, outputs, positions, bias=True):
    """The `Cost` of a dense layer on a number of positions."""
    return convolution(1, inputs, outputs, positions, bias=bias)


def layer_norm(channels):
    """The `Cost` of a layer normalisation: its scale and offset."""
    return Cost(parameters=2 * channels)


def mlp(channels, hidden_dim, positions):
    """The `Cost` of an `MLP` on a number of positions."""
    return linear(channels, hidden_dim, positions) + linear(hidden_dim, channels, positions)


def patch_embedding(height, width, channels, filters, strides, overlapping=True):
    """The `Cost` of a `PatchEmbedding` with an output of height x width."""
    kernel_size = 2 * strides - 1 if overlapping else strides
    return convolution(kernel_size, channels, filters, height * width) + layer_norm(filters)


def head(channels, classes):
    """The last `Stage` of a classifier: a norm, and a dense layer on one position."""
    layers = {"norm": layer_norm(channels), "head": linear(channels, classes, positions=1)}
    return Stage("head", (classes,), 0, layers)
