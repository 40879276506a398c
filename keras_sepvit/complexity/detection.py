"""The detectors on a SepViT in the dense form."""

from keras_sepvit.complexity.costs import Complexity, Cost, Stage, convolution, linear
from keras_sepvit.complexity.models import dense_maps
from keras_sepvit.validation import positive_int

_ANCHORS = 9  # at a place
_RPN_ANCHORS = 3
_BOX_SIDE, _MASK_SIDE = 7, 14  # places of a region along a side


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


def mask_rcnn(
    variant,
    image_size,
    num_classes,
    channels=256,
    units=1024,
    num_convs=4,
    proposals=1000,
    max_detections=100,
):
    """The complexity of a `MaskRCNN` for RGB images of a given size.

    The box head is on all proposals, the mask head on as many detections as an image may have,
    as mmdetection counts them.

    Args:
        variant, image_size: As for `sepvit`.
        num_classes, channels, units, num_convs, proposals, max_detections: As for `MaskRCNN`.

    Returns:
        `Complexity`: the stages of the backbone, the neck and the three heads.
    """
    stages, maps = dense_maps(variant, image_size)
    neck, positions = {}, 0
    for level, (height, width, inputs) in enumerate(maps):
        positions += height * width
        neck[f"lateral_convs_{level}"] = linear(inputs, channels, height * width)
        neck[f"fpn_convs_{level}"] = convolution(3, channels, channels, height * width)
    positions += -(-height // 2) * -(-width // 2)  # P6
    rpn = {
        "rpn_conv": convolution(3, channels, channels, positions),
        "rpn_cls": linear(channels, _RPN_ANCHORS, positions),
        "rpn_reg": linear(channels, _RPN_ANCHORS * 4, positions),
    }
    proposals = positive_int("proposals", proposals)
    box = {
        "shared_fcs_0": linear(_BOX_SIDE**2 * channels, units, proposals),
        "shared_fcs_1": linear(units, units, proposals),
        "fc_cls": linear(units, num_classes + 1, proposals),
        "fc_reg": linear(units, num_classes * 4, proposals),
    }
    places = positive_int("max_detections", max_detections) * _MASK_SIDE**2
    mask = {
        f"convs_{number}": convolution(3, channels, channels, places)
        for number in range(positive_int("num_convs", num_convs))
    }
    # A product of each place with the kernel of 2 x 2; one bias for all four.
    upsample = linear(channels, 4 * channels, places, bias=False)
    mask["upsample"] = upsample + Cost(parameters=channels)
    mask["conv_logits"] = linear(channels, num_classes, 4 * places)
    height, width, _ = maps[0]
    parts = (
        Stage("neck", (height, width, channels), 0, neck),
        Stage("rpn_head", (height, width, _RPN_ANCHORS), 0, rpn),
        Stage("bbox_head", (proposals, num_classes + 1), 0, box),
        Stage("mask_head", (max_detections, *(2 * _MASK_SIDE,) * 2, num_classes), 0, mask),
    )
    return Complexity((*stages, *parts))
