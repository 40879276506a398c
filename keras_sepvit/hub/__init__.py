"""SepViT in KerasHub and KerasCV: the one place of adapters to other libraries.

KerasHub (extra `hub`): the backbone, the classifier and their presets, an encoder for
SegFormer, and KerasHub's RetinaNet put together as well as it can be. A preset is a
folder with a model's configuration, weights and preprocessing, on disk or at
`hf://user/name` (Hugging Face) or `kaggle://user/model/keras/name` (Kaggle). KerasHub
does the transport. It finds the classes of a preset by the names that this module
registers, so import it before loading one, with KerasHub's own base classes too.

KerasCV (extra `cv`): the backbone for its detectors and segmenters.

KerasHub and KerasCV import TensorFlow, on every backend: KerasHub where it is installed,
KerasCV always.
"""

from keras_sepvit.hub.detection import ClassWiseNonMaxSuppression, detect
from keras_sepvit.hub.keras_cv import KerasCVBackbone, keras_cv_backbone

try:
    import keras_hub as _keras_hub
except ImportError as error:
    _keras_hub, _without_keras_hub = None, error
if _keras_hub:
    from keras_sepvit.hub.backbone import SegFormerEncoder, SepViTBackbone
    from keras_sepvit.hub.classifier import (
        SepViTImageClassifier,
        SepViTImageClassifierPreprocessor,
        SepViTImageConverter,
    )
    from keras_sepvit.hub.retinanet_detector import retinanet, retinanet_losses

_OF_KERAS_HUB = (
    "SegFormerEncoder",
    "SepViTBackbone",
    "SepViTImageClassifier",
    "SepViTImageClassifierPreprocessor",
    "SepViTImageConverter",
    "retinanet",
    "retinanet_losses",
)

__all__ = [
    "ClassWiseNonMaxSuppression",
    "KerasCVBackbone",
    "detect",
    "keras_cv_backbone",
    *_OF_KERAS_HUB,
]


def __getattr__(name):
    if name in _OF_KERAS_HUB:
        raise ImportError(
            f"`keras_sepvit.hub.{name}` needs KerasHub, which cannot be imported: "
            f'{_without_keras_hub}. Install it with `pip install "keras-sepvit[hub]"`.'
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
