"""Devices and processes of a run, by backend.

JAX trains on all devices of all processes as one program, over a global batch. TensorFlow
copies the model to the GPUs of one host. torch runs one process a GPU, each with a part of
the batch, and averages the gradients. In each case the result is that of one device with the
same batch, but for rounding and, with TensorFlow and torch, random draws.
"""

import json
import os

import keras

from keras_sepvit.training.parallel import (
    JaxDevices,
    MirroredDevices,
    SingleDevice,
    TorchProcesses,
)
from keras_sepvit.warn import warn

# What launchers tell a process about the number of processes.
KERAS = "KERAS_DISTRIBUTION_NUM_PROCESSES"
TORCHRUN = "WORLD_SIZE"
SLURM = "SLURM_STEP_NUM_TASKS"
OPEN_MPI = "OMPI_COMM_WORLD_SIZE"
TENSORFLOW = "TF_CONFIG"


def start_distribution(recipe):
    """Joins the other processes of a run, if a launcher started several.

    With the JAX backend it must come before anything that JAX computes.

    Args:
        recipe: The `Recipe`. Its `distribution` is `"auto"` for all devices and processes, or
            `"none"` for one device.

    Returns:
        The distribution, with the attributes and methods of `SingleDevice`.

    Raises:
        ValueError: if there are several processes that would train unrelated models, or if the
            recipe asks for what does not work on several devices.
    """
    launched = _launched_processes()
    backend = keras.config.backend()
    if recipe.distribution == "none":
        distribution = _single_device(launched)
    elif backend == "jax":
        distribution = _start_jax(launched)
    elif backend == "torch":
        distribution = _start_torch(launched)
    else:
        distribution = _start_tensorflow(launched)
    distribution.check(recipe)
    return distribution


def _single_device(launched):
    for variable, processes in launched.items():
        raise ValueError(
            f"distribution=none trains on one device, but {variable} says that this is one of "
            f"{processes} processes: they would train as many unrelated models. Use "
            f"distribution=auto, start one process, or unset {variable}."
        )
    return SingleDevice()


def _start_jax(launched):
    import jax

    known = [variable for variable in (KERAS, SLURM, OPEN_MPI) if variable in launched]
    if launched and not known:
        raise ValueError(
            f"{', '.join(launched)} says that this is one of several processes, which JAX does "
            f"not read: they would train unrelated models. Set {KERAS}, "
            "KERAS_DISTRIBUTION_PROCESS_ID and KERAS_DISTRIBUTION_JOB_ADDRESSES, start the "
            f"processes with srun or mpirun, or unset {', '.join(launched)}."
        )
    if KERAS in launched:
        _check_present("KERAS_DISTRIBUTION_PROCESS_ID", "KERAS_DISTRIBUTION_JOB_ADDRESSES")
    if known or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        # jaxlib 0.10 crashes when it runs a step on several CPU devices beside the program.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    if known and not jax.distributed.is_initialized():
        keras.distribution.initialize()
    return JaxDevices() if jax.device_count() > 1 else SingleDevice()


def _start_torch(launched):
    if TORCHRUN in launched:
        _check_present("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        return TorchProcesses()
    for variable, processes in launched.items():
        raise ValueError(
            f"{variable} says that this is one of {processes} processes, but torchrun did not "
            "start it: they would train as many unrelated models. Start one torchrun on each "
            f"host (with srun: one task a node), or unset {variable}."
        )
    import torch

    if torch.cuda.device_count() > 1:
        warn(
            f"One of {torch.cuda.device_count()} GPUs is used: with torch each needs a process. "
            "Start them with torchrun --nproc-per-node=gpu, or use distribution=none.",
        )
    return SingleDevice()


def _start_tensorflow(launched):
    import tensorflow as tf

    for variable, processes in launched.items():
        raise ValueError(
            f"{variable} says that this is one of {processes} processes. TensorFlow trains on "
            "the devices of one host only: `fit` of Keras 3 fails under its "
            "MultiWorkerMirroredStrategy. Use the JAX backend (KERAS_BACKEND=jax) for several "
            f"processes, or start one and unset {variable}."
        )
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) == 1:
        return SingleDevice()
    return MirroredDevices([device.name for device in devices])


def _launched_processes():
    """Dict of the variables that tell of more than one process to how many they tell of."""
    counts = {}
    for variable in (KERAS, TORCHRUN, SLURM, OPEN_MPI):
        text = os.environ.get(variable) or "1"
        if not text.isdecimal():
            raise ValueError(
                f"The environment variable {variable} must be a number of processes. Received: "
                f"{variable}={text!r}."
            )
        counts[variable] = int(text)
    cluster = json.loads(os.environ.get(TENSORFLOW) or "{}").get("cluster", {})
    counts[TENSORFLOW] = sum(map(len, cluster.values()))
    return {variable: count for variable, count in counts.items() if count > 1}


def _check_present(*variables):
    missing = [variable for variable in variables if not os.environ.get(variable)]
    if missing:
        raise ValueError(
            f"{KERAS if keras.config.backend() == 'jax' else TORCHRUN} says that this is one of "
            f"several processes, but these environment variables are missing: {', '.join(missing)}."
        )
