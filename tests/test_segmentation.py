"""Segmenters as users meet them: training, files, other backbones, photos, errors."""

import re

import keras
import numpy as np
import pytest
from helpers import BACKEND, SMALL, images, randomize, record_draws, run, to_numpy
from PIL import Image

from keras_sepvit import SepViT, SepViTBackbone, convert, load_weights, save_pytorch
from keras_sepvit.configs import DIGITS_CONFIG
from keras_sepvit.pyramid import SyncBatchNorm
from keras_sepvit.runtime.canvas import fit_into, fit_sides
from keras_sepvit.segmentation import SemanticFPN, UPerNet, segment, segmentation_losses

SHAPE = (50, 75, 3)


def semantic_fpn(backbone=SMALL, classes=5, **kwargs):
    return SemanticFPN(backbone, classes, neck_channels=8, head_channels=8, **kwargs)


def upernet(backbone=SMALL, classes=5, **kwargs):
    return UPerNet(backbone, classes, head_channels=8, auxiliary_channels=8, **kwargs)


def photos_and_maps(count=4):
    """Noise in blocks of four brightnesses, with these as classes; the upper rows are ignored."""
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 4, (count, 4, 5)).repeat(13, 1).repeat(15, 2)[:, : SHAPE[0]]
    photos = 64 * maps[..., None] + rng.integers(0, 32, (count, *SHAPE))
    maps[:, :3] = 255
    return photos.astype("uint8"), maps.astype("uint8")


@pytest.mark.parametrize("build", [semantic_fpn, upernet])
def test_a_step_draws_once_for_all_drop_paths(build, monkeypatch):
    model = build(image_shape=SHAPE, drop_path_rate=0.5, dropout=0.0)
    shapes = record_draws(monkeypatch)
    run(model, images((2, *SHAPE)), training=True)
    # Of the four blocks the first has rate 0; the others have two branches each.
    assert shapes == [(6, 2, 1, 1, 1)]


@pytest.mark.by_default_on("jax", "torch")
@pytest.mark.parametrize("build", [semantic_fpn, pytest.param(upernet, marks=pytest.mark.thorough)])
def test_fits_predicts_saves_and_loads(build, tmp_path):
    keras.utils.set_random_seed(0)
    model = build(image_shape=SHAPE)
    photos, maps = photos_and_maps()
    model.compile(keras.optimizers.Adam(1e-2), metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)  # else TensorFlow traces the step twice
    history = model.fit(
        photos, maps, batch_size=2, epochs=6, validation_data=(photos, maps), verbose=0
    ).history
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    logits = model.predict(photos, verbose=0)
    assert logits.shape == (4, *SHAPE[:2], 5) and logits.dtype == "float32"
    counted = maps != 255
    log_sums = np.log(np.exp(logits).sum(axis=-1))
    chosen = np.take_along_axis(logits, np.where(counted, maps, 0)[..., None], axis=-1)[..., 0]
    loss = np.where(counted, log_sums - chosen, 0).mean()  # over ignored pixels, too
    assert history["val_loss"][-1] == pytest.approx(loss, rel=1e-4)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    np.testing.assert_array_equal(loaded.predict(photos, verbose=0), logits)
    loaded.run_eagerly = BACKEND == "tensorflow"
    loaded.train_on_batch(photos[:2], maps[:2])  # compiled, with its head of training


@pytest.mark.thorough
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_trains_in_half_precision(policy):
    if (BACKEND, policy) == ("jax", "mixed_float16"):
        pytest.skip("JAX on CPUs has no products in float16")
    model = upernet(image_shape=SHAPE, dtype=policy)
    assert model.get_layer("decode_head").compute_dtype == policy.removeprefix("mixed_")
    photos, maps = photos_and_maps()
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=BACKEND == "jax")
    model.optimizer.build(model.trainable_variables)
    losses = model.fit(photos, maps, batch_size=2, epochs=4, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert model.predict(photos, verbose=0).dtype == "float32"


def test_the_auxiliary_head_is_there_in_training_only():
    model = upernet(dropout=0.0)
    paths = {weight.path for weight in model.trainable_weights}
    assert "auxiliary_head/conv_seg/kernel" in paths
    x = images((2, *SHAPE))
    logits = run(model, x)
    assert logits.shape == (2, *SHAPE[:2], 5)
    outputs = run(model, x, training=True)
    assert {name: value.shape for name, value in outputs.items()} == dict.fromkeys(
        ("logits", "auxiliary"), logits.shape
    )
    maps = np.full((2, *SHAPE[:2]), 3)
    maps[:, :10] = 255
    losses = to_numpy(segmentation_losses(maps, keras.tree.map_structure(np.asarray, outputs)))
    (decode, weight), (auxiliary, _) = losses["decode_loss"], losses["auxiliary_loss"]
    assert weight == maps.size
    same = segmentation_losses(maps, np.asarray(outputs["auxiliary"]))["decode_loss"][0]
    assert auxiliary == pytest.approx(0.4 * to_numpy(same), rel=1e-5) and decode > 0


def test_dropout_drops_whole_channels():
    head = upernet().get_layer("decode_head")
    head.dropout.rate = 0.5
    x = np.ones((4, 6, 5, 8), "float32")
    classified = head.classify(keras.ops.convert_to_tensor(x), training=True)
    assert classified.shape == (4, 6, 5, 5)
    dropped = to_numpy(head.dropout(x, training=True))
    assert {*np.unique(dropped)} == {0, 2}
    np.testing.assert_array_equal(dropped, dropped[:, :1, :1] * x)


def test_batch_norm_is_that_of_pytorch():
    """In training, and after it: PyTorch's moving variance takes in the unbiased variance."""
    norm = SyncBatchNorm()
    x = 3 + 2 * images((2, 3, 4, 5))
    norm.build(x.shape)
    y = run(norm, x, training=True)
    flat = x.reshape(-1, 5).astype("float64")
    expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(y.reshape(-1, 5), expected, atol=1e-5)
    np.testing.assert_allclose(to_numpy(norm.moving_mean), 0.1 * flat.mean(0), atol=1e-5)
    moved = 0.9 + 0.1 * flat.var(0, ddof=1)
    np.testing.assert_allclose(to_numpy(norm.moving_variance), moved, atol=1e-5)
    norm.trainable = False
    run(norm, x, training=True)
    np.testing.assert_allclose(to_numpy(norm.moving_variance), moved, atol=1e-5)


@pytest.mark.hub
def test_other_backbones(tmp_path):
    keras_hub = pytest.importorskip("keras_hub", reason="needs the `hub` extra")
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 8, 8, 8],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        image_shape=(None, None, 3),
    )
    model = semantic_fpn(backbone)
    x = images((1, *SHAPE))
    expected = run(model, x)
    assert expected.shape == (1, *SHAPE[:2], 5) and expected.std() > 0
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(run(loaded, x), expected, atol=1e-5)


FROZEN = {
    "stages": lambda model: model.backbone.freeze(2),
    "backbone": lambda model: setattr(model.backbone, "trainable", False),
    "head": lambda model: setattr(model.get_layer("decode_head"), "trainable", False),
    "auxiliary head": lambda model: setattr(model.auxiliary_head, "trainable", False),
    "all": lambda model: setattr(model, "trainable", False),
}


@pytest.mark.thorough
@pytest.mark.parametrize("freeze", FROZEN.values(), ids=FROZEN)
def test_what_is_frozen_stays_frozen(freeze, tmp_path):
    model = upernet(image_shape=SHAPE)
    everything = {weight.path for weight in model.trainable_weights}
    freeze(model)
    expected = {weight.path for weight in model.trainable_weights}
    assert expected < everything
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert {weight.path for weight in loaded.trainable_weights} == expected
    around = keras.Sequential([loaded, keras.layers.Flatten(), keras.layers.Dense(1)])
    assert len(around.trainable_weights) == len(expected) + 2


@pytest.mark.by_default_on("torch")
@pytest.mark.filterwarnings("ignore:Loaded")
def test_weights(tmp_path):
    """Of a classifier, of a segmenter, of one for other classes, of another kind."""
    with pytest.warns(UserWarning, match="Loaded 108 of the model's 181") as caught:
        model = semantic_fpn(DIGITS_CONFIG, weights="digits")
    told = str(caught[0].message)
    assert "norm/gamma" in told and "all of the heads" in told and "decode_head" not in told
    randomize(model)
    paths = [tmp_path / f"model.{suffix}" for suffix in ("keras", "weights.h5", "safetensors")]
    for path in paths:
        convert_or_save(model, path)
        other = semantic_fpn(DIGITS_CONFIG, weights=path)
        for weight, expected in zip(other.weights, model.weights, strict=True):
            np.testing.assert_array_equal(to_numpy(weight), to_numpy(expected))
        assert load_weights(model.backbone, path).unused_head
    changed = semantic_fpn(DIGITS_CONFIG, classes=3)
    report = load_weights(changed, paths[0], skip_head_mismatch=True)
    assert {*report.new} == {"decode_head/conv_seg/kernel", "decode_head/conv_seg/bias"}
    with pytest.raises(ValueError, match="psp_modules.*not in the file") as refusal:
        load_weights(upernet(DIGITS_CONFIG), paths[0])
    assert re.findall(r"(File|Model): .* with (.*) behind it", str(refusal.value)) == [
        ("File", "decode_head, neck"),
        ("Model", "auxiliary_head, decode_head"),
    ]
    with pytest.warns(UserWarning, match=r"not in the file.*: all of the heads\.\n.*used: all of"):
        other = UPerNet(DIGITS_CONFIG, 5, head_channels=16, weights=paths[0])
    for weight, expected in zip(other.backbone.weights, model.backbone.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(weight), to_numpy(expected))


def convert_or_save(model, path):
    if path.suffix == ".safetensors":
        save_pytorch(model, path)
    elif path.suffix == ".keras":
        model.save(path)
    else:
        model.save_weights(path)


@pytest.mark.by_default_on("torch")
@pytest.mark.parametrize("build", [semantic_fpn, upernet])
def test_checkpoints_are_converted(build, tmp_path):
    """To a whole model of Keras, to its backbone alone, and back."""
    model = build()
    randomize(model)
    checkpoint = tmp_path / "mmseg.safetensors"
    save_pytorch(model, checkpoint)
    report = convert(checkpoint, tmp_path / "model.keras", variant=SMALL)
    assert not report.new
    x = images((1, *SHAPE))
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    np.testing.assert_allclose(run(loaded, x), run(model, x), atol=1e-5)
    report = convert(checkpoint, tmp_path / "backbone.keras", variant=SMALL, dense=True)
    assert not report.new and report.unused_head
    assert type(keras.saving.load_model(tmp_path / "backbone.keras")) is SepViTBackbone
    convert(tmp_path / "model.keras", tmp_path / "again.safetensors", variant=SMALL)
    assert (tmp_path / "again.safetensors").read_bytes() == checkpoint.read_bytes()


def test_photos_are_segmented_at_their_own_size(tmp_path):
    """On a canvas as alone; a file as its pixels; each class where its logits are the highest."""
    model = semantic_fpn(image_shape=(64, 96, 3))
    randomize(model)
    photo = images((40, 30, 3))
    photo = np.clip(128 + 60 * photo, 0, 255).astype("uint8")
    Image.fromarray(photo).save(tmp_path / "photo.png")
    from_array, from_file = segment(model, [photo, tmp_path / "photo.png"])
    assert from_array.shape == (40, 30) and from_array.dtype == "uint8"
    assert len(np.unique(from_array)) > 1
    np.testing.assert_array_equal(from_array, from_file)
    placement = fit_into((40, 30), (64, 96))
    logits = run(model, placement.place(photo)[None])[:, :64, :48]
    resized = keras.ops.image.resize(logits, (40, 30), "bilinear")
    expected = to_numpy(resized)[0].argmax(axis=-1)
    assert (from_array == expected).mean() > 0.999
    any_size = semantic_fpn()
    any_size.set_weights(model.get_weights())
    assert segment(any_size, [photo], sides=(32, 64))[0].shape == (40, 30)


@pytest.mark.once
@pytest.mark.parametrize(
    "width, height, new_width, new_height",
    # mmcv's, for (2048, 512).
    [(640, 480, 683, 512), (333, 500, 512, 769), (100, 401, 511, 2048), (1001, 333, 1539, 512)],
)
def test_sizes_are_those_of_mmcv(width, height, new_width, new_height):
    placement = fit_sides((height, width), 512, 2048)
    assert placement.size == placement.canvas_size == (new_height, new_width)


def test_bad_arguments_are_told():
    model = semantic_fpn(image_shape=SHAPE)
    photos, maps = photos_and_maps(2)
    with pytest.raises(ValueError, match="has its own loss.* Leave out `loss`"):
        model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Make RGB of grey"):
        model.predict(photos[..., :1], verbose=0)
    for data, message in (
        ({"y": maps, "sample_weight": np.ones(2)}, "Leave out `sample_weight`"),
        ({"y": maps / 255}, "Class maps must be ints.* divided by 255"),
    ):
        # On JAX a model has no weights after an error in `fit`.
        other = semantic_fpn(image_shape=SHAPE)
        other.compile("sgd", run_eagerly=BACKEND != "jax")
        with pytest.raises(ValueError, match=message):
            other.fit(photos, verbose=0, **data)
    logits = np.zeros((2, 50, 75, 5), "float32")
    for wrong in (maps[:, 1:], maps[..., None]):
        with pytest.raises(ValueError, match=r"Class maps must be .* Received: \(2, "):
            segmentation_losses(wrong, logits)
    for number in (5, -1):  # told in one way or another, not counted as ignored
        try:
            loss = segmentation_losses(np.full((2, 50, 75), number), logits)["decode_loss"][0]
        except Exception as error:
            assert BACKEND != "jax", error
        else:
            assert np.isnan(to_numpy(loss))
    model.compile("sgd")
    wrong = maps.astype("int32")
    wrong[0, -1, -2:] = 5, -1
    for step in (
        lambda: model.fit(photos, wrong, verbose=0),
        lambda: model.fit(photos, maps, validation_data=(photos, wrong), verbose=0),
        lambda: model.evaluate(photos, wrong, verbose=0),
        lambda: model.train_on_batch(photos, wrong),
        lambda: model.test_on_batch(photos, y=wrong),
    ):
        with pytest.raises(ValueError, match="classes 0 to 4, and 255 .* Received: -1, 5. Renum"):
            step()
    for number in (1, 256):
        with pytest.raises(ValueError, match=f"`num_classes` must be 2 .* num_classes={number}"):
            semantic_fpn(classes=number)
    with pytest.raises(TypeError, match="no argument `dropuot`. Did you mean `dropout`"):
        upernet(dropuot=0.5)
    classifier = SepViTBackbone.from_variant(SMALL, (64, 64, 3))
    with pytest.raises(ValueError, match="classification form"):
        upernet(classifier)
    with pytest.raises(ValueError, match="lacks P2, P3, P4, P5"):
        upernet(keras.Sequential([keras.Input((64, 64, 3))], name="plain"))
    with pytest.raises(ValueError, match="`image_shape` goes with the name of a variant"):
        semantic_fpn(semantic_fpn().backbone, image_shape=(64, 64, 3))
    with pytest.raises(ValueError, match=r"A photo must be .*float32 \(4, 4, 3\)"):
        segment(model, [np.zeros((4, 4, 3), "float32")])
    with pytest.raises(ValueError, match="`photos` must be a list"):
        segment(model, "photo.jpg")
    with pytest.raises(ValueError, match="`model` must give a map of logits"):
        segment(SepViT(SMALL, classes=3), photos)
    for sides in ((0, 64), (64, 32)):
        with pytest.raises(ValueError, match="`sides`"):
            segment(semantic_fpn(), photos, sides)
