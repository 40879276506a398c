"""Recipes of detection.

Sources of the numbers: the paper (arXiv 2203.15380, section 4.2) and the authors' code, which is
mmdetection 2.8 with configurations of their own.
"""

import types
from dataclasses import dataclass, field

from keras_sepvit.configs import SCENES_VARIANT, VARIANTS
from keras_sepvit.training.recipe import (
    OptimizerRecipe,
    Recipe,
    check,
    check_choice,
    check_frozen_stages,
    check_rate,
    check_warm_start,
)

# Pictures of a step in the authors' runs: 8 GPUs of 2.
_BATCH = 16


@dataclass
class ModelRecipe:
    """The network, a RetinaNet.

    Attributes:
        variant: The backbone: `sepvit_lite`, `sepvit_t`, `sepvit_s`, `sepvit_b`, or
            `sepvit_scenes`, the small one of the scenes of digits.
        image_size: (height, width) in pixels of the canvas that photos are fitted into. Where it
            is no square, photos that stand have it turned, and batches do not mix the two.
        channels: Channels of neck and heads.
        num_convs: Convolutions of each head before its last one.
        anchor_scale: Side of the smallest anchor, as a multiple of its level's stride: 4 makes
            anchors of 32 pixels and more, 2 of 16 and more.
        drop_path_rate: Drop path rate of the backbone's last block, in [0, 1); null for the
            variant's own.
        weights: Weights to start from: a file, an https:// address with its SHA-256, or a
            registered name, of a classifier, a backbone or a detector; null for random ones.
        warm_start: A Swin of equal widths to start from in the place of `weights`: a `.keras` file
            or the name of a KerasHub preset; see `keras_sepvit.warm_start`. Null for none.
        frozen_stages: How many stages, from the image on, keep their weights, from 0 to 4.
    """

    variant: str = "sepvit_t"
    image_size: tuple[int, int] = (640, 640)
    channels: int = 256
    num_convs: int = 4
    anchor_scale: float = 4.0
    drop_path_rate: float | None = None
    weights: str | None = None
    warm_start: str | None = None
    frozen_stages: int = 0

    def __post_init__(self):
        self.image_size = tuple(self.image_size)


@dataclass
class DataRecipe:
    """The pictures and their boxes.

    Attributes:
        name: `folder:PATH` for a folder in COCO's own layout, in COCO's or in YOLO's form;
            `scenes` for the scenes of digits.
        train_split: Split to train on.
        validation_split: Split to evaluate on; null for none. Where a folder has none, a tenth is
            held out of what is trained on.
        keep_empty: Train on pictures without objects too.
    """

    name: str = "???"
    train_split: str = "train"
    validation_split: str | None = "validation"
    keep_empty: bool = False


@dataclass
class AugmentationRecipe:
    """What is done to training pictures and their boxes.

    Attributes:
        flip: Probability of a horizontal flip.
        short_sides: Shorter sides in pixels, of which one is drawn for a picture to be fitted
            into, with `long_side`; null for those from half of the shorter one of
            `model.image_size` to the whole, by 32.
        long_side: The most that the longer side may become; null for the longer one of
            `model.image_size`.
        crops: Share of the pictures that are cropped before that, as DETR's are (arXiv
            2005.12872): the shorter side becomes 400, 500 or 600, the crop 384 to 600 each way.
        visible: Boxes of which a crop shows a smaller share of the area are left out, in [0, 1).
        distortion: Change brightness, contrast, saturation and hue, each of every second picture.
    """

    flip: float = 0.5
    short_sides: tuple[int, ...] | None = None
    long_side: int | None = None
    crops: float = 0.0
    visible: float = 0.0
    distortion: bool = False

    def __post_init__(self):
        if self.short_sides is not None:
            self.short_sides = tuple(self.short_sides)

    def sides(self, image_size):
        """The shorter sides and the longer one, on a canvas of that (height, width)."""
        shorter, longer = sorted(image_size)
        sides, longest = self.short_sides, self.long_side
        if sides is None:
            sides = tuple(sorted(range(shorter, shorter // 2 - 1, -32)))
        return sides, longer if longest is None else longest


@dataclass
class DetectionRecipe(Recipe):
    """All settings of the training of a detector.

    `batch_size`, `optimizer.learning_rate`, `optimizer.backbone_rate` and
    `optimizer.warmup_epochs` may be null: the number of pictures decides the first, that of epochs
    the last, whether there are weights to start from the others.

    Attributes:
        model, data, augmentation: See their classes.
    """

    AUTOMATIC = (
        *("batch_size", "optimizer.learning_rate", "optimizer.backbone_rate"),
        "optimizer.warmup_epochs",
    )

    task: str = "detection"
    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)

    def make_task(self):
        from keras_sepvit.detection.task import Detection

        return Detection(self)

    def check(self):
        super().check()
        model, augmentation = self.model, self.augmentation
        check_choice("model.variant", model.variant, (*VARIANTS, SCENES_VARIANT))
        check_warm_start(model)
        check_frozen_stages(model)
        check_rate("model.drop_path_rate", model.drop_path_rate)
        size, scale = model.image_size, model.anchor_scale
        check("model.image_size", size, min(size) >= 32, "two sides, at least 32")
        check("model.channels", model.channels, model.channels >= 1, "at least 1")
        check("model.num_convs", model.num_convs, model.num_convs >= 0, "at least 0")
        check("model.anchor_scale", scale, scale > 0, "above 0")
        sides, longest = augmentation.sides(size)
        fitting = all(1 <= side <= min(size) for side in sides) and len(sides) > 0
        expected = f"sides from 1 to the shorter one of model.image_size ({min(size)})"
        check("augmentation.short_sides", sides, fitting, expected)
        fitting = max(sides) <= longest <= max(size)
        expected = (
            f"from the largest of augmentation.short_sides ({max(sides)}) to the longer side of "
            f"model.image_size ({max(size)})"
        )
        check("augmentation.long_side", longest, fitting, expected)
        for name in ("flip", "crops"):
            share = getattr(augmentation, name)
            check(f"augmentation.{name}", share, 0 <= share <= 1, "from 0 to 1")
        check_rate("augmentation.visible", augmentation.visible)


def _coco(recipe_class, model, learning_rate, optimizer, augmentation, epochs):
    return recipe_class(
        model=model,
        augmentation=augmentation,
        optimizer=OptimizerRecipe(
            learning_rate=learning_rate,
            reference_batch=_BATCH,
            schedule="steps",
            warmup_images=500 * _BATCH,
            warmup_ratio=1e-3,
            clip_norm=None,
            **optimizer,
        ),
        epochs=epochs,
        batch_size=_BATCH,
        precision="float32",
    )


def coco_1x(recipe_class, model, learning_rate, weight_decay):
    """A recipe of the paper's with 12 epochs of COCO, for a model of (800, 1344)."""
    augmentation = AugmentationRecipe(short_sides=(800,), long_side=1333)
    optimizer = {"milestones": (8, 11), "weight_decay": weight_decay, "spared": ()}
    return _coco(recipe_class, model, learning_rate, optimizer, augmentation, epochs=12)


def coco_3x(recipe_class, model, learning_rate, weight_decay):
    """The same with 36 epochs, and pictures of many sizes."""
    augmentation = AugmentationRecipe(
        short_sides=tuple(range(480, 801, 32)), long_side=1333, crops=0.5
    )
    # By name in the code, `norm` and `pos_block`: no other biases.
    spared = ("norm", "peg")
    optimizer = {"milestones": (27, 33), "weight_decay": weight_decay, "spared": spared}
    return _coco(recipe_class, model, learning_rate, optimizer, augmentation, epochs=36)


def finetuning(recipe_class):
    """A recipe for own pictures with labels, from any weights or none.

    Our choice, after common practice: the backbone, which is trained already, changes less than
    the new neck and heads.
    """
    return recipe_class(
        augmentation=AugmentationRecipe(distortion=True),
        optimizer=OptimizerRecipe(
            learning_rate=None,
            reference_batch=None,
            warmup_epochs=None,
            final_learning_rate=1e-6,
            weight_decay=0.01,
            backbone_rate=None,
        ),
        epochs=100,
        patience=25,
        batch_size=None,
    )


def _retinanet(recipe_of, variant, weight_decay, drop_path_rate):
    size = (800, 1344)
    model = ModelRecipe(variant=variant, image_size=size, drop_path_rate=drop_path_rate)
    return recipe_of(DetectionRecipe, model, learning_rate=1e-4, weight_decay=weight_decay)


# Scenes of handwritten digits, from random weights. Digits are not flipped, and scenes have sizes,
# places and colours of all kinds already. Anchors are small, as digits are. Of learning rates of
# 1e-3, 2e-3, 4e-3 and 8e-3 this one had the highest AP50 after 2,000 steps; without clipping the
# first steps go astray.
_DETECT_DIGITS = DetectionRecipe(
    model=ModelRecipe(
        variant=SCENES_VARIANT,
        image_size=(128, 128),
        channels=64,
        num_convs=2,
        anchor_scale=2.0,
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
    epochs=12,
    batch_size=8,
    ema_decay=0.99,
    checkpoint_steps=0,
)

RECIPES = types.MappingProxyType(
    {
        "detect_digits": _DETECT_DIGITS,
        "coco_retinanet_t_1x": _retinanet(coco_1x, "sepvit_t", 1e-3, 0.2),
        "coco_retinanet_t_3x": _retinanet(coco_3x, "sepvit_t", 0.05, 0.3),  # 0.2 in the code
        "coco_retinanet_s_1x": _retinanet(coco_1x, "sepvit_s", 1e-4, 0.3),
        "coco_retinanet_s_3x": _retinanet(coco_3x, "sepvit_s", 0.1, 0.3),
        "finetune_detector": finetuning(DetectionRecipe),
    }
)
