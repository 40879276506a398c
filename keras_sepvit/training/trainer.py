"""A training run: recipe and folder in, models and history out."""

import functools
import sys

import keras
import numpy as np

from keras_sepvit.files import replacing
from keras_sepvit.training import callbacks as run_callbacks
from keras_sepvit.training import device
from keras_sepvit.training.distribution import start_distribution
from keras_sepvit.training.evaluation import evaluate
from keras_sepvit.training.folder import RunFolder, check_apart
from keras_sepvit.training.optimizer import build_optimizer
from keras_sepvit.training.picture import SHOWN, draw_curves
from keras_sepvit.training.pipeline import (
    batch_names,
    evaluation_batches,
    first_batches,
    steps_per_epoch,
    training_stream,
)
from keras_sepvit.training.recipe import Recipe
from keras_sepvit.training.report import DataReport
from keras_sepvit.training.result import TrainingResult, announcement
from keras_sepvit.training.sources.source import Shard
from keras_sepvit.training.sources.splits import warn_of_copies


class Trainer:
    """Trains by a recipe, in a folder that a stopped run goes on from.

    The folder holds `recipe.yaml`; `best.keras` (of the best validation result) and `last.keras`,
    whole float32 models of images of 0..255 to the task's answers, with averaged weights where the
    recipe has `ema_decay`; `history.csv`; `tensorboard`; `batch.png`, augmented; `curves.png`;
    `checkpoint.npz`, to go on from; `epoch_NNN.keras` of `snapshot_epochs`; the task's own files.

    A run that was stopped at any moment, and is started again with the same recipe and folder,
    goes on from its last checkpoint and takes the same steps as if it had never stopped.

    Args:
        recipe: A `Recipe`, as `keras_sepvit.training.load_recipe` gives.
        folder: The run's folder; made if it does not exist.
        callbacks: Keras callbacks of your own, which see the logs that all others have added to.

    Raises:
        TypeError: if `recipe` is none.
        ValueError: if the recipe does not fit the data, or the folder belongs to a run with
            another recipe (naming the keys that differ).
        FileNotFoundError: for data that are not there, with what to put where.
    """

    def __init__(self, recipe, folder, callbacks=()):
        if not isinstance(recipe, Recipe):
            raise TypeError(
                "`recipe` must be a Recipe, such as keras_sepvit.training.load_recipe('digits'). "
                f"Received: {recipe!r}."
            )
        self.callbacks = callbacks
        self.folder = RunFolder(folder, recipe)
        recipe = self.folder.recipe
        if recipe.deterministic:
            device.use_deterministic_operations()
        keras.utils.set_random_seed(recipe.seed)
        self.distribution = start_distribution(recipe)
        self.task = recipe.make_task()
        self._open_data()
        self.progress = {"epoch": 0, "step": 0, "history": [], "rank": None, "best_epoch": 0}
        self.progress["data"] = self.folder.check_data(self.source)
        with self.distribution.scope():
            self.model = self._build_model()
            self.distribution.connect(self.model)
            self.distribution.vary_seeds(self.model)

    @property
    def network(self):
        """The network that is trained: images of 0..255 to raw outputs."""
        return self.model.network

    def train(self, verbose="auto"):
        """Trains to the last epoch.

        Args:
            verbose: 0 for silence, 1 for a progress bar, 2 for a line an epoch; `"auto"` for 1
                on a terminal and 2 elsewhere.

        Returns:
            A `TrainingResult`.

        Raises:
            NonFiniteLossError: if the loss becomes infinite or NaN; the last good checkpoint
                stays.
        """
        if not self.distribution.is_chief:
            verbose = 0
        elif verbose == "auto":
            verbose = 1 if sys.stdout.isatty() else 2
        if verbose:
            print(announcement(self))
        if self.distribution.is_chief:
            if not self.folder.checkpoint.exists():
                checked = self.task.check_data()
                if verbose and checked:
                    print(checked)
            self.folder.prepare(self.task.files())
            if not ((self.folder / "batch.png").exists() and self.folder.checkpoint.exists()):
                self.draw_batch()
        self._resume()
        begun = self.progress["epoch"] + self.progress["step"]
        if verbose and begun and not self._ended(self.progress["epoch"]):
            print(
                f"Going on after step {self.progress['step']} of epoch "
                f"{self.progress['epoch'] + 1} of {self.epochs}."
            )
        elif verbose and begun:
            print(f"The run in {self.folder} has ended: nothing is left to train.")
        try:
            self._fit_to_the_end(verbose)
        finally:
            if self.distribution.is_chief and self.progress["history"]:
                draw_curves(self.folder / "curves.png", self.progress["history"], self.task.curves)
        if verbose and self.progress["epoch"] < self.epochs:
            print(
                f"Stopped after epoch {self.progress['epoch']} of {self.epochs}: the best was "
                f"epoch {self.progress['best_epoch']}, and patience is {self.recipe.patience}."
            )
        # Averaged weights: `fit` has put them in place, unless it was stopped just then.
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        if self.distribution.is_chief and not (self.folder / "last.keras").exists():
            self.save("last.keras")
        return TrainingResult(
            folder=str(self.folder),
            epochs=self.progress["epoch"],
            best=self.progress["rank"] and self.progress["rank"][0],
            best_epoch=self.progress["best_epoch"],
            history=self.progress["history"],
            unreadable=self.report.unreadable,
            unreadable_names=self.report.names,
        )

    def evaluate_best(self):
        """What `best.keras` makes of the validation data, by class.

        Tables and pictures of it go into the run's folder.

        Returns:
            The task's `Report`; None without validation, in a task that has none, and in a run
            of several processes.
        """
        if self.validation_source is None or self.distribution.processes > 1:
            return None
        results = self.task.report()
        if results is not None:
            with self.distribution.local():
                self._deployed.load_weights(self.folder / "best.keras")
                predict = self._deployed.predict_on_batch
                evaluate(predict, self.validation_data, results, report=self.report)
            results.write(self.folder.path)
        return results

    def first_batch(self):
        """The run's first batch of examples, a dict of NumPy arrays."""
        with self.report.raising():
            return first_batches(self.training_data(0, 0), 1)[0]

    def draw_batch(self):
        """Draws the run's first 16 images, augmented, into its folder; returns the file's path."""
        self.folder.path.mkdir(parents=True, exist_ok=True)
        with self.report.raising():
            batches = first_batches(self.training_data(0, 0), SHOWN)
        with self.distribution.local():
            augmented = map(self.task.augmentation(self.part), batches)
            images, targets = keras.tree.map_structure(
                lambda *parts: np.concatenate([*map(keras.ops.convert_to_numpy, parts)]), *augmented
            )
        self.task.draw_batch(self.folder / "batch.png", images, targets)
        return self.folder / "batch.png"

    def train_step(self, batch):
        """One update on a batch of examples, a dict of arrays.

        Returns:
            The loss, a float.
        """
        with self.distribution.scope():
            return float(self.model.train_on_batch(batch, return_dict=True)["loss"])

    def save(self, name):
        """Saves the network in the run's folder as the task deploys it.

        Of several processes the first one does.

        Args:
            name: File name that ends in `.keras`.
        """
        if not self.distribution.is_chief:
            return
        with self.distribution.local():
            self._deployed.set_weights(self.network.get_weights())
            with replacing(self.folder / name) as temporary:
                self._deployed.save(temporary)

    @functools.cached_property
    def _deployed(self):
        return self.task.deployed()

    def _open_data(self):
        distribution = self.distribution
        self.report = DataReport()
        self.source, self.validation_source = self.task.open()
        self.decisions = self.task.decide(distribution.devices)
        # All processes as the first one, whatever memory each has.
        recipe = self.recipe = self.task.recipe = distribution.gather(self.task.recipe)[0]
        self.folder.recipe = recipe
        check_apart(self.folder.path, self.source, self.validation_source)
        if distribution.is_chief:
            warn_of_copies(self.source, self.validation_source)
        if recipe.patience and self.validation_source is None:
            raise ValueError(
                f"patience={recipe.patience} waits for a better result on validation data, and "
                "there are none. Set patience=0."
            )
        parts = recipe.accumulate * distribution.devices
        if recipe.batch_size % parts:
            raise ValueError(
                f"batch_size must be a multiple of {parts}: accumulate={recipe.accumulate} times "
                f"{distribution.devices} devices. Received: batch_size={recipe.batch_size}."
            )
        # Images of a step that a device computes, and that this process reads.
        self.part = recipe.batch_size // parts
        self.shard = Shard(distribution.process, distribution.processes)
        self.local_batch = recipe.batch_size // recipe.accumulate // self.shard.count
        self.steps = steps_per_epoch(self.source, self.local_batch, self.shard)
        self.all_steps = round(recipe.updates(self.steps / recipe.accumulate) * recipe.accumulate)
        self.epochs = -(-self.all_steps // self.steps)

    def _build_model(self):
        recipe, distribution = self.recipe, self.distribution
        self.precision = recipe.precision
        if self.precision == "auto":
            self.precision = device.fastest_precision()
        network = self.task.build(self.precision, recipe.model.weights)
        with distribution.local():
            self.started = "" if self.folder.checkpoint.exists() else self.task.start(network)
        augmentation = self.task.augmentation(self.part)
        model = distribution.model_class(network, self.task, augmentation)
        adapt = distribution.optimizer_class
        updates = self.steps / recipe.accumulate, self.all_steps / recipe.accumulate
        optimizer = build_optimizer(recipe, network, *updates, adapt)
        if self.precision == "mixed_float16":
            optimizer = adapt(keras.optimizers.LossScaleOptimizer)(optimizer)
        jit_compile = recipe.jit_compile
        if jit_compile is None:
            jit_compile = distribution.compiles and device.best_jit_compile()
        model.compile(optimizer=optimizer, jit_compile=jit_compile)
        # Not left to `fit`, where TensorFlow would do it in a graph and take far longer.
        optimizer.build(model.trainable_variables)
        return model

    def training_data(self, epoch, step):
        """Endless batches of examples from a place in the run on."""
        return training_stream(
            self.source,
            self.task.transform,
            batch_size=self.local_batch,
            seed=self.recipe.seed,
            draw=functools.partial(self.task.draw, part=self.part),
            start_epoch=epoch,
            start_step=step,
            shard=self.shard,
            report=self.report,
        )

    @functools.cached_property
    def validation_data(self):
        """The batches that this process evaluates on."""
        return evaluation_batches(
            self.validation_source,
            self.task.transform_for_evaluation,
            batch_size=self.local_batch,
            shard=self.shard,
            report=self.report,
        )

    def evaluate(self, batches):
        """The task's results on batches of `validation_data`, a dict."""
        distribution = self.distribution
        with distribution.scope():
            return evaluate(
                lambda images: distribution.predict(self.model, {"image": images}),
                batches,
                self.task.scores(),
                report=self.report,
                gather=distribution.gather,
            )

    def _resume(self):
        progress = self.folder.resume(self.model, self.distribution)
        self.progress = {**self.progress, **(progress or {})}

    def _length(self, epoch):
        """Steps of an epoch; the last one may be shorter."""
        return min(self.steps, self.all_steps - epoch * self.steps)

    def _next_stop(self):
        """The epoch before which a `fit` ends, whose epochs must have one length."""
        epoch, step = self.progress["epoch"], self.progress["step"]
        if step:
            return epoch + 1
        if self._length(epoch) == self.steps > self._length(self.epochs - 1):
            return self.epochs - 1
        return self.epochs

    def _ended(self, epoch):
        """Whether the run is at its end after so many epochs, or has been patient enough."""
        patience = self.recipe.patience
        return epoch >= self.epochs or 0 < patience <= epoch - self.progress["best_epoch"]

    def _fit_to_the_end(self, verbose):
        while not self._ended(self.progress["epoch"]):
            self._fit(self._next_stop(), verbose)
            if not self._ended(self.progress["epoch"]):
                # Keras ends `fit` by putting averaged weights in place.
                self._resume()

    def _fit(self, until, verbose):
        epoch, step = self.progress["epoch"], self.progress["step"]
        with self.report.raising(), self.distribution.scope():
            self.model.fit(
                self.training_data(epoch, step),
                initial_epoch=epoch,
                epochs=until,
                steps_per_epoch=self._length(epoch) - step,
                callbacks=self._callbacks(step),
                shuffle=False,
                verbose=verbose,
            )

    def _callbacks(self, first_step):
        recipe, progress, chief = self.recipe, self.progress, self.distribution.is_chief
        averaged = recipe.ema_decay is not None
        callbacks = [
            run_callbacks.StopOnNonFiniteLoss(self._non_finite, first_step),
            run_callbacks.Throughput(self.local_batch * self.shard.count),
            run_callbacks.LearningRate(),
        ]
        if self.validation_source is not None:
            callbacks.append(
                run_callbacks.Validation(
                    lambda: self.evaluate(self.validation_data),
                    self.task.best,
                    lambda: self.save("best.keras"),
                    progress,
                    averaged,
                    self._ended,
                )
            )
        if recipe.snapshot_epochs:
            callbacks.append(run_callbacks.Snapshots(self.save, recipe.snapshot_epochs, averaged))
        summed = self.model.metrics_variables if first_step else ()
        metrics = [np.array(keras.ops.convert_to_numpy(variable)) for variable in summed]
        callbacks.append(
            run_callbacks.Checkpoints(
                self.folder.checkpoint if chief else None,
                self._non_finite,
                recipe.checkpoint_steps,
                progress,
                first_step,
                metrics,
            )
        )
        if chief:
            callbacks += [
                run_callbacks.HistoryFile(self.folder / "history.csv", progress["history"]),
                run_callbacks.EventFile(self.folder / "tensorboard"),
            ]
        return [*callbacks, *self.callbacks]

    def _non_finite(self, what, epoch, step):
        """The error for a run that has to stop at a batch because of `what`."""
        images = ""
        if self.source.indexed:
            names = batch_names(
                self.source,
                epoch,
                step,
                batch_size=self.local_batch,
                seed=self.recipe.seed,
                shard=self.shard,
            )
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            images = f" Images of that batch: {', '.join(names[:8])}{more}."
        return run_callbacks.NonFiniteLossError(
            f"{what} at step {step + 1} of epoch {epoch + 1}.{images} The last good "
            f"checkpoint, if there was one, is kept in '{self.folder.checkpoint}'. Look at the "
            "images, or lower optimizer.learning_rate or optimizer.clip_norm."
        )
