"""Scaled dot-product attention, and heads."""

import keras
from keras import ops

from keras_sepvit.functional.eager import is_eager_on_cpu
from keras_sepvit.functional.tensors import reshape, shape, transpose


def attention(query, key, value):
    """Scaled dot-product attention, with its softmax in float32.

    Args:
        query: Tensor of shape (heads, batch, queries, head_dim).
        key: Tensor of shape (heads, batch, keys, head_dim).
        value: Tensor of shape (heads, batch, keys, value_dim).

    Returns:
        Tensor of shape (heads, batch, queries, value_dim).
    """
    if keras.config.backend() == "torch":
        return _torch_attention(query, key, value)
    scores = _scores(query, key)
    if keras.config.backend() == "jax" and value.dtype != "float16":
        # Dividing after the product saves a pass over the weights under XLA. In float16 the
        # product of many windows would overflow.
        largest = ops.stop_gradient(ops.max(scores, axis=-1, keepdims=True))
        weights = ops.exp(scores - largest)
        total = ops.sum(weights, axis=-1, keepdims=True)
        mixed = ops.matmul(ops.cast(weights, value.dtype), value)
        return ops.cast(ops.cast(mixed, "float32") / total, value.dtype)
    return ops.matmul(ops.cast(_softmax(scores), value.dtype), value)


def _torch_attention(query, key, value):
    import torch

    fused = torch.nn.functional.scaled_dot_product_attention
    if query.device.type == "cpu" and (
        query.dtype == torch.bfloat16 or _trains_on_few_keys(query, key)
    ):
        # Up to twice as fast as torch's fused kernel for CPUs.
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
        return torch.softmax(scores, dim=-1) @ value
    if value.shape[-1] == query.shape[-1]:
        # The fused kernel wants heads after the batch, and writes them after the tokens,
        # where the projection will need them.
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        return fused(query, key, value).transpose(0, 1)
    return fused(query, key, value)


def _trains_on_few_keys(query, key):
    """Whether the backward pass is faster with the weights kept, which the fused kernel computes
    anew: with the 50 tokens of a window by half, with 197 no longer."""
    return query.requires_grad and key.shape[2] <= 64 and is_eager_on_cpu(query)


def attention_weights(query, key):
    """The weights of `attention`: (heads, batch, queries, keys), float32."""
    return _softmax(_scores(query, key))


def _scores(query, key):
    scores = ops.matmul(query * query.shape[-1] ** -0.5, ops.transpose(key, (0, 1, 3, 2)))
    return ops.cast(scores, "float32")


def _softmax(scores):
    if scores.shape[-1] == 1:
        return ops.exp(scores - scores)  # Keras warns about a softmax over one score
    return ops.softmax(scores, axis=-1)


def split_heads(x, num_heads):
    """(batch, tokens, channels) to (heads, batch, tokens, head_dim)."""
    _, tokens, channels = shape(x)
    x = reshape(x, (-1, tokens, num_heads, channels // num_heads))
    return transpose(x, (2, 0, 1, 3))


def merge_heads(x):
    """(heads, batch, tokens, head_dim) to (batch, tokens, channels)."""
    heads, _, tokens, head_dim = shape(x)
    return reshape(transpose(x, (1, 2, 0, 3)), (-1, tokens, heads * head_dim))
