"""Pictures of boxes and class maps."""

import numpy as np
import pytest
from PIL import Image

from keras_sepvit.visualize import (
    detections_beside_truth,
    draw_boxes,
    draw_class_map,
    palette,
    save_class_map,
)

pytestmark = pytest.mark.once

GREY = np.full((40, 60, 3), 128, "uint8")


def test_boxes_are_drawn_where_they_are():
    picture = np.asarray(draw_boxes(GREY, [[10, 5, 30, 25], [-1] * 4], [2, -1], "abc", scale=2))
    assert picture.shape == (80, 120, 3)
    changed = (picture != 128).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), columns.min(), rows.max(), columns.max()) == (10, 20, 49, 59)
    np.testing.assert_array_equal(picture[49, 40], palette(3)[2])
    assert not changed[30:45, 30:55].any()  # the inside of the box stays


def test_colours_are_fixed_and_differ():
    colours = palette(255).astype(int)
    distances = np.abs(colours[:, None] - colours[None]).sum(axis=-1)
    others = ~np.eye(255, dtype=bool)
    assert distances[others].min() > 30
    assert distances[:20, :20][others[:20, :20]].min() > 100
    np.testing.assert_array_equal(palette(7), colours[:7])
    assert colours[:3].tolist() == [[255, 73, 36], [0, 255, 255], [36, 0, 255]]


def test_class_map_colours_all_but_background_and_what_is_ignored():
    class_map = np.zeros((40, 60), "uint8")
    class_map[:, 20:40], class_map[:, 40:] = 3, 255
    names = ["background", "a", "b", "c"]
    picture = np.asarray(draw_class_map(GREY, class_map, names, scale=2))
    assert (picture[:80, :40] == 128).all() and (picture[:80, 80:120] == 128).all()
    paint = palette(4)[3]
    np.testing.assert_allclose(picture[5, 60], 0.4 * 128 + 0.6 * paint, atol=1)
    legend = picture.reshape(-1, 3) if picture.shape[1] > 120 else picture[80:].reshape(-1, 3)
    assert (legend == paint).all(axis=1).any()  # the one class that is named
    for other in palette(3):
        assert not (picture == other).all(axis=-1).any()
    without = draw_class_map(GREY, class_map, names, legend=False)
    assert without.size == (60, 40)
    assert not (np.asarray(draw_class_map(GREY, class_map))[:40, :20] == 128).all()


@pytest.mark.parametrize("size", [(33, 2000), (2000, 33), (64, 64), (1500, 2000)])
@pytest.mark.parametrize("classes", [1, 150])
def test_legend_has_room_for_all_classes_and_keeps_the_picture(size, classes):
    image = np.full((*size, 3), 128, "uint8")
    class_map = np.full(size, 255, "uint8")
    class_map.flat[:classes] = np.arange(classes)
    names = [f"a class with a long name {number}" for number in range(classes)]
    picture = np.asarray(draw_class_map(image, class_map, names))
    np.testing.assert_array_equal(picture[5 : size[0], : size[1]], image[5:])
    beside = picture.astype(int) @ (1, 256, 65536)
    beside[: size[0], : size[1]] = -1
    found = dict(zip(*np.unique(beside, return_counts=True), strict=True))
    side = max(13, max(size) // 70) + 1  # of the squares, as high as letters
    for colour in palette(classes).astype(int) @ (1, 256, 65536):
        assert found[colour] >= side**2
    assert max(picture.shape) <= max(2.3 * max(size), 1100)


def test_saved_class_map_has_classes_as_pixels(tmp_path):
    class_map = np.arange(256, dtype="int64").reshape(8, 32)
    save_class_map(tmp_path / "map.png", class_map)
    with Image.open(tmp_path / "map.png") as file:
        assert file.mode == "P"
        np.testing.assert_array_equal(np.asarray(file), class_map)
        colours = np.asarray(file.convert("RGB")).reshape(-1, 3)
    np.testing.assert_array_equal(colours, [*palette(255), [0, 0, 0]])


@pytest.mark.parametrize(
    "class_map, message",
    [
        (np.zeros((40, 60), "float32"), "must be ints of shape.*float32"),
        (np.zeros((40, 60, 1), "uint8"), "must be ints of shape"),
        (np.full((40, 60), 300), "classes from 0 to 254, and 255 for none.*300"),
        (np.full((40, 60), -1), "-1"),
        (np.zeros((60, 40), "uint8"), r"the size of `class_map`.*\(40, 60, 3\) and \(60, 40\)"),
        (np.full((40, 60), 2), "has the class 2, but there are 2 `class_names`"),
    ],
)
def test_refuses_what_is_no_class_map(class_map, message):
    with pytest.raises(ValueError, match=message):
        draw_class_map(GREY, class_map, "ab")


def test_class_maps_are_png_only(tmp_path):
    with pytest.raises(ValueError, match=r"written as \.png.*map\.jpg"):
        save_class_map(tmp_path / "map.jpg", np.zeros((4, 4), "uint8"))


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
