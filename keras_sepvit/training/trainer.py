"""A training run: recipe and folder in, models and history out."""

import dataclasses
import functools
import pathlib
import sys

import keras
import numpy as np

from keras_sepvit.classifier import SepViT
from keras_sepvit.configs import DIGITS_CONFIG
from keras_sepvit.files import remove_leftovers, replacing
from keras_sepvit.policy import dtype_policy
from keras_sepvit.training import callbacks as run_callbacks
from keras_sepvit.training import device
from keras_sepvit.training.checkpoint import check_shared, fingerprint, load_checkpoint
from keras_sepvit.training.distribution import start_distribution
from keras_sepvit.training.images import EvalTransform, TrainTransform
from keras_sepvit.training.mixing import BatchAugmentation
from keras_sepvit.training.model import fit_batch
from keras_sepvit.training.optimizer import build_optimizer
from keras_sepvit.training.picture import draw_batch, draw_curves
from keras_sepvit.training.pipeline import (
    DataReport,
    batch_names,
    evaluation_batches,
    steps_per_epoch,
    training_stream,
)
from keras_sepvit.training.recipe import DIGITS_VARIANT, load_recipe, save_recipe
from keras_sepvit.training.sources import Shard, open_source


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """The end of a run.

    Attributes:
        folder: The run's folder.
        epochs: Epochs trained.
        best_accuracy: Highest validation accuracy of 0..1; None without validation.
        history: For each epoch a dict of its number from 0, losses, accuracies (0..1),
            `images_per_second` and `data_wait` (share of the time, 0..1).
        unreadable: How often an image could not be read and another took its place.
        unreadable_names: The first such images.
    """

    folder: str
    epochs: int
    best_accuracy: float | None
    history: list
    unreadable: int
    unreadable_names: list


class Trainer:
    """Trains a classifier by a recipe, in a folder that a stopped run goes on from.

    The folder holds `recipe.yaml`; `best.keras` (of the highest validation accuracy) and
    `last.keras`, whole float32 models of images of 0..255 to probabilities, with averaged weights
    where the recipe has `ema_decay`; `classes.txt`, the classes' names; `history.csv`;
    `tensorboard`; `batch.png`, an augmented batch; `curves.png`; and `checkpoint.npz`, the state to
    go on from.

    A run that was stopped at any moment, and is started again with the same recipe and folder,
    goes on from its last checkpoint and takes the same steps as if it had never stopped.

    Args:
        recipe: A `Recipe`, the name of one, or a YAML file.
        folder: The run's folder; made if it does not exist.

    Raises:
        ValueError: if the recipe does not fit the data, or the folder belongs to a run with
            another recipe (naming the keys that differ).
        FileNotFoundError: for data that are not there, with what to put where.
    """

    def __init__(self, recipe, folder):
        self.recipe = load_recipe(recipe)
        self.folder = pathlib.Path(folder)
        self._check_folder()
        if self.recipe.deterministic:
            device.use_deterministic_operations()
        keras.utils.set_random_seed(self.recipe.seed)
        self.distribution = start_distribution(self.recipe)
        self._open_data()
        with self.distribution.scope():
            self.model = self._build_model()
            self.distribution.connect(self.model)
            self.distribution.vary_seeds(self.model)
        self.progress = {"epoch": 0, "step": 0, "history": [], "best_accuracy": -1.0}

    @property
    def network(self):
        """The classifier that is trained: images of 0..255 to logits."""
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
        self._prepare_folder()
        self._resume()
        if self.progress["step"]:
            # Keras ends `fit` by putting averaged weights in place, and an epoch that goes on
            # is shorter than others: it takes a `fit` of its own, and its checkpoint.
            self._fit(until=self.progress["epoch"] + 1, verbose=verbose)
            self._resume()
        if self.progress["epoch"] < self.recipe.epochs:
            self._fit(until=self.recipe.epochs, verbose=verbose)
        # Averaged weights: `fit` has put them in place, unless it was stopped just then.
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        if self.distribution.is_chief and not (self.folder / "last.keras").exists():
            self.save("last.keras")
            draw_curves(self.folder / "curves.png", self.progress["history"])
        best = self.progress["best_accuracy"]
        return TrainingResult(
            folder=str(self.folder),
            epochs=self.progress["epoch"],
            best_accuracy=best if best >= 0 else None,
            history=self.progress["history"],
            unreadable=self.report.unreadable,
            unreadable_names=self.report.names,
        )

    def dry_run(self):
        """Takes one batch of each split through everything, and writes nothing.

        Returns:
            Dict of what a user wants to know before a long run: data, steps, shapes, parameters,
            precision, learning rate, loss of the batches and memory in bytes.
        """
        with self.report.raising():
            images, labels = next(iter(self._training_data(0, 0)))
        loss = self.train_step(images.numpy(), labels.numpy())
        description = {
            "training data": str(self.training_source),
            "validation data": str(self.validation_source),
            "devices": str(self.distribution),
            "steps of an epoch": self.steps,
            "images of a step": tuple(images.shape),
            "dtype of the images": images.dtype.name,
            "logits of a step": (images.shape[0], self.network.output_shape[-1]),
            "parameters": self.network.count_params(),
            "precision": self.precision,
            "compiled step": self.model.jit_compile,
            "peak learning rate": self.recipe.peak_learning_rate(),
            "loss": loss,
        }
        if self.validation_source is not None:
            with self.report.raising(), self.distribution.scope():
                batch = self._validation_data().take(1)
                logs = self.model.evaluate(batch, verbose=0, return_dict=True)
            description["validation loss"] = logs["loss"]
        memory = {f"{what} memory": size for what, size in device.peak_memory().items()}
        return {**description, **memory}

    def train_step(self, images, labels):
        """One update on a batch.

        Args:
            images: uint8 array (batch, height, width, 3).
            labels: Int array (batch,).

        Returns:
            The loss, a float.
        """
        inputs, labels = fit_batch(images, labels)
        with self.distribution.scope():
            return float(self.model.train_on_batch(inputs, labels, return_dict=True)["loss"])

    def save(self, name):
        """Saves the network in the run's folder as a whole float32 model with probabilities.

        Of several processes the first one does.

        Args:
            name: File name that ends in `.keras`.
        """
        if not self.distribution.is_chief:
            return
        with self.distribution.local():
            model = self._network("float32", classifier_activation="softmax", weights=None)
            model.set_weights(self.network.get_weights())
        with replacing(self.folder / name) as temporary:
            model.save(temporary)

    def _check_folder(self):
        path = self.folder / "recipe.yaml"
        if not path.exists():
            if self.folder.exists() and not self.folder.is_dir():
                raise ValueError(f"The output folder '{self.folder}' is a file.")
            return
        differing = _differences(load_recipe(path), self.recipe)
        if differing:
            raise ValueError(
                f"'{self.folder}' holds a run with another recipe; it differs in "
                f"{', '.join(differing)}. Give this run another output folder, or remove that one."
            )

    def _open_data(self):
        data, recipe = self.recipe.data, self.recipe
        self.report = DataReport()
        self.training_source = open_source(data.name, data.train_split, data.data_dir)
        self.validation_source = None
        if data.validation_split is not None:
            self.validation_source = open_source(data.name, data.validation_split, data.data_dir)
            self._check_validation_data()
        parts = recipe.accumulate * self.distribution.devices
        if recipe.batch_size % parts:
            raise ValueError(
                f"batch_size must be a multiple of {parts}: accumulate={recipe.accumulate} times "
                f"{self.distribution.devices} devices. Received: batch_size={recipe.batch_size}."
            )
        self.shard = Shard(self.distribution.process, self.distribution.processes)
        # Images that this process reads for a step.
        self.local_batch = recipe.batch_size // recipe.accumulate // self.shard.count
        self.steps = steps_per_epoch(self.training_source, self.local_batch, self.shard)

    def _check_validation_data(self):
        training, validation = self.training_source, self.validation_source
        folder = getattr(training, "folder", None)
        if folder is not None and folder == getattr(validation, "folder", None):
            raise ValueError(
                f"'{folder}' holds class folders and no folders of splits, so training and "
                "validation would have the same images. Put the class folders into "
                "'train' and 'validation' folders, or set data.validation_split=null."
            )
        if validation.multi_label:
            raise ValueError(
                f"{validation} has sets of labels. Use it with `keras-sepvit evaluate`, and "
                "validate on data with one label an image."
            )
        if (training.classes, training.class_names) != (validation.classes, validation.class_names):
            raise ValueError(
                f"The training data {training} and the validation data {validation} have different "
                "classes. Give both splits the same class folders."
            )

    def _build_model(self):
        recipe = self.recipe
        self.precision = recipe.precision
        if self.precision == "auto":
            self.precision = device.half_precision()
        network = self._network(
            self.precision, classifier_activation=None, weights=recipe.model.weights
        )
        if recipe.model.frozen_backbone:
            for layer in network.layers:
                layer.trainable = layer.name == "head"
        model = self.distribution.model_class(network, self._batch_augmentation())
        adapt = self.distribution.optimizer_class
        optimizer = build_optimizer(recipe, network, self.steps / recipe.accumulate, adapt)
        if self.precision == "mixed_float16":
            optimizer = adapt(keras.optimizers.LossScaleOptimizer)(optimizer)
        jit_compile = recipe.jit_compile
        if jit_compile is None:
            jit_compile = self.distribution.compiles and device.best_jit_compile()
        model.compile(optimizer=optimizer, jit_compile=jit_compile)
        # Not left to `fit`, where TensorFlow would do it in a graph and take far longer.
        optimizer.build(model.trainable_variables)
        return model

    def _batch_augmentation(self):
        augmentation = self.recipe.augmentation
        return BatchAugmentation(
            classes=self.training_source.classes,
            erase_rate=augmentation.erase_rate,
            mixup=augmentation.mixup,
            cutmix=augmentation.cutmix,
            cutmix_rate=augmentation.cutmix_rate,
            label_smoothing=augmentation.label_smoothing,
            seed=self.recipe.seed,
        )

    def _network(self, precision, classifier_activation, weights):
        settings = self.recipe.model
        with dtype_policy(precision):
            return SepViT(
                DIGITS_CONFIG if settings.variant == DIGITS_VARIANT else settings.variant,
                input_shape=(settings.image_size, settings.image_size, 3),
                classes=self.training_source.classes,
                classifier_activation=classifier_activation,
                weights=weights,
                drop_path_rate=settings.drop_path_rate,
                pad_windows=settings.pad_windows,
                skip_head_mismatch=True,
            )

    def _training_data(self, epoch, step):
        """Endless batches of uint8 images and labels from a place in the run on."""
        settings, data = self.recipe.augmentation, self.recipe.data
        transform = TrainTransform(
            image_size=(self.recipe.model.image_size,) * 2,
            scale=settings.crop_scale,
            ratio=settings.crop_ratio,
            interpolation=settings.interpolation or data.interpolation,
            flip=settings.flip,
            auto_augment=settings.auto_augment,
            color_jitter=settings.color_jitter,
            force_color_jitter=settings.force_color_jitter,
        )
        return training_stream(
            self.training_source,
            transform,
            batch_size=self.local_batch,
            seed=self.recipe.seed,
            start_epoch=epoch,
            start_step=step,
            shard=self.shard,
            report=self.report,
        )

    def _validation_data(self):
        if self.validation_source is None:
            return None
        data = self.recipe.data
        transform = EvalTransform(
            image_size=(self.recipe.model.image_size,) * 2,
            crop=data.validation_crop,
            interpolation=data.interpolation,
        )
        batches = evaluation_batches(
            self.validation_source,
            transform,
            batch_size=self.local_batch,
            shard=self.shard,
            report=self.report,
        )
        return batches.map(fit_batch)

    def _prepare_folder(self):
        if not self.distribution.is_chief:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        save_recipe(self.recipe, self.folder / "recipe.yaml")
        names = self.training_source.class_names
        if names is not None:
            with replacing(self.folder / "classes.txt") as temporary:
                temporary.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        picture = self.folder / "batch.png"
        if not picture.exists():
            images, labels = next(iter(self._training_data(0, 0)))
            with self.distribution.local():
                augmentation = self._batch_augmentation()
                draw_batch(picture, augmentation, images.numpy(), labels.numpy(), names)

    def _resume(self):
        path = self.folder / "checkpoint.npz"
        self.distribution.gather(0)  # until the first process has written it
        check_shared(path, self.distribution.gather(fingerprint(path)))
        if path.exists():
            self.progress = load_checkpoint(path, self.model)
            self.distribution.vary_seeds(self.model)

    def _fit(self, until, verbose):
        epoch, step = self.progress["epoch"], self.progress["step"]
        with self.report.raising(), self.distribution.scope():
            self.model.fit(
                self._training_data(epoch, step).map(fit_batch),
                validation_data=self._validation_data(),
                initial_epoch=epoch,
                epochs=until,
                steps_per_epoch=self.steps - step,
                callbacks=self._callbacks(step),
                shuffle=False,
                verbose=verbose,
            )

    def _callbacks(self, first_step):
        recipe, progress = self.recipe, self.progress
        checkpoint = self.folder / "checkpoint.npz"
        names = functools.partial(
            batch_names,
            self.training_source,
            batch_size=self.local_batch,
            seed=recipe.seed,
            shard=self.shard,
        )
        whereabouts = run_callbacks.Whereabouts(names, checkpoint)
        callbacks = [
            run_callbacks.Throughput(self.model, self.local_batch * self.shard.count),
            run_callbacks.LearningRate(),
            run_callbacks.StopOnNonFiniteLoss(whereabouts, first_step),
            run_callbacks.BestModel(functools.partial(self.save, "best.keras"), progress),
        ]
        if recipe.ema_decay is not None:
            callbacks.append(keras.callbacks.SwapEMAWeights())
        metrics = ()
        if first_step:
            metrics = [
                np.array(keras.ops.convert_to_numpy(variable))
                for variable in self.model.metrics_variables
            ]
        callbacks.append(
            run_callbacks.Checkpoints(
                checkpoint if self.distribution.is_chief else None,
                whereabouts,
                recipe.checkpoint_steps,
                progress,
                first_step,
                metrics,
            )
        )
        if self.distribution.is_chief:
            callbacks += [
                run_callbacks.HistoryFile(self.folder / "history.csv", progress["history"]),
                run_callbacks.EventFile(self.folder / "tensorboard"),
            ]
        return callbacks


def _differences(old, new):
    """The keys whose values differ between two recipes, such as `optimizer.learning_rate`."""

    def flat(settings, prefix=""):
        for key, value in settings.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    old, new = dict(flat(dataclasses.asdict(old))), dict(flat(dataclasses.asdict(new)))
    return [key for key in new if new[key] != old[key]]
