"""`torch.compile` of models, and `jit_compile=True` on torch."""

import dataclasses
import logging

import keras
import numpy as np
import pytest
from helpers import BACKEND, images, randomize, to_numpy

import keras_sepvit

if BACKEND != "torch":
    pytest.skip("the compiler is torch's", allow_module_level=True)

import torch
from torch._dynamo.utils import counters

CONFIG = keras_sepvit.SepViTConfig(
    hidden_dims=(8, 16, 16, 16),
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 2, 2),
    window_sizes=((7,), (14,), (7,), (7,)),
    drop_path_rate=0.5,
)


def small_model(**options):
    keras.utils.set_random_seed(1)  # of drop path
    model = keras_sepvit.SepViT(CONFIG, input_shape=(64, 64, 3), classes=3)
    randomize(model)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", **options)
    return model


def test_models_are_one_graph_in_inference_and_in_training(monkeypatch):
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)  # pytest would listen
    monkeypatch.setattr(
        torch,
        "compile",
        lambda f, compile=torch.compile: compile(f, backend="eager", fullgraph=True),
    )
    torch._dynamo.reset()
    counters.clear()
    x, y = 255 * np.abs(images((4, 64, 64, 3))), np.array([0, 1, 2, 0])
    model, compiled = small_model(), small_model(jit_compile=True)
    with torch.inference_mode():
        batch = torch.tensor(x)
        np.testing.assert_allclose(torch.compile(model)(batch), model(batch), atol=1e-6)
    for trained in (model, compiled):
        trained.fit(x, y, batch_size=4, epochs=2, verbose=0)
    assert counters["stats"]["unique_graphs"] == 2
    for weight, expected in zip(compiled.weights, model.weights, strict=True):
        np.testing.assert_allclose(to_numpy(weight), to_numpy(expected), atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit")
@pytest.mark.parametrize("window_tokens", ["learned", "average_pooling"])
def test_models_become_torchscript(tmp_path, window_tokens):
    """For other numbers of images than the traced one, and in a file."""
    config = dataclasses.replace(CONFIG, window_tokens=window_tokens)
    model = keras_sepvit.SepViT(config, input_shape=(64, 64, 3), classes=3)
    randomize(model)
    batch = torch.tensor(255 * np.abs(images((3, 64, 64, 3))))
    with torch.inference_mode():
        torch.jit.save(torch.jit.trace(model, batch[:1]), tmp_path / "model.pt")
        traced = torch.jit.load(tmp_path / "model.pt")
        np.testing.assert_allclose(traced(batch), model(batch), atol=1e-6)
