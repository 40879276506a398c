"""RetinaNet (arXiv 1708.02002) in the form of mmdetection."""

import os
from typing import Any

import keras

from keras_sepvit.configs import ImageShape, SepViTConfig
from keras_sepvit.detection.anchors import Anchors
from keras_sepvit.detection.decoding import retinanet_detections
from keras_sepvit.detection.detector import Detector, check_arguments
from keras_sepvit.detection.heads import RetinaHead
from keras_sepvit.detection.losses import retinanet_losses
from keras_sepvit.pyramid import FPN, pyramid_backbone
from keras_sepvit.validation import policy_of, positive_number

LEVELS = ("P3", "P4", "P5")
_EXTRA_LEVELS = 2  # P6, P7

# What detections are chosen from: 1,000 of each level.
_CANDIDATES = 5_000


@keras.saving.register_keras_serializable(package="keras_sepvit")
class RetinaNet(Detector):
    """A detector of an FPN and one head for all its levels: RetinaNet.

    `fit` needs no loss: it is the focal loss of the classes and the L1 loss of the boxes, over
    the number of anchors with an object. Targets are dicts of `"boxes"` (images, boxes, 4) and
    `"labels"` (images, boxes), padded with -1, and maybe `"sizes"` (images, 2), the height and
    width of each picture where it is padded. Arrays that cannot be right are refused; in data sets
    labels out of range make the loss NaN. `predict` gives detections; calling the model raw
    outputs. A whole checkpoint of mmdetection is loaded by `weights` or
    `keras_sepvit.load_weights`. Another such model is `RetinaNet.from_config(model.get_config())`:
    Keras's `clone_model` gives a plain functional model, without the losses.

    Args:
        backbone: The name of a variant or a `SepViTConfig`; or a model with `pyramid_outputs`
            for `"P3"` to `"P5"`, such as a `SepViTBackbone` in the dense form or one of KerasHub.
            One made from a name normalises its images itself.
        num_classes: Number of classes.
        bounding_box_format: Of boxes in targets and detections, any of Keras's (see
            `keras.utils.bounding_boxes.convert_format`): `"xyxy"` is (left, top, right, bottom)
            in pixels.
        image_shape: (height, width, 3) of the images, for a name as `backbone`; any size by
            default.
        weights: None, or what the `weights` of `SepViT` take: of a detector, a backbone or a
            classifier. A warning tells what the file does not have, and what was not used.
        drop_path_rate: For a name as `backbone`; by default that of the variant's recipe for
            classification.
        anchor_scale: Side of the smallest anchor in strides of its level: with 4 the smallest of
            P3 is 32 pixels wide. Give that of the model that weights are of; files of
            PyTorch, and old ones, do not tell it.
        channels: Channels of the FPN and the head.
        num_convs: Convolutions of the head before each of its last.
        score_threshold: Detections have scores above it, 0..1.
        iou_threshold: Of two boxes of a class that overlap by more than this intersection over
            union the better one stays, 0..1.
        max_detections: Most detections of an image, 1 to 5,000.
        dtype: Dtype policy of all that is made here; the global policy by default. Raw outputs
            and losses are float32 at least.
        **kwargs: `name` and `trainable` of `keras.Model`.

    Attributes:
        anchors: The `Anchors`.
        backbone: The backbone; `backbone.freeze(stages)` freezes a SepViT's.
        decoding: Dict of the two thresholds and `max_detections`.
        All arguments but `weights` and `drop_path_rate`: As they are in the model; read-only.

    Input shape: `(batch, height, width, 3)`; images of 0..255, or what a model as `backbone`
        takes.

    Output shape: dict of `"classes"` and `"boxes"`, lists of maps from P3 to P7
        `(batch, height, width, 9 * num_classes)` and `(batch, height, width, 9 * 4)`: logits and
        deltas. Of `predict` a dict of `"boxes"` `(images, max_detections, 4)`, `"labels"` and
        `"confidence"` `(images, max_detections)`, the best first and -1 past the last, and
        `"num_detections"` `(images,)`.

    Raises:
        ValueError: for arguments out of range, a backbone in the classification form or without
            a level, and weights of another variant.
        FileNotFoundError: if the file in `weights` does not exist.

    Example:

    ```python
    model = keras_sepvit.detection.RetinaNet("sepvit_t", num_classes=80)
    model.compile("adamw")
    model.fit(images, {"boxes": boxes, "labels": labels})  # (n, m, 4) in pixels, ints (n, m)
    ```
    """

    def __init__(
        self,
        backbone: str | SepViTConfig | keras.Model,
        num_classes: int,
        bounding_box_format: str = "xyxy",
        image_shape: ImageShape | None = None,
        weights: str | os.PathLike[str] | None = None,
        drop_path_rate: float | None = None,
        anchor_scale: float = 4.0,
        channels: int = 256,
        num_convs: int = 4,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        max_detections: int = 100,
        dtype: str | keras.DTypePolicy | None = None,
        **kwargs: Any,
    ) -> None:
        config = {
            "num_classes": num_classes,
            "bounding_box_format": bounding_box_format,
            "anchor_scale": positive_number("anchor_scale", anchor_scale),
            "channels": channels,
            "num_convs": num_convs,
            "score_threshold": score_threshold,
            "iou_threshold": iou_threshold,
            "max_detections": max_detections,
        }
        check_arguments(RetinaNet, weights, kwargs, config, _CANDIDATES)
        policy = policy_of(dtype)
        backbone = pyramid_backbone(backbone, LEVELS, image_shape, drop_path_rate, policy)
        anchors = Anchors(scale=config["anchor_scale"])
        neck = FPN(channels, _EXTRA_LEVELS, dtype=policy, name="neck")
        head = RetinaHead(
            num_classes, anchors.per_place, channels, num_convs, dtype=policy, name="bbox_head"
        )
        outputs = head(neck([backbone.pyramid_outputs[level] for level in LEVELS]))
        super().__init__(backbone, outputs, anchors, weights, policy, config, **kwargs)

    def losses_of(self, targets, outputs):
        """`retinanet_losses` of targets in pixels and corners, and raw outputs."""
        return retinanet_losses(targets, outputs, self.anchors)

    def detections(self, outputs, image_size, sizes=None):
        """`retinanet_detections` of raw outputs, in pixels and corners, by `decoding`."""
        return retinanet_detections(outputs, self.anchors, image_size, sizes, **self.decoding)
