"""Mask R-CNN (arXiv 1703.06870) in the form of mmdetection."""

import os
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_sepvit.configs import ImageShape, SepViTConfig
from keras_sepvit.detection.anchors import Anchors
from keras_sepvit.detection.detector import Detector, check_arguments
from keras_sepvit.detection.proposals import (
    PAIRS,
    DetectedMasks,
    Proposals,
    RoIDetections,
    masks_of_labels,
    rpn_proposals,
)
from keras_sepvit.detection.rcnn_losses import mask_rcnn_losses
from keras_sepvit.detection.roi_heads import BoxHead, MaskHead, RPNHead
from keras_sepvit.detection.rois import RoIAlign
from keras_sepvit.detection.sampling import sample_anchors, sample_rois
from keras_sepvit.pyramid import FPN, pyramid_backbone
from keras_sepvit.stages import argument, check_images
from keras_sepvit.training.masks import MASK_SIZE
from keras_sepvit.validation import policy_of, positive_int, positive_number

LEVELS = ("P2", "P3", "P4", "P5")
_STRIDES = (4, 8, 16, 32, 64)  # of P6, too

# Sides of regions in front of the box head and the mask head.
_BOX_SIDE, _MASK_SIDE = 7, 14


@keras.saving.register_keras_serializable(package="keras_sepvit")
class MaskRCNN(Detector):
    """A detector in two stages that gives the mask of each object: Mask R-CNN.

    The first stage proposes boxes; the second says of what class each is, and moves it. Masks are
    made of the boxes that are found. `fit` needs no loss: it is the sum of the five of
    `keras_sepvit.detection.mask_rcnn_losses`. Targets are dicts of `"boxes"` (images, boxes, 4)
    and `"labels"` (images, boxes), padded with -1; `"masks"` (images, boxes, 112, 112) or of
    another side, uint8: what each object covers of its own box, which is the whole grid, 0..255;
    and maybe `"sizes"` (images, 2), the height and width of each picture where it is padded. An
    object whose mask is all zeros trains its box only. Arrays that cannot be right are refused; in
    data sets labels out of range make the loss NaN. Anchors and proposals to train on are drawn at
    random, by the model's own seed; in `evaluate` the same each time.

    With a dict of `"images"` and such targets, boxes in pixels and corners, the model gives what
    the losses are made of: see `mask_rcnn_losses`.

    Args:
        backbone: As for `RetinaNet`, for `"P2"` to `"P5"`.
        num_classes, bounding_box_format, image_shape, weights, drop_path_rate: As for `RetinaNet`.
        anchor_scale: Side of the anchors in strides of their level: with 8 those of P2 are 32
            pixels wide. Give that of the model that weights are of, as for `RetinaNet`.
        channels: Channels of the FPN, the RPN and the mask head.
        units: Units of the two layers of the box head.
        num_convs: Convolutions of the mask head before its transposed one.
        proposals: Proposals that the second stage looks at. In front of the suppression as many
            of each level are looked at, in training twice as many.
        samples: Proposals of a picture that the second stage is trained on, a quarter of them
            with an object; 4 or more.
        score_threshold, iou_threshold: As for `RetinaNet`.
        max_detections: Most detections of an image, 1 to 2,000; masks of all are computed.
        dtype: Dtype policy of all that is made here; the global policy by default. Answers and
            losses are float32.
        **kwargs: `name` and `trainable` of `keras.Model`.

    Attributes:
        anchors: The `Anchors`.
        backbone: The backbone; `backbone.freeze(stages)` freezes a SepViT's.
        decoding: Dict of the two thresholds and `max_detections`.
        All arguments but `weights` and `drop_path_rate`: As they are in the model; read-only.

    Input shape: `(batch, height, width, 3)`; images of 0..255, or what a model as `backbone`
        takes.

    Output shape: dict of `"boxes"` `(batch, max_detections, 4)`, `"labels"` and `"confidence"`
        `(batch, max_detections)`, the best first and -1 past the last; `"num_detections"`
        `(batch,)`; and `"masks"` `(batch, max_detections, 28, 28)`, float32 in 0..1, each over its
        own box, 0 past the last. Boxes are left, top, right, bottom in pixels; of `predict` in
        `bounding_box_format`.

    Raises:
        ValueError, FileNotFoundError: As `RetinaNet`.

    Example:

    ```python
    model = keras_sepvit.detection.MaskRCNN("sepvit_t", num_classes=80)
    model.compile("adamw")
    model.fit(images, {"boxes": boxes, "labels": labels, "masks": masks})
    ```
    """

    _loss_in_words = (
        "of proposals, classes, boxes and masks. Leave out {what}; pictures without objects have "
        "rows of padding alone, of label -1."
    )
    _target_shapes = {**Detector._target_shapes, "masks": ("images", "boxes", "side", "side")}
    _targets_in_words = (
        f"{Detector._targets_in_words}, and 'masks' (images, boxes, 112, 112), each object's over "
        "its own box"
    )

    units = argument("units")
    proposals = argument("proposals")
    samples = argument("samples")

    def __init__(
        self,
        backbone: str | SepViTConfig | keras.Model,
        num_classes: int,
        bounding_box_format: str = "xyxy",
        image_shape: ImageShape | None = None,
        weights: str | os.PathLike[str] | None = None,
        drop_path_rate: float | None = None,
        anchor_scale: float = 8.0,
        channels: int = 256,
        units: int = 1024,
        num_convs: int = 4,
        proposals: int = 1000,
        samples: int = 512,
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
            "units": units,
            "num_convs": num_convs,
            "proposals": positive_int("proposals", proposals),
            "samples": samples,
            "score_threshold": score_threshold,
            "iou_threshold": iou_threshold,
            "max_detections": max_detections,
        }
        check_arguments(MaskRCNN, weights, kwargs, config, PAIRS)
        if positive_int("samples", samples) < 4:
            raise ValueError(
                "`samples` must be 4 or more: a quarter of them are proposals with an object. "
                f"Received: samples={samples}."
            )
        policy = policy_of(dtype)
        backbone = pyramid_backbone(backbone, LEVELS, image_shape, drop_path_rate, policy)
        images = backbone.inputs[0]
        anchors = Anchors(scale=config["anchor_scale"], octaves=1, strides=_STRIDES)
        maps = FPN(channels, dtype=policy, name="neck")(
            [backbone.pyramid_outputs[level] for level in LEVELS]
        )
        last = layers.MaxPooling2D(
            1, strides=2, data_format="channels_last", dtype=policy, name="p6"
        )(maps[-1])
        rpn = RPNHead(anchors.per_place, channels, dtype=policy, name="rpn_head")([*maps, last])
        rois, scores = Proposals(anchors, proposals, proposals, name="proposals")(rpn, images)
        box_align = RoIAlign(_BOX_SIDE, dtype=policy, name="bbox_roi_extractor")
        box_head = BoxHead(num_classes, units, dtype=policy, name="bbox_head")
        decode = RoIDetections(score_threshold, iou_threshold, max_detections, name="detections")
        found = decode(box_head(box_align(maps, rois)), rois, scores, images)
        mask_align = RoIAlign(_MASK_SIDE, dtype=policy, name="mask_roi_extractor")
        mask_head = MaskHead(num_classes, channels, num_convs, dtype=policy, name="mask_head")
        masks = mask_head(mask_align(maps, found["boxes"]))
        masks = DetectedMasks(name="masks")(masks, found["labels"])
        super().__init__(
            backbone, {**found, "masks": masks}, anchors, weights, policy, config, **kwargs
        )
        self.seed_generator = keras.random.SeedGenerator()
        # Its method alone is kept: as an attribute the model would be part of files.
        self._first_stage = keras.Model(images, {"maps": maps, "rpn": rpn}).__call__
        self.input_spec = None  # of images alone, but there may be targets with them

    def _compute(self, inputs, training=None, **kwargs):
        if not isinstance(inputs, dict):
            return super()._compute(inputs, training=training, **kwargs)
        targets = dict(inputs)
        images = targets.pop("images")
        check_images(self, images)
        return self._training_outputs(images, targets, training)

    def _training_outputs(self, images, targets, training):
        """What `mask_rcnn_losses` are made of."""
        size, seed = ops.shape(images)[1:3], self.seed_generator if training else 0
        classes, samples = self.num_classes, self.samples
        first = self._first_stage(images, training=training)
        maps, rpn = first["maps"], first["rpn"]
        outputs = sample_anchors(targets, rpn, self.anchors, size, seed)
        count = self.proposals
        proposals = rpn_proposals(rpn, self.anchors, size, targets.get("sizes"), 2 * count, count)
        sampled = sample_rois(targets, *proposals, classes, size, seed, samples)
        rois, labels = sampled["rois"], sampled["roi_labels"]
        regions = self.get_layer("bbox_roi_extractor")(maps, rois)
        found = self.get_layer("bbox_head")(regions, training=training)
        rois, labels = (x[:, : samples // 4] for x in (rois, labels))  # those with an object
        regions = self.get_layer("mask_roi_extractor")(maps, rois)
        masks = self.get_layer("mask_head")(regions, training=training)
        boxes = ops.reshape(found["boxes"], (-1, samples, classes, 4))[:, : samples // 4]
        labels = ops.clip(labels, 0, classes - 1)
        of_label = ops.expand_dims(labels, -1) == ops.arange(classes, dtype="int32")
        return {
            **outputs,
            **sampled,
            "classes": ops.reshape(found["classes"], (-1, samples, classes + 1)),
            "boxes": ops.sum(ops.where(ops.expand_dims(of_label, -1), boxes, 0.0), axis=2),
            "masks": masks_of_labels(masks, labels),
        }

    def losses_of(self, targets, outputs):
        """`mask_rcnn_losses` of targets in pixels and corners, and what the model gives of them."""
        return mask_rcnn_losses(targets, outputs)

    def _loss_pairs(self, x, y, y_pred):
        return self.losses_of(x, y_pred)

    def train_step(self, *args):
        """As Keras's; the targets go into the model beside the images."""
        *state, data = args  # JAX's are given the state, too
        return super().train_step(*state, self._with_targets(data))

    def test_step(self, *args):
        """As Keras's; the targets go into the model beside the images."""
        *state, data = args
        return super().test_step(*state, self._with_targets(data))

    def _with_targets(self, data):
        images, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
        inputs = {**self._in_pixels(targets, images), "images": images}
        self._check_masks(targets["masks"], images)
        # `train_on_batch` of torch is given arrays, which Keras does not mix with tensors.
        return keras.tree.map_structure(ops.convert_to_tensor, inputs), targets, weights

    def _answers(self, outputs, images):
        return self._in_own_format(outputs, *ops.shape(images)[1:3])

    def _check_targets(self, targets):
        super()._check_targets(targets)
        masks = targets.get("masks") if isinstance(targets, dict) else None
        if not isinstance(masks, np.ndarray):
            return
        largest = masks.max(initial=0)
        if masks.dtype != "uint8" or largest == 1:
            advice = "Multiply shares by 255. " if largest in (0, 1) else ""
            self._refuse_masks(f"{masks.dtype} of at most {largest}. {advice}")

    def _refuse_masks(self, received):
        raise ValueError(
            f"Masks for `{self.name}` must be uint8 of 0 to 255, which is all covered. "
            f'Received: {received}`masks.astype("uint8")` is of the right type.'
        )

    def _check_masks(self, masks, images):
        """Refuses masks that cannot be right by their type or their sides."""
        dtype = keras.backend.standardize_dtype(masks.dtype)
        if dtype != "uint8":
            self._refuse_masks(f"{dtype}. ")
        sides = tuple(masks.shape[2:])
        if None not in sides and sides == tuple(images.shape[1:3]) and sides[0] != MASK_SIZE:
            raise ValueError(
                f"Masks for `{self.name}` are over the objects' own boxes, of {MASK_SIZE} x "
                f"{MASK_SIZE}. Received: {sides[0]} x {sides[1]}, the size of the images. "
                "`keras_sepvit.training.masks.cropped(mask, box)` makes one of a whole picture's."
            )
