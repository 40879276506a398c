"""SepViT as a whole, in both of its forms and at any image size."""

import math

from keras_sepvit.complexity.blocks import sepvit_block
from keras_sepvit.complexity.costs import (
    Complexity,
    Stage,
    convolution,
    head,
    layer_norm,
    patch_embedding,
)
from keras_sepvit.configs import variant_architecture
from keras_sepvit.geometry import STRIDES, as_pair, check_windows_fit, map_sizes
from keras_sepvit.validation import positive_int

IMAGE_CHANNELS = 3


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

    patches = architecture["patch_embedding"]
    if not pad:
        check_windows_fit((height, width), architecture["window_sizes"], patches)
    maps = map_sizes((height, width), patches)
    if 0 in maps[-1]:
        raise ValueError(
            "`image_size` is too small: non-overlapping patches of "
            f"{math.prod(STRIDES)} do not fit {height} x {width}. Use a larger image."
        )

    stages = []
    channels = IMAGE_CHANNELS
    for number, (dim, windows, stride) in enumerate(
        zip(architecture["hidden_dims"], architecture["window_sizes"], STRIDES, strict=True), 1
    ):
        name = f"stage{number}"
        height, width = maps[number - 1]
        layers = {
            f"{name}_embed": patch_embedding(
                height, width, channels, dim, stride, patches == "overlapping"
            )
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
        stages.append(head(channels, positive_int("classes", classes)))
    return Complexity(tuple(stages))


def dense_maps(variant, image_size):
    """Of the dense form, which segmenters and detectors are on, stages and their maps.

    Args:
        variant, image_size: As for `sepvit`.

    Returns:
        A tuple of `Stage`s, and a list of (height, width, channels).
    """
    stages = sepvit(variant, image_size, dense=True).stages
    return stages, [stage.output_shape for stage in stages]
