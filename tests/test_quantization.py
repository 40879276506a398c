"""Models that Keras has quantised or given adapters: saved, and loaded again."""

import keras
import numpy as np
import pytest
from helpers import BACKEND, SMALL, images, run
from weights_helpers import assert_same, classifier, load_quietly, refused, save_h5, values

SHAPE = (64, 64, 3)

pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")


def test_a_model_in_float8_loads_again(tmp_path):
    """In int8: test_battery.py."""
    model, x = classifier(SMALL, seed=1), images((1, *SHAPE))
    before = run(model, x)
    model.quantize("float8", filters=lambda layer: layer.name not in ("fc1", "fc2"))
    expected = run(model, x)
    assert np.abs(expected - before).max() > 0
    for generation in range(2):
        model.save(tmp_path / f"{generation}.keras")
        model = keras.saving.load_model(tmp_path / f"{generation}.keras")
        np.testing.assert_array_equal(run(model, x), expected)
    layers = {layer.path: layer for layer in model._flatten_layers()}
    assert layers["stage2_block1/attn/dsa_qkv"].quantization_mode == "float8"
    assert layers["stage2_block1/mlp/fc1"].quantization_mode is None


@pytest.mark.once
def test_weights_of_quantised_models_fit_quantised_models_alone(tmp_path):
    model, plain = classifier(SMALL, seed=1), classifier(SMALL, seed=1)
    model.quantize("int8")
    path = save_h5(model, tmp_path / "int8.weights.h5")
    expected = values(model)
    load_quietly(model, path)
    assert_same(values(model), expected)
    refused(plain, path, "One of them is quantised")
    refused(model, save_h5(plain, tmp_path / "float.weights.h5"), "One of them is quantised")


@pytest.mark.by_default_on("tensorflow", "torch")
def test_trained_adapters_are_merged_in_files(tmp_path):
    model, x = classifier(SMALL, seed=1, classifier_activation=None), images((2, *SHAPE))
    before = run(model, x)
    for layer in model._flatten_layers():
        if layer.name in ("dsa_qkv", "psa_qk"):
            layer.enable_lora(2)
    model.compile(
        keras.optimizers.SGD(1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=BACKEND == "jax",
    )
    model.train_on_batch(x, np.array([0, 3]))
    adapter = model.get_layer("stage2_block1").attn.dsa_qkv
    assert np.abs(keras.ops.convert_to_numpy(adapter.lora_kernel_b)).max() > 0
    expected = run(model, x)
    assert np.abs(expected - before).max() > 0.01

    model.save(tmp_path / "model.keras")
    path = save_h5(model, tmp_path / "model.weights.h5")
    plain = classifier(SMALL, classifier_activation=None)
    load_quietly(plain, path)
    for merged in (plain, keras.saving.load_model(tmp_path / "model.keras")):
        np.testing.assert_allclose(run(merged, x), expected, atol=1e-4)
        assert not any("lora" in weight.path for weight in merged.weights)
    refused(model, path, "before `enable_lora`")
