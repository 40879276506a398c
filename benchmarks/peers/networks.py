"""Complexity of the networks that SepViT is compared with: ViT, PVT, Swin, Twins-SVT and CvT.

As their papers and their authors' code have them; each function's result has the
layers by stage, as that of `keras_sepvit.complexity.sepvit`.
"""

import dataclasses

from keras_sepvit.complexity.blocks import transformer_block
from keras_sepvit.complexity.costs import (
    Complexity,
    Cost,
    Stage,
    convolution,
    head,
    layer_norm,
    linear,
)
from keras_sepvit.geometry import STRIDES, as_pair
from keras_sepvit.validation import positive_int
from peers.attention import conv_attention, msa, sra, twins_gsa, twins_lsa, w_msa

WINDOW = 7
REDUCTIONS = (8, 4, 2, 1)
PVT_MLP_RATIOS = (8, 8, 4, 4)


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """A ViT: one stage of `depth` blocks on patches of `patch_size`."""

    hidden_dim: int
    depth: int
    patch_size: int = 16


@dataclasses.dataclass(frozen=True)
class PyramidConfig:
    """A network of stages: channels, blocks and heads of each."""

    hidden_dims: tuple
    depths: tuple
    num_heads: tuple


# ViT (arXiv 2010.11929), table 1; DeiT (2012.12877), table 1.
VIT = {
    "vit_b16": VitConfig(hidden_dim=768, depth=12),
    "vit_l16": VitConfig(hidden_dim=1024, depth=24),
    "deit_ti": VitConfig(hidden_dim=192, depth=12),
    "deit_s": VitConfig(hidden_dim=384, depth=12),
}
# PVT (2102.12122), table 1.
PVT = {
    "pvt_tiny": PyramidConfig((64, 128, 320, 512), (2, 2, 2, 2), (1, 2, 5, 8)),
    "pvt_small": PyramidConfig((64, 128, 320, 512), (3, 4, 6, 3), (1, 2, 5, 8)),
    "pvt_medium": PyramidConfig((64, 128, 320, 512), (3, 4, 18, 3), (1, 2, 5, 8)),
    "pvt_large": PyramidConfig((64, 128, 320, 512), (3, 8, 27, 3), (1, 2, 5, 8)),
}
# Swin (2103.14030), section 3.3.
SWIN = {
    "swin_t": PyramidConfig((96, 192, 384, 768), (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_s": PyramidConfig((96, 192, 384, 768), (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_b": PyramidConfig((128, 256, 512, 1024), (2, 2, 18, 2), (4, 8, 16, 32)),
}
# Twins (2104.13840), the table of Twins-SVT's configurations.
TWINS_SVT = {
    "twins_svt_s": PyramidConfig((64, 128, 256, 512), (2, 2, 10, 4), (2, 4, 8, 16)),
    "twins_svt_b": PyramidConfig((96, 192, 384, 768), (2, 2, 18, 2), (3, 6, 12, 24)),
    "twins_svt_l": PyramidConfig((128, 256, 512, 1024), (2, 2, 18, 2), (4, 8, 16, 32)),
}
# CvT (2103.15808), table 2.
CVT = {
    "cvt_13": PyramidConfig((64, 192, 384), (1, 2, 10), (1, 3, 6)),
    "cvt_21": PyramidConfig((64, 192, 384), (1, 4, 16), (1, 3, 6)),
}


def vit(variant, image_size=(224, 224), classes=1000):
    """The complexity of a ViT or DeiT: global attention among all patches of an image.

    With a class token and one learned position embedding a token, as many as the
    image has. Paper: arXiv 2010.11929, section 3.1.

    Args:
        variant: A name in `VIT`, or a `VitConfig`.
        image_size: (height, width) of the images, or one int for both; multiples
            of the patch.
        classes: Number of classes of the head.

    Returns:
        `Complexity`, with the blocks in one stage.

    Raises:
        ValueError: for an unknown variant, a size that is no multiple of the patch,
            and a number of classes below 1.
    """
    config = _config(variant, VIT, VitConfig)
    patch, dim = config.patch_size, config.hidden_dim
    height, width = _map_size(image_size, patch)
    tokens = height * width + 1
    layers = {
        "patch_embed": convolution(patch, 3, dim, height * width),
        "class_token": Cost(parameters=dim),
        "position_embed": Cost(parameters=tokens * dim),
    }
    for block in range(1, config.depth + 1):
        layers[f"block{block}"] = transformer_block(msa(tokens, dim), dim, tokens)
    stage = Stage("stage1", (tokens, dim), config.depth, layers)
    return Complexity((stage, head(dim, positive_int("classes", classes))))


def pvt(variant, image_size=(224, 224), classes=1000):
    """The complexity of a PVT, version 1: all positions attend to a reduced map.

    With learned position embeddings, and a class token in the last stage. Paper:
    arXiv 2102.12122, section 3.

    Args:
        variant: A name in `PVT`, or a `PyramidConfig`.
        image_size: (height, width) of the images, or one int for both; multiples
            of 32.
        classes: Number of classes of the head.

    Returns:
        `Complexity`.

    Raises:
        ValueError: for an unknown variant, a size that is no multiple of 32, and a
            number of classes below 1.
    """
    config = _config(variant, PVT, PyramidConfig)

    def blocks(stage, height, width, dim):
        depth, ratio = config.depths[stage], PVT_MLP_RATIOS[stage]
        tokens = height * width + (stage == 3)  # the class token
        layers = {"position_embed": Cost(parameters=tokens * dim)}
        if stage == 3:
            layers["class_token"] = Cost(parameters=dim)
            attention = msa(tokens, dim)
        else:
            attention = sra(height, width, dim, REDUCTIONS[stage])
        for block in range(1, depth + 1):
            layers[f"block{block}"] = transformer_block(attention, dim, tokens, ratio)
        return layers

    return _pyramid(config, image_size, classes, blocks)


def swin(variant, image_size=(224, 224), classes=1000):
    """The complexity of a Swin transformer, with windows of 7 at every image size.

    Maps are padded to whole windows inside each attention. Paper: arXiv 2103.14030,
    section 3.

    Args:
        variant: A name in `SWIN`, or a `PyramidConfig`.
        image_size, classes: As for `pvt`.

    Returns:
        `Complexity`.

    Raises:
        ValueError: as for `pvt`.
    """
    config = _config(variant, SWIN, PyramidConfig)

    def blocks(stage, height, width, dim):
        attention = w_msa(height, width, dim, WINDOW, config.num_heads[stage])
        block = transformer_block(attention, dim, height * width)
        return {f"block{number}": block for number in range(1, config.depths[stage] + 1)}

    def merge(height, width, channels, dim, stride):
        # Patch merging (section 3.1): a norm and a dense layer on 2 x 2 positions.
        joined = stride**2 * channels
        return layer_norm(joined) + linear(joined, dim, height * width, bias=False)

    return _pyramid(config, image_size, classes, blocks, merge)


def twins_svt(variant, image_size=(224, 224), classes=1000):
    """The complexity of a Twins-SVT: windows of 7 and a sub-sampled map in turn.

    Even blocks have LSA and odd ones GSA; a PEG follows the first block of a stage.
    Paper: arXiv 2104.13840, section 3.2.

    Args:
        variant: A name in `TWINS_SVT`, or a `PyramidConfig`.
        image_size, classes: As for `pvt`.

    Returns:
        `Complexity`.

    Raises:
        ValueError: as for `pvt`.
    """
    config = _config(variant, TWINS_SVT, PyramidConfig)

    def blocks(stage, height, width, dim):
        attentions = (
            twins_lsa(height, width, dim, WINDOW),
            twins_gsa(height, width, dim, REDUCTIONS[stage]),
        )
        layers = {"peg": convolution(3, dim, dim, height * width, groups=dim)}
        for index in range(config.depths[stage]):
            block = transformer_block(attentions[index % 2], dim, height * width)
            layers[f"block{index + 1}"] = block
        return layers

    return _pyramid(config, image_size, classes, blocks)


def cvt(variant, image_size=(224, 224), classes=1000):
    """The complexity of a CvT: keys and values from convolutions, a quarter of the positions.

    Three stages with overlapping embeddings; a class token in the last. No position
    embeddings. Paper: arXiv 2103.15808, section 3.

    Args:
        variant: A name in `CVT`, or a `PyramidConfig`.
        image_size: (height, width) of the images, or one int for both; multiples
            of 16.
        classes: Number of classes of the head.

    Returns:
        `Complexity`.

    Raises:
        ValueError: for an unknown variant, a size that is no multiple of 16, and a
            number of classes below 1.
    """
    config = _config(variant, CVT, PyramidConfig)
    height, width = (side * 16 for side in _map_size(image_size, 16))
    channels, stages = 3, []
    for stage, (dim, depth) in enumerate(zip(config.hidden_dims, config.depths, strict=True)):
        kernel, stride = ((7, 4), (3, 2), (3, 2))[stage]
        height, width = height // stride, width // stride
        last = stage == 2
        tokens = height * width + last
        embed = convolution(kernel, channels, dim, height * width) + layer_norm(dim)
        attention = conv_attention(height, width, dim, class_token=last)
        block = transformer_block(attention, dim, tokens)
        layers = {"embed": embed} | {f"block{number}": block for number in range(1, depth + 1)}
        if last:
            layers["class_token"] = Cost(parameters=dim)
        stages.append(Stage(f"stage{stage + 1}", (height, width, dim), depth, layers))
        channels = dim
    return Complexity((*stages, head(channels, positive_int("classes", classes))))


def _pyramid(config, image_size, classes, blocks, merge=None):
    """Four stages and a head, of `blocks(stage, height, width, channels)` each.

    Between stages comes `merge(height, width, channels, new channels, stride)`, or
    else a convolution as wide as its stride and a norm, as before the first.
    """
    height, width = (side * 32 for side in _map_size(image_size, 32))
    channels = 3
    stages = []
    for stage, (dim, stride) in enumerate(zip(config.hidden_dims, STRIDES, strict=True)):
        height, width = height // stride, width // stride
        if stage and merge:
            embed = merge(height, width, channels, dim, stride)
        else:
            embed = convolution(stride, channels, dim, height * width) + layer_norm(dim)
        layers = {"embed": embed, **blocks(stage, height, width, dim)}
        stages.append(
            Stage(f"stage{stage + 1}", (height, width, dim), config.depths[stage], layers)
        )
        channels = dim
    return Complexity((*stages, head(channels, positive_int("classes", classes))))


def _config(variant, known, kind):
    if isinstance(variant, kind):
        return variant
    if variant not in known:
        raise ValueError(
            f"Unknown `variant`: {variant!r}. Expected one of {', '.join(known)}, or a "
            f"`{kind.__name__}` of your own."
        )
    return known[variant]


def _map_size(image_size, stride):
    """(height, width) of the map that patches of `stride` make of an image."""
    height, width = (positive_int("image_size", side) for side in as_pair(image_size))
    if height % stride or width % stride:
        raise ValueError(
            f"The sides of `image_size` must be multiples of {stride}. Received: "
            f"{height} x {width}."
        )
    return height // stride, width // stride
