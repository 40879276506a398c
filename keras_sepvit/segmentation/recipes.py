"""Recipes of segmentation.

Sources of the numbers: the paper (arXiv 2203.15380, section 4.3) and the authors' code, which is
mmsegmentation 0.10 with configurations of their own.
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

HEADS = ("semantic_fpn", "upernet")

# Pictures of a step in the authors' runs: 8 GPUs of 2.
_BATCH = 16


@dataclass
class ModelRecipe:
    """The network.

    Attributes:
        head: `semantic_fpn`, or `upernet`, which has an auxiliary head in training.
        variant: The backbone: `sepvit_lite`, `sepvit_t`, `sepvit_s`, `sepvit_b`, or
            `sepvit_scenes`, the small one of the scenes of digits.
        image_size: (height, width) in pixels of the crops to train on and of the canvas that
            photos are fitted into for evaluation.
        channels: Channels of neck and heads; null for mmsegmentation's.
        dropout: Probability, in [0, 1), with which a channel is dropped before the last layer.
        drop_path_rate: Drop path rate of the backbone's last block, in [0, 1); null for the
            variant's own.
        weights: Weights to start from: a file, an https:// address with its SHA-256, or a
            registered name, of a classifier, a backbone or a segmenter; null for random ones.
        warm_start: A Swin of equal widths to start from in the place of `weights`: a `.keras` file
            or the name of a KerasHub preset; see `keras_sepvit.warm_start`. Null for none.
        frozen_stages: How many stages, from the image on, keep their weights, from 0 to 4.
    """

    head: str = "semantic_fpn"
    variant: str = "sepvit_t"
    image_size: tuple[int, int] = (512, 512)
    channels: int | None = None
    dropout: float = 0.1
    drop_path_rate: float | None = None
    weights: str | None = None
    warm_start: str | None = None
    frozen_stages: int = 0

    def __post_init__(self):
        self.image_size = tuple(self.image_size)


@dataclass
class DataRecipe:
    """The pictures and their class maps.

    Attributes:
        name: `folder:PATH` for a folder with `images/` and `masks/`, or for ADE20K's own; `scenes`
            for the scenes of digits.
        train_split: Split to train on.
        validation_split: Split to evaluate on; null for none. Where a folder has none, a tenth is
            held out of what is trained on.
    """

    name: str = "???"
    train_split: str = "train"
    validation_split: str | None = "validation"


@dataclass
class AugmentationRecipe:
    """What is done to training pictures and their maps (paper, section 4.3: mmsegmentation's).

    Attributes:
        sides: The shorter and the longer side that a picture is fitted into, in pixels; null for
            the shorter one of `model.image_size` and four times that (paper: 512 and 2048).
        scale: Least and largest number that both are multiplied by.
        largest_share: The largest share of a crop's labelled pixels that one class may have;
            crops are drawn again, up to ten times.
        flip: Probability of a horizontal flip.
        distortion: Change brightness, contrast, saturation and hue, each of every second picture.
    """

    sides: tuple[int, int] | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    largest_share: float = 0.75
    flip: float = 0.5
    distortion: bool = True

    def __post_init__(self):
        self.sides = None if self.sides is None else tuple(self.sides)
        self.scale = tuple(self.scale)


@dataclass
class SegmentationRecipe(Recipe):
    """All settings of the training of a segmenter.

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

    task: str = "segmentation"
    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)

    def make_task(self):
        from keras_sepvit.segmentation.task import Segmentation

        return Segmentation(self)

    def check(self):
        super().check()
        model, augmentation = self.model, self.augmentation
        check_choice("model.head", model.head, HEADS)
        check_choice("model.variant", model.variant, (*VARIANTS, SCENES_VARIANT))
        check_warm_start(model)
        check_frozen_stages(model)
        check_rate("model.dropout", model.dropout)
        check_rate("model.drop_path_rate", model.drop_path_rate)
        check(
            "model.image_size",
            model.image_size,
            min(model.image_size) >= 1,
            "two sides, at least 1",
        )
        channels = model.channels
        check("model.channels", channels, channels is None or channels >= 1, "at least 1")
        for name in ("sides", "scale"):
            pair = getattr(augmentation, name)
            rising = pair is None or 0 < pair[0] <= pair[1]
            check(f"augmentation.{name}", pair, rising, "two numbers above 0 in rising order")
        share, flip = augmentation.largest_share, augmentation.flip
        check("augmentation.largest_share", share, 0 < share <= 1, "above 0 and at most 1")
        check("augmentation.flip", flip, 0 <= flip <= 1, "from 0 to 1")


def _ade20k(head, variant, drop_path_rate, steps, **optimizer):
    return SegmentationRecipe(
        model=ModelRecipe(head=head, variant=variant, drop_path_rate=drop_path_rate),
        optimizer=OptimizerRecipe(
            reference_batch=_BATCH,
            schedule="polynomial",
            warmup_epochs=0,
            clip_norm=None,
            **optimizer,
        ),
        images=steps * _BATCH,
        batch_size=_BATCH,
        precision="float32",
    )


def _semantic_fpn(variant, drop_path_rate):
    return _ade20k(
        "semantic_fpn",
        variant,
        drop_path_rate,
        steps=80_000,
        learning_rate=1e-4,
        power=0.9,
        final_learning_rate=1e-6,
        weight_decay=1e-4,
        spared=(),
    )


def _upernet(variant, drop_path_rate, weight_decay):
    return _ade20k(
        "upernet",
        variant,
        drop_path_rate,
        steps=160_000,
        learning_rate=6e-5,
        power=1.0,
        final_learning_rate=0.0,
        warmup_images=1_500 * _BATCH,
        warmup_ratio=1e-6,
        weight_decay=weight_decay,
        # By name in the code, `norm` and `pos_block`: batch norms and all biases are decayed.
        spared=("norm", "peg"),
    )


# Own pictures with masks, from any weights or none. Our choice, after common practice: the
# backbone, which is trained already, changes less than the new head.
_FINETUNE = SegmentationRecipe(
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

# Scenes of handwritten digits, from random weights. Digits are not flipped, and scenes have colours
# of all kinds already. They are enlarged, for logits at a quarter of the size miss thin strokes.
_SEGMENT_DIGITS = SegmentationRecipe(
    model=ModelRecipe(
        variant=SCENES_VARIANT,
        image_size=(160, 160),
        channels=64,
        dropout=0.0,
        drop_path_rate=0.0,
    ),
    data=DataRecipe(name="scenes"),
    augmentation=AugmentationRecipe(
        scale=(0.8, 1.25), largest_share=1.0, flip=0.0, distortion=False
    ),
    optimizer=OptimizerRecipe(
        learning_rate=4e-3, reference_batch=8, warmup_epochs=0.5, weight_decay=0.05
    ),
    epochs=8,
    batch_size=8,
    ema_decay=0.99,
    checkpoint_steps=0,
)

RECIPES = types.MappingProxyType(
    {
        "segment_digits": _SEGMENT_DIGITS,
        "ade20k_fpn_t": _semantic_fpn("sepvit_t", 0.2),
        "ade20k_fpn_s": _semantic_fpn("sepvit_s", 0.3),
        "ade20k_fpn_b": _semantic_fpn("sepvit_b", 0.4),  # 0.5 in the code
        "ade20k_upernet_t": _upernet("sepvit_t", 0.2, 0.01),
        "ade20k_upernet_s": _upernet("sepvit_s", 0.3, 0.01),
        "ade20k_upernet_b": _upernet("sepvit_b", 0.5, 0.03),
        "finetune_segmenter": _FINETUNE,
    }
)
