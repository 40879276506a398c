"""Keras's AdamW by torch's own kernels on CPUs, which go through memory once.

Keras's own goes through it a dozen times, in operations on lists of tensors: a twelfth of a
training step of SepViT-T on images of 224 x 224 in batches of 4. It clips gradients and averages
weights a variable at a time, each in several passes of their own.
"""

import collections
import math

import keras
import torch
from torch.optim.adamw import adamw


def torch_adamw(optimizer_class):
    """A class of AdamW that updates variables of the same rate and decay at once.

    Its updates are those of `optimizer_class` but for rounding, and so are its variables.

    Args:
        optimizer_class: A subclass of `keras.optimizers.AdamW` with `rate_scale(variable)`, the
            share of the learning rate that a variable has.
    """
    # What Keras makes of `keras.optimizers.AdamW` with torch: it takes lists of variables.
    in_lists = type(keras.optimizers.AdamW())

    class TorchAdamW(optimizer_class, in_lists):
        def _clip_gradients(self, grads):
            if not self.global_clipnorm or not _in_kernels(grads):
                return super()._clip_gradients(grads)
            norm = float(torch.stack(torch._foreach_norm(grads)).norm())
            # Where it is not finite, the gradients become NaN, as in Keras.
            if not norm <= self.global_clipnorm:
                torch._foreach_mul_(grads, self.global_clipnorm / norm + (norm - norm))
            return grads

        def _apply_weight_decay(self, variables):
            """Left to the update, which knows the rate of each variable."""

        def _parallel_update_step(self, grads, variables, learning_rate):
            groups = collections.defaultdict(list)
            for gradient, variable in zip(grads, variables, strict=True):
                decay = self.weight_decay if self._use_weight_decay(variable) else 0.0
                groups[self.rate_scale(variable), decay].append((gradient, variable))
            for (scale, decay), pairs in groups.items():
                gradients, members = map(list, zip(*pairs, strict=True))
                self._update_group(gradients, members, learning_rate * scale, decay)

        def _update_group(self, grads, variables, learning_rate, decay):
            values = [variable.value for variable in variables]
            if not _in_kernels(values):
                torch._foreach_mul_(values, 1 - decay * learning_rate)
                super()._parallel_update_step(grads, variables, learning_rate)
                return
            places = [self._get_variable_index(variable) for variable in variables]
            step = int(self.iterations)
            # Keras adds epsilon before the correction of the bias of the velocities, torch behind.
            epsilon = self.epsilon / math.sqrt(1 - self.beta_2 ** (step + 1))
            adamw(
                values,
                grads,
                [self._momentums[place].value for place in places],
                [self._velocities[place].value for place in places],
                [],
                list(torch.full((len(values),), float(step)).unbind()),
                fused=True,
                amsgrad=False,
                beta1=self.beta_1,
                beta2=self.beta_2,
                lr=float(learning_rate),
                weight_decay=decay,
                eps=epsilon,
                maximize=False,
            )

        def _update_model_variables_moving_average(self, trainable_variables):
            values = [variable.value for variable in trainable_variables]
            if not _in_kernels(values):
                super()._update_model_variables_moving_average(trainable_variables)
                return
            averages = [average.value for average in self._model_variables_moving_average]
            share = 1 - self.ema_momentum if int(self.iterations) else 1.0
            with torch.no_grad():
                torch._foreach_lerp_(averages, values, share)

    return TorchAdamW


def _in_kernels(tensors):
    """Whether kernels here take tensors; those of GPUs and of compiled graphs are left to Keras."""
    return tensors[0].device.type == "cpu" and not torch.compiler.is_compiling()
