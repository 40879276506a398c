"""Learning rates by step: cosine, polynomial and steps, each with a linear warm-up."""

import math

import keras
from keras import ops


class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A decay over the steps of a run, whose beginning a linear warm-up covers.

    The decay runs from step 0, also under the warm-up, as in timm and mmcv; Keras's
    `CosineDecay(warmup_target=...)` starts it after the warm-up instead.

    Args:
        peak: Rate that the decay starts from.
        steps: Updates of the whole run.
        warmup_steps: Updates of the warm-up.
        initial: Rate at step 0, where there is a warm-up.
        accumulate: Parts of a batch that gradients are summed over for an update. Keras asks
            for the rate by parts, not by updates.
    """

    def __init__(self, peak, steps, warmup_steps=0, initial=0.0, accumulate=1):
        super().__init__()
        self.peak = peak
        self.steps = steps
        self.warmup_steps = warmup_steps
        self.initial = initial
        self.accumulate = accumulate

    def __call__(self, step):
        if self.accumulate > 1:
            step = ops.floor_divide(step, self.accumulate)
        step = ops.cast(step, "float32")
        rate = self.decayed(step)
        if not self.warmup_steps:
            return rate
        return ops.where(step < self.warmup_steps, self.warm(step, rate), rate)

    def decayed(self, step):
        """The rate without warm-up at a float32 step."""
        raise NotImplementedError

    def warm(self, step, rate):
        """The rate in the warm-up, where the decay would give `rate`.

        As mmcv's: the decayed rate times a factor that rises to 1.
        """
        return rate * (1.0 - (1.0 - step / self.warmup_steps) * (1.0 - self.initial / self.peak))

    def get_config(self):
        names = ("peak", "steps", "warmup_steps", "initial", "accumulate")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="keras_sepvit")
class WarmupCosine(WarmupSchedule):
    """The rest of a cosine over all steps, after a warm-up to `peak`.

    As in the authors' code of classification (timm's cosine schedule). timm changes the rate once
    an epoch, this at every step.

    Args:
        peak, steps, warmup_steps, initial, accumulate: See `WarmupSchedule`.
        final: Rate at the end of the cosine, and after it.
    """

    def __init__(self, peak, steps, warmup_steps=0, initial=0.0, final=0.0, accumulate=1):
        super().__init__(peak, steps, warmup_steps, initial, accumulate)
        self.final = final

    def decayed(self, step):
        progress = ops.minimum(step / self.steps, 1.0)
        cosine = 0.5 * (1.0 + ops.cos(math.pi * progress))
        return self.final + (self.peak - self.final) * cosine

    def warm(self, step, rate):
        return self.initial + (self.peak - self.initial) * step / self.warmup_steps

    def get_config(self):
        return {**super().get_config(), "final": self.final}


@keras.saving.register_keras_serializable(package="keras_sepvit")
class WarmupPolynomial(WarmupSchedule):
    """mmcv's `poly` policy: a power of the share of the run that is left.

    Args:
        peak, steps, warmup_steps, initial, accumulate: See `WarmupSchedule`.
        final: Rate at the end, and after it.
        power: The exponent; 1 for a straight line.
    """

    def __init__(
        self, peak, steps, warmup_steps=0, initial=0.0, final=0.0, power=1.0, accumulate=1
    ):
        super().__init__(peak, steps, warmup_steps, initial, accumulate)
        self.final = final
        self.power = power

    def decayed(self, step):
        left = 1.0 - ops.minimum(step / self.steps, 1.0)
        return self.final + (self.peak - self.final) * ops.power(left, self.power)

    def get_config(self):
        return {**super().get_config(), "final": self.final, "power": self.power}


@keras.saving.register_keras_serializable(package="keras_sepvit")
class WarmupSteps(WarmupSchedule):
    """mmcv's `step` policy: the rate falls at given steps, by a factor each time.

    Args:
        peak, steps, warmup_steps, initial, accumulate: See `WarmupSchedule`.
        boundaries: The updates from which on the rate is lower.
        factor: What it is multiplied by.
    """

    def __init__(
        self, peak, steps, boundaries, warmup_steps=0, initial=0.0, factor=0.1, accumulate=1
    ):
        super().__init__(peak, steps, warmup_steps, initial, accumulate)
        self.boundaries = list(boundaries)
        self.factor = factor

    def decayed(self, step):
        passed = sum(ops.cast(step >= boundary, "float32") for boundary in self.boundaries)
        return self.peak * ops.power(self.factor, passed)

    def get_config(self):
        return {**super().get_config(), "boundaries": self.boundaries, "factor": self.factor}
