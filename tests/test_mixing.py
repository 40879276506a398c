"""Random erasing, mixup and CutMix, by what they do to batches."""

import numpy as np
import pytest
from helpers import to_numpy
from keras import ops

from keras_sepvit.classification.mixing import BatchAugmentation, draw_erasing, draw_mixing
from keras_sepvit.configs import IMAGENET_MEAN, IMAGENET_VARIANCE

CLASSES = 10
SIDE = 32


def coloured_batch(size=16):
    """Images of one brightness each, 10 times their number, and their numbers as labels."""
    pixels = np.arange(size, dtype="uint8").repeat(SIDE * SIDE * 3) * 10
    return pixels.reshape(size, SIDE, SIDE, 3), np.arange(size, dtype="int32") % CLASSES


def augmented(pixels, labels, draws=(), **settings):
    layer = BatchAugmentation(classes=CLASSES, seed=0, **settings)
    batch = {"image": pixels, "label": labels, **dict(draws)}
    return to_numpy(layer({key: ops.convert_to_tensor(value) for key, value in batch.items()}))


def drawn(count=200, size=16, group=16, **mixing):
    """`count` draws of mixing, as NumPy arrays."""
    settings = {"mixup": 0.0, "cutmix": 0.0, "cutmix_rate": 0.5, **mixing}
    for step in range(count):
        draws = draw_mixing((3, step), size, (SIDE, SIDE), group, **settings)
        yield {key: value.numpy() for key, value in draws.items()}


def test_without_draws_images_pass_and_targets_are_one_hot():
    pixels, labels = coloured_batch()
    outputs, targets = augmented(pixels, labels)
    np.testing.assert_array_equal(outputs, pixels)
    np.testing.assert_array_equal(targets, np.eye(CLASSES)[labels])


def test_label_smoothing_keeps_mass():
    _, targets = augmented(*coloured_batch(), label_smoothing=0.1)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(targets.max(axis=1), 0.91, atol=1e-6)
    np.testing.assert_allclose(targets.min(axis=1), 0.01, atol=1e-6)


def test_mixup_mixes_images_and_targets_alike():
    pixels, labels = coloured_batch()
    shares = []
    for step, draws in enumerate(drawn(mixup=0.8)):
        assert not draws["box"].any()
        assert len(set(draws["kept"])) == 1
        share = draws["kept"][0]
        shares.append(share)
        if step < 5:
            mixed, targets = augmented(pixels, labels, draws, group=16)
            expected = share * pixels + (1 - share) * pixels[::-1].astype("float32")
            np.testing.assert_allclose(mixed, expected, atol=1e-3)
            one_hot = np.eye(CLASSES)[labels]
            expected = share * one_hot + (1 - share) * one_hot[::-1]
            np.testing.assert_allclose(targets, expected, atol=1e-6)
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.08)
    assert np.var(shares) == pytest.approx(1 / (4 * 2.6), abs=0.025)


def test_cutmix_pastes_a_box_and_shares_targets_by_its_area():
    pixels, labels = coloured_batch()
    areas = []
    for step, draws in enumerate(drawn(cutmix=1.0)):
        assert (draws["kept"] == 1).all()
        top, left, bottom, right = draws["box"][0].astype(int)
        assert 0 <= top <= bottom <= SIDE and 0 <= left <= right <= SIDE
        area = (bottom - top) * (right - left) / SIDE**2
        areas.append(area)
        if step < 5:
            mixed, targets = augmented(pixels, labels, draws, group=16)
            expected = pixels.astype("float32")
            expected[:, top:bottom, left:right] = pixels[::-1, top:bottom, left:right]
            np.testing.assert_array_equal(mixed, expected)
            one_hot = np.eye(CLASSES)[labels]
            expected = one_hot * (1 - area) + one_hot[::-1] * area
            np.testing.assert_allclose(targets, expected, atol=1e-5)
    # Of boxes with an area of U(0, 1) at a random centre, 0.32 of the image is left inside.
    assert np.mean(areas) == pytest.approx(0.32, abs=0.06)


def test_mixup_and_cutmix_take_turns():
    cut = [draws["box"].any(axis=1) for draws in drawn(mixup=0.8, cutmix=1.0, cutmix_rate=0.3)]
    assert np.mean(cut) == pytest.approx(0.3, abs=0.1)


def test_groups_have_draws_of_their_own_and_mix_among_themselves():
    pixels, labels = coloured_batch()
    (draws,) = drawn(1, group=4, mixup=0.8)
    kept = draws["kept"].reshape(4, 4)
    assert (kept == kept[:, :1]).all() and len(set(kept[:, 0])) == 4
    mixed, _ = augmented(pixels, labels, draws, group=4)
    partners = np.concatenate([np.arange(start, start + 4)[::-1] for start in (0, 4, 8, 12)])
    kept = draws["kept"][:, None, None, None]
    expected = kept * pixels + (1 - kept) * pixels[partners].astype("float32")
    np.testing.assert_allclose(mixed, expected, atol=1e-3)


def test_random_erasing():
    size = 512
    erased = draw_erasing((0, 1), size, (64, 64), rate=0.25).numpy().astype(int)
    heights, widths = erased[:, 2] - erased[:, 0], erased[:, 3] - erased[:, 1]
    assert (erased >= 0).all() and (erased <= 64).all()
    happened = heights > 0
    assert happened.mean() == pytest.approx(0.25, abs=0.06)
    areas, ratios = (heights * widths / 64**2)[happened], heights[happened] / widths[happened]
    assert 0.015 <= min(areas) and max(areas) <= 0.36
    assert np.mean(areas) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.03)
    assert 0.25 < min(ratios) and max(ratios) < 4
    assert np.mean(np.log(ratios)) == pytest.approx(0, abs=0.2)

    pixels = np.zeros((64, 64, 64, 3), "float32")
    outputs, _ = augmented(pixels, np.zeros(64, "int32"), {"erased": erased[:64].astype("float32")})
    for image, (top, left, bottom, right) in zip(outputs, erased, strict=False):
        expected = np.zeros((64, 64), bool)
        expected[top:bottom, left:right] = True
        np.testing.assert_array_equal(image.any(axis=-1), expected)
    noise = outputs[outputs.any(axis=-1)]
    np.testing.assert_allclose(noise.mean(axis=0), IMAGENET_MEAN, atol=1.5)
    np.testing.assert_allclose(noise.std(axis=0), np.sqrt(IMAGENET_VARIANCE), atol=1.5)
