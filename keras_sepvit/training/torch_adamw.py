"""Keras's AdamW by fewer and larger operations of torch.

On CPUs torch's kernel goes through memory once, where Keras's goes through it a dozen times: a
twelfth of a training step of SepViT-T on images of 224 x 224 in batches of 4. Keras clips gradients
and averages weights a variable at a time, in several operations; here they are on lists, on GPUs,
too.
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
            if not self.global_clipnorm or torch.compiler.is_compiling():
                return super()._clip_gradients(grads)
            norm = torch.stack(torch._foreach_norm(grads)).norm()
            scale = self.global_clipnorm / norm.clamp(min=self.global_clipnorm)
            # Where it is not finite, the gradients become NaN, as in Keras.
            torch._foreach_mul_(grads, scale + (norm - norm))
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
            if not _on_cpu(values) or torch.compiler.is_compiling():
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

        @torch.no_grad()
        def _update_model_variables_moving_average(self, trainable_variables):
            if torch.compiler.is_compiling():
                super()._update_model_variables_moving_average(trainable_variables)
                return
            values = [variable.value for variable in trainable_variables]
            averages = [average.value for average in self._model_variables_moving_average]
            if _on_cpu(values):
                torch._foreach_lerp_(
                    averages, values, 1 - self.ema_momentum if int(self.iterations) else 1.0
                )
                return
            # A GPU is not waited for: the number of the step stays there.
            first = keras.ops.equal(self.iterations, 0)
            share = torch.where(first, 1.0, 1 - self.ema_momentum)
            changes = torch._foreach_sub(values, averages)
            torch._foreach_mul_(changes, share)
            torch._foreach_add_(averages, changes)

    return TorchAdamW


def _on_cpu(tensors):
    return tensors[0].device.type == "cpu"
