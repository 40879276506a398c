"""Recipes of training runs: every setting, as typed data. What all tasks have in common."""

import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
DISTRIBUTIONS = ("auto", "none")

SCHEDULES = ("cosine", "polynomial", "steps")

# The largest share of a run for its warm-up, where a recipe leaves that open or has one epoch.
_WARMUP_SHARE = 0.25


@dataclass
class OptimizerRecipe:
    """AdamW, its schedule and its exceptions (paper, section 4.1).

    Attributes:
        learning_rate: Peak rate at a global batch of `reference_batch`; scaled in proportion to
            `batch_size`.
        reference_batch: Global batch that `learning_rate` is meant for; null for `batch_size`.
        schedule: `cosine`, `polynomial` or `steps`; see `keras_sepvit.training.schedule`.
        warmup_epochs: Epochs of linear warm-up (paper: 5, and 20 for SepViT-B); of a run of one
            epoch a quarter, where it is longer.
        warmup_steps: Updates of linear warm-up, in the place of `warmup_epochs`.
        warmup_images: Images of linear warm-up, in the place of both.
        warmup_learning_rate: Rate at the first step.
        warmup_ratio: The same as a share of what it would be without warm-up.
        final_learning_rate: Rate at the end of a cosine or polynomial.
        power: Exponent of `polynomial`.
        milestones: Epochs after which `steps` multiplies the rate by `factor`.
        factor: See `milestones`.
        weight_decay: Decoupled weight decay, times the learning rate (0.1 for SepViT-B). Not of
            biases and norms, unless `spared` is given.
        decay_tokens_and_peg: Decay window tokens and PEG kernels too. The paper spares them, the
            authors' code in fact decays them.
        spared: Weights with one of these in their path are spared from weight decay, and no
            others, such as `[norm,peg]`, or `[]` for none; null for the two rules above.
        clip_norm: Largest global norm of the gradients; null for no clipping (paper: 1; the
            code's launch scripts: 5).
        beta_1, beta_2, epsilon: Adam's.
        layer_decay: The learning rate of a layer is multiplied by this once for every block
            between it and the head; 1 for the same rate everywhere (BEiT, arXiv 2106.08254).
        backbone_rate: The learning rate of the backbone is multiplied by this; 1 for that of necks
            and heads.
    """

    learning_rate: float | None = 1e-3
    reference_batch: int | None = 1024
    schedule: str = "cosine"
    warmup_epochs: float | None = 5
    warmup_steps: int | None = None
    warmup_images: int | None = None
    warmup_learning_rate: float = 1e-6
    warmup_ratio: float | None = None
    final_learning_rate: float = 1e-5
    power: float = 1.0
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    weight_decay: float = 0.05
    decay_tokens_and_peg: bool = False
    spared: tuple[str, ...] | None = None
    clip_norm: float | None = 1.0
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    layer_decay: float = 1.0
    backbone_rate: float | None = 1.0

    def __post_init__(self):
        self.milestones = tuple(self.milestones)
        if self.spared is not None:
            self.spared = tuple(self.spared)


@dataclass
class Recipe:
    """All settings of a training run; each task has a class of its own.

    Attributes:
        task: The kind of problem, such as `classification`.
        model, data, augmentation: The task's own; see its recipe.
        optimizer: See `OptimizerRecipe`.
        epochs: Passes over the training split.
        steps: Updates of the whole run, in the place of `epochs`; its last epoch may be shorter.
        images: Images of the whole run, in the place of `epochs`: as many for every `batch_size`.
            `steps` comes first.
        patience: Epochs without a better result on the validation data after which the run ends; 0
            for none.
        batch_size: Images of one update, over all devices and processes.
        accumulate: Parts that a batch is divided into; gradients are summed over them before an
            update, for batches that do not fit in memory.
        precision: `float32`, `mixed_bfloat16`, `mixed_float16` (with loss scaling), or `auto`:
            half precision on accelerators and processors that are faster with it, else float32.
        ema_decay: Decay of the moving average of the weights, which evaluation and the saved
            models then use; null for none.
        seed: Decides initial weights, order of the data and every random draw.
        checkpoint_steps: Batches between checkpoints within an epoch; 0 for one at each epoch's
            end only.
        snapshot_epochs: Epochs between models that are kept, `epoch_010.keras` and so on; 0 for
            none.
        jit_compile: Compile the step with XLA or torch.compile; null for what is best on the
            backend and device.
        deterministic: Only operations that give the same bits every time, some of them slower.
        distribution: `auto` uses all devices and processes, `none` one device.
    """

    # Keys that may be null: the task decides them, by the machine and the data.
    AUTOMATIC = ()

    # Keys that may change between a stop and going on: they do not change the steps.
    MAY_CHANGE = ("patience", "checkpoint_steps", "snapshot_epochs", "jit_compile", "distribution")

    task: str = ""
    model: Any = None
    data: Any = None
    augmentation: Any = None
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    epochs: int = 300
    steps: int | None = None
    images: int | None = None
    patience: int = 0
    batch_size: int | None = 1024
    accumulate: int = 1
    precision: str = "auto"
    ema_decay: float | None = None
    seed: int = 0
    checkpoint_steps: int = 1000
    snapshot_epochs: int = 0
    jit_compile: bool | None = None
    deterministic: bool = False
    distribution: str = "auto"

    def peak_learning_rate(self):
        """The highest learning rate: `optimizer.learning_rate` scaled to `batch_size`."""
        reference = self.optimizer.reference_batch or self.batch_size
        return self.optimizer.learning_rate * self.batch_size / reference

    def updates(self, updates_per_epoch):
        """Updates of the whole run, where an epoch has so many."""
        if self.steps is not None:
            return self.steps
        if self.images is not None:
            return max(round(self.images / self.batch_size), 1)
        return self.epochs * updates_per_epoch

    def warmup_updates(self, updates_per_epoch):
        """Updates of the warm-up, where an epoch has so many."""
        settings = self.optimizer
        if settings.warmup_steps is not None:
            return settings.warmup_steps
        if settings.warmup_images is not None:
            return round(settings.warmup_images / self.batch_size)
        epochs = settings.warmup_epochs
        if (self.steps, self.images) == (None, None) and epochs >= self.epochs == 1:
            epochs = _WARMUP_SHARE
        return round(epochs * updates_per_epoch)

    def short_warmup(self, most):
        """Epochs of warm-up: so many, or a share of a short run."""
        return min(most, _WARMUP_SHARE * self.epochs)

    def batch_note(self, updates_per_epoch):
        """What another batch than that of the recipe's numbers changes, as text; else None."""
        reference = self.optimizer.reference_batch
        if reference in (None, self.batch_size):
            return None
        return (
            f"Batches of {self.batch_size:,} images, where the recipe's numbers are for "
            f"{reference:,}: peak learning rate {self.peak_learning_rate():.3g}, "
            f"{self.warmup_updates(updates_per_epoch):,} steps of warm-up, "
            f"{round(self.updates(updates_per_epoch)):,} in all."
        )

    def _may_be_null(self, key):
        return key in ("steps", "images", "optimizer.reference_batch", *self.AUTOMATIC)

    def make_task(self):
        """The `Task` that this recipe sets up."""
        raise NotImplementedError

    def check(self):
        """Raises a ValueError for values out of range, naming the key."""
        optimizer = self.optimizer
        for key, value in flat(self):
            numbers = value if isinstance(value, tuple) else (value,)
            finite = all(math.isfinite(x) for x in numbers if isinstance(x, float))
            check(key, value, finite, "finite")
        check_choice("task", self.task, (type(self).task,))
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("distribution", self.distribution, DISTRIBUTIONS)
        check_choice("optimizer.schedule", optimizer.schedule, SCHEDULES)
        for key, value in (
            ("epochs", self.epochs),
            ("steps", self.steps),
            ("images", self.images),
            ("batch_size", self.batch_size),
            ("accumulate", self.accumulate),
            ("optimizer.reference_batch", optimizer.reference_batch),
        ):
            valid = self._may_be_null(key) if value is None else value >= 1
            check(key, value, valid, "at least 1")
        warmup = optimizer.warmup_epochs
        valid = self._may_be_null("optimizer.warmup_epochs") if warmup is None else warmup >= 0
        check("optimizer.warmup_epochs", warmup, valid, "at least 0")
        for key, value in (
            ("ema_decay", self.ema_decay),
            ("optimizer.beta_1", optimizer.beta_1),
            ("optimizer.beta_2", optimizer.beta_2),
        ):
            check_rate(key, value)
        for key, value in (
            ("optimizer.learning_rate", optimizer.learning_rate),
            ("optimizer.epsilon", optimizer.epsilon),
            ("optimizer.power", optimizer.power),
            ("optimizer.factor", optimizer.factor),
            ("optimizer.backbone_rate", optimizer.backbone_rate),
        ):
            valid = self._may_be_null(key) if value is None else value > 0
            check(key, value, valid, "above 0")
        for key, value in (
            ("patience", self.patience),
            ("checkpoint_steps", self.checkpoint_steps),
            ("snapshot_epochs", self.snapshot_epochs),
            ("seed", self.seed),
            ("optimizer.warmup_steps", optimizer.warmup_steps or 0),
            ("optimizer.warmup_images", optimizer.warmup_images or 0),
            ("optimizer.warmup_learning_rate", optimizer.warmup_learning_rate),
            ("optimizer.final_learning_rate", optimizer.final_learning_rate),
            ("optimizer.weight_decay", optimizer.weight_decay),
        ):
            check(key, value, value >= 0, "at least 0")
        ratio = optimizer.warmup_ratio
        check("optimizer.warmup_ratio", ratio, ratio is None or 0 <= ratio <= 1, "from 0 to 1")
        clip, decay = optimizer.clip_norm, optimizer.layer_decay
        check("optimizer.clip_norm", clip, clip is None or clip > 0, "above 0, or null")
        check("optimizer.layer_decay", decay, 0 < decay <= 1, "above 0 and at most 1")
        milestones = optimizer.milestones
        rising = all(a < b for a, b in zip((0, *milestones), milestones, strict=False))
        check("optimizer.milestones", milestones, rising, "epochs above 0 in rising order")
        check(
            "accumulate",
            self.accumulate,
            self.batch_size is None or self.batch_size % self.accumulate == 0,
            f"a divisor of batch_size ({self.batch_size})",
        )
        lengths = self.steps, self.images, optimizer.warmup_steps, optimizer.warmup_images
        if lengths == (None,) * 4:
            check(
                "optimizer.warmup_epochs",
                warmup,
                warmup is None or warmup < self.epochs or self.epochs == 1,
                f"below epochs ({self.epochs}), such as 0 or 1",
            )


def check(key, value, valid, expected):
    """Raises a ValueError that says what was expected of a key's value, unless it is valid."""
    if not valid:
        raise ValueError(f"{key} must be {expected}. Received: {key}={value}.")


def check_choice(key, value, choices):
    """Refuses a value that is not among `choices`."""
    check(key, value, value in choices, f"one of {', '.join(map(str, choices))}")


def check_frozen_stages(model):
    """Refuses `frozen_stages` of a model's settings that there are not, and of random weights."""
    check_choice("model.frozen_stages", model.frozen_stages, range(5))
    trained = model.weights is not None
    expected = "0 without model.weights: frozen stages would keep random weights"
    check("model.frozen_stages", model.frozen_stages, trained or not model.frozen_stages, expected)


def check_warm_start(model):
    """Refuses `warm_start` of a model's settings beside `weights`, and with frozen stages."""
    if model.warm_start is not None:
        expected = f"null with model.weights={model.weights}: a network starts from one of them"
        check("model.warm_start", model.warm_start, model.weights is None, expected)
        expected = "0 with model.warm_start, whose weights must be trained in their new network"
        check("model.frozen_stages", model.frozen_stages, not model.frozen_stages, expected)


def check_rate(key, value):
    """Refuses a number that is not in [0, 1); None is none."""
    check(key, value, value is None or 0 <= value < 1, "at least 0 and below 1")


def flat(settings, group=""):
    """The (key, value) pairs of a recipe or a nested dict, with groups in front of keys."""
    if is_dataclass(settings):
        settings = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    pairs = []
    for name, value in settings.items():
        nested = is_dataclass(value) or (isinstance(value, dict) and value)
        pairs += flat(value, f"{group}{name}.") if nested else [(f"{group}{name}", value)]
    return pairs
