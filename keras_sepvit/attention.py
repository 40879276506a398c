"""Depthwise separable self-attention: DSA inside windows, then PSA among them."""

from typing import Any

import keras
from keras import layers, ops

from keras_sepvit import functional
from keras_sepvit.composite import CompositeLayer
from keras_sepvit.initializers import FanOutNormal
from keras_sepvit.validation import check_choice, check_heads, positive_int

GLOBAL_TOKENS = ("first", "average_pooling", "depthwise_conv", None)


@keras.saving.register_keras_serializable(package="keras_sepvit")
class SeparableAttention(CompositeLayer):
    """DSA inside each window, PSA among windows, and an output projection.

    DSA (paper, equations 3 and 4) is multi-head self-attention among the tokens
    of a window. PSA (equation 5) represents each window by one token, takes
    queries and keys from these tokens alone, and mixes whole windows with the
    attention weights. Both have a shortcut of their own.

    Args:
        num_heads: Attention heads; must divide the channels.
        global_token: The token that stands for a window in PSA: `"first"`, the
            first token of the window (a window token that took part in DSA;
            it is not in the output), the `"average_pooling"` of the window's
            tokens after DSA, a `"depthwise_conv"` over them as large as the
            window, or `None` for no PSA.
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input shape: `(batch, windows, tokens, channels)`; float. The tokens of a
    window are its positions, with the window token in front of them where
    `global_token="first"`.

    Output shape: `(batch, windows, positions, channels)`.

    Raises:
        ValueError: for an unknown `global_token`, an input of another rank, or
            `num_heads` that do not divide the channels.
    """

    def __init__(self, num_heads: int, global_token: str | None = "first", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads = positive_int("num_heads", num_heads)
        self.global_token = check_choice("global_token", global_token, GLOBAL_TOKENS)

    def build(self, input_shape):
        if len(input_shape) != 4:
            raise ValueError(
                f"Layer `{self.name}` expects (batch, windows, tokens, channels). "
                f"Received a shape of rank {len(input_shape)}: {tuple(input_shape)}."
            )
        _, windows, tokens, channels = input_shape
        check_heads(channels, self.num_heads)
        self.dsa_qkv = self.dense(3 * channels, "dsa_qkv")
        self.dsa_qkv.build((None, tokens, channels))
        if self.global_token is not None:
            self.win_tokens_norm = self.part(
                layers.LayerNormalization, epsilon=1e-5, name="win_tokens_norm"
            )
            self.win_tokens_norm.build((None, windows, channels))
            self.psa_qk = self.dense(2 * channels, "psa_qk")
            self.psa_qk.build((None, windows, channels))
        if self.global_token == "depthwise_conv":
            self.win_kernel = self.add_weight(
                name="win_kernel",
                shape=(1, tokens, channels, 1),
                initializer=FanOutNormal(),
            )
            self.win_bias = self.add_weight(name="win_bias", shape=(channels,), initializer="zeros")
        self.proj = self.dense(channels, "proj")
        self.proj.build((None, tokens, channels))

    def call(self, inputs):
        return self._as_windows(functional.linear(self.proj, self._attend(inputs)), inputs)

    def unprojected(self, inputs):
        """The output before the projection, which is the same for each position."""
        return self._as_windows(self._attend(inputs), inputs)

    def _attend(self, inputs):
        """DSA and PSA: (batch * windows, positions, channels)."""
        x = self._attend_inside_windows(inputs)
        if self.global_token is not None:
            x = self._attend_among_windows(x, functional.shape(inputs)[1])
        return functional.merge_heads(x)

    def _as_windows(self, x, inputs):
        _, windows, tokens, channels = functional.shape(inputs)
        positions = tokens - int(self.global_token == "first")
        return functional.reshape(x, (-1, windows, positions, channels))

    # Between DSA and the projection heads come first: (heads, batch * windows, tokens,
    # head_dim). Queries, keys and values are then parts of memory in a row, and PSA sees
    # whole windows by a reshape.

    def _attend_inside_windows(self, inputs):
        """DSA of (batch, windows, tokens, channels), with heads first."""
        _, _, tokens, channels = functional.shape(inputs)
        x = functional.reshape(inputs, (-1, tokens, channels))
        qkv = functional.split_heads(functional.linear(self.dsa_qkv, x), 3 * self.num_heads)
        query, key, value = functional.split(qkv, 3, axis=0)
        return functional.attention(query, key, value) + functional.split_heads(x, self.num_heads)

    def _attend_among_windows(self, x, windows):
        """PSA on the result of DSA, from which it takes the window token."""
        query, key = self._psa_query_and_key(x, windows)
        if self.global_token == "first":
            x = x[:, :, 1:]
        heads, _, positions, head_dim = functional.shape(x)
        x = functional.reshape(x, (heads, -1, windows, positions * head_dim))
        x = x + functional.attention(query, key, x)
        return functional.reshape(x, (heads, -1, positions, head_dim))

    def _psa_query_and_key(self, x, windows):
        """Queries and keys of the windows' tokens: (heads, batch, windows, head_dim)."""
        if self.global_token == "first":
            token = x[:, :, :1]
        elif self.global_token == "average_pooling":
            token = ops.mean(x, axis=2, keepdims=True)
        else:
            kernel = functional.split_heads(self.win_kernel[:, :, :, 0], self.num_heads)
            token = ops.sum(x * kernel, axis=2, keepdims=True)
            token = token + functional.split_heads(self.win_bias[None, None], self.num_heads)
        token = functional.reshape(functional.merge_heads(token), (-1, windows, self.proj.units))
        token = functional.layer_norm(self.win_tokens_norm, token)
        qk = functional.linear(self.psa_qk, functional.gelu(token))
        return functional.split(functional.split_heads(qk, 2 * self.num_heads), 2, axis=0)

    def window_attention(self, inputs: Any) -> Any:
        """The weights with which PSA mixes the windows.

        Args:
            inputs: As for `call`.

        Returns:
            Tensor of shape (batch, heads, windows, windows), float32: for each
            window (third axis) the weights of all windows, which sum to 1.
        """
        x = self._attend_inside_windows(ops.cast(inputs, self.compute_dtype))
        query, key = self._psa_query_and_key(x, ops.shape(inputs)[1])
        return ops.transpose(functional.attention_weights(query, key), (1, 0, 2, 3))

    def compute_output_shape(self, input_shape):
        batch, windows, tokens, channels = input_shape
        if self.global_token == "first":
            tokens -= 1
        return (batch, windows, tokens, channels)

    def get_config(self):
        config = super().get_config()
        return {**config, "num_heads": self.num_heads, "global_token": self.global_token}
