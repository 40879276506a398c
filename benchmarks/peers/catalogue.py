"""The networks that the pages of docs/ show, with what is published about each.

Classifiers of 1000 classes, segmenters of the 150 of ADE20K and detectors of the 80 of COCO, built
from these arguments with random weights. No Keras is imported here.
"""

import dataclasses

from keras_sepvit.configs import ABLATIONS, PUBLISHED, VARIANTS
from keras_sepvit.default_backend import BACKENDS

# Where the published numbers are from.
SEPVIT = "arXiv 2203.15380v4, table 2; exact count of the authors' code"
TORCHVISION = "documentation of torchvision's models"
RESNET = "arXiv 1512.03385, table 1; count of torchvision's ResNet50"
DEIT = "arXiv 2012.12877, table 5; MACs from arXiv 2103.14030, table 1"
EFFICIENTNETV2 = "arXiv 2104.00298 and its repository"
PVTV2 = "arXiv 2106.13797, table 2"
CVT = "arXiv 2103.15808, table 3"
SEPVIT_ADE20K = "arXiv 2203.15380v4, table 3; count of the authors' code without unused weights"
SWIN_ADE20K = "Swin-Transformer-Semantic-Segmentation, README"
SEGFORMER = "arXiv 2105.15203, table 1"
SEPVIT_COCO = "arXiv 2203.15380v4, table 4; count of the authors' code without unused weights"
SEPVIT_MASKS = "arXiv 2203.15380v4, table 5; count of the authors' code without unused weights"
RETINANET = "KerasHub's preset retinanet_resnet50_fpn_coco, with 91 classes"
DEEPLAB = "KerasHub's preset deeplab_v3_plus_resnet50_pascalvoc"
FORMULA = "formula of keras_sepvit.complexity"


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
        parameters: Published number of trainable parameters, at `image_size`.
        macs: Published multiply-accumulates of an image of `image_size`, in billions (most
            sources call them FLOPs); None where they are not.
        source: Where the two are published.
        arguments: Arguments of the constructor; of a classifier of `keras_sepvit`, what differs
            from the variant's configuration.
        task: `"classification"`, `"segmentation"` or `"detection"`.
        image_size: (height, width) of the images that the published numbers are of.
    """

    title: str
    library: str
    constructor: str
    parameters: float
    macs: float | None
    source: str
    arguments: dict = dataclasses.field(default_factory=dict)
    task: str = "classification"
    image_size: tuple = (224, 224)

    @property
    def classes(self):
        """Number of classes: ImageNet's, ADE20K's or COCO's."""
        return {"classification": 1000, "segmentation": 150, "detection": 80}[self.task]

    @property
    def backends(self):
        """The Keras backends that it runs on."""
        return ("torch",) if self.library == "transformers" else BACKENDS


def _keras_hub(title, constructor, parameters, macs, source, **arguments):
    return CatalogueModel(title, "keras_hub", constructor, parameters, macs, source, arguments)


def _keras(title, constructor, parameters, macs, source, **arguments):
    return CatalogueModel(title, "keras", constructor, parameters, macs, source, arguments)


def _transformers(title, constructor, parameters, macs, source, **arguments):
    return CatalogueModel(title, "transformers", constructor, parameters, macs, source, arguments)


def _segmenter(*published, image_size, **arguments):
    return CatalogueModel(*published, arguments, task="segmentation", image_size=image_size)


def _detector(*published, image_size, **arguments):
    return CatalogueModel(*published, arguments, task="detection", image_size=image_size)


def _swin(embed_dim, depths, num_heads):
    return {"embed_dim": embed_dim, "depths": depths, "num_heads": num_heads, "window_size": 7}


_SWIN_T = _swin(96, (2, 2, 6, 2), (3, 6, 12, 24))
_SWIN_S = _swin(96, (2, 2, 18, 2), (3, 6, 12, 24))
_SWIN_B = _swin(128, (2, 2, 18, 2), (4, 8, 16, 32))
_DEIT_S = {
    "patch_size": 16,
    "num_layers": 12,
    "hidden_dim": 384,
    "num_heads": 6,
    "intermediate_dim": 1536,
}
_PVT_V2_B2 = {
    "hidden_sizes": (64, 128, 320, 512),
    "depths": (3, 4, 6, 3),
    "mlp_ratios": (8, 8, 4, 4),
}
_MIT_B2 = {
    "layerwise_depths": (3, 4, 6, 3),
    "num_layers": 4,
    "layerwise_num_heads": (1, 2, 5, 8),
    "layerwise_sr_ratios": (8, 4, 2, 1),
    "max_drop_path_rate": 0.1,
    "layerwise_patch_sizes": (7, 3, 3, 3),
    "layerwise_strides": (4, 2, 2, 2),
    "hidden_dims": (64, 128, 320, 512),
}
_RESNET50 = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 128, 256, 512],
    "stackwise_num_blocks": [3, 4, 6, 3],
    "stackwise_num_strides": [1, 2, 2, 2],
    "block_type": "bottleneck_block",
}
_DEEPLAB = {
    "image_encoder": ("ResNet", _RESNET50),
    "spatial_pyramid_pooling_key": "P5",
    "low_level_feature_key": "P2",
    "upsampling_size": 8,
    "dilation_rates": [6, 12, 18],
}
_SEGFORMER_B2 = {"image_encoder": ("MiT", _MIT_B2), "projection_filters": 768}
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
    "deit_s": _keras_hub("DeiT-S", "DeiT", 22.1e6, 4.6, DEIT, **_DEIT_S),
    "resnet50": _keras("ResNet50", "ResNet50", 25_557_032, 3.8, RESNET),
    "convnext_tiny": _keras("ConvNeXt-T", "ConvNeXtTiny", 28_589_128, 4.46, TORCHVISION, **_RAW),
    "efficientnetv2_b0": _keras(
        "EfficientNetV2-B0", "EfficientNetV2B0", 7.1e6, 0.72, EFFICIENTNETV2, **_RAW
    ),
    "mobilenetv2": _keras("MobileNetV2", "MobileNetV2", 3_504_872, 0.30, TORCHVISION),
    "hf_swin_t": _transformers("Swin-T (HF)", "Swin", 28_288_354, 4.49, TORCHVISION, **_SWIN_T),
    "hf_pvt_v2_b2": _transformers("PVTv2-B2", "PvtV2", 25.4e6, 4.0, PVTV2, **_PVT_V2_B2),
    "semantic_fpn_t": _segmenter(
        "Semantic FPN, SepViT-T",
        "keras_sepvit",
        "SemanticFPN",
        38_028_534,
        181,
        SEPVIT_ADE20K,
        image_size=(512, 2048),
        backbone="sepvit_t",
    ),
    "semantic_fpn_t_large_windows": _segmenter(
        "Semantic FPN, SepViT-T, windows of 14 and 28",
        "keras_sepvit",
        "SemanticFPN",
        38_028_534,
        None,
        "as with windows of 7 and 14",
        image_size=(512, 2048),
        backbone=dataclasses.replace(
            VARIANTS["sepvit_t"], window_sizes=((14,), (14, 28), (14, 28) * 3, (14, 14))
        ),
    ),
    "upernet_t": _segmenter(
        "UperNet, SepViT-T",
        "keras_sepvit",
        "UPerNet",
        66_076_556,
        940,
        SEPVIT_ADE20K,
        image_size=(512, 2048),
        backbone="sepvit_t",
    ),
    "hf_upernet_swin_t": _segmenter(
        "UperNet, Swin-T (HF)",
        "transformers",
        "UperNet",
        60e6,
        945,
        SWIN_ADE20K,
        image_size=(512, 2048),
        backbone=("Swin", _SWIN_T),
    ),
    "segformer_b2": _segmenter(
        "SegFormer-B2 (KerasHub)",
        "keras_hub",
        "SegFormer",
        27.5e6,
        62.4,
        SEGFORMER,
        image_size=(512, 512),
        **_SEGFORMER_B2,
    ),
    "deeplab_v3_plus": _segmenter(
        "DeepLabV3+, ResNet50 (KerasHub)",
        "keras_hub",
        "DeepLabV3",
        39_190_656,
        None,
        DEEPLAB,
        image_size=(512, 512),
        **_DEEPLAB,
    ),
    "retinanet_t": _detector(
        "RetinaNet, SepViT-T",
        "keras_sepvit",
        "RetinaNet",
        44_593_492,
        243,
        SEPVIT_COCO,
        image_size=(800, 1280),
        backbone="sepvit_t",
    ),
    "mask_rcnn_t": _detector(
        "Mask R-CNN, SepViT-T",
        "keras_sepvit",
        "MaskRCNN",
        53_929_296,
        261,
        SEPVIT_MASKS,
        image_size=(800, 1280),
        backbone="sepvit_t",
    ),
    "retinanet_resnet50": _detector(
        "RetinaNet, ResNet50 (KerasHub)",
        "keras_hub",
        "RetinaNet",
        34_121_239,
        None,
        RETINANET,
        image_size=(800, 800),
        image_encoder=("ResNet", _RESNET50),
    ),
    "hf_cvt_13": _transformers("CvT-13", "Cvt", 20.0e6, 4.5, CVT, depth=(1, 2, 10)),
}

# Top-1 accuracy on ImageNet-1K at 224 x 224 in percent, as the networks' papers have it: SepViT's
# table 2 (v4), Swin's (2103.14030) and ConvNeXt's (2201.03545) tables 1, DeiT's 5, PVTv2's 2,
# MobileNetV2's 4; of ResNet50, torchvision's first weights; of EfficientNetV2-B0, its repository.
TOP1 = {name: figures.top1 for name, figures in PUBLISHED.items()} | {
    "swin_t": 81.3,
    "swin_s": 83.0,
    "swin_b": 83.5,
    "hf_swin_t": 81.3,
    "deit_s": 79.8,
    "resnet50": 76.1,
    "convnext_tiny": 82.1,
    "efficientnetv2_b0": 78.7,
    "mobilenetv2": 72.0,
    "hf_pvt_v2_b2": 82.0,
}

# SepViT-T as in the paper's tables 6 and 7.
for _name, _title, _parameters in (
    ("no_gsa", "without GSA", 32_079_112),
    ("zero_window_tokens", "window tokens of zeros", 31_168_264),
    ("average_pooling", "average pooling for tokens", 31_168_264),
    ("depthwise_conv", "convolution for tokens", 31_278_088),
    ("non_overlapping", "patches that do not overlap", 29_237_992),
):
    CATALOGUE[f"sepvit_t_{_name}"] = CatalogueModel(
        f"SepViT-T, {_title}",
        "keras_sepvit",
        "sepvit_t",
        _parameters,
        None,
        FORMULA,
        ABLATIONS[_name],
    )

DEFAULT_NETWORKS = ("sepvit_t", "swin_t", "convnext_tiny", "resnet50", "hf_swin_t")


def catalogue_model(name):
    """The model of this name.

    Raises:
        ValueError: for an unknown name, naming the known ones.
    """
    if name not in CATALOGUE:
        raise ValueError(f"Unknown network {name!r}. Known networks: {', '.join(CATALOGUE)}.")
    return CATALOGUE[name]
