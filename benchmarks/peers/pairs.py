"""A SepViT block, and two successive blocks of Swin and of Twins, timed on one backend.

`python -m peers.pairs JOB` prints the turns of each, by stage of SepViT-T. Swin's blocks are
KerasHub's; Twins' are made of the package's own functions, so that they are as fast as ours.
"""

import json
import sys

import keras
import numpy as np
from keras import layers, ops

from keras_sepvit import SepViTBlock, functional
from keras_sepvit.benchmark import programs
from keras_sepvit.benchmark.timing import time_in_turns
from keras_sepvit.benchmark.worker import WARM_UP_CALLS, say
from keras_sepvit.configs import VARIANTS
from keras_sepvit.layers import MLP
from keras_sepvit.windows import pad_to_windows, window_merge, window_partition
from peers.networks import REDUCTIONS, WINDOW

IMAGE_SIZE = 224


class TwinsBlock(layers.Layer):
    """A block of Twins-SVT (arXiv 2104.13840, section 3.2): attention and an MLP.

    Args:
        num_heads: Attention heads.
        reduction: None for attention inside windows of 7 (LSA); else the stride by which the
            map is sub-sampled for keys and values (GSA).
        **kwargs: Of `keras.layers.Layer`.

    Input and output: (batch, height, width, channels).
    """

    def __init__(self, num_heads, reduction=None, **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.reduction = num_heads, reduction

    def build(self, input_shape):
        channels = input_shape[-1]
        rows = (None, channels)
        self.norm1, self.norm2 = (layers.LayerNormalization(epsilon=1e-5) for _ in range(2))
        self.norm1.build(input_shape)
        self.norm2.build(input_shape)
        local = self.reduction is None
        self.query = layers.Dense(3 * channels if local else channels)
        self.query.build(rows)
        if not local:
            self.key_value = layers.Dense(2 * channels)
            self.key_value.build(rows)
            if self.reduction > 1:
                self.sample = layers.Conv2D(channels, self.reduction, self.reduction)
                self.sample.build(input_shape)
                self.sample_norm = layers.LayerNormalization(epsilon=1e-5)
                self.sample_norm.build(input_shape)
        self.proj = layers.Dense(channels)
        self.proj.build(rows)
        self.mlp = MLP(4 * channels)
        self.mlp.build(input_shape)

    def call(self, inputs):
        attend = self._attend_in_windows if self.reduction is None else self._attend_to_samples
        x = inputs + functional.linear(self.proj, attend(functional.layer_norm(self.norm1, inputs)))
        return x + self.mlp(functional.layer_norm(self.norm2, x))

    def _attend_in_windows(self, x):
        _, height, width, channels = x.shape
        window = (WINDOW, WINDOW)
        windows = ops.reshape(window_partition(x, window), (-1, WINDOW**2, channels))
        qkv = functional.split_heads(functional.linear(self.query, windows), 3 * self.num_heads)
        mixed = functional.merge_heads(functional.attention(*ops.split(qkv, 3, axis=0)))
        count = (height // WINDOW) * (width // WINDOW)
        mixed = ops.reshape(mixed, (-1, count, WINDOW**2, channels))
        return window_merge(mixed, window, height, width)

    def _attend_to_samples(self, x):
        _, height, width, channels = x.shape
        samples = x
        if self.reduction > 1:
            padded = pad_to_windows(x, (self.reduction, self.reduction))
            samples = functional.padded_conv(self.sample, padded, 0)
            samples = functional.layer_norm(self.sample_norm, samples)
        queries = functional.linear(self.query, ops.reshape(x, (-1, height * width, channels)))
        samples = ops.reshape(samples, (-1, samples.shape[1] * samples.shape[2], channels))
        heads = functional.split_heads(
            functional.linear(self.key_value, samples), 2 * self.num_heads
        )
        key, value = ops.split(heads, 2, axis=0)
        mixed = functional.attention(functional.split_heads(queries, self.num_heads), key, value)
        return ops.reshape(functional.merge_heads(mixed), (-1, height, width, channels))


def twins_pair(channels, side, num_heads, reduction):
    """Two blocks of Twins-SVT, LSA and GSA: a model on maps of that side."""
    inputs = keras.Input((side, side, channels))
    return keras.Model(inputs, TwinsBlock(num_heads, reduction)(TwinsBlock(num_heads)(inputs)))


def swin_pair(channels, side, num_heads):
    """Two of KerasHub's Swin blocks, of plain and of shifted windows: a model on such maps."""
    from keras_hub.src.models.swin_transformer.swin_transformer_layers import SwinTransformerStage

    inputs = keras.Input((side, side, channels))
    stage = SwinTransformerStage(
        dim=channels,
        depth=2,
        num_heads=num_heads,
        window_size=WINDOW,
        input_resolution=(side, side),
    )
    rows = layers.Reshape((side * side, channels))(inputs)
    return keras.Model(inputs, stage(rows))


def sepvit_block(channels, side, num_heads, window):
    """A SepViT block: a model on such maps."""
    inputs = keras.Input((side, side, channels))
    return keras.Model(inputs, SepViTBlock(num_heads, window)(inputs))


def models_of_stages():
    """By stage of SepViT-T, from 1 on: its blocks and the pairs, by name."""
    config = VARIANTS["sepvit_t"]
    stages = zip(config.hidden_dims, config.num_heads, config.window_sizes, REDUCTIONS, strict=True)
    for number, (channels, heads, windows, reduction) in enumerate(stages, start=1):
        side = IMAGE_SIZE // 2 ** (number + 1)
        models = {
            f"SepViT block, window {window}": sepvit_block(channels, side, heads, window)
            for window in sorted(set(windows))
        }
        models["two Swin blocks"] = swin_pair(channels, side, heads)
        models["two Twins blocks"] = twins_pair(channels, side, heads, reduction)
        yield number, (side, side, channels), models


def measure(batch_size, rounds, mode):
    """The turns of each model in inference, by stage."""
    found = {}
    for number, shape, models in models_of_stages():
        say(f"{keras.config.backend()}, stage {number}")
        maps = np.random.default_rng(0).standard_normal((batch_size, *shape), "float32")
        runs = {
            name: programs.forward(model, ops.convert_to_tensor(maps), mode)
            for name, model in models.items()
        }
        for run in runs.values():
            for _ in range(WARM_UP_CALLS):
                output = run()
            if not np.isfinite(ops.convert_to_numpy(output)).all():
                raise ValueError(f"The outputs of stage {number} are not finite.")
        found[number] = time_in_turns(runs, rounds)
    return found


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
