"""A classifier's training step as `Trainer` makes it, without the trainer's data.

Those need TensorFlow.
"""

import types

from keras_sepvit.classification.losses import probabilities, soft_cross_entropy
from keras_sepvit.training import device
from keras_sepvit.training.model import TrainingModel
from keras_sepvit.training.optimizer import build_optimizer


def training_model(
    recipe,
    network,
    augmentation,
    steps_per_epoch,
    losses=soft_cross_entropy,
    loss_names=("loss",),
):
    """A compiled `TrainingModel` with the recipe's optimiser, built.

    Args:
        recipe: A `ClassificationRecipe`.
        network: The network to train, to logits.
        augmentation: Layer from a batch to images and targets.
        steps_per_epoch: Updates of an epoch.
        losses, loss_names: As of a `Task`.
    """
    task = types.SimpleNamespace(loss_names=loss_names, losses=losses, answers=probabilities)
    model = TrainingModel(network, task, augmentation)
    optimizer = build_optimizer(recipe, network, steps_per_epoch)
    model.compile(optimizer=optimizer, jit_compile=device.best_jit_compile())
    optimizer.build(model.trainable_variables)
    return model
