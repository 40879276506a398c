import functools
import importlib
import json

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

from keras_sepvit import (
    MLP,
    PEG,
    DropPath,
    PatchEmbedding,
    SeparableAttention,
    SepViT,
    SepViTBlock,
    functional,
)
from keras_sepvit.functional import torch_products
from keras_sepvit.layers import one_draw
from keras_sepvit.pyramid import ConvModule
from keras_sepvit.stages import ImageModelMixin

torch = pytest.importorskip("torch", reason="PyTorch's convolutions are the reference")


def torch_conv(x, kernel, bias, **kwargs):
    """`torch.nn.functional.conv2d` on channels-last maps and Keras's kernel layout."""
    out = torch.nn.functional.conv2d(
        torch.tensor(x).permute(0, 3, 1, 2),
        torch.tensor(kernel).permute(3, 2, 0, 1),
        torch.tensor(bias),
        **kwargs,
    )
    return out.permute(0, 2, 3, 1)


@pytest.mark.once
@pytest.mark.parametrize(
    "strides, mode, kernel, padding",
    [
        (4, "overlapping", 7, 3),
        (2, "overlapping", 3, 1),
        (4, "non_overlapping", 4, 0),
        (2, "non_overlapping", 2, 0),
    ],
)
def test_patch_embedding_sizes_follow_pytorch(strides, mode, kernel, padding):
    layer = PatchEmbedding(5, strides, mode)
    for size in range(strides, 70):
        expected = (size + 2 * padding - kernel) // strides + 1
        assert layer.compute_output_shape((None, size, size + 1, 3))[:2] == (None, expected)
    assert layer.compute_output_shape((None, None, None, 3)) == (None, None, None, 5)


@pytest.mark.parametrize("strides, padding", [(4, 3), (2, 1)])
@pytest.mark.parametrize("size", [(8, 9), (10, 11), (1, 5)])
def test_overlapping_patches_are_pytorchs_padded_convolution(strides, padding, size):
    check_patch_embedding(PatchEmbedding(6, strides), images((2, *size, 3)), padding)


@pytest.mark.parametrize("strides", [4, 2])
@pytest.mark.parametrize("size", [(8, 9), (11, 10)])
def test_non_overlapping_patches_are_pytorchs_plain_convolution(strides, size):
    layer = PatchEmbedding(6, strides, "non_overlapping")
    check_patch_embedding(layer, images((2, *size, 3)), padding=0)


def check_patch_embedding(layer, x, padding):
    layer.build(x.shape)
    randomize(layer)
    kernel, bias, gamma, beta = map(
        to_numpy, (layer.proj.kernel, layer.proj.bias, layer.norm.gamma, layer.norm.beta)
    )
    convolved = torch_conv(x, kernel, bias, stride=layer.strides, padding=padding)
    expected = torch.nn.functional.layer_norm(
        convolved, (6,), torch.tensor(gamma), torch.tensor(beta), eps=1e-5
    )
    result = run(layer, x)
    assert result.shape == layer.compute_output_shape(x.shape)
    np.testing.assert_allclose(result, expected.numpy(), atol=2e-5)


def test_peg_adds_a_depthwise_convolution_to_its_input():
    x = images((2, 5, 7, 4))
    layer = PEG()
    layer.build(x.shape)
    randomize(layer)
    kernel = to_numpy(layer.proj.kernel).transpose(0, 1, 3, 2)
    expected = x + torch_conv(x, kernel, to_numpy(layer.proj.bias), padding=1, groups=4).numpy()
    np.testing.assert_allclose(run(layer, x), expected, atol=1e-5)


def test_mlp_is_two_dense_layers_around_an_exact_gelu():
    x = images((2, 3, 4)) * 3
    layer = MLP(8)
    layer.build(x.shape)
    randomize(layer)
    kernel1, bias1, kernel2, bias2 = (
        torch.tensor(to_numpy(w)) for w in (*layer.fc1.weights, *layer.fc2.weights)
    )
    # PyTorch's default GELU is the exact one; the tanh form differs by up to 5e-4.
    hidden = torch.nn.functional.gelu(torch.tensor(x) @ kernel1 + bias1)
    expected = (hidden @ kernel2 + bias2).numpy()
    np.testing.assert_allclose(run(layer, x), expected, atol=1e-5)


@pytest.mark.parametrize("sample_shape", [(), (5,), (3, 4, 2)])
def test_drop_path_drops_whole_samples_and_scales_the_others(sample_shape):
    x = 1 + np.abs(images((2000, *sample_shape)))
    ratio = to_numpy(DropPath(0.25, seed=1)(x, training=True)) / x
    ratio = ratio.reshape(2000, -1)
    per_sample = ratio[:, 0]
    np.testing.assert_allclose(ratio, np.broadcast_to(per_sample[:, None], ratio.shape), atol=1e-6)
    kept = per_sample > 0
    np.testing.assert_allclose(per_sample[kept], 1 / 0.75, atol=1e-6)
    # 4 standard deviations of the share kept of 2000 samples.
    assert abs(kept.mean() - 0.75) < 4 * (0.75 * 0.25 / 2000) ** 0.5


def test_drop_path_draws_differ_between_calls_and_repeat_with_the_seed():
    x = np.ones((64, 1), "float32")
    first, second = DropPath(0.5, seed=7), DropPath(0.5, seed=7)
    draws = [to_numpy(first(x, training=True)) for _ in range(2)]
    assert not np.array_equal(*draws)
    for draw in draws:
        np.testing.assert_array_equal(draw, to_numpy(second(x, training=True)))
    other = to_numpy(DropPath(0.5, seed=8)(x, training=True))
    assert not np.array_equal(draws[0], other)


@pytest.mark.parametrize("rate, training", [(0.9, False), (0.0, True)])
def test_drop_path_is_the_identity_in_inference_and_at_rate_zero(rate, training):
    x = images((16, 2, 3))
    np.testing.assert_array_equal(to_numpy(DropPath(rate)(x, training=training)), x)


class Branches(keras.Layer):
    """The factors of two calls of each of several drop paths, of which one is a stranger."""

    def __init__(self, known, stranger):
        super().__init__()
        self.known, self.stranger = known, stranger
        self.built = True

    def call(self, inputs, training=False):
        with one_draw(self.known, calls=2):
            calls = [*self.known, self.stranger] * 2
            inside = [layer(inputs, training=training) for layer in calls]
        return ops.stack([*inside, self.known[-1](inputs, training=training)])


def test_one_draw_gives_each_call_of_each_drop_path_its_own(monkeypatch):
    shapes = record_draws(monkeypatch)
    rates = (0.5, 0.0, 0.25)
    layer = Branches([DropPath(r, seed=int(8 + 8 * r)) for r in rates], DropPath(0.5, seed=1))
    scales = run(layer, np.ones((4000, 1, 1, 1), "float32"), training=True)[..., 0, 0, 0]
    one = (4000, 1, 1, 1)
    assert shapes == [(4, *one), one, one, one]  # for all, the stranger twice, outside
    expected = np.array([*rates, 0.5, *rates, 0.5, rates[-1]])[:, None]
    assert np.all(np.isclose(scales, 0, atol=0) | np.isclose(scales, 1 / (1 - expected)))
    kept = (scales > 0)[expected[:, 0] > 0]
    assert (scales[expected[:, 0] == 0] == 1).all()
    # 4 standard deviations of the share kept of 4000 samples, and of a correlation.
    assert (abs(kept.mean(1) - (1 - expected[expected > 0])) < 4 * 0.5 * 4000**-0.5).all()
    correlations = np.corrcoef(kept) - np.eye(len(kept))
    assert abs(correlations).max() < 4 * 4000**-0.5


# By name: a layer's class, its arguments, and the shape of a sample that it takes.
LAYERS = {
    "patches": (PatchEmbedding, {"filters": 6, "strides": 4}, (9, 14, 3)),
    "patches_apart": (
        PatchEmbedding,
        {"filters": 6, "strides": 2, "mode": "non_overlapping"},
        (9, 14, 3),
    ),
    "peg": (PEG, {}, (5, 6, 4)),
    "peg_fp32": (PEG, {"residual_in_fp32": True}, (5, 6, 4)),
    "drop_path": (DropPath, {"rate": 0.3, "seed": 5}, (5, 4)),
    "mlp": (MLP, {"hidden_dim": 8}, (5, 4)),
    "attention": (SeparableAttention, {"num_heads": 2}, (3, 5, 4)),
    "attention_pooled": (
        SeparableAttention,
        {"num_heads": 2, "global_token": "average_pooling"},
        (3, 4, 4),
    ),
    "attention_conv": (
        SeparableAttention,
        {"num_heads": 2, "global_token": "depthwise_conv"},
        (3, 4, 4),
    ),
    "attention_local": (SeparableAttention, {"num_heads": 2, "global_token": None}, (3, 4, 4)),
    "block": (
        SepViTBlock,
        {"num_heads": 2, "window_size": [2, 3], "mlp_ratio": 3.0, "drop_path_rate": 0.1},
        (4, 6, 8),
    ),
    "block_dense": (
        SepViTBlock,
        {
            "num_heads": 2,
            "window_size": [3, 4],
            "window_tokens": "zeros",
            "pad": True,
            "single_window_psa": True,
            "residual_in_fp32": True,
        },
        (2, 3, 8),
    ),
}
each_layer = pytest.mark.parametrize("layer_class, arguments, shape", LAYERS.values(), ids=LAYERS)


@each_layer
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", keras.DTypePolicy("mixed_bfloat16")], ids=type)
def test_layers_revive_from_their_json_config(layer_class, arguments, shape, dtype):
    layer = layer_class(**arguments, dtype=dtype, name="layer")
    config = json.loads(json.dumps(layer.get_config()))
    assert {**config, **arguments, "name": "layer"} == config
    revived = layer_class.from_config(config)
    assert revived.get_config() == layer.get_config()
    assert revived.compute_dtype == "bfloat16"


@each_layer
def test_layers_are_serialisable_and_usable_alone(layer_class, arguments, shape, tmp_path):
    layer = layer_class(**arguments, name="layer")
    model = keras.Sequential([keras.Input(shape), layer])
    randomize(model)
    x = images((2, *shape))
    expected = run(model, x)
    assert expected.shape == tuple(layer.compute_output_shape((2, *shape)))
    assert model.output_shape == tuple(layer.compute_output_shape((None, *shape)))

    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert type(loaded.get_layer("layer")) is layer_class
    assert loaded.get_layer("layer").get_config() == layer.get_config()
    np.testing.assert_allclose(run(loaded, x), expected, atol=1e-6)


@each_layer
def test_frozen_layers_stay_frozen(layer_class, arguments, shape):
    layer = layer_class(**arguments, trainable=False)
    layer.build((None, *shape))
    assert not [weight.path for weight in layer.weights if weight.trainable]
    # Where the layer is one of a model's, Keras asks the layers in it alone.
    assert not [inner.path for inner in layer._flatten_layers() if inner.trainable]


@each_layer
def test_layers_compute_in_the_policy_they_are_given(layer_class, arguments, shape):
    layer = layer_class(**arguments, dtype="mixed_bfloat16")
    outputs = layer(keras.Input(shape))
    assert outputs.dtype == ("float32" if arguments.get("residual_in_fp32") else "bfloat16")
    assert {weight.dtype for weight in layer.trainable_weights} <= {"float32"}
    for sublayer in layer._flatten_layers():
        assert sublayer.compute_dtype == "bfloat16", sublayer.path


def test_norms_have_the_epsilons_of_the_authors():
    # Too small to show in the outputs of other tests.
    block = SepViTBlock(2, 2)
    block.build((None, 4, 4, 8))
    norms = (block.norm1, block.norm2, block.attn.win_tokens_norm, PatchEmbedding(8, 4).norm)
    assert [norm.epsilon for norm in norms] == [1e-6, 1e-6, 1e-5, 1e-5]


def test_initial_values_are_those_of_the_authors():
    block = SepViTBlock(4, 2, window_tokens="learned")
    block.build((None, 4, 4, 96))
    embedding = PatchEmbedding(128, 4)
    embedding.build((None, 32, 32, 3))
    peg = PEG()
    peg.build((None, 4, 4, 512))

    for layer in (block.mlp.fc1, block.attn.dsa_qkv, block.attn.psa_qk, block.attn.proj):
        # A normal of 0.02; cut at two standard deviations, as Keras does, 0.0176 are left.
        assert 0.95 * 0.0176 < to_numpy(layer.kernel).std() < 1.05 * 0.02
    # sqrt(2 / fan_out), where fan_out counts the outputs of one group.
    kernel = to_numpy(embedding.proj.kernel)
    np.testing.assert_allclose(kernel.std(), (2 / (7 * 7 * 128)) ** 0.5, rtol=0.05)
    np.testing.assert_allclose(to_numpy(peg.proj.kernel).std(), (2 / 9) ** 0.5, rtol=0.05)
    for weight in (block.win_tokens, block.mlp.fc1.bias, embedding.proj.bias, peg.proj.bias):
        assert not to_numpy(weight).any()


def test_layers_of_one_shape_start_with_different_weights():
    first, second = MLP(8), MLP(8)
    first.build((None, 4))
    second.build((None, 4))
    assert not np.array_equal(to_numpy(first.fc1.kernel), to_numpy(second.fc1.kernel))


def test_layer_norm_is_exact_far_from_zero():
    x = images((2, 3, 16)) + 1000
    norm = keras.layers.LayerNormalization(epsilon=1e-6)
    norm.build(x.shape)
    randomize(norm)
    gamma, beta = (to_numpy(weight) for weight in norm.weights)
    exact = x.astype("float64")
    centered = exact - exact.mean(axis=-1, keepdims=True)
    expected = centered / np.sqrt(exact.var(axis=-1, keepdims=True) + 1e-6) * gamma + beta
    result = to_numpy(functional.layer_norm(norm, keras.ops.convert_to_tensor(x)))
    np.testing.assert_allclose(result, expected, atol=1e-3)


class Norm(keras.layers.Layer):
    """`functional.layer_norm` as a layer."""

    def build(self, input_shape):
        self.norm = keras.layers.LayerNormalization(
            epsilon=1e-6, dtype=self.dtype_policy, name="norm"
        )
        self.norm.build(input_shape)

    def call(self, inputs):
        return functional.layer_norm(self.norm, inputs)


@pytest.mark.parametrize(
    "make, policy",
    [
        (Norm, "mixed_bfloat16"),
        (Norm, "mixed_float16"),
        (functools.partial(PatchEmbedding, 8, 2), "mixed_bfloat16"),
        (functools.partial(ConvModule, 8, 3, norm=False), "mixed_bfloat16"),
        (functools.partial(MLP, 8), "mixed_bfloat16"),
        (PEG, "mixed_bfloat16"),
    ],
)
def test_gradients_are_summed_in_float32(make, policy):
    """Over so many positions that sums in half precision would be far off."""

    def gradients_in(policy):
        layer = make(dtype=policy, name="layer")
        model = keras.Sequential([keras.Input((64, 64, 8)), layer], name="model")
        randomize(model)
        return loss_and_gradients(model, images((4, 64, 64, 8)), np.arange(4))[1]

    exact = gradients_in("float32")
    for path, half in gradients_in(policy).items():
        atol = 0.05 * np.abs(exact[path]).max()
        np.testing.assert_allclose(half, exact[path], rtol=0, atol=atol, err_msg=path)


@pytest.mark.skipif(BACKEND != "torch", reason="the compiler is torch's")
def test_torchs_compiler_takes_norms_whole():
    norm = keras.layers.LayerNormalization()
    norm.build((None, 8))
    compiled = torch.compile(functional.layer_norm, backend="eager", fullgraph=True)
    x = torch.tensor(images((4, 8)))
    np.testing.assert_array_equal(to_numpy(compiled(norm, x)), to_numpy(norm(x)))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_residuals_in_float32(policy):
    """On maps far larger than what is added to them, which half precision rounds away."""
    x = images((4, 8, 8, 8)) + 256

    def added_and_gradients(policy, residual_in_fp32):
        arguments = {"dtype": policy, "residual_in_fp32": residual_in_fp32}
        block, peg = SepViTBlock(2, 4, **arguments, name="block"), PEG(**arguments, name="peg")
        model = keras.Sequential([keras.Input(x.shape[1:]), block, peg], name="model")
        randomize(model)
        peg.proj.kernel.assign(1e-3 * peg.proj.kernel)
        if BACKEND != "jax":  # where each operation would be compiled
            dtype = "float32" if residual_in_fp32 else block.compute_dtype
            assert keras.backend.standardize_dtype(model(x).dtype) == dtype
        return run(model, x) - x, loss_and_gradients(model, x, np.arange(4))[1]

    added, gradients = added_and_gradients(policy, residual_in_fp32=True)
    rounded, plain_gradients = added_and_gradients(policy, residual_in_fp32=False)
    if policy == "float32":
        np.testing.assert_array_equal(added, rounded)
        assert gradients.keys() == plain_gradients.keys()
        for path, gradient in gradients.items():
            np.testing.assert_array_equal(gradient, plain_gradients[path], err_msg=path)
        return
    expected, exact = added_and_gradients("float32", residual_in_fp32=False)
    error, error_of_rounded = (np.abs(y - expected).mean() for y in (added, rounded))
    assert error < error_of_rounded / 4
    for path, gradient in gradients.items():
        scale = np.abs(exact[path]).max()
        assert scale > 0
        np.testing.assert_allclose(gradient, exact[path], rtol=0, atol=0.15 * scale, err_msg=path)


@pytest.mark.skipif(BACKEND != "torch", reason="gradients are not recorded in inference")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.1)])
def test_inference_on_torch_equals_what_is_trained(dtype, tolerance):
    layers = [PatchEmbedding(32, 2, dtype=dtype), SepViTBlock(2, 2, dtype=dtype), PEG(dtype=dtype)]
    model = keras.Sequential([keras.Input((8, 8, 16)), *layers])
    randomize(model)
    x = torch.tensor(images((2, 8, 8, 16)), dtype=getattr(torch, dtype))
    with torch.inference_mode():
        inferred = model(x)
    trained = model(x)
    trained.sum().backward()
    np.testing.assert_allclose(to_numpy(inferred), to_numpy(trained.detach()), atol=tolerance)
    assert all(weight.value.grad is not None for weight in model.trainable_variables)


@pytest.mark.skipif(BACKEND != "torch", reason="the operators are torch's")
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_all_products_on_torch_are_one(dtype, tolerance, gelu):
    dtype = getattr(torch, dtype)
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no products in bfloat16")
    x, kernel, bias = (torch.tensor(images(shape), dtype=dtype) for shape in ((9, 16), (16, 8), 8))
    with torch.inference_mode():
        plain = torch_products.plain_product(x, kernel, bias, gelu)
        fused = torch_products.onednn_product(x, kernel, bias, gelu)
        in_place = torch_products.inference_product(x, kernel, bias, gelu)
    np.testing.assert_allclose(to_numpy(fused), to_numpy(plain), atol=tolerance, rtol=tolerance)
    np.testing.assert_array_equal(to_numpy(in_place), to_numpy(plain))


@pytest.mark.skipif(BACKEND != "torch", reason="the operators are torch's")
def test_the_product_on_torch_is_measured_once_for_a_number_of_rows(monkeypatch):
    calls = []
    for name in ("plain_product", "inference_product", "onednn_product"):
        product = getattr(torch_products, name)
        monkeypatch.setattr(
            torch_products, name, lambda *args, p=product, **kw: calls.append(p) or p(*args, **kw)
        )
    torch_products.fastest_product.cache_clear()
    dense = keras.layers.Dense(8)
    dense.build((None, 16))
    with torch.no_grad():
        for rows in (4, 5, 7):
            functional.linear(dense, torch.ones((rows, 16)))
    measured = len(calls) - 3
    assert measured in (0, 12)  # 0 without oneDNN
    with torch.enable_grad():
        functional.linear(dense, torch.ones((64, 16)))
    assert len(calls) == measured + 4
    torch_products.fastest_product.cache_clear()


@pytest.mark.skipif(BACKEND != "torch", reason="the operators are torch's")
def test_inference_on_torch_copies_no_kernel(monkeypatch):
    """Where torch's own products are the faster ones; oneDNN's copy it."""
    monkeypatch.setattr(
        torch_products, "fastest_product", lambda *_: torch_products.inference_product
    )
    model = keras.Sequential([keras.Input((8, 8, 64)), PatchEmbedding(256, 2), SepViTBlock(4, 2)])
    smallest = min(np.prod(weight.shape) for weight in model.weights if "kernel" in weight.path)
    with torch.inference_mode(), torch.profiler.profile(record_shapes=True) as profile:
        model(torch.tensor(images((1, 8, 8, 64))))
    copies = [event for event in profile.events() if event.name == "aten::copy_"]
    assert copies
    assert max(np.prod(event.input_shapes[0]) for event in copies) < smallest


@pytest.mark.skipif(BACKEND != "torch", reason="the operators are torch's")
@pytest.mark.parametrize(
    ("seconds", "chosen"), [(0.7, "onednn_product"), (0.9, "inference_product")]
)
def test_onednn_must_be_faster_by_a_quarter(monkeypatch, seconds, chosen):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    now = [0.0]

    def product(duration):
        return lambda *_, **__: now.append(now[-1] + duration)

    products = {"inference_product": product(1.0), "onednn_product": product(seconds)}
    for name, stub in products.items():
        monkeypatch.setattr(torch_products, name, stub)
    monkeypatch.setattr(torch_products.time, "perf_counter", lambda: now[-1])
    choose = torch_products.fastest_product.__wrapped__
    assert choose(64, torch.float32, 1) is products[chosen]


class Layers(ImageModelMixin, keras.Model):
    """A model of a patch embedding and a block."""


@pytest.mark.by_default_on("tensorflow", "torch")
@pytest.mark.parametrize(
    ("model_policy", "embedding_policy", "block_policy"),
    [
        ("float32", "float32", "float32"),
        ("float32", "float32", "mixed_bfloat16"),
        ("mixed_bfloat16", "mixed_bfloat16", "float32"),
        ("mixed_bfloat16", "mixed_bfloat16", "mixed_bfloat16"),
        ("mixed_bfloat16", "float32", "float32"),  # whose weights Keras would cast
    ],
)
def test_models_call_layers_past_keras_in_inference_on_torch(
    monkeypatch, model_policy, embedding_policy, block_policy
):
    image = keras.Input((8, 8, 16))
    x = PatchEmbedding(16, 2, name="embedding", dtype=embedding_policy)(image)
    block = SepViTBlock(2, 2, drop_path_rate=0.5, name="block", dtype=block_policy)
    model = Layers(image, block(x))
    model.dtype_policy = model_policy
    randomize(model)
    x = images((4, 8, 8, 16))
    expected = to_numpy(block(model.layers[1](x)))
    called = []
    keras_call = keras.Layer.__call__
    monkeypatch.setattr(
        keras.Layer,
        "__call__",
        lambda self, *args, **kw: called.append(self.name) or keras_call(self, *args, **kw),
    )
    np.testing.assert_array_equal(to_numpy(model(ops.convert_to_tensor(x))), expected)
    through_keras = {"embedding", "block"}
    if BACKEND == "torch" and model_policy == "float32":  # else Keras casts the images
        through_keras.remove("embedding")
    if BACKEND == "torch" and model_policy == block_policy:  # else Keras changes the scope
        through_keras.remove("block")
    assert through_keras == {"embedding", "block"} & set(called)
    called.clear()
    trained = to_numpy(model(ops.convert_to_tensor(x), training=True))
    assert {"embedding", "block"} <= set(called)
    assert ("attn" in called) == (BACKEND != "torch")  # in a block that has its policy
    assert np.abs(trained - expected).max() > 0.01  # dropped paths


@pytest.mark.skipif(BACKEND != "torch", reason="hooks are torch's")
def test_hooks_of_layers_in_a_block_are_called():
    block = SepViTBlock(2, 2)
    block.build((1, 4, 4, 8))
    seen = []
    for layer in (block.attn, block.mlp):
        layer.register_forward_hook(lambda layer, *_: seen.append(layer.name))
    with torch.no_grad():
        block(torch.zeros((1, 4, 4, 8)))
    assert seen == ["attn", "mlp"]
    for layer in (block.attn, block.mlp):
        layer._forward_hooks.clear()
        layer.register_full_backward_hook(lambda layer, *_: seen.append(f"{layer.name}, back"))
    x = torch.ones((1, 4, 4, 8), requires_grad=True)
    block(x, training=True).sum().backward()
    assert seen[2:] == ["mlp, back", "attn, back"]


@pytest.mark.skipif(BACKEND != "torch", reason="hooks are torch's")
@pytest.mark.parametrize(
    ("register", "order"),
    [
        ("register_forward_pre_hook", ["block", "attn", "mlp"]),
        ("register_forward_hook", ["attn", "mlp", "block"]),
    ],
)
def test_hooks_of_layers_in_a_model_are_called(register, order):
    image = keras.Input((8, 8, 16))
    model = Layers(image, SepViTBlock(2, 2, name="block")(image))
    block, seen = model.get_layer("block"), []
    for layer in (block, block.attn, block.mlp):
        getattr(layer, register)(lambda layer, *_: seen.append(layer.name))
    model(torch.zeros((1, 8, 8, 16)))
    assert seen == order


def test_what_a_block_adds_to_the_loss_is_added_in_evaluation_too():
    image = keras.Input((8, 8, 16))
    outputs = SepViTBlock(2, 2, activity_regularizer="l2")(image)
    model = Layers(image, keras.layers.GlobalAveragePooling2D()(outputs))
    model.compile(loss=lambda truth, found: 0.0 * found)
    assert model.evaluate(images((1, 8, 8, 16)), np.zeros((1, 16)), verbose=0) > 0.1


@pytest.mark.skipif(BACKEND != "torch", reason="of torch alone")
@pytest.mark.parametrize(
    "size, extent, stride, padding", [((5, 6), 3, 2, 1), ((3, 4), 3, 1, 1), ((6, 5), 2, 3, 0)]
)
def test_convolution_of_patches_is_torchs(size, extent, stride, padding):
    from keras_sepvit.functional.torch_convolutions import conv_of_patches

    rng = torch.Generator().manual_seed(0)
    shapes = (2, *size, 2), (extent, extent, 2, 3), (3,)
    tensors = [
        torch.randn(x, generator=rng, dtype=torch.float64, requires_grad=True) for x in shapes
    ]
    how = (stride, stride), padding

    def expected(x, kernel, bias):
        x, kernel = x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1)
        return torch.nn.functional.conv2d(x, kernel, bias, *how).permute(0, 2, 3, 1)

    torch.testing.assert_close(conv_of_patches(*tensors, *how), expected(*tensors))
    assert torch.autograd.gradcheck(lambda *x: conv_of_patches(*x, *how), tensors)
    assert torch.autograd.gradgradcheck(lambda *x: conv_of_patches(*x, *how), tensors)


@pytest.mark.skipif(BACKEND != "torch", reason="of torch alone")
def test_training_gives_the_gradients_of_the_plain_operators(monkeypatch):
    """Where kernels are large and keys are few, training takes other ways than inference."""
    attention, convolutions = (
        importlib.import_module(f"keras_sepvit.functional.{name}")
        for name in ("attention", "torch_convolutions")
    )
    model = SepViT(TINY, classes=7, drop_path_rate=0.0)
    photos = torch.rand(2, 64, 64, 3) * 255
    taken = []

    def gradients(counted):
        model.zero_grad()
        for module, name in ((attention, "_trains_on_few_keys"), (convolutions, "takes_patches")):
            monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
        model(photos, training=True)[:, 0].sum().backward()
        monkeypatch.undo()
        return [variable.value.grad.clone() for variable in model.trainable_variables]

    def observed(name, function):
        return lambda *x: taken.append((name, function(*x))) or taken[-1][1]

    found, expected = gradients(observed), gradients(lambda name, function: lambda *x: False)
    assert {name for name, is_taken in taken if is_taken} == {name for name, _ in taken}
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(photos, training=True)
    outputs[:, 0].sum().backward()  # outside, as torch's documentation has it
