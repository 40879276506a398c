"""What several test modules share: a tiny configuration and backend-neutral tools."""

import dataclasses
import functools

import keras
import numpy as np
from keras import ops

from keras_sepvit import SepViTBackbone, SepViTConfig

BACKEND = keras.config.backend()

# At 64 x 64 it has every kind of block: several windows and one, a stage of one
# block and of two, windows that share a map.
TINY = SepViTConfig(
    hidden_dims=(8, 16, 24, 32),
    depths=(1, 2, 2, 1),
    num_heads=(1, 2, 2, 4),
    window_sizes=((4,), (2, 4), (2, 4), (2,)),
    drop_path_rate=0.1,
    image_size=64,
)

# Every kind of block that TINY has, in fewer of them, which compile faster.
SMALL = dataclasses.replace(
    TINY, depths=(1, 1, 1, 1), window_sizes=((4,), (4,), (2,), (2,)), drop_path_rate=0.0
)


def tiny_backbone(image_shape=(64, 64, 3), **kwargs):
    return SepViTBackbone.from_variant(TINY, image_shape=image_shape, **kwargs)


def images(shape, seed=0):
    """Seeded standard normal numbers, float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def to_numpy(outputs):
    """Nested tensors as float32 NumPy arrays."""
    return keras.tree.map_structure(lambda x: ops.convert_to_numpy(ops.cast(x, "float32")), outputs)


def run(function, x, **kwargs):
    """The outputs of a layer, or of one of its methods, as NumPy arrays.

    Compiled on JAX, where compiling each operation by itself takes far longer.
    """
    x = keras.tree.map_structure(ops.convert_to_tensor, x)
    if BACKEND != "jax":
        return to_numpy(function(x, **kwargs))

    import jax

    if not isinstance(function, keras.Layer):
        return to_numpy(jax.jit(functools.partial(function, **kwargs))(x))
    # Weights as arguments: as constants they would be part of the program.
    states = function.non_trainable_variables
    outputs, new_states = jax.jit(functools.partial(function.stateless_call, **kwargs))(
        [weight.value for weight in function.trainable_variables],
        [state.value for state in states],
        x,
    )
    for state, value in zip(states, new_states, strict=True):
        state.assign(value)
    return to_numpy(outputs)


def record_draws(monkeypatch):
    """A list to which the shape of each draw of uniform numbers will be added."""
    draw, shapes = keras.random.uniform, []

    def recorded(shape, *args, **kwargs):
        shapes.append(tuple(shape))
        return draw(shape, *args, **kwargs)

    monkeypatch.setattr(keras.random, "uniform", recorded)
    return shapes


def symbolic(model):
    """`model`, in a TensorFlow graph with symbolic sizes where its input has None.

    TensorFlow's eager mode knows every size; the other backends have no such mode.
    """
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(model, input_signature=[tf.TensorSpec(model.input_shape)])
    return model


def randomize(layer, seed=0):
    """Gives every trainable weight of a layer a random value, none of them special."""
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        center = 1.0 if weight.path.endswith("gamma") else 0.0
        weight.assign(center + 0.3 * rng.standard_normal(weight.shape))


def weights_by_name(layer):
    """A layer's weights as float64 arrays, by their path inside the layer."""
    return {
        weight.path.removeprefix(f"{layer.name}/"): to_numpy(weight).astype("float64")
        for weight in layer.trainable_weights
    }


def pooled_cross_entropy(labels, outputs):
    """Mean cross-entropy of logits, pooled over positions where they are a map."""
    outputs = ops.cast(outputs, "float32")
    logits = ops.mean(outputs, axis=tuple(range(1, len(outputs.shape) - 1)))
    return ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))


def loss_and_gradients(model, x, labels, training=True, loss=pooled_cross_entropy):
    """`loss(labels, outputs)` of a model, and its gradients by weight path.

    Each backend differentiates in its own way. The model's state is updated.
    """
    weights = model.trainable_variables

    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss(labels, model(x, training=training))
        gradients = tape.gradient(value, [weight.value for weight in weights])
    elif BACKEND == "jax":
        import jax

        others = model.non_trainable_variables

        def loss_of_weights(values, states):
            outputs, states = model.stateless_call(values, states, x, training=training)
            return loss(labels, outputs), states

        values, states = ([v.value for v in variables] for variables in (weights, others))
        differentiate = jax.jit(jax.value_and_grad(loss_of_weights, has_aux=True))
        (value, states), gradients = differentiate(values, states)
        for variable, state in zip(others, states, strict=True):
            variable.assign(state)
    else:
        model.zero_grad()
        value = loss(labels, model(x, training=training))
        value.backward()
        gradients = [weight.value.grad for weight in weights]
    return float(to_numpy(value)), {
        weight.path: None if gradient is None else to_numpy(gradient)
        for weight, gradient in zip(weights, gradients, strict=True)
    }
