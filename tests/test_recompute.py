"""Blocks that are recomputed in the backward pass, by `keras.RematScope`."""

import contextlib
import dataclasses

import keras
import numpy as np
import pytest
from helpers import BACKEND, SMALL, images

import keras_sepvit
from keras_sepvit import SepViT, functional

BLOCKS = [f"stage{stage}_block1" for stage in (1, 2, 3, 4)]
SCOPES = {
    "blocks": {"mode": "list_of_layers", "layer_names": BLOCKS},
    "full": {"mode": "full"},
}


def train(scope):
    """The losses of three steps, the weights after them, and how often attention was computed."""
    keras.utils.set_random_seed(3)
    with scope:
        model = SepViT(
            dataclasses.replace(SMALL, drop_path_rate=0.5),
            input_shape=(64, 64, 3),
            classes=5,
            classifier_activation=None,
        )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
    calls, attention = [], functional.attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "attention", lambda *args: calls.append(1) or attention(*args))
        losses = [
            model.train_on_batch(128 + 60 * images((8, 64, 64, 3), seed), np.arange(8) % 5)
            for seed in range(3)
        ]
    return np.array(losses), model.get_weights(), len(calls)


@pytest.fixture(scope="module")
def plain():
    return train(contextlib.nullcontext())


@pytest.mark.by_default_on("tensorflow", "torch")
@pytest.mark.parametrize("scope", SCOPES)
def test_a_recomputed_network_trains_as_any(scope, plain):
    """The same losses and weights: the second pass drops what the first one dropped."""
    if (BACKEND, scope) == ("tensorflow", "full"):
        pytest.skip("Keras's own Dense fails in TensorFlow's graphs")
    if (BACKEND, scope) == ("jax", "blocks"):
        pytest.skip("compiles for long, and `full` holds it")
    losses, weights, calls = plain
    found, recomputed, more_calls = train(keras.RematScope(**SCOPES[scope]))
    assert losses[0] != losses[2]
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    for weight, expected in zip(recomputed, weights, strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-5)
    # JAX repeats what it has traced, TensorFlow and torch call again.
    assert more_calls > calls or BACKEND == "jax"


def test_parts_of_a_block_are_not_recomputed_on_their_own():
    with keras.RematScope("full"):
        block = keras_sepvit.SepViTBlock(2, 4)
        block.build((None, 8, 8, 8))
    parts = [layer for layer in block._flatten_layers() if layer is not block]
    assert len(parts) > 5
    assert all(not part._remat_mode or part._remat_mode.mode is None for part in parts)
