"""One training run: a network, pictures and a start; accuracy by epoch and by second."""

import contextlib
import dataclasses
import fcntl
import functools
import json
import statistics
import time

import numpy as np

from keras_sepvit.files import replacing

# Test pictures after each epoch; after the last one all count.
_SHOWN = 2000
_PREDICTED = 500

# Pictures on which a warm start fits norms.
_FITTED = 256

# A teacher's share of the loss, and the temperature of both softmaxes.
_TAUGHT = 0.5
_TEMPERATURE = 3.0


@dataclasses.dataclass
class Run:
    """What is trained, on what, from what.

    Attributes:
        name: Of the arm, such as `"warm"`.
        network: A key of `networks.TITLES`.
        seed: Decides pictures, weights, order and crops.
        data: Folder of CIFAR-10.
        classes: Numbers of CIFAR-10's classes.
        pictures: How many to train on.
        epochs: After each of them it is tested.
        passes: How often each picture is seen in an epoch.
        batch_size, learning_rate, drop_path_rate, image_size: As in recipes.
        weights: A `.keras` file of the same network to go on from, with a new head; or None.
        warm_start: A `.keras` file of a Swin to start a SepViT from, or None.
        parts: What is taken of it; None for the default.
        teacher: A `.keras` file of a classifier to learn from, too, or None.
        saved: Whether the trained network is kept.
    """

    name: str
    network: str
    seed: int
    data: str
    classes: tuple = tuple(range(10))
    pictures: int = 10_000
    epochs: int = 12
    passes: int = 1
    batch_size: int = 64
    learning_rate: float = 1e-3
    drop_path_rate: float = 0.0
    image_size: int = 32
    weights: str | None = None
    warm_start: str | None = None
    parts: tuple | None = None
    teacher: str | None = None
    saved: bool = False

    @property
    def key(self):
        return f"{self.name}-{self.seed}"


def train(run, folder, commit, turn=None):
    """Trains; leaves `KEY.json`, and the network as `KEY.keras` where it is to be kept.

    Args:
        run: The `Run`.
        folder: Where results are left.
        commit: What runs, for the result.
        turn: A file that processes lock to train one at a time; seconds are then those of the
            clock. The first epoch, in which all is compiled, waits for those of the same network
            alone, and finds in JAX's cache what they have left there. None for seconds of the
            processor, which other processes do not lengthen.
    """
    import keras

    from keras_sepvit.complexity.graph import traced_macs
    from learners.pictures import SIDE, read_pictures, training_batches

    keras.utils.set_random_seed(run.seed)
    pictures = read_pictures(run.data, "train", run.classes, run.pictures, seed=run.seed)
    tested = read_pictures(run.data, "test", run.classes)
    shown = slice(None, None, max(len(tested) // _SHOWN, 1))
    steps = run.passes * (len(pictures) // run.batch_size)
    model, report = _training_model(run, pictures, steps)
    network = model.network
    batches = training_batches(pictures, run.batch_size, run.seed)
    seconds, losses, top1 = [], [], []
    clock = time.process_time if turn is None else time.perf_counter
    for epoch in _in_turn(run, turn):
        begun = clock()
        history = model.fit(
            batches,
            steps_per_epoch=steps,
            initial_epoch=epoch,
            epochs=epoch + 1,
            shuffle=False,
            verbose=0,
        )
        seconds.append(clock() - begun)
        losses.append(history.history["loss"][0])
        last = epoch == run.epochs - 1
        top1.append(_top1(model, tested, slice(None) if last else shown))
        told = f"epoch {epoch + 1}, {seconds[-1]:.1f} s, {top1[-1]:.1f} %"
        print(f"{run.key}: {told}", flush=True)
    if len(seconds) > 1:  # the first epoch compiles
        seconds[0] = statistics.median(seconds[1:])
    if run.saved:
        with replacing(folder / f"{run.key}.keras") as temporary:
            network.save(temporary)
    result = {
        "run": dataclasses.asdict(run),
        "commit": commit,
        "backend": keras.config.backend(),
        "parameters": sum(int(np.prod(v.shape)) for v in network.trainable_variables),
        "macs": traced_macs(network, (SIDE, SIDE, 3)),
        "seconds": np.cumsum(seconds).tolist(),
        "loss": losses,
        "top1": top1,
        "report": report,
    }
    with replacing(folder / f"{run.key}.json") as temporary:
        temporary.write_text(json.dumps(result))


def _training_model(run, pictures, steps):
    """The package's training model of the run, compiled; and what its start reports.

    `steps` are those of an epoch.
    """
    import keras
    import trainer_step

    import keras_sepvit
    from keras_sepvit.classification.losses import distillation_losses
    from keras_sepvit.classification.mixing import BatchAugmentation
    from keras_sepvit.classification.recipes import AugmentationRecipe, ClassificationRecipe
    from keras_sepvit.training.recipe import OptimizerRecipe
    from learners.networks import build_network

    recipe = ClassificationRecipe(
        augmentation=AugmentationRecipe(label_smoothing=0.1),
        optimizer=OptimizerRecipe(
            learning_rate=run.learning_rate, reference_batch=None, warmup_epochs=1
        ),
        epochs=run.epochs,
        batch_size=run.batch_size,
    )
    network = build_network(run.network, run.image_size, len(run.classes), run.drop_path_rate)
    report = None
    if run.weights:
        _go_on_from(network, keras.models.load_model(run.weights))
    if run.warm_start:
        parts = {} if run.parts is None else {"parts": run.parts}
        images = pictures.images[:: max(len(pictures) // _FITTED, 1)]
        report = str(keras_sepvit.warm_start(network, run.warm_start, images=images, **parts))
    augmentation = BatchAugmentation(
        len(run.classes), recipe.augmentation.label_smoothing, seed=run.seed
    )
    taught = {}
    if run.teacher:
        # It needs TensorFlow, without which the other runs do.
        from keras_sepvit.classification.teacher import TaughtAugmentation, Teacher

        augmentation = TaughtAugmentation(augmentation, Teacher(run.teacher))
        losses = functools.partial(
            distillation_losses, weight=_TAUGHT, temperature=_TEMPERATURE, hard=False
        )
        taught = {"losses": losses, "loss_names": ("cross_entropy", "distillation")}
    return trainer_step.training_model(recipe, network, augmentation, steps, **taught), report


def _go_on_from(network, trained):
    """Gives a network the weights of another of its kind, but for the head."""
    for layer in network.layers:
        if layer.name != "head":
            layer.set_weights(trained.get_layer(layer.name).get_weights())


def _in_turn(run, turn):
    """The epochs of a run, each when it may run; `turn` as in `train`."""
    epochs = range(run.epochs)
    if turn is None:
        yield from epochs
        return
    with _alone(f"{turn}_{run.network}"):
        yield from epochs[:1]
    with _alone(turn):
        yield from epochs[1:]


@contextlib.contextmanager
def _alone(file):
    """No other process is inside with the same file."""
    with open(file, "w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _top1(model, pictures, chosen):
    answers = model.predict({"image": pictures.images[chosen]}, batch_size=_PREDICTED, verbose=0)
    return float(100 * np.mean(answers.argmax(axis=1) == pictures.labels[chosen]))
