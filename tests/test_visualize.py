"""Pictures of boxes and class maps."""

import numpy as np
import pytest

from keras_sepvit.visualize import (
    class_colours,
    detections_beside_truth,
    draw_boxes,
    draw_class_map,
)

pytestmark = pytest.mark.once

GREY = np.full((40, 60, 3), 128, "uint8")


def test_boxes_are_drawn_where_they_are():
    picture = np.asarray(draw_boxes(GREY, [[10, 5, 30, 25], [-1] * 4], [2, -1], "abc", scale=2))
    assert picture.shape == (80, 120, 3)
    changed = (picture != 128).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), columns.min(), rows.max(), columns.max()) == (10, 20, 49, 59)
    np.testing.assert_array_equal(picture[49, 40], class_colours(3)[2])
    assert not changed[30:45, 30:55].any()  # the inside of the box stays


def test_colours_differ():
    colours = class_colours(20).astype(int)
    distances = np.abs(colours[:, None] - colours[None]).sum(axis=-1)
    assert distances[~np.eye(20, dtype=bool)].min() > 20


def test_class_map_leaves_the_ground_and_what_is_ignored():
    class_map = np.zeros((40, 60), "uint8")
    class_map[:, 20:40], class_map[:, 40:] = 3, 255
    picture = np.asarray(draw_class_map(GREY, class_map, classes=4))
    assert (picture[:, :20] == 128).all() and (picture[:, 40:] == 128).all()
    np.testing.assert_allclose(picture[5, 30], 0.4 * 128 + 0.6 * class_colours(4)[3], atol=1)


def test_detections_stand_above_the_truth():
    found = {"boxes": [[1, 20, 9, 30], [5, 5, 9, 9]], "labels": [0, 1], "confidence": [0.9, 0.1]}
    truth = {"boxes": [[1, 20, 9, 30]], "labels": [0]}
    sheet = detections_beside_truth([GREY] * 3, [found] * 3, [truth] * 3, "ab", scale=1)
    assert sheet.size == (6 + 3 * 66, 6 + 2 * (24 + 40 + 6))
    # The weak one is not drawn: both rows have the one box.
    pixels = np.asarray(sheet)
    for top in (6 + 24, 6 + 24 + 70):
        assert (pixels[top + 5 : top + 9, 6 + 8] == 128).all()
        assert (pixels[top + 29, 6 + 4] != 128).any()
