"""What every network of the package goes through. A network is a line of `NETWORKS`."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import pytest
from helpers import BACKEND, SMALL, images, randomize, run, symbolic

from keras_sepvit import SepViT, SepViTBackbone
from keras_sepvit.detection import MaskRCNN, RetinaNet
from keras_sepvit.detection.detector import is_detector
from keras_sepvit.export import to_litert, to_onnx, to_torch
from keras_sepvit.export.litert_graph import inspect
from keras_sepvit.segmentation import SemanticFPN, UPerNet
from keras_sepvit.segmentation.segmenter import is_segmenter


@dataclasses.dataclass(frozen=True)
class Network:
    """How a network is made: `build(image_shape)`.

    Attributes:
        build: A function from (height, width, channels) to a model.
        odd: An image size, (height, width), that is no multiple of windows or strides.
        any_size: Whether height and width may be None.
        smooth: Whether outputs change little where weights do. Detections do not; maps do.
    """

    build: Callable
    odd: tuple
    any_size: bool
    smooth: bool = True


def classifier(image_shape):
    return SepViT(
        SMALL, classes=5, input_shape=image_shape, include_preprocessing=False, pad_windows=True
    )


def backbone(image_shape):
    return SepViTBackbone.from_variant(SMALL, image_shape, dense=True)


def hub_backbone(image_shape):
    hub = pytest.importorskip("keras_sepvit.hub")
    return hub.SepViTBackbone.from_variant(SMALL, image_shape, dense=True)


def semantic_fpn(image_shape):
    return SemanticFPN(SMALL, 5, image_shape, neck_channels=8, head_channels=8)


def upernet(image_shape):
    return UPerNet(SMALL, 5, image_shape, head_channels=8, auxiliary_channels=8)


def retinanet(image_shape):
    return RetinaNet(SMALL, 5, image_shape=image_shape, channels=8, num_convs=1)


def mask_rcnn(image_shape):
    options = {"channels": 8, "units": 8, "num_convs": 1, "proposals": 20, "max_detections": 10}
    return MaskRCNN(SMALL, 5, image_shape=image_shape, anchor_scale=2.0, **options)


NETWORKS = {
    "classifier": Network(classifier, odd=(50, 75), any_size=False),
    "backbone": Network(backbone, odd=(61, 77), any_size=True),
    "hub backbone": Network(hub_backbone, odd=(61, 77), any_size=True),
    "semantic fpn": Network(semantic_fpn, odd=(61, 77), any_size=True),
    "upernet": Network(upernet, odd=(61, 77), any_size=True),
    "retinanet": Network(retinanet, odd=(61, 77), any_size=True),
    "mask rcnn": Network(mask_rcnn, odd=(61, 77), any_size=True, smooth=False),
}

SHAPE = (64, 64, 3)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    return NETWORKS[request.param]


@pytest.fixture(scope="module")
def model(network):
    """The network at its own size, with random weights, and its outputs for two images."""
    keras.utils.set_random_seed(0)
    model = network.build(SHAPE)
    randomize(model)
    return model


@pytest.fixture(scope="module")
def expected(model):
    return outputs(model, images((2, *SHAPE)))


def outputs(model, x):
    """All that a model gives, by name: a pyramid's levels, too."""
    levels = getattr(getattr(model, "backbone", model), "pyramid_outputs", {})
    maps = {f"output{number}": output for number, output in enumerate(model.outputs)}
    whole = keras.Model(model.inputs, {**levels, **maps})
    return run(symbolic(whole) if None in model.input_shape[1:3] else whole, x)


def smooth(network, outputs):
    """Those outputs of a network that change little where its weights do."""
    return {name: x for name, x in outputs.items() if network.smooth or name.startswith("P")}


def assert_close(actual, expected, tolerance):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1, np.abs(value).max())
        np.testing.assert_allclose(actual[name], value, atol=tolerance * scale, err_msg=name)


@pytest.mark.thorough
def test_odd_and_dynamic_sizes(network):
    static = network.build((*network.odd, 3))
    randomize(static)
    found = outputs(static, images((2, *network.odd, 3)))
    for level in (2, 3, 4, 5):
        sides = tuple(-(-side // 2**level) for side in network.odd)
        assert found[f"P{level}"].shape[1:3] == sides
    assert all(np.isfinite(value).all() for value in found.values())
    assert all(value.std() > 0 for value in smooth(network, found).values())
    if network.any_size:
        dynamic = network.build((None, None, 3))
        dynamic.set_weights(static.get_weights())
        # Random weights move boxes by many times their sides.
        tolerance = 1e-5 if network.smooth else 1e-3
        assert_close(outputs(dynamic, images((2, *network.odd, 3))), found, tolerance)


def test_saves_and_loads(network, model, expected, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    model.save_weights(tmp_path / "model.weights.h5")
    other = network.build(SHAPE)
    other.load_weights(tmp_path / "model.weights.h5")
    for copy in (loaded, other):
        assert_close(outputs(copy, images((2, *SHAPE))), expected, 1e-6)


def test_mixed_precision_is_close(network, model, expected):
    keras.config.set_dtype_policy("mixed_bfloat16")
    mixed = network.build(SHAPE)
    assert {weight.dtype for weight in mixed.trainable_weights} == {"float32"}
    assert mixed.get_layer("stage1_block1").compute_dtype == "bfloat16"
    mixed.set_weights(model.get_weights())
    found = outputs(mixed, images((2, *SHAPE)))
    assert_close(smooth(network, found), smooth(network, expected), 0.1)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantised_it_loads_again(network, model, expected, tmp_path):
    quantised = network.build(SHAPE)
    quantised.set_weights(model.get_weights())
    # What is left out stays so: here the MLPs.
    quantised.quantize("int8", filters=lambda layer: layer.name not in ("fc1", "fc2"))
    found = outputs(quantised, images((2, *SHAPE)))
    assert any(np.abs(found[name] - expected[name]).max() > 0 for name in expected)
    assert_close(smooth(network, found), smooth(network, expected), 0.2)
    loaded = quantised
    for generation in range(2):
        loaded.save(tmp_path / f"{generation}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{generation}.keras")
    assert type(loaded) is type(model)
    assert_close(outputs(loaded, images((2, *SHAPE))), found, 0)
    layers = {layer.path: layer for layer in loaded._flatten_layers()}
    assert layers["stage2_block1/attn/dsa_qkv"].quantization_mode == "int8"
    assert layers["stage2_block1/mlp/fc1"].quantization_mode is None
    assert layers["stage2_block1"].compute_dtype == layers["stage2_block1/mlp"].compute_dtype


@pytest.mark.thorough
@pytest.mark.parametrize(
    "export, suffix, backend",
    [(to_litert, "tflite", "tensorflow"), (to_onnx, "onnx", "torch"), (to_torch, "pt2", "torch")],
)
def test_exports_agree(export, suffix, backend, network, tmp_path):
    """In the files' own runtimes, at the odd size, from the backend that converts.

    From other backends see the tests of each format.
    """
    if BACKEND != backend:
        pytest.skip(f"{backend} converts")
    if network.build is hub_backbone and suffix != "tflite":
        pytest.skip("the backbone's layers under another name")
    if not network.smooth:
        pytest.skip("detections, which have their own tests")
    model = network.build((*network.odd, 3))
    randomize(model)
    options = {"logits": True} if is_segmenter(model) else {}  # class maps: test_segmenter_files
    options = {"raw": True} if is_detector(model) else options
    report = export(model, tmp_path / f"model.{suffix}", batch_size=2, verbose=False, **options)
    # Raw maps of random weights reach into the hundreds.
    assert min(report.max_error, 10 * report.relative_error) < 1e-4 and report.images > 0
    if suffix == "tflite":
        graph = inspect(tmp_path / "model.tflite")
        assert graph.max_rank <= 4 and graph.partitions == 1 and not graph.not_delegated
