"""Devices of a run, by backend: how they share a batch and train as one."""

import contextlib
import functools
import os
import pickle

import keras
import numpy as np

from keras_sepvit.training.model import TrainingModel

# Distance of the seeds of two replicas: more than a layer's draws in most runs, and small
# enough that the seeds of a thousand replicas fit into 31 bits.
_SEED_DISTANCE = 1_000_003


class SingleDevice:
    """One process and one device: nothing to distribute.

    Attributes:
        process: Number of this process.
        processes: Number of processes; each reads its own part of the data.
        devices: Number of devices of all processes.
        model_class: The class of the model to train.
        compiles: Whether the training step may be compiled with XLA or torch.compile.
    """

    process = 0
    processes = 1
    devices = 1
    model_class = TrainingModel
    compiles = True

    def __str__(self):
        return "one device"

    @property
    def is_chief(self):
        """Whether this process writes the files of the run."""
        return self.process == 0

    def check(self, recipe):
        """Raises a ValueError for what a recipe asks and these devices cannot do."""

    def scope(self):
        """Context in which the model is made, trained and evaluated, by all processes."""
        return contextlib.nullcontext()

    def local(self):
        """Context within `scope` for what a process does by itself, such as saving."""
        return contextlib.nullcontext()

    def optimizer_class(self, optimizer_class):
        """The class to use in the place of an optimiser's."""
        return optimizer_class

    def connect(self, model):
        """Makes copies of a new model train as one; called once, after the optimiser is built."""

    def vary_seeds(self, model):
        """Gives copies of a model their own random draws, from the state that all have."""

    def gather(self, value):
        """List of every process's `value`, which can be pickled. Waits for all processes."""
        return [value]

    def predict(self, model, batch):
        """Answers of a `TrainingModel` as NumPy arrays, of the images that this process has."""
        return model.predict_on_batch(batch)


class JaxDevices(SingleDevice):
    """All devices of all JAX processes, each with a part of every batch.

    Numbers drawn, loss and metrics are those of the global batch, as on one device.
    """

    def __init__(self):
        import jax

        self.process = jax.process_index()
        self.processes = jax.process_count()
        self.devices = jax.device_count()
        # Each process reads its own part of the data already.
        self._data_parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
        self._answers = None

    def __str__(self):
        return _described(self.devices, self.processes)

    def scope(self):
        return self._data_parallel.scope()

    @contextlib.contextmanager
    def local(self):
        distribution = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(distribution)

    def gather(self, value):
        from jax.experimental import multihost_utils

        if self.processes == 1:
            return [value]
        data = np.frombuffer(pickle.dumps(value), "uint8")
        sizes = multihost_utils.process_allgather(np.int32(len(data)))
        padded = np.pad(data, (0, sizes.max() - len(data)))
        rows = multihost_utils.process_allgather(padded)
        return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]

    def predict(self, model, batch):
        # `predict_on_batch` fails on answers that other processes have a part of.
        import jax

        if self._answers is None:
            self._answers = jax.jit(
                lambda *state, batch: model.stateless_call(*state, batch, training=False)[0]
            )
        mesh = jax.sharding.Mesh(jax.devices(), "batch")
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
        batch = {
            key: jax.make_array_from_process_local_data(rows, values)
            for key, values in batch.items()
        }
        state = (
            [variable.value for variable in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        )
        return keras.tree.map_structure(_local_rows, self._answers(*state, batch=batch))


class MirroredDevices(SingleDevice):
    """Several devices of one host, each with a copy of the model (TensorFlow)."""

    compiles = False

    def __init__(self, devices):
        self.strategy = _mirrored_strategy(tuple(devices))
        self.devices = len(devices)

    def __str__(self):
        return _described(self.devices, self.processes)

    def check(self, recipe):
        if recipe.accumulate > 1:
            raise ValueError(
                f"accumulate={recipe.accumulate} does not work with TensorFlow on "
                f"{self.devices} devices: its MirroredStrategy allows no condition around an "
                "update. Use accumulate=1 (each device has a part of the batch only), "
                "distribution=none, or the JAX backend (KERAS_BACKEND=jax)."
            )
        if recipe.jit_compile:
            raise ValueError(
                f"jit_compile=true does not work with TensorFlow on {self.devices} devices: XLA "
                "compiles for one. Use jit_compile=null, distribution=none, or the JAX backend "
                "(KERAS_BACKEND=jax)."
            )

    def scope(self):
        return self.strategy.scope()

    def optimizer_class(self, optimizer_class):
        if issubclass(optimizer_class, keras.optimizers.LossScaleOptimizer):
            return _all_finite(optimizer_class)
        return _reduced_before_clipping(optimizer_class)

    @property
    def model_class(self):
        return _mirrored_model_class()

    def predict(self, model, batch):
        # `predict_on_batch` would give the whole batch to each replica.
        def part(context):
            number, count = context.replica_id_in_sync_group, context.num_replicas_in_sync
            return {key: np.split(rows, count)[number] for key, rows in batch.items()}

        model.make_predict_function()
        parts = self.strategy.experimental_distribute_values_from_function(part)
        answers = model.predict_function([(parts,)])
        return keras.tree.map_structure(keras.ops.convert_to_numpy, answers)

    def vary_seeds(self, model):
        # Keras makes a copy of the state on each device, which only that device changes.
        for state in _seed_states(model):
            for replica, copy in enumerate(self.strategy.experimental_local_results(state.value)):
                copy.assign_add([replica * _SEED_DISTANCE, 0])


class TorchProcesses(SingleDevice):
    """One process a device, started by torchrun (torch's DistributedDataParallel)."""

    def __init__(self):
        import torch
        import torch.distributed

        if not torch.distributed.is_initialized():
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
                torch.distributed.init_process_group("nccl")
            else:
                torch.distributed.init_process_group("gloo")
        self.process = torch.distributed.get_rank()
        self.devices = self.processes = torch.distributed.get_world_size()
        self.model_class = _parallel_model_class()

    def __str__(self):
        return _described(self.devices, self.processes)

    def connect(self, model):
        model.connect()

    def vary_seeds(self, model):
        for state in _seed_states(model):
            seed, draws = keras.ops.convert_to_numpy(state)
            state.assign([seed + self.process * _SEED_DISTANCE, draws])

    def gather(self, value):
        import torch.distributed

        values = [None] * self.processes
        torch.distributed.all_gather_object(values, value)
        return values


def _described(devices, processes):
    return f"{devices} devices" + (f" of {processes} processes" if processes > 1 else "")


def _seed_states(model):
    return [variable for variable in model.variables if variable.name == "seed_generator_state"]


def _reduced_before_clipping(optimizer_class):
    """An optimiser that adds up the gradients of all replicas, then clips.

    Keras's clips those of each replica and adds them up then, which is not what one device
    would do with the whole batch.
    """

    class ReducedBeforeClipping(optimizer_class):
        def _backend_apply_gradients(self, grads, trainable_variables):
            pairs = super()._all_reduce_sum_gradients(zip(grads, trainable_variables, strict=True))
            super()._backend_apply_gradients(
                [gradient for gradient, _ in pairs], trainable_variables
            )

        def _all_reduce_sum_gradients(self, grads_and_vars):
            return grads_and_vars  # where Keras does it: all is done

    return ReducedBeforeClipping


def _all_finite(optimizer_class):
    """A loss-scaling optimiser that skips a step where any replica's gradients overflow.

    Keras's looks at the first replica only.
    """
    import tensorflow as tf

    class AllFinite(optimizer_class):
        def check_finite(self, grads):
            finite = super().check_finite(grads)
            replicas = tf.distribute.get_replica_context()
            count = replicas.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(finite, tf.int32))
            return tf.equal(count, replicas.num_replicas_in_sync)

    return AllFinite


def _local_rows(array):
    """The rows of a JAX array that this process has, as one NumPy array."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


@functools.cache
def _mirrored_strategy(devices):
    """One a process: those of a second one's sums would take the places of the first one's."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(devices)


def _mirrored_model_class():
    import tensorflow as tf

    class MirroredModel(TrainingModel):
        """A model of which each device has a copy, whose gradients are summed."""

        def sum_over_devices(self, value):
            replicas = tf.distribute.get_replica_context()
            return replicas.all_reduce(tf.distribute.ReduceOp.SUM, tf.stop_gradient(value))

    return MirroredModel


def _parallel_model_class():
    import torch
    from torch.nn.parallel import DistributedDataParallel

    class ParallelModel(TrainingModel):
        """One of several processes' copies of the model, which train as one."""

        @property
        def averaged_gradients(self):
            return torch.distributed.get_world_size()

        def connect(self):
            """Takes the first process's weights, and averages gradients from now on."""
            # Not kept as an attribute itself: a module must not hold what holds it.
            self._parallel_call = DistributedDataParallel(self).__call__

        def train_step(self, data):
            batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
            losses = self._parallel_call(batch, training=True)
            self.zero_grad()
            loss = self.compute_loss(y_pred=losses)
            self.optimizer.scale_loss(loss).backward()
            variables = self.trainable_variables
            with torch.no_grad():
                self.optimizer.apply([variable.value.grad for variable in variables], variables)
            return self.compute_metrics(batch, None, losses)

        def sum_over_devices(self, value):
            value = value.detach().clone()
            torch.distributed.all_reduce(value)
            return value

    return ParallelModel
