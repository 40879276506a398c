"""The layers around the attention: patch embedding, PEG, DropPath and MLP."""

import contextlib
from typing import Any

import keras
from keras import layers, ops, random

from keras_sepvit import functional
from keras_sepvit.composite import CompositeLayer, ResidualLayer, running
from keras_sepvit.configs import IMAGENET_MEAN, IMAGENET_VARIANCE, PATCH_EMBEDDINGS
from keras_sepvit.initializers import FanOutNormal
from keras_sepvit.validation import check_choice, check_map, check_rate, positive_int


@keras.saving.register_keras_serializable(package="keras_sepvit")
class PatchEmbedding(CompositeLayer):
    """Divides a map into patches and embeds each: a strided convolution, then a norm.

    Overlapping patches (the default) are a convolution of `2 * stride - 1`
    pixels, padded with zeros by `stride - 1` on every side: 7 x 7 for the
    stride of 4 of the first stage, 3 x 3 for the stride of 2 of the others.
    Paper, section 3.1 and table 7.

    Args:
        filters: Output channels.
        strides: Side of a patch's step in pixels.
        mode: `"overlapping"`, or `"non_overlapping"` for a convolution as
            wide as its stride.
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input shape: `(batch, height, width, channels)`; float.

    Output shape: `(batch, height / strides, width / strides, filters)`, rounded
    up (overlapping) or down.

    Raises:
        ValueError: for `filters` or `strides` below 1 or an unknown `mode`.
    """

    def __init__(
        self, filters: int, strides: int, mode: str = "overlapping", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.filters = positive_int("filters", filters)
        self.strides = positive_int("strides", strides)
        self.mode = check_choice("mode", mode, PATCH_EMBEDDINGS)
        self.padding = self.strides - 1 if mode == "overlapping" else 0
        self.proj = self.part(
            layers.Conv2D,
            self.filters,
            self.strides + self.padding,
            strides=self.strides,
            data_format="channels_last",
            kernel_initializer=FanOutNormal(),
            name="proj",
        )
        self.norm = self.part(layers.LayerNormalization, epsilon=1e-5, name="norm")

    def build(self, input_shape):
        check_map(self.name, input_shape)
        self.input_spec = layers.InputSpec(ndim=4, axes={-1: input_shape[-1]})
        self.proj.build(self._padded(input_shape))
        self.norm.build(self.compute_output_shape(input_shape))

    def call(self, inputs):
        return functional.layer_norm(
            self.norm, functional.padded_conv(self.proj, inputs, self.padding)
        )

    def compute_output_shape(self, input_shape):
        return self.proj.compute_output_shape(self._padded(input_shape))

    def _padded(self, shape):
        batch, height, width, channels = shape
        height, width = (
            None if side is None else side + 2 * self.padding for side in (height, width)
        )
        return (batch, height, width, channels)

    def get_config(self):
        config = super().get_config()
        return {**config, "filters": self.filters, "strides": self.strides, "mode": self.mode}


@keras.saving.register_keras_serializable(package="keras_sepvit")
class PEG(ResidualLayer):
    """Positional encoding generator: `x + DepthwiseConv3x3(x)`.

    The conditional position encoding of CPVT (arXiv 2102.10882), as SepViT uses
    it once a stage, after the first block.

    Args:
        residual_in_fp32: Add in float32 under half-precision policies, too. The
            output is then float32.
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input and output shape: `(batch, height, width, channels)`; float.
    """

    def __init__(self, residual_in_fp32: bool = False, **kwargs: Any) -> None:
        super().__init__(residual_in_fp32, **kwargs)
        self.proj = self.part(
            layers.DepthwiseConv2D,
            3,
            padding="same",
            data_format="channels_last",
            depthwise_initializer=FanOutNormal(),
            name="proj",
        )

    def build(self, input_shape):
        check_map(self.name, input_shape)
        self.proj.build(input_shape)

    def call(self, inputs):
        # The bias comes last: on convolution, bias, residual in this order a fusion
        # pass of TensorFlow 2.21 fails, and leaves the whole graph unoptimised.
        x = ops.cast(inputs, self.compute_dtype)
        x = functional.cast(functional.depthwise_conv3x3(x, self.proj.kernel), inputs.dtype)
        return functional.add_bias(inputs + x, self.proj.bias)


@keras.saving.register_keras_serializable(package="keras_sepvit")
class DropPath(layers.Layer):
    """Stochastic depth: in training, drops whole samples of a residual branch.

    Each sample is set to zero with probability `rate`, independently, and the
    others are scaled by `1 / (1 - rate)`. Arbitrary rank. arXiv 1603.09382.

    In the models of this package one draw of a step, from the seed of the first
    layer that drops, serves all layers; elsewhere each layer draws by itself.

    Args:
        rate: Probability of dropping a sample, in [0, 1).
        seed: Optional int, for draws that repeat.
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input and output shape: `(batch, ...)`; float.

    Raises:
        ValueError: for a `rate` outside [0, 1).
    """

    def __init__(self, rate: float = 0.0, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = check_rate("rate", rate)
        self.seed = seed
        # Made at rate 0 too: files then have the same layout at every rate.
        self.seed_generator = random.SeedGenerator(seed)

    def build(self, input_shape):
        pass

    def call(self, inputs, training=False):
        if not training or self.rate == 0.0:
            return inputs
        return inputs * ops.cast(self.scale(inputs), inputs.dtype)

    def scale(self, inputs: Any) -> Any:
        """The factor of each sample in a training step, drawn anew by each call.

        Args:
            inputs: Tensor of shape (batch, ...), such as a branch to drop.

        Returns:
            Tensor of shape (batch, 1, ...): 0, or `1 / (1 - rate)`.
        """
        draw = running.draw
        scale = None if draw is None else draw.next_scale(self, inputs)
        if scale is None:
            scale = self._scales(1.0 - self.rate, ops.shape(inputs)[:1], inputs)
        return scale

    def rematerialized_call(self, layer_call, *args, **kwargs):
        """`layer_call` itself: a second call would draw other numbers."""
        return layer_call

    def _scales(self, keep, shape, inputs):
        """Factors of samples, 0 or `1 / keep`: `shape`, and an axis for each other of inputs."""
        shape = (*shape, *(1 for _ in inputs.shape[1:]))
        kept = functional.uniform(shape, self.seed_generator) < keep
        # Not `where`: on torch its two numbers would be copied to a GPU, which the host waits for.
        return ops.cast(kept, "float32") * (1.0 / keep)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@contextlib.contextmanager
def one_draw(drop_paths, calls):
    """While a model trains inside, the first of its `DropPath` layers draws for all of them.

    A draw is a dozen small kernels on a GPU, and torch's host waits for it twice.

    Args:
        drop_paths: The layers, whose inputs have one shape but for height, width and channels.
        calls: How often each of them is called.
    """
    with running.set(draw=_SharedDraw(drop_paths, calls)):
        yield


class _SharedDraw:
    """The factors of all calls of some layers, drawn at the first one."""

    def __init__(self, drop_paths, calls):
        drop_paths = [layer for layer in drop_paths if layer.rate]
        self.keep = [1.0 - layer.rate for layer in drop_paths for _ in range(calls)]
        self.rows = {
            id(layer): list(range(calls * place, calls * (place + 1)))
            for place, layer in enumerate(drop_paths)
        }
        self.scales = None

    def next_scale(self, layer, inputs):
        """The factors of a layer's next call; None for a layer, or a call, that is not known."""
        rows = self.rows.get(id(layer))
        if not rows:
            return None
        if self.scales is None:
            keep = ops.convert_to_tensor(self.keep, "float32")
            keep = ops.reshape(keep, (-1, *(1 for _ in inputs.shape)))
            scales = layer._scales(keep, (len(self.keep), ops.shape(inputs)[0]), inputs)
            self.scales = ops.unstack(ops.cast(scales, inputs.dtype), len(self.keep))
        return self.scales[rows.pop(0)]


@keras.saving.register_keras_serializable(package="keras_sepvit")
class MLP(CompositeLayer):
    """Two dense layers over the channels with an exact GELU between them.

    Args:
        hidden_dim: Channels between the two layers.
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input and output shape: `(batch, ..., channels)`; float.

    Raises:
        ValueError: for a `hidden_dim` below 1.
    """

    def __init__(self, hidden_dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden_dim = positive_int("hidden_dim", hidden_dim)

    def build(self, input_shape):
        self.fc1 = self.dense(self.hidden_dim, "fc1")
        self.fc2 = self.dense(input_shape[-1], "fc2")
        self.fc1.build(input_shape)
        self.fc2.build((*input_shape[:-1], self.hidden_dim))

    def call(self, inputs):
        shape = functional.shape(inputs)
        x = functional.reshape(inputs, (-1, shape[-1]))  # so that linear, GELU, linear fuse
        x = functional.linear(self.fc2, functional.linear_gelu(self.fc1, x))
        return functional.reshape(x, (-1, *shape[1:]))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "hidden_dim": self.hidden_dim}


@keras.saving.register_keras_serializable(package="keras_sepvit")
class Normalization(layers.Normalization):
    """Keras's layer in a form that torch's compiler takes whole: without imports in a call."""

    def __call__(self, inputs, **kwargs):
        if keras.config.backend() != "torch" or not ops.is_tensor(inputs):
            return super().__call__(inputs, **kwargs)
        return layers.Layer.__call__(self, inputs, **kwargs)  # not in a pipeline of TensorFlow

    def call(self, inputs):
        if keras.config.backend() != "torch":
            return super().call(inputs)
        scale = ops.maximum(ops.sqrt(self.variance), keras.config.epsilon())
        x = ops.cast(inputs, self.compute_dtype)
        return ops.divide(ops.subtract(x, self.mean), scale)


def imagenet_normalization(name):
    """A layer of this name that normalises RGB images of 0..255 with ImageNet's statistics."""
    # In float32 whatever the policy: half precision would round non-integer pixels.
    return Normalization(mean=IMAGENET_MEAN, variance=IMAGENET_VARIANCE, dtype="float32", name=name)
