"""The SepViT block: separable attention over windows of a map, then an MLP."""

import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_sepvit import functional
from keras_sepvit.attention import SeparableAttention
from keras_sepvit.composite import ResidualLayer
from keras_sepvit.configs import WINDOW_TOKENS, Window
from keras_sepvit.geometry import window_grid
from keras_sepvit.layers import MLP, DropPath
from keras_sepvit.names import WINDOW_GRID
from keras_sepvit.validation import (
    check_choice,
    check_map,
    check_rate,
    positive_int,
    positive_number,
    window_pair,
)
from keras_sepvit.windows import pad_to_windows, window_merge, window_partition


@keras.saving.register_keras_serializable(package="keras_sepvit")
class SepViTBlock(ResidualLayer):
    """A SepViT block: local and global attention in one, on a map of any size.

    The map is cut into windows, with a window token in front of each; norm,
    separable attention and an MLP follow, with residuals around both. A window
    of 7 positions makes the paper's DSA block, a larger one (14) its GSA block.
    Paper, section 3, equations 6 and 7.

    Args:
        num_heads: Attention heads; must divide the channels.
        window_size: Positions of a window: an int or a (height, width) pair.
        mlp_ratio: Hidden channels of the MLP over its input channels.
        drop_path_rate: Probability in [0, 1) of dropping a residual branch of a
            sample in training.
        window_tokens: Where a window's global representation comes from:
            `"learned"` tokens, one a window, for which height and width must be
            static; fixed `"zeros"` tokens; or, without tokens,
            `"average_pooling"` or `"depthwise_conv"` over the window's
            positions (paper, table 6).
        pad: Pad maps that are no multiple of the window with zeros, right and
            bottom, before the norm; nothing is masked, and the padding is
            cropped afterwards. If False, such a map is an error.
        single_window_psa: Keep PSA and the window token where the whole map is
            one window. If False, such a block has neither.
        residual_in_fp32: Under half-precision policies, keep the map between the
            branches in float32, and add to it there. The output is then float32.
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input and output shape: `(batch, height, width, channels)`; float.

    Raises:
        ValueError: for arguments out of range, an input that is no map, heads
            that do not divide the channels, windows that do not tile the map
            with `pad=False`, and learned tokens for a map of dynamic size.
    """

    def __init__(
        self,
        num_heads: int,
        window_size: Window = 7,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        window_tokens: str = "learned",
        pad: bool = False,
        single_window_psa: bool = False,
        residual_in_fp32: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(residual_in_fp32, **kwargs)
        self.num_heads = positive_int("num_heads", num_heads)
        self.window_size = window_pair("window_size", window_size)
        self.mlp_ratio = positive_number("mlp_ratio", mlp_ratio)
        self.drop_path_rate = check_rate("drop_path_rate", drop_path_rate)
        self.window_tokens = check_choice("window_tokens", window_tokens, WINDOW_TOKENS)
        self.pad = bool(pad)
        self.single_window_psa = bool(single_window_psa)

    def build(self, input_shape):
        check_map(self.name, input_shape)
        _, height, width, channels = input_shape
        self._check_size(height, width)
        self.window_grid = windows = None
        if height is not None and width is not None:
            self.window_grid = window_grid((height, width), self.window_size)
            windows = math.prod(self.window_grid)
        positions = self.window_size[0] * self.window_size[1]

        self.has_psa = windows != 1 or self.single_window_psa
        self.has_token = self.has_psa and self.window_tokens in ("learned", "zeros")
        if self.has_token and self.window_tokens == "learned":
            if windows is None:
                raise ValueError(
                    f"Block `{self.name}` has one learned token a window, so its map must have a "
                    f"static size. Received shape: {tuple(input_shape)}. Give the input a fixed "
                    "height and width, or use window_tokens='zeros'."
                )
            self.win_tokens = self.add_weight(
                name="win_tokens", shape=(1, windows, 1, channels), initializer="zeros"
            )
        tokens_shape = (None, windows, positions + self.has_token, channels)
        self.norm1 = self.part(layers.LayerNormalization, epsilon=1e-6, name="norm1")
        self.norm1.build(tokens_shape)
        self.attn = self.part(SeparableAttention, self.num_heads, self._global_token(), name="attn")
        self.attn.build(tokens_shape)
        self.norm2 = self.part(layers.LayerNormalization, epsilon=1e-6, name="norm2")
        self.norm2.build(input_shape)
        self.mlp = self.part(MLP, int(channels * self.mlp_ratio), name="mlp")
        self.mlp.build(input_shape)
        self.drop_path = self.part(DropPath, self.drop_path_rate, name="drop_path")
        self.drop_path.build(input_shape)

    def call(self, inputs, training=None):
        return self._add_branches(inputs, *self._scales(inputs, training))

    def rematerialized_call(self, layer_call, *args, **kwargs):
        """`layer_call`, recomputed in the backward pass where `keras.RematScope` says so.

        All but its random numbers, which Keras would draw anew. Keras hands `training` over as if
        it were a tensor, too, which TensorFlow and JAX refuse.
        """
        chosen = super().rematerialized_call(layer_call, *args, **kwargs) is not layer_call
        return self._call_recomputed if chosen else layer_call

    def _call_recomputed(self, inputs, training=None):
        return keras.remat(self._add_branches)(inputs, *self._scales(inputs, training))

    def _scales(self, inputs, training):
        """The factors of both branches, where there are some."""
        if not training or not self.drop_path.rate:
            return ()
        return self.drop_path.scale(inputs), self.drop_path.scale(inputs)

    def _add_branches(self, inputs, attention_scale=None, mlp_scale=None):
        x = self._add(inputs, self._mix_windows(inputs), attention_scale)
        hidden = functional.call(self.mlp, functional.layer_norm(self.norm2, x))
        return self._add(x, hidden, mlp_scale)

    def _add(self, x, branch, scale):
        if scale is not None:
            branch = branch * functional.cast(scale, branch.dtype)
        return x + functional.cast(branch, x.dtype)

    def _mix_windows(self, inputs):
        x = pad_to_windows(inputs, self.window_size) if self.pad else inputs
        windows = functional.layer_norm(self.norm1, self._cut_windows(x))
        if x is inputs:
            mixed = functional.call(self.attn, windows)
            return window_merge(mixed, self.window_size, *functional.shape(x)[1:3])
        # Padding is cropped before the projection, which would be computed for nothing there.
        mixed = self.attn.unprojected(windows)
        mixed = window_merge(mixed, self.window_size, *functional.shape(x)[1:3])
        _, height, width, _ = functional.shape(inputs)
        return functional.linear(self.attn.proj, mixed[:, :height, :width])

    def _cut_windows(self, x):
        """A padded map as windows, each with its token in front where it has one."""
        windows = window_partition(x, self.window_size)
        if self.has_token:
            # Broadcast by adding to zeros of the right shape: `broadcast_to`
            # and `tile` split the graph on mobile delegates.
            tokens = functional.zeros_like(windows[:, :, :1])
            if self.window_tokens == "learned":
                tokens = tokens + functional.cast(self.win_tokens, tokens.dtype)
            windows = functional.concatenate([tokens, windows], axis=2)
        return windows

    def window_attention(self, inputs: Any) -> Any:
        """The attention among the windows of a map (PSA), for inspection.

        Args:
            inputs: As for `call`.

        Returns:
            Tensor of shape (batch, heads, windows, windows), float32: for each
            window (third axis) the weights of all windows, which sum to 1.

        Raises:
            ValueError: if the block has no PSA, its map being a single window.
        """
        if not self.has_psa:
            raise ValueError(f"Block `{self.name}` has one window and no attention among windows.")
        x = ops.cast(inputs, self.input_dtype)
        x = pad_to_windows(x, self.window_size) if self.pad else x
        return self.attn.window_attention(functional.layer_norm(self.norm1, self._cut_windows(x)))

    def _global_token(self):
        if not self.has_psa:
            return None
        return "first" if self.has_token else self.window_tokens

    def _check_size(self, height, width):
        for name, side, window in zip(
            ("height", "width"), (height, width), self.window_size, strict=True
        ):
            if not self.pad and side is not None and side % window:
                raise ValueError(
                    f"Block `{self.name}`: windows of {self.window_size} do not fit a map of "
                    f"{height} x {width}: {name} must be a multiple of {window}. Use another "
                    "input size or window, or `pad=True`."
                )

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if hasattr(self, "win_tokens"):
            store[WINDOW_GRID] = np.array(self.window_grid)

    def load_own_variables(self, store):
        variables = dict(store)
        grid = variables.pop(WINDOW_GRID, None)  # older files have none
        if grid is not None and tuple(grid) != self.window_grid:
            raise ValueError(
                f"Block `{self.name}` has tokens of {self.window_grid} windows, and the file of "
                f"{tuple(map(int, grid))}: (rows, columns). Load it with "
                "`keras_sepvit.load_weights`, which resizes them."
            )
        super().load_own_variables(variables)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "window_size": self.window_size,
            "mlp_ratio": self.mlp_ratio,
            "drop_path_rate": self.drop_path_rate,
            "window_tokens": self.window_tokens,
            "pad": self.pad,
            "single_window_psa": self.single_window_psa,
        }
