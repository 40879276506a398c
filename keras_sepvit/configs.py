"""The SepViT family as data: architectures, ablations and published figures.

Sources: the paper (arXiv 2203.15380, v1 and v4) and the authors' PyTorch code.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from keras_sepvit.geometry import check_static_size, scale_windows, window_pairs

# Types of arguments: a window's side or (height, width), by stage and block; a whole image.
Window = int | Sequence[int]
WindowSizes = Sequence[Sequence[Window]]
ImageShape = tuple[int | None, int | None, int]

WINDOW_TOKENS = ("learned", "zeros", "average_pooling", "depthwise_conv")
PATCH_EMBEDDINGS = ("overlapping", "non_overlapping")

# ImageNet's statistics by channel, for images of 0..255.
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
MEAN_COLOUR = tuple(map(round, IMAGENET_MEAN))
IMAGENET_VARIANCE = ((0.229 * 255) ** 2, (0.224 * 255) ** 2, (0.225 * 255) ** 2)

# A window of 7 makes a DSA block, a window of 14 a GSA block (paper, section 3.4).
_WINDOWS_12_BLOCKS = ((7,), (7, 14), (7, 14) * 3, (7, 7))
_WINDOWS_19_BLOCKS = ((7,), (7, 14), (7, 14) * 7, (7, 7))


@dataclasses.dataclass(frozen=True)
class SepViTConfig:
    """The architecture of one member of the family, at its reference size.

    Attributes:
        hidden_dims: Channels of the four stages.
        depths: Number of blocks of each stage.
        num_heads: Attention heads of each stage.
        window_sizes: For each stage, the window of each of its blocks, as an
            int or an (height, width) pair, for images of `image_size`.
        drop_path_rate: The largest drop path rate, that of the last block, in
            the published training recipe.
        mlp_ratio: Hidden channels of the MLP over its input channels.
        window_tokens: Where a window's global representation comes from:
            `"learned"` tokens, fixed `"zeros"` tokens, or, without tokens,
            `"average_pooling"` or `"depthwise_conv"` over the window.
        patch_embedding: `"overlapping"` (7x7 stride 4, then 3x3 stride 2) or
            `"non_overlapping"` (4x4 stride 4, then 2x2 stride 2).
        image_size: The side in pixels that `window_sizes` are meant for.
    """

    hidden_dims: Sequence[int]
    depths: Sequence[int]
    num_heads: Sequence[int]
    window_sizes: WindowSizes
    drop_path_rate: float
    mlp_ratio: float = 4.0
    window_tokens: str = "learned"
    patch_embedding: str = "overlapping"
    image_size: int = 224

    def architecture(self) -> dict[str, Any]:
        """The arguments of `SepViTBackbone` that this configuration fixes."""
        fields = dataclasses.asdict(self)
        del fields["drop_path_rate"], fields["image_size"]
        return fields


@dataclasses.dataclass(frozen=True)
class PublishedFigures:
    """What the paper reports for one variant on ImageNet-1K at 224 x 224.

    Attributes:
        parameters: Parameters in millions (table 2).
        macs: Multiply-accumulates in billions; the paper's column is headed
            FLOPs (table 2).
        top1: Top-1 accuracy in percent, in the last version (v4).
        top1_v1: Top-1 accuracy in percent, in the first version (v1).
    """

    parameters: float
    macs: float
    top1: float
    top1_v1: float


# Channels, heads and depths: paper, table 1. Drop path: paper, section 4.1.
VARIANTS = {
    "sepvit_lite": SepViTConfig(
        hidden_dims=(32, 64, 128, 256),
        depths=(1, 2, 6, 2),
        num_heads=(1, 2, 4, 8),
        window_sizes=_WINDOWS_12_BLOCKS,
        drop_path_rate=0.1,  # our choice: the paper gives none for Lite
    ),
    "sepvit_t": SepViTConfig(
        hidden_dims=(96, 192, 384, 768),
        depths=(1, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        window_sizes=_WINDOWS_12_BLOCKS,
        drop_path_rate=0.2,
    ),
    "sepvit_s": SepViTConfig(
        hidden_dims=(96, 192, 384, 768),
        depths=(1, 2, 14, 2),
        num_heads=(3, 6, 12, 24),
        window_sizes=_WINDOWS_19_BLOCKS,
        drop_path_rate=0.3,
    ),
    "sepvit_b": SepViTConfig(
        hidden_dims=(128, 256, 512, 1024),
        depths=(1, 2, 14, 2),
        num_heads=(4, 8, 16, 32),
        window_sizes=_WINDOWS_19_BLOCKS,
        drop_path_rate=0.5,
    ),
}

# For the 32 x 32 digits of examples/quickstart.py. The windows divide the maps as in the
# family: many windows, then blocks of several windows and of one (GSA) in turn, then one.
DIGITS_CONFIG = SepViTConfig(
    hidden_dims=(16, 32, 48, 64),
    depths=(1, 2, 2, 1),
    num_heads=(2, 4, 6, 8),
    window_sizes=((2,), (2, 4), (1, 2), (1,)),
    drop_path_rate=0.05,
    mlp_ratio=2.0,
    image_size=32,
)

# For the scenes of digits, enlarged to 160 x 160, in the dense form: windows that need no padding
# there. Wider than that of the digits alone: a segmenter tells digits apart wherever they are.
SCENES_CONFIG = SepViTConfig(
    hidden_dims=(32, 64, 96, 128),
    depths=(1, 2, 2, 1),
    num_heads=(2, 4, 6, 8),
    window_sizes=((4,), (5, 10), (5, 10), (5,)),
    drop_path_rate=0.05,
    mlp_ratio=2.0,
    image_size=160,
)

# For detectors on the scenes as they are, 128 x 128.
SCENES_128_CONFIG = dataclasses.replace(
    SCENES_CONFIG, window_sizes=((4,), (4, 8), (4, 8), (4,)), image_size=128
)

# What recipes call them, small members beside the published family.
DIGITS_VARIANT = "sepvit_digits"
SCENES_VARIANT = "sepvit_scenes"
_OF_RECIPES = {
    DIGITS_VARIANT: "DIGITS_CONFIG",
    SCENES_VARIANT: "SCENES_CONFIG` or, for images of 128 x 128, `SCENES_128_CONFIG",
}

# Paper, table 2 (v1 and v4).
PUBLISHED = {
    "sepvit_lite": PublishedFigures(3.7, 0.6, top1=72.3, top1_v1=72.3),
    "sepvit_t": PublishedFigures(31.2, 4.5, top1=82.7, top1_v1=82.5),
    "sepvit_s": PublishedFigures(46.6, 7.5, top1=83.6, top1_v1=83.5),
    "sepvit_b": PublishedFigures(82.3, 13.1, top1=84.2, top1_v1=84.0),
}

# Paper, tables 6 and 7: changes to SepViT-T, for `dataclasses.replace`.
ABLATIONS = {
    "no_gsa": {"window_sizes": ((7,), (7, 7), (7,) * 6, (7, 7))},
    "zero_window_tokens": {"window_tokens": "zeros"},
    "average_pooling": {"window_tokens": "average_pooling"},
    "depthwise_conv": {"window_tokens": "depthwise_conv"},
    "non_overlapping": {"patch_embedding": "non_overlapping"},
}


def variant_config(variant: str | SepViTConfig) -> SepViTConfig:
    """The `SepViTConfig` of a variant.

    Args:
        variant: `"sepvit_lite"`, `"sepvit_t"`, `"sepvit_s"`, `"sepvit_b"`, or
            the name of its constructor (`"SepViTB"`), in any case, or a
            `SepViTConfig`, which is returned as it is.

    Raises:
        ValueError: for an unknown variant.
    """
    return config_of("variant", variant)


def config_of(argument, variant):
    """`variant_config` of an argument of another name."""
    if isinstance(variant, SepViTConfig):
        return variant
    by_plain_name = {key.replace("_", ""): key for key in VARIANTS}
    plain_name = str(variant).lower().replace("_", "").replace("-", "")
    if plain_name not in by_plain_name:
        small = _OF_RECIPES.get(str(variant))
        note = f" Recipes call so `keras_sepvit.configs.{small}`." if small else ""
        raise ValueError(
            f"Unknown `{argument}`: {variant!r}. Expected one of "
            f"{', '.join(VARIANTS)}, or a `SepViTConfig` of your own.{note}"
        )
    return VARIANTS[by_plain_name[plain_name]]


def variant_architecture(variant, image_shape, scale):
    """A variant's architecture for an image shape, with windows scaled to it or not."""
    config = variant_config(variant)
    architecture = config.architecture()
    architecture["window_sizes"] = window_pairs(config.window_sizes)
    height, width, _ = image_shape
    if scale:
        check_static_size(height, width)
        try:
            architecture["window_sizes"] = scale_windows(
                config.window_sizes, config.image_size, height, width
            )
        except ValueError as error:
            sides = [side for stage in architecture["window_sizes"] for w in stage for side in w]
            step = config.image_size // math.gcd(config.image_size, *sides)
            raise ValueError(
                f"The classification form cannot take images of {height} x {width}: sides must be "
                f"multiples of {step} ({step}, {2 * step}, {3 * step}, ...), to which windows "
                "scale. For other sizes use `pad_windows=True`, or the dense form "
                "(`SepViTBackbone.from_variant(..., dense=True)`)."
            ) from error
    return architecture
