"""The SepViT backbone for KerasCV's detectors and segmenters.

Nothing here imports KerasCV. KerasCV 0.9 asks a backbone for the names of layers by
pyramid level, and cuts it at their outputs.
"""

import keras

from keras_sepvit.backbone import check_image_shape
from keras_sepvit.hub.dense import DenseMixin, check_multiples_of_32
from keras_sepvit.hub.registration import register


@register
class KerasCVBackbone(DenseMixin, keras.Model):
    """`keras_sepvit.SepViTBackbone` in the dense form, as a backbone for KerasCV.

    `keras_cv.models.RetinaNet`, `YOLOV8Detector` and `DeepLabV3Plus` take it. Its
    arguments, errors and the names of its weights are those of
    `keras_sepvit.SepViTBackbone`; sides of `image_shape` that are not None must be
    multiples of 32, since KerasCV doubles and adds levels. See `keras_cv_backbone`.
    """

    def __init__(self, *args, image_shape=(None, None, 3), **kwargs):
        image_shape = check_image_shape(image_shape)
        check_multiples_of_32("image_shape", image_shape)
        super().__init__(*args, image_shape=image_shape, **kwargs)

    @property
    def pyramid_level_inputs(self):
        """Names of the layers that give the levels of strides 4 to 32, `"P2"` to `"P5"`."""
        return {f"P{stage + 1}": f"stage{stage}_norm" for stage in (1, 2, 3, 4)}


def keras_cv_backbone(
    variant, weights=None, image_shape=(None, None, 3), include_preprocessing=True, **kwargs
):
    """A SepViT backbone for KerasCV's detectors and segmenters.

    Args:
        variant: `"sepvit_lite"`, `"sepvit_t"`, `"sepvit_s"`, `"sepvit_b"`, or a
            `keras_sepvit.SepViTConfig`.
        weights: None for random weights, or a file, address or name as for
            `keras_sepvit.SepViTBackbone.from_variant`; weights of a classifier fit,
            of any image size. A warning tells what was taken and what is new.
        image_shape: (height, width, 3); sides are multiples of 32, or None.
        include_preprocessing: Whether the backbone normalises its images itself. If
            True, the detector takes RGB images of 0..255.
        **kwargs: Other arguments of `keras_sepvit.SepViTBackbone`, such as
            `drop_path_rate`, which override those of the variant.

    Returns:
        A `KerasCVBackbone`.

    Raises:
        ValueError: for arguments out of range, sizes that do not fit, `dense=False`,
            and weights of another variant.

    Example:

    ```python
    detector = keras_cv.models.RetinaNet(
        backbone=keras_cv_backbone("sepvit_t", weights="sepvit_t.weights.h5"),
        num_classes=3,
        bounding_box_format="xyxy",
    )
    ```
    """
    return KerasCVBackbone.from_variant(
        variant,
        image_shape=image_shape,
        weights=weights,
        include_preprocessing=include_preprocessing,
        **kwargs,
    )
