"""What is refused, and that the message says what to do."""

import dataclasses
import pathlib

import keras
import numpy as np
import pytest
from helpers import TINY, images, tiny_backbone

import keras_sepvit
from keras_sepvit import (
    MLP,
    PEG,
    DropPath,
    PatchEmbedding,
    SeparableAttention,
    SepViT,
    SepViTBackbone,
    SepViTBlock,
    classification,
    detection,
    segmentation,
    variant_config,
)
from keras_sepvit.detection import sources as box_sources
from keras_sepvit.hub.detection import detect as hub_detect
from keras_sepvit.inference import attach_record
from keras_sepvit.segmentation import sources as map_sources
from keras_sepvit.training import open_source

pytestmark = pytest.mark.once

NAN = float("nan")
OF_0_1_0 = pathlib.Path(__file__).parent / "data" / "0.1.0" / "classifier.weights.h5"


def tiny(**kwargs):
    return SepViT(TINY, **kwargs)


def call(layer, *shape):
    return layer(keras.Input(shape))


def family(image_size):
    return SepViTBackbone.from_variant("sepvit_t", image_shape=(*image_size, 3))


# Arguments of `SepViT` as they are called elsewhere or misspelt, and the right name.
NAMES = {
    "num_classes": "classes",
    "num_labels": "classes",
    "Classes": "classes",
    "image_size": "input_shape",
    "img_size": "input_shape",
    "image_shape": "input_shape",
    "pretrained": "weights",
    "activation": "classifier_activation",
    "drop_path": "drop_path_rate",
    "include_topp": "include_top",
}
# The same of the backbone.
NAMES_OF_BACKBONE = {
    "image_size": "image_shape",
    "input_shape": "image_shape",
    "drop_rate": "drop_path_rate",
    "include_preprocesing": "include_preprocessing",
    "padding": None,
    "classes": None,
}


def names_refused(make, names):
    return {
        f"{make.__name__}({name}=)": (
            lambda name=name: make(**{name: 3}),
            [f"no argument `{name}`", f"Did you mean `{right}`?" if right else "arguments are"],
        )
        for name, right in names.items()
    }


# What is done, and the parts of the message that a user needs.
REFUSED = {
    # Names of arguments.
    **names_refused(tiny, NAMES),
    **names_refused(tiny_backbone, NAMES_OF_BACKBONE),
    "name of a variant's constructor": (
        lambda: keras_sepvit.SepViTT(num_classes=3),
        ["`SepViTT` has no argument `num_classes`", "`classes`"],
    ),
    "variant as a backbone": (
        lambda: SepViTBackbone("sepvit_t"),
        [r"SepViTBackbone.from_variant\('sepvit_t'\)"],
    ),
    "variant as a backbone's keyword": (
        lambda: SepViTBackbone(variant="sepvit_t"),
        [r"SepViTBackbone.from_variant\('sepvit_t'\)"],
    ),
    "configuration as a backbone": (
        lambda: SepViTBackbone(TINY, image_shape=(64, 64, 3)),
        [r"SepViTBackbone.from_variant\(config\)"],
    ),
    "weights of a bare backbone": (
        lambda: SepViTBackbone((8,) * 4, (1,) * 4, (1,) * 4, ((1,),) * 4, weights="digits"),
        ["no argument `weights`", "`from_variant` takes `variant` and `weights`"],
    ),
    "classes as a flag": (
        lambda: keras_sepvit.SepViTT(10),
        ["`include_top` must be True or False", "include_top=10"],
    ),
    "flag of a string": (
        lambda: tiny_backbone(dense="False"),
        ["`dense` must be True or False", "dense='False'"],
    ),
    # Shapes of inputs.
    "embedding of a rank 3": (
        lambda: call(PatchEmbedding(8, 4), 16, 3),
        ["height, width", "rank 3"],
    ),
    "block of a rank 3": (lambda: call(SepViTBlock(2, 2), 16, 8), ["height, width", "rank 3"]),
    "block of unknown channels": (
        lambda: call(SepViTBlock(2, 2), 4, 4, None),
        ["static number of channels"],
    ),
    "peg of a rank 5": (lambda: call(PEG(), 2, 4, 4, 8), ["height, width", "rank 5"]),
    "attention of a map": (
        lambda: call(SeparableAttention(2), 16, 8),
        ["windows, tokens", "rank 3"],
    ),
    "images of rank 3": (
        lambda: tiny_backbone()(images((64, 64, 3))),
        [r"\(None, 64, 64, 3\)", r"\(64, 64, 3\)", r"images\[None\]"],
    ),
    "images of another channel count": (
        lambda: tiny_backbone()(images((1, 64, 64, 1))),
        [r"\(None, 64, 64, 3\)", r"\(1, 64, 64, 1\)", "repeat"],
    ),
    "grey images in a classifier": (
        lambda: tiny().predict(images((1, 64, 64, 1)), verbose=0),
        [r"\(None, 64, 64, 3\)", r"\(1, 64, 64, 1\)", "repeat"],
    ),
    "grey images in the dense form": (
        lambda: tiny_backbone((None, None, 3), dense=True)(images((1, 64, 64, 1))),
        [r"\(None, None, None, 3\)", r"\(1, 64, 64, 1\)", "repeat"],
    ),
    "images with transparency": (
        lambda: tiny()(images((1, 64, 64, 4))),
        [r"\(1, 64, 64, 4\)", r"\[\.\.\., :3\]"],
    ),
    "images of channels first": (
        lambda: tiny()(keras.Input((3, 64, 64))),
        [r"\(None, 3, 64, 64\)", "moveaxis"],
    ),
    "images of another size": (
        lambda: tiny_backbone()(images((1, 96, 64, 3))),
        [r"\(1, 96, 64, 3\)", r"Resizing\(64, 64\)", r"image_shape=\(96, 64, 3\)"],
    ),
    "images of another size in a classifier": (
        lambda: tiny()(images((1, 96, 64, 3))),
        [r"\(1, 96, 64, 3\)", r"Resizing\(64, 64\)", r"input_shape=\(96, 64, 3\)"],
    ),
    "input_shape of a number": (
        lambda: tiny(input_shape=224),
        ["`input_shape`", "=224", r"Write input_shape=\(224, 224, 3\)"],
    ),
    "input_shape of channels first": (
        lambda: tiny(input_shape=(3, 64, 64)),
        ["`input_shape`", "channels-last", r"Write input_shape=\(64, 64, 3\)"],
    ),
    "image_shape of two numbers": (
        lambda: tiny_backbone((64, 64)),
        ["`image_shape`", "height, width, channels", r"Write image_shape=\(64, 64, 3\)"],
    ),
    "image_shape of unknown channels": (
        lambda: tiny_backbone((64, 64, None), dense=True),
        ["`image_shape`", "number of channels"],
    ),
    "image_shape of zero": (lambda: tiny_backbone((0, 64, 3), dense=True), ["`image_shape`", "=0"]),
    "preprocessing of grey images": (
        lambda: tiny(input_shape=(64, 64, 1)),
        ["include_preprocessing=False", "3 channels"],
    ),
    # Heads.
    "heads that do not divide in a block": (
        lambda: call(SepViTBlock(3, 2), 4, 4, 8),
        ["`num_heads` must divide", "num_heads=3", "8 channels"],
    ),
    "heads that do not divide in an attention": (
        lambda: call(SeparableAttention(3), 2, 5, 8),
        ["`num_heads` must divide", "num_heads=3", "8 channels"],
    ),
    "heads that do not divide in a backbone": (
        lambda: SepViTBackbone(
            (8, 16, 24, 32), (1, 1, 1, 1), (1, 2, 5, 4), ((1,),) * 4, (32, 32, 3)
        ),
        ["`num_heads` must divide", "num_heads=5", "24 channels"],
    ),
    # Sizes and windows.
    "block that windows do not fit": (
        lambda: call(SepViTBlock(2, 4), 8, 6, 8),
        [r"\(4, 4\)", "8 x 6", "width must be a multiple of 4", "pad=True"],
    ),
    "backbone that windows do not fit": (
        lambda: SepViTBackbone(
            (8,) * 4, (1,) * 4, (1,) * 4, ((7,), ((7, 14),), (7,), (7,)), (256, 224, 3)
        ),
        ["256 x 224", "heights must be multiples of 224", "widths of 224", "pad_windows=True"],
    ),
    "size that windows do not scale to": (
        lambda: family((230, 224)),
        ["230 x 224", r"multiples of 32 \(32, 64, 96", "pad_windows=True", "dense=True"],
    ),
    "size of less than a window": (lambda: family((16, 16)), ["16 x 16", "multiples of 32"]),
    "classifier of such a size": (
        lambda: keras_sepvit.SepViTLite(input_shape=(250, 333, 3)),
        ["250 x 333", "multiples of 32"],
    ),
    "dynamic size in the classification form": (
        lambda: tiny_backbone((None, 64, 3), window_tokens="zeros"),
        ["fixed image size, which its windows divide", "height=None", "dense=True"],
    ),
    "dynamic size in a classifier": (
        lambda: tiny(input_shape=(None, None, 3)),
        ["fixed image size", "height=None"],
    ),
    "dynamic size with padded windows": (
        lambda: tiny_backbone((None, None, 3), pad_windows=True),
        ["static size|fixed image size", "zeros|dense=True"],
    ),
    "dynamic size with learned tokens in a block": (
        lambda: call(SepViTBlock(2, 2, pad=True), None, 4, 8),
        ["static size", "window_tokens='zeros'"],
    ),
    "dense form with learned tokens": (
        lambda: tiny_backbone(dense=True, window_tokens="learned"),
        ["dense=True", "window_tokens='learned'"],
    ),
    # Names and options.
    "unknown variant": (
        lambda: variant_config("sepvit_xl"),
        ["'sepvit_xl'", "sepvit_lite, sepvit_t"],
    ),
    "no variant": (lambda: SepViT(None), ["`variant`: None", "sepvit_lite"]),
    "unknown window tokens": (
        lambda: SepViTBlock(2, window_tokens="max"),
        ["`window_tokens`: 'max'", "'learned', 'zeros'"],
    ),
    "unknown window tokens of a backbone": (
        lambda: tiny_backbone(window_tokens="max"),
        ["`window_tokens`: 'max'"],
    ),
    "unknown global token": (
        lambda: SeparableAttention(2, "last"),
        ["`global_token`: 'last'", "'first'"],
    ),
    "unknown patch embedding": (
        lambda: tiny_backbone(patch_embedding="conv"),
        ["`patch_embedding`: 'conv'", "'overlapping'"],
    ),
    "unknown mode": (lambda: PatchEmbedding(8, 4, "same"), ["`mode`: 'same'", "'overlapping'"]),
    "unknown activation": (
        lambda: tiny(classifier_activation="sofmax"),
        ["`classifier_activation`: 'sofmax'", "Did you mean 'softmax'"],
    ),
    "unknown dtype": (lambda: tiny(dtype="bf16"), ["`dtype`", "'mixed_bfloat16'", "dtype='bf16'"]),
    "unknown pooling": (
        lambda: tiny(include_top=False, pooling="mean"),
        ["`pooling`: 'mean'", "'avg', 'max'"],
    ),
    "pooling with a head": (lambda: tiny(pooling="avg"), ["pooling='avg'", "include_top=False"]),
    # Numbers out of range.
    "classes of NaN": (lambda: tiny(classes=NAN), ["`classes`", "positive integer", "nan"]),
    "classes below zero": (lambda: tiny(classes=-1), ["`classes`", "classes=-1"]),
    "no classes": (lambda: tiny(classes=0), ["`classes`", "classes=0"]),
    "half a class": (lambda: tiny(classes=2.5), ["`classes`", "classes=2.5"]),
    "classes of None": (lambda: tiny(classes=None), ["`classes`", "None"]),
    "drop path of 1": (lambda: DropPath(1.0), ["`rate`", "below 1", "rate=1.0"]),
    "drop path below 0": (
        lambda: SepViTBlock(2, drop_path_rate=-0.1),
        ["`drop_path_rate`", "drop_path_rate=-0.1"],
    ),
    "drop path of NaN": (lambda: tiny(drop_path_rate=NAN), ["`drop_path_rate`", "nan"]),
    "drop path of a string": (
        lambda: tiny_backbone(drop_path_rate="0.1"),
        ["`drop_path_rate`", "'0.1'"],
    ),
    "no heads": (lambda: SepViTBlock(0), ["`num_heads`", "num_heads=0"]),
    "window of zero": (lambda: SepViTBlock(2, (7, 0)), ["`window_size`", "=0"]),
    "window of three sides": (lambda: SepViTBlock(2, (7, 7, 7)), ["`window_size`", r"\(7, 7, 7\)"]),
    "window of a string": (lambda: SepViTBlock(2, "7"), ["`window_size`", "'7'"]),
    "mlp_ratio of zero": (lambda: SepViTBlock(2, mlp_ratio=0), ["`mlp_ratio`", "0"]),
    "mlp_ratio of a string": (lambda: tiny_backbone(mlp_ratio="4"), ["`mlp_ratio`", "'4'"]),
    "mlp_ratio of NaN": (lambda: SepViTBlock(2, mlp_ratio=NAN), ["`mlp_ratio`", "nan"]),
    "hidden_dim of zero": (lambda: MLP(0), ["`hidden_dim`", "hidden_dim=0"]),
    "filters of zero": (lambda: PatchEmbedding(0, 4), ["`filters`", "filters=0"]),
    "strides of zero": (lambda: PatchEmbedding(8, 0), ["`strides`", "strides=0"]),
    "depths of zero": (
        lambda: SepViTBackbone(
            (8,) * 4, (1, 0, 1, 1), (1,) * 4, ((1,), (), (1,), (1,)), (32, 32, 3)
        ),
        ["`depths`", "0"],
    ),
    "three stages": (
        lambda: SepViTBackbone((8,) * 3, (1,) * 4, (1,) * 4, ((1,),) * 4),
        ["`hidden_dims`", "4 stages"],
    ),
    "channels of one number": (
        lambda: SepViT(dataclasses.replace(TINY, hidden_dims=64)),
        ["`hidden_dims`", "4 stages", "hidden_dims=64"],
    ),
    "one window a stage": (
        lambda: SepViTBackbone((8,) * 4, (1,) * 4, (1,) * 4, (7, 7, 7, 7)),
        ["`window_sizes`", "each of its blocks", r"\(7, 7, 7, 7\)"],
    ),
    "windows for fewer blocks": (
        lambda: SepViT(dataclasses.replace(TINY, depths=(2, 2, 2, 1))),
        ["`window_sizes`", "each block", r"\(2, 2, 2, 1\)"],
    ),
    # Keras's own settings.
    "input_tensor of an array": (
        lambda: tiny(input_tensor=images((1, 64, 64, 3))),
        ["`input_tensor`", "Keras tensor", "ndarray"],
    ),
    "input_tensor of rank 2": (
        lambda: tiny(input_tensor=keras.Input((64,))),
        ["`input_tensor`", "height, width", r"\(None, 64\)"],
    ),
    "input_tensor of another shape": (
        lambda: tiny(input_tensor=keras.Input((64, 64, 3)), input_shape=(96, 96, 3)),
        ["`input_shape`", "`input_tensor`", r"\(96, 96, 3\)"],
    ),
    "decoding of other class counts": (
        lambda: keras_sepvit.decode_predictions(np.zeros((1, 10))),
        ["1000", r"\(1, 10\)"],
    ),
}


@pytest.mark.parametrize("action, parts", REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_with_what_to_do(action, parts):
    with pytest.raises((TypeError, ValueError)) as error:
        action()
    for part in parts:
        error.match(part)


TAKE_MODELS = {
    "detect": lambda model: detection.detect(model, ["x.png"]),
    "segment": lambda model: segmentation.segment(model, ["x.png"]),
    "classifier": lambda model: classification.evaluate(
        model, open_source("digits", "validation"), image_size=8
    ),
    "segmenter": lambda model: segmentation.evaluate(
        model, map_sources.open_source("scenes", "validation")
    ),
    "detector": lambda model: detection.evaluate(
        model, box_sources.open_source("scenes", "validation")
    ),
    "attach_record": attach_record,
    "load_weights": lambda model: keras_sepvit.load_weights(model, OF_0_1_0),
    "save_pytorch": lambda model: keras_sepvit.save_pytorch(model, "x.safetensors"),
    "warm_start": lambda model: keras_sepvit.warm_start(model, "swin.keras"),
    "hub": lambda model: hub_detect(model, ["x.png"]),
}


@pytest.mark.parametrize("take", TAKE_MODELS.values(), ids=TAKE_MODELS)
def test_paths_are_no_models(take):
    for path, advice in (
        (pathlib.Path("best.keras"), r"`keras.saving.load_model\('best.keras'\)`"),
        ("best.onnx", r"runtime.Predictor\('best.onnx'\)`"),
        ("best.weights.h5", "Build it first, or load a whole one"),
    ):
        with pytest.raises(ValueError, match=f"must be a Keras model, no path.*{advice}"):
            take(path)


@pytest.mark.parametrize("make", [tiny, tiny_backbone], ids=["classifier", "backbone"])
def test_channels_first_is_refused(make):
    keras.config.set_image_data_format("channels_first")
    with pytest.raises(ValueError, match="channels_last"):
        make()
