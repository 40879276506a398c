"""What the segmenters share: the model around backbone and heads, and heads' last layers."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_sepvit import functional, selection, task_model
from keras_sepvit.composite import CompositeLayer
from keras_sepvit.resizing import resize_bilinear
from keras_sepvit.segmentation.losses import IGNORED, segmentation_losses
from keras_sepvit.stages import argument
from keras_sepvit.task_model import TaskModel
from keras_sepvit.validation import check_rate, positive_int

LEVELS = ("P2", "P3", "P4", "P5")


class Segmenter(TaskModel):
    """A functional model from images to logits of their size, with its loss.

    Args:
        backbone: A model with `pyramid_outputs`.
        logits: Keras tensor on it: the decode head's, of any size.
        auxiliary: The same of a head that is there in training only, or None.
        weights: As for `load_pretrained`, or None.
        policy: Dtype policy of the heads.
        config: The arguments of the subclass's heads, by name.
        **kwargs: `name` and `trainable` of `keras.Model`.
    """

    _compute_in_training = None
    _loss_in_words = (
        "the cross-entropy of all pixels with a class. Leave out {what}, and mark pixels that are "
        f"to be ignored by the class {IGNORED}."
    )

    num_classes = argument("num_classes")
    head_channels = argument("head_channels")
    dropout = argument("dropout")

    def __init__(self, backbone, logits, auxiliary, weights, policy, config, **kwargs):
        (images,) = backbone.inputs
        # In float32 at least, as losses and answers are.
        dtype = keras.backend.result_type(policy.compute_dtype, "float32")
        logits = ResizeTo(dtype=dtype, name="logits")([logits, images])
        super().__init__(backbone, logits, policy, config, **kwargs)
        if auxiliary is not None:
            self.auxiliary_head = auxiliary._keras_history.operation
            auxiliary = ResizeTo(dtype=dtype, name="auxiliary")([auxiliary, images])
            outputs = {"logits": logits, "auxiliary": auxiliary}
            # Its method alone is kept: as an attribute the model would be part of files.
            self._compute_in_training = keras.Model(images, outputs).__call__
        self._begin(weights)

    @property
    def head_logits(self) -> keras.KerasTensor:
        """The decode head's logits, at a quarter of the image's size."""
        resize, node, _ = self.outputs[0]._keras_history
        return resize._inbound_nodes[node].input_tensors[0]

    def _all_layers(self):
        """Those of the graph, and the head that is there in training only."""
        auxiliary = getattr(self, "auxiliary_head", None)
        return self.layers + [auxiliary] * (auxiliary is not None and auxiliary not in self.layers)

    def _compute(self, inputs, training=None, **kwargs):
        if training and self._compute_in_training is not None:
            return self._compute_in_training(inputs, training=True)
        return super()._compute(inputs, training=training, **kwargs)

    def _check_targets(self, class_maps):
        """Refuses arrays with classes that there are not; compiled steps cannot."""
        if not isinstance(class_maps, np.ndarray) or class_maps.dtype.kind not in "iu":
            return
        classes = self.num_classes
        wrong = ((class_maps < 0) | (class_maps >= classes)) & (class_maps != IGNORED)
        if wrong.any():
            raise ValueError(
                f"Class maps for `{self.name}` must have classes 0 to {classes - 1}, and {IGNORED} "
                "for pixels that have none. Received: "
                f"{', '.join(map(str, np.unique(class_maps[wrong])[:5]))}. Renumber them, or build "
                "the model with another `num_classes`."
            )

    def _loss_pairs(self, x, y, y_pred):
        return segmentation_losses(y, y_pred)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logits = y_pred["logits"] if isinstance(y_pred, dict) else y_pred
        return super().compute_metrics(x, y, logits, sample_weight)


def is_segmenter(model):
    """Whether a Keras model gives logits of pixels: one of this package, or as its record says."""
    record = getattr(model, "record", None)
    return isinstance(model, Segmenter) or (record is not None and record.task == "segmentation")


def check_arguments(segmenter, num_classes, weights, others):
    """Refuses what can be told before a segmenter is built; `others` are its `**kwargs`."""
    task_model.check_arguments(segmenter, weights, others)
    if not 2 <= positive_int("num_classes", num_classes) <= IGNORED:
        raise ValueError(
            f"`num_classes` must be 2 (such as ground and object) to {IGNORED}, which marks pixels "
            f"without a class in class maps. Received: num_classes={num_classes}."
        )


@keras.saving.register_keras_serializable(package="keras_sepvit")
class ResizeTo(layers.Layer):
    """A map at the height and width of another, bilinear as in PyTorch (no aligned corners).

    Args:
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input shape: two maps `(batch, height, width, channels)`; float.

    Output shape: that of the second, with the channels of the first.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape):
        pass

    def call(self, inputs):
        x, like = inputs
        return resize_bilinear(x, ops.shape(like)[1:3])

    def compute_output_shape(self, input_shape):
        x, like = input_shape
        return (*like[:-1], x[-1])


@keras.saving.register_keras_serializable(package="keras_sepvit")
class ClassMap(layers.Layer):
    """The class of each pixel: that of the highest logit.

    Args:
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input shape: `(batch, height, width, classes)`, of at most 255 classes; float.

    Output shape: `(batch, height, width)`; uint8.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape):
        pass

    def call(self, inputs):
        return ops.cast(selection.argmax(inputs), "uint8")

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape[:-1], "uint8")


class Head(CompositeLayer):
    """What heads have in common: whole channels are dropped, then classified place by place.

    Args:
        num_classes: Number of classes.
        channels: Channels of the head.
        dropout: Probability of dropping a channel in training, in [0, 1).
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.
    """

    def __init__(
        self, num_classes: int, channels: int, dropout: float = 0.1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = positive_int("num_classes", num_classes)
        self.channels = positive_int("channels", channels)
        self.dropout_rate = check_rate("dropout", dropout)
        self.dropout = self.part(layers.Dropout, self.dropout_rate, (None, 1, 1, None))
        self.conv_seg = self.part(
            layers.Conv2D,
            self.num_classes,
            1,
            padding="same",
            data_format="channels_last",
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            name="conv_seg",
        )

    def build(self, input_shape):
        self.conv_seg.build((None, None, None, self.channels))

    def classify(self, x, training):
        return functional.same_conv(self.conv_seg, self.dropout(x, training=training))

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "channels": self.channels,
            "dropout": self.dropout_rate,
        }
