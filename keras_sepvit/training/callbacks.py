"""What happens beside the training steps: timing, validation, checkpoints, stopping."""

import contextlib
import csv
import math
import time

import keras

from keras_sepvit.files import replacing
from keras_sepvit.training.checkpoint import save_checkpoint
from keras_sepvit.training.tensorflow import tf


class NonFiniteLossError(FloatingPointError):
    """The loss, or a weight, became infinite or NaN."""


class Throughput(keras.callbacks.Callback):
    """Adds `images_per_second` to the logs of batches and epochs.

    An epoch's first batch is left out: it may include compilation.

    Args:
        batch_size: Images of a batch over all devices and processes.
    """

    # Time is taken before batches: what follows a batch may run beside the next.
    async_safe = True

    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size

    def on_epoch_begin(self, epoch, logs=None):
        self._batches = 0
        self._start = self._now = time.perf_counter()

    def on_train_batch_begin(self, batch, logs=None):
        if not batch:
            return
        self._now = time.perf_counter()
        if batch == 1:
            self._start = self._now
            return
        self._batches += 1

    def on_train_batch_end(self, batch, logs=None):
        self._add_to(logs)

    def on_epoch_end(self, epoch, logs=None):
        self._add_to(logs)

    def _add_to(self, logs):
        if self._batches:
            elapsed = self._now - self._start
            logs["images_per_second"] = self._batches * self.batch_size / elapsed


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Ends a run whose loss is infinite or NaN, and tells at which step.

    Comes first in the list of callbacks: nothing may be made of such weights.

    Args:
        error: Function of what happened, epoch and step that gives the error.
        first_step: Step of the epoch that `fit` begins with.

    Raises:
        NonFiniteLossError: from `fit`, after the step at which it was seen.
    """

    async_safe = True

    def __init__(self, error, first_step=0):
        super().__init__()
        self.error = error
        self.first_step = first_step
        self.seen = None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        # May run in one of several threads beside the training: they stop it, and it tells why.
        if self.seen is None and not math.isfinite(logs["loss"]):
            self.seen = f"The loss is {logs['loss']}", self._epoch, batch + self.first_step
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if self.seen is not None:
            raise self.error(*self.seen)


class Validation(keras.callbacks.Callback):
    """Adds `val_...` to an epoch's logs, and saves the model whenever it is the best so far.

    Results that are None are in no logs.

    Args:
        evaluate: Function without arguments that gives a dict of results.
        best: The result to choose by; the higher the better.
        save: Function without arguments that saves the model.
        progress: Dict whose `rank`, kept here, begins with the highest result so far, None
            before there is one; and whose `best_epoch`, from 1, is its epoch.
        averaged: Whether both happen with the averaged weights, which the optimiser keeps.
        stop: Function of the number of epochs trained that says whether `fit` ends.
    """

    def __init__(self, evaluate, best, save, progress, averaged=False, stop=lambda epoch: False):
        super().__init__()
        self.evaluate = evaluate
        self.best = best
        self.save = save
        self.progress = progress
        self.averaged = averaged
        self.stop = stop

    def on_epoch_end(self, epoch, logs=None):
        with deployed_weights(self.model, self.averaged):
            results = self.evaluate()
            # Of equal results the one with the lower loss.
            rank, before = (
                [results[self.best], -(results.get("loss") or 0.0)],
                self.progress["rank"],
            )
            # Without a result, as of data in which there is nothing to find, the last epoch.
            if before is None or rank[0] is None or rank > before:
                self.save()
                self.progress.update(rank=rank, best_epoch=epoch + 1)
        known = {name: value for name, value in results.items() if value is not None}
        logs.update({f"val_{name}": value for name, value in known.items()})
        if self.stop(epoch + 1):
            self.model.stop_training = True


class Snapshots(keras.callbacks.Callback):
    """Keeps a model every few epochs.

    Args:
        save: Function of a file's name that saves the model.
        every: Epochs between two models.
        averaged: As for `Validation`.
    """

    def __init__(self, save, every, averaged=False):
        super().__init__()
        self.save = save
        self.every = every
        self.averaged = averaged

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            with deployed_weights(self.model, self.averaged):
                self.save(f"epoch_{epoch + 1:03}.keras")


@contextlib.contextmanager
def deployed_weights(model, averaged):
    """Puts the averages that the optimiser keeps of the weights into a model for a while.

    Where it keeps none (`averaged=False`), nothing is done.
    """
    if not averaged:
        yield
        return
    swap = keras.callbacks.SwapEMAWeights()
    swap.set_model(model)
    swap.on_test_begin()
    try:
        yield
    finally:
        swap.on_test_end()


class Checkpoints(keras.callbacks.Callback):
    """Keeps the state of the run in a file: at each epoch's end, and within epochs.

    Args:
        path: The file, replaced each time; None to keep `progress` only.
        error: Function of what happened, epoch and step that gives the error.
        every: Batches between checkpoints within an epoch; 0 for none.
        progress: Dict that is saved along; `epoch` and `step` (of the next batch) and `history`
            (the logs of all epochs so far) are kept in it here.
        first_step: Step of the epoch that `fit` begins with.
        metrics: Values of the metrics' variables to begin with, of an epoch that goes on.

    Raises:
        NonFiniteLossError: from `fit`, if a weight is not finite.
    """

    def __init__(self, path, error, every, progress, first_step=0, metrics=()):
        super().__init__()
        self.path = path
        self.error = error
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
        self.progress["history"].append({"epoch": epoch + 1, **logs})
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
            raise self.error(what, self._epoch, last) from error


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
        with self._writer.as_default(step=epoch + 1):
            for name, value in logs.items():
                tf.summary.scalar(name, value)
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.close()
