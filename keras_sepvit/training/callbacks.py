"""What happens beside the training steps: timing, checkpoints, the best model, stopping."""

import csv
import math
import time

import keras

from keras_sepvit.files import replacing
from keras_sepvit.training.checkpoint import save_checkpoint
from keras_sepvit.training.sources import tf


class NonFiniteLossError(FloatingPointError):
    """The loss, or a weight, became infinite or NaN."""


class Whereabouts:
    """Tells which images a batch had, for errors.

    Args:
        batch_names: Function from epoch and step to the names of the images of that batch.
        checkpoint: The file of the last good checkpoint.
    """

    def __init__(self, batch_names, checkpoint):
        self.batch_names = batch_names
        self.checkpoint = checkpoint

    def error(self, what, epoch, step):
        """The error for a run that has to stop at a batch because of `what`."""
        names = self.batch_names(epoch, step)
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        return NonFiniteLossError(
            f"{what} at step {step} of epoch {epoch} (both counted from 0). Images of that batch: "
            f"{shown}. The last good checkpoint, if there was one, is kept in '{self.checkpoint}'. "
            "Look at these images, or lower optimizer.learning_rate or optimizer.clip_norm."
        )


class Throughput(keras.callbacks.Callback):
    """Adds `images_per_second` and `data_wait` to the logs of batches and epochs.

    `data_wait` is the share of an epoch's time in which the next batch was waited for, from 0 to
    1. Near 0, the device is what limits the speed. An epoch's first batch is left out: it may
    include compilation.

    Args:
        training_model: The `TrainingModel`. Keras's own `model` would fetch all weights from the
            device at each batch, with JAX.
        batch_size: Images of a batch over all devices and processes.
    """

    # Time is taken before batches: what follows a batch may run beside the next.
    async_safe = True

    def __init__(self, training_model, batch_size):
        super().__init__()
        self.training_model = training_model
        self.batch_size = batch_size

    def on_epoch_begin(self, epoch, logs=None):
        self._batches = 0
        self._waited = 0.0
        self._start = self._now = time.perf_counter()

    def on_train_batch_begin(self, batch, logs=None):
        if not batch:
            return
        self._now = time.perf_counter()
        if batch == 1:
            self._start = self._now
            return
        self._batches += 1
        self._waited += self._now - self.training_model.step_end

    def on_train_batch_end(self, batch, logs=None):
        self._add_to(logs)

    def on_epoch_end(self, epoch, logs=None):
        self._add_to(logs)

    def _add_to(self, logs):
        if self._batches:
            elapsed = self._now - self._start
            logs["images_per_second"] = self._batches * self.batch_size / elapsed
            logs["data_wait"] = self._waited / elapsed


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Ends a run whose loss is infinite or NaN, and tells which batch it was.

    Args:
        whereabouts: The `Whereabouts` of the run's batches.
        first_step: Step of the epoch that `fit` begins with.

    Raises:
        NonFiniteLossError: from `fit`.
    """

    async_safe = True

    def __init__(self, whereabouts, first_step=0):
        super().__init__()
        self.whereabouts = whereabouts
        self.first_step = first_step

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            what = f"The loss is {logs['loss']}"
            raise self.whereabouts.error(what, self._epoch, batch + self.first_step)


class Checkpoints(keras.callbacks.Callback):
    """Keeps the state of the run in a file: at each epoch's end, and within epochs.

    Args:
        path: The file, replaced each time; None to keep `progress` only.
        whereabouts: The `Whereabouts` of the run's batches.
        every: Batches between checkpoints within an epoch; 0 for none.
        progress: Dict that is saved along; `epoch` and `step` (of the next batch) and `history`
            (the logs of all epochs so far) are kept in it here.
        first_step: Step of the epoch that `fit` begins with.
        metrics: Values of the metrics' variables to begin with, of an epoch that goes on.

    Raises:
        NonFiniteLossError: from `fit`, if a weight is not finite.
    """

    def __init__(self, path, whereabouts, every, progress, first_step=0, metrics=()):
        super().__init__()
        self.path = path
        self.whereabouts = whereabouts
        self.every = every
        self.progress = progress
        self.first_step = first_step
        self.metrics = metrics

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        # `fit` resets the metrics when an epoch starts, also one that only goes on.
        if self.metrics:
            variables = self.model.metrics_variables
            for variable, value in zip(variables, self.metrics, strict=True):
                variable.assign(value)
            self.metrics = ()

    def on_train_batch_begin(self, batch, logs=None):
        # Before the next batch, not after the last: there, callbacks may run beside the step.
        self._step = batch + self.first_step
        if self.every and batch and self._step % self.every == 0:
            self._save(self._epoch, self._step, last=self._step - 1)

    def on_epoch_end(self, epoch, logs=None):
        self.progress["history"].append({"epoch": epoch, **logs})
        self._save(epoch + 1, 0, last=self._step)

    def _save(self, epoch, step, last):
        """Saves the state before a step of an epoch, `last` being that of the last batch."""
        self.progress.update(epoch=epoch, step=step)
        if self.path is None:
            return
        try:
            save_checkpoint(self.path, self.model, self.progress)
        except FloatingPointError as error:
            what = "A weight became infinite or NaN"
            raise self.whereabouts.error(what, self._epoch, last) from error


class HistoryFile(keras.callbacks.Callback):
    """Writes the logs of all epochs as CSV, with those of before a resume.

    Args:
        path: The file, replaced at each epoch's end.
        history: List of the epochs' logs, kept by `Checkpoints`, which must come first.
    """

    def __init__(self, path, history):
        super().__init__()
        self.path = path
        self.history = history

    def on_epoch_end(self, epoch, logs=None):
        columns = dict.fromkeys(key for row in self.history for key in row)
        with replacing(self.path) as temporary:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns, restval="")
                writer.writeheader()
                writer.writerows(self.history)


class BestModel(keras.callbacks.Callback):
    """Saves the model whenever its validation accuracy is the highest so far.

    Comes before `SwapEMAWeights` in the list of callbacks: at the end of validation the averaged
    weights are then still in the model.

    Args:
        save: Function without arguments that saves the model.
        progress: Dict with the highest `best_accuracy` so far, kept here.
    """

    def __init__(self, save, progress):
        super().__init__()
        self.save = save
        self.progress = progress

    def on_test_end(self, logs=None):
        if logs["accuracy"] > self.progress["best_accuracy"]:
            self.save()
            self.progress["best_accuracy"] = logs["accuracy"]


class LearningRate(keras.callbacks.Callback):
    """Adds the `learning_rate` of an epoch's end to its logs."""

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)


class EventFile(keras.callbacks.Callback):
    """Writes the logs of epochs for TensorBoard.

    Keras's own callback also looks at the model beside the training steps, where JAX has given
    the weights' memory to the next step.

    Args:
        folder: The folder for TensorBoard.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_begin(self, logs=None):
        self._writer = tf.summary.create_file_writer(str(self.folder))

    def on_epoch_end(self, epoch, logs=None):
        with self._writer.as_default(step=epoch):
            for name, value in logs.items():
                tf.summary.scalar(name, value)
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.close()
