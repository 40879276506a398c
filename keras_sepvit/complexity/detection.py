"""The detectors on a SepViT in the dense form."""

from keras_sepvit.complexity.costs import Complexity, Stage, convolution, linear
from keras_sepvit.complexity.models import dense_maps
from keras_sepvit.validation import positive_int

_ANCHORS = 9  # at a place


def retinanet(variant, image_size, num_classes, channels=256, num_convs=4):
    """The complexity of a `RetinaNet` for RGB images of a given size, up to its raw outputs.

    Args:
        variant, image_size: As for `sepvit`.
        num_classes, channels, num_convs: As for `RetinaNet`.

    Returns:
        `Complexity`: the stages of the backbone, the neck and the head.
    """
    stages, maps = dense_maps(variant, image_size)
    neck, sizes = {}, []
    for level, (height, width, inputs) in enumerate(maps[1:]):
        sizes.append((height, width))
        neck[f"lateral_convs_{level}"] = linear(inputs, channels, height * width)
        neck[f"fpn_convs_{level}"] = convolution(3, channels, channels, height * width)
    for level in (3, 4):  # P6, from the backbone's last map, and P7
        height, width = (-(-side // 2) for side in sizes[-1])
        sizes.append((height, width))
        neck[f"fpn_convs_{level}"] = convolution(3, inputs, channels, height * width)
        inputs = channels
    positions = sum(height * width for height, width in sizes)  # one head for all levels
    head = {}
    for stack, last, outputs in (
        ("cls_convs", "retina_cls", num_classes),
        ("reg_convs", "retina_reg", 4),
    ):
        for number in range(positive_int("num_convs", num_convs)):
            head[f"{stack}_{number}"] = convolution(3, channels, channels, positions)
        head[last] = convolution(3, channels, _ANCHORS * outputs, positions)
    height, width = sizes[0]
    neck = Stage("neck", (height, width, channels), 0, neck)
    head = Stage("bbox_head", (height, width, _ANCHORS * num_classes), 0, head)
    return Complexity((*stages, neck, head))
