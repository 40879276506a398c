"""The SepViT backbone as KerasHub's classes."""

from keras_hub.models import FeaturePyramidBackbone

from keras_sepvit.backbone import BackboneMixin, check_image_shape
from keras_sepvit.hub.dense import DenseMixin
from keras_sepvit.hub.registration import register


@register
class SepViTBackbone(BackboneMixin, FeaturePyramidBackbone):
    """`keras_sepvit.SepViTBackbone` as a KerasHub backbone.

    Its arguments, `from_variant`, shapes, errors and the names of its weights are
    those of `keras_sepvit.SepViTBackbone`, and `keras_sepvit.load_weights` loads
    weights files of either into the other, a preset's `model.weights.h5` too.

    `from_preset` builds the configuration saved in the preset, with the global
    dtype policy unless `dtype` is given. In the classification form weights
    belong to an image size: for another one build the backbone with
    `from_variant(..., image_shape=...)`, and load the weights with
    `keras_sepvit.load_weights`. In the dense form `image_shape` may be given to
    `from_preset`.

    Example:

    ```python
    backbone = SepViTBackbone.from_variant("sepvit_t")
    keras_sepvit.load_weights(backbone, "sepvit_t.weights.h5")
    backbone.save_to_preset("./sepvit_t")
    backbone = SepViTBackbone.from_preset("./sepvit_t")
    ```
    """

    def default_lora_layer_names(self):
        """The layers that `enable_lora` adapts: queries, keys and values."""
        return ["dsa_qkv", "psa_qk"]


@register
class SegFormerEncoder(DenseMixin, FeaturePyramidBackbone):
    """`SepViTBackbone` in the dense form, as an encoder for KerasHub's SegFormer.

    `keras_hub.models.SegFormerBackbone` takes it. The levels of strides 4 to 32 are
    `"P1"` to `"P4"` here, as that model counts them. It resizes them to a static
    size, so that `image_shape` must have one.
    """

    def __init__(self, *args, image_shape=(224, 224, 3), **kwargs):
        if None in check_image_shape(image_shape):
            raise ValueError(
                "KerasHub's SegFormer needs a static image size. Received: "
                f"image_shape={tuple(image_shape)}. Give the size to train and predict at, such "
                "as (512, 512, 3)."
            )
        super().__init__(*args, image_shape=image_shape, **kwargs)

    @property
    def pyramid_outputs(self):
        """The stages' outputs: `KerasTensor`s by level, `"P1"` to `"P4"`."""
        return {
            f"P{number}": output
            for number, output in enumerate(super().pyramid_outputs.values(), start=1)
        }
