"""SepViT as KerasHub models: presets, raw images, and KerasHub's own test harness."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import BACKEND, SMALL, images, randomize, run, to_numpy, weights_by_name
from keras import ops

import keras_sepvit

hub_test_case = pytest.importorskip(
    "keras_hub.src.tests.test_case", reason="needs the `hub` extra: keras-hub[grain]"
)

import keras_hub  # noqa: E402
from keras_hub.src.utils import preset_utils  # noqa: E402

from keras_sepvit import hub  # noqa: E402

pytestmark = [pytest.mark.hub, pytest.mark.by_default_on("torch")]

SHAPE = (64, 64, 3)
FORMS = pytest.mark.parametrize("dense", [False, True], ids=["classification", "dense"])


def hub_backbone(image_shape=SHAPE, **kwargs):
    return hub.SepViTBackbone.from_variant(SMALL, image_shape=image_shape, **kwargs)


def hub_classifier(backbone=None, num_classes=3, **kwargs):
    converter = hub.SepViTImageConverter(SHAPE[:2])
    return hub.SepViTImageClassifier(
        backbone or hub_backbone(),
        num_classes,
        preprocessor=hub.SepViTImageClassifierPreprocessor(converter),
        **kwargs,
    )


def predict(model, raw):
    """`model.predict`, without XLA on TensorFlow, where compiling takes longer than all else."""
    model.jit_compile = BACKEND == "jax"
    return model.predict(raw, verbose=0)


def raw_images(height=64, width=64, count=2):
    return np.random.default_rng(1).integers(0, 256, (count, height, width, 3), dtype="uint8")


def normalised(pixels):
    """ImageNet's normalisation, from the published numbers for pixels of 0..1."""
    return ((pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype("float32")


def assert_same_weights(layer, other):
    expected = weights_by_name(other)
    actual = weights_by_name(layer)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


@FORMS
def test_backbone_preset_round_trip(tmp_path, dense):
    backbone = hub_backbone(dense=dense)
    randomize(backbone)
    backbone.freeze(1)
    backbone.save_to_preset(str(tmp_path))
    loaded = hub.SepViTBackbone.from_preset(str(tmp_path))

    assert type(loaded) is hub.SepViTBackbone
    assert [layer.trainable for layer in loaded.layers] == [x.trainable for x in backbone.layers]
    assert loaded.get_config() == backbone.get_config()
    pyramid = keras.Model(backbone.inputs, backbone.pyramid_outputs)
    loaded_pyramid = keras.Model(loaded.inputs, loaded.pyramid_outputs)
    x = images((1, *SHAPE))
    expected, actual = run(pyramid, x), run(loaded_pyramid, x)
    assert list(actual) == ["P2", "P3", "P4", "P5"]
    for level in expected:
        np.testing.assert_array_equal(actual[level], expected[level])


def test_hub_backbone_is_the_network_of_the_package(tmp_path):
    hub_model = hub_backbone()
    randomize(hub_model)
    hub_model.save_to_preset(str(tmp_path))
    own_model = keras_sepvit.SepViTBackbone.from_variant(SMALL, image_shape=SHAPE)
    report = keras_sepvit.load_weights(own_model, tmp_path / "model.weights.h5")

    assert not report.new and not report.unused
    assert_same_weights(own_model, hub_model)
    x = images((1, *SHAPE))
    np.testing.assert_array_equal(run(own_model, x), run(hub_model, x))


def test_names_of_the_classes_do_not_collide():
    for name in ("SepViTBackbone", "SepViTImageClassifier"):
        hub_class = getattr(hub, name)
        assert keras.saving.get_registered_name(hub_class) == f"keras_sepvit.hub>{name}"
    own = keras.saving.get_registered_object("keras_sepvit>SepViTBackbone")
    assert own is keras_sepvit.SepViTBackbone


def test_classifier_of_the_package_as_a_preset(tmp_path):
    own = keras_sepvit.SepViT(SMALL, classes=3, input_shape=SHAPE)
    randomize(own)
    own.save_weights(tmp_path / "own.weights.h5")

    backbone = hub_backbone()
    report = keras_sepvit.load_weights(backbone, tmp_path / "own.weights.h5")
    assert not report.new and len(report.unused) == 2  # the head
    classifier = hub_classifier(backbone, activation="softmax")
    classifier.output_dense.set_weights(own.get_layer("head").get_weights())
    classifier.save_to_preset(str(tmp_path / "preset"))
    loaded = keras_hub.models.ImageClassifier.from_preset(str(tmp_path / "preset"))

    assert type(loaded) is hub.SepViTImageClassifier
    raw = raw_images()
    np.testing.assert_allclose(predict(loaded, raw), predict(own, raw), rtol=1e-4, atol=1e-5)


def test_classifier_preset_predicts_raw_images_of_another_size(tmp_path):
    classifier = hub_classifier()
    randomize(classifier)
    classifier.save_to_preset(str(tmp_path))
    loaded = hub.SepViTImageClassifier.from_preset(str(tmp_path))
    assert loaded.preprocessor.image_size == (64, 64)

    raw = raw_images(80, 96)
    logits = predict(classifier, raw)
    np.testing.assert_array_equal(predict(loaded, raw), logits)

    square = raw[:, :, 8:88].astype("float32")  # the largest at the centre
    resized = np.round(to_numpy(ops.image.resize(square, (64, 64), data_format="channels_last")))
    np.testing.assert_allclose(run(classifier, normalised(resized)), logits, rtol=1e-3, atol=1e-4)


def test_preset_with_another_number_of_classes(tmp_path):
    classifier = hub_classifier()
    randomize(classifier)
    classifier.save_to_preset(str(tmp_path))
    loaded = hub.SepViTImageClassifier.from_preset(str(tmp_path), num_classes=5)

    assert_same_weights(loaded.backbone, classifier.backbone)
    assert loaded.output_shape == (None, 5)
    assert loaded.preprocessor.image_size == (64, 64)


def test_weights_of_a_preset_at_another_image_size(tmp_path):
    backbone = hub_backbone()
    randomize(backbone)
    backbone.save_to_preset(str(tmp_path))
    with pytest.raises(ValueError, match="heights must be multiples of"):
        hub.SepViTBackbone.from_preset(str(tmp_path), image_shape=(96, 96, 3))

    larger = hub_backbone(image_shape=(96, 96, 3))
    keras_sepvit.load_weights(larger, tmp_path / "model.weights.h5")
    assert_same_weights(larger, backbone)


def test_dense_preset_at_another_image_size(tmp_path):
    backbone = hub_backbone(dense=True, image_shape=(None, None, 3))
    backbone.save_to_preset(str(tmp_path))
    loaded = hub.SepViTBackbone.from_preset(str(tmp_path), image_shape=(96, 96, 3))
    assert loaded.output_shape == (None, 3, 3, 32)
    assert_same_weights(loaded, backbone)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_converter_normalises_in_float32(policy):
    keras.config.set_dtype_policy(policy)
    converter = hub.SepViTImageConverter()
    raw = raw_images(5, 7)
    converted = converter(raw)
    assert keras.backend.standardize_dtype(converted.dtype) == "float32"
    np.testing.assert_allclose(to_numpy(converted), normalised(raw), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_numpy(converter(raw[0])), normalised(raw[0]), atol=1e-6)


def test_lora_adapts_queries_keys_and_values():
    backbone = hub_backbone()
    backbone.enable_lora(rank=2)
    adapted = {w.path.split("/lora_")[0] for w in backbone.trainable_weights if "lora_" in w.path}
    attention = {f"stage{stage}_block1/attn/" for stage in (1, 2, 3, 4)}
    # The last stage has one window, and so no PSA.
    assert adapted == {f"{name}dsa_qkv" for name in attention} | {
        f"{name}psa_qk" for name in attention - {"stage4_block1/attn/"}
    }


@pytest.mark.once
@pytest.mark.parametrize(
    "address, downloader, handle",
    [
        ("hf://someone/sepvit", ("huggingface_hub", "hf_hub_download"), "someone/sepvit"),
        (
            "kaggle://someone/sepvit/keras/tiny",
            ("kagglehub", "model_download"),
            "someone/sepvit/keras/tiny",
        ),
    ],
)
def test_addresses_are_passed_to_the_hubs(tmp_path, monkeypatch, address, downloader, handle):
    """With the hubs' download functions replaced by reads of a folder."""
    backbone = hub_backbone()
    backbone.save_to_preset(str(tmp_path))
    asked = set()

    def download(repo_id, filename):
        asked.add((repo_id, pathlib.Path(filename).name))
        return str(tmp_path / filename)

    module, function = downloader
    monkeypatch.setattr(getattr(preset_utils, module), function, download)
    loaded = hub.SepViTBackbone.from_preset(address)
    assert asked == {(handle, "config.json"), (handle, "model.weights.h5")}
    assert_same_weights(loaded, backbone)


@pytest.mark.once
def test_without_kerashub():
    """What needs it names the extra; KerasCV's backbone does without."""
    script = """
import sys
sys.modules["keras_hub"] = None
from keras_sepvit import hub
try:
    hub.SepViTBackbone
except ImportError as error:
    assert "SepViTBackbone` needs KerasHub" in str(error) and "keras-sepvit[hub]" in str(error)
else:
    raise AssertionError("no error")
assert not hasattr(hub, "nothing")
assert hub.keras_cv_backbone("sepvit_lite", image_shape=(64, 64, 3)).pyramid_level_inputs
"""
    subprocess.run([sys.executable, "-c", script], check=True)


class SepViTHubTest(hub_test_case.TestCase):
    def setUp(self):
        super().setUp()
        self.backbone_kwargs = {
            "hidden_dims": SMALL.hidden_dims,
            "depths": SMALL.depths,
            "num_heads": SMALL.num_heads,
            "window_sizes": SMALL.window_sizes,
            "image_shape": SHAPE,
        }

    @pytest.mark.by_default_on("tensorflow", "torch")
    def test_backbone(self):
        self.run_vision_backbone_test(
            cls=hub.SepViTBackbone,
            init_kwargs=self.backbone_kwargs,
            input_data=ops.convert_to_tensor(images((2, *SHAPE))),
            expected_output_shape=(2, 2, 2, 32),
            expected_pyramid_output_keys=["P2", "P3", "P4", "P5"],
            expected_pyramid_image_sizes=[(16, 16), (8, 8), (4, 4), (2, 2)],
            run_quantization_check=False,  # test_battery.py does
            # SepViT takes channels-last images only.
            run_data_format_check=False,
        )

    @pytest.mark.by_default_on("jax", "torch")
    def test_classifier(self):
        classifier = hub_classifier(hub.SepViTBackbone(**self.backbone_kwargs))
        self.run_task_test(
            cls=hub.SepViTImageClassifier,
            init_kwargs={
                "backbone": classifier.backbone,
                "num_classes": 3,
                "preprocessor": classifier.preprocessor,
            },
            # Floats: resized integers are rounded, ties not alike in tf.data and elsewhere.
            train_data=(raw_images(80, 96).astype("float32"), np.array([0, 2])),
            expected_output_shape=(2, 3),
        )
