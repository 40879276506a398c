"""The backbone in the dense form, as other libraries' detectors and segmenters use it."""

from keras_sepvit.backbone import BackboneMixin


class DenseMixin(BackboneMixin):
    """`BackboneMixin` for classes that have the dense form alone."""

    def __init__(self, *args, dense=True, **kwargs):
        self._check_dense(dense)
        super().__init__(*args, dense=True, **kwargs)

    @classmethod
    def from_variant(cls, variant, image_shape=(None, None, 3), weights=None, dense=True, **kwargs):
        """The backbone of a variant; see `keras_sepvit.SepViTBackbone.from_variant`."""
        cls._check_dense(dense)
        return super().from_variant(variant, image_shape, weights, dense=True, **kwargs)

    @classmethod
    def _check_dense(cls, dense):
        if not dense:
            raise ValueError(
                f"`{cls.__name__}` is for detection and segmentation, and so has the dense form "
                "alone: that for classification has no norms behind its stages. Received: "
                "dense=False. Leave `dense` out."
            )


def check_multiples_of_32(name, shape):
    """Refuses static sides, of which levels of a pyramid that are doubled and added do not fit."""
    if any(side is not None and side % 32 for side in shape[:2]):
        raise ValueError(
            f"`{name}` must have a height and a width that are multiples of 32, so that levels of "
            f"the pyramid can be doubled and added. Received: {name}={tuple(shape)}."
        )
