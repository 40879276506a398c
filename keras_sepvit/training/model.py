"""The model that `fit` trains: augmentation, network, loss and metrics in one."""

import functools
import time

import keras
from keras import ops


class TrainingModel(keras.Model):
    """A network with the augmentation of its batches in front, as one trainable model.

    Mixing needs images and labels together, so both are inputs; targets come out beside the
    logits. Data for `fit` and `evaluate` are `({"images": ..., "labels": ...}, labels)` or
    `(..., labels, weights)`.

    Args:
        network: Classifier of uint8 or float images of 0..255 that gives logits.
        augmentation: Layer from images and labels to images and soft targets, such as
            `BatchAugmentation`.

    Input: `images` (batch, height, width, 3), uint8 or float, and int `labels` (batch,).

    Output: dict of `logits` and `targets`, each (batch, classes), float32.

    The loss is the cross-entropy of the soft targets. Metrics, each weighted by the sample
    weights: `loss` and `accuracy` (of the likelier of two mixed classes), and `top5_accuracy`
    where there are more than five classes.

    Attributes:
        step_end: When `fit` last returned from giving a training step to the device, in the
            seconds of `time.perf_counter`.
    """

    def __init__(self, network, augmentation, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.network = network
        self.augmentation = augmentation
        self.cross_entropy = keras.losses.CategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        )
        # Takes the place of Keras's own `loss` in the results: that one counts padding of the
        # last evaluation batch as images.
        self.mean_loss = keras.metrics.Mean(name="loss")
        self.accuracy = keras.metrics.Mean(name="accuracy")
        self.top5_accuracy = None
        if augmentation.classes > 5:
            self.top5_accuracy = keras.metrics.Mean(name="top5_accuracy")
        self.step_end = time.perf_counter()
        self.built = True

    def call(self, inputs, training=False):
        images, targets = self.augmentation(inputs["images"], inputs["labels"], training=training)
        logits = self.network(images, training=training)
        return {"logits": ops.cast(logits, "float32"), "targets": targets}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return self.cross_entropy(y_pred["targets"], y_pred["logits"], sample_weight)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logits, targets = y_pred["logits"], y_pred["targets"]
        losses = keras.losses.categorical_crossentropy(targets, logits, from_logits=True)
        labels = ops.argmax(targets, axis=-1)
        hits = ops.cast(ops.argmax(logits, axis=-1) == labels, "float32")
        metrics, values = [self.mean_loss, self.accuracy], [losses, hits]
        if self.top5_accuracy is not None:
            metrics.append(self.top5_accuracy)
            values.append(ops.cast(ops.in_top_k(labels, logits, k=5), "float32"))
        values, sample_weight = self.of_all_processes(values, sample_weight)
        for metric, value in zip(metrics, values, strict=True):
            metric.update_state(value, sample_weight)
        return self.get_metrics_result()

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        super().make_train_function(force=force)
        step = self.train_function

        @functools.wraps(step)
        def timed_step(*args):
            outputs = step(*args)
            self.step_end = time.perf_counter()
            return outputs

        self.train_function = timed_step

    def of_all_processes(self, values, sample_weight):
        """List of values for each image and their weights, of the batches of all processes.

        One process has them all.
        """
        return values, sample_weight


def fit_batch(images, labels, *weights):
    """A batch of images and labels in the form that `TrainingModel` takes."""
    return {"images": images, "labels": labels}, labels, *weights
