"""The SepViT classifier as KerasHub's classes."""

from keras_hub.layers import ImageConverter
from keras_hub.models import ImageClassifier, ImageClassifierPreprocessor

from keras_sepvit.configs import IMAGENET_MEAN, IMAGENET_VARIANCE
from keras_sepvit.hub.backbone import SepViTBackbone
from keras_sepvit.hub.registration import register

# A pixel times the scale plus the offset is normalised.
IMAGENET_SCALE = tuple(variance**-0.5 for variance in IMAGENET_VARIANCE)
IMAGENET_OFFSET = tuple(
    -mean * scale for mean, scale in zip(IMAGENET_MEAN, IMAGENET_SCALE, strict=True)
)


@register
class SepViTImageConverter(ImageConverter):
    """Resizes RGB images of 0..255 and normalises them with ImageNet's statistics.

    Args:
        image_size: (height, width) to resize to; None to keep the size.
        scale: Factor of each channel; ImageNet's standard deviations by default.
        offset: Added to each channel after that; ImageNet's means by default.
        dtype: Dtype of the result. By default float32 whatever the global policy:
            half precision would round pixels.
        **kwargs: Other arguments of `keras_hub.layers.ImageConverter`, such as
            `interpolation`, `antialias` and `crop_to_aspect_ratio`.

    Input shape: `(batch, height, width, 3)` or `(height, width, 3)`, integers or
    floats of 0..255; or a list of images of different sizes.

    Output shape: that of the input, with `image_size`.
    """

    backbone_cls = SepViTBackbone

    def __init__(
        self,
        image_size=None,
        scale=IMAGENET_SCALE,
        offset=IMAGENET_OFFSET,
        dtype="float32",
        **kwargs,
    ):
        super().__init__(image_size=image_size, scale=scale, offset=offset, dtype=dtype, **kwargs)


@register
class SepViTImageClassifierPreprocessor(ImageClassifierPreprocessor):
    """Applies a `SepViTImageConverter` to images, and passes labels and weights through.

    Args:
        image_converter: The `SepViTImageConverter`.
        **kwargs: `name` and so on of `keras.layers.Layer`.
    """

    backbone_cls = SepViTBackbone
    image_converter_cls = SepViTImageConverter


@register
class SepViTImageClassifier(ImageClassifier):
    """A SepViT classifier with KerasHub's conventions.

    With a preprocessor, `predict`, `fit` and `evaluate` take raw images: RGB of
    0..255, of any size. Calling the model itself takes preprocessed ones.

    `from_preset(path, num_classes=...)` gives the backbone of the preset a new
    head, also where the preset has the same number of classes.

    Args:
        backbone: A `SepViTBackbone`.
        num_classes: Number of classes.
        preprocessor: A `SepViTImageClassifierPreprocessor`, or None for images
            that are preprocessed already.
        **kwargs: Other arguments of `keras_hub.models.ImageClassifier`: `pooling`,
            `activation` (None, so that outputs are logits), `dropout`,
            `head_dtype`, `name`.

    Example, which makes a preset of a classifier trained with `keras_sepvit`:

    ```python
    model = keras_sepvit.SepViTT(weights="trained.weights.h5", classes=10)

    backbone = SepViTBackbone.from_variant("sepvit_t")
    keras_sepvit.load_weights(backbone, "trained.weights.h5")
    classifier = SepViTImageClassifier(
        backbone,
        num_classes=10,
        preprocessor=SepViTImageClassifierPreprocessor(SepViTImageConverter((224, 224))),
        activation="softmax",
    )
    classifier.output_dense.set_weights(model.get_layer("head").get_weights())
    classifier.save_to_preset("./sepvit_t_trained")
    ```
    """

    backbone_cls = SepViTBackbone
    preprocessor_cls = SepViTImageClassifierPreprocessor
