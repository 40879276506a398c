"""Sums over the devices that share a batch, on each backend."""

import keras
from keras import ops


def channel_moments(x):
    """Mean and variance of each channel over the images and places of all devices.

    On JAX tensors are those of all devices anyway; on TensorFlow the replicas of a strategy
    share their sums, on torch the processes of the default group.

    Args:
        x: Tensor of shape (..., channels), float32.

    Returns:
        Two tensors of shape (channels,), and the number of values of each, a scalar.
    """
    axes = tuple(range(len(x.shape) - 1))
    count = sum_over_devices(ops.cast(ops.size(x) // x.shape[-1], x.dtype))
    mean = sum_over_devices(ops.sum(x, axis=axes)) / count
    return mean, sum_over_devices(ops.sum(ops.square(x - mean), axis=axes)) / count, count


def sum_over_devices(value):
    """The sum of the devices' values, where each has a copy of the model; differentiable."""
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if replicas() > 1:
            return context.all_reduce(tf.distribute.ReduceOp.SUM, value)
    if backend == "torch":
        import torch.distributed

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            from torch.distributed.nn.functional import all_reduce

            return all_reduce(ops.convert_to_tensor(value))
    return value


def replicas():
    """Copies of the model among which TensorFlow's strategy shares a batch; 1 elsewhere."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        return 1 if context is None else context.num_replicas_in_sync
    return 1
