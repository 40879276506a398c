"""SepViT in KerasHub's segmenters."""

import keras
import numpy as np
import pytest
from helpers import BACKEND, SMALL, to_numpy

pytest.importorskip("keras_hub", reason="needs the `hub` extra: keras-hub[grain]")

import keras_hub  # noqa: E402

from keras_sepvit import hub  # noqa: E402

pytestmark = pytest.mark.hub

SHAPE = (64, 96, 3)


def deeplab():
    encoder = hub.SepViTBackbone.from_variant(SMALL, SHAPE, dense=True, include_preprocessing=True)
    backbone = keras_hub.models.DeepLabV3Backbone(
        encoder,
        spatial_pyramid_pooling_key="P5",
        upsampling_size=8,
        dilation_rates=[1, 2],
        low_level_feature_key="P2",
        image_shape=SHAPE,
    )
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone, num_classes=3)


def segformer():
    encoder = hub.SegFormerEncoder.from_variant(SMALL, SHAPE, include_preprocessing=True)
    backbone = keras_hub.models.SegFormerBackbone(encoder, projection_filters=16)
    return keras_hub.models.SegFormerImageSegmenter(backbone, num_classes=3)


def predict(segmenter, images):
    segmenter.jit_compile = BACKEND == "jax"
    return to_numpy(segmenter.predict(images, verbose=0))


@pytest.mark.by_default_on("torch")
@pytest.mark.parametrize("build", [deeplab, segformer])
def test_fits_predicts_saves_and_loads(build, tmp_path):
    segmenter = build()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, *SHAPE), dtype="uint8")
    maps = (images.mean(axis=-1) // 86).astype("int32")
    segmenter.compile(
        keras.optimizers.Adam(3e-3),
        # On maps of probabilities Keras's sparse cross-entropy fails under PyTorch.
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[],
        jit_compile=BACKEND == "jax",
    )
    losses = segmenter.fit(images, maps, batch_size=2, epochs=4, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]

    expected = predict(segmenter, images)
    assert expected.shape == (2, 64, 96, 3)
    segmenter.save(tmp_path / "segmenter.keras")
    loaded = keras.saving.load_model(tmp_path / "segmenter.keras", compile=False)
    np.testing.assert_array_equal(predict(loaded, images), expected)

    segmenter.save_to_preset(str(tmp_path / "preset"))
    loaded = keras_hub.models.ImageSegmenter.from_preset(str(tmp_path / "preset"))
    assert type(loaded) is type(segmenter)
    assert type(loaded.backbone.image_encoder) is type(segmenter.backbone.image_encoder)
    np.testing.assert_array_equal(predict(loaded, images), expected)


def test_segformer_has_the_levels_of_mit():
    encoder = hub.SegFormerEncoder.from_variant(SMALL, SHAPE)
    shapes = {level: output.shape[1:] for level, output in encoder.pyramid_outputs.items()}
    assert shapes == {
        "P1": (16, 24, 8),
        "P2": (8, 12, 16),
        "P3": (4, 6, 24),
        "P4": (2, 3, 32),
    }
    assert encoder.hidden_dims == (8, 16, 24, 32)
    copy = hub.SegFormerEncoder.from_config(encoder.get_config())
    assert copy.get_config() == encoder.get_config()


def test_warm_start_from_a_classifier():
    from keras_sepvit.configs import DIGITS_CONFIG

    with pytest.warns(UserWarning, match="Loaded 108 of the model's 128"):
        hub.SegFormerEncoder.from_variant(DIGITS_CONFIG, (64, 64, 3), weights="digits")


def test_wrong_use_is_told():
    with pytest.raises(ValueError, match=r"static image size.*\(None, None, 3\)"):
        hub.SegFormerEncoder.from_variant(SMALL, (None, None, 3))
    with pytest.raises(ValueError, match="`SegFormerEncoder` .* dense form alone"):
        hub.SegFormerEncoder.from_variant(SMALL, SHAPE, dense=False)
