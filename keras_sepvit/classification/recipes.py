"""Recipes of classification.

Sources of the numbers: the paper (arXiv 2203.15380, section 4.1) and the authors' code, which
is DeiT's with timm. Where the two differ, the paper's value is the default and the field says
what the code has.
"""

import re
import types
from dataclasses import dataclass, field

from keras_sepvit.classification.randaugment_settings import RandAugmentSettings
from keras_sepvit.configs import DIGITS_VARIANT, VARIANTS
from keras_sepvit.record import INTERPOLATIONS
from keras_sepvit.training.recipe import (
    OptimizerRecipe,
    Recipe,
    check,
    check_choice,
    check_rate,
    check_warm_start,
)


@dataclass
class ModelRecipe:
    """The network.

    Attributes:
        variant: `sepvit_lite`, `sepvit_t`, `sepvit_s`, `sepvit_b`, or `sepvit_digits`, the
            small one of the embedded digits set.
        image_size: Height and width of the images in pixels; null for the weights' or, from
            random ones, 224 on accelerators and 128 without.
        drop_path_rate: Drop path rate of the last block, in [0, 1); null for the variant's own
            (paper, section 4.1: 0.2, 0.3 and 0.5 for T, S and B).
        weights: Weights to start from: a file, an https:// address with its SHA-256, or a
            registered name; null for random ones. Another number of classes gets a new head.
        warm_start: A Swin of equal widths to start from in the place of `weights`: a `.keras` file
            or the name of a KerasHub preset; see `keras_sepvit.warm_start`. Null for none.
        pad_windows: Keep the windows' size at every image size, instead of scaling them.
        residual_in_fp32: Keep the maps between the branches of blocks in float32 under mixed
            precision, as the code's autocast does.
        frozen_stages: How many stages, from the image on, keep their weights, from 0 to 4.
        frozen_backbone: Train the head alone.
    """

    variant: str = "sepvit_t"
    image_size: int | None = 224
    drop_path_rate: float | None = None
    weights: str | None = None
    warm_start: str | None = None
    pad_windows: bool = False
    residual_in_fp32: bool = False
    frozen_stages: int = 0
    frozen_backbone: bool = False


@dataclass
class DataRecipe:
    """The data set.

    Attributes:
        name: `digits` (comes with scikit-learn), `folder:PATH` for a folder of class folders, or
            the name of a TensorFlow Datasets set such as `imagenet2012`.
        data_dir: Where TensorFlow Datasets keeps prepared sets; null for its default.
        train_split: Split to train on.
        validation_split: Split to evaluate on; null for none. Where a folder has none, a fifth of
            each class is held out of what is trained on.
        validation_crop: Share of the shorter side that the centre crop of evaluation keeps.
        interpolation: `bicubic` or `bilinear`; of evaluation, and of training where
            `augmentation.interpolation` is null.
    """

    name: str = "imagenet2012"
    data_dir: str | None = None
    train_split: str = "train"
    validation_split: str | None = "validation"
    validation_crop: float = 0.875
    interpolation: str = "bicubic"


@dataclass
class AugmentationRecipe:
    """What is done to training images (paper, section 4.1; the numbers are the code's).

    Attributes:
        crop_scale: Least and largest area of the random crop, as a share of the image's.
        crop_ratio: Least and largest width over height of the random crop.
        interpolation: Of the crop's resize; null for that of `data`.
        flip: Probability of a horizontal flip.
        auto_augment: RandAugment in timm's notation; null for none.
        color_jitter: Strength of brightness, contrast and saturation jitter. As in timm it acts
            only where `auto_augment` is null: the code's 0.4 does nothing beside RandAugment.
        force_color_jitter: Jitter colours after RandAugment, too, as the paper's list of
            settings can be read.
        erase_rate: Probability of random erasing, with a normal number for each pixel.
        mixup: Alpha of mixup's Beta distribution; 0 for no mixup.
        cutmix: Alpha of CutMix's Beta distribution; 0 for no CutMix.
        cutmix_rate: Probability of CutMix instead of mixup, where both are on.
        mixing_group: Images that are mixed alike and among themselves, at most those that a
            device has (the code's batch of one GPU: 128).
        label_smoothing: Share of the target spread evenly over all classes.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str | None = None
    flip: float = 0.5
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    color_jitter: float = 0.4
    force_color_jitter: bool = False
    erase_rate: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    cutmix_rate: float = 0.5
    mixing_group: int = 128
    label_smoothing: float = 0.1

    def __post_init__(self):
        self.crop_scale = tuple(self.crop_scale)
        self.crop_ratio = tuple(self.crop_ratio)


@dataclass
class DistillationRecipe:
    """What a student learns of a teacher's answers to its augmented images, beside the labels.

    Soft, by the distance of both softmaxes at a temperature (Hinton et al., arXiv 1503.02531), or
    hard, by the teacher's most likely class (DeiT, arXiv 2012.12877, section 4).

    Attributes:
        teacher: A `.keras`, `.tflite` or `.onnx` file of a classifier of the same classes, the name
            of one of `keras.applications`, or a preset of KerasHub; null for none.
        weight: The teacher's share of the loss, from 0 to 1; null for DeiT's: 0.1 of soft and 0.5
            of hard distillation. 0 is as no teacher.
        temperature: Of soft distillation, which divides the logits of both (DeiT: 3); hard
            distillation has none.
        hard: Hard distillation.
        sha256: Checksum of the teacher's file; null for any. A run writes it into its recipe, and
            goes on with the same file only.
    """

    teacher: str | None = None
    weight: float | None = None
    temperature: float = 3.0
    hard: bool = False
    sha256: str | None = None

    @property
    def share(self):
        """The teacher's share of the loss; 0 without one."""
        if self.teacher is None:
            return 0.0
        if self.weight is None:
            return 0.5 if self.hard else 0.1
        return self.weight


@dataclass
class ClassificationRecipe(Recipe):
    """All settings of the training of a classifier.

    `batch_size`, `model.image_size` and `optimizer.learning_rate` may be null: they are decided by
    the device, its memory, the number of images, and whether the weights are trained ones.

    Attributes:
        model, data, augmentation, distill: See their classes.
    """

    AUTOMATIC = (
        "batch_size",
        "model.image_size",
        "optimizer.learning_rate",
        "optimizer.warmup_epochs",
        "distill.sha256",
    )
    MAY_CHANGE = (*Recipe.MAY_CHANGE, "data.data_dir")

    task: str = "classification"
    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)
    distill: DistillationRecipe = field(default_factory=DistillationRecipe)

    def make_task(self):
        from keras_sepvit.classification.task import Classification

        return Classification(self)

    def check(self):
        super().check()
        model, augmentation, crop = self.model, self.augmentation, self.data.validation_crop
        check_choice("model.variant", model.variant, (*VARIANTS, DIGITS_VARIANT))
        check_choice("data.interpolation", self.data.interpolation, INTERPOLATIONS)
        if augmentation.interpolation is not None:
            choices = (*INTERPOLATIONS, "random")
            check_choice("augmentation.interpolation", augmentation.interpolation, choices)
        if augmentation.auto_augment is not None:
            try:
                RandAugmentSettings.from_string(augmentation.auto_augment)
            except ValueError as error:
                raise ValueError(f"augmentation.auto_augment: {error}") from error
        check("data.validation_crop", crop, 0 < crop <= 1, "above 0 and at most 1")
        size = model.image_size
        check("model.image_size", size, size is None or size >= 1, "at least 1")
        check_choice("model.frozen_stages", model.frozen_stages, range(5))
        check_warm_start(model)
        frozen, expected = model.frozen_backbone, "false with model.warm_start"
        check("model.frozen_backbone", frozen, not frozen or model.warm_start is None, expected)
        check_rate("model.drop_path_rate", model.drop_path_rate)
        check_rate("augmentation.label_smoothing", augmentation.label_smoothing)
        for name in ("flip", "erase_rate", "cutmix_rate", "color_jitter"):
            value = getattr(augmentation, name)
            check(f"augmentation.{name}", value, 0 <= value <= 1, "from 0 to 1")
        for name in ("mixup", "cutmix"):
            value = getattr(augmentation, name)
            check(f"augmentation.{name}", value, value >= 0, "at least 0")
        for name in ("crop_scale", "crop_ratio"):
            pair = getattr(augmentation, name)
            rising = 0 < pair[0] <= pair[1]
            check(f"augmentation.{name}", pair, rising, "two numbers above 0 in rising order")
        largest = augmentation.crop_scale[1]
        check("augmentation.crop_scale", augmentation.crop_scale, largest <= 1, "at most 1")
        group = augmentation.mixing_group
        check("augmentation.mixing_group", group, group >= 1, "at least 1")
        weight, temperature, sha256 = (
            getattr(self.distill, name) for name in ("weight", "temperature", "sha256")
        )
        check("distill.weight", weight, weight is None or 0 <= weight <= 1, "from 0 to 1, or null")
        if self.distill.teacher is None:
            check("distill.weight", weight, not weight, "null without distill.teacher")
            hard = self.distill.hard
            check("distill.hard", hard, not hard, "false without distill.teacher")
        check("distill.temperature", temperature, temperature > 0, "above 0")
        valid = sha256 is None or re.fullmatch("[0-9a-f]{64}", sha256)
        check("distill.sha256", sha256, valid, "64 hexadecimal digits in lower case, or null")


def _imagenet(variant, **optimizer):
    return ClassificationRecipe(
        model=ModelRecipe(variant=variant), optimizer=OptimizerRecipe(**optimizer)
    )


# Fine-tuning at 384 pixels from weights trained at 224. The paper has no such experiment; the
# numbers are those of Swin (arXiv 2103.14030, section 4.1) for the same step.
_FINETUNE_384 = ClassificationRecipe(
    model=ModelRecipe(image_size=384, weights="???", drop_path_rate=0.1),
    data=DataRecipe(validation_crop=1.0),
    augmentation=AugmentationRecipe(mixup=0.0, cutmix=0.0),
    optimizer=OptimizerRecipe(
        learning_rate=2e-5,
        warmup_epochs=5,
        warmup_learning_rate=2e-8,
        final_learning_rate=2e-7,
        weight_decay=1e-8,
    ),
    epochs=30,
)

# Fine-tuning on a smaller set of other classes. Our choice, after common practice: layers near
# the image change less.
_FINETUNE = ClassificationRecipe(
    model=ModelRecipe(weights="???", drop_path_rate=0.1),
    data=DataRecipe(name="???"),
    augmentation=AugmentationRecipe(crop_scale=(0.3, 1.0), mixup=0.0, cutmix=0.0),
    optimizer=OptimizerRecipe(
        learning_rate=1e-4,
        reference_batch=128,
        warmup_epochs=2,
        final_learning_rate=1e-6,
        layer_decay=0.75,
    ),
    epochs=30,
    batch_size=128,
)

# A new head on frozen features: no regularisation that only large models need.
_FROZEN_BACKBONE = ClassificationRecipe(
    model=ModelRecipe(weights="???", drop_path_rate=0.0, frozen_backbone=True),
    data=DataRecipe(name="???"),
    augmentation=AugmentationRecipe(
        crop_scale=(0.3, 1.0),
        auto_augment=None,
        color_jitter=0.0,
        erase_rate=0.0,
        mixup=0.0,
        cutmix=0.0,
    ),
    optimizer=OptimizerRecipe(
        learning_rate=1e-3,
        reference_batch=128,
        warmup_epochs=1,
        final_learning_rate=0.0,
        weight_decay=0.0,
        clip_norm=None,
    ),
    epochs=20,
    batch_size=128,
)

# Own photos, few of them, from any weights or none: a small network, mild augmentation, and an end
# as soon as nothing gets better. Our choice, tried on folders of 40 photos a class.
_PHOTOS = ClassificationRecipe(
    model=ModelRecipe(variant="sepvit_lite", image_size=None),
    data=DataRecipe(name="???", validation_crop=1.0),
    augmentation=AugmentationRecipe(
        crop_scale=(0.4, 1.0),
        auto_augment=None,
        color_jitter=0.3,
        erase_rate=0.0,
        mixup=0.0,
        cutmix=0.0,
    ),
    optimizer=OptimizerRecipe(
        learning_rate=None, reference_batch=None, warmup_epochs=None, final_learning_rate=1e-6
    ),
    epochs=100,
    patience=25,
    batch_size=None,
)

# The embedded set of 8 x 8 scans, with everything of the large recipe in small doses. Digits
# are not flipped.
_DIGITS = ClassificationRecipe(
    model=ModelRecipe(variant=DIGITS_VARIANT, image_size=32),
    data=DataRecipe(name="digits", validation_crop=1.0, interpolation="bilinear"),
    augmentation=AugmentationRecipe(
        crop_scale=(0.8, 1.0),
        crop_ratio=(0.85, 1.18),
        flip=0.0,
        auto_augment="rand-m6-mstd0.5-inc1",
        erase_rate=0.1,
        mixup=0.2,
        cutmix=0.3,
    ),
    optimizer=OptimizerRecipe(learning_rate=3e-3, reference_batch=64, warmup_epochs=5),
    epochs=80,
    batch_size=64,
    ema_decay=0.99,
    checkpoint_steps=0,
)

RECIPES = types.MappingProxyType(
    {
        "digits": _DIGITS,
        "imagenet_lite": _imagenet("sepvit_lite"),
        "imagenet_t": _imagenet("sepvit_t"),
        "imagenet_s": _imagenet("sepvit_s"),
        "imagenet_b": _imagenet("sepvit_b", warmup_epochs=20, weight_decay=0.1),
        "finetune_384": _FINETUNE_384,
        "finetune": _FINETUNE,
        "frozen_backbone": _FROZEN_BACKBONE,
        "photos": _PHOTOS,
    }
)
