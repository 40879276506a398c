"""Augmentation of photos and boxes, against mmcv's numbers, NumPy and Pillow, and on the pixels."""

import numpy as np
import pytest
from PIL import Image
from reference import DATA

tf = pytest.importorskip("tensorflow")

from keras_sepvit.detection.images import TrainTransform, inside  # noqa: E402
from keras_sepvit.runtime.canvas import MEAN_COLOUR, fit_into, fit_sides  # noqa: E402
from keras_sepvit.training.canvas import fitted_into, place  # noqa: E402

pytestmark = pytest.mark.once

SHORT_SIDES = tuple(range(480, 801, 32))


def photo(height, width, seed=0):
    """Smooth random colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).astype("uint8")
    resized = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def seeded(transform, image, boxes, labels, seeds):
    """Results of a transform for seeds (1, 0), (1, 1) and so on, in one graph."""
    data = tf.data.Dataset.range(seeds).map(
        lambda number: transform(image, boxes, labels, tf.cast(tf.stack([1, number]), tf.int32)),
        num_parallel_calls=2,
    )
    return list(data.as_numpy_iterator())


# Sizes


def test_sizes_and_boxes_are_those_of_mmcv():
    official = np.load(DATA / "official_schedules_resizes_metrics.npz")
    boxes, labels = np.float32(official["boxes_before"]), np.int32([2, 0, 1])
    for flip, expected in ((0, "boxes_resized"), (1, "boxes_flipped")):
        transform = TrainTransform((60, 90), flip=flip, short_sides=60, long_side=80)
        _, moved, moved_labels, size = transform(photo(37, 53), boxes, labels, [3, 4])
        np.testing.assert_array_equal(size, official["boxes_image_shape"][:2])
        np.testing.assert_allclose(moved, official[expected], atol=1e-4)
        np.testing.assert_array_equal(moved_labels, labels)
    checked = 0
    for width, height, *scale in official["resize"][:, :6].astype(int):
        sides, size = sorted(scale[:2]), scale[:1:-1]
        if max(width, height) > 700:
            continue
        transform = TrainTransform(2048, short_sides=sides[0], long_side=sides[1])
        canvas, _, _, result = transform(photo(height, width), boxes, labels, [3, 4])
        np.testing.assert_array_equal(result, size)
        assert canvas.shape == (2048, 2048, 3)
        checked += 1
    assert checked > 40


@pytest.mark.parametrize("canvas", [(640, 640), (800, 1344), (1344, 800), (97, 40)])
def test_evaluation_places_photos_as_the_runtime_does(canvas):
    """The size and the way back are the runtime's, for sides of 33 to 2,000."""
    sides = [33, 40, 97, 255, 357, 640, 641, 683, 1013, 1999, 2000]
    sizes = [(height, width) for height in sides for width in sides]
    fitted = np.stack([fitted_into(size, canvas) for size in sizes])
    for size, placed in zip(sizes, fitted, strict=True):
        placement = fit_into(size, canvas)
        assert tuple(placed) == placement.size
        corners = np.float32([[0, 0, size[1], size[0]], [1.5, 2.25, size[1] / 3, size[0] / 7]])
        back = placement.to_photo(placement.to_canvas(corners))
        np.testing.assert_allclose(back, corners, atol=1e-3)
        np.testing.assert_allclose(placement.to_canvas(corners)[0], (0, 0, *placed[::-1]), 1e-6)


@pytest.mark.parametrize("size", [(101, 35), (35, 101), (64, 64)])
def test_evaluation_photos(size):
    image, placed = place(photo(*size), (48, 80))
    placement = fit_into(size, (48, 80))
    assert tuple(placed.numpy()) == placement.size
    difference = np.abs(image.numpy().astype(int) - placement.place(photo(*size)))
    assert difference.max() <= 2 and (difference > 0).mean() < 0.05


# The augmentation, number by number


def uniform(shape, seed):
    return tf.random.stateless_uniform(shape, seed, dtype=tf.float64, alg="philox").numpy()


def expected(pixels, boxes, labels, seed, canvas, short_sides, long_side, crops, flip, visible):
    """The augmentation in NumPy and Pillow, of the same random numbers, and whether it cropped."""
    draws = uniform([8], tf.random.split(seed, 2, alg="philox")[0])
    size = whole = part = np.array(pixels.shape[:2])
    corner = np.zeros(2, int)
    if cropped := draws[0] < crops:
        whole = np.array(fit_sides(size, (400, 500, 600)[int(3 * draws[1])], long_side).size)
        least, most = np.minimum(whole, 384), np.minimum(whole, 600)
        part = least + (draws[2:4] * (most - least + 1)).astype(int)
        corner = (draws[4:6] * (whole - part + 1)).astype(int)
    short = short_sides[int(len(short_sides) * draws[6])]
    scale = min(short / part.min(), long_side / part.max(), *(np.array(canvas) / part))
    placed = (part * scale + 0.5).astype(int)

    moved, kept = [], []
    for box, label in zip(boxes, labels, strict=True):
        if label < 0:
            continue
        box = box.reshape(2, 2)[:, ::-1] * (whole / size) - corner  # corners as (y, x)
        shown = np.clip(box, 0, part)
        share = np.prod(shown[1] - shown[0]) / np.prod(box[1] - box[0])
        if (shown[1] > shown[0]).all() and share >= visible:
            shown = shown * (placed / part)
            if draws[7] < flip:
                shown[:, 1] = placed[1] - shown[::-1, 1]
            moved.append(shown[:, ::-1].ravel())
            kept.append(label)
    region = np.concatenate([corner * size / whole, (corner + part) * size / whole])
    image = Image.fromarray(pixels).resize(
        tuple(placed[::-1]), Image.Resampling.BILINEAR, box=tuple(region[[1, 0, 3, 2]])
    )
    image = np.asarray(image)[:, ::-1] if draws[7] < flip else np.asarray(image)
    result = np.empty((*canvas, 3), "uint8")
    result[:] = MEAN_COLOUR
    result[: placed[0], : placed[1]] = image
    return result, np.reshape(moved, (-1, 4)), kept, placed, cropped


@pytest.mark.parametrize(
    ("size", "turned"), [((60, 90), False), ((96, 70), True), ((50, 50), False), ((20, 200), False)]
)
def test_augmentation_equals_the_reference(size, turned):
    options = {"long_side": 1333, "crops": 0.5, "flip": 0.5, "visible": 0.3}
    sides = (40, 55, 64)
    rng = np.random.default_rng(7)
    corners = np.sort(rng.uniform(0, (size[1], size[0]), (9, 2, 2)), axis=1).reshape(9, 4)
    boxes = np.concatenate([corners, np.full((3, 4), -1)]).astype("float32")
    labels = np.int32([*range(9), -1, -1, -1])
    transform = TrainTransform((64, 100), short_sides=sides, turned=turned, **options)
    canvas = (100, 64) if turned else (64, 100)
    pixels, crops, lost = photo(*size), 0, 0
    for number, results in enumerate(seeded(transform, pixels, boxes, labels, 60)):
        image, moved, kept, placed = results
        picture, truth, true_labels, true_size, cropped = expected(
            pixels, boxes, labels, tf.constant([1, number]), canvas, sides, **options
        )
        count = len(true_labels)
        np.testing.assert_array_equal(placed, true_size)
        np.testing.assert_array_equal(kept, [*true_labels, *[-1] * (12 - count)])
        np.testing.assert_allclose(moved[:count], truth, atol=2e-3)
        assert (moved[count:] == -1).all()
        difference = np.abs(image.astype(int) - picture)
        assert difference.max() <= 3 and difference.mean() < 0.5, number
        crops, lost = crops + cropped, lost + (count < 9)
    assert 15 < crops < 45 and lost > 0


def test_all_of_a_recipe_is_drawn():
    """1x has one size; of 3x half are crops, landscapes turn portraits, all sides are drawn."""
    boxes, labels = np.zeros((1, 4), "float32"), np.full(1, -1, "int32")
    pixels = photo(48, 64)
    results = seeded(TrainTransform((800, 1344)), pixels, boxes, labels, 3)
    assert {tuple(size) for *_, size in results} == {(800, 1067)}
    transform = TrainTransform((800, 1344), short_sides=SHORT_SIDES, crops=0.5)
    sizes = np.array([size for *_, size in seeded(transform, pixels, boxes, labels, 300)])
    whole = [
        tuple(size) in {fit_sides((48, 64), x, 1333).size for x in SHORT_SIDES} for size in sizes
    ]
    assert 0.4 < np.mean(whole) < 0.6
    assert {*SHORT_SIDES} <= {*sizes.min(axis=1)}
    assert (sizes[:, 0] > sizes[:, 1]).sum() > 20 and (sizes <= (800, 1333)).all()


# On the pixels

LOW, HIGH = 40, 200


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ({"flip": 1.0}, 1),
        ({"flip": 0.0, "short_sides": (30, 47, 64, 80)}, 4),
        ({"flip": 0.0, "crops": 1.0}, 300),
        ({"flip": 0.5, "distortion": True}, 2),
        ({"crops": 0.5, "short_sides": (40, 55, 64, 80), "visible": 0.25}, 150),
        ({"crops": 1.0, "short_sides": (40, 64), "turned": True, "distortion": True}, 300),
    ],
)
def test_boxes_hug_their_pixels(options, places):
    """A bright rectangle in a photo, through 500 seeds."""
    pixels = np.full((64, 96, 3), LOW, "uint8")
    pixels[20:41, 55:68] = HIGH
    boxes, labels = np.float32([[55, 20, 68, 41], [-1] * 4]), np.int32([7, -1])
    transform = TrainTransform(**{"image_size": (80, 120), "short_sides": (64,), **options})
    found = []
    for image, (box, padding), kept, size in seeded(transform, pixels, boxes, labels, 500):
        height, width = size
        assert (padding == -1).all() and kept[1] == -1 and kept[0] in (7, -1)
        outside = np.concatenate([image[height:].ravel(), image[:, width:].ravel()])
        assert (outside.reshape(-1, 3) == MEAN_COLOUR).all()
        brightness = image[:height, :width].mean(axis=-1)
        low, high = brightness.min(), brightness.max()
        if kept[0] < 0:  # less of it is visible than the stated share
            assert (box == -1).all()
            bright = (brightness > (LOW + HIGH) / 2).mean() * height * width
            assert bright <= 273 * options.get("visible", 0.01) * 2 or options.get("distortion")
            continue
        left, top, right, bottom = box
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        found.append(box)
        if high - low < 20 or min(right - left, bottom - top) < 2:
            continue  # there is hardly anything else, or hardly anything of it
        rows, columns = (
            np.flatnonzero((brightness > (low + high) / 2).any(axis=axis)) for axis in (1, 0)
        )
        edges = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        np.testing.assert_allclose(box, edges, atol=1)
    assert len(found) > 300 and len(np.unique(np.round(found, 2), axis=0)) >= places


def test_the_least_visible_share_of_a_box():
    """A half of the first is inside, a quarter of the second, all and nothing of the others."""
    boxes = np.float32([[-10, 0, 10, 10], [90, 40, 110, 60], [5, 5, 9, 9], [100, 0, 120, 10]])
    labels = np.int32([3, 2, 1, 0])
    for visible, kept in ((0, [3, 2, 1]), (0.25, [3, 2, 1]), (0.26, [3, 1]), (0.51, [1]), (1, [1])):
        shown, left = inside(boxes, labels, [50, 100], visible)
        np.testing.assert_array_equal(left, kept + [-1] * (4 - len(kept)))
        np.testing.assert_array_equal(shown[len(kept) :], np.full((4 - len(kept), 4), -1))
        np.testing.assert_array_equal(shown[0], [0, 0, 10, 10] if kept[0] == 3 else boxes[2])


def test_a_transform_is_a_function_of_its_seed():
    transform = TrainTransform(32, crops=0.5, short_sides=(20, 32), distortion=True)
    boxes, labels = np.float32([[1, 2, 30, 40], [5, 5, 9, 9]]), np.int32([0, 1])
    first, again = (seeded(transform, photo(40, 50), boxes, labels, 8) for _ in range(2))
    for results, others in zip(first, again, strict=True):
        for values, same in zip(results, others, strict=True):
            np.testing.assert_array_equal(values, same)
    assert len({image.tobytes() for image, *_ in first}) == 8


def test_bad_arguments():
    for options, message in (
        ({"image_size": 0}, "image_size"),
        ({"short_sides": ()}, "`short_sides` must have a side at least"),
        ({"short_sides": (480, 0.5)}, "short_sides=0.5"),
        ({"long_side": -1}, "long_side=-1"),
        ({"flip": 2}, "flip=2"),
        ({"crops": -1}, "crops=-1"),
        ({"visible": 30}, "visible=30"),
        ({"distortion": 0.3}, "distortion=0.3"),
        ({"turned": None}, "turned=None"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainTransform(**{"image_size": 8, **options})
