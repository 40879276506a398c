"""The models that can be compared, with what is published about each.

All are classifiers of 1000 classes, built from these arguments with random weights. No
Keras is imported here.
"""

import dataclasses

from keras_sepvit.default_backend import BACKENDS

# Where the published numbers are from.
SEPVIT = "arXiv 2203.15380v4, table 2; exact count of the authors' code"
TORCHVISION = "documentation of torchvision's models"
RESNET = "arXiv 1512.03385, table 1; count of torchvision's ResNet50"
DEIT = "arXiv 2012.12877, table 5; MACs from arXiv 2103.14030, table 1"
KERAS_HUB = "KerasHub's presets of the backbone, and a head of 1000 classes"
EFFICIENTNETV2 = "arXiv 2104.00298 and its repository"
PVT = "arXiv 2102.12122, table 2"
PVTV2 = "arXiv 2106.13797, table 2"
TIMM = "timm's model card"
CVT = "arXiv 2103.15808, table 3"


@dataclasses.dataclass(frozen=True)
class CatalogueModel:
    """A model that can be built, and what is published about it.

    Attributes:
        title: Its name in tables.
        library: `"keras_sepvit"`, `"keras_hub"`, `"keras"` (keras.applications) or
            `"transformers"` (Hugging Face).
        constructor: What builds it: a variant of `keras_sepvit`, the prefix of a KerasHub
            backbone, a function of keras.applications, or the prefix of the classes of
            transformers.
        parameters: Published number of trainable parameters with 1000 classes, at 224 x 224.
        macs: Published multiply-accumulates of an image of 224 x 224, in billions (most
            sources call them FLOPs); None where the source has none at this size.
        source: Where the two are published.
        arguments: Arguments of the constructor.
    """

    title: str
    library: str
    constructor: str
    parameters: float
    macs: float | None
    source: str
    arguments: dict = dataclasses.field(default_factory=dict)

    @property
    def backends(self):
        """The Keras backends that it runs on."""
        return ("torch",) if self.library == "transformers" else BACKENDS

    @property
    def channels_first(self):
        """Whether it takes (batch, channels, height, width)."""
        return self.library == "transformers"


def _keras_hub(title, constructor, parameters, macs, source, **arguments):
    return CatalogueModel(title, "keras_hub", constructor, parameters, macs, source, arguments)


def _keras(title, constructor, parameters, macs, source, **arguments):
    return CatalogueModel(title, "keras", constructor, parameters, macs, source, arguments)


def _transformers(title, constructor, parameters, macs, source, **arguments):
    return CatalogueModel(title, "transformers", constructor, parameters, macs, source, arguments)


def _vit(hidden_dim, num_heads, mlp):
    dims = {"hidden_dim": hidden_dim, "num_heads": num_heads, mlp: 4 * hidden_dim}
    return {"patch_size": 16, "num_layers": 12, **dims}


def _swin(embed_dim, depths, num_heads):
    return {"embed_dim": embed_dim, "depths": depths, "num_heads": num_heads, "window_size": 7}


def _mit(hidden_dims, depths):
    return {
        "hidden_dims": list(hidden_dims),
        "layerwise_depths": list(depths),
        "num_layers": 4,
        "layerwise_num_heads": [1, 2, 5, 8],
        "layerwise_sr_ratios": [8, 4, 2, 1],
        "max_drop_path_rate": 0.1,
        "layerwise_patch_sizes": [7, 3, 3, 3],
        "layerwise_strides": [4, 2, 2, 2],
    }


def _pvt_v2(hidden_sizes, depths, mlp_ratios=(8, 8, 4, 4)):
    return {"hidden_sizes": hidden_sizes, "depths": depths, "mlp_ratios": mlp_ratios}


_SWIN_T = _swin(96, (2, 2, 6, 2), (3, 6, 12, 24))
_SWIN_S = _swin(96, (2, 2, 18, 2), (3, 6, 12, 24))
_SWIN_B = _swin(128, (2, 2, 18, 2), (4, 8, 16, 32))
_RAW = {"include_preprocessing": False}

CATALOGUE = {
    "sepvit_lite": CatalogueModel(
        "SepViT-Lite", "keras_sepvit", "sepvit_lite", 3_661_128, 0.6, SEPVIT
    ),
    "sepvit_t": CatalogueModel("SepViT-T", "keras_sepvit", "sepvit_t", 31_182_856, 4.5, SEPVIT),
    "sepvit_s": CatalogueModel("SepViT-S", "keras_sepvit", "sepvit_s", 46_570_504, 7.5, SEPVIT),
    "sepvit_b": CatalogueModel("SepViT-B", "keras_sepvit", "sepvit_b", 82_377_064, 13.1, SEPVIT),
    "swin_t": _keras_hub("Swin-T", "SwinTransformer", 28_288_354, 4.49, TORCHVISION, **_SWIN_T),
    "swin_s": _keras_hub("Swin-S", "SwinTransformer", 49_606_258, 8.74, TORCHVISION, **_SWIN_S),
    "swin_b": _keras_hub("Swin-B", "SwinTransformer", 87_768_224, 15.43, TORCHVISION, **_SWIN_B),
    "vit_b": _keras_hub(
        "ViT-B/16", "ViT", 86_567_656, 17.56, TORCHVISION, **_vit(768, 12, "mlp_dim")
    ),
    "deit_t": _keras_hub("DeiT-Ti", "DeiT", 5.7e6, 1.3, DEIT, **_vit(192, 3, "intermediate_dim")),
    "deit_s": _keras_hub("DeiT-S", "DeiT", 22.1e6, 4.6, DEIT, **_vit(384, 6, "intermediate_dim")),
    "deit_b": _keras_hub("DeiT-B", "DeiT", 86.6e6, 17.5, DEIT, **_vit(768, 12, "intermediate_dim")),
    "mit_b0": _keras_hub(
        "MiT-B0", "MiT", 3_578_962, None, KERAS_HUB, **_mit((32, 64, 160, 256), (2, 2, 2, 2))
    ),
    "mit_b1": _keras_hub(
        "MiT-B1", "MiT", 13_669_554, None, KERAS_HUB, **_mit((64, 128, 320, 512), (2, 2, 2, 2))
    ),
    "mit_b2": _keras_hub(
        "MiT-B2", "MiT", 24_714_418, None, KERAS_HUB, **_mit((64, 128, 320, 512), (3, 4, 6, 3))
    ),
    "resnet50": _keras("ResNet50", "ResNet50", 25_557_032, 3.8, RESNET),
    "convnext_tiny": _keras("ConvNeXt-T", "ConvNeXtTiny", 28_589_128, 4.46, TORCHVISION, **_RAW),
    "convnext_small": _keras("ConvNeXt-S", "ConvNeXtSmall", 50_223_688, 8.68, TORCHVISION, **_RAW),
    "convnext_base": _keras("ConvNeXt-B", "ConvNeXtBase", 88_591_464, 15.36, TORCHVISION, **_RAW),
    "efficientnetv2_b0": _keras(
        "EfficientNetV2-B0", "EfficientNetV2B0", 7.1e6, 0.72, EFFICIENTNETV2, **_RAW
    ),
    "efficientnetv2_b1": _keras(
        "EfficientNetV2-B1", "EfficientNetV2B1", 8.1e6, None, EFFICIENTNETV2, **_RAW
    ),
    "efficientnetv2_s": _keras(
        "EfficientNetV2-S", "EfficientNetV2S", 21_458_488, None, TORCHVISION, **_RAW
    ),
    "mobilenetv2": _keras("MobileNetV2", "MobileNetV2", 3_504_872, 0.30, TORCHVISION),
    "hf_swin_t": _transformers("Swin-T (HF)", "Swin", 28_288_354, 4.49, TORCHVISION, **_SWIN_T),
    "hf_swin_s": _transformers("Swin-S (HF)", "Swin", 49_606_258, 8.74, TORCHVISION, **_SWIN_S),
    "hf_swin_b": _transformers("Swin-B (HF)", "Swin", 87_768_224, 15.43, TORCHVISION, **_SWIN_B),
    "hf_pvt_tiny": _transformers("PVT-Tiny", "Pvt", 13.2e6, 1.9, PVT, depths=(2, 2, 2, 2)),
    "hf_pvt_small": _transformers("PVT-Small", "Pvt", 24.5e6, 3.8, PVT, depths=(3, 4, 6, 3)),
    "hf_pvt_medium": _transformers("PVT-Medium", "Pvt", 44.2e6, 6.7, PVT, depths=(3, 4, 18, 3)),
    "hf_pvt_large": _transformers("PVT-Large", "Pvt", 61.4e6, 9.8, PVT, depths=(3, 8, 27, 3)),
    "hf_pvt_v2_b0": _transformers(
        "PVTv2-B0", "PvtV2", 3.7e6, 0.6, TIMM, **_pvt_v2((32, 64, 160, 256), (2, 2, 2, 2))
    ),
    "hf_pvt_v2_b1": _transformers(
        "PVTv2-B1", "PvtV2", 14.0e6, 2.1, TIMM, **_pvt_v2((64, 128, 320, 512), (2, 2, 2, 2))
    ),
    "hf_pvt_v2_b2": _transformers(
        "PVTv2-B2", "PvtV2", 25.4e6, 4.0, PVTV2, **_pvt_v2((64, 128, 320, 512), (3, 4, 6, 3))
    ),
    "hf_pvt_v2_b3": _transformers(
        "PVTv2-B3", "PvtV2", 45.2e6, 6.9, PVTV2, **_pvt_v2((64, 128, 320, 512), (3, 4, 18, 3))
    ),
    "hf_pvt_v2_b4": _transformers(
        "PVTv2-B4", "PvtV2", 62.6e6, 10.1, PVTV2, **_pvt_v2((64, 128, 320, 512), (3, 8, 27, 3))
    ),
    "hf_pvt_v2_b5": _transformers(
        "PVTv2-B5",
        "PvtV2",
        82.0e6,
        11.8,
        PVTV2,
        **_pvt_v2((64, 128, 320, 512), (3, 6, 40, 3), mlp_ratios=(4, 4, 4, 4)),
    ),
    "hf_cvt_13": _transformers("CvT-13", "Cvt", 20.0e6, 4.5, CVT, depth=(1, 2, 10)),
    "hf_cvt_21": _transformers("CvT-21", "Cvt", 32.0e6, 7.1, CVT, depth=(1, 4, 16)),
}

DEFAULT_MODELS = ("sepvit_t", "swin_t", "convnext_tiny", "resnet50", "hf_swin_t")


def catalogue_model(name):
    """The model of this name.

    Raises:
        ValueError: for an unknown name, naming the known ones.
    """
    if name not in CATALOGUE:
        raise ValueError(f"Unknown model {name!r}. Known models: {', '.join(CATALOGUE)}.")
    return CATALOGUE[name]
