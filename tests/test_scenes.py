"""Scenes of digits: seeded, true to their boxes and masks, held-out digits apart."""

import numpy as np
import pytest

from keras_sepvit.training.sources.digits import load_digits_split
from keras_sepvit.training.sources.scenes import DigitScenes

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def scenes():
    return DigitScenes("train", 40, seed=3)


def test_a_scene_is_a_function_of_seed_split_and_number(scenes):
    again = DigitScenes("train", 12, seed=3)[11]
    np.testing.assert_array_equal(again.image, scenes[11].image)
    np.testing.assert_array_equal(again.masks, scenes[11].masks)
    for other in (DigitScenes("train", 12, seed=4)[11], DigitScenes("validation", 12, seed=3)[11]):
        assert not np.array_equal(other.image, again.image)


def test_boxes_masks_and_maps_agree(scenes):
    for scene in scenes:
        assert 1 <= len(scene.labels) == len(scene.boxes) == len(scene.masks) <= 6
        assert scene.image.shape == (128, 128, 3) and scene.image.dtype == "uint8"
        assert scene.masks.sum(axis=0).max() == 1  # what lies above hides what lies below
        for box, label, mask in zip(scene.boxes, scene.labels, scene.masks, strict=True):
            left, top, right, bottom = box.astype(int)
            inside = mask[top:bottom, left:right]
            assert inside.sum() == mask.sum() > 0
            assert inside[0].any() and inside[-1].any()
            assert inside[:, 0].any() and inside[:, -1].any()
            assert (scene.class_map[mask] == 1 + label).all()
        assert (scene.class_map[~scene.masks.any(axis=0)] == 0).all()


def test_digits_differ_from_the_ground_and_overlap_little(scenes):
    contrasts = []
    for scene in scenes:
        brightness = scene.image.mean(axis=-1)
        ground = brightness[scene.class_map == 0].mean()
        contrasts += [abs(brightness[mask].mean() - ground) for mask in scene.masks]
    assert np.mean(contrasts) > 50
    shared = [scene.class_map.astype(bool).sum() for scene in scenes]
    assert np.min(shared) > 0


def test_splits_share_no_scan():
    train, held_out = (
        {scan.tobytes() for scan in load_digits_split(split)[0]}
        for split in ("train", "validation")
    )
    assert not train & held_out


def test_arrays_are_padded(scenes):
    arrays = scenes.arrays()
    assert arrays["images"].shape == (40, 128, 128, 3) and arrays["boxes"].shape == (40, 6, 4)
    for number in (0, 17):
        digits = len(scenes[number].labels)
        np.testing.assert_array_equal(arrays["boxes"][number, :digits], scenes[number].boxes)
        assert (arrays["boxes"][number, digits:] == -1).all()
        assert (arrays["labels"][number, digits:] == -1).all()


def test_bad_arguments():
    with pytest.raises(ValueError, match="no split 'test'"):
        DigitScenes("test", 4)
    with pytest.raises(ValueError, match=r"up to 48 pixels do not fit.*32 x 64"):
        DigitScenes("train", 4, image_size=(32, 64))
    with pytest.raises(IndexError, match="4 scenes. Received: 4"):
        DigitScenes("train", 4)[4]
