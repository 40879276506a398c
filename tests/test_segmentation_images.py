"""Augmentation of photos and class maps, against mmcv's numbers and NumPy, Pillow, colorsys."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from reference import DATA

tf = pytest.importorskip("tensorflow")

from keras_sepvit.runtime.canvas import MEAN_COLOUR, fit_into, fit_sides  # noqa: E402
from keras_sepvit.segmentation import images  # noqa: E402
from keras_sepvit.segmentation.images import TrainTransform  # noqa: E402
from keras_sepvit.training.canvas import fitted, place  # noqa: E402
from keras_sepvit.training.distortion import distort, draw_distortion  # noqa: E402
from keras_sepvit.training.images import resize  # noqa: E402

pytestmark = pytest.mark.once

SEED = tf.constant([5, 9])


def photo(height, width, seed=0):
    """Smooth random colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).astype("uint8")
    resized = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def regions(height, width, seed=0, classes=4):
    """A class map of large random regions, some of them ignored."""
    coarse = np.random.default_rng(seed).integers(0, classes + 1, (4, 5)).astype("uint8")
    coarse[coarse == classes] = 255
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 5 // width
    return coarse[rows][:, columns]


def seeded(transform, image, class_map, seeds):
    """Results of a transform for seeds (1, 0), (1, 1) and so on, in one graph."""
    data = tf.data.Dataset.range(seeds).map(
        lambda number: transform(image, class_map, tf.cast(tf.stack([1, number]), tf.int32))
    )
    return list(data.as_numpy_iterator())


# Sizes


def test_sizes_are_those_of_mmcv():
    official = np.load(DATA / "official_schedules_resizes_metrics.npz")
    for width, height, *resized in official["seg_resize"]:
        np.testing.assert_array_equal(fitted([height, width], (512, 2048)), resized[::-1])
    for width, height, *scale in official["resize"][:, :6].astype(int):
        size = fitted([height, width], sorted(scale[:2]))
        np.testing.assert_array_equal(size, scale[:1:-1])


def test_photos_are_resized_as_by_mmcv():
    official = np.load(DATA / "official_schedules_resizes_metrics.npz")
    pixels, resized = official["pixels"], official["pixels_resized"].astype(int)
    size = fitted(pixels.shape[:2], (60, 80))
    result = resize(pixels, tf.unstack(size), "bilinear").numpy()
    assert result.shape == resized.shape != pixels.shape
    assert np.abs(result - resized).max() <= 1


def test_sizes_are_those_of_the_runtime():
    sides = [1, 2, 33, 97, 255, 357, 512, 640, 683, 1013, 2000]
    for height in sides:
        for width in sides:
            for limits in ((512, 2048), (37, 91)):
                expected = fit_sides((height, width), *limits).size
                assert tuple(fitted([height, width], limits).numpy()) == expected


@pytest.mark.parametrize("size", [(1013, 357), (33, 200), (120, 80), (7, 9)])
@pytest.mark.parametrize("encoded", [True, False])
def test_evaluation_places_photos_as_the_runtime_does(size, encoded):
    pixels, canvas = photo(*size), (96, 128)
    image = pixels
    if encoded:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        image = file.getvalue()
    placement = fit_into(size, canvas)
    result = place(image, canvas)[0].numpy()
    expected = placement.place(pixels)
    difference = np.abs(result.astype(int) - expected)  # both axes are rounded
    assert difference.max() <= 2 and (difference > 0).mean() < 0.02
    height, width = placement.size
    np.testing.assert_array_equal(
        result[height:], np.broadcast_to(MEAN_COLOUR, result[height:].shape)
    )
    outside = result[:, width:]
    np.testing.assert_array_equal(outside, np.broadcast_to(MEAN_COLOUR, outside.shape))


# The parts


@pytest.mark.parametrize("size", [(40, 50), (97, 33), (13, 130)])
@pytest.mark.parametrize("flip", [True, False])
def test_masks_are_resized_by_the_rule_of_mmcv(size, flip):
    class_map = np.random.default_rng(1).integers(0, 256, (40, 50)).astype("uint8")
    rows = [int(i * 40 / size[0] + 1e-9) for i in range(size[0])]
    columns = [int(i * 50 / size[1] + 1e-9) for i in range(size[1])]
    whole = class_map[rows][:, columns]
    part = whole[3:11, 5:31]
    result = images.nearest_and_crop(class_map, size, (3, 5), (8, 26), flip)
    np.testing.assert_array_equal(result, part[:, ::-1] if flip else part)


def has_two_classes(crop, largest_share):
    labels, counts = np.unique(crop, return_counts=True)
    counts = counts[labels != 255]
    return len(counts) > 1 and counts.max() < largest_share * counts.sum()


@pytest.mark.thorough
def test_a_crop_is_drawn_again_until_it_has_two_classes():
    """The first of eleven that has, or the eleventh. A quarter of the map is class 1."""
    class_map = np.zeros((60, 80), "uint8")
    class_map[:30, 40:] = 1
    class_map[45:, :20] = 255
    size, part = (90, 120), (30, 40)
    whole = class_map[np.arange(90) * 60 // 90][:, np.arange(120) * 80 // 120]
    taken = []
    for number in range(200):
        seed = tf.constant([number, 3])
        draws = tf.random.stateless_uniform([11, 2], seed, dtype=tf.float64, alg="philox")
        corners = (draws.numpy() * (61, 81)).astype(int)
        crops = [whole[top : top + 30, left : left + 40] for top, left in corners]
        index = next((n for n, crop in enumerate(crops) if has_two_classes(crop, 0.75)), 10)
        taken.append(index)
        np.testing.assert_array_equal(
            images.draw_corner(class_map, size, part, 0.75, seed), corners[index]
        )
        np.testing.assert_array_equal(
            images.draw_corner(class_map, size, part, 1, seed), corners[0]
        )
    assert {0, 1, 2, 10} <= {*taken}
    assert tuple(images.draw_corner(np.full((4, 4), 255, "uint8"), (4, 4), (4, 4), 0.75, SEED)) == (
        0,
        0,
    )


def distorted(pixels, brightness, contrast, saturation, hue, contrast_first):
    """The photometric distortion, pixel by pixel."""
    image = np.clip(pixels + float(brightness), 0, 255)
    if contrast_first:
        image = np.clip(image * float(contrast), 0, 255)
    changed = []
    for pixel in image.reshape(-1, 3) / 255:
        hues, saturations, value = colorsys.rgb_to_hsv(*pixel)
        saturations = min(saturations * float(saturation), 1)
        changed.append(colorsys.hsv_to_rgb((hues + float(hue)) % 1, saturations, value))
    image = np.reshape(changed, pixels.shape) * 255
    return image if contrast_first else np.clip(image * float(contrast), 0, 255)


@pytest.mark.parametrize(
    "amounts",
    [
        {},
        {"brightness": -31.5},
        {"brightness": 30.0, "contrast": 1.5},
        {"contrast": 0.5},
        {"saturation": 1.5},
        {"saturation": 0.5, "hue": 0.1},
        {"hue": -0.1},
        {"brightness": 20.0, "contrast": 1.4, "saturation": 1.3, "hue": 0.05},
    ],
)
def test_colours_change_as_by_colorsys(amounts):
    pixels = np.concatenate([photo(20, 24), np.zeros((1, 24, 3)), np.full((1, 24, 3), 255)])
    pixels[5, :12] = (255, 0, 0)
    pixels[6, :12] = (0, 40, 40)
    pixels = pixels.astype("uint8")
    neutral = {"brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    for contrast_first in (True, False):
        amounts = {**neutral, **amounts, "contrast_first": contrast_first}
        tensors = {name: tf.constant(value) for name, value in amounts.items()}
        result = distort(pixels, **tensors).numpy().astype("float64")
        np.testing.assert_allclose(result, distorted(pixels, **amounts), atol=0.5 + 1e-3)


def test_amounts_of_distortion():
    draws = tf.data.Dataset.range(2000).map(
        lambda number: draw_distortion(tf.cast(tf.stack([2, number]), tf.int32))
    )
    draws = {name: np.array(rows) for name, rows in _columns(draws.as_numpy_iterator()).items()}
    for name, neutral, low, high in (
        ("brightness", 0, -32, 32),
        ("contrast", 1, 0.5, 1.5),
        ("saturation", 1, 0.5, 1.5),
        ("hue", 0, -0.1, 0.1),
    ):
        changed = draws[name][draws[name] != neutral]
        assert abs(len(changed) / 2000 - 0.5) < 0.04, name
        counts, _ = np.histogram(changed, bins=4, range=(low, high))
        assert counts.sum() == len(changed) and (abs(counts / len(changed) - 0.25) < 0.05).all()
    assert abs(draws["contrast_first"].mean() - 0.5) < 0.04
    changes = np.array([draws["contrast"] != 1, draws["hue"] != 0, draws["brightness"] != 0])
    assert (abs(np.corrcoef(changes) - np.eye(3)) < 0.1).all()  # each by its own coin


def _columns(rows):
    rows = list(rows)
    return {name: [row[name] for row in rows] for name in rows[0]}


# All of it


def expected(pixels, class_map, seed, image_size, scale, sides, largest_share):
    """The augmentation in NumPy and Pillow, of the same random numbers."""
    corner_seed, size_seed, colour_seed = tf.random.split(seed, 3, alg="philox")

    def uniform(shape, seed):
        return tf.random.stateless_uniform(shape, seed, dtype=tf.float64, alg="philox").numpy()

    factor, flip = uniform([2], size_seed)
    factor = scale[0] + factor * (scale[1] - scale[0])
    height, width = fit_sides(class_map.shape, *(int(factor * side) for side in sides)).size
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    image = np.asarray(image).astype("float64")
    rows = np.arange(height) * class_map.shape[0] // height
    labels = class_map[rows][:, np.arange(width) * class_map.shape[1] // width]
    part = np.minimum(image_size, (height, width))
    for draw in uniform([11, 2], corner_seed):
        top, left = (draw * (np.array([height, width]) - part + 1)).astype(int)
        crop = labels[top : top + part[0], left : left + part[1]]
        if has_two_classes(crop, largest_share):
            break
    image = image[top : top + part[0], left : left + part[1]]
    if flip < 0.5:
        image, crop = image[:, ::-1], crop[:, ::-1]
    amounts = {name: x.numpy() for name, x in draw_distortion(colour_seed).items()}
    image = distorted(image, **amounts)
    below, beside = np.subtract(image_size, part)
    crop = np.pad(crop, ((0, below), (0, beside)), constant_values=255)
    canvas = np.empty((*image_size, 3))
    canvas[:] = MEAN_COLOUR
    canvas[: part[0], : part[1]] = image
    return canvas, crop


@pytest.mark.parametrize("size", [(30, 44), (70, 40), (24, 24)])
def test_augmentation_equals_the_reference(size):
    options = {"image_size": (32, 40), "scale": (0.5, 2.0), "sides": (32, 80), "largest_share": 0.6}
    pixels, class_map = photo(*size, seed=3), regions(*size, seed=4)
    results = seeded(TrainTransform(**options), pixels, class_map, 24)
    padded = 0
    for number, (image, labels) in enumerate(results):
        canvas, crop = expected(pixels, class_map, tf.constant([1, number]), **options)
        np.testing.assert_array_equal(labels, crop)
        # One for another rounding of the resize, which contrast and saturation increase.
        assert np.abs(image - canvas).max() < 4, number
        assert np.abs(image - canvas).mean() < 0.5, number
        padded += (image[-1] == MEAN_COLOUR).all()
    assert 0 < padded < 24


@pytest.mark.parametrize("distortion", [True, False])
def test_masks_follow_their_pixels(distortion):
    """A bright rectangle and its mask stay together, and no label comes that was not there."""
    pixels, class_map = np.full((64, 96, 3), 40, "uint8"), np.full((64, 96), 2, "uint8")
    pixels[20:41, 55:68] = 180
    class_map[20:41, 55:68] = 7
    transform = TrainTransform((72, 72), (0.5, 2.0), (64, 256), 0.95, distortion=distortion)
    found, shapes = 0, set()
    for image, labels in seeded(transform, pixels, class_map, 200):
        assert {*np.unique(labels)} <= {2, 7, 255}
        outside = labels == 255
        if not distortion:
            assert (image[outside] == MEAN_COLOUR).all()
        height, width = 72 - outside.all(axis=1).sum(), 72 - outside.all(axis=0).sum()
        assert (labels[:height, :width] != 255).all()
        shapes.add((height, width))
        # Where all pixels around have one class, its brightness is there; padding is neither.
        around = np.lib.stride_tricks.sliding_window_view(labels[:height, :width], (5, 5))
        brightness = image[2 : height - 2, 2 : width - 2].mean(axis=-1)
        inside = (around == 7).all(axis=(2, 3))
        ground = (around == 2).all(axis=(2, 3))
        found += inside.any()
        if distortion:
            if inside.any() and ground.any():
                assert brightness[inside].min() > brightness[ground].max()
        else:
            assert (brightness[inside] == 180).all() and (brightness[ground] == 40).all()
    assert found > 150 and len(shapes) > 20


def test_a_transform_is_a_function_of_its_seed():
    transform = TrainTransform(24, sides=(32, 64))
    pixels, class_map = photo(40, 50), regions(40, 50)
    first, again = (seeded(transform, pixels, class_map, 8) for _ in range(2))
    for pair, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(pair[0], other[0])
        np.testing.assert_array_equal(pair[1], other[1])
    assert len({image.tobytes() for image, _ in first}) == 8


def test_bad_arguments():
    for options, message in (
        ({"image_size": 0}, "image_size"),
        ({"scale": (2, 1)}, r"`scale` must be two numbers, 0 < low <= high. Received"),
        ({"sides": (2048, 512)}, "shorter and the longer one. Received: sides=\\(2048, 512\\)"),
        ({"largest_share": 75}, "largest_share=75"),
        ({"flip": -1}, "flip=-1"),
        ({"distortion": 0.3}, "distortion=0.3"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainTransform(**{"image_size": 8, **options})
    with pytest.raises(tf.errors.InvalidArgumentError, match="another size than its image"):
        TrainTransform(8)(photo(30, 40), regions(40, 30), SEED)
