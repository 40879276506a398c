import dataclasses
import json
import pickle
import warnings

import keras
import numpy as np
import pytest
from helpers import (
    SMALL,
    TINY,
    images,
    randomize,
    run,
    symbolic,
    tiny_backbone,
    to_numpy,
    weights_by_name,
)

from keras_sepvit import SepViT, SepViTBackbone, variant_config
from keras_sepvit.configs import ABLATIONS, VARIANTS
from keras_sepvit.geometry import scale_windows

FORMS = pytest.mark.parametrize("dense", [False, True], ids=["classification", "dense"])


@pytest.mark.once
@pytest.mark.parametrize(
    "variant, parameters",
    [("sepvit_t", 33_655_392), ("sepvit_s", 50_222_688), ("sepvit_b", 89_213_056)],
)
def test_parameters_of_the_dense_form(variant, parameters):
    backbone = SepViTBackbone.from_variant(variant, dense=True, image_shape=(None, None, 3))
    assert backbone.count_params() == parameters


def count_parameters(config, dense=False):
    """Parameters by the design, without the head, at the configuration's image size."""
    total, channels_in, side = 0, 3, config.image_size
    overlapping = config.patch_embedding == "overlapping"
    for stage, (channels, windows) in enumerate(
        zip(config.hidden_dims, config.window_sizes, strict=True)
    ):
        stride = 2 if stage else 4
        kernel = 2 * stride - 1 if overlapping else stride
        total += kernel**2 * channels_in * channels + 3 * channels  # with its bias and norm
        total += 9 * channels + channels  # PEG
        side //= stride
        for window in windows:
            total += 4 * channels  # norm1, norm2
            total += 4 * channels**2 + 4 * channels  # dsa_qkv, proj
            total += 8 * channels**2 + 5 * channels  # MLP
            count = (side // window) ** 2
            if count == 1 and not dense:
                continue
            total += 2 * channels + 2 * channels**2 + 2 * channels  # PSA's norm, psa_qk
            if config.window_tokens == "learned" and not dense:
                total += count * channels
            if config.window_tokens == "depthwise_conv":
                total += window**2 * channels + channels
        total += 2 * channels * dense
        channels_in = channels
    return total if dense else total + 2 * channels


@pytest.mark.once
@FORMS
def test_parameters_follow_the_formula(dense):
    assert tiny_backbone(dense=dense).count_params() == count_parameters(TINY, dense)
    # The formula itself, on the family: the design's totals, less the heads of 1000 classes.
    assert count_parameters(VARIANTS["sepvit_t"]) == 31_182_856 - 769_000
    assert count_parameters(VARIANTS["sepvit_b"], dense=True) == 89_213_056


TINY_ABLATIONS = {**ABLATIONS, "no_gsa": {"window_sizes": ((4,), (2, 2), (2, 2), (2,))}}


@pytest.mark.once
@pytest.mark.parametrize("name", TINY_ABLATIONS)
def test_ablations_are_configurations_of_the_same_code(name):
    config = dataclasses.replace(TINY, **TINY_ABLATIONS[name])
    backbone = SepViTBackbone.from_variant(config, image_shape=(64, 64, 3))
    assert backbone.count_params() == count_parameters(config)
    assert backbone.output_shape == (None, 2, 2, 32)
    dense = SepViTBackbone.from_variant(config, image_shape=(64, 64, 3), dense=True)
    assert dense.count_params() == count_parameters(config, dense=True)


@pytest.mark.once
@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_of_the_paper_fit_sepvit_t(name):
    config = dataclasses.replace(VARIANTS["sepvit_t"], **ABLATIONS[name])
    assert [len(windows) for windows in config.window_sizes] == list(config.depths)
    changed = config.architecture().items() - VARIANTS["sepvit_t"].architecture().items()
    assert dict(changed) == ABLATIONS[name]


@pytest.mark.once
@pytest.mark.parametrize(
    "image_size, dense", [((64, 64), False), ((96, 160), False), ((61, 77), True)]
)
def test_pyramid_levels_have_strides_of_4_to_32(image_size, dense):
    backbone = tiny_backbone((*image_size, 3), dense=dense)
    assert list(backbone.pyramid_outputs) == ["P2", "P3", "P4", "P5"]
    for level, channels in zip(range(2, 6), TINY.hidden_dims, strict=True):
        height, width = (-(-side // 2**level) for side in image_size)
        assert backbone.pyramid_outputs[f"P{level}"].shape == (None, height, width, channels)


@pytest.mark.once
def test_levels_of_the_classification_form_precede_the_final_norm():
    backbone = tiny_backbone()
    names = ["stage1_peg", "stage2_block2", "stage3_block2", "stage4_peg"]
    for level, name in zip(backbone.pyramid_outputs.values(), names, strict=True):
        assert level is backbone.get_layer(name).output
    assert backbone.get_layer("norm").input is backbone.pyramid_outputs["P5"]
    assert backbone.get_layer("norm").output is backbone.output
    assert backbone.get_layer("norm").epsilon == 1e-6


@pytest.mark.once
def test_levels_of_the_dense_form_are_normed_in_the_stream():
    backbone = tiny_backbone(dense=True)
    for stage, level in enumerate(backbone.pyramid_outputs.values(), start=1):
        norm = backbone.get_layer(f"stage{stage}_norm")
        assert level is norm.output
        assert norm.epsilon == 1e-6
    assert backbone.get_layer("stage2_embed").input is backbone.pyramid_outputs["P2"]
    assert backbone.output is backbone.pyramid_outputs["P5"]


def test_batches_of_any_size_do_not_mix():
    backbone = tiny_backbone()
    randomize(backbone)
    assert backbone.input_shape == (None, 64, 64, 3)
    x = images((3, 64, 64, 3))
    alone = run(backbone, x[1:2])
    assert alone.shape == (1, 2, 2, 32)
    np.testing.assert_allclose(alone, run(symbolic(backbone), x)[1:2], atol=1e-4)


@pytest.mark.once
def test_windows_scale_with_the_image():
    windows = VARIANTS["sepvit_t"].window_sizes
    assert scale_windows(windows, 224, 224, 224)[1] == ((7, 7), (14, 14))
    scaled = scale_windows(windows, 224, 192, 320)
    assert scaled[0] == ((6, 10),)
    assert scaled[1] == ((6, 10), (12, 20))


def test_weights_of_one_size_fit_a_rectangle_of_another():
    # 192 x 320 is the rectangle of the real models: windows of 12 x 20 positions here.
    small, large = tiny_backbone((64, 64, 3)), tiny_backbone((192, 320, 3))
    randomize(small)
    large.set_weights(small.get_weights())
    assert large.get_layer("stage1_block1").window_size == (12, 20)
    outputs = run(large, images((1, 192, 320, 3)))
    assert outputs.shape == (1, 6, 10, 32)
    assert np.isfinite(outputs).all()


def test_padded_windows_take_sizes_that_windows_cannot_scale_to():
    backbone = tiny_backbone((50, 75, 3), pad_windows=True)
    assert backbone.get_layer("stage2_block2").window_size == (4, 4)
    # 7 x 10 positions in windows of 4 x 4: 2 x 3 windows with a token each.
    assert backbone.get_layer("stage2_block2").win_tokens.shape == (1, 6, 1, 16)
    assert backbone.output_shape == (None, 2, 3, 32)


@pytest.mark.once
def test_drop_path_rises_linearly_over_the_blocks():
    backbone = tiny_backbone(drop_path_rate=0.5)
    rates = [layer.drop_path.rate for layer in backbone.layers if "_block" in layer.name]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert tiny_backbone().get_layer("stage4_block1").drop_path_rate == TINY.drop_path_rate
    assert tiny_backbone(drop_path_rate=0.0).get_layer("stage4_block1").drop_path_rate == 0


@pytest.mark.once
def test_a_stage_runs_its_peg_after_its_first_block():
    names = [layer.name for layer in tiny_backbone().layers if layer.name.startswith("stage3")]
    assert names == ["stage3_embed", "stage3_block1", "stage3_peg", "stage3_block2"]


def test_features_can_be_taken_by_layer_name():
    backbone = tiny_backbone()
    features = keras.Model(backbone.input, backbone.get_layer("stage2_embed").output)
    assert run(features, images((1, 64, 64, 3))).shape == (1, 8, 8, 16)


@pytest.mark.once
def test_summary_names_every_layer_and_the_total():
    backbone = tiny_backbone()
    lines = []
    backbone.summary(print_fn=lambda line, **_: lines.append(line), line_length=120)
    text = "\n".join(lines)
    for layer in backbone.layers:
        assert layer.name in text
    assert f"{backbone.count_params():,}" in text


@FORMS
def test_config_round_trip(dense):
    backbone = tiny_backbone(
        (None, None, 3) if dense else (64, 96, 3),
        dense=dense,
        drop_path_rate=0.2,
        patch_embedding="non_overlapping",
        mlp_ratio=2,
        dtype="mixed_bfloat16",
        name="features",
        trainable=False,
    )
    config = json.loads(json.dumps(backbone.get_config()))
    revived = SepViTBackbone.from_config(config)
    assert json.dumps(revived.get_config()) == json.dumps(backbone.get_config())
    assert revived.name == "features"
    assert not revived.trainable
    assert revived.input_shape == backbone.input_shape
    assert [w.path for w in revived.weights] == [w.path for w in backbone.weights]
    assert revived.get_layer("stage3_block2").get_config() == (
        backbone.get_layer("stage3_block2").get_config()
    )


def test_a_clone_is_a_new_model_of_the_same_shape():
    backbone = tiny_backbone()
    clone = keras.models.clone_model(backbone)
    assert clone.count_params() == backbone.count_params()
    assert clone.output_shape == backbone.output_shape
    kernel, copied = (m.get_layer("stage1_embed").proj.kernel for m in (backbone, clone))
    assert kernel is not copied
    kernel.assign(kernel + 1)
    assert not np.allclose(to_numpy(kernel), to_numpy(copied))


@pytest.mark.once
def test_variants_have_the_name_of_their_constructor_too():
    assert variant_config("SepViTB") is variant_config("sepvit_b") is VARIANTS["sepvit_b"]
    assert variant_config(TINY) is TINY


def test_all_layers_are_built_with_the_model():
    # One that is not makes JAX run the whole model once before it compiles it.
    unbuilt = [layer.path for layer in tiny_backbone()._flatten_layers() if not layer.built]
    assert not unbuilt


@pytest.mark.once
def test_architecture_is_told_and_cannot_be_set():
    backbone = tiny_backbone()
    assert backbone.hidden_dims == TINY.hidden_dims and backbone.depths == TINY.depths
    assert backbone.num_heads == TINY.num_heads and backbone.image_shape == (64, 64, 3)
    assert backbone.dense is False and backbone.include_preprocessing is False
    with pytest.raises(AttributeError):
        backbone.depths = (1, 1, 1, 1)


def test_preprocessing_inside_is_that_of_keras():
    inside = tiny_backbone(dense=True, include_preprocessing=True)
    outside = tiny_backbone(dense=True)
    outside.set_weights(inside.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype("float32")
    normalised = keras.applications.imagenet_utils.preprocess_input(pixels.copy(), mode="torch")
    np.testing.assert_allclose(run(inside, pixels), run(outside, normalised), atol=1e-4)
    copy = SepViTBackbone.from_config(inside.get_config())
    assert copy.include_preprocessing
    with pytest.raises(ValueError, match="RGB images with 3 channels"):
        tiny_backbone(image_shape=(64, 64, 4), include_preprocessing=True)


@pytest.mark.parametrize("dense", [False, True])
def test_weights_of_a_classifier_at_another_size(dense, tmp_path):
    classifier = SepViT(TINY, classes=3)
    randomize(classifier)
    classifier.save_weights(tmp_path / "classifier.weights.h5")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backbone = tiny_backbone(
            (128, 128, 3), dense=dense, weights=tmp_path / "classifier.weights.h5"
        )
    told = [str(warning.message) for warning in caught if "weights" in str(warning.message)]
    assert len(told) == dense and all("stage4_norm/gamma" in message for message in told)
    expected, actual = weights_by_name(classifier), weights_by_name(backbone)
    shared = expected.keys() & actual.keys()
    assert len(shared) > 50
    for name in shared:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


@pytest.mark.parametrize("build", [lambda: tiny_backbone(dense=True), lambda: SepViT(TINY)])
def test_freeze_keeps_the_first_stages(build):
    backbone = build()
    count = len(backbone.trainable_weights)
    backbone.freeze(2)
    frozen = {weight.path for weight in backbone.weights} - {
        weight.path for weight in backbone.trainable_weights
    }
    frozen = {path for path in frozen if "seed_generator" not in path}
    assert frozen and all(path.startswith(("stage1_", "stage2_")) for path in frozen)
    assert {"stage2_block1/norm1/gamma", "stage1_embed/proj/kernel"} < frozen
    assert ("stage2_norm/gamma" in frozen) == backbone.dense
    assert not any(w.path.startswith(("stage1_", "stage2_")) for w in backbone.trainable_weights)
    backbone.freeze(0)
    assert len(backbone.trainable_weights) == count
    with pytest.raises(ValueError, match="Unknown `stages`: 5"):
        backbone.freeze(5)


def saved_and_loaded(model, folder):
    model.save(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras")


COPIES = {
    "file": saved_and_loaded,
    "clone": lambda model, _: keras.models.clone_model(model),
    "config": lambda model, _: type(model).from_config(model.get_config()),
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.thorough
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_what_is_frozen_stays_frozen_in_copies(copied, tmp_path):
    def trainable(model):
        return sorted(weight.path for weight in model.trainable_weights)

    stages, whole = (SepViTBackbone.from_variant(SMALL, (64, 64, 3)) for _ in range(2))
    classifier = SepViT(SMALL, classes=3)
    stages.freeze(2)
    classifier.freeze(3)
    whole.trainable = False
    assert not any(path.startswith(("stage1_", "stage2_")) for path in trainable(stages))
    assert trainable(copied(stages, tmp_path)) == trainable(stages)
    assert trainable(copied(classifier, tmp_path)) == trainable(classifier)

    # Inside another model, made so or not, with a layer of it that trains.
    made = SepViTBackbone.from_variant(SMALL, (64, 64, 3), trainable=False)
    partly = SepViTBackbone.from_variant(SMALL, (64, 64, 3))
    partly.trainable = False
    partly.get_layer("norm").trainable = True
    for inner, count in ((whole, 0), (made, 0), (partly, 2)):
        outer = keras.Sequential([inner, keras.layers.Flatten(), keras.layers.Dense(3)])
        for model in (outer, copied(outer, tmp_path)):
            assert len(model.trainable_weights) == count + 2

    pooled = keras.layers.GlobalAveragePooling2D()(whole.output)
    tuned = keras.Model(whole.input, keras.layers.Dense(3, name="head")(pooled))
    copy = copied(tuned, tmp_path)
    assert trainable(copy) == ["head/bias", "head/kernel"]
    before = {weight.path: to_numpy(weight) for weight in copy.weights}
    copy.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    copy.fit(images((4, 64, 64, 3)), np.array([0, 1, 2, 0]), verbose=0)
    moved = [w.path for w in copy.weights if not np.array_equal(before[w.path], to_numpy(w))]
    assert sorted(moved) == ["head/bias", "head/kernel"]
