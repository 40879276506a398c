"""The optimiser of a recipe: AdamW with its exceptions, by layer where asked."""

import keras
from keras import ops

from keras_sepvit import names
from keras_sepvit.training.schedule import WarmupCosine, WarmupPolynomial, WarmupSteps


def build_optimizer(
    recipe, network, steps_per_epoch, steps=None, adapt=lambda optimizer_class: optimizer_class
):
    """The optimiser for a network.

    Args:
        recipe: The `Recipe`.
        network: The network to train.
        steps_per_epoch: Updates of an epoch.
        steps: Updates of the whole run; by default those of all epochs.
        adapt: Function from the optimiser's class to the class to use, such as
            `SingleDevice.optimizer_class`.

    Returns:
        `keras.optimizers.AdamW`, one that knows layers where not all have the same rate; on
        TensorFlow and torch one that updates by their own kernels.
    """
    settings = recipe.optimizer
    ema = {}
    if recipe.ema_decay is not None:
        # Keras averages after each part of a batch, not only after updates.
        decay = recipe.ema_decay ** (1 / recipe.accumulate)
        ema = {"use_ema": True, "ema_momentum": decay}
    arguments = {
        "learning_rate": build_schedule(recipe, steps_per_epoch, steps),
        "weight_decay": settings.weight_decay,
        "beta_1": settings.beta_1,
        "beta_2": settings.beta_2,
        "epsilon": settings.epsilon,
        "global_clipnorm": settings.clip_norm,
        "gradient_accumulation_steps": recipe.accumulate if recipe.accumulate > 1 else None,
        **ema,
    }
    optimizer_class = _AdamW
    if settings.layer_decay < 1 or settings.backbone_rate != 1:
        optimizer_class = LayerwiseAdamW
        arguments["scales"] = layer_scales(
            network.trainable_variables, settings.layer_decay, settings.backbone_rate
        )
    optimizer = adapt(_fused(optimizer_class))(**arguments)
    optimizer.exclude_from_weight_decay(
        var_list=[
            variable
            for variable in network.trainable_variables
            if not decays(variable, settings.decay_tokens_and_peg, settings.spared)
        ]
    )
    return optimizer


def _fused(optimizer_class):
    """One of the classes below, with updates by the backend's own kernel, where it has one."""
    backend = keras.config.backend()
    if backend == "torch":
        from keras_sepvit.training.torch_adamw import torch_adamw

        return torch_adamw(optimizer_class)
    if backend == "tensorflow":
        from keras_sepvit.training.tensorflow_adamw import tensorflow_adamw

        return tensorflow_adamw(optimizer_class)
    return optimizer_class


def build_schedule(recipe, steps_per_epoch, steps=None):
    """The learning rate of a recipe by step; arguments are those of `build_optimizer`."""
    settings = recipe.optimizer
    peak, initial = recipe.peak_learning_rate(), settings.warmup_learning_rate
    if settings.warmup_ratio is not None:
        initial = settings.warmup_ratio * peak
    arguments = {
        "peak": peak,
        "steps": recipe.updates(steps_per_epoch) if steps is None else steps,
        "warmup_steps": recipe.warmup_updates(steps_per_epoch),
        "initial": initial,
        "accumulate": recipe.accumulate,
    }
    if settings.schedule == "steps":
        boundaries = [round(epoch * steps_per_epoch) for epoch in settings.milestones]
        return WarmupSteps(**arguments, boundaries=boundaries, factor=settings.factor)
    arguments["final"] = settings.final_learning_rate
    if settings.schedule == "polynomial":
        return WarmupPolynomial(**arguments, power=settings.power)
    return WarmupCosine(**arguments)


def decays(variable, tokens_and_peg=False, spared=None):
    """Whether weight decay acts on a variable: not on biases and norms, which have one axis.

    Args:
        variable: A variable of a network.
        tokens_and_peg: Whether it acts on window tokens and PEG kernels.
        spared: In the place of these rules, what is in the paths of those that it does not act on,
            as in mmcv's `custom_keys`.
    """
    if spared is not None:
        return not any(part in variable.path for part in spared)
    if len(variable.shape) < 2:
        return False
    name = names.parse(variable.path)
    return tokens_and_peg or not (name.is_window_token or name.part == "peg")


def layer_scales(variables, decay, backbone=1.0):
    """The share of the learning rate of each variable, by its depth in the network.

    Args:
        variables: All variables of the network that are trained.
        decay: Factor for each layer between a variable and the head; see
            `keras_sepvit.names.distances`.
        backbone: Factor for all of the backbone.

    Returns:
        Dict of variable path to share.
    """
    paths = [variable.path for variable in variables]
    return {
        path: decay**distance * (1.0 if names.parse(path).is_head else backbone)
        for path, distance in names.distances(paths).items()
    }


class _AdamW(keras.optimizers.AdamW):
    """With what the backends' kernels ask."""

    def rate_scale(self, variable):
        """The share of the learning rate of a variable."""
        return 1.0


@keras.saving.register_keras_serializable(package="keras_sepvit")
class LayerwiseAdamW(_AdamW):
    """AdamW with a learning rate of its own for each variable (BEiT, arXiv 2106.08254).

    Args:
        scales: Dict of variable path to its share of the learning rate. Weight decay, which
            AdamW multiplies by the learning rate, shrinks with it.
        **kwargs: Arguments of `keras.optimizers.AdamW`.
    """

    def __init__(self, scales, **kwargs):
        super().__init__(**kwargs)
        self.scales = dict(scales)

    def build(self, variables):
        self._scale_by_key = {
            self._var_key(variable): self.scales[variable.path] for variable in variables
        }
        super().build(variables)

    def rate_scale(self, variable):
        return self._scale_by_key[self._var_key(variable)]

    def update_step(self, gradient, variable, learning_rate):
        scale = self.rate_scale(variable)
        if self.weight_decay and self._use_weight_decay(variable):
            rate = ops.cast(self.weight_decay * scale * learning_rate, variable.dtype)
            self.assign_sub(variable, variable * rate)
        super().update_step(gradient, variable, learning_rate * scale)

    def _apply_weight_decay(self, variables):
        """Left to `update_step`, which knows the rate of each variable."""

    def get_config(self):
        return {**super().get_config(), "scales": self.scales}
