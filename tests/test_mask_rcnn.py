"""Mask R-CNN as users meet it: training, files, half precision, odd targets; what it draws."""

import keras
import numpy as np
import pytest
from detectors import iou
from helpers import BACKEND, SMALL, randomize, run, to_numpy

from keras_sepvit.detection import MaskRCNN, mask_rcnn_losses
from keras_sepvit.detection.assignment import NEGATIVE, NEUTRAL
from keras_sepvit.detection.boxes import decode
from keras_sepvit.detection.detector import convert_boxes
from keras_sepvit.detection.proposals import DEVIATIONS, rpn_proposals
from keras_sepvit.detection.rcnn_losses import LOSS_NAMES
from keras_sepvit.detection.sampling import EMPTY, draw
from keras_sepvit.training.sources.scenes import DigitScenes

SHAPE = (64, 96, 3)
SAMPLES, POSITIVES = 16, 4


def mask_rcnn(backbone=SMALL, **kwargs):
    options = {"anchor_scale": 2.0, "channels": 8, "units": 16, "num_convs": 1, **kwargs}
    return MaskRCNN(backbone, 10, proposals=30, samples=SAMPLES, **options)


def scenes():
    """Photos and targets; the second picture is empty, an object of the third has no mask."""
    arrays = DigitScenes("train", 4, SHAPE[:2], digit_sizes=(20, 40), digits=(1, 3)).arrays()
    targets = {name: arrays[name] for name in ("boxes", "labels")}
    targets["boxes"][1], targets["labels"][1] = -1, -1
    rng = np.random.default_rng(0)
    masks = rng.random((*targets["labels"].shape, 7, 7)).repeat(16, 2).repeat(16, 3) > 0.4
    targets["masks"] = (masks * 255 * (targets["labels"] >= 0)[..., None, None]).astype("uint8")
    targets["masks"][2, 0] = 0
    return arrays["images"], targets


def compiled(model, rate=3e-3):
    model.compile(keras.optimizers.Adam(rate))
    model.optimizer.build(model.trainable_variables)  # else TensorFlow traces the step twice
    return model


@pytest.mark.by_default_on("torch")
def test_fits_predicts_saves_and_loads(tmp_path):
    model = compiled(mask_rcnn(image_shape=SHAPE, score_threshold=0.0, max_detections=7))
    photos, targets = scenes()
    before = {name: value.copy() for name, value in targets.items()}
    state = to_numpy(model.seed_generator.state)
    history = model.fit(
        photos, targets, batch_size=2, epochs=6, validation_data=(photos, targets), verbose=0
    ).history
    assert {*history} == {"loss", "val_loss"}
    assert history["val_loss"][-1] < 0.9 * history["val_loss"][0]
    for name, value in before.items():
        np.testing.assert_array_equal(targets[name], value)
    # Two draws a step in training; none in evaluation, which is the same each time.
    np.testing.assert_array_equal(to_numpy(model.seed_generator.state) - state, [0, 24])
    evaluated = model.evaluate(photos, targets, batch_size=2, verbose=0)
    assert evaluated == pytest.approx(history["val_loss"][-1], rel=1e-5)

    found = model.predict(photos, batch_size=2, verbose=0)
    assert {name: (value.shape, value.dtype.name) for name, value in found.items()} == {
        "boxes": ((4, 7, 4), "float32"),
        "labels": ((4, 7), "int32"),
        "confidence": ((4, 7), "float32"),
        "num_detections": ((4,), "int32"),
        "masks": ((4, 7, 28, 28), "float32"),
    }
    assert (found["masks"] > 0).all() and (found["masks"] < 1).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is MaskRCNN and loaded.get_config() == model.get_config()
    again = loaded.predict(photos, batch_size=2, verbose=0)
    for name, value in found.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    loaded.run_eagerly = BACKEND == "tensorflow"
    first = {name: value[:2] for name, value in targets.items()}
    loaded.train_on_batch(photos[:2], first)  # compiled as it was


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = mask_rcnn(image_shape=SHAPE)
    randomize(model)
    return model


@pytest.mark.by_default_on("tensorflow", "torch")
def test_what_losses_are_made_of(model):
    """Each drawn proposal has its object; each answer is that of its proposal, and of its class."""
    photos, targets = scenes()
    outputs = run(model, {"images": photos, **targets})
    maps = run(keras.Model(model.inputs, model.get_layer("neck").output), photos)
    assert outputs["roi_labels"].shape == (4, SAMPLES) and outputs["masks"].shape[1] == POSITIVES

    def heads(x):
        regions = model.get_layer("bbox_roi_extractor")(x["maps"], x["rois"])
        small = model.get_layer("mask_roi_extractor")(x["maps"], x["rois"])
        return {
            **model.get_layer("bbox_head")(regions),
            "masks": model.get_layer("mask_head")(small),
        }

    positives = 0
    for i in range(4):
        real = targets["labels"][i] >= 0
        boxes, labels = targets["boxes"][i][real], targets["labels"][i][real]
        rois, drawn = outputs["rois"][i], outputs["roi_labels"][i].astype(int)
        own = {"maps": [level[i : i + 1] for level in maps], "rois": rois[None]}
        answers = run(heads, own) if i < 3 else None
        number = ((drawn >= 0) & (drawn < 10)).sum()
        assert (drawn[:number] < 10).all() and number <= POSITIVES
        np.testing.assert_array_equal(outputs["mask_valid"][i, number:], 0)
        for slot, (roi, label) in enumerate(zip(rois, drawn, strict=True)):
            shares = iou(roi, boxes)
            if label == EMPTY:
                assert not roi.any() and (drawn[slot:] == EMPTY).all()
            elif label == 10:
                assert shares.max(initial=0) < 0.5
            else:
                best = shares.argmax()
                assert shares[best] >= 0.5 and labels[best] == label
                deltas = outputs["roi_deltas"][i, slot]
                back = to_numpy(decode(roi[None], deltas[None], DEVIATIONS))
                np.testing.assert_allclose(back[0], boxes[best], atol=1e-3)
                has_mask = targets["masks"][i][real][best].any()
                assert outputs["mask_valid"][i, slot] == has_mask
                positives += 1
            if answers is None:
                continue
            close = {"rtol": 1e-4, "atol": 1e-4}
            np.testing.assert_allclose(
                outputs["classes"][i, slot], answers["classes"][slot], **close
            )
            if slot < number:
                moved = answers["boxes"][slot].reshape(10, 4)[label]
                np.testing.assert_allclose(outputs["boxes"][i, slot], moved, **close)
                mask = answers["masks"][slot, ..., label]
                np.testing.assert_allclose(outputs["masks"][i, slot], mask, **close)
    assert positives > 3


def with_first(targets, name, value):
    changed = {key: array.copy() for key, array in targets.items()}
    changed[name][:, 0] = value
    changed["labels"][:, 0] = np.maximum(changed["labels"][:, 0], 0)
    return changed


ODD = {
    "nothing": lambda y: {**y, "labels": np.full_like(y["labels"], -1)},
    "no area": lambda y: with_first(y, "boxes", [20, 20, 20, 40]),
    "outside": lambda y: with_first(y, "boxes", [-40, -40, -10, -10]),
    "reaches out": lambda y: with_first(y, "boxes", [-500, -500, 500, 500]),
    "tiny": lambda y: with_first(y, "boxes", [20, 20, 20.01, 20.01]),
    "no mask": lambda y: {**y, "masks": np.zeros_like(y["masks"])},
    "no rows": lambda y: {name: value[:, :0] for name, value in y.items()},
}


@pytest.mark.thorough
def test_odd_targets(monkeypatch):
    """Losses and steps stay finite; a batch's shape is compiled once."""
    model = compiled(mask_rcnn(image_shape=SHAPE), 1e-3)
    traced, losses_of = [], model.losses_of
    monkeypatch.setattr(model, "losses_of", lambda *args: (traced.append(1), losses_of(*args))[1])
    photos, targets = scenes()
    for name, change in ODD.items():
        odd = change(targets)
        loss = model.train_on_batch(photos, odd)
        assert np.isfinite(loss) and loss > 0, name
        finite = [np.isfinite(to_numpy(weight)).all() for weight in model.weights]
        assert all(finite), name
    if BACKEND != "torch":
        assert len(traced) == 2


def empty_outputs():
    """What the model gives of a picture where there is nothing to draw from."""
    zeros = {"rpn_classes": (1, 8), "rpn_boxes": (1, 4, 4), "rpn_deltas": (1, 4, 4)}
    zeros |= {"classes": (1, 8, 4), "boxes": (1, 2, 4), "roi_deltas": (1, 2, 4)}
    zeros |= {"masks": (1, 2, 28, 28), "mask_targets": (1, 2, 28, 28)}
    return {
        **{name: np.zeros(shape, "float32") for name, shape in zeros.items()},
        "rpn_labels": np.full((1, 8), EMPTY, "int32"),
        "roi_labels": np.full((1, 8), EMPTY, "int32"),
        "mask_valid": np.zeros((1, 2), bool),
    }


def test_losses_of_nothing_and_of_wrong_labels():
    outputs = empty_outputs()
    targets = {"boxes": np.zeros((1, 1, 4), "float32"), "labels": np.full((1, 1), -1, "int32")}
    pairs = to_numpy(mask_rcnn_losses(targets, outputs))
    assert tuple(pairs) == LOSS_NAMES
    assert all(total == 0 and weight > 0 for total, weight in pairs.values())
    # Beside another device's count that of nothing is none.
    assert np.float32(1) + pairs["mask_loss"][1] == 1
    for name, value in (("labels", 3), ("labels", -2), ("boxes", np.nan)):
        wrong = {**targets, "labels": np.zeros((1, 1), "int32")}
        wrong[name] = np.full_like(wrong[name], value)
        pairs = to_numpy(mask_rcnn_losses(wrong, outputs))
        assert np.isnan(pairs["class_loss"][0]), name
    for highest, is_wrong in ((0, False), (1, True), (255, False)):
        masks = np.full((1, 1, 4, 4), highest, "uint8")
        total, _ = to_numpy(mask_rcnn_losses({**targets, "masks": masks}, outputs))["mask_loss"]
        assert np.isnan(total) == is_wrong


@pytest.mark.thorough
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision(policy):
    if (BACKEND, policy) in [("jax", "mixed_float16"), ("tensorflow", "mixed_float16")]:
        pytest.skip("JAX on CPUs has no products in float16; one compiled backend less")
    model = compiled(mask_rcnn(image_shape=SHAPE, dtype=policy))
    photos, targets = scenes()
    history = model.fit(
        photos, targets, batch_size=4, epochs=8, validation_data=(photos, targets), verbose=0
    ).history
    assert np.isfinite(history["loss"]).all()
    assert history["val_loss"][-1] < history["val_loss"][0]
    targets["boxes"] = targets["boxes"] + np.float32(0.123)
    rois = run(model, {"images": photos, **targets})["rois"]
    # The boxes have no half precision: true ones are among them, bit by bit.
    assert (rois[0][:, None] == targets["boxes"][0]).all(axis=2).any()
    assert model.get_layer("mask_head").compute_dtype == policy.removeprefix("mixed_")


@pytest.mark.thorough
@pytest.mark.skipif(BACKEND == "jax", reason="JAX compiles anew for each size, and knows it")
@pytest.mark.filterwarnings("ignore:.*shuffle=True", "ignore:Your input ran out of data")
def test_data_sets_of_any_size():
    """Batches of several sizes, with those of their pictures; on TensorFlow of unknown shapes."""
    model = compiled(mask_rcnn(), 1e-3)
    photos, targets = scenes()
    targets["sizes"] = np.array([[64, 96], [64, 96], [40, 96], [64, 50]], "int32")
    batches = [(photos, targets), (photos[:, :, :64], targets)]

    def data():
        yield from batches

    source = data
    if BACKEND == "tensorflow":
        import tensorflow as tf

        sides = {"boxes": [None, 4], "labels": [None], "masks": [None, 112, 112], "sizes": [2]}
        spec = (
            tf.TensorSpec((None, None, None, 3), "uint8"),
            {n: tf.TensorSpec([None, *own], targets[n].dtype) for n, own in sides.items()},
        )
        source = lambda: tf.data.Dataset.from_generator(data, output_signature=spec)  # noqa: E731
    losses = [model.fit(source(), verbose=0).history["loss"][0] for _ in range(2)]
    assert np.isfinite(losses).all()
    assert model.predict(photos[:, :50, :70], verbose=0)["masks"].shape == (4, 100, 28, 28)


@pytest.mark.thorough
@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX compiles always, torch has no XLA")
def test_compiles_with_xla():
    model = mask_rcnn(image_shape=SHAPE)
    photos, targets = scenes()
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=True)
    model.optimizer.build(model.trainable_variables)
    losses = model.fit(photos, targets, batch_size=4, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert model.predict(photos, verbose=0)["masks"].shape == (4, 100, 28, 28)


@pytest.mark.parametrize("box_format", ["center_xywh", "rel_yxyx"])
def test_box_formats(box_format):
    """In targets and in detections; neither the arrays nor the padding change."""
    model = mask_rcnn(image_shape=SHAPE, bounding_box_format=box_format)
    photos, targets = scenes()
    boxes = to_numpy(convert_boxes(targets["boxes"], "xyxy", box_format, *SHAPE[:2]))
    (inputs, passed, _) = model._with_targets((photos, {**targets, "boxes": boxes}))
    real = targets["labels"] >= 0
    np.testing.assert_allclose(to_numpy(inputs["boxes"])[real], targets["boxes"][real], atol=1e-3)
    np.testing.assert_array_equal(passed["boxes"], boxes)
    found = {"boxes": targets["boxes"], "labels": targets["labels"], "masks": targets["masks"]}
    answers = to_numpy(model._answers(found, photos))
    np.testing.assert_allclose(answers["boxes"][real], boxes[real], atol=1e-4)
    assert (answers["boxes"][~real] == -1).all()


def test_bad_targets_and_arguments():
    model = compiled(mask_rcnn(image_shape=SHAPE))
    photos, targets = scenes()
    masks = targets["masks"]
    for wrong, message in (
        ({"masks": masks > 0}, "must be uint8 of 0 to 255, .* Received: bool"),
        ({"masks": masks // 255}, "of at most 1. Multiply shares by 255"),
        ({"masks": masks.astype("float32")}, r"float32 of at most 255.*`masks.astype\("),
        ({"masks": masks[..., :7]}, r"a dict of .*'masks': \(4, 3, 112, 7\)"),
        ({"masks": masks[:, 1:]}, r"'masks': \(4, 2, 112, 112\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(photos, {**targets, **wrong})
    whole = {**targets, "masks": masks[..., :64, :64]}
    with pytest.raises(ValueError, match="64 x 64, the size of the images.*cropped"):
        compiled(mask_rcnn()).fit(photos[:, :, :64], whole)
    with pytest.raises(ValueError, match="must be uint8 of 0 to 255, .* Received: bool"):
        model.fit(pair for pair in [(photos, {**targets, "masks": masks > 0})])
    with pytest.raises(ValueError, match="'masks' .images, boxes, 112, 112.*Received: {'boxes'"):
        model.fit(photos, {name: targets[name] for name in ("boxes", "labels")})
    with pytest.raises(ValueError, match="has its own loss, of proposals.*Leave out `loss`"):
        model.compile(loss="mse")
    with pytest.raises(ValueError, match="`samples` must be 4 or more.*samples=3"):
        MaskRCNN(SMALL, 3, samples=3)
    with pytest.raises(ValueError, match="`proposals` must be"):
        MaskRCNN(SMALL, 3, proposals=0)


def drawn_of(pattern, count, positives, pictures=2000, seed=1):
    rows = np.tile(np.array(pattern, "int32"), (pictures, 1))
    return to_numpy(draw(keras.ops.convert_to_tensor(rows), count, positives, seed))


def test_draws_are_those_of_a_random_sampler():
    """As often as NumPy's choices without replacement have each place, and each pair of them."""
    pattern = np.r_[np.arange(10), np.full(20, NEGATIVE), np.full(10, NEUTRAL)]
    np.random.default_rng(0).shuffle(pattern)
    places, rows = drawn_of(pattern, 16, 4)
    np.testing.assert_array_equal(rows, pattern[places.astype(int)])
    assert (rows[:, :4] >= 0).all() and (rows[:, 4:] == NEGATIVE).all()
    chosen = np.zeros((2000, 40), bool)
    np.put_along_axis(chosen, places.astype(int), True, axis=1)
    assert (chosen.sum(axis=1) == 16).all()  # none twice
    rng, expected = np.random.default_rng(1), np.zeros_like(chosen)
    for row in expected:
        row[rng.choice(np.flatnonzero(pattern >= 0), 4, replace=False)] = True
        row[rng.choice(np.flatnonzero(pattern == NEGATIVE), 12, replace=False)] = True
    # Two samples of 2,000: their shares differ by less than five deviations.
    assert np.abs(chosen.mean(axis=0) - expected.mean(axis=0)).max() < 5 * np.sqrt(0.5 / 2000)
    pairs, wanted = (np.float64(x).T @ x / 2000 for x in (chosen, expected))
    assert np.abs(pairs - wanted).max() < 5 * np.sqrt(0.5 / 2000)


def test_draws_fill_slots():
    for pattern, count, positives, expected in (
        ([0, 1] + [NEGATIVE] * 20, 16, 4, (2, 14)),  # fewer with an object: more without
        ([NEGATIVE] * 20, 16, 4, (0, 16)),
        ([0, 1, 2] + [NEGATIVE] * 2 + [NEUTRAL] * 30, 16, 4, (3, 2)),  # slots stay empty
        ([0] * 6, 16, 4, (4, 0)),
        ([NEUTRAL], 16, 4, (0, 0)),  # fewer places than slots
    ):
        places, rows = drawn_of(pattern, count, positives, pictures=3)
        kinds = np.repeat([0, NEGATIVE, NEUTRAL], [*expected, count - sum(expected)])
        np.testing.assert_array_equal(np.minimum(rows, 0), np.tile(kinds, (3, 1)))
        assert ((places >= 0) & (places < len(pattern))).all()


def test_draws_are_those_of_the_seed():
    rows = keras.ops.convert_to_tensor(np.full((2, 50), NEGATIVE, "int32"))
    seed = keras.random.SeedGenerator(3)
    state = to_numpy(seed.state)
    first, second = (to_numpy(draw(rows, 20, 5, seed))[0] for _ in range(2))
    assert (first != second).any() and (first[0] != first[1]).any()
    seed.state.assign(state)
    np.testing.assert_array_equal(to_numpy(draw(rows, 20, 5, seed))[0], first)


def test_proposals_of_a_number(model):
    """The best of all levels; fewer of them are the first; a score of -1 behind the last."""
    rng = np.random.default_rng(0)
    sides = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    maps = {
        name: [rng.normal(0, 1, (2, *side, 3 * n)).astype("float32") for side in sides]
        for name, n in (("classes", 1), ("boxes", 4))
    }
    boxes, scores = run(lambda x: rpn_proposals(x, model.anchors, SHAPE[:2], count=40), maps)
    assert (scores > 0).all() and (np.diff(scores) <= 0).all()
    assert (boxes[..., 2:] > boxes[..., :2]).all() and (boxes >= 0).all()
    few, few_scores = run(lambda x: rpn_proposals(x, model.anchors, SHAPE[:2], count=7), maps)
    np.testing.assert_array_equal(few, boxes[:, :7])
    np.testing.assert_array_equal(few_scores, scores[:, :7])
    sizes = np.array([[64, 96], [0, 0]], "int32")  # nothing has area there
    boxes, scores = run(lambda x: rpn_proposals(x, model.anchors, SHAPE[:2], sizes), maps)
    assert (scores[0] > 0).sum() > 40 and (scores[1] == -1).all() and not boxes[1].any()
