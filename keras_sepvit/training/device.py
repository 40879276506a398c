"""What the device of the backend can do. All that is asked of a backend is here."""

import os
import pathlib
import re
import sys

import keras
import numpy as np


def call_on_host(function, tensor, shape):
    """A NumPy function of a tensor, within a step on the device; no gradient goes through it.

    TensorFlow's XLA cannot compile it, and several devices of one program cannot share it.

    Args:
        function: From a float32 array to one.
        tensor: float32 tensor.
        shape: Shape of the result; with TensorFlow, None is any.

    Returns:
        float32 tensor of `shape`.
    """
    backend = keras.config.backend()
    if backend == "torch":
        array = function(keras.ops.convert_to_numpy(tensor))
        return keras.ops.convert_to_tensor(array, "float32")
    if backend == "jax":
        import jax

        result = jax.ShapeDtypeStruct(shape, "float32")
        return jax.pure_callback(lambda values: function(np.asarray(values)), result, tensor)
    import tensorflow as tf

    return tf.ensure_shape(tf.numpy_function(function, [tensor], tf.float32), shape)


def fastest_precision():
    """The fastest dtype policy that the device trains in.

    `mixed_bfloat16` on TPUs, on GPUs that compute in it (NVIDIA's from compute capability 8.0)
    and, with TensorFlow and torch, on processors that multiply matrices in it (AMX);
    `mixed_float16` on older GPUs; `float32` elsewhere.
    """
    backend = keras.config.backend()
    if backend == "torch":
        import torch

        if not torch.cuda.is_available():
            return _fastest_precision_of_processor()
        return "mixed_bfloat16" if torch.cuda.is_bf16_supported(False) else "mixed_float16"
    if backend == "jax":
        import jax

        device = jax.local_devices()[0]
        if device.platform == "cpu":
            return "float32"
        capability = getattr(device, "compute_capability", None)
    else:
        import tensorflow as tf

        if tf.config.list_physical_devices("TPU"):
            return "mixed_bfloat16"
        gpus = tf.config.list_physical_devices("GPU")
        if not gpus:
            return _fastest_precision_of_processor()
        details = tf.config.experimental.get_device_details(gpus[0])
        capability = ".".join(map(str, details.get("compute_capability", ())))
    recent = not capability or float(capability) >= 8
    return "mixed_bfloat16" if recent else "mixed_float16"


def _fastest_precision_of_processor():
    cpuinfo = pathlib.Path("/proc/cpuinfo")  # Linux only
    amx = cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text().split()
    return "mixed_bfloat16" if amx else "float32"


def best_jit_compile():
    """Whether compiling the training step pays.

    Always with JAX. With TensorFlow on GPUs: on CPUs, XLA compiles for minutes. Not with torch,
    whose compiler does so too.
    """
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    return backend == "jax"


def use_deterministic_operations():
    """Makes the backend compute the same bits every time.

    With JAX it must come before anything is computed.
    """
    backend = keras.config.backend()
    if backend == "jax":
        flag = "--xla_gpu_deterministic_ops=true"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    elif backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif backend == "torch":
        import torch

        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def memory():
    """Whether there is an accelerator, and how many bytes of memory are free there, else here.

    None where that is not known, as with TensorFlow on GPUs.
    """
    backend = keras.config.backend()
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            return True, torch.cuda.mem_get_info()[0]
    elif backend == "jax":
        import jax

        if jax.default_backend() != "cpu":
            statistics = jax.local_devices()[0].memory_stats() or {}
            return True, statistics.get("bytes_limit")
    else:
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("TPU"):
            return True, None
    return False, _free_memory_of_machine()


def _free_memory_of_machine():
    """In bytes, within the limit of a container; None on systems that do not tell."""
    meminfo = pathlib.Path("/proc/meminfo")  # Linux only
    if not meminfo.exists():
        return None
    available = 1024 * int(re.search(r"MemAvailable: +(\d+)", meminfo.read_text())[1])
    limit, used = (
        path.read_text().strip() if path.exists() else "max"
        for path in map(pathlib.Path("/sys/fs/cgroup").joinpath, ("memory.max", "memory.current"))
    )
    if limit.isdecimal() and used.isdecimal():
        available = min(available, int(limit) - int(used))
    return available


def peak_memory():
    """The most memory used so far in bytes, by what is measured: an accelerator or the process."""
    backend = keras.config.backend()
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            return {"gpu": torch.cuda.max_memory_allocated()}
    elif backend == "jax":
        import jax

        statistics = jax.local_devices()[0].memory_stats()
        if statistics:
            return {jax.local_devices()[0].platform: statistics["peak_bytes_in_use"]}
    else:
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return {"gpu": tf.config.experimental.get_memory_info("GPU:0")["peak"]}
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
