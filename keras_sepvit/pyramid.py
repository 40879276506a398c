"""Feature pyramids: what a backbone must give, the FPN, and the convolutions of necks and heads.

Weights have the names of mmsegmentation and mmdetection (which are those of mmcv's modules).
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from keras_sepvit import functional
from keras_sepvit.backbone import SepViTBackbone
from keras_sepvit.composite import CompositeLayer
from keras_sepvit.configs import ImageShape, SepViTConfig
from keras_sepvit.devices import channel_moments
from keras_sepvit.initializers import FanOutNormal
from keras_sepvit.resizing import resize_nearest
from keras_sepvit.validation import check_map, positive_int
from keras_sepvit.weights.registry import config_for_weights


def pyramid_backbone(
    backbone: str | SepViTConfig | keras.Model,
    levels: Sequence[str],
    image_shape: ImageShape | None,
    drop_path_rate: float | None,
    dtype: keras.DTypePolicy,
) -> keras.Model:
    """The backbone of a task model, from a variant or a model.

    Args:
        backbone: The name of a variant or a `SepViTConfig`, for a `SepViTBackbone` in the dense
            form that takes images of 0..255; or a model with `pyramid_outputs`.
        levels: The levels that it must have.
        image_shape: Of a variant's images; None for any size.
        drop_path_rate: Of a variant; None for its own.
        dtype: Policy of a variant.

    Raises:
        ValueError: for a model in the classification form or without one of the levels, and
            for a model with what is for a variant.
    """
    if not isinstance(backbone, keras.Model):
        return SepViTBackbone.from_variant(
            config_for_weights("backbone", backbone),
            (None, None, 3) if image_shape is None else image_shape,
            drop_path_rate=drop_path_rate,
            dense=True,
            include_preprocessing=True,
            dtype=dtype,
        )
    for name, value in (("image_shape", image_shape), ("drop_path_rate", drop_path_rate)):
        if value is not None:
            raise ValueError(
                f"`{name}` goes with the name of a variant as `backbone`. Received: "
                f"{name}={value!r}, and the model `{backbone.name}`. Build that model with it."
            )
    check_pyramid(backbone, levels)
    return backbone


def check_pyramid(backbone: keras.Model, levels: Sequence[str]) -> None:
    """Refuses a model without one of the levels, and a SepViT in the classification form."""
    if not getattr(backbone, "dense", True):
        raise ValueError(
            f"`backbone` is `{backbone.name}` in the classification form, which takes one image "
            "size and has no norms behind its stages. Build it in the dense form: "
            "`SepViTBackbone.from_variant(..., dense=True)`."
        )
    missing = sorted({*levels} - {*getattr(backbone, "pyramid_outputs", {})})
    if missing:
        raise ValueError(
            "`backbone` must be a model with `pyramid_outputs` for the levels "
            f"{', '.join(levels)}. `{backbone.name}` lacks {', '.join(missing)}."
        )


class SyncBatchNorm(layers.BatchNormalization):
    """Batch normalisation over the images of all devices, as PyTorch's SyncBatchNorm.

    Beside Keras's `BatchNormalization`: momentum and epsilon are those of PyTorch, the moving
    variance takes in the unbiased variance of a batch, and statistics are synchronised on each
    backend.

    Args:
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input and output shape: `(batch, ..., channels)`; float.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(momentum=0.9, epsilon=1e-5, **kwargs)

    def call(self, inputs, training=False):
        if not (training and self.trainable):
            return super().call(inputs, training=False)
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        mean, variance, count = channel_moments(x)
        self._move(self.moving_mean, mean)
        self._move(self.moving_variance, variance * (count / ops.maximum(count - 1, 1)))
        outputs = ops.batch_normalization(
            x, mean, variance, axis=-1, offset=self.beta, scale=self.gamma, epsilon=self.epsilon
        )
        return ops.cast(outputs, self.compute_dtype)

    def _move(self, average, value):
        change = (1 - self.momentum) * (ops.stop_gradient(value) - average)
        average.assign(average + change)


class ConvModule(CompositeLayer):
    """A convolution padded to the map's size, with batch norm and ReLU behind it, or without.

    Args:
        filters: Output channels.
        kernel_size: Side of the kernel, odd.
        norm: Whether batch norm follows. The convolution then has no bias.
        relu: Whether ReLU follows; by default with batch norm.
        strides: 1, or 2 for a map of half the size, rounded up.
        initializer: Of the kernel; by default mmcv's, Kaiming's with norm, Xavier's without.
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input shape: `(batch, height, width, channels)`; float.

    Output shape: `(batch, height / strides, width / strides, filters)`.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        norm: bool = True,
        relu: bool | None = None,
        strides: int = 1,
        initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.relu = norm if relu is None else relu
        self.strides = strides
        self.conv = self.part(
            layers.Conv2D,
            filters,
            kernel_size,
            strides=strides,
            # With strides Keras's "same" pads less on the left and on top than PyTorch.
            padding="same" if strides == 1 else "valid",
            use_bias=not norm,
            data_format="channels_last",
            kernel_initializer=initializer or (FanOutNormal() if norm else "glorot_uniform"),
            name="conv",
        )
        self.bn = self.part(SyncBatchNorm, name="bn") if norm else None

    def build(self, input_shape):
        self.conv.build((None, None, None, input_shape[-1]))  # of any size: padded in `call`
        if self.bn is not None:
            self.bn.build(self.compute_output_shape(input_shape))

    def call(self, inputs, training=False):
        if self.strides == 1:
            x = functional.same_conv(self.conv, inputs)
        else:
            x = functional.padded_conv(self.conv, inputs, self.conv.kernel_size[0] // 2)
        x = x if self.bn is None else self.bn(x, training=training)
        return ops.relu(x) if self.relu else x

    def compute_output_shape(self, input_shape):
        batch, *sides, _ = input_shape
        sides = (None if side is None else -(-side // self.strides) for side in sides)
        return (batch, *sides, self.filters)


@keras.saving.register_keras_serializable(package="keras_sepvit")
class FPN(CompositeLayer):
    """Feature pyramid network (arXiv 1612.03144) on the levels that it is given.

    1 x 1 convolutions bring levels to the same channels, each level is added to the finer one,
    enlarged to exactly its size by "nearest", and 3 x 3 convolutions follow. Without norms or
    activations, as in mmsegmentation. Coarser levels are made by 3 x 3 convolutions of stride 2:
    the first of the coarsest map that is given (not of the pyramid's), each other of the one
    before it, without ReLU, as mmdetection makes P6 and P7 of RetinaNet.

    Args:
        channels: Channels of the pyramid.
        extra_levels: Number of coarser levels.
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input shape: list of maps `(batch, height, width, channels)`, fine to coarse; float.

    Output shape: list of maps of the same sizes with `channels` channels, and of each extra level,
        of half the size of the one before, rounded up.
    """

    def __init__(self, channels: int = 256, extra_levels: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = positive_int("channels", channels)
        self.extra_levels = extra_levels

    def build(self, input_shape):
        self.lateral_convs = self._convs("lateral_convs", 1, range(len(input_shape)))
        self.fpn_convs = self._convs("fpn_convs", 3, range(len(input_shape)))
        for shape, lateral, conv in zip(
            input_shape, self.lateral_convs, self.fpn_convs, strict=True
        ):
            check_map(self.name, shape)
            lateral.build(shape)
            conv.build(lateral.compute_output_shape(shape))
        numbers = range(len(input_shape), len(input_shape) + self.extra_levels)
        self.extra_convs = self._convs("fpn_convs", 3, numbers, strides=2)
        for conv in self.extra_convs:
            conv.build(shape)
            shape = conv.compute_output_shape(shape)

    def _convs(self, name, kernel_size, numbers, **options):
        return [
            self.part(
                ConvModule, self.channels, kernel_size, norm=False, name=f"{name}_{n}", **options
            )
            for n in numbers
        ]

    def call(self, inputs):
        x = [conv(level) for conv, level in zip(self.lateral_convs, inputs, strict=True)]
        x = top_down(x, resize_nearest)
        x = [conv(level) for conv, level in zip(self.fpn_convs, x, strict=True)]
        level = inputs[-1]
        for conv in self.extra_convs:
            level = conv(level)
            x.append(level)
        return x

    def compute_output_shape(self, input_shape):
        shapes = [(*shape[:-1], self.channels) for shape in input_shape]
        for conv in self.extra_convs:
            shapes.append(conv.compute_output_shape(shapes[-1]))
        return shapes

    def get_config(self):
        config = super().get_config()
        return {**config, "channels": self.channels, "extra_levels": self.extra_levels}


def top_down(maps, resize):
    """Maps, fine to coarse, each with all coarser ones added, which `resize` brings to its size."""
    sums = [maps[-1]]
    for finer in maps[-2::-1]:
        sums.append(finer + resize(sums[-1], ops.shape(finer)[1:3]))
    return sums[::-1]
