"""The attention and the block against a plain float64 NumPy implementation."""

import math

import keras
import numpy as np
import pytest
from helpers import images, randomize, run, symbolic, to_numpy, weights_by_name
from keras import ops
from test_windows import cut_windows

from keras_sepvit import SeparableAttention, SepViTBlock, functional

erf = np.vectorize(math.erf)


def gelu(x):
    return x * (1 + erf(x / math.sqrt(2))) / 2


def layer_norm(x, weights, name, eps):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def dense(x, weights, name):
    return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]


def softmax(scores):
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def head_slices(channels, heads):
    size = channels // heads
    return [slice(head * size, (head + 1) * size) for head in range(heads)]


def dsa(y, weights, heads):
    """Multi-head attention inside each window, plus its normed input."""
    channels = y.shape[-1]
    query, key, value = np.split(dense(y, weights, "attn/dsa_qkv"), 3, axis=-1)
    out = np.empty_like(y)
    for h in head_slices(channels, heads):
        scores = query[..., h] @ key[..., h].swapaxes(-1, -2) / math.sqrt(channels // heads)
        out[..., h] = softmax(scores) @ value[..., h]
    return out + y


def psa_weights(token, weights, heads):
    """(heads, batch, windows, windows): how each window mixes all windows."""
    channels = token.shape[-1]
    normed = gelu(layer_norm(token, weights, "attn/win_tokens_norm", 1e-5))
    query, key = np.split(dense(normed, weights, "attn/psa_qk"), 2, axis=-1)
    return np.stack(
        [
            softmax(query[..., h] @ key[..., h].swapaxes(-1, -2) / math.sqrt(channels // heads))
            for h in head_slices(channels, heads)
        ]
    )


def psa(token, z, weights, heads):
    """Each window becomes a weighted sum of whole windows, plus itself."""
    out = np.empty_like(z)
    mixing = psa_weights(token, weights, heads)
    for mix, h in zip(mixing, head_slices(z.shape[-1], heads), strict=True):
        out[..., h] = np.einsum("bnm,bmpc->bnpc", mix, z[..., h])
    return out + z


def global_token(y, weights, kind):
    if kind == "average_pooling":
        return y.mean(axis=2), y
    if kind == "depthwise_conv":
        return depthwise_token(y, weights), y
    return y[:, :, 0], y[:, :, 1:]


def depthwise_token(y, weights):
    """A depthwise convolution whose kernel is the whole window, by Keras's own layer."""
    batch, windows, positions, channels = y.shape
    side = math.isqrt(positions)
    conv = keras.layers.DepthwiseConv2D(side)
    conv.build((None, side, side, channels))
    conv.set_weights(
        [
            weights["attn/win_kernel"].reshape(side, side, channels, 1),
            weights["attn/win_bias"].reshape(channels),
        ]
    )
    maps = y.reshape(batch * windows, side, side, channels)
    return run(conv, maps).reshape(batch, windows, channels)


def block(x, weights, heads, window, kind, with_psa):
    """The design of a block, word by word."""
    batch, height, width, channels = x.shape
    padded = np.pad(x, ((0, 0), (0, -height % window[0]), (0, -width % window[1]), (0, 0)))
    tokens = cut_windows(padded, window)
    count = tokens.shape[1]
    if with_psa and kind in ("learned", "zeros"):
        token = weights["win_tokens"] if kind == "learned" else np.zeros((1, 1, 1, channels))
        token = np.broadcast_to(token, (batch, count, 1, channels))
        tokens = np.concatenate([token, tokens], axis=2)
    z = dsa(layer_norm(tokens, weights, "norm1", 1e-6), weights, heads)
    if with_psa:
        token, z = global_token(z, weights, kind)
        z = psa(token, z, weights, heads)

    mixed = np.empty_like(padded)
    columns = padded.shape[2] // window[1]
    for index in range(count):
        top, left = index // columns * window[0], index % columns * window[1]
        mixed[:, top : top + window[0], left : left + window[1]] = z[:, index].reshape(
            batch, *window, channels
        )
    x = x + dense(mixed[:, :height, :width], weights, "attn/proj")
    hidden = gelu(dense(layer_norm(x, weights, "norm2", 1e-6), weights, "mlp/fc1"))
    return x + dense(hidden, weights, "mlp/fc2")


BLOCKS = {
    "learned": ((8, 8), 4, "learned", False, False),
    "learned_rectangle": ((4, 6), (2, 3), "learned", False, False),
    "learned_one_window": ((4, 4), 4, "learned", False, False),
    "learned_padded": ((5, 6), 4, "learned", True, False),
    "learned_one_padded_window": ((3, 2), 4, "learned", True, False),
    "zeros": ((4, 4), 2, "zeros", False, False),
    "dense": ((6, 8), 4, "zeros", True, True),
    "dense_padded": ((5, 7), (4, 3), "zeros", True, True),
    "dense_one_window": ((3, 3), 4, "zeros", True, True),
    "average_pooling": ((4, 6), 2, "average_pooling", False, False),
    "average_pooling_padded": ((5, 5), 4, "average_pooling", True, True),
    "depthwise_conv": ((4, 6), 2, "depthwise_conv", False, False),
}


@pytest.mark.parametrize("size, window, kind, pad, single_window_psa", BLOCKS.values(), ids=BLOCKS)
def test_block_follows_the_design(size, window, kind, pad, single_window_psa):
    layer = SepViTBlock(
        2, window, mlp_ratio=3, window_tokens=kind, pad=pad, single_window_psa=single_window_psa
    )
    x = images((2, *size, 8))
    layer.build(x.shape)
    randomize(layer)
    window = layer.window_size
    windows = math.prod(-(-side // step) for side, step in zip(size, window, strict=True))
    expected = block(
        x.astype("float64"),
        weights_by_name(layer),
        heads=2,
        window=window,
        kind=kind,
        with_psa=windows > 1 or single_window_psa,
    )
    np.testing.assert_allclose(run(layer, x), expected, atol=2e-5)


def test_block_takes_dynamic_sizes():
    layer = SepViTBlock(2, 4, window_tokens="zeros", pad=True, single_window_psa=True)
    inputs = keras.Input((None, None, 8))
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, None, None, 8)
    randomize(layer)
    for size in ((4, 4), (5, 7), (3, 2)):
        x = images((2, *size, 8))
        expected = block(x.astype("float64"), weights_by_name(layer), 2, (4, 4), "zeros", True)
        np.testing.assert_allclose(run(symbolic(model), x), expected, atol=2e-5)


def test_a_single_window_has_neither_token_nor_psa():
    layer = SepViTBlock(2, 4)
    layer.build((None, 4, 4, 8))
    names = weights_by_name(layer)
    assert not any("win_tokens" in name or "psa" in name for name in names), sorted(names)


@pytest.mark.parametrize("kind", ["learned", "zeros", "average_pooling", "depthwise_conv"])
def test_window_attention_is_what_mixes_the_windows(kind):
    layer = SepViTBlock(2, (2, 2), window_tokens=kind)
    x = images((2, 4, 6, 8))
    layer.build(x.shape)
    randomize(layer)
    attention = run(layer.window_attention, x)
    assert attention.shape == (2, 2, 6, 6)
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-6)
    assert attention.std() > 1e-2, "the weights are all alike, which would hide an error"

    # Mixing with these weights, and nothing else of PSA, gives the layer's output.
    weights = weights_by_name(layer)
    tokens = cut_windows(x.astype("float64"), (2, 2))
    if kind in ("learned", "zeros"):
        token = weights.get("win_tokens", np.zeros((1, 1, 1, 8)))
        token = np.broadcast_to(token, (2, 6, 1, 8))
        tokens = np.concatenate([token, tokens], axis=2)
    normed = layer_norm(tokens, weights, "norm1", 1e-6)
    _, z = global_token(dsa(normed, weights, 2), weights, kind)
    mixed = z.copy()
    for head, channels in enumerate(head_slices(8, 2)):
        mixed[..., channels] += np.einsum("bnm,bmpc->bnpc", attention[:, head], z[..., channels])
    expected = dense(mixed, weights, "attn/proj")
    result = run(layer.attn, normed.astype("float32"))
    np.testing.assert_allclose(result, expected, atol=2e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_window_attention_of_half_precision_maps(policy):
    x = images((1, 4, 6, 8))
    exact = SepViTBlock(2, (2, 2))
    mixed = SepViTBlock(2, (2, 2), dtype=policy)
    for layer in (exact, mixed):
        layer.build(x.shape)
        randomize(layer)
    half = ops.cast(ops.convert_to_tensor(x), mixed.compute_dtype)
    expected = to_numpy(exact.window_attention(ops.cast(half, "float32")))
    np.testing.assert_allclose(to_numpy(mixed.window_attention(half)), expected, atol=5e-3)


def test_window_attention_pads_as_the_block_does():
    layer = SepViTBlock(2, 4, window_tokens="zeros", pad=True, single_window_psa=True)
    x = images((1, 5, 6, 8))
    layer.build(x.shape)
    randomize(layer)
    padded = np.pad(x, ((0, 0), (0, 3), (0, 2), (0, 0)))
    np.testing.assert_allclose(
        run(layer.window_attention, x), run(layer.window_attention, padded), atol=1e-6
    )


def test_a_block_of_one_window_has_no_window_attention():
    layer = SepViTBlock(2, 4)
    layer.build((None, 4, 4, 8))
    with pytest.raises(ValueError, match="one window"):
        layer.window_attention(images((1, 4, 4, 8)))


@pytest.mark.parametrize("windows", [1, 3])
def test_attention_alone_takes_windows_with_their_token_in_front(windows):
    layer = SeparableAttention(2, "first")
    x = images((2, windows, 5, 8))
    layer.build(x.shape)
    randomize(layer)
    weights = {f"attn/{name}": value for name, value in weights_by_name(layer).items()}
    token, z = global_token(dsa(x.astype("float64"), weights, 2), weights, "first")
    expected = dense(psa(token, z, weights, 2), weights, "attn/proj")
    assert layer.compute_output_shape(x.shape) == (2, windows, 4, 8)
    np.testing.assert_allclose(run(layer, x), expected, atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_attention_over_as_many_windows_as_a_large_map_has(dtype):
    """2,738 windows of 7 at 1024 x 2048: their values' sum is beyond float16, their mean not."""
    keys = ops.cast(images((1, 1, 2738, 4)), dtype)
    values = ops.cast(50 + images((1, 1, 2738, 8), seed=1), dtype)
    mean = to_numpy(functional.attention(ops.zeros_like(keys[:, :, :2]), keys, values))
    np.testing.assert_allclose(mean, np.full((1, 1, 2, 8), 50.0), rtol=5e-3)
