"""Builds the networks of the catalogue, and checks that they are what is published."""

import dataclasses
import importlib.util
import math

from keras_sepvit.benchmark.worker import Refused
from keras_sepvit.configs import VARIANTS
from peers.catalogue import catalogue_model

# What is imported of each library.
MODULES = {
    "keras_sepvit": "keras_sepvit.classification.classifier",
    "keras_hub": "keras_hub",
    "keras": "keras",
    "transformers": "transformers",
}

# A count further from the published one is that of another network.
LARGEST_DIFFERENCE = 0.02


def build_model(name, image_size):
    """A network of the catalogue, with random weights, that gives logits.

    Args:
        name: Its name in the catalogue.
        image_size: (height, width) of the images.

    Returns:
        In Keras's dtype policy, a Keras model for (batch, height, width, 3), or a torch
        module for (batch, 3, height, width) whose output has `logits`. Modules have weights
        in float32 under mixed policies, and the caller computes under autocast.

    Raises:
        ImportError: if the model's library cannot be imported.
        ValueError: where the network cannot take this image size.
    """
    model = catalogue_model(name)
    library = import_library(model.library)
    if model.library == "transformers":
        return _transformers_model(library, model, image_size)
    shape = (*image_size, 3)
    if model.task == "segmentation":
        return _segmenter(library, model, shape)
    if model.task == "detection":
        return _detector(library, model, shape)
    if model.library == "keras_hub":
        backbone_class = getattr(library.models, f"{model.constructor}Backbone")
        classifier_class = getattr(library.models, f"{model.constructor}ImageClassifier")
        backbone = backbone_class(image_shape=shape, **model.arguments)
        return classifier_class(backbone=backbone, num_classes=model.classes, activation=None)
    options = {"input_shape": shape, "classes": model.classes, "classifier_activation": None}
    if model.library == "keras_sepvit":
        config = dataclasses.replace(VARIANTS[model.constructor], **model.arguments)
        return library.SepViT(config, **options)
    options |= model.arguments
    return getattr(library.applications, model.constructor)(weights=None, **options)


def check_installed(names):
    """Refuses networks whose packages are not installed.

    Args:
        names: Names in the catalogue.

    Raises:
        ImportError: naming the extra to install.
    """
    for name in names:
        module = MODULES[catalogue_model(name).library].partition(".")[0]
        if importlib.util.find_spec(module) is None:
            raise ImportError(
                f"{name} needs the module `{module}`, which is not installed. Install it with "
                '`pip install "keras-sepvit[benchmark]"`.'
            )


def import_library(name):
    """The module that a library's models are in."""
    return importlib.import_module(MODULES[name])


def count_parameters(model):
    """Number of trainable parameters of a Keras model or a torch module."""
    if hasattr(model, "trainable_variables"):
        return sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def check_parameters(name, count):
    """Refuses a model whose number of parameters is not the published one.

    Args:
        name: The model's name in the catalogue.
        count: Number of trainable parameters of what was built.

    Raises:
        Refused: if the numbers differ by more than 2 %.
    """
    model = catalogue_model(name)
    height, width = model.image_size
    if abs(count - model.parameters) > LARGEST_DIFFERENCE * model.parameters:
        raise Refused(
            f"{model.title} ({name}) has {count:,} parameters; published are "
            f"{model.parameters:,.0f} at {height} x {width} ({model.source}). They may differ by "
            f"{LARGEST_DIFFERENCE:.0%} at most: this is another network."
        )


def _segmenter(library, model, shape):
    arguments = dict(model.arguments)
    if model.library == "keras_sepvit":
        from keras_sepvit import segmentation

        return getattr(segmentation, model.constructor)(
            num_classes=model.classes, image_shape=shape, **arguments
        )
    encoder, encoder_arguments = arguments.pop("image_encoder")
    encoder_class = getattr(library.models, f"{encoder}Backbone")
    backbone_class = getattr(library.models, f"{model.constructor}Backbone")
    segmenter_class = getattr(library.models, f"{model.constructor}ImageSegmenter")
    encoder = encoder_class(image_shape=shape, **encoder_arguments)
    if model.constructor == "DeepLabV3":
        arguments["image_shape"] = shape
    return segmenter_class(backbone_class(encoder, **arguments), num_classes=model.classes)


def _detector(library, model, shape):
    arguments = dict(model.arguments)
    if model.library == "keras_sepvit":
        from keras_sepvit import detection

        return getattr(detection, model.constructor)(
            num_classes=model.classes, image_shape=shape, **arguments
        )
    encoder, encoder_arguments = arguments.pop("image_encoder")
    encoder = getattr(library.models, f"{encoder}Backbone")(image_shape=shape, **encoder_arguments)
    levels = {"min_level": 3, "max_level": 7}
    return library.models.RetinaNetObjectDetector(
        library.models.RetinaNetBackbone(encoder, use_p5=False, image_shape=shape, **levels),
        num_classes=model.classes,
        bounding_box_format="xyxy",
        anchor_generator=library.layers.AnchorGenerator(
            "xyxy", num_scales=3, aspect_ratios=[0.5, 1.0, 2.0], anchor_size=4.0, **levels
        ),
    )


def _transformers_model(library, model, image_size):
    import keras
    import torch

    torch.manual_seed(0)
    if model.task == "segmentation":
        module = _transformers_segmenter(library, model, image_size)
    else:
        module = _transformers_classifier(library, model, image_size)
    policy = keras.config.dtype_policy().name
    if not policy.startswith("mixed_"):
        module = module.to(getattr(torch, policy))
    return module.eval()


def _transformers_classifier(library, model, image_size):
    config_class = getattr(library, f"{model.constructor}Config")
    model_class = getattr(library, f"{model.constructor}ForImageClassification")
    size = {} if model.constructor == "Cvt" else {"image_size": _square(model, image_size)}
    return model_class(config_class(**model.arguments, **size, num_labels=model.classes))


def _transformers_segmenter(library, model, image_size):
    backbone, arguments = model.arguments["backbone"]
    stages = [f"stage{number}" for number in range(1, 5)]
    backbone_config = getattr(library, f"{backbone}Config")(
        **arguments, image_size=_square(model, image_size), out_features=stages
    )
    config = getattr(library, f"{model.constructor}Config")(
        backbone_config=backbone_config,
        auxiliary_in_channels=4 * arguments["embed_dim"],
        num_labels=model.classes,
    )
    return getattr(library, f"{model.constructor}ForSemanticSegmentation")(config)


def _square(model, image_size):
    height, width = image_size
    if height != width:
        raise ValueError(f"{model.title} takes square images. Received: {height} x {width}.")
    return height
