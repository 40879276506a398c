"""The model that `fit` trains: augmentation, network and losses in one."""

import keras
from keras import ops


class TrainingModel(keras.Model):
    """A network with its task's augmentation in front and losses behind, as one trainable model.

    Augmentation needs images and targets together, so both are inputs: data for `fit` are batches
    of examples, dicts of arrays with a row for each image.

    Args:
        network: Model of uint8 or float images of 0..255 that gives raw outputs.
        task: The `Task`, of which `loss_names`, `losses` and `answers` are used.
        augmentation: Layer from a batch of examples to images and targets.

    Output: in training a dict of the losses, pairs of total and weight, float32 scalars; outside
        training the answers of the task.

    Metrics: each loss over all images so far; `loss`, their sum.
    """

    # What gradients of several devices are divided by, where they are averaged.
    averaged_gradients = 1

    def __init__(self, network, task, augmentation, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.network = network
        self.augmentation = augmentation
        self._losses_of = task.losses
        self._answers_of = task.answers
        self.means = [keras.metrics.Mean(name=name) for name in task.loss_names]
        self.built = True

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        if keras.config.backend() == "torch":
            self.network.jit_compile = self.jit_compile

    def _should_torch_compile(self):
        return False  # the network compiles itself

    def call(self, batch, training=False):
        if not training:
            return self._answers_of(self.network(batch["image"], training=False))
        images, targets = self.augmentation(batch)
        return self._losses_of(targets, self.network(images, training=True))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return sum(
            self.averaged_gradients * total / self.sum_over_devices(weight)
            for total, weight in y_pred.values()
        )

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        for mean in self.means:
            total, weight = map(self.sum_over_devices, y_pred[mean.name])
            mean.update_state(total / weight, weight)
        return self.get_metrics_result()

    def get_metrics_result(self):
        # Without Keras's own `loss`, which is a mean of the batches' means.
        results = {mean.name: mean.result() for mean in self.means}
        return {**results, "loss": sum(results.values())}

    def sum_over_devices(self, value):
        """A scalar, summed over the devices that have a copy of the model each."""
        return ops.stop_gradient(value)
