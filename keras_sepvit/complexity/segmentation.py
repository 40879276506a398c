"""The segmenters on a SepViT in the dense form."""

from keras_sepvit.complexity.costs import Complexity, Cost, Stage, convolution, layer_norm, linear
from keras_sepvit.complexity.models import dense_maps

_POOL_SCALES = (1, 2, 3, 6)


def semantic_fpn(variant, image_size, num_classes, neck_channels=256, head_channels=128):
    """The complexity of a `SemanticFPN` for RGB images of a given size.

    Args:
        variant, image_size: As for `sepvit`.
        num_classes, neck_channels, head_channels: As for `SemanticFPN`.

    Returns:
        `Complexity`: the stages of the backbone, the neck and the head.
    """
    stages, maps = dense_maps(variant, image_size)
    neck, head = {}, {}
    for level, (height, width, channels) in enumerate(maps):
        positions = height * width
        neck[f"lateral_convs_{level}"] = linear(channels, neck_channels, positions)
        neck[f"fpn_convs_{level}"] = convolution(3, neck_channels, neck_channels, positions)
        inputs = neck_channels
        for step in range(max(level, 1)):  # behind each but those of level 0, maps are doubled
            head[f"scale_heads_{level}_{2 * step}"] = _conv_norm(
                3, inputs, head_channels, positions * 4**step
            )
            inputs = head_channels
    fine = maps[0][0] * maps[0][1]
    head["conv_seg"] = linear(head_channels, num_classes, fine)
    return _segmenter(stages, maps, num_classes, neck=neck, decode_head=head)


def upernet(variant, image_size, num_classes, head_channels=512, auxiliary_channels=256):
    """The complexity of a `UPerNet` for RGB images of a given size.

    The auxiliary head, which there is in training only, has parameters and no MACs.

    Args:
        variant, image_size: As for `sepvit`.
        num_classes, head_channels, auxiliary_channels: As for `UPerNet`.

    Returns:
        `Complexity`: the stages of the backbone and the heads.
    """
    stages, maps = dense_maps(variant, image_size)
    positions = [height * width for height, width, _ in maps]
    channels = [channels for _, _, channels in maps]
    bins = sum(scale**2 for scale in _POOL_SCALES)
    head = {"pool": Cost(macs=positions[-1] * bins * channels[-1])}  # all bins as one product
    for number, scale in enumerate(_POOL_SCALES):
        head[f"psp_modules_{number}_1"] = _conv_norm(1, channels[-1], head_channels, scale**2)
    pooled = channels[-1] + len(_POOL_SCALES) * head_channels
    head["bottleneck"] = _conv_norm(3, pooled, head_channels, positions[-1])
    for level in range(len(maps) - 1):
        head[f"lateral_convs_{level}"] = _conv_norm(
            1, channels[level], head_channels, positions[level]
        )
        head[f"fpn_convs_{level}"] = _conv_norm(3, head_channels, head_channels, positions[level])
    head["fpn_bottleneck"] = _conv_norm(3, len(maps) * head_channels, head_channels, positions[0])
    head["conv_seg"] = linear(head_channels, num_classes, positions[0])
    auxiliary = {
        "convs_0": _conv_norm(3, channels[2], auxiliary_channels, positions=0),
        "conv_seg": linear(auxiliary_channels, num_classes, positions=0),
    }
    return _segmenter(stages, maps, num_classes, decode_head=head, auxiliary_head=auxiliary)


def _segmenter(stages, maps, num_classes, **parts):
    height, width, _ = maps[0]
    shape = (height, width, num_classes)
    return Complexity((*stages, *(Stage(name, shape, 0, costs) for name, costs in parts.items())))


def _conv_norm(kernel_size, inputs, outputs, positions):
    """A convolution without bias, and a batch norm."""
    norm = layer_norm(outputs)  # of as many weights
    return convolution(kernel_size, inputs, outputs, positions, bias=False) + norm
