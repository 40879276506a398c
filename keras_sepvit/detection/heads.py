"""The heads of detectors."""

import math
from typing import Any

import keras
from keras import layers, ops

from keras_sepvit import functional
from keras_sepvit.composite import CompositeLayer
from keras_sepvit.pyramid import ConvModule
from keras_sepvit.validation import positive_int

# What the class scores of a new head are about: most anchors find nothing (section 4.1).
_PRIOR = 0.01


@keras.saving.register_keras_serializable(package="keras_sepvit")
class RetinaHead(CompositeLayer):
    """RetinaNet's head (arXiv 1708.02002, section 4): classes and boxes of each anchor.

    Two stacks of 3 x 3 convolutions with ReLU, the same for all levels. As in mmdetection, all
    kernels begin as N(0, 0.01), and the classes' bias so that scores are 0.01.

    Args:
        num_classes: Number of classes.
        anchors: Number of anchors at a place.
        channels: Channels of the convolutions.
        num_convs: Convolutions of a stack, before the last.
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input shape: list of maps `(batch, height, width, channels)`; float.

    Output shape: dict of `"classes"` and `"boxes"`, lists of maps of the same sizes with
        `anchors * num_classes` and `anchors * 4` channels, anchor by anchor: logits and deltas,
        float32 at least.
    """

    def __init__(
        self,
        num_classes: int,
        anchors: int = 9,
        channels: int = 256,
        num_convs: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = positive_int("num_classes", num_classes)
        self.anchors = positive_int("anchors", anchors)
        self.channels = positive_int("channels", channels)
        self.num_convs = positive_int("num_convs", num_convs)
        self.cls_convs, self.reg_convs = (
            [
                self.part(
                    ConvModule,
                    self.channels,
                    3,
                    norm=False,
                    relu=True,
                    initializer=normal(0.01),
                    name=f"{name}_{number}",
                )
                for number in range(self.num_convs)
            ]
            for name in ("cls_convs", "reg_convs")
        )
        prior = keras.initializers.Constant(-math.log((1 - _PRIOR) / _PRIOR))
        self.retina_cls = self._last(self.num_classes, "retina_cls", prior)
        self.retina_reg = self._last(4, "retina_reg", "zeros")

    def _last(self, values, name, bias):
        return self.part(
            layers.Conv2D,
            self.anchors * values,
            3,
            padding="same",
            data_format="channels_last",
            kernel_initializer=normal(0.01),
            bias_initializer=bias,
            name=name,
        )

    def build(self, input_shape):
        for convs, last in self._stacks():
            shape = (None, None, None, input_shape[0][-1])
            for conv in convs:
                conv.build(shape)
                shape = conv.compute_output_shape(shape)
            last.build(shape)

    def _stacks(self):
        return (self.cls_convs, self.retina_cls), (self.reg_convs, self.retina_reg)

    def call(self, inputs):
        classes, boxes = (
            [self._apply(convs, last, x) for x in inputs] for convs, last in self._stacks()
        )
        return {"classes": classes, "boxes": boxes}

    def _apply(self, convs, last, x):
        for conv in convs:
            x = conv(x)
        return wide(functional.same_conv(last, x))

    def compute_output_spec(self, inputs):
        classes, boxes = (
            [
                keras.KerasTensor(
                    (*x.shape[:-1], last.filters),
                    keras.backend.result_type(self.compute_dtype, "float32"),
                )
                for x in inputs
            ]
            for _, last in self._stacks()
        )
        return {"classes": classes, "boxes": boxes}

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "anchors": self.anchors,
            "channels": self.channels,
            "num_convs": self.num_convs,
        }


def wide(x):
    """`x` in float32 at least, as heads give their outputs."""
    return ops.cast(x, keras.backend.result_type(x.dtype, "float32"))


def normal(deviation):
    return keras.initializers.RandomNormal(stddev=deviation)
