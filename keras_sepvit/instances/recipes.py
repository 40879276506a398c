"""Recipes of instance segmentation.

Sources of the numbers: the paper (arXiv 2203.15380, section 4.2) and the authors' code, which is
mmdetection 2.8 with configurations of their own.
"""

import types
from dataclasses import dataclass, field

from keras_sepvit.configs import SCENES_VARIANT
from keras_sepvit.detection import recipes as detection
from keras_sepvit.detection.recipes import AugmentationRecipe, DataRecipe, DetectionRecipe
from keras_sepvit.training.recipe import OptimizerRecipe, check


@dataclass
class ModelRecipe(detection.ModelRecipe):
    """The network, a Mask R-CNN.

    Attributes:
        variant, image_size, drop_path_rate, weights, warm_start, frozen_stages: As of detectors.
        channels: Channels of neck, of the proposals' head and of the masks'.
        units: Channels of the two layers of the boxes' head.
        num_convs: Convolutions of the masks' head before it doubles its map.
        anchor_scale: Side of an anchor, as a multiple of its level's stride: 8 makes anchors of
            32 pixels and more, 4 of 16 and more.
        proposals: Proposals of a picture that the boxes' head looks at; a phone does with 100 to
            300.
        samples: Proposals of a picture that it is trained on; of a quarter of them, at most, so
            are masks.
    """

    num_convs: int = 4
    anchor_scale: float = 8.0
    units: int = 1024
    proposals: int = 1000
    samples: int = 512


@dataclass
class InstanceRecipe(DetectionRecipe):
    """All settings of the training of an instance segmenter.

    `batch_size`, `optimizer.learning_rate`, `optimizer.backbone_rate` and
    `optimizer.warmup_epochs` may be null, as of detectors.

    Attributes:
        model: See `ModelRecipe`.
        data, augmentation: As of detectors.
    """

    task: str = "instances"
    model: ModelRecipe = field(default_factory=ModelRecipe)

    def make_task(self):
        from keras_sepvit.instances.task import InstanceSegmentation

        return InstanceSegmentation(self)

    def check(self):
        super().check()
        for name, least in (("num_convs", 1), ("units", 1), ("proposals", 1), ("samples", 4)):
            value = getattr(self.model, name)
            check(f"model.{name}", value, value >= least, f"at least {least}")


def _mask_rcnn(recipe_of, variant, learning_rate, weight_decay, drop_path_rate):
    size = (800, 1344)
    model = ModelRecipe(variant=variant, image_size=size, drop_path_rate=drop_path_rate)
    return recipe_of(InstanceRecipe, model, learning_rate, weight_decay)


# Scenes of handwritten digits, from random weights; see `detect_digits`. Most of a step's time goes
# into the regions: half the samples, 32, take a quarter off, and 500 steps reach an AP50 of 82 %.
_INSTANCES_DIGITS = InstanceRecipe(
    model=ModelRecipe(
        variant=SCENES_VARIANT,
        image_size=(128, 128),
        channels=64,
        num_convs=2,
        units=256,
        anchor_scale=4.0,
        proposals=100,
        samples=32,
        drop_path_rate=0.0,
    ),
    data=DataRecipe(name="scenes"),
    augmentation=AugmentationRecipe(flip=0.0, short_sides=(128,)),
    optimizer=OptimizerRecipe(
        learning_rate=2e-3,
        reference_batch=8,
        warmup_epochs=0.2,
        weight_decay=0.01,
        clip_norm=1.0,
    ),
    epochs=4,
    batch_size=8,
    ema_decay=0.99,
    checkpoint_steps=0,
)

RECIPES = types.MappingProxyType(
    {
        "instances_digits": _INSTANCES_DIGITS,
        "coco_mask_rcnn_t_1x": _mask_rcnn(detection.coco_1x, "sepvit_t", 2e-4, 1e-3, 0.2),
        # The code has drop path 0.2 for T, and float16 for both.
        "coco_mask_rcnn_t_3x": _mask_rcnn(detection.coco_3x, "sepvit_t", 1e-4, 0.05, 0.3),
        "coco_mask_rcnn_s_1x": _mask_rcnn(detection.coco_1x, "sepvit_s", 2e-4, 1e-4, 0.3),
        "coco_mask_rcnn_s_3x": _mask_rcnn(detection.coco_3x, "sepvit_s", 1e-4, 0.1, 0.3),
        "finetune_instances": detection.finetuning(InstanceRecipe),
    }
)
