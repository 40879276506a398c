"""Semantic FPN (arXiv 1901.02446) in the form of mmsegmentation."""

import os
from typing import Any

import keras
from keras import ops

from keras_sepvit.configs import ImageShape, SepViTConfig
from keras_sepvit.pyramid import FPN, ConvModule, pyramid_backbone
from keras_sepvit.resizing import resize_bilinear
from keras_sepvit.segmentation.segmenter import LEVELS, Head, Segmenter, check_arguments
from keras_sepvit.stages import argument
from keras_sepvit.validation import policy_of


@keras.saving.register_keras_serializable(package="keras_sepvit")
class SemanticFPN(Segmenter):
    """A segmenter of an FPN and a light head on it: Semantic FPN.

    `fit` needs no loss: it is the mean cross-entropy of all pixels, where those of class 255
    add nothing. Arrays with other classes than the model's are refused; of data sets the loss is
    then NaN on JAX, and TensorFlow and torch have errors of their own. `predict` gives logits;
    `keras_sepvit.segmentation.segment` class maps of photos. A whole checkpoint of mmsegmentation
    is loaded by `weights` or `keras_sepvit.load_weights`. Another such model is
    `SemanticFPN.from_config(model.get_config())`: Keras's `clone_model` gives a plain functional
    model, without the loss.

    Args:
        backbone: The name of a variant or a `SepViTConfig`; or a model with `pyramid_outputs`
            for `"P2"` to `"P5"`, such as a `SepViTBackbone` in the dense form or one of KerasHub.
            One made from a name normalises its images itself.
        num_classes: Number of classes, at most 255.
        image_shape: (height, width, 3) of the images, for a name as `backbone`; any size by
            default.
        weights: None, or what the `weights` of `SepViT` take: of a segmenter, a backbone or a
            classifier. A warning tells what the file does not have, and what was not used.
        drop_path_rate: For a name as `backbone`; by default that of the variant's recipe for
            classification.
        neck_channels: Channels of the FPN.
        head_channels: Channels of the head.
        dropout: Probability of dropping a channel before the last layer in training, in [0, 1).
        dtype: Dtype policy of all that is made here; the global policy by default. Logits are
            float32 at least.
        **kwargs: `name` and `trainable` of `keras.Model`.

    Attributes:
        backbone: The backbone; `backbone.freeze(stages)` freezes a SepViT's.
        All arguments but `weights` and `drop_path_rate`: As they are in the model; read-only.

    Input shape: `(batch, height, width, 3)`; images of 0..255, or what a model as `backbone`
        takes.

    Output shape: `(batch, height, width, num_classes)`; logits.

    Raises:
        ValueError: for arguments out of range, a backbone in the classification form or without
            a level, and weights of another variant.
        FileNotFoundError: if the file in `weights` does not exist.

    Example:

    ```python
    model = keras_sepvit.segmentation.SemanticFPN("sepvit_t", num_classes=150)
    model.compile("adamw")
    model.fit(images, class_maps)  # (n, h, w, 3) of 0..255, ints (n, h, w)
    ```
    """

    neck_channels = argument("neck_channels")

    def __init__(
        self,
        backbone: str | SepViTConfig | keras.Model,
        num_classes: int,
        image_shape: ImageShape | None = None,
        weights: str | os.PathLike[str] | None = None,
        drop_path_rate: float | None = None,
        neck_channels: int = 256,
        head_channels: int = 128,
        dropout: float = 0.1,
        dtype: str | keras.DTypePolicy | None = None,
        **kwargs: Any,
    ) -> None:
        check_arguments(SemanticFPN, num_classes, weights, kwargs)
        policy = policy_of(dtype)
        backbone = pyramid_backbone(backbone, LEVELS, image_shape, drop_path_rate, policy)
        neck = FPN(neck_channels, dtype=policy, name="neck")
        head = FPNHead(num_classes, head_channels, dropout, dtype=policy, name="decode_head")
        logits = head(neck([backbone.pyramid_outputs[level] for level in LEVELS]))
        config = {
            "num_classes": num_classes,
            "neck_channels": neck_channels,
            "head_channels": head_channels,
            "dropout": dropout,
        }
        super().__init__(backbone, logits, None, weights, policy, config, **kwargs)


@keras.saving.register_keras_serializable(package="keras_sepvit")
class FPNHead(Head):
    """The head of Semantic FPN: each level is brought to the finest one's size; they are added.

    Level i has convolutions of 3 x 3 with batch norm and ReLU, one for each doubling on its way
    and at least one, each followed by a doubling.

    Args:
        num_classes, channels, dropout: As for `Head`.
        **kwargs: `name`, `dtype` and so on of `keras.layers.Layer`.

    Input shape: list of maps `(batch, height, width, channels)`, fine to coarse, each of half
        the size of the one before; float.

    Output shape: `(batch, height, width, num_classes)`, of the finest map; logits.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.scale_heads = []
        for level, shape in enumerate(input_shape):
            convs = []
            for step in range(max(level, 1)):
                # mmsegmentation's numbers: enlargements stand between convolutions.
                name = f"scale_heads_{level}_{2 * step}"
                convs.append(self.part(ConvModule, self.channels, 3, name=name))
                convs[-1].build(shape)
                shape = convs[-1].compute_output_shape(shape)
            self.scale_heads.append(convs)

    def call(self, inputs, training=False):
        size = ops.shape(inputs[0])[1:3]
        total = 0
        for level, (x, convs) in enumerate(zip(inputs, self.scale_heads, strict=True)):
            for conv in convs:
                x = conv(x, training=training)
                if level:
                    _, height, width, _ = ops.shape(x)
                    x = resize_bilinear(x, (2 * height, 2 * width))
            total = total + resize_bilinear(x, size)
        return self.classify(total, training)

    def compute_output_shape(self, input_shape):
        return (*input_shape[0][:-1], self.num_classes)
