"""A SepViT that starts from a Swin: where the weights go, the report, errors, runs of recipes."""

import dataclasses
import re

import keras
import numpy as np
import pytest
import training_data
from helpers import TINY, images, randomize, run, to_numpy

from keras_sepvit import SepViT, SepViTBackbone, warm_start
from keras_sepvit.classification import task as classification
from keras_sepvit.configs import IMAGENET_MEAN, IMAGENET_VARIANCE
from keras_sepvit.detection import task as detection
from keras_sepvit.recipes import load_recipe
from keras_sepvit.segmentation import SemanticFPN
from keras_sepvit.training.trainer import Trainer
from keras_sepvit.weights.warm_start import PARTS, VALUE_SCALE

keras_hub = pytest.importorskip("keras_hub", reason="needs the `hub` extra: keras-hub[grain]")

pytestmark = pytest.mark.hub

# At 64 x 64 the Swin's maps are of 16, 8, 4 and 2 positions, in windows of 2.
SIZE = (64, 64)
CONFIG = dataclasses.replace(
    TINY, hidden_dims=(8, 16, 32, 64), num_heads=(1, 2, 2, 4), mlp_ratio=2.0, drop_path_rate=0.0
)
# Twice as many blocks in the first stage, as in Swin-T, and three for two in the third.
SWIN = {"embed_dim": 8, "depths": (2, 2, 3, 1), "num_heads": (1, 2, 2, 4), "mlp_ratio": 2.0}
CLASSES = 3


def swin_backbone(seed=0, **changes):
    """A Swin of random weights, without betas in front of its patch mergings."""
    settings = {"image_shape": (*SIZE, 3), "window_size": 2, "drop_path": 0.0, **SWIN, **changes}
    backbone = keras_hub.models.SwinTransformerBackbone(**settings)
    randomize(backbone, seed)
    for stage in backbone.stages[:-1]:
        stage.downsample.norm.beta.assign(np.zeros(stage.downsample.norm.beta.shape))
    return backbone


@pytest.fixture(scope="module")
def swin():
    return swin_backbone()


@pytest.fixture(scope="module")
def random():
    """A classifier of random weights, which stays as it is, and these."""
    model = SepViT(CONFIG, input_shape=(*SIZE, 3), classes=CLASSES)
    return model, weights_of(model)


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 256, (8, 16, 16, 3), dtype="uint8")
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture(scope="module")
def started(swin):
    """A classifier that started from `swin` without pictures, and the report."""
    model = SepViT(CONFIG, input_shape=(*SIZE, 3), classes=CLASSES)
    return model, warm_start(model, swin)


def swin_classifier(backbone, **kwargs):
    classifier = keras_hub.models.SwinTransformerImageClassifier(backbone, CLASSES, **kwargs)
    randomize(classifier.output_dense, seed=5)
    return classifier


def normalised(photos):
    return ((photos - np.array(IMAGENET_MEAN)) / np.sqrt(IMAGENET_VARIANCE)).astype("float32")


def as_map(tokens):
    side = round(tokens.shape[1] ** 0.5)
    return tokens.reshape(len(tokens), side, side, -1)


def weights_of(model):
    return {weight.path: to_numpy(weight) for weight in model.weights}


def merged(swin, stage, x):
    """What the Swin's patch merging behind a stage makes of a map."""
    tokens = x.reshape(len(x), -1, x.shape[-1])
    height, width = x.shape[1:3]
    return as_map(run(swin.stages[stage].downsample, tokens, H=height, W=width))


def layer_norm(x):
    norm = keras.layers.LayerNormalization(epsilon=1e-5)
    norm.build(x.shape)
    return run(norm, x)


@pytest.mark.parametrize("mode", ["overlapping", "non_overlapping"])
def test_patches_are_embedded_and_merged_as_by_the_swin(swin, mode):
    config = dataclasses.replace(CONFIG, patch_embedding=mode)
    model = SepViTBackbone.from_variant(config, image_shape=(*SIZE, 3))
    warm_start(model, swin, parts=["embed"])
    x = images((2, *SIZE, 3))
    expected = as_map(run(swin.patch_embedding, x))
    np.testing.assert_allclose(run(model.get_layer("stage1_embed"), x), expected, atol=1e-5)
    for stage, channels in enumerate(CONFIG.hidden_dims[:-1]):
        layer = model.get_layer(f"stage{stage + 2}_embed")
        layer.norm.gamma.assign(np.ones(2 * channels))
        layer.norm.beta.assign(np.zeros(2 * channels))
        x = 10 * images((2, 8, 8, channels), seed=stage)
        expected = layer_norm(merged(swin, stage, x))
        np.testing.assert_allclose(run(layer, x), expected, atol=1e-5)


def test_attention_inside_windows_is_the_swins(swin, started):
    """But for positions: DSA's shortcut adds the projected input, a quarter of it."""
    ours, theirs = started[0].get_layer("stage4_block1"), swin.stages[3].blocks[0]
    assert not ours.has_psa
    bias = theirs.attn.relative_position_bias_table
    bias.assign(np.zeros(bias.shape))
    x = images((3, 4, 64))
    shortcut = x @ to_numpy(theirs.attn.proj.kernel) / VALUE_SCALE
    expected = run(theirs.attn, x) + shortcut
    np.testing.assert_allclose(run(ours.attn, x[:, None])[:, 0], expected, atol=1e-4)
    expected = run(theirs.mlp, run(theirs.norm2, x))
    np.testing.assert_allclose(run(ours.mlp, run(ours.norm2, x)), expected, atol=1e-3)


def test_pegs_leave_maps_as_they_are(started):
    x = images((1, 8, 8, 16))
    np.testing.assert_array_equal(run(started[0].get_layer("stage2_peg"), x), x)


@pytest.mark.by_default_on("torch")
def test_norms_are_fitted_on_pictures(photos):
    """So that a map comes much nearer to the Swin's, whose norm has a beta here."""
    swin = swin_backbone(seed=1)
    for stage in swin.stages[:-1]:
        randomize(stage.downsample.norm, seed=4)
    model = SepViTBackbone.from_variant(CONFIG, image_shape=(*SIZE, 3), include_preprocessing=True)
    tokens = run(swin.patch_embedding, normalised(photos))
    for block in swin.stages[0].blocks:
        tokens = run(block, tokens)
    x = as_map(tokens)
    expected, layer = merged(swin, 0, x), model.get_layer("stage2_embed")
    errors = {}
    # Pictures of another size are resized.
    larger = photos.repeat(2, axis=1).repeat(2, axis=2)
    for name, pictures in (("guessed", None), ("fitted", photos), ("resized", larger)):
        report = warm_start(model, swin, images=pictures)
        assert len(report.fitted) == 6 and report.pictures == (0 if pictures is None else 8)
        errors[name] = np.mean((run(layer, x) - expected) ** 2)
    layer.norm.gamma.assign(np.ones(16))
    layer.norm.beta.assign(np.zeros(16))
    errors["unfitted"] = np.mean((run(layer, x) - expected) ** 2)
    assert errors["fitted"] < errors["guessed"] < 0.5 * errors["unfitted"]
    assert errors["fitted"] < 0.1 * expected.var()
    assert errors["resized"] < 1.5 * errors["fitted"]


@pytest.mark.thorough
def test_without_a_norm_behind_it_the_patch_embedding_is_fitted_too(photos):
    swin = swin_backbone(patch_norm=False)
    model = SepViTBackbone.from_variant(CONFIG, image_shape=(*SIZE, 3), include_preprocessing=True)
    report = warm_start(model, swin, images=photos)
    assert "stage1_embed/norm/gamma" in report.fitted
    x = normalised(photos)
    expected = as_map(run(swin.patch_embedding, x))
    error = np.mean((run(model.get_layer("stage1_embed"), x) - expected) ** 2)
    assert error < 0.3 * expected.var()  # SepViT's norm takes the scale of each position away


@pytest.mark.parametrize("where", ["rescaling", "normalization", "converter"])
def test_another_normalisation_goes_into_the_first_kernel(swin, photos, where):
    scale, offset = (1 / 127.5, 1 / 100, 1 / 255), (-1.0, -0.5, 0.25)
    pixels = keras.Input((*SIZE, 3))
    if where == "converter":
        converter = keras_hub.layers.SwinTransformerImageConverter(scale=scale, offset=offset)
        preprocessor = keras_hub.models.SwinTransformerImageClassifierPreprocessor(converter)
        source = swin_classifier(swin, preprocessor=preprocessor)
    else:
        layer = keras.layers.Rescaling(scale, offset)
        if where == "normalization":
            mean, variance = -np.divide(offset, scale), np.divide(1, scale) ** 2
            layer = keras.layers.Normalization(mean=mean, variance=variance)
        source = keras.Model(pixels, swin(layer(pixels)))
    model = SepViT(CONFIG, input_shape=(*SIZE, 3), classes=CLASSES)
    warm_start(model, source)
    first = keras.Model(model.input, model.get_layer("stage1_embed").output)
    own = (photos * np.array(scale) + np.array(offset)).astype("float32")
    expected = as_map(run(swin.patch_embedding, own))
    np.testing.assert_allclose(to_numpy(first(photos)), expected, atol=1e-4)


def test_the_report_tells_what_became_of_each_weight(started):
    model, report = started
    paths = (*report.taken, *report.fitted, *report.new)
    assert sorted(paths) == sorted(weight.path for weight in model.weights)
    assert report.blocks == ((1,), (1, 2), (1, 3), (1,))
    assert report.fitted[:2] == ("stage2_embed/norm/gamma", "stage2_embed/norm/beta")
    new = re.compile(r"stage\d_peg|head|.*win_tokens|.*psa_qk")
    assert report.new and all(new.match(path) for path in report.new)
    assert 0.6 < report.share < 1
    text = str(report)
    assert text.startswith(f"Started from '{report.source}': {len(report.taken)} of {len(paths)} ")
    assert "norms estimated" in text and "heads (2)" in text and "1, 3" in text
    assert "pretrained" not in text


def test_the_dense_form_and_models_of_tasks_start_too(swin, photos):
    backbone = SepViTBackbone.from_variant(
        CONFIG, dense=True, image_shape=(None, None, 3), include_preprocessing=True
    )
    report = warm_start(backbone, swin, images=photos)
    segmenter = SemanticFPN(CONFIG, num_classes=3, image_shape=(96, 64, 3))
    of_segmenter = warm_start(segmenter, swin, images=photos)
    assert of_segmenter.taken == report.taken and of_segmenter.fitted == report.fitted
    ours, theirs = weights_of(segmenter), weights_of(backbone)
    for path in (*report.taken, *report.fitted):
        np.testing.assert_array_equal(ours[path], theirs[path])
    np.testing.assert_array_equal(ours["stage4_norm/gamma"], to_numpy(swin.norm.gamma))


@pytest.mark.thorough
def test_a_file_and_a_preset_give_the_same_as_the_model(swin, photos, tmp_path):
    converter = keras_hub.layers.SwinTransformerImageConverter(SIZE, scale=1 / 127.5, offset=-1.0)
    preprocessor = keras_hub.models.SwinTransformerImageClassifierPreprocessor(converter)
    source = swin_classifier(swin, preprocessor=preprocessor)
    source.save_to_preset(tmp_path / "preset")
    # A model of one's own around the backbone.
    x = swin(keras.layers.Rescaling(1 / 127.5, -1)(inputs := keras.Input((*SIZE, 3))))
    x = keras.layers.GlobalAveragePooling1D()(x)
    keras.Model(inputs, source.output_dense(x)).save(tmp_path / "swin.keras")
    starts = []
    for origin in (source, tmp_path / "swin.keras", str(tmp_path / "preset")):
        model = SepViT(CONFIG, input_shape=(*SIZE, 3), classes=CLASSES)
        report = warm_start(model, origin, PARTS, photos)
        assert not any(path.startswith("head") for path in report.new)
        values = weights_of(model)
        starts.append({path: values[path] for path in (*report.taken, *report.fitted)})
    for others in starts[1:]:
        assert others.keys() == starts[0].keys()
        for path, value in starts[0].items():
            np.testing.assert_allclose(others[path], value, rtol=1e-4, atol=1e-4, err_msg=path)


@pytest.mark.by_default_on("torch")
@pytest.mark.parametrize(
    "swin_changes, arguments, expected",
    [
        ({"embed_dim": 16}, {}, r"widths of \(16, 32, 64, 128\), the model of \(8, 16, 32, 64\)"),
        ({"num_heads": (2, 2, 2, 4)}, {}, r"attention heads of \(2, 2, 2, 4\)"),
        ({"mlp_ratio": 4.0}, {}, r"MLPs of \(32, 64, 128, 256\), the model of \(16, 32, 64, 128\)"),
        ({"patch_size": 2}, {}, "a patch side of 2, the model of 4"),
        ({}, {"parts": ("embed", "tail")}, "`parts` must be some of 'embed'.*'tail'"),
        ({}, {"parts": "head"}, f"has no head, model `sepvit` {CLASSES} classes"),
        ({}, {"parts": None}, "`parts` must be some of.*None"),
        ({}, {"images": np.zeros((64, 64, 3))}, r"`images` must be.*\(64, 64, 3\)"),
        ({}, {"images": np.full((1, 8, 8, 3), 0.5)}, "`images` must be.*values from 0.5 to 0.5"),
        ({}, {"images": np.full((1, 8, 8, 3), np.nan)}, "`images` must be.*values from nan"),
        ({}, {"images": [[1, 2], [3]]}, "`images` must be.*Received: list"),
        (None, {"source": "no_such_preset"}, "'no_such_preset' is no .keras file, and cannot"),
        (None, {"source": 5}, "`source` must be.*int"),
        (None, {"source": "swin.weights.h5"}, r"`source` must be.*'swin\.weights\.h5'"),
        (None, {"source": keras.Sequential([keras.Input((4,))])}, "a Swin among its layers"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(swin_changes, arguments, expected, swin, random):
    model, before = random
    if swin_changes is not None:
        source = swin_backbone(**swin_changes) if swin_changes else swin
        arguments = {"source": source, **arguments}
    with pytest.raises(ValueError, match=expected) as error:
        warm_start(model, **arguments)
    assert "\n" not in str(error.value)
    for path, value in weights_of(model).items():
        np.testing.assert_array_equal(value, before[path])


# A run: the digits at 32 x 32.
DIGITS = dataclasses.replace(
    training_data.SMALL_DIGITS, hidden_dims=(8, 16, 32, 64), num_heads=(1, 2, 2, 4)
)


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            raise KeyboardInterrupt


@pytest.mark.thorough
def test_a_run_starts_from_a_swin_and_goes_on_without_it(swin, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(classification, "DIGITS_CONFIG", DIGITS)
    path = tmp_path / "swin.keras"
    swin.save(path)
    changes = ["augmentation.auto_augment=null", "steps=4", "checkpoint_steps=1"]
    changes += ["optimizer.warmup_steps=1", "batch_size=16"]
    recipe = load_recipe("digits", [*changes, f"model.warm_start={path}"])
    trainer = Trainer(recipe, tmp_path / "whole")
    first = to_numpy(trainer.network.get_layer("stage1_block1").norm1.gamma)
    np.testing.assert_array_equal(first, to_numpy(swin.stages[0].blocks[0].norm1.gamma))
    trainer.train(verbose=2)
    assert f"Started from '{path}'" in capsys.readouterr().out

    with pytest.raises(KeyboardInterrupt):
        Trainer(recipe, tmp_path / "stopped", callbacks=[Stop()]).train(verbose=0)
    monkeypatch.setattr(classification, "start_network", None)  # not called again
    Trainer(recipe, tmp_path / "stopped").train(verbose=0)
    whole, stopped = (
        keras.saving.load_model(tmp_path / folder / "last.keras") for folder in ("whole", "stopped")
    )
    for weight, expected in zip(stopped.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(weight), to_numpy(expected))


@pytest.mark.thorough
def test_a_detector_of_any_shape_starts_too(swin, tmp_path, monkeypatch):
    monkeypatch.setattr(detection, "SCENES_128_CONFIG", CONFIG)
    training_data.write_rectangles(tmp_path, "train", (48, 64), [1] * 9)
    training_data.write_rectangles(tmp_path, "train", (64, 48), [1] * 3)
    swin.save(tmp_path / "swin.keras")
    changes = ["model.variant=sepvit_scenes", "model.image_size=[64,96]", "model.channels=8"]
    changes += [f"data.name=folder:{tmp_path}", f"model.warm_start={tmp_path / 'swin.keras'}"]
    task = load_recipe("finetune_detector", changes).make_task()
    task.open()
    assert task.decide(1)["optimizer.learning_rate"].endswith("(a warm start)")
    network = task.build("float32")
    assert re.search(r"fitted on \d pictures", task.start(network))
    gamma = network.backbone.get_layer("stage4_norm").gamma
    np.testing.assert_array_equal(to_numpy(gamma), to_numpy(swin.norm.gamma))


@pytest.mark.once
@pytest.mark.parametrize(
    "recipe, changes, expected",
    [
        ("digits", ["model.weights=b.keras"], r"^model\.warm_start must be null with model\.weig"),
        ("digits", ["model.frozen_stages=1"], r"^model\.frozen_stages must be 0 with model\.warm"),
        ("digits", ["model.frozen_backbone=true"], r"^model\.frozen_backbone must be false with"),
        ("segment_digits", ["model.weights=b.keras"], r"^model\.warm_start must be null"),
        ("detect_digits", ["model.frozen_stages=1"], r"^model\.frozen_stages must be 0 with model"),
        ("instances_digits", ["model.weights=b.keras"], r"^model\.warm_start must be null"),
    ],
)
def test_recipes_refuse_what_goes_against_it(recipe, changes, expected):
    with pytest.raises(ValueError, match=expected):
        load_recipe(recipe, ["model.warm_start=a.keras", *changes])


@pytest.mark.once
def test_recipes_that_ask_for_weights_take_a_swin_in_their_place():
    changes = ["data.name=digits", "model.warm_start=a.keras"]
    with pytest.raises(ValueError, match=r"With model\.warm_start it is model\.weights=null\.$"):
        load_recipe("finetune", changes)
    assert load_recipe("finetune", [*changes, "model.weights=null"]).model.weights is None


@pytest.mark.once
def test_a_run_names_the_key_of_a_file_that_is_none(tmp_path):
    path = tmp_path / "swin.keras"
    path.write_bytes(b"PK\x03\x04 and no end")
    task = load_recipe("digits", [f"model.warm_start={path}"]).make_task()
    task.open()
    expected = r"^model\.warm_start=.*swin\.keras: .*incomplete or damaged"
    with pytest.raises(ValueError, match=expected):
        task.start(SepViT(CONFIG, input_shape=(*SIZE, 3), classes=CLASSES))


@pytest.mark.once
def test_a_run_without_its_file_fails_at_once(tmp_path):
    recipe = load_recipe("digits", [f"model.warm_start={tmp_path / 'none.keras'}"])
    with pytest.raises(FileNotFoundError, match=r"^model\.warm_start=.*none\.keras"):
        Trainer(recipe, tmp_path / "run")
