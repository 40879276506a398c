"""Training recipes: every setting of a run, as typed data.

A recipe is read from a YAML file or taken by name, and changed from the shell with
`key=value` (OmegaConf reads and checks both):

    recipe = load_recipe("imagenet_t", ["data.data_dir=/data", "batch_size=256"])

Sources of the numbers: the paper (arXiv 2203.15380, section 4.1) and the authors' code, which
is DeiT's with timm. Where the two differ, the paper's value is the default and the field says
what the code has.
"""

import dataclasses
import pathlib
import types
from dataclasses import dataclass, field

from keras_sepvit.configs import VARIANTS
from keras_sepvit.files import replacing

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
DISTRIBUTIONS = ("auto", "none")

# The configuration of the embedded digits, a small member beside the published family.
DIGITS_VARIANT = "sepvit_digits"


@dataclass
class ModelRecipe:
    """The network.

    Attributes:
        variant: `sepvit_lite`, `sepvit_t`, `sepvit_s`, `sepvit_b`, or `sepvit_digits`, the
            small one of the embedded digits set.
        image_size: Height and width of the images in pixels.
        drop_path_rate: Drop path rate of the last block, in [0, 1); null for the variant's own
            (paper, section 4.1: 0.2, 0.3 and 0.5 for T, S and B).
        weights: Weights to start from: a file, an https:// address with its SHA-256, or a
            registered name; null for random ones. Another number of classes gets a new head.
        pad_windows: Keep the windows' size at every image size, instead of scaling them.
        frozen_backbone: Train the head alone.
    """

    variant: str = "sepvit_t"
    image_size: int = 224
    drop_path_rate: float | None = None
    weights: str | None = None
    pad_windows: bool = False
    frozen_backbone: bool = False


@dataclass
class DataRecipe:
    """The data set.

    Attributes:
        name: `digits` (comes with scikit-learn), `folder:PATH` for a folder of class folders, or
            the name of a TensorFlow Datasets set such as `imagenet2012`.
        data_dir: Where TensorFlow Datasets keeps prepared sets; null for its default.
        train_split: Split to train on.
        validation_split: Split to evaluate on; null for none.
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
        cutmix_rate: Probability that a batch gets CutMix instead of mixup, where both are on.
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
    label_smoothing: float = 0.1


@dataclass
class OptimizerRecipe:
    """AdamW, its schedule and its exceptions (paper, section 4.1).

    Attributes:
        learning_rate: Peak rate at a global batch of `reference_batch`; scaled in proportion to
            `batch_size`.
        reference_batch: Global batch that `learning_rate` is meant for.
        warmup_epochs: Epochs of linear warm-up (paper: 5, and 20 for SepViT-B).
        warmup_learning_rate: Rate at the first step.
        final_learning_rate: Rate at the end of the cosine.
        weight_decay: Decoupled weight decay, times the learning rate (0.1 for SepViT-B). Never
            of biases and norms.
        decay_tokens_and_peg: Decay window tokens and PEG kernels too. The paper spares them, the
            authors' code in fact decays them.
        clip_norm: Largest global norm of the gradients; null for no clipping (paper: 1; the
            code's launch scripts: 5).
        beta_1, beta_2, epsilon: Adam's.
        layer_decay: The learning rate of a layer is multiplied by this once for every block
            between it and the head; 1 for the same rate everywhere (BEiT, arXiv 2106.08254).
    """

    learning_rate: float = 1e-3
    reference_batch: int = 1024
    warmup_epochs: float = 5
    warmup_learning_rate: float = 1e-6
    final_learning_rate: float = 1e-5
    weight_decay: float = 0.05
    decay_tokens_and_peg: bool = False
    clip_norm: float | None = 1.0
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    layer_decay: float = 1.0


@dataclass
class Recipe:
    """All settings of a training run.

    Attributes:
        model, data, augmentation, optimizer: See their classes.
        epochs: Passes over the training split.
        batch_size: Images of one update, over all devices and processes.
        accumulate: Parts that a batch is divided into; gradients are summed over them before an
            update, for batches that do not fit in memory.
        precision: `float32`, `mixed_bfloat16`, `mixed_float16` (with loss scaling), or `auto`:
            half precision on accelerators that have it, float32 on CPUs.
        ema_decay: Decay of the moving average of the weights, which evaluation and the saved
            models then use; null for none.
        seed: Decides initial weights, order of the data and every random draw.
        checkpoint_steps: Batches between checkpoints within an epoch; 0 for one at each epoch's
            end only.
        jit_compile: Compile the step with XLA or torch.compile; null for what is best on the
            backend and device.
        deterministic: TensorFlow and torch: only operations that give the same bits every time,
            some of them slower. JAX on CPU has no others.
        distribution: `auto` uses all devices and processes, `none` one device.
    """

    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    epochs: int = 300
    batch_size: int = 1024
    accumulate: int = 1
    precision: str = "auto"
    ema_decay: float | None = None
    seed: int = 0
    checkpoint_steps: int = 1000
    jit_compile: bool | None = None
    deterministic: bool = False
    distribution: str = "auto"

    def peak_learning_rate(self):
        """The highest learning rate: `optimizer.learning_rate` scaled to `batch_size`."""
        return self.optimizer.learning_rate * self.batch_size / self.optimizer.reference_batch


def _imagenet(variant, **optimizer):
    return Recipe(model=ModelRecipe(variant=variant), optimizer=OptimizerRecipe(**optimizer))


# Fine-tuning at 384 pixels from weights trained at 224. The paper has no such experiment; the
# numbers are those of Swin (arXiv 2103.14030, section 4.1) for the same step.
_FINETUNE_384 = Recipe(
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
_FINETUNE = Recipe(
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
_FROZEN_BACKBONE = Recipe(
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

# The embedded set of 8 x 8 scans, with everything of the large recipe in small doses. Digits
# are not flipped.
_DIGITS = Recipe(
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
    precision="mixed_bfloat16",
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
    }
)


def load_recipe(source, overrides=()):
    """A recipe by name or from a YAML file, with changes.

    Args:
        source: A name in `RECIPES`, the path of a YAML file whose keys are those of `Recipe`, or
            a `Recipe`. A YAML file may start from a named recipe with the key `recipe`.
        overrides: Changes as `"key=value"`, such as `"optimizer.learning_rate=5e-4"`.

    Returns:
        A new `Recipe`, checked.

    Raises:
        FileNotFoundError: if `source` is neither a name nor a file.
        ValueError: for unknown keys, values of a wrong type or out of range, and values that a
            recipe leaves to the user (such as `model.weights` of `finetune`) and are not given.
    """
    omegaconf = _omegaconf()
    try:
        settings = _settings(source, omegaconf.OmegaConf)
        settings.merge_with_dotlist([_checked_override(text) for text in overrides])
        missing = sorted(omegaconf.OmegaConf.missing_keys(settings))
        if missing:
            raise ValueError(
                f"The recipe {source!r} leaves {', '.join(missing)} to you. Add "
                f"{' '.join(f'{key}=VALUE' for key in missing)}."
            )
        recipe = omegaconf.OmegaConf.to_object(settings)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise ValueError(f"The recipe {source!r} cannot be used: {error}") from error
    return _checked(_with_tuples(recipe))


def save_recipe(recipe, path):
    """Writes a recipe as YAML, which `load_recipe` reads."""
    omega = _omegaconf().OmegaConf
    with replacing(path) as temporary:
        omega.save(omega.structured(recipe), temporary)


def recipe_yaml(recipe):
    """A recipe as YAML text."""
    omega = _omegaconf().OmegaConf
    return omega.to_yaml(omega.structured(recipe))


def _omegaconf():
    try:
        import omegaconf
    except ImportError as error:
        raise ImportError(
            'Training needs OmegaConf. Install it with: pip install "keras-sepvit[train]"'
        ) from error
    return omegaconf


def _settings(source, omega):
    if isinstance(source, Recipe):
        return omega.structured(source)
    if source in RECIPES:
        return omega.structured(RECIPES[source])
    path = pathlib.Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"Unknown recipe: {str(source)!r} is neither a file nor one of {', '.join(RECIPES)}."
        )
    loaded = omega.load(path)
    if not omega.is_dict(loaded):
        raise ValueError(f"The recipe '{path}' must be a YAML mapping of settings to values.")
    name = loaded.pop("recipe", None)
    if name is not None and name not in RECIPES:
        raise ValueError(
            f"The recipe '{path}' starts from an unknown `recipe`: {name!r}. Expected one of "
            f"{', '.join(RECIPES)}."
        )
    return omega.merge(omega.structured(RECIPES[name] if name else Recipe()), loaded)


def _checked_override(text):
    if "=" not in text:
        raise ValueError(
            f"A change to a recipe is written key=value. Received: {text!r}. Keys are those of the "
            "recipe, such as optimizer.learning_rate."
        )
    return text


def _with_tuples(recipe):
    """Sequences as tuples of floats, whichever way they were given."""
    augmentation = dataclasses.replace(
        recipe.augmentation,
        crop_scale=tuple(recipe.augmentation.crop_scale),
        crop_ratio=tuple(recipe.augmentation.crop_ratio),
    )
    return dataclasses.replace(recipe, augmentation=augmentation)


def _checked(recipe):
    """Refuses values out of range, naming the key."""
    model, augmentation, optimizer = recipe.model, recipe.augmentation, recipe.optimizer
    _check_choice("model.variant", model.variant, (*VARIANTS, DIGITS_VARIANT))
    _check_choice("precision", recipe.precision, PRECISIONS)
    _check_choice("distribution", recipe.distribution, DISTRIBUTIONS)
    _check_choice("data.interpolation", recipe.data.interpolation, ("bicubic", "bilinear"))
    for key, value in (
        ("epochs", recipe.epochs),
        ("batch_size", recipe.batch_size),
        ("accumulate", recipe.accumulate),
        ("model.image_size", model.image_size),
        ("optimizer.reference_batch", optimizer.reference_batch),
    ):
        _check(key, value, value >= 1, "at least 1")
    for key, value in (
        ("augmentation.flip", augmentation.flip),
        ("augmentation.erase_rate", augmentation.erase_rate),
        ("augmentation.cutmix_rate", augmentation.cutmix_rate),
    ):
        _check(key, value, 0 <= value <= 1, "a probability, from 0 to 1")
    for key, value in (
        ("augmentation.label_smoothing", augmentation.label_smoothing),
        ("model.drop_path_rate", model.drop_path_rate),
        ("ema_decay", recipe.ema_decay),
        ("optimizer.beta_1", optimizer.beta_1),
        ("optimizer.beta_2", optimizer.beta_2),
    ):
        _check(key, value, value is None or 0 <= value < 1, "at least 0 and below 1")
    for key, value in (
        ("optimizer.learning_rate", optimizer.learning_rate),
        ("optimizer.epsilon", optimizer.epsilon),
    ):
        _check(key, value, value > 0, "above 0")
    for key, value in (
        ("checkpoint_steps", recipe.checkpoint_steps),
        ("seed", recipe.seed),
        ("augmentation.mixup", augmentation.mixup),
        ("augmentation.cutmix", augmentation.cutmix),
        ("augmentation.color_jitter", augmentation.color_jitter),
        ("optimizer.warmup_epochs", optimizer.warmup_epochs),
        ("optimizer.warmup_learning_rate", optimizer.warmup_learning_rate),
        ("optimizer.final_learning_rate", optimizer.final_learning_rate),
        ("optimizer.weight_decay", optimizer.weight_decay),
    ):
        _check(key, value, value >= 0, "at least 0")
    clip, decay, crop = optimizer.clip_norm, optimizer.layer_decay, recipe.data.validation_crop
    _check("optimizer.clip_norm", clip, clip is None or clip > 0, "above 0, or null")
    _check("optimizer.layer_decay", decay, 0 < decay <= 1, "above 0 and at most 1")
    _check("data.validation_crop", crop, 0 < crop <= 1, "above 0 and at most 1")
    for key, pair in (
        ("augmentation.crop_scale", augmentation.crop_scale),
        ("augmentation.crop_ratio", augmentation.crop_ratio),
    ):
        _check(key, pair, 0 < pair[0] <= pair[1], "two numbers above 0 in rising order")
    _check(
        "accumulate",
        recipe.accumulate,
        recipe.batch_size % recipe.accumulate == 0,
        f"a divisor of batch_size ({recipe.batch_size})",
    )
    _check(
        "optimizer.warmup_epochs",
        optimizer.warmup_epochs,
        optimizer.warmup_epochs < recipe.epochs or recipe.epochs == 1,
        f"below epochs ({recipe.epochs})",
    )
    return recipe


def _check(key, value, valid, expected):
    if not valid:
        raise ValueError(f"{key} must be {expected}. Received: {key}={value}.")


def _check_choice(key, value, choices):
    _check(key, value, value in choices, f"one of {', '.join(choices)}")
