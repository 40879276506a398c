"""Random erasing, mixup, CutMix and the training model, by what they do to batches."""

import keras
import numpy as np
import pytest
from helpers import TINY, images, to_numpy
from keras import ops

from keras_sepvit import SepViT
from keras_sepvit.configs import IMAGENET_MEAN, IMAGENET_VARIANCE
from keras_sepvit.training.mixing import BatchAugmentation
from keras_sepvit.training.model import TrainingModel, fit_batch

CLASSES = 10


def augmented(pixels, labels, **settings):
    layer = BatchAugmentation(classes=CLASSES, seed=0, **settings)
    return to_numpy(layer(ops.convert_to_tensor(pixels), labels, training=True))


def coloured_batch(size=16, side=32):
    """Images of one brightness each, 10 times their number, and their numbers as labels."""
    pixels = np.arange(size, dtype="uint8").repeat(side * side * 3) * 10
    return pixels.reshape(size, side, side, 3), np.arange(size) % CLASSES


def test_outside_training_images_pass_and_targets_are_one_hot():
    pixels, labels = coloured_batch()
    layer = BatchAugmentation(CLASSES, erase_rate=1.0, mixup=1.0, cutmix=1.0, label_smoothing=0.1)
    outputs, targets = to_numpy(layer(ops.convert_to_tensor(pixels), labels))
    np.testing.assert_array_equal(outputs, pixels)
    np.testing.assert_array_equal(targets, np.eye(CLASSES)[labels])


def test_label_smoothing_keeps_mass():
    _, targets = augmented(*coloured_batch(), label_smoothing=0.1)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(targets.max(axis=1), 0.91, atol=1e-6)
    np.testing.assert_allclose(targets.min(axis=1), 0.01, atol=1e-6)


def test_mixup_mixes_images_and_targets_alike():
    pixels, labels = coloured_batch()
    layer = BatchAugmentation(CLASSES, mixup=0.8, seed=0)
    shares = []
    for _ in range(200):
        mixed, targets = to_numpy(layer(ops.convert_to_tensor(pixels), labels, training=True))
        share = mixed[0, 0, 0, 0] / 150  # image 0 is black, its partner has 150
        shares.append(1 - share)
        np.testing.assert_allclose(mixed, pixels * (1 - share) + pixels[::-1] * share, atol=1e-3)
        one_hot = np.eye(CLASSES)[labels]
        np.testing.assert_allclose(
            targets, one_hot * (1 - share) + one_hot[::-1] * share, atol=1e-4
        )
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.08)
    assert np.var(shares) == pytest.approx(1 / (4 * 2.6), abs=0.025)


def test_cutmix_pastes_a_box_and_shares_targets_by_its_area():
    pixels, labels = coloured_batch()
    layer = BatchAugmentation(CLASSES, cutmix=1.0, seed=0)
    areas = []
    for _ in range(200):
        mixed, targets = to_numpy(layer(ops.convert_to_tensor(pixels), labels, training=True))
        pasted = mixed[0, :, :, 0] == 150
        area = pasted.mean()
        areas.append(area)
        assert set(np.unique(mixed[0])) <= {0.0, 150.0}
        rows, columns = np.nonzero(pasted)
        if area:  # a full box: as many pixels as its sides say
            assert pasted.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        one_hot = np.eye(CLASSES)[labels]
        np.testing.assert_allclose(targets, one_hot * (1 - area) + one_hot[::-1] * area, atol=1e-5)
    # Of boxes with an area of U(0, 1) at a random centre, 0.32 of the image is left inside.
    assert np.mean(areas) == pytest.approx(0.32, abs=0.06)


def test_mixup_and_cutmix_take_turns():
    pixels, labels = coloured_batch()
    layer = BatchAugmentation(CLASSES, mixup=0.8, cutmix=1.0, cutmix_rate=0.3, seed=0)
    cut = 0
    for _ in range(200):
        mixed, _ = to_numpy(layer(ops.convert_to_tensor(pixels), labels, training=True))
        cut += set(np.unique(mixed[0])) <= {0.0, 150.0}
    assert cut / 200 == pytest.approx(0.3, abs=0.1)


def test_random_erasing():
    side, size, rounds = 64, 64, 8
    pixels = np.zeros((size, side, side, 3), "float32")
    layer = BatchAugmentation(CLASSES, erase_rate=0.25, seed=0)
    labels = np.zeros(size, "int32")
    outputs = np.concatenate(
        [
            to_numpy(layer(ops.convert_to_tensor(pixels), labels, training=True)[0])
            for _ in range(rounds)
        ]
    )
    erased = outputs.any(axis=-1)
    happened = erased.any(axis=(1, 2))
    assert happened.mean() == pytest.approx(0.25, abs=0.06)
    areas, ratios = [], []
    for mask in erased[happened]:
        rows, columns = np.nonzero(mask)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert mask.sum() == height * width  # one full rectangle
        areas.append(height * width / side**2)
        ratios.append(height / width)
    assert 0.015 <= min(areas) and max(areas) <= 0.36
    assert np.mean(areas) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.03)
    assert 0.25 < min(ratios) and max(ratios) < 4
    assert np.mean(np.log(ratios)) == pytest.approx(0, abs=0.2)
    noise = outputs[erased]
    np.testing.assert_allclose(noise.mean(axis=0), IMAGENET_MEAN, atol=1.5)
    np.testing.assert_allclose(noise.std(axis=0), np.sqrt(IMAGENET_VARIANCE), atol=1.5)


def test_draws_repeat_with_the_random_state():
    settings = {"erase_rate": 0.5, "mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1}
    batch = coloured_batch()
    layer = BatchAugmentation(CLASSES, seed=3, **settings)
    first = to_numpy(layer(ops.convert_to_tensor(batch[0]), batch[1], training=True))
    state = ops.convert_to_numpy(layer.seed_generator.state)
    second = to_numpy(layer(ops.convert_to_tensor(batch[0]), batch[1], training=True))
    assert np.abs(first[0] - second[0]).max() > 1
    layer.seed_generator.state.assign(state)
    again = to_numpy(layer(ops.convert_to_tensor(batch[0]), batch[1], training=True))
    np.testing.assert_array_equal(again[0], second[0])
    np.testing.assert_array_equal(again[1], second[1])


def test_evaluation_ignores_padding():
    """Loss and accuracies of three images are those of the same three with padding of weight 0."""
    network = SepViT(TINY, classes=CLASSES, classifier_activation=None)
    model = TrainingModel(network, BatchAugmentation(CLASSES))
    model.compile(jit_compile=False)
    pixels = np.clip(images((4, 64, 64, 3)) * 60 + 120, 0, 255).astype("uint8")
    labels = np.array([1, 2, 3, 0], "int32")
    x, y, weights = fit_batch(pixels, labels, np.array([1, 1, 1, 0], "float32"))
    padded = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    x, y = fit_batch(pixels[:3], labels[:3])
    whole = model.evaluate(x, y, verbose=0, return_dict=True)
    assert set(whole) == {"loss", "accuracy", "top5_accuracy"}
    logits = to_numpy(network(pixels[:3]))
    loss = keras.losses.sparse_categorical_crossentropy(labels[:3], logits, from_logits=True)
    assert whole["loss"] == pytest.approx(to_numpy(loss).mean(), abs=1e-5)
    for name, value in whole.items():
        assert padded[name] == pytest.approx(value, abs=1e-5), name
