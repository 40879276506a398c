"""UperNet (arXiv 1807.10221) in the form of mmsegmentation."""

import os
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sepvit.configs import ImageShape, SepViTConfig
from keras_sepvit.pyramid import ConvModule, pyramid_backbone, top_down
from keras_sepvit.resizing import resize_bilinear
from keras_sepvit.segmentation.segmenter import LEVELS, Head, Segmenter, check_arguments
from keras_sepvit.stages import argument
from keras_sepvit.validation import policy_of

POOL_SCALES = (1, 2, 3, 6)


@keras.saving.register_keras_serializable(package="keras_sepvit")
class UPerNet(Segmenter):
    """A segmenter of pyramid pooling and an FPN: UperNet.

    In training it has an auxiliary head on `"P4"` too, whose loss counts 0.4:
    `model(images, training=True)` gives a dict of `"logits"` and `"auxiliary"`. The `loss` of `fit`
    has that head's share, `val_loss` and that of `evaluate` have not. All else is as in
    `SemanticFPN`.

    Args:
        backbone, num_classes, image_shape, weights, drop_path_rate: As for `SemanticFPN`.
        head_channels: Channels of the head.
        auxiliary_channels: Channels of the auxiliary head.
        dropout, dtype, **kwargs: As for `SemanticFPN`.

    Attributes:
        backbone: The backbone; `backbone.freeze(stages)` freezes a SepViT's.
        All arguments but `weights` and `drop_path_rate`: As they are in the model; read-only.

    Input shape: `(batch, height, width, 3)`; images of 0..255, or what a model as `backbone`
        takes.

    Output shape: `(batch, height, width, num_classes)`; logits.

    Raises:
        ValueError, FileNotFoundError: As `SemanticFPN`.
    """

    auxiliary_channels = argument("auxiliary_channels")

    def __init__(
        self,
        backbone: str | SepViTConfig | keras.Model,
        num_classes: int,
        image_shape: ImageShape | None = None,
        weights: str | os.PathLike[str] | None = None,
        drop_path_rate: float | None = None,
        head_channels: int = 512,
        auxiliary_channels: int = 256,
        dropout: float = 0.1,
        dtype: str | keras.DTypePolicy | None = None,
        **kwargs: Any,
    ) -> None:
        check_arguments(UPerNet, num_classes, weights, kwargs)
        policy = policy_of(dtype)
        backbone = pyramid_backbone(backbone, LEVELS, image_shape, drop_path_rate, policy)
        features = [backbone.pyramid_outputs[level] for level in LEVELS]
        head = UPerHead(num_classes, head_channels, dropout, dtype=policy, name="decode_head")
        auxiliary_head = FCNHead(
            num_classes, auxiliary_channels, dropout, dtype=policy, name="auxiliary_head"
        )
        config = {
            "num_classes": num_classes,
            "head_channels": head_channels,
            "auxiliary_channels": auxiliary_channels,
            "dropout": dropout,
        }
        auxiliary = auxiliary_head(features[2])
        super().__init__(backbone, head(features), auxiliary, weights, policy, config, **kwargs)


@keras.saving.register_keras_serializable(package="keras_sepvit")
class UPerHead(Head):
    """The head of UperNet: pyramid pooling of the last level, then a pyramid with it on top.

    All convolutions have batch norm and ReLU; maps are enlarged bilinearly.

    Args:
        num_classes, channels, dropout: As for `Head`.
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input shape: list of maps `(batch, height, width, channels)`, fine to coarse; float.

    Output shape: `(batch, height, width, num_classes)`, of the finest map; logits.
    """

    def build(self, input_shape):
        super().build(input_shape)
        *finer, last = input_shape
        self.psp_modules = [
            self._conv(f"psp_modules_{number}_1", 1, last) for number in range(len(POOL_SCALES))
        ]
        pooled = last[-1] + len(POOL_SCALES) * self.channels
        self.bottleneck = self._conv("bottleneck", 3, (*last[:-1], pooled))
        self.lateral_convs = [
            self._conv(f"lateral_convs_{level}", 1, shape) for level, shape in enumerate(finer)
        ]
        shapes = [(*shape[:-1], self.channels) for shape in input_shape]
        self.fpn_convs = [
            self._conv(f"fpn_convs_{level}", 3, shape) for level, shape in enumerate(shapes[:-1])
        ]
        joined = len(input_shape) * self.channels
        self.fpn_bottleneck = self._conv("fpn_bottleneck", 3, (*input_shape[0][:-1], joined))

    def _conv(self, name, kernel_size, shape):
        conv = self.part(ConvModule, self.channels, kernel_size, name=name)
        conv.build(shape)
        return conv

    def call(self, inputs, training=False):
        *finer, last = inputs
        laterals = zip(self.lateral_convs, finer, strict=True)
        x = [conv(level, training=training) for conv, level in laterals]
        x = top_down([*x, self.pool(last, training)], resize_bilinear)
        x[:-1] = [
            conv(level, training=training)
            for conv, level in zip(self.fpn_convs, x[:-1], strict=True)
        ]
        size = ops.shape(x[0])[1:3]
        x = ops.concatenate([resize_bilinear(level, size) for level in x], axis=-1)
        return self.classify(self.fpn_bottleneck(x, training=training), training)

    def pool(self, x, training=False):
        """The pyramid pooling module (arXiv 1612.01105) on a map."""
        size = ops.shape(x)[1:3]
        maps = [x]
        for conv, pooled in zip(self.psp_modules, _adaptive_averages(x), strict=True):
            maps.append(resize_bilinear(conv(pooled, training=training), size))
        return self.bottleneck(ops.concatenate(maps, axis=-1), training=training)

    def compute_output_shape(self, input_shape):
        return (*input_shape[0][:-1], self.num_classes)


@keras.saving.register_keras_serializable(package="keras_sepvit")
class FCNHead(Head):
    """A head of one 3 x 3 convolution with batch norm and ReLU.

    Args:
        num_classes, channels, dropout: As for `Head`.
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input shape: `(batch, height, width, channels)`; float.

    Output shape: `(batch, height, width, num_classes)`; logits.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.convs_0 = self.part(ConvModule, self.channels, 3, name="convs_0")
        self.convs_0.build(input_shape)

    def call(self, inputs, training=False):
        return self.classify(self.convs_0(inputs, training=training), training)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.num_classes)


def _adaptive_averages(x):
    """Averages over 1 x 1, 2 x 2, 3 x 3 and 6 x 6 bins of a map, as PyTorch lays them.

    Bin i of n takes in places floor(i * side / n) to ceil((i + 1) * side / n). All bins are one
    product with their shares, which every runtime has.
    """
    _, height, width, channels = ops.shape(x)
    shares = []
    for scale in POOL_SCALES:
        rows = ops.reshape(_bins(height, scale), (height, 1, scale, 1))
        columns = ops.reshape(_bins(width, scale), (1, width, 1, scale))
        shares.append(ops.reshape(rows * columns, (height * width, scale**2)))
    shares = ops.cast(ops.concatenate(shares, axis=1), x.dtype)
    rows = ops.transpose(ops.reshape(x, (-1, height * width, channels)), (0, 2, 1))
    bins = ops.transpose(ops.matmul(rows, shares), (0, 2, 1))
    maps, start = [], 0
    for scale in POOL_SCALES:
        end = start + scale**2
        # Not `split`: by unequal parts it divides the graph on mobile delegates.
        maps.append(ops.reshape(bins[:, start:end], (-1, scale, scale, channels)))
        start = end
    return maps


def _bins(side, count):
    """Each place's share in each bin: (side, count), float32."""
    arange = np.arange if isinstance(side, int) else ops.arange
    place, number = arange(side)[:, np.newaxis], np.arange(count)
    start, end = number * side // count, -(-(number + 1) * side // count)
    return ops.cast((place >= start) & (place < end), "float32") / ops.cast(end - start, "float32")
