"""The heads of Mask R-CNN: proposals on maps; classes, boxes and masks of regions."""

from typing import Any

import keras
from keras import layers, ops

from keras_sepvit import functional
from keras_sepvit.composite import CompositeLayer
from keras_sepvit.detection.heads import normal, wide
from keras_sepvit.initializers import FanOutNormal
from keras_sepvit.pyramid import ConvModule
from keras_sepvit.validation import positive_int


@keras.saving.register_keras_serializable(package="keras_sepvit")
class RPNHead(CompositeLayer):
    """The head of a region proposal network (arXiv 1506.01497): an object or none, and its box.

    A 3 x 3 convolution with ReLU, and one of 1 x 1 each, the same for all levels. As in
    mmdetection, all kernels begin as N(0, 0.01).

    Args:
        anchors: Number of anchors at a place.
        channels: Channels of the convolution.
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input shape: list of maps `(batch, height, width, channels)`; float.

    Output shape: dict of `"classes"` and `"boxes"`, lists of maps of the same sizes with `anchors`
        and `anchors * 4` channels, anchor by anchor: logits and deltas, float32 at least.
    """

    def __init__(self, anchors: int = 3, channels: int = 256, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.anchors = positive_int("anchors", anchors)
        self.channels = positive_int("channels", channels)
        self.rpn_conv = self._conv(self.channels, 3, "rpn_conv")
        self.rpn_cls = self._conv(self.anchors, 1, "rpn_cls")
        self.rpn_reg = self._conv(self.anchors * 4, 1, "rpn_reg")

    def _conv(self, filters, kernel_size, name):
        return self.part(
            layers.Conv2D,
            filters,
            kernel_size,
            padding="same",
            data_format="channels_last",
            kernel_initializer=normal(0.01),
            name=name,
        )

    def build(self, input_shape):
        self.rpn_conv.build((None, None, None, input_shape[0][-1]))
        for last in (self.rpn_cls, self.rpn_reg):
            last.build((None, None, None, self.channels))

    def call(self, inputs):
        maps = [ops.relu(functional.same_conv(self.rpn_conv, x)) for x in inputs]
        return {
            name: [wide(functional.same_conv(last, x)) for x in maps]
            for name, last in (("classes", self.rpn_cls), ("boxes", self.rpn_reg))
        }

    def compute_output_spec(self, inputs):
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        return {
            name: [keras.KerasTensor((*x.shape[:-1], last.filters), dtype) for x in inputs]
            for name, last in (("classes", self.rpn_cls), ("boxes", self.rpn_reg))
        }

    def get_config(self):
        return {**super().get_config(), "anchors": self.anchors, "channels": self.channels}


@keras.saving.register_keras_serializable(package="keras_sepvit")
class BoxHead(CompositeLayer):
    """Class and box of each region: two layers of units with ReLU, and a last one each.

    Kernels begin as in mmdetection: Xavier's, and in the last layers N(0, 0.01) for classes and
    N(0, 0.001) for boxes.

    Args:
        num_classes: Number of classes, without the background.
        units: Units of the first two layers.
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input shape: `(regions, height, width, channels)`, of fixed size; float.

    Output shape: dict of `"classes"`, logits `(regions, num_classes + 1)`, the background last,
        and `"boxes"`, deltas `(regions, num_classes * 4)`, class by class; float32 at least.
    """

    def __init__(self, num_classes: int, units: int = 1024, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = positive_int("num_classes", num_classes)
        self.units = positive_int("units", units)

    def build(self, input_shape):
        _, height, width, channels = input_shape
        self.shared_fcs = [
            self.dense(self.units, f"shared_fcs_{number}", "glorot_uniform") for number in range(2)
        ]
        self.fc_cls = self.dense(self.num_classes + 1, "fc_cls", normal(0.01))
        self.fc_reg = self.dense(self.num_classes * 4, "fc_reg", normal(0.001))
        first, second = self.shared_fcs
        first.build((None, height * width * channels))
        for layer in (second, self.fc_cls, self.fc_reg):
            layer.build((None, self.units))

    def call(self, inputs):
        _, height, width, channels = inputs.shape
        x = ops.reshape(inputs, (-1, height * width * channels))
        for dense in self.shared_fcs:
            x = ops.relu(functional.linear(dense, x))
        return {
            "classes": wide(functional.linear(self.fc_cls, x)),
            "boxes": wide(functional.linear(self.fc_reg, x)),
        }

    def compute_output_spec(self, inputs):
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        return {
            name: keras.KerasTensor((inputs.shape[0], values), dtype)
            for name, values in (("classes", self.num_classes + 1), ("boxes", self.num_classes * 4))
        }

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes, "units": self.units}


@keras.saving.register_keras_serializable(package="keras_sepvit")
class MaskHead(CompositeLayer):
    """A mask of each class for each region, at twice the size (arXiv 1703.06870, section 3).

    3 x 3 convolutions with ReLU, a transposed one of 2 x 2 with ReLU, and one of 1 x 1. Kernels
    begin as in mmdetection, normal by fan-out.

    Args:
        num_classes: Number of classes.
        channels: Channels of the convolutions.
        num_convs: Convolutions before the transposed one.
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input shape: `(regions, height, width, channels)`, of fixed size; float.

    Output shape: `(regions, 2 * height, 2 * width, num_classes)`; logits, float32 at least.
    """

    def __init__(
        self, num_classes: int, channels: int = 256, num_convs: int = 4, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = positive_int("num_classes", num_classes)
        self.channels = positive_int("channels", channels)
        self.num_convs = positive_int("num_convs", num_convs)
        options = {"data_format": "channels_last", "kernel_initializer": FanOutNormal()}
        self.convs = [
            self.part(
                ConvModule,
                self.channels,
                3,
                norm=False,
                relu=True,
                initializer=FanOutNormal(),
                name=f"convs_{number}",
            )
            for number in range(self.num_convs)
        ]
        self.upsample = self.part(
            layers.Conv2DTranspose, self.channels, 2, strides=2, name="upsample", **options
        )
        self.conv_logits = self.part(
            layers.Conv2D, self.num_classes, 1, name="conv_logits", **options
        )

    def build(self, input_shape):
        for layer in (*self.convs, self.upsample, self.conv_logits):
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def call(self, inputs):
        x = inputs
        for conv in self.convs:
            x = conv(x)
        x = ops.relu(_doubled(self.upsample, x))
        return wide(functional.same_conv(self.conv_logits, x))

    def compute_output_spec(self, inputs):
        regions, height, width, _ = inputs.shape
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        return keras.KerasTensor((regions, 2 * height, 2 * width, self.num_classes), dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "channels": self.channels,
            "num_convs": self.num_convs,
        }


def _doubled(conv, x):
    """`conv(x)` of a transposed convolution of 2 x 2 with strides of 2, as one product.

    Its outputs do not overlap. XLA for CPUs is far slower with transposed convolutions, and they
    have no half precision in which the bias's gradient is exact.
    """
    _, height, width, channels = x.shape
    filters = conv.filters
    kernel = ops.cast(ops.transpose(ops.convert_to_tensor(conv.kernel), (3, 0, 1, 2)), x.dtype)
    rows = ops.reshape(x, (-1, channels))
    x = ops.matmul(rows, ops.reshape(kernel, (channels, 4 * filters)))
    x = ops.transpose(ops.reshape(x, (-1, width, 2, 2 * filters)), (0, 2, 1, 3))
    x = ops.reshape(x, (-1, 2 * height, 2 * width, filters))
    return functional.add_bias(x, ops.cast(ops.convert_to_tensor(conv.bias), x.dtype))
