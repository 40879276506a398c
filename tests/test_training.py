import dataclasses
import functools

import keras
import numpy as np
import pytest
from helpers import (
    BACKEND,
    TINY,
    images,
    loss_and_gradients,
    randomize,
    record_draws,
    run,
    to_numpy,
)
from keras import ops

from keras_sepvit import PEG, PatchEmbedding, SepViT, SepViTBlock

LABELS = np.arange(8) % 4
# One block a stage: of several windows in the first three, of one in the last.
FOUR_BLOCKS = dataclasses.replace(TINY, depths=(1, 1, 1, 1), window_sizes=((4,), (4,), (2,), (2,)))


def classifier(config, **kwargs):
    return SepViT(
        config, include_preprocessing=False, classes=4, classifier_activation=None, **kwargs
    )


def fit(model, epochs):
    """Trains on eight fixed images in one batch; the loss of each epoch."""
    model.compile(
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # TensorFlow's XLA compiles for longer than this training takes.
        jit_compile=BACKEND == "jax",
    )
    model.optimizer.build(model.trainable_variables)  # else TensorFlow traces the step twice
    history = model.fit(
        images((8, *model.input_shape[1:])),
        LABELS,
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
    )
    return history.history["loss"]


FLOAT16 = pytest.param("mixed_float16", marks=pytest.mark.thorough)
BFLOAT16 = pytest.param("mixed_bfloat16", marks=pytest.mark.thorough)


def set_policy(policy):
    """Sets Keras's policy; skips where the backend's CPU has no float16 products."""
    if policy == "mixed_float16":
        x = np.ones((2, 4, 4), "float16")
        try:
            to_numpy(ops.matmul(x, x))
            to_numpy(ops.conv(x[..., None], x[:, :2, :1, None], padding="valid"))
        except Exception as error:
            pytest.skip(f"{BACKEND} computes no float16 products on this device: {error}")
    keras.config.set_dtype_policy(policy)


def block(window_tokens):
    layer = SepViTBlock(2, 2, window_tokens=window_tokens)
    layer.build((None, 4, 6, 8))
    return layer, (4, 4, 6, 8)


def whole_classifier():
    return classifier(FOUR_BLOCKS), (4, 64, 64, 3)


@pytest.mark.parametrize(
    "make",
    [
        whole_classifier,
        functools.partial(block, "zeros"),
        functools.partial(block, "average_pooling"),
        functools.partial(block, "depthwise_conv"),
    ],
    ids=["classifier", "zeros", "average_pooling", "depthwise_conv"],
)
def test_every_weight_receives_a_gradient(make):
    model, shape = make()
    _, gradients = loss_and_gradients(model, images(shape), LABELS[:4])
    assert gradients.keys() == {weight.path for weight in model.trainable_weights}
    for path, gradient in gradients.items():
        assert gradient is not None, f"no gradient for {path}"
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() > 0, f"a gradient of zero for {path}"


@pytest.mark.parametrize("policy", ["float32", BFLOAT16, FLOAT16])
def test_training_lowers_the_loss(policy):
    set_policy(policy)
    model = classifier(FOUR_BLOCKS)
    assert model.get_layer("stage1_block1").compute_dtype == policy.removeprefix("mixed_")
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
    assert model.output.dtype == "float32"
    losses = fit(model, epochs=5)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0], losses
    for weight in model.trainable_weights:
        assert np.isfinite(to_numpy(weight)).all(), weight.path


@pytest.mark.parametrize("policy", ["mixed_bfloat16", FLOAT16])
def test_gradients_are_close_in_every_precision(policy):
    inputs = keras.Input((12, 12, 3))

    def loss_and_gradients_in(policy):
        set_policy(policy)
        keras.utils.set_random_seed(0)
        x = PatchEmbedding(8, 2, name="embed")(inputs)
        x = SepViTBlock(2, 3, name="block")(x)
        model = keras.Model(inputs, PEG(name="peg")(x))
        randomize(model)
        return loss_and_gradients(model, images((4, 12, 12, 3)), LABELS[:4])

    expected_loss, expected = loss_and_gradients_in("float32")
    loss, gradients = loss_and_gradients_in(policy)
    assert loss == pytest.approx(expected_loss, rel=0.05)
    for path, gradient in gradients.items():
        scale = np.abs(expected[path]).max()
        np.testing.assert_allclose(
            gradient, expected[path], rtol=0, atol=0.15 * scale, err_msg=path
        )


def test_drop_path_acts_in_training_only():
    layer = SepViTBlock(2, 2, drop_path_rate=0.5)
    model = keras.Sequential([keras.Input((4, 4, 8)), layer])
    randomize(model)
    x = images((16, 4, 4, 8))
    first, second = (run(model, x, training=True) for _ in range(2))
    assert not np.allclose(first, second, atol=1e-3)
    inference = run(model, x)
    np.testing.assert_array_equal(inference, run(model, x))
    # A sample of which both branches are dropped leaves as it came.
    dropped = np.isclose(first, x).all((1, 2, 3))
    assert 0 < dropped.sum() < 16
    assert not np.isclose(inference, x).all((1, 2, 3)).any()


def test_seeds_make_initial_weights_repeatable():
    def initialised(seed):
        keras.utils.set_random_seed(seed)
        return [to_numpy(weight) for weight in classifier(TINY).trainable_weights]

    first, again, other = map(initialised, (1, 1, 2))
    for value, repeated in zip(first, again, strict=True):
        np.testing.assert_array_equal(value, repeated)
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True) if a.std())


def test_models_draw_once_a_step_for_all_drop_paths(monkeypatch, tmp_path):
    model = classifier(FOUR_BLOCKS, drop_path_rate=0.5)
    model.save(tmp_path / "model.keras")
    x = images((8, 64, 64, 3))
    for network in (model, keras.saving.load_model(tmp_path / "model.keras")):
        shapes = record_draws(monkeypatch)
        first, second = (run(network, x, training=True) for _ in range(2))
        # Of the four blocks the first has rate 0; the others have two branches each.
        assert shapes == 2 * [(6, 8, 1, 1, 1)]
        assert not np.array_equal(first, second)
        run(network, x)
        assert len(shapes) == 2


def alone():
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            PatchEmbedding(8, 4),
            SepViTBlock(2, 2, drop_path_rate=0.5),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
        ]
    )


def together():
    return classifier(FOUR_BLOCKS, drop_path_rate=0.5)


@pytest.mark.by_default_on("tensorflow", "torch")
@pytest.mark.parametrize("make", [alone, together])
def test_seeds_make_training_repeatable(make):
    def trained(seed):
        keras.utils.set_random_seed(seed)
        model = make()
        losses = fit(model, epochs=3)
        return losses, [to_numpy(weight) for weight in model.trainable_weights]

    losses, weights = trained(seed=1)
    losses_again, weights_again = trained(seed=1)
    assert losses == losses_again
    for weight, again in zip(weights, weights_again, strict=True):
        np.testing.assert_array_equal(weight, again)
