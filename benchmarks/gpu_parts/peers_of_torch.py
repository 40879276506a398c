"""Networks of torch's libraries to compare with, with random weights."""

import functools

SWIN = "hf_swin_t"
CONVNEXT = "tv_convnext_t"
NAMES = (SWIN, CONVNEXT)
TITLES = {SWIN: "Swin-T (Hugging Face)", CONVNEXT: "ConvNeXt-T (torchvision)"}
CLASSES = 1000


def build(name, sizes, precision):
    """A module for (batch, 3, height, width), for inference.

    Raises:
        ImportError: naming the library that is not installed.
    """
    import torch

    if name == SWIN:
        library = _library("transformers")
        config = library.SwinConfig(image_size=sizes.image_size, num_labels=CLASSES, **sizes.swin)
        module = library.SwinForImageClassification(config)
    else:
        models = _library("torchvision").models
        if sizes.convnext is None:
            module = models.convnext_tiny()
        else:
            from torchvision.models.convnext import CNBlockConfig

            stages = [CNBlockConfig(width, out, depth) for depth, width, out in sizes.convnext]
            module = models.ConvNeXt(stages)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return module.to(device, getattr(torch, precision)).eval()


def logits(name, module):
    """A function from images to logits."""
    return (lambda x: module(x).logits) if name == SWIN else module


@functools.cache
def _library(name):
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is not installed") from error
