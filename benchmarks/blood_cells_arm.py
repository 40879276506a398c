"""A detector that is trained on photos of blood cells, and measured; one arm of blood_cells.py.

`Arm` is what `run_worker` runs, in a process of its own: all CPU time of the process, that of
threads that read photos among it, is the arm's.
"""

import contextlib
import functools
import math
import pathlib
import shutil
import sys
import time

import keras
import keras_hub
import learners.networks  # noqa: F401 (files of learning.py have its layers)
from peers.build import count_parameters

from keras_sepvit import hub
from keras_sepvit.benchmark.worker import main
from keras_sepvit.detection.detector import Detector
from keras_sepvit.detection.prediction import predict
from keras_sepvit.detection.sources import open_source
from keras_sepvit.layers import imagenet_normalization
from keras_sepvit.recipes import load_recipe
from keras_sepvit.training import Trainer, evaluate, evaluation_batches, training_stream
from keras_sepvit.training.callbacks import Validation
from keras_sepvit.training.device import best_jit_compile
from keras_sepvit.training.pipeline import steps_per_epoch
from keras_sepvit.training.tensorflow import tf

# Of all arms, beside `finetune_detector`. Photos of 640 x 480 become 320 x 240, their red cells
# some 50 pixels wide and platelets 20, of one magnification: they are not drawn in several sizes.
SETTINGS = (
    "model.variant=sepvit_lite",
    "model.image_size=[256,320]",
    "model.channels=64",
    "model.num_convs=2",
    "model.anchor_scale=2",
    "model.drop_path_rate=0",
    "augmentation.short_sides=[240]",
    "optimizer.learning_rate=1e-3",
    "optimizer.backbone_rate=1",
    "optimizer.clip_norm=1",
    "batch_size=4",
    "patience=0",
    "checkpoint_steps=0",
    "precision=float32",
)
# Of KerasHub's detector; the width of its neck and heads, 256, is no argument.
HUB_LEARNING_RATE = 1e-3
HUB_HEADS = {"pre_logits_num_conv_layers": 1, "use_prediction_head_norm": True}
RESNET_18 = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 128, 256, 512],
    "stackwise_num_blocks": [2, 2, 2, 2],
    "stackwise_num_strides": [1, 2, 2, 2],
    "block_type": "basic_block",
}
WARMUP_EPOCHS = 2  # as in `finetune_detector`


class Arm:
    """Trains and measures.

    Args:
        job: Dict of `arm`, "random", "warm" or "keras_hub"; `data` and `folder`, paths; `minutes`
            of CPU time that the random one may take; of the others the `epochs` or `seconds` of
            CPU time that it took, and the file `warm_start`.
    """

    def __init__(self, job):
        self.job = job
        self.folder = pathlib.Path(job["folder"])
        self.settings = [f"data.name=folder:{job['data']}", *SETTINGS]
        if job["arm"] == "warm":
            self.settings.append(f"model.warm_start={job['warm_start']}")

    def measure(self):
        """Dict of what was trained, the CPU seconds of it, and AP on the split `test`."""
        shutil.rmtree(self.folder, ignore_errors=True)  # of an arm that was stopped
        self.folder.mkdir(parents=True)
        with contextlib.redirect_stdout(sys.stderr):  # the last line of stdout is the result
            train = self._keras_hub if self.job["arm"] == "keras_hub" else self._own
            model, task, result = train()
            report = self._report(model, task)
        scores, rows = report.result(), report.record()["classes"]
        classes = {row["class"]: row["ap"] for row in rows}
        facts = {"parameters": count_parameters(model), "classes": classes}
        return {**result, **facts, "ap": scores["ap"], "ap50": scores["ap50"]}

    def _own(self):
        """This package's RetinaNet, by its trainer."""
        epochs = self.job.get("epochs") or self._affordable_epochs()
        seconds = stopwatch()
        trainer = Trainer(self._recipe(f"epochs={epochs}"), self.folder / "run")
        result = trainer.train(verbose=2)
        facts = {"seconds": seconds(), "epochs": result.epochs, "steps": trainer.all_steps}
        facts |= {"best_epoch": result.best_epoch, "validation_ap": result.best}
        model = keras.saving.load_model(self.folder / "run" / "best.keras", compile=False)
        return model, trainer.task, facts

    def _affordable_epochs(self):
        """Epochs in the minutes of the job, by the times of two."""
        seconds, ends = stopwatch(), []
        clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(seconds()))
        recipe = self._recipe("epochs=2", "optimizer.warmup_epochs=0")
        Trainer(recipe, self.folder / "timed", callbacks=[clock]).train(verbose=2)
        keras.utils.clear_session()
        return affordable_epochs(60 * self.job["minutes"], *ends)

    def _keras_hub(self):
        """KerasHub's RetinaNet in a plain `fit`: the same photos, augmentation, batches and loss.

        It trains until it has had the seconds of the job.
        """
        seconds = stopwatch()
        recipe = self._recipe()
        keras.utils.set_random_seed(recipe.seed)
        task = recipe.make_task()
        source, validation = task.open()
        detector = keras_hub_retinanet((*recipe.model.image_size, 3), source.classes, recipe)
        best = self.folder / "best.weights.h5"
        held_out = batches_of(validation, task)
        progress = {"rank": None, "best_epoch": 0}
        budget = Budget(self.job["seconds"], seconds, HUB_LEARNING_RATE)
        validate = Validation(
            lambda: evaluate(answers_of(detector), held_out, task.scores()),
            task.best,
            lambda: detector.save_weights(best),
            progress,
        )
        stream = training_stream(
            source, task.transform, batch_size=recipe.batch_size, seed=recipe.seed
        )
        detector.fit(
            stream.map(_as_keras_hub_takes_them),
            epochs=10_000,  # the budget ends it
            steps_per_epoch=steps_per_epoch(source, recipe.batch_size),
            callbacks=[budget, validate],
            shuffle=False,
            verbose=2,
        )
        facts = {"seconds": seconds(), "epochs": budget.epochs, "steps": budget.steps}
        facts |= {"best_epoch": progress["best_epoch"], "validation_ap": progress["rank"][0]}
        detector.load_weights(best)
        return detector, task, facts

    def _recipe(self, *changes):
        return load_recipe("finetune_detector", [*self.settings, *changes])

    def _report(self, model, task):
        """What the model makes of the split `test`, in tables and pictures in the arm's folder."""
        report = task.report()
        source = open_source(self.job["data"], "test")
        evaluate(answers_of(model), batches_of(source, task), report)
        report.write(self.folder)
        print(report.text())
        return report


class Budget(keras.callbacks.Callback):
    """Ends `fit` when its CPU time is spent; half a cosine lowers the learning rate until then.

    Args:
        budget: Seconds.
        seconds: Function that gives those that are spent.
        learning_rate: Peak rate; a warm-up leads to it.

    Attributes:
        epochs, steps: How many there have been; the last epoch may be shorter.
    """

    def __init__(self, budget, seconds, learning_rate):
        super().__init__()
        self.budget, self.seconds, self.learning_rate = budget, seconds, learning_rate
        self.epochs = self.steps = 0

    def on_epoch_begin(self, epoch, logs=None):
        # By the epoch: within one, JAX keeps the optimiser's variables to itself.
        cosine = 0.5 * (1 + math.cos(math.pi * min(self.seconds() / self.budget, 1)))
        warmup = min((epoch + 0.5) / WARMUP_EPOCHS, 1)
        self.model.optimizer.learning_rate = self.learning_rate * cosine * warmup

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.seconds() >= self.budget:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        self.epochs = epoch + 1


def stopwatch():
    """A function that gives the seconds of CPU time, of all threads, since now."""
    start = time.process_time()
    return lambda: time.process_time() - start


def affordable_epochs(budget, first, second):
    """How many epochs fit into seconds, where the first two ended after so many.

    More than the warm-up are needed.
    """
    return max(1 + int((budget - first) / (second - first)), WARMUP_EPOCHS + 1)


def batches_of(source, task):
    """Batches to evaluate on, of photos on canvases."""
    transform = task.transform_for_evaluation
    return evaluation_batches(source, transform, batch_size=task.recipe.batch_size)


def answers_of(model):
    """A function from images of 0..255 to what a detector finds, arrays by name."""
    if isinstance(model, Detector):
        return functools.partial(predict, model)
    # KerasHub's decoding fails in `predict_on_batch`.
    return functools.partial(model.predict, verbose=0)


def keras_hub_retinanet(image_shape, classes, recipe):
    """KerasHub's RetinaNet on its ResNet-18, of images of 0..255, compiled.

    Put together by `hub.retinanet`: with KerasHub's defaults it learns nothing in so many steps
    (docs/detectors.md).
    """
    images = keras.Input(image_shape)
    resnet = keras_hub.models.ResNetBackbone(**RESNET_18, image_shape=image_shape)
    levels = keras.Model(resnet.inputs, resnet.pyramid_outputs)
    levels = levels(imagenet_normalization("normalization")(images))
    encoder = keras.Model(images, levels)
    encoder.pyramid_outputs = levels
    anchor_size = recipe.model.anchor_scale
    detector = hub.retinanet(encoder, classes, anchor_size=anchor_size, **HUB_HEADS)
    settings = recipe.optimizer
    optimizer = keras.optimizers.AdamW(
        HUB_LEARNING_RATE,
        weight_decay=settings.weight_decay,
        global_clipnorm=settings.clip_norm,
    )
    detector.compile(optimizer, **hub.retinanet_losses(classes), jit_compile=best_jit_compile())
    return detector


def _as_keras_hub_takes_them(batch):
    targets = {"boxes": batch["boxes"], "labels": tf.cast(batch["labels"], "float32")}
    return tf.cast(batch["image"], "float32"), targets


if __name__ == "__main__":
    main(Arm)
