"""RetinaNet as users meet it: training, files, box formats, other backbones, errors."""

import inspect
import warnings

import h5py
import keras
import numpy as np
import pytest
from helpers import BACKEND, SMALL, images, loss_and_gradients, randomize, run, to_numpy

from keras_sepvit import SepViT, SepViTBackbone, convert, load_weights, save_pytorch
from keras_sepvit.configs import DIGITS_CONFIG
from keras_sepvit.detection import MaskRCNN, RetinaNet
from keras_sepvit.detection.detector import BOX_FORMATS, convert_boxes, is_detector
from keras_sepvit.segmentation import SemanticFPN, UPerNet
from keras_sepvit.training.sources.scenes import DigitScenes

SHAPE = (64, 96, 3)


def retinanet(backbone=SMALL, classes=10, **kwargs):
    return RetinaNet(backbone, classes, anchor_scale=2.0, channels=8, num_convs=1, **kwargs)


def scenes(count=4):
    """Photos, and targets in pixels; the second picture is empty."""
    arrays = DigitScenes("train", count, SHAPE[:2], digit_sizes=(20, 40), digits=(1, 3)).arrays()
    arrays["boxes"][1], arrays["labels"][1] = -1, -1
    return arrays["images"], {name: arrays[name] for name in ("boxes", "labels")}


def compiled(model, rate=1e-2):
    model.compile(keras.optimizers.Adam(rate))
    model.optimizer.build(model.trainable_variables)  # else TensorFlow traces the step twice
    return model


@pytest.mark.by_default_on("tensorflow", "torch")
def test_fits_predicts_saves_and_loads(tmp_path):
    model = compiled(retinanet(image_shape=SHAPE, score_threshold=0.0, max_detections=7))
    photos, targets = scenes()
    before = {name: value.copy() for name, value in targets.items()}
    history = model.fit(
        photos, targets, batch_size=2, epochs=6, validation_data=(photos, targets), verbose=0
    ).history
    assert {*history} == {"loss", "val_loss"} and history["loss"][-1] < 0.9 * history["loss"][0]
    for name, value in before.items():
        np.testing.assert_array_equal(targets[name], value)

    found = model.predict(photos, batch_size=2, verbose=0)
    assert {name: (value.shape, value.dtype.name) for name, value in found.items()} == {
        "boxes": ((4, 7, 4), "float32"),
        "labels": ((4, 7), "int32"),
        "confidence": ((4, 7), "float32"),
        "num_detections": ((4,), "int32"),
    }
    raw = run(model, photos)
    assert [level.shape[1:] for level in raw["classes"][:2]] == [(8, 12, 90), (4, 6, 90)]
    assert [level.shape[1:3] for level in raw["boxes"][2:]] == [(2, 3), (1, 2), (1, 1)]
    same = run(lambda x: model.detections(x, SHAPE[:2]), raw)
    np.testing.assert_allclose(found["boxes"], same["boxes"], atol=1e-3)
    # Of the last batch of two, whose weight is the number of positives: not of single pictures.
    evaluated = model.evaluate(photos, targets, batch_size=4, verbose=0)
    pairs = to_numpy(model.losses_of(targets, keras.tree.map_structure(np.asarray, raw)))
    expected = sum(total / weight for total, weight in pairs.values())
    assert evaluated == pytest.approx(expected, rel=1e-4)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is RetinaNet and is_detector(loaded)
    assert (loaded.num_classes, loaded.anchors, loaded.decoding) == (
        *(10, model.anchors),
        {"score_threshold": 0.0, "iou_threshold": 0.5, "max_detections": 7},
    )
    again = loaded.predict(photos, batch_size=2, verbose=0)
    for name, value in found.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    loaded.run_eagerly = BACKEND == "tensorflow"
    first = {name: value[:2] for name, value in targets.items()}
    loaded.train_on_batch(photos[:2], first)  # compiled as it was


@pytest.mark.thorough
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_pictures_without_objects(policy):
    """The box loss is 0, the classes' finite and with a gradient; and steps stay finite."""
    if (BACKEND, policy) == ("jax", "mixed_float16"):
        pytest.skip("JAX on CPUs has no products in float16")
    model = retinanet(image_shape=SHAPE, dtype=policy)
    photos, targets = scenes()
    nothing = {"boxes": np.full((4, 3, 4), -1.0), "labels": np.full((4, 3), -1)}

    def loss(name):
        def pair(labels, outputs):
            total, weight = model.losses_of(labels, outputs)[name]
            return total / weight

        return pair

    x = keras.ops.convert_to_tensor(photos)
    value, gradients = loss_and_gradients(model, x, nothing, loss=loss("class_loss"))
    assert np.isfinite(value) and value > 0
    norms = {path: np.linalg.norm(g) for path, g in gradients.items() if g is not None}
    assert np.isfinite([*norms.values()]).all() and norms["bbox_head/retina_cls/kernel"] > 0
    if policy != "float32":
        compiled(model, 1e-3)
        losses = model.fit(photos, targets, batch_size=2, epochs=4, verbose=0).history["loss"]
        assert np.isfinite(losses).all() and losses[-1] < losses[0]
        assert all(level.dtype == np.float32 for level in run(model, photos)["boxes"])
        assert model.get_layer("bbox_head").compute_dtype == policy.removeprefix("mixed_")
    else:
        value, gradients = loss_and_gradients(model, x, nothing, loss=loss("box_loss"))
        assert value == 0 and all(g is None or not g.any() for g in gradients.values())


def test_the_head_begins_sure_of_nothing():
    raw = run(retinanet(image_shape=SHAPE), images((1, *SHAPE)))
    scores = 1 / (1 + np.exp(-raw["classes"][0]))
    np.testing.assert_allclose(scores, 0.01, rtol=0.1)
    np.testing.assert_allclose(raw["boxes"][0], 0, atol=0.05)


@pytest.mark.by_default_on("torch")
@pytest.mark.parametrize("box_format", BOX_FORMATS)
def test_box_formats(box_format):
    """In targets and in detections; neither the arrays nor the padding change."""
    model = retinanet(image_shape=SHAPE, bounding_box_format=box_format, score_threshold=0.0)
    photos, targets = scenes()
    own = {
        **targets,
        "boxes": to_numpy(convert_boxes(targets["boxes"], "xyxy", box_format, *SHAPE[:2])),
    }
    pixels = {name: value.copy() for name, value in own.items()}
    maps = {
        name: [
            images((4, *side, 9 * values), 2 + values)
            for side in ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))
        ]
        for name, values in (("classes", 10), ("boxes", 4))
    }
    x = keras.ops.convert_to_tensor(photos)
    pairs = model._loss_pairs(x, own, maps)
    for name, pair in to_numpy(model.losses_of(targets, maps)).items():
        np.testing.assert_allclose(to_numpy(pairs[name]), pair, rtol=1e-4)
    for name, value in pixels.items():
        np.testing.assert_array_equal(own[name], value)
    found = to_numpy(model.detections(maps, SHAPE[:2]))
    answers = to_numpy(model._answers(maps, x))
    count = int(found["num_detections"].min())
    back = convert_boxes(answers["boxes"][:, :count], box_format, "xyxy", *SHAPE[:2])
    np.testing.assert_allclose(to_numpy(back), found["boxes"][:, :count], atol=1e-3)
    assert (answers["boxes"][found["labels"] < 0] == -1).all() and count > 3


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.*shuffle=True", "ignore:Your input ran out of data")
def test_data_sets_of_any_size():
    """Batches of several sizes, with those of their pictures; on TensorFlow of unknown shapes."""
    model = compiled(retinanet(), 1e-3)
    photos, targets = scenes()
    targets["sizes"] = np.array([[64, 96], [64, 96], [40, 96], [64, 50]], "int32")
    batches = [(photos, targets), (photos[:, :, :64], targets)]

    def data():
        yield from batches

    source = data
    if BACKEND == "tensorflow":
        import tensorflow as tf

        spec = (
            tf.TensorSpec((None, None, None, 3), "uint8"),
            {
                "boxes": tf.TensorSpec((None, None, 4), "float32"),
                "labels": tf.TensorSpec((None, None), "int32"),
                "sizes": tf.TensorSpec((None, None), "int32"),
            },
        )
        source = lambda: tf.data.Dataset.from_generator(data, output_signature=spec)  # noqa: E731
    losses = [model.fit(source(), verbose=0).history["loss"][0] for _ in range(4)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert model.predict(photos[:, :50, :70], verbose=0)["boxes"].shape == (4, 100, 4)


@pytest.mark.thorough
@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX compiles always, torch has no XLA")
def test_compiles_with_xla():
    model = retinanet(image_shape=SHAPE)
    photos, targets = scenes()
    pairs = to_numpy(model.losses_of(targets, model(photos)))
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=True)
    model.optimizer.build(model.trainable_variables)
    losses = model.fit(photos, targets, batch_size=4, epochs=4, verbose=0).history["loss"]
    assert losses[0] == pytest.approx(sum(t / weight for t, weight in pairs.values()), rel=1e-4)
    assert losses[-1] < losses[0]
    assert model.predict(photos, verbose=0)["boxes"].shape == (4, 100, 4)


@pytest.mark.skipif(BACKEND == "torch", reason="torch does not compile by itself")
def test_a_step_compiles_once(monkeypatch):
    """Whatever the numbers of boxes in the rows that a batch has."""
    model = compiled(retinanet(image_shape=SHAPE))
    photos, targets = scenes()
    traced = []
    losses_of = model.losses_of
    monkeypatch.setattr(model, "losses_of", lambda *args: (traced.append(1), losses_of(*args))[1])
    for labels in (targets["labels"], np.full_like(targets["labels"], -1)):
        model.train_on_batch(photos, {**targets, "labels": labels})
    assert len(traced) == 1


FROZEN = {
    "stages": lambda model: model.backbone.freeze(2),
    "backbone": lambda model: setattr(model.backbone, "trainable", False),
    "head": lambda model: setattr(model.get_layer("bbox_head"), "trainable", False),
    "all": lambda model: setattr(model, "trainable", False),
}


@pytest.mark.parametrize("freeze", FROZEN.values(), ids=FROZEN)
def test_what_is_frozen_stays_frozen(freeze, tmp_path):
    model = retinanet(image_shape=SHAPE)
    everything = {weight.path for weight in model.trainable_weights}
    freeze(model)
    expected = {weight.path for weight in model.trainable_weights}
    assert expected < everything
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert {weight.path for weight in loaded.trainable_weights} == expected


@pytest.mark.by_default_on("torch")
@pytest.mark.filterwarnings("ignore:Loaded")
def test_weights(tmp_path):
    """Of a classifier, of detectors by each kind of file, for other classes, of a segmenter."""
    with pytest.warns(UserWarning, match="Loaded 108 of") as caught:
        model = retinanet(DIGITS_CONFIG, weights="digits")
    assert "all of the heads" in str(caught[0].message)
    randomize(model)
    paths = [tmp_path / f"model.{suffix}" for suffix in ("keras", "weights.h5", "safetensors")]
    for path, save in zip(paths, (model.save, model.save_weights, None), strict=True):
        save_pytorch(model, path) if save is None else save(path)
        other = retinanet(DIGITS_CONFIG, weights=path)
        for weight, expected in zip(other.weights, model.weights, strict=True):
            np.testing.assert_array_equal(to_numpy(weight), to_numpy(expected))
        assert load_weights(model.backbone, path).unused_head
    report = load_weights(retinanet(DIGITS_CONFIG, 3), paths[0], skip_head_mismatch=True)
    last = "bbox_head/retina_cls"
    assert {*report.new} == {f"{last}/kernel", f"{last}/bias"}
    with pytest.raises(ValueError, match="with bbox_head, neck behind it"):
        load_weights(SemanticFPN(DIGITS_CONFIG, 5), paths[0])


@pytest.mark.thorough
@pytest.mark.parametrize("network, suffix", [(RetinaNet, "keras"), (MaskRCNN, "weights.h5")])
def test_weights_for_other_anchors(tmp_path, network, suffix):
    """Refused, or told where heads are trained anew; files that do not tell load as ever."""

    def make(scale, classes=3, **kwargs):
        options = {"units": 6} if network is MaskRCNN else {}
        return network(SMALL, classes, anchor_scale=scale, channels=8, **options, **kwargs)

    path, model = tmp_path / f"model.{suffix}", make(2.0)
    model.save(path) if suffix == "keras" else model.save_weights(path)
    told = "anchor_scale=2, .*has anchor_scale=5, .*Build the model with anchor_scale=2"
    with pytest.raises(ValueError, match=f"{told}, or pass skip_head_mismatch=True"):
        load_weights(make(5.0), path)
    with pytest.raises(ValueError, match="has anchor_scale=5, .*with anchor_scale=2"):
        make(5.0).load_weights(path)
    with pytest.warns(UserWarning, match=f"{told}, or train it anew"):
        make(5.0, 3, weights=path)
    with warnings.catch_warnings(action="error"):
        make(2.0, weights=path)
        make(2.0).load_weights(path)
        load_weights(make(5.0).backbone, path)
    report = convert(path, tmp_path / "same.keras", variant=SMALL)
    assert not report.new
    assert keras.saving.load_model(tmp_path / "same.keras").anchor_scale == 2
    if suffix == "weights.h5":
        with h5py.File(path, "r+") as old:
            del old["vars/anchor_scale"]
        for load in (load_weights, keras.Model.load_weights):
            load(make(5.0), path)


@pytest.mark.by_default_on("torch")
@pytest.mark.parametrize(
    "network, options, last",
    [
        (RetinaNet, {}, ["bbox_head/retina_cls"]),
        (MaskRCNN, {"units": 6}, ["bbox_head/fc_cls", "bbox_head/fc_reg", "mask_head/conv_logits"]),
    ],
)
def test_checkpoints_are_converted(tmp_path, network, options, last):
    """To a whole model of Keras, to its backbone alone, to other classes, and back."""
    model = network(SMALL, 5, channels=8, num_convs=2, **options)
    randomize(model)
    checkpoint = tmp_path / "mmdet.safetensors"
    save_pytorch(model, checkpoint)
    assert not convert(checkpoint, tmp_path / "model.keras", variant=SMALL).new
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is network
    for weight, expected in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(weight), to_numpy(expected))
    report = convert(checkpoint, tmp_path / "backbone.keras", variant=SMALL, dense=True)
    assert not report.new and report.unused_head
    assert type(keras.saving.load_model(tmp_path / "backbone.keras")) is SepViTBackbone
    report = convert(checkpoint, tmp_path / "other.keras", variant=SMALL, classes=3)
    assert {path.rpartition("/")[0] for path in report.new} == {*last}
    convert(tmp_path / "model.keras", tmp_path / "again.safetensors", variant=SMALL)
    assert (tmp_path / "again.safetensors").read_bytes() == checkpoint.read_bytes()
    with pytest.raises(ValueError, match=r"Detectors take images of any size. .*image_size=\(6"):
        convert(checkpoint, tmp_path / "model.keras", variant=SMALL, image_size=(64, 64))


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
    model = retinanet(backbone)
    x = images((1, *SHAPE))
    expected = run(model, x)
    assert [level.shape[1:3] for level in expected["boxes"]][:2] == [(8, 12), (4, 6)]
    model.save(tmp_path / "model.keras")
    loaded = run(keras.saving.load_model(tmp_path / "model.keras"), x)
    for name, levels in expected.items():
        for level, same in zip(levels, loaded[name], strict=True):
            np.testing.assert_allclose(same, level, atol=1e-5)


OTHER_ARGUMENTS = {"weights", "drop_path_rate", "kwargs"}


@pytest.mark.by_default_on("torch")
@pytest.mark.parametrize("network", [RetinaNet, MaskRCNN, SemanticFPN, UPerNet])
def test_arguments_are_attributes(network):
    parameters = inspect.signature(network).parameters
    model = network(SMALL, 3, image_shape=SHAPE, dtype="bfloat16")
    values = {name: getattr(model, name) for name in {*parameters} - OTHER_ARGUMENTS}
    assert isinstance(values.pop("backbone"), SepViTBackbone)
    assert [values.pop(name) for name in ("num_classes", "dtype")] == [3, "bfloat16"]
    assert values.pop("image_shape") == SHAPE
    assert all(value == parameters[name].default for name, value in values.items())
    with pytest.raises(AttributeError):
        model.num_classes = 4


def with_row(targets, name, row):
    changed = {key: value.copy() for key, value in targets.items()}
    changed[name][0, 0] = row
    return changed


BAD_TARGETS = {
    "label too high": (lambda y: with_row(y, "labels", 10), "0 to 9, .* Received: 10. Renumber"),
    "label below -1": (lambda y: with_row(y, "labels", -2), "0 to 9, .* Received: -2"),
    "float labels": (lambda y: {**y, "labels": y["labels"] * 1.0}, "must be ints.*float64"),
    "lists": (lambda y: {**y, "boxes": [*y["boxes"]]}, r"a list as 'boxes'.* with -1"),
    "infinite": (lambda y: with_row(y, "boxes", np.inf), "must be finite"),
    "widths": (lambda y: with_row(y, "boxes", (50, 20, 9, 9)), r"\[50.0, 20.*_format='xywh'"),
    "names": (lambda y: {"boxes": y["boxes"], "classes": y["labels"]}, "must be a dict of 'boxes'"),
    "more names": (lambda y: {**y, "size": y["labels"]}, r"must be a dict .*'size': \(4, 3\)"),
    "no dict": (lambda y: y["boxes"], "must be a dict .* Received: None"),
    "flat": (lambda y: {**y, "labels": y["labels"][0]}, r"'labels': \(3,\)"),
    "unpaired": (lambda y: {**y, "labels": y["labels"][:, 1:]}, r"'labels': \(4, 2\)"),
    "corners": (lambda y: {**y, "boxes": y["boxes"][..., :2]}, r"'boxes': \(4, 3, 2\)"),
    "sizes": (lambda y: {**y, "sizes": np.ones((4, 3), int)}, r"'sizes': \(4, 3\)"),
}


@pytest.mark.parametrize(("change", "message"), BAD_TARGETS.values(), ids=BAD_TARGETS)
def test_bad_targets(change, message, model):
    photos, targets = scenes()
    for step in (
        lambda y: model.fit(photos, y, verbose=0),
        lambda y: model.fit(photos, targets, validation_data=(photos, y), verbose=0),
        lambda y: model.evaluate(photos, y, verbose=0),
        lambda y: model.train_on_batch(photos, y),
        lambda y: model.test_on_batch(photos, y),
    ):
        with pytest.raises(ValueError, match=message):
            step(change(targets))


@pytest.mark.parametrize(
    "box_format, boxes, message",
    [
        ("xywh", [[5, 5, -3, 4]], "sides must not be negative"),
        ("rel_xyxy", [[5, 5, 30, 40]], "up to 40, which look like pixels"),
        ("xyxy", [[0.1, 0.2, 0.5, 0.9]], "at most 0.9, which look like shares"),
    ],
)
def test_boxes_of_another_format(box_format, boxes, message):
    photos, _ = scenes()
    targets = {"boxes": np.tile(np.float32([boxes]), (4, 1, 1)), "labels": np.zeros((4, 1), int)}
    with pytest.raises(ValueError, match=message):
        retinanet(image_shape=SHAPE, bounding_box_format=box_format)._check_targets(targets)


def semantic_fpn(backbone):
    return SemanticFPN(backbone, 3, neck_channels=8, head_channels=8)


def classifier(variant):
    return SepViT(variant, classes=3, input_shape=(64, 64, 3), pad_windows=True)


def fit_without_steps(monkeypatch, model, kind, images, targets):
    """`fit` that only goes through the data: arrays, or a data set for two epochs."""
    passed = []

    def fit(model, x, y, epochs=1):
        passed.extend([*x] if y is None else [(x, y)])

    if kind == "data set":
        tf = pytest.importorskip("tensorflow")
        data = tf.data.Dataset.from_tensor_slices((images, targets)).batch(3)
        images, targets = data, None
    monkeypatch.setattr(keras.Model, "fit", fit)
    model.fit(images, targets)
    return passed


FAR = "and as such .* reach far out of their images of 64 x 96"


@pytest.mark.by_default_on("torch")
@pytest.mark.parametrize("kind", ["arrays", "data set"])
@pytest.mark.parametrize(
    "box_format, given, message",
    [
        *((box_format, box_format, None) for box_format in BOX_FORMATS),
        *((one, "xyxy", FAR) for one in ("xywh", "center_xywh")),
        ("rel_xywh", "rel_xyxy", FAR),
        ("xyxy", "xywh", "second corner must not lie before the first"),
    ],
)
def test_boxes_that_fit_no_image(box_format, given, message, kind, monkeypatch):
    """Are told where most do; the data are the same."""
    model = retinanet(image_shape=SHAPE, bounding_box_format=box_format)
    photos, targets = scenes(8)
    targets["boxes"][0, 0] += 60  # one that a picture cuts
    boxes = to_numpy(convert_boxes(targets["boxes"], "xyxy", given, *SHAPE[:2]))
    boxes[targets["labels"] < 0] = -1
    own = {**targets, "boxes": boxes}
    if message is not None:
        told = pytest.warns(UserWarning, match=message)
        with told if message == FAR else pytest.raises(Exception, match=message):
            fit_without_steps(monkeypatch, model, kind, photos, own)
        return
    with warnings.catch_warnings(action="error"):
        passed = fit_without_steps(monkeypatch, model, kind, photos, own)
    found = np.concatenate([np.asarray(y["boxes"]) for _, y in passed])
    np.testing.assert_array_equal(found, boxes)


@pytest.mark.by_default_on("torch")
@pytest.mark.parametrize("kind", ["arrays", "data set"])
@pytest.mark.parametrize("build", [retinanet, semantic_fpn, classifier])
def test_images_of_0_to_1_are_told(build, kind, monkeypatch):
    """But for models that take other ones."""
    photos, targets = scenes()
    targets = targets if build is retinanet else np.zeros(4, "uint8")
    images = photos / np.float32(255)
    with pytest.warns(UserWarning, match="taken as 0..255, but no value exceeds 0.9"):
        fit_without_steps(monkeypatch, build(SMALL), kind, images, targets)
    backbone = SepViTBackbone.from_variant(SMALL, (None, None, 3), dense=True)
    with warnings.catch_warnings(action="error"):
        fit_without_steps(monkeypatch, build(SMALL), kind, photos, targets)
        fit_without_steps(monkeypatch, retinanet(backbone), kind, images, scenes()[1])


@pytest.mark.by_default_on("tensorflow", "torch")
@pytest.mark.parametrize("wrong", [{"labels": 10}, {"labels": -2}, {"boxes": np.nan}], ids=str)
def test_what_data_sets_bring_makes_the_loss_nan(wrong, model):
    """Of compiled steps, which can raise nothing."""
    photos, targets = scenes()
    outputs = model(photos)
    losses = model.losses_of(targets, outputs)
    assert np.isfinite(to_numpy(losses["class_loss"][0]))
    for name, value in wrong.items():
        targets = {**targets, name: targets[name].copy()}
        targets[name][0, 0] = value
    assert np.isnan(to_numpy(model.losses_of(targets, outputs)["class_loss"][0]))


@pytest.fixture(scope="module")
def model():
    return compiled(retinanet(image_shape=SHAPE))


def test_bad_input(model):
    photos, targets = scenes()
    for name in ("loss", "metrics", "weighted_metrics", "loss_weights"):
        with pytest.raises(ValueError, match=f"has its own loss.* Leave out `{name}`"):
            model.compile("sgd", **{name: ["mse"]})
    with pytest.raises(ValueError, match="Make RGB of grey"):
        model.predict(photos[..., :1], verbose=0)
    for data, message in (
        ({"y": targets, "sample_weight": np.ones(4)}, "Leave out `sample_weight`"),
        ({}, "must be a dict .* Received: None"),
    ):
        # On JAX a model has no weights after an error in `fit`.
        other = retinanet(image_shape=SHAPE)
        other.compile("sgd", run_eagerly=BACKEND != "jax")
        with pytest.raises(ValueError, match=message):
            other.fit(photos, verbose=0, **data)
    for options, message in (
        ({"classes": 0}, "`num_classes` must be a positive integer"),
        ({"bounding_box_format": "ltrb"}, "Unknown `bounding_box_format`: 'ltrb'.*'xyxy'"),
        ({"score_threshold": 1.5}, "`score_threshold` must be a number from 0 to 1"),
        ({"iou_threshold": -1}, "`iou_threshold` must be a number from 0 to 1"),
        ({"max_detections": 0}, "`max_detections` must be a positive integer"),
        ({"max_detections": 5001}, "`max_detections` must be a number from 1 to 5000"),
        ({"backbone": SepViTBackbone.from_variant(SMALL, (64, 64, 3))}, "classification form"),
        ({"backbone": "sepvit_scenes"}, "Unknown `backbone`.*sepvit_b, .*configs.SCENES_CONFIG`"),
        ({"backbone": "digits"}, "`backbone`: 'digits' is the name of registered weights"),
        ({"backbone": keras.Sequential([keras.Input(SHAPE)])}, "lacks P3, P4, P5"),
        ({"backbone": model.backbone, "image_shape": SHAPE}, "goes with the name of a variant"),
    ):
        with pytest.raises(ValueError, match=message):
            retinanet(**options)
    with pytest.raises(ValueError, match="`anchor_scale` must be a number above 0"):
        RetinaNet(SMALL, 3, anchor_scale=0)
    with pytest.raises(TypeError, match="no argument `num_clases`. Did you mean `num_classes`"):
        retinanet(num_clases=5)
