"""The learning rate of the paper's recipe."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_sepvit")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then the rest of a cosine over all steps.

    As in the authors' code (timm's cosine schedule), the cosine runs from step 0 and the
    warm-up covers its beginning; Keras's `CosineDecay(warmup_target=...)` starts its cosine
    after the warm-up instead. timm changes the rate once an epoch, this at every step.

    Args:
        peak: Rate that the warm-up rises to, and at which the cosine starts.
        steps: Updates of the whole run; from there on the rate is `final`.
        warmup_steps: Updates of the warm-up.
        initial: Rate at step 0, where there is a warm-up.
        final: Rate at the end of the cosine.
        accumulate: Parts of a batch that gradients are summed over for an update. Keras asks
            for the rate by parts, not by updates.
    """

    def __init__(self, peak, steps, warmup_steps=0, initial=0.0, final=0.0, accumulate=1):
        super().__init__()
        self.peak = peak
        self.steps = steps
        self.warmup_steps = warmup_steps
        self.initial = initial
        self.final = final
        self.accumulate = accumulate

    def __call__(self, step):
        if self.accumulate > 1:
            step = ops.floor_divide(step, self.accumulate)
        step = ops.cast(step, "float32")
        progress = ops.minimum(step / self.steps, 1.0)
        cosine = 0.5 * (1.0 + ops.cos(math.pi * progress))
        rate = self.final + (self.peak - self.final) * cosine
        if not self.warmup_steps:
            return rate
        warmup = self.initial + (self.peak - self.initial) * step / self.warmup_steps
        return ops.where(step < self.warmup_steps, warmup, rate)

    def get_config(self):
        return {
            "peak": self.peak,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "initial": self.initial,
            "final": self.final,
            "accumulate": self.accumulate,
        }
