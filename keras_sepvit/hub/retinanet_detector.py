"""KerasHub's RetinaNet on SepViT, put together as well as its arguments allow.

docs/detectors.md has a table of what stays different from the paper (arXiv 1708.02002).
"""

import keras
import numpy as np
from keras_hub.layers import AnchorGenerator
from keras_hub.models import RetinaNetBackbone, RetinaNetObjectDetector

from keras_sepvit.backbone import check_image_shape
from keras_sepvit.hub.backbone import SepViTBackbone
from keras_sepvit.hub.dense import check_multiples_of_32
from keras_sepvit.hub.detection import BOX_FORMATS, ClassWiseNonMaxSuppression
from keras_sepvit.policy import dtype_policy
from keras_sepvit.pyramid import check_pyramid
from keras_sepvit.validation import check_choice, positive_int, positive_number

DEFAULT_SHAPE = (512, 512, 3)
MIN_LEVEL, MAX_LEVEL = 3, 7
PRIOR_PROBABILITY = 0.01


def retinanet(
    backbone,
    num_classes,
    bounding_box_format="xyxy",
    image_shape=None,
    weights=None,
    anchor_size=4.0,
    pre_logits_num_conv_layers=4,
    use_prediction_head_norm=False,
    prediction_decoder=None,
    name=None,
):
    """A `keras_hub.models.RetinaNetObjectDetector` on a SepViT backbone.

    Beside KerasHub's defaults: the prior bias of 0.01 is on the class head instead of
    the box head, heads start from N(0, 0.01), P6 comes from the backbone's last level,
    suppression is by class from a confidence of 0.05, boxes are clipped to the image,
    and relative box formats work. Compile it with `retinanet_losses`:

    ```python
    detector = keras_sepvit.hub.retinanet("sepvit_t", num_classes=3)
    detector.compile("adamw", **keras_sepvit.hub.retinanet_losses(3))
    detector.fit(dataset)  # shuffled batches of (images, {"boxes": ..., "labels": ...})
    keras_sepvit.hub.detect(detector, ["photo.jpg"])
    ```

    Args:
        backbone: The name of a variant, a `keras_sepvit.SepViTConfig`, or a model with
            `pyramid_outputs` for `"P3"` to `"P5"`, such as
            `keras_sepvit.hub.SepViTBackbone` in the dense form. One made from a name
            normalises its images itself, and has no drop path.
        num_classes: Number of classes, without background.
        bounding_box_format: Format of boxes in training and prediction, one of those of
            `keras.utils.bounding_boxes.convert_format`.
        image_shape: (height, width, 3); static, multiples of 32. By default the static
            size of the model in `backbone`, else (512, 512, 3).
        weights: As for `SepViTBackbone.from_variant`; only with a name as `backbone`.
        anchor_size: Side of the smallest anchor of a level over its stride.
        pre_logits_num_conv_layers: Convolutions of each head before its last one.
        use_prediction_head_norm: Whether group norm follows them; small data are learned
            in far fewer steps with it.
        prediction_decoder: By default a `ClassWiseNonMaxSuppression("xyxy")`.
        name: Name of the model.

    All that stands on the backbone computes in float32 whatever the global policy: in half
    precision KerasHub rounds boxes to whole pixels, or fails.

    Returns:
        The detector. It takes RGB images of 0..255 if the backbone normalises them.

    Raises:
        ValueError: for a backbone in the classification form or without a pyramid, a
            size that the levels do not fit, an unknown format, and weights that do not
            fit the variant.
    """
    positive_int("num_classes", num_classes)
    check_choice("bounding_box_format", bounding_box_format, BOX_FORMATS)
    positive_number("anchor_size", anchor_size)
    encoder = _image_encoder(backbone, image_shape, weights)
    image_shape = _static_shape(encoder, image_shape)
    with dtype_policy("float32"):
        detector = _assemble(
            encoder,
            image_shape,
            anchor_size,
            num_classes=num_classes,
            bounding_box_format=bounding_box_format,
            pre_logits_num_conv_layers=pre_logits_num_conv_layers,
            use_prediction_head_norm=use_prediction_head_norm,
            prediction_decoder=prediction_decoder or ClassWiseNonMaxSuppression("xyxy"),
            name=name,
        )
    _initialize(detector.box_head, bias=0.0)
    _initialize(
        detector.classification_head, bias=-np.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
    )
    return detector


def retinanet_losses(num_classes):
    """Arguments for `compile` of a `RetinaNetObjectDetector`: the paper's losses, as summed there.

    KerasHub divides by the number of positive anchors, and Keras's losses by the number
    of classes and of coordinates, which the weights undo. The sum over anchors is then
    the focal loss (alpha 0.25, gamma 2; arXiv 1708.02002, section 3) plus L1.

    Compile a detector again after loading it: Keras restores no losses of models with
    a `compile` of their own.

    Args:
        num_classes: Number of classes of the detector.

    Returns:
        Dict of `box_loss`, `classification_loss` and `loss_weights`.
    """
    return {
        "box_loss": keras.losses.MeanAbsoluteError(reduction="sum"),
        "classification_loss": keras.losses.BinaryFocalCrossentropy(
            apply_class_balancing=True, alpha=0.25, gamma=2.0, from_logits=True, reduction="sum"
        ),
        "loss_weights": {
            "bbox_regression": 4.0,
            "cls_logits": float(positive_int("num_classes", num_classes)),
        },
    }


def _assemble(encoder, image_shape, anchor_size, **arguments):
    return RetinaNetObjectDetector(
        backbone=RetinaNetBackbone(
            image_encoder=encoder,
            min_level=MIN_LEVEL,
            max_level=MAX_LEVEL,
            use_p5=True,  # KerasHub's name for the backbone's P5, not the pyramid's
            image_shape=image_shape,
        ),
        # In pixels whatever the format at the border: those of relative formats crash.
        anchor_generator=AnchorGenerator(
            "xyxy",
            min_level=MIN_LEVEL,
            max_level=MAX_LEVEL,
            num_scales=3,
            aspect_ratios=[0.5, 1.0, 2.0],
            anchor_size=anchor_size,
        ),
        **arguments,
    )


def _image_encoder(backbone, image_shape, weights):
    if not isinstance(backbone, keras.Model):
        image_shape = check_image_shape(image_shape or DEFAULT_SHAPE)
        check_multiples_of_32("image_shape", image_shape)
        return SepViTBackbone.from_variant(
            backbone,
            image_shape,
            weights,
            drop_path_rate=0.0,
            dense=True,
            include_preprocessing=True,
        )
    if weights is not None:
        raise ValueError(
            "`weights` goes with the name of a variant. Received a model as `backbone`: load its "
            "weights first, with `keras_sepvit.load_weights`."
        )
    check_pyramid(backbone, [f"P{level}" for level in range(MIN_LEVEL, 6)])
    return backbone


def _static_shape(encoder, image_shape):
    """The image shape of the detector; KerasHub's anchors need a static one."""
    own = tuple(encoder.inputs[0].shape[1:])
    given = own if image_shape is None else check_image_shape(image_shape)
    if image_shape is None and None in own:
        given = DEFAULT_SHAPE
    if None in given:
        raise ValueError(
            f"KerasHub's anchors need a static image size. Received: image_shape={given}."
        )
    if any(side not in (None, wanted) for side, wanted in zip(own, given, strict=True)):
        raise ValueError(
            f"`backbone` takes images of {own} alone. Received: image_shape={given}. Leave "
            "`image_shape` out, or build the backbone for it."
        )
    check_multiples_of_32("image_shape", given)
    return given


def _initialize(head, bias):
    """Paper, section 4.1: N(0, 0.01), with a bias in the last layer."""
    normal = keras.initializers.RandomNormal(stddev=0.01)
    for layer in (*head.conv_layers, head.prediction_layer):
        layer.kernel.assign(normal(layer.kernel.shape))
    head.prediction_layer.bias.assign(keras.ops.full(head.prediction_layer.bias.shape, bias))
