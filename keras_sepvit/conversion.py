"""Turns weights files of one kind into another, through a model."""

import dataclasses
import os
import pathlib

import keras

from keras_sepvit.backbone import SepViTBackbone
from keras_sepvit.classification.classifier import SepViT
from keras_sepvit.configs import SepViTConfig
from keras_sepvit.detection.anchors import Anchors
from keras_sepvit.detection.mask_rcnn import MaskRCNN
from keras_sepvit.detection.retinanet import RetinaNet
from keras_sepvit.files import replacing
from keras_sepvit.record import attach, read_record
from keras_sepvit.segmentation.semantic_fpn import SemanticFPN
from keras_sepvit.segmentation.upernet import UPerNet
from keras_sepvit.validation import window_pair
from keras_sepvit.weights.files import PYTORCH_SUFFIXES
from keras_sepvit.weights.load import LoadReport, assign_weights, open_weights
from keras_sepvit.weights.matching import WeightsSummary
from keras_sepvit.weights.pytorch import save_pytorch

# Which all segmenters have, all RetinaNets and all Mask R-CNNs.
_SEG_KERNEL = "decode_head/conv_seg/kernel"
_DET_KERNEL = "bbox_head/retina_cls/kernel"
_MASK_KERNEL = "mask_head/conv_logits/kernel"


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    variant: str | SepViTConfig | None = None,
    image_size: tuple[int, int] | None = None,
    classes: int | None = None,
    dense: bool | None = None,
    partial: bool = False,
) -> LoadReport:
    """Writes the weights in a file to another, of the kind that its name says.

    Args:
        source: A file that `load_weights` takes: of Keras, or a checkpoint of the
            authors' PyTorch code.
        destination: `.weights.h5`, `.keras` (a whole model, which takes images of
            0..255, but for a bare backbone; with the record of `source`), or for the
            authors' PyTorch code `.pth`, `.pt`, `.bin` or `.safetensors`. It is
            replaced only when all is written.
        variant: Name of the variant or a `SepViTConfig`; by default told by the
            shapes in the file.
        image_size: (height, width) of the new model, to which windows scale; by
            default that of the configuration. Not for the dense form, which
            takes any size.
        classes: Number of classes of the new model; by default those of the
            file. With another number, the new head has random weights.
        dense: True for the dense form, of a segmenter or detector its backbone; by default that
            of the file, and the whole segmenter or detector. PyTorch's do not tell a detector's
            `anchor_scale`: one made of them has the default.
        partial: As for `load_weights`.

    Returns:
        The `LoadReport` of the weights that went from the file to the model.

    Raises:
        ValueError: if the file is damaged or holds something else, if its variant
            cannot be told, and if the arguments do not go with it.
        FileNotFoundError: if there is no such file.
        ImportError: if a kind of file needs a package that is not installed.
    """
    save = _saver(destination)
    image_size = None if image_size is None else window_pair("image_size", image_size)
    model, report = _load(source, variant, image_size, classes, dense, partial)
    record = read_record(source)
    if record is not None and "head/kernel" in report.assigned:  # the classes are the same
        new = {"image_size": model.input_shape[1:3], "pixels": "0..255", "activation": "softmax"}
        attach(model, dataclasses.replace(record, **new))
    with replacing(destination) as temporary:
        save(model, temporary)
    return report


def _load(source, variant, image_size, classes, dense, partial):
    """The model of a file with its weights, and the report."""
    with open_weights(source) as arrays:
        summary = WeightsSummary.of(arrays)
        skip_head = classes is not None
        if variant is None:
            variant = _variant(summary, source)
        if dense is None and _SEG_KERNEL in arrays:
            model = _segmenter(variant, arrays, image_size, classes)
        elif dense is None and _DET_KERNEL in arrays:
            model = _detector(variant, arrays, image_size, classes)
        elif dense is None and _MASK_KERNEL in arrays:
            model = _mask_rcnn(variant, arrays, image_size, classes)
        elif dense or (dense is None and summary is not None and summary.dense):
            model = _dense_model(variant, image_size, classes)
        else:
            if classes is None and summary is not None:
                classes = summary.classes
            model = _classifier(variant, image_size, classes)
        report = assign_weights(model, arrays, source, skip_head, partial)
    return model, report


def _saver(destination):
    """The function that writes a model to a file of this name."""
    name = pathlib.Path(destination).name
    if name.endswith(".weights.h5"):
        return keras.Model.save_weights
    if name.endswith(".keras"):
        return keras.Model.save
    if name.endswith(PYTORCH_SUFFIXES):
        return save_pytorch
    raise ValueError(
        f"Unknown kind of file to write: '{destination}'. Expected a name ending in .weights.h5, "
        ".keras, .pth, .pt, .bin or .safetensors."
    )


def _variant(summary, source):
    if summary is None or summary.variant is None:
        raise ValueError(
            f"The weights in '{source}' are of none of the variants; they have "
            f"{summary or 'no weights of SepViT'}. In Python, give `keras_sepvit.convert` the "
            "`SepViTConfig` of their model; or build the model and take them, with "
            f"`keras_sepvit.load_weights(model, '{source}')`. A whole model is written as it is by "
            "`keras_sepvit.save_pytorch(keras.saving.load_model('model.keras'), 'model.pth')`."
        )
    return summary.variant


def _segmenter(variant, arrays, image_size, classes):
    """A segmenter of the kind and the channels that a file's arrays give away."""
    _check_any_size("Segmenters", image_size)
    channels, file_classes = arrays[_SEG_KERNEL].shape[-2:]
    options = {"num_classes": classes or file_classes, "head_channels": channels}
    if (neck := arrays.get("neck/fpn_convs_0/conv/kernel")) is not None:
        return SemanticFPN(variant, neck_channels=neck.shape[-1], **options)
    if (auxiliary := arrays.get("auxiliary_head/conv_seg/kernel")) is not None:
        options["auxiliary_channels"] = auxiliary.shape[-2]
    return UPerNet(variant, **options)


def _detector(variant, arrays, image_size, classes):
    """A RetinaNet of the classes, channels and depth that a file's arrays give away."""
    _check_any_size("Detectors", image_size)
    channels, values = arrays[_DET_KERNEL].shape[-2:]
    return RetinaNet(
        variant,
        classes or values // Anchors().per_place,
        channels=channels,
        num_convs=_count(arrays, "bbox_head/cls_convs_"),
        **_anchors(arrays[_DET_KERNEL]),
    )


def _mask_rcnn(variant, arrays, image_size, classes):
    """A Mask R-CNN of the classes, channels, units and depth that a file's arrays give away."""
    _check_any_size("Detectors", image_size)
    channels, file_classes = arrays[_MASK_KERNEL].shape[-2:]
    return MaskRCNN(
        variant,
        classes or file_classes,
        channels=channels,
        units=arrays["bbox_head/fc_cls/kernel"].shape[0],
        num_convs=_count(arrays, "mask_head/convs_"),
        **_anchors(arrays["bbox_head/fc_cls/kernel"]),
    )


def _anchors(stored):
    """The `anchor_scale` of a detector, where the file tells it."""
    return {} if stored.anchor_scale is None else {"anchor_scale": stored.anchor_scale}


def _count(arrays, prefix):
    """How many layers there are whose path begins so."""
    return len({path.split("/")[1] for path in arrays if path.startswith(prefix)})


def _check_any_size(models, image_size):
    if image_size is not None:
        raise ValueError(
            f"{models} take images of any size. Received: image_size={image_size!r}. Leave it out."
        )


def _dense_model(variant, image_size, classes):
    for name, value in (("image_size", image_size), ("classes", classes)):
        if value is not None:
            raise ValueError(f"The dense form has no `{name}`. Received: {name}={value!r}.")
    return SepViTBackbone.from_variant(variant, dense=True, image_shape=(None, None, 3))


def _classifier(variant, image_size, classes):
    return SepViT(
        variant,
        input_shape=None if image_size is None else (*image_size, 3),
        include_top=classes is not None,
        classes=1000 if classes is None else classes,
    )
