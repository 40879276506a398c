"""What a recipe may leave to the machine and the data: sizes, learning rate, warm-up."""

import copy
import math

from keras_sepvit.configs import DIGITS_CONFIG, DIGITS_VARIANT, VARIANTS
from keras_sepvit.training import device
from keras_sepvit.training.automatic import told_weights
from keras_sepvit.validation import counted
from keras_sepvit.weights.registry import registered_weights

# Sizes in pixels: that of published weights, and one that processors train in minutes.
_SIZE = 224
_SIZE_OF_PROCESSORS = 128
# The largest batches, and the fewest updates of an epoch.
_BATCH = 128
_BATCH_OF_PROCESSORS = 32
_UPDATES = 8
# The most epochs of warm-up.
_WARMUP = 5
# Bytes that training an image takes for each number of a block's output: 100 with torch and 170
# with TensorFlow were measured for SepViT-Lite at 128 pixels on a CPU.
_BYTES = 250


def decided(recipe, images, devices):
    """A recipe with what it leaves open decided, and what that is.

    Args:
        recipe: A `ClassificationRecipe`.
        images: Number of images to train on.
        devices: Number of devices that share a batch.

    Returns:
        The recipe, and dict of key to value and reason; empty where nothing was open.
    """
    recipe, chosen = copy.deepcopy(recipe), {}
    accelerator, memory = device.memory()
    if recipe.model.image_size is None:
        recipe.model.image_size, why = _image_size(recipe.model.weights, accelerator)
        chosen["model.image_size"] = f"{recipe.model.image_size} ({why})"
    if recipe.batch_size is None:
        recipe.batch_size = _batch_size(recipe, images, devices, accelerator, memory)
        free = f"{memory / 2**30:.0f} GB of memory" if memory else "unknown memory"
        chosen["batch_size"] = f"{recipe.batch_size} ({counted(images, 'image')}, {free})"
    if recipe.optimizer.learning_rate is None:
        # As Adam's steps are: by the root of the batch. Weights that are trained need small ones.
        scratch = recipe.model.weights is None
        rate = (1e-3 if scratch else 2e-4) * math.sqrt(recipe.batch_size / 64)
        rate *= (recipe.optimizer.reference_batch or recipe.batch_size) / recipe.batch_size
        recipe.optimizer.learning_rate = float(f"{rate:.2g}")
        why = told_weights(recipe.model)
        chosen["optimizer.learning_rate"] = f"{recipe.optimizer.learning_rate:g} ({why})"
    if recipe.optimizer.warmup_epochs is None:
        recipe.optimizer.warmup_epochs = recipe.short_warmup(_WARMUP)
        chosen["optimizer.warmup_epochs"] = f"{recipe.optimizer.warmup_epochs:g}"
    return recipe, chosen


def _image_size(weights, accelerator):
    registered = registered_weights().get(weights)
    if registered is not None:
        return registered.image_size[0], "that of the weights"
    if weights is not None:
        return _SIZE, "that of most weights"
    return (_SIZE, "on a GPU") if accelerator else (_SIZE_OF_PROCESSORS, "without a GPU")


def _batch_size(recipe, images, devices, accelerator, memory):
    """A power of two for each device: what fits, of enough updates an epoch."""
    variant = recipe.model.variant
    config = DIGITS_CONFIG if variant == DIGITS_VARIANT else VARIANTS[variant]
    positions = (recipe.model.image_size / 4) ** 2
    numbers = sum(
        depth * width * positions / 4**stage
        for stage, (depth, width) in enumerate(zip(config.depths, config.hidden_dims, strict=True))
    )
    largest = _BATCH if accelerator else _BATCH_OF_PROCESSORS
    if memory:
        largest = min(largest, memory / 2 / (_BYTES * numbers))
    largest = max(min(largest, images / _UPDATES / devices), 1)
    return devices * 2 ** int(math.log2(largest))
