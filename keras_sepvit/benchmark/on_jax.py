"""How JAX runs models: `jax.jit` over a stateless call."""

import jax
import jax.numpy as jnp
import keras

from keras_sepvit.benchmark.optimizers import keras_optimizer


def prepare(device, threads):
    """Checks the device; must come first. The process's processors limit the threads.

    Raises:
        ValueError: if there is no GPU and one is asked for.
    """
    if device == "gpu" and jax.default_backend() != "gpu":
        raise ValueError("--device gpu: JAX finds no GPU.")


def facts():
    """What the numbers depend on: device, and how float32 products are computed."""
    gpu = jax.devices()[0].device_kind if jax.default_backend() == "gpu" else None
    return {"gpu": gpu, "tf32": bool(gpu) and jax.config.jax_default_matmul_precision is None}


def forward(model, images, precision, mode):
    """A function that runs the model once and returns its output when that is there."""
    batch = jnp.asarray(images, precision)
    state = [
        [variable.value for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]
    compiled = jax.jit(lambda state, x: model.stateless_call(*state, x, training=False)[0])
    return lambda: compiled(state, batch).block_until_ready()


def training_step(model, images, labels, precision, mode):
    """A function that trains the model by a step and returns the loss when that is done."""
    batch, targets = jnp.asarray(images), jnp.asarray(labels)
    optimizer = keras_optimizer(precision)
    optimizer.build(model.trainable_variables)

    def loss_of(weights, others, optimizer_state, batch, targets):
        logits, others = model.stateless_call(weights, others, batch, training=True)
        log_probabilities = jax.nn.log_softmax(logits.astype("float32"))
        loss = -jnp.take_along_axis(log_probabilities, targets[:, None], axis=1).mean()
        values = zip(optimizer.variables, optimizer_state, strict=True)
        with keras.StatelessScope(state_mapping=values):
            return optimizer.scale_loss(loss), (loss, others)

    def step(weights, others, optimizer_state, batch, targets):
        gradients, (loss, others) = jax.grad(loss_of, has_aux=True)(
            weights, others, optimizer_state, batch, targets
        )
        weights, optimizer_state = optimizer.stateless_apply(optimizer_state, gradients, weights)
        return loss, weights, others, optimizer_state

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))
    # Copies, because the step may write over what it is given.
    state = [
        [jnp.array(variable.value) for variable in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            optimizer.variables,
        )
    ]

    def run():
        loss, *state[:] = compiled(*state, batch, targets)
        return loss.block_until_ready()

    return run


def product(left, right, precision):
    """A function that multiplies two matrices and returns when that is done."""
    left, right = (jnp.asarray(matrix, precision) for matrix in (left, right))
    multiply = jax.jit(jnp.matmul)
    return lambda: multiply(left, right).block_until_ready()


def to_numpy(output):
    """An output as a float32 array."""
    return jax.device_get(output.astype("float32"))


def peak_device_memory():
    """Bytes of the GPU's memory that arrays took at most; None on a CPU."""
    if jax.default_backend() != "gpu":
        return None
    return jax.devices()[0].memory_stats()["peak_bytes_in_use"]
