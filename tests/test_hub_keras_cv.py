"""SepViT in KerasCV's detectors and segmenters."""

import keras
import numpy as np
import pytest
from helpers import BACKEND, SMALL, to_numpy

keras_cv = pytest.importorskip("keras_cv", reason="needs the `cv` extra: keras-cv")

from keras_sepvit import hub  # noqa: E402

pytestmark = pytest.mark.by_default_on("torch")

BOXES = np.float32([[[4, 4, 40, 40], [10, 10, 60, 60]], [[10, 20, 42, 50], [-1, -1, -1, -1]]])
CLASSES = np.float32([[1, 2], [0, -1]])


def backbone(image_shape=(64, 64, 3), **kwargs):
    return hub.keras_cv_backbone(SMALL, image_shape=image_shape, **kwargs)


def retinanet():
    detector = keras_cv.models.RetinaNet(
        backbone=backbone(),
        num_classes=3,
        bounding_box_format="xyxy",
        prediction_decoder=hub.ClassWiseNonMaxSuppression("xyxy", labels_key="classes"),
    )
    return detector, {"box_loss": "smoothl1", "classification_loss": "focal"}


def yolo():
    detector = keras_cv.models.YOLOV8Detector(
        backbone=backbone(),
        num_classes=3,
        bounding_box_format="xyxy",
        fpn_depth=1,
        prediction_decoder=hub.ClassWiseNonMaxSuppression(
            "xyxy", from_logits=False, labels_key="classes"
        ),
    )
    return detector, {"box_loss": "ciou", "classification_loss": "binary_crossentropy"}


def predict(detector, images):
    detector.jit_compile = BACKEND == "jax"
    return to_numpy(detector.predict(images, verbose=0))


@pytest.mark.parametrize("build", [retinanet, pytest.param(yolo, marks=pytest.mark.thorough)])
def test_detectors_fit_predict_save_and_load(build, tmp_path):
    detector, losses = build()
    detector.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=BACKEND == "jax", **losses)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("float32")
    history = detector.fit(
        images, {"boxes": BOXES, "classes": CLASSES}, batch_size=2, epochs=2, verbose=0
    )
    assert np.isfinite(history.history["loss"]).all()

    expected = predict(detector, images)
    assert expected["boxes"].shape == (2, 100, 4) and expected["classes"].shape == (2, 100)
    detector.save(tmp_path / "detector.keras")
    loaded = keras.saving.load_model(tmp_path / "detector.keras", compile=False)
    assert type(loaded.backbone) is hub.KerasCVBackbone
    actual = predict(loaded, images)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.mark.thorough
def test_deeplab_fits_and_predicts():
    segmenter = keras_cv.models.DeepLabV3Plus(backbone=backbone(), num_classes=3)
    segmenter.compile(
        "adam",
        # Its head gives probabilities, on whose sparse maps Keras's loss fails under PyTorch.
        loss=keras.losses.CategoricalCrossentropy(),
        jit_compile=BACKEND == "jax",
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("float32")
    maps = np.eye(3, dtype="float32")[(images.mean(axis=-1) // 86).astype(int)]
    losses = segmenter.fit(images, maps, batch_size=2, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert predict(segmenter, images).shape == (2, 64, 64, 3)


def test_levels_are_named_layers_that_survive_serialization():
    original = backbone(image_shape=(None, None, 3))
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(original))
    for model in (original, copy):
        levels = model.pyramid_level_inputs
        assert levels == {f"P{stage + 1}": f"stage{stage}_norm" for stage in (1, 2, 3, 4)}
        for name in levels.values():
            assert len(model.get_layer(name)._inbound_nodes) == 1
        assert len(model.inputs) == 1
    assert copy.get_config() == original.get_config()
    assert keras.saving.get_registered_name(type(copy)) == "keras_sepvit.hub>KerasCVBackbone"


def test_pixels_are_normalised_inside():
    keras.utils.set_random_seed(0)
    inside = backbone()
    outside = backbone(include_preprocessing=False)
    outside.set_weights(inside.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype("float32")
    normalised = keras.applications.imagenet_utils.preprocess_input(pixels.copy(), mode="torch")
    np.testing.assert_allclose(
        to_numpy(inside(pixels)), to_numpy(outside(normalised)), rtol=1e-4, atol=1e-4
    )


def test_warm_start_from_a_classifier():
    from keras_sepvit.configs import DIGITS_CONFIG

    with pytest.warns(UserWarning, match="Loaded 108 of the model's 128"):
        hub.keras_cv_backbone(DIGITS_CONFIG, weights="digits")


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"image_shape": (500, 512, 3)}, r"multiples of 32.*image_shape=\(500, 512, 3\)"),
        ({"dense": False}, "`KerasCVBackbone` .* dense form alone"),
        ({"dense": False, "image_shape": (None, None, 3)}, "dense form alone"),
        ({"image_shape": 64}, r"must be \(height, width, channels\).*64"),
        ({"weights": "digits"}, "do not fit model"),
        ({"weights": "imagenet"}, "nobody has published ImageNet weights"),
        ({"variant": "resnet50"}, "Unknown `variant`: 'resnet50'"),
    ],
)
def test_wrong_use_is_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        hub.keras_cv_backbone(**{"variant": SMALL, "image_shape": (64, 64, 3), **arguments})
