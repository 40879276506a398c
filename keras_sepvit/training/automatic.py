"""What a recipe of pictures with an encoder and heads may leave to the data and the weights."""

import copy
import math

# The largest batch, which learning rates are for, and the fewest updates of an epoch.
_BATCH = 16
_UPDATES = 8
# The most epochs of warm-up.
_WARMUP = 2
# The share of the learning rate of a backbone that is trained already.
_TRAINED_BACKBONE_RATE = 0.1


def told_weights(model):
    """What kind of weights a model's settings start from, as text."""
    if model.weights is not None:
        return "trained weights"
    return "random weights" if model.warm_start is None else "a warm start"


def decided(recipe, images, devices, scratch_rate, trained_rate):
    """A recipe with its batch, learning rates and warm-up decided, and what they are.

    Args:
        recipe: A `Recipe` with `model.weights`.
        images: Number of images to train on.
        devices: Number of devices that share a batch.
        scratch_rate, trained_rate: Learning rates of batches of 16, from random weights and from
            trained ones.

    Returns:
        The recipe, and dict of key to value and reason; empty where nothing was open.
    """
    recipe, chosen = copy.deepcopy(recipe), {}
    scratch = recipe.model.weights is None
    why = told_weights(recipe.model)
    if recipe.batch_size is None:
        largest = max(min(_BATCH, images / _UPDATES / devices), 1)
        recipe.batch_size = devices * 2 ** int(math.log2(largest))
        chosen["batch_size"] = f"{recipe.batch_size} ({images:,} images)"
    if recipe.optimizer.learning_rate is None:
        # As Adam's steps are: by the root of the batch.
        rate = (scratch_rate if scratch else trained_rate) * math.sqrt(recipe.batch_size / _BATCH)
        recipe.optimizer.learning_rate = float(f"{rate:.2g}")
        chosen["optimizer.learning_rate"] = f"{recipe.optimizer.learning_rate:g} ({why})"
    if recipe.optimizer.backbone_rate is None:
        recipe.optimizer.backbone_rate = 1.0 if scratch else _TRAINED_BACKBONE_RATE
        chosen["optimizer.backbone_rate"] = f"{recipe.optimizer.backbone_rate:g} ({why})"
    if recipe.optimizer.warmup_epochs is None:
        recipe.optimizer.warmup_epochs = recipe.short_warmup(_WARMUP)
        chosen["optimizer.warmup_epochs"] = f"{recipe.optimizer.warmup_epochs:g}"
    return recipe, chosen
