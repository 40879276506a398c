"""Pictures of boxes, masks and class maps."""

import numpy as np
import pytest
from PIL import Image

from keras_sepvit.visualize import (
    detections_beside_truth,
    draw_boxes,
    draw_class_map,
    draw_instances,
    draw_window_attention,
    in_rows,
    palette,
    save_class_map,
    with_legend,
)

pytestmark = pytest.mark.once

GREY = np.full((40, 60, 3), 128, "uint8")
MAP = np.zeros((40, 60), "uint8")


def test_boxes_are_drawn_where_they_are():
    boxes = [[10, 20, 50, 35], [-1] * 4]
    picture = np.asarray(draw_boxes(GREY, boxes, [2, -1], class_names="abc", scale=2))
    assert picture.shape == (80, 120, 3)
    colour = (picture == palette(3)[2]).all(axis=-1)
    frame = np.zeros((80, 120), bool)
    frame[40:70, 20:100] = True
    frame[41:69, 21:99] = False
    assert colour[frame].all()
    outside = colour & ~frame
    rows, columns = np.nonzero(outside)  # the name's ground, upon the box
    assert columns.min() == 20 and columns.max() < 40 and 20 < rows.min() and rows.max() == 39
    assert (picture[41:69, 21:99] == 128).all()  # the inside of the box stays


@pytest.mark.parametrize("scale", [1, 2])
def test_masks_are_drawn_where_they_are(scale):
    """Two that overlap, one at the picture's corner, an empty one, none, a row of padding."""
    grey = np.full((120, 180, 3), 128, "uint8")
    masks = np.zeros((5, 120, 180), bool)
    masks[0, 60:90, 60:120] = masks[1, 75:114, 90:150] = masks[2, 100:, :27] = masks[4] = True
    boxes = [[60, 60, 120, 90], [90, 75, 150, 114], [0, 100, 27, 120], [0, 0, 9, 9], [9, 9, 29, 29]]
    labels, confidence = [1, 0, 2, 2, -1], [0.4, 0.9, 0.5, 0.5, 0.5]
    how = {"confidence": confidence, "class_names": "abc", "scale": scale}
    alone = draw_boxes(grey, boxes, labels, **how)
    given = [*masks[:3], None, masks[4]]
    picture = draw_instances(grey, boxes, labels, given, **how)
    assert np.array_equal(picture, draw_instances(grey, boxes, labels, masks, **how))
    assert picture.size == alone.size == (180 * scale, 120 * scale)
    same = (np.asarray(picture) == np.asarray(alone)).all(axis=-1)
    large = masks.repeat(scale, 1).repeat(scale, 2)
    assert same[~large[:3].any(axis=0)].all()
    names = (np.asarray(alone) != 128).any(axis=-1)  # and the boxes, which lie above the masks
    expected = np.full((*same.shape, 3), 128)
    for number in (2, 0, 1):  # the surest lies above
        expected[large[number]] = np.rint((128 + palette(3)[labels[number]].astype(int)) / 2)
    for number in (2, 0, 1):  # and all outlines above all areas
        inner = np.pad(large[number], 1)
        near = inner[2:, 1:-1] & inner[:-2, 1:-1] & inner[1:-1, 2:] & inner[1:-1, :-2]
        expected[large[number] & ~near] = palette(3)[labels[number]]
    assert (large[0] & large[1] & ~names).any() and (large[2] & ~names).any()
    np.testing.assert_array_equal(np.asarray(picture)[~names], expected[~names])


@pytest.mark.parametrize("size", [(96, 128), (33, 700), (700, 33)])
def test_names_stay_in_the_picture_and_can_be_read(size):
    """At all edges, of boxes that reach beyond them, too; on grounds of all colours."""
    height, width = size
    boxes = [
        [-9, -9, 12, 12],
        [width - 12, -9, width + 9, 12],
        [-9, height - 12, 12, height + 9],
        [width - 12, height - 12, width + 1e9, height + 9],
    ]
    image = np.full((*size, 3), 128, "uint8")
    for label in range(8):
        picture = draw_boxes(image, boxes, [label] * 4, [1.0] * 4)
        assert picture.size == (width, height)
        ground, drawn = luminance(palette(8)[label]), luminance(picture)
        light, dark = np.maximum(drawn, ground) + 0.05, np.minimum(drawn, ground) + 0.05
        # The contrast that W3C's guidelines ask of large letters; of grey it is lower or as low.
        assert (light / dark > max(3, contrast(ground, luminance([128] * 3)))).sum() > 20


def contrast(*luminances):
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)


def luminance(colour):
    """Relative luminance of sRGB, by W3C's definition."""
    shares = np.asarray(colour) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return linear @ (0.2126, 0.7152, 0.0722)


def test_names_of_a_crowd_do_not_lie_on_each_other():
    """Of six boxes nearly at the same place the surest name is whole, and all can be seen."""
    boxes = [[300 + n, 300 + n, 420 + n, 420 + n] for n in range(6)]
    image = np.full((800, 800, 3), 128, "uint8")
    confidence = np.linspace(0.9, 0.1, 6)
    picture = np.asarray(draw_boxes(image, boxes, range(6), confidence))
    alone = np.asarray(draw_boxes(image, boxes[:1], [0], confidence[:1]))
    best, same = ((x[:300] == palette(1)[0]).all(axis=-1) for x in (alone, picture))
    np.testing.assert_array_equal(best, same)
    for colour in palette(6):
        assert (picture == colour).all(axis=-1).sum() > best.sum() / 2


def test_attention_among_windows_is_drawn_where_windows_are():
    # 40 x 60 in windows of 16 x 32: 3 x 2, the last ones beyond the image.
    weights = np.zeros((2, 6, 6))
    weights[0, 2, 5], weights[1, 2, 0] = 1, 1  # window (1, 0) attends to (2, 1) and (0, 0)
    picture = np.asarray(draw_window_attention(GREY, weights, (1, 0), (16, 32), scale=2))
    assert picture.shape == (80, 120, 3)
    bright = picture[..., 0] > 150
    assert bright[64:, 64:].all() and bright[:32, :64].all()
    assert bright.sum() == 16 * 56 + 32 * 64
    np.testing.assert_array_equal(picture[32, 30], (0, 255, 255))  # the frame
    for arguments, message in (
        ((GREY, weights[:, :5, :5], (1, 0), (16, 32)), "3 x 2 windows of 16 x 32 pixels"),
        ((GREY, weights, (3, 0), (16, 32)), r"`window` must be one of 3 x 2"),
        ((GREY, weights - 1, (1, 0), (16, 32)), "weights from 0 on"),
        ((GREY / 255, weights, (1, 0), (16, 32)), "image"),
    ):
        with pytest.raises(ValueError, match=message):
            draw_window_attention(*arguments)


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
    assert (picture[:80, [40, 79]] == paint).all()  # the outline, of one pixel
    legend = picture.reshape(-1, 3) if picture.shape[1] > 120 else picture[80:].reshape(-1, 3)
    assert (legend == paint).all(axis=1).any()  # the one class that is named
    for other in palette(3):
        assert not (picture == other).all(axis=-1).any()
    without = draw_class_map(GREY, class_map, names, legend=False)
    assert without.size == (60, 40)
    assert not (np.asarray(draw_class_map(GREY, class_map))[:40, :20] == 128).all()


@pytest.mark.parametrize("opacity", [0.3, 0.6])
@pytest.mark.parametrize("colour", [(20, 160, 40), (250, 120, 30), (30, 60, 200)])
def test_areas_have_the_hue_of_the_legend_on_photos_of_any_colour(colour, opacity):
    image = np.broadcast_to(np.uint8(colour), (40, 1200, 3))
    for number, paint in enumerate(palette(20)):
        class_map = np.full((40, 1200), 255, "uint8")
        class_map[10:30, 200:1000] = number
        picture = draw_class_map(image, class_map, opacity=opacity, legend=False)
        inside = picture.getpixel((600, 20))
        hues = [
            Image.new("RGB", (1, 1), tuple(map(int, rgb))).convert("HSV").getpixel((0, 0))[0]
            for rgb in (inside, paint)
        ]
        assert abs((hues[0] - hues[1] + 128) % 256 - 128) <= 3
        pixels = np.asarray(picture)
        is_outline = (pixels == paint).all(axis=-1)
        assert is_outline[10:13, 200:1000].all() and is_outline[10:30, 997:1000].all()
        assert is_outline.sum() == 20 * 800 - 14 * 794  # three pixels, of the area alone
        assert (pixels[:10] == colour).all() and (pixels[:, 1000:] == colour).all()


ROW = [Image.new("RGB", (9, 9))]


@pytest.mark.parametrize(
    "case",
    {
        "opacity=2": (lambda: draw_class_map(GREY, MAP, opacity=2), "`opacity` .* from 0 to 1.*=2"),
        "opacity=nan": (lambda: draw_class_map(GREY, MAP, opacity=np.nan), "`opacity`.*nan"),
        "opacity=text": (lambda: draw_class_map(GREY, MAP, opacity="0.5"), "`opacity`.*'0.5'"),
        **{
            f"{name} scale={scale}": (lambda d=draw, s=scale: d(s), f"`scale` .*scale={scale}")
            for name, draw in {
                "boxes": lambda scale: draw_boxes(GREY, [], [], class_names="ab", scale=scale),
                "map": lambda scale: draw_class_map(GREY, MAP, scale=scale),
            }.items()
            for scale in (0, -1, 1.5)
        },
        "floats": (lambda: draw_class_map(GREY / 255, MAP), "`image` .*float64.*Multiply floats"),
        "floats, boxes": (
            lambda: draw_boxes(GREY / 255, [], [], class_names="a"),
            "`image` .*float64",
        ),
        "a path": (
            lambda: draw_boxes("photo.jpg", [], [], class_names="a"),
            "`image` .*str 'photo.jpg'.*read",
        ),
        "grey": (lambda: draw_class_map(GREY[..., 0], MAP), r"`image` .*uint8 \(40, 60\)"),
        **{
            f"palette({classes})": (lambda n=classes: palette(n), f"`classes` .*={classes}")
            for classes in (-1, 0, 256, 2.5)
        },
        "no rows": (lambda: in_rows([], []), "`rows` must be lists of pictures.*0 rows"),
        "empty rows": (lambda: in_rows([[]], ["a"]), "`rows` must be lists"),
        "two sizes": (lambda: in_rows([[*ROW, Image.new("RGB", (9, 8))]], "a"), "all of one size"),
        "no titles": (lambda: in_rows([ROW], []), "`titles` must have one for each row.*0 for 1"),
        "label": (
            lambda: draw_boxes(GREY, [[0, 0, 1, 1]], [2], class_names="ab"),
            "`labels` has the class 2, but there are 2 `class_names`",
        ),
        "half a label": (
            lambda: draw_boxes(GREY, [[0, 0, 1, 1]], [0.5], class_names="ab"),
            "`labels` .*whole",
        ),
        "boxes": (
            lambda: draw_boxes(GREY, [[0, 1]], [1], class_names="ab"),
            r"`boxes` .*\(1, 2\) for 1",
        ),
        "no boxes": (
            lambda: draw_boxes(GREY, [], [1], class_names="ab"),
            r"`boxes` .*\(0,\) for 1",
        ),
        "nan": (
            lambda: draw_boxes(GREY, [[0, np.nan, 1, 1]], [1], class_names="ab"),
            "`boxes` must be finite",
        ),
        "masks": (
            lambda: draw_instances(GREY, [[0, 0, 1, 1]], [1], None),
            "`masks` must be an array or a list",
        ),
        "fewer masks": (
            lambda: draw_instances(GREY, [[0, 0, 1, 1]], [1], []),
            "`masks` must have one for each.*0 for 1",
        ),
        "mask": (
            lambda: draw_instances(GREY, [[0, 0, 1, 1]], [1], [MAP]),
            r"`masks` must be bool .*\(40, 60\).*uint8 \(40, 60\)",
        ),
        "confidence": (
            lambda: draw_boxes(GREY, [[0, 0, 1, 1]], [1], class_names="ab", confidence=[]),
            "`confidence` must have a number for each",
        ),
        "legend": (lambda: with_legend(ROW[0], [7], "ab"), "`classes` has the class 7, .* are 2"),
        "legend, -1": (lambda: with_legend(ROW[0], [-1], "ab"), "`classes` has the class -1"),
        "legend, array": (lambda: with_legend(GREY, [1], "ab"), "`picture` must be a Pillow image"),
        "legend, size": (lambda: with_legend(ROW[0], [1], "ab", size=0), "`size` .*=0"),
        "threshold": (lambda: detections_beside_truth([GREY], [], [], "a", 3), "`threshold` .*=3"),
        "no images": (lambda: detections_beside_truth([], [], [], "a"), "`images`.*0, 0 and 0"),
    }.items(),
    ids=lambda case: case[0],
)
def test_wrong_arguments_are_told_by_name(case):
    call, message = case[1]
    with pytest.raises(ValueError, match=message):
        call()


def test_boxes_of_more_classes_than_colours_are_drawn():
    picture = draw_boxes(GREY, [[10, 5, 30, 25]], [300])
    assert picture.getpixel((20, 24)) == tuple(palette(255)[45])


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
        (np.full((40, 60), 2), "`class_map` has the class 2, but there are 2 `class_names`"),
    ],
)
def test_refuses_what_is_no_class_map(class_map, message):
    with pytest.raises(ValueError, match=message):
        draw_class_map(GREY, class_map, "ab")


def test_class_maps_are_png_only(tmp_path):
    with pytest.raises(ValueError, match=r"written as \.png.*map\.jpg"):
        save_class_map(tmp_path / "map.jpg", np.zeros((4, 4), "uint8"))


def test_detections_stand_above_the_truth():
    found = {"boxes": [[1, 20, 59, 35], [40, 5, 55, 9]], "labels": [0, 1]}
    found["confidence"] = [0.9, 0.1]
    truth = {"boxes": [[1, 20, 59, 35]], "labels": [0]}
    sheet = detections_beside_truth([GREY] * 3, [found] * 3, [truth] * 3, "ab", scale=1)
    assert sheet.size == (6 + 3 * 66, 6 + 2 * (24 + 40 + 6))
    # The weak one is not drawn: both rows have the one box.
    pixels = np.asarray(sheet)
    for top in (6 + 24, 6 + 24 + 70):
        assert (pixels[top : top + 20, 6 + 54] == 128).all()
        assert (pixels[top + 34, 6 + 4] == palette(1)[0]).all()
