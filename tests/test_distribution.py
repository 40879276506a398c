"""Several devices and processes: the result is that of one device with the same batch."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
from helpers import BACKEND
from training_data import SMALL_DIGITS, write_folder, write_rectangles

from keras_sepvit import SepViT
from keras_sepvit.detection.rcnn_losses import LOSS_NAMES
from keras_sepvit.recipes import load_recipe
from keras_sepvit.training import checkpoint, distribution, parallel
from keras_sepvit.training.recipe import Recipe
from keras_sepvit.training.trainer import Trainer

SCRIPT = pathlib.Path(__file__).with_name("distributed_run.py")
EPOCHS = 2
LAUNCHER_VARIABLES = (
    distribution.KERAS,
    distribution.TORCHRUN,
    distribution.SLURM,
    distribution.OPEN_MPI,
    distribution.TENSORFLOW,
)

# Seconds after which processes that hang are killed.
LIMIT = 900

# 4 steps an epoch, validation that does not fill its last batch, gradients that are clipped.
CHANGES = (
    f"epochs={EPOCHS}",
    "batch_size=8",
    "precision=float32",
    "ema_decay=0.9",
    "checkpoint_steps=1",
    "optimizer.warmup_epochs=0",
    "optimizer.learning_rate=3e-3",
    "optimizer.reference_batch=8",
    "optimizer.clip_norm=0.5",
    "optimizer.layer_decay=0.8",
    "augmentation.auto_augment=null",
    "augmentation.color_jitter=0",
    "augmentation.mixing_group=2",  # a device's part of a batch, or less
    "deterministic=true",
)

# Copies of the model draw their own numbers, of drop path and noise; JAX draws those of the global
# batch. What is mixed with what is drawn beforehand.
RANDOM = (
    ("model.drop_path_rate=0.2", "augmentation.erase_rate=0.5")
    if BACKEND == "jax"
    else ("model.drop_path_rate=0", "augmentation.erase_rate=0")
)

torch_or_jax = pytest.mark.skipif(
    BACKEND == "tensorflow", reason="TensorFlow trains in one process"
)
tensorflow_only = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="about TensorFlow's MirroredStrategy"
)


def environment(**variables):
    kept = {key: value for key, value in os.environ.items() if key not in LAUNCHER_VARIABLES}
    return {
        **kept,
        "OMP_NUM_THREADS": "1",
        **variables,
    }


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


DETECTORS = {
    # Batches of two shapes; losses over all anchors with an object, unlike many in each part.
    "detect_digits": (
        ("train", (64, 80), (3, 0, 1, 2)),
        ("train", (80, 64), (1, 0, 0, 2)),
        ("valid", (64, 80), (2,)),
        ("valid", (80, 64), (1, 1)),
        ("model.image_size=[64,96]", "class_loss", "box_loss", "val_ar_100"),
    ),
    # So few anchors that all are trained on, and nothing is drawn.
    "instances_digits": (
        ("train", (32, 32), (3, 1, 1, 2, 2, 1, 1, 1)),
        ("valid", (32, 32), (2, 1, 1)),
        ("model.image_size=[32,32]", *LOSS_NAMES, "val_ar_100", "val_mask_ar_100"),
    ),
}
OF_DETECTORS = (
    *("model.channels=8", "model.num_convs=1", "batch_size=4", "epochs=2"),
    *("augmentation.short_sides=null", "data.keep_empty=true", "ema_decay=null"),
    *("optimizer.reference_batch=null", "optimizer.warmup_epochs=0", "precision=float32"),
    *("optimizer.learning_rate=1e-4", "deterministic=true"),
)


class Runs:
    """Training runs in a folder, each in processes of its own or, to import but once, together.

    A run is a dict of its name, its recipe, what is changed in it, and the data's folder.
    """

    def __init__(self, folder):
        self.folder = folder
        write_classes(folder / "digits")
        teacher = folder / "teacher.keras"
        SepViT(SMALL_DIGITS, input_shape=(32, 32, 3), classes=3).save(teacher)
        taught = f"distill.teacher={teacher}", "distill.weight=0.9"
        digits = {"recipe": "digits", "data": "digits"}
        self.digits = {"name": "digits", **digits, "changes": (*CHANGES, *RANDOM)}
        self.dense = [
            {"name": "student", **digits, "changes": (*CHANGES, *RANDOM, *taught)},
            {"name": "segmenter", "recipe": None, "data": None, "changes": ()},
        ]
        for recipe, (*splits, (size, *_)) in DETECTORS.items():
            for split in splits:
                write_rectangles(folder / recipe, *split)
            changes = [*OF_DETECTORS, size]
            if recipe == "instances_digits":
                changes += ["model.units=16", "model.samples=512"]
            self.dense.append(
                {"name": recipe, "recipe": recipe, "data": recipe, "changes": changes}
            )

    def start(
        self,
        place,
        *runs,
        devices=1,
        killed=None,
        changes=(),
        **variables,
    ):
        """Starts a process; its results are those of a place, such as `"one"`."""
        settings = {
            "devices": devices,
            "runs": [
                {
                    "recipe": run["recipe"],
                    "changes": [
                        f"data.name=folder:{self.folder / str(run['data'])}",
                        *run["changes"],
                        *changes,
                    ],
                    "folder": str(self.folder / place / run["name"]),
                    "output": str(self.folder / f"{place}.{run['name']}"),
                    "killed": killed,
                }
                for run in runs
            ],
        }
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), json.dumps(settings)],
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def start_processes(self, place, count, *runs, **options):
        """Starts several processes of runs, as JAX's and torch's launchers do."""
        port = free_port()
        common = {
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{port}",
            "KERAS_DISTRIBUTION_NUM_PROCESSES": str(count),
        }
        if BACKEND == "torch":
            common = {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(count),
                "LOCAL_RANK": "0",  # used with GPUs only
            }
        number = "RANK" if BACKEND == "torch" else "KERAS_DISTRIBUTION_PROCESS_ID"
        return [
            self.start(place, *runs, **common, **{number: str(process)}, **options)
            for process in range(count)
        ]

    def state(self, place, name, process=0):
        with np.load(self.folder / f"{place}.{name}.{process}.npz") as file:
            return dict(file)

    def on_one_and_two(self, name):
        """The states that a run has ended with on one device and on two."""
        return self.state("one", name), self.state("two", name)


@contextlib.contextmanager
def ended(*processes):
    """The exit statuses and outputs of processes, none of which outlives the test."""
    try:
        outputs = [process.communicate(timeout=LIMIT)[0] for process in processes]
        yield [process.returncode for process in processes], outputs
    finally:
        for process in processes:
            process.kill()
            process.wait()


def finish(*processes):
    with ended(*processes) as (statuses, outputs):
        assert statuses == [0] * len(processes), "\n".join(output[-3000:] for output in outputs)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All of them, trained on one device and on two."""
    runs = Runs(tmp_path_factory.mktemp("runs"))
    finish(runs.start("one", runs.digits, *runs.dense))
    if BACKEND == "torch":  # one device a process; the digits' processes are another test's
        finish(*runs.start_processes("two", 2, *runs.dense))
    else:
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
        variables = {"XLA_FLAGS": flags} if BACKEND == "jax" else {}
        finish(runs.start("two", runs.digits, *runs.dense, devices=2, **variables))
    return runs


def write_classes(folder):
    for split, per_class in (("train", 11), ("validation", 4)):
        write_folder(folder / split, "abc", per_class, seed=per_class)


def assert_equal_runs(state, expected):
    history, expected_history = (json.loads(str(run["history"])) for run in (state, expected))
    assert len(history) == len(expected_history) == EPOCHS
    for epoch, expected_epoch in zip(history, expected_history, strict=True):
        for key in ("loss", "val_loss", "val_top1"):
            assert epoch[key] == pytest.approx(expected_epoch[key], rel=1e-5), key
    assert state["best"] == pytest.approx(expected["best"])
    for name, value in expected.items():
        if name[0].isdigit() and "seed_generator" not in name:
            np.testing.assert_allclose(state[name], value, rtol=1e-3, atol=3e-5, err_msg=name)


@pytest.mark.thorough
@pytest.mark.skipif(BACKEND == "torch", reason="torch has one device a process")
def test_devices_of_one_process_equal_one_device(runs):
    one, two = runs.on_one_and_two("digits")
    assert_equal_runs(two, one)


@pytest.mark.thorough
@torch_or_jax
def test_processes_equal_one_device_after_a_kill(runs):
    """One process dies, the others end too, and the run started again goes on exactly.

    With JAX, in more processes than before.
    """
    with ended(*runs.start_processes("some", 2, runs.digits, killed=1)) as (statuses, outputs):
        assert statuses[1] == -9
        assert not {0, None} & {*statuses}, outputs[0][-3000:]
    last = runs.folder / "some" / "digits" / "last.keras"
    assert not last.exists()
    finish(*runs.start_processes("some", 4 if BACKEND == "jax" else 2, runs.digits))
    first, second = runs.state("some", "digits"), runs.state("some", "digits", 1)
    one = runs.state("one", "digits")
    assert_equal_runs(first, one)
    for name, value in first.items():
        if name[0].isdigit() and "seed_generator" not in name:
            np.testing.assert_array_equal(second[name], value, err_msg=name)
    if BACKEND == "torch":
        seeds = [name for name in first if "seed_generator" in name]
        assert seeds
        assert all(first[name][0] != second[name][0] for name in seeds)
    assert last.exists()


@pytest.mark.thorough
def test_a_student_on_two_devices_equals_one_device(runs):
    """Each device has the teacher's answers to its own images."""
    one, two = runs.on_one_and_two("student")
    assert_equal_runs(two, one)


@pytest.mark.thorough
def test_a_segmenter_on_two_devices_equals_one_device(runs):
    """Losses over all pixels, and batch norm over all images: weights and moving averages."""
    one, two = runs.on_one_and_two("segmenter")
    histories = (json.loads(str(state.pop("history")))[0] for state in (one, two))
    for losses in zip(*(history["loss"] for history in histories), strict=True):
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert any("moving_variance" in name for name in one)
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-3, atol=2e-5, err_msg=name)


@pytest.mark.thorough
@pytest.mark.parametrize("recipe", DETECTORS)
def test_a_detector_on_two_devices_equals_one_device(recipe, runs):
    *_, (_, *results) = DETECTORS[recipe]
    one, two = runs.on_one_and_two(recipe)
    assert one["best"] == pytest.approx(two["best"])
    for epoch, other in zip(*(json.loads(str(run["history"])) for run in (one, two)), strict=True):
        for key in ("loss", *results):
            assert other[key] == pytest.approx(epoch[key], rel=1e-5), key
    for name, value in one.items():
        if name[0].isdigit() and "seed_generator" not in name:
            np.testing.assert_allclose(two[name], value, rtol=1e-3, atol=3e-5, err_msg=name)


@pytest.mark.thorough
@pytest.mark.skipif(BACKEND != "torch", reason="elsewhere there is one loss only")
def test_a_loss_that_is_not_finite_ends_all_processes(runs):
    changes = ["optimizer.learning_rate=1e30", "optimizer.clip_norm=null", "checkpoint_steps=0"]
    with ended(*runs.start_processes("diverging", 2, runs.digits, changes=changes)) as (
        statuses,
        outputs,
    ):
        assert not {0, None} & set(statuses)
        # The process that is told later may see only that the other one has gone.
        told = ["NonFiniteLossError: The loss is" in output for output in outputs]
        assert any(told), "\n".join(output[-3000:] for output in outputs)


@pytest.mark.thorough
@tensorflow_only
def test_a_loss_scale_looks_at_all_replicas():
    script = """
import keras, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_sepvit.training.distribution import start_distribution
from keras_sepvit.training.recipe import Recipe
devices = start_distribution(Recipe())
assert str(devices) == "2 devices"
with devices.scope():
    variable = keras.Variable([1.0])
    sgd = devices.optimizer_class(keras.optimizers.SGD)(1.0, global_clipnorm=1.0)
    optimizer = devices.optimizer_class(keras.optimizers.LossScaleOptimizer)(sgd, 4.0)
    optimizer.build([variable])

@tf.function
def step(gradients):
    def replica():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        optimizer.apply([gradients[number]], [variable])
    devices.strategy.run(replica)

step(tf.constant([[4.0], [float("inf")]]))
assert variable.numpy() == [1.0] and optimizer.dynamic_scale.numpy() == 2.0
step(tf.constant([[4.0], [-3.0]]))  # (4 - 3) / 2 is not clipped, 4 / 2 alone would be
assert variable.numpy() == [0.5], variable.numpy()
"""
    finish(
        subprocess.Popen(
            [sys.executable, "-c", script],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    )


@tensorflow_only
@pytest.mark.parametrize("setting", ["accumulate=2", "jit_compile=true"])
def test_mirrored_devices_refuse_what_does_not_work(setting):
    mirrored = parallel.MirroredDevices(["CPU:0"])
    mirrored.check(Recipe())
    with pytest.raises(ValueError, match=f"{setting} does not work with TensorFlow"):
        mirrored.check(load_recipe("imagenet_t", [setting]))


CLUSTER = json.dumps({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker"}})
REFUSED = {
    "jax": {distribution.TORCHRUN: "2", distribution.TENSORFLOW: CLUSTER},
    "torch": {distribution.SLURM: "2", distribution.KERAS: "2"},
    "tensorflow": {distribution.TENSORFLOW: CLUSTER, distribution.TORCHRUN: "2"},
}[BACKEND]


@pytest.fixture
def no_launcher(monkeypatch):
    for variable in LAUNCHER_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch


@pytest.mark.parametrize("variable", REFUSED)
def test_unrelated_processes_are_refused(no_launcher, variable):
    no_launcher.setenv(variable, REFUSED[variable])
    with pytest.raises(ValueError, match=f"{variable} says that this is one of"):
        distribution.start_distribution(Recipe())


@torch_or_jax
def test_missing_variables_are_named(no_launcher):
    variable, missing = {
        "jax": (distribution.KERAS, "KERAS_DISTRIBUTION_JOB_ADDRESSES"),
        "torch": (distribution.TORCHRUN, "MASTER_ADDR"),
    }[BACKEND]
    no_launcher.setenv(variable, "2")
    no_launcher.delenv(missing, raising=False)
    with pytest.raises(ValueError, match=f"missing: .*{missing}"):
        distribution.start_distribution(Recipe())


@pytest.mark.parametrize("variable", LAUNCHER_VARIABLES)
def test_no_distribution_refuses_several_processes(no_launcher, variable):
    no_launcher.setenv(variable, CLUSTER if variable == distribution.TENSORFLOW else "2")
    with pytest.raises(ValueError, match=f"distribution=none .* {variable} .* 2 processes"):
        distribution.start_distribution(Recipe(distribution="none"))
    no_launcher.setenv(variable, "{}" if variable == distribution.TENSORFLOW else "1")
    assert distribution.start_distribution(Recipe(distribution="none")).devices == 1


@pytest.mark.once
def test_a_number_of_processes_that_is_none(no_launcher):
    no_launcher.setenv(distribution.KERAS, "two")
    with pytest.raises(ValueError, match=f"{distribution.KERAS}='two'"):
        distribution.start_distribution(Recipe())


@pytest.mark.once
@pytest.mark.skipif(BACKEND != "torch", reason="elsewhere one process uses all devices")
def test_torch_tells_that_gpus_stay_unused(no_launcher, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    with pytest.warns(UserWarning, match="One of 8 GPUs is used.*torchrun --nproc-per-node=gpu"):
        assert distribution.start_distribution(Recipe()).devices == 1


def test_a_batch_must_divide_among_devices(tmp_path, monkeypatch):
    devices = parallel.SingleDevice()
    devices.devices = 3
    monkeypatch.setattr("keras_sepvit.training.trainer.start_distribution", lambda recipe: devices)
    with pytest.raises(ValueError, match="multiple of 6: accumulate=2 times 3 devices"):
        Trainer(load_recipe("digits", ["batch_size=64", "accumulate=2"]), tmp_path)


@pytest.mark.once
def test_processes_must_see_the_same_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.npz"
    assert checkpoint.fingerprint(path) == 0
    prints = []
    for value in (1.0, 2.0):
        np.savez(path, weight=value)
        prints.append(checkpoint.fingerprint(path))
    assert 0 not in prints and prints[0] != prints[1]
    checkpoint.check_shared(path, [prints[0], prints[0]])
    for other in (0, prints[1]):
        with pytest.raises(ValueError, match="Process 1 does not see the same checkpoint"):
            checkpoint.check_shared(path, [prints[0], other])
