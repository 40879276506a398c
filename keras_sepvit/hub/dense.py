"""The backbone in the dense form, as other libraries' detectors and segmenters use it."""

from keras_sepvit.backbone import BackboneMixin


class DenseMixin(BackboneMixin):
    """`BackboneMixin` for classes that have the dense form alone."""

    def __init__(self, *args, dense=True, **kwargs):
        if not dense:
            raise ValueError(
                f"`{type(self).__name__}` is for detection and segmentation, and so has the dense "
                "form alone: that for classification has no norms behind its stages. Received: "
                "dense=False. Leave `dense` out."
            )
        super().__init__(*args, dense=True, **kwargs)

    @classmethod
    def from_variant(cls, variant, image_shape=(None, None, 3), weights=None, **kwargs):
        """The backbone of a variant; see `keras_sepvit.SepViTBackbone.from_variant`."""
        return super().from_variant(variant, image_shape, weights, **{"dense": True, **kwargs})


def check_divisible(image_shape, step, reason):
    """Refuses static sides of an image that are no multiples of `step`."""
    if any(side is not None and side % step for side in image_shape[:2]):
        raise ValueError(
            f"`image_shape` must have a height and a width that are multiples of {step}, {reason}. "
            f"Received: image_shape={tuple(image_shape)}."
        )
