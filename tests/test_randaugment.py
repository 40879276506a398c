"""RandAugment: operation by operation against Pillow and timm, and its statistics."""

import importlib.util
import pathlib

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

tf = pytest.importorskip("tensorflow")

from keras_sepvit.classification import randaugment  # noqa: E402
from keras_sepvit.classification.randaugment import OPERATIONS, RandAugment  # noqa: E402

pytestmark = pytest.mark.once

FILL = (124, 116, 104)
RECIPE = "rand-m9-mstd0.5-inc1"
PIL_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# The operations that move pixels compute in float32 where Pillow has float64. They are at
# most this far from it, and for random factors in at most this share of the values.
LARGEST_DIFFERENCE = 1
LARGEST_SHARE = 1e-4


def photo(height, width, seed=0):
    """A smooth colour image with fine texture."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (5, 6, 3)).astype("uint8")
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(smooth + rng.normal(0, 12, (height, width, 1)), 0, 255).astype("uint8")


def images():
    rng = np.random.default_rng(1)
    return {
        "photo": photo(96, 131),
        "noise": rng.integers(0, 256, (64, 64, 3)).astype("uint8"),
        "low contrast": rng.integers(40, 190, (33, 48, 3)).astype("uint8"),
        "one colour": np.full((9, 8, 3), (77, 0, 255), "uint8"),
        "two values": (255 * rng.integers(0, 2, (40, 30, 3))).astype("uint8"),
        "few pixels": rng.integers(0, 256, (15, 20, 3)).astype("uint8"),
        "a column": rng.integers(0, 256, (7, 1, 3)).astype("uint8"),
        "one pixel": rng.integers(0, 256, (1, 1, 3)).astype("uint8"),
    }


def enhance(kind, factor):
    return lambda image: kind(image).enhance(factor)


TONAL = {
    "autocontrast": [((), ImageOps.autocontrast)],
    "equalize": [((), ImageOps.equalize)],
    "invert": [((), ImageOps.invert)],
    # Pillow refuses 0 bits.
    "posterize": [((0,), lambda image: Image.new("RGB", image.size))]
    + [((n,), lambda image, n=n: ImageOps.posterize(image, n)) for n in (1, 2, 3, 4, 8)],
    "solarize": [
        ((n,), lambda image, n=n: ImageOps.solarize(image, n)) for n in (0, 1, 26, 255, 256)
    ],
    "solarize_add": [
        (
            (n,),
            lambda image, n=n: image.point([min(255, i + n * (i < 128)) for i in range(256)] * 3),
        )
        for n in (0, 1, 99, 110, 128, 255)
    ],
    **{
        kind.__name__.lower(): [((f,), enhance(kind, f)) for f in (0.0, 0.1, 0.37, 1.0, 1.81, 1.9)]
        for kind in (
            ImageEnhance.Color,
            ImageEnhance.Contrast,
            ImageEnhance.Brightness,
            ImageEnhance.Sharpness,
        )
    },
}


@pytest.mark.parametrize("name", TONAL)
def test_tonal_operations_equal_pillow_bit_for_bit(name):
    for kind, image in images().items():
        for arguments, reference in TONAL[name]:
            ours = getattr(randaugment, name)(image, *arguments)
            assert ours.dtype == tf.uint8
            expected = np.asarray(reference(Image.fromarray(image)))
            np.testing.assert_array_equal(ours, expected, err_msg=f"{kind} {arguments}")


def affine(matrix):
    """Pillow's transform by the matrix that a function of factor, width and height gives."""

    def reference(image, factor, **how):
        data = matrix(factor, *image.size)
        return image.transform(image.size, Image.Transform.AFFINE, data, **how)

    return reference


MOVING = {
    "shear_x": (0.3, affine(lambda f, w, h: (1, f, 0, 0, 1, 0))),
    "shear_y": (0.3, affine(lambda f, w, h: (1, 0, 0, f, 1, 0))),
    "translate_x": (0.45, affine(lambda f, w, h: (1, 0, f * w, 0, 1, 0))),
    "translate_y": (0.45, affine(lambda f, w, h: (1, 0, 0, 0, 1, f * h))),
    "rotate": (30.0, lambda image, degrees, **how: image.rotate(degrees, **how)),
}


@pytest.mark.parametrize("interpolation", PIL_FILTERS)
@pytest.mark.parametrize("name", MOVING)
def test_moving_operations_are_close_to_pillow(name, interpolation):
    largest, reference = MOVING[name]
    operation = tf.function(getattr(randaugment, name))
    pixels = [photo(96, 131), np.random.default_rng(1).integers(0, 256, (64, 64, 3), "uint8")]
    factors = np.random.default_rng(2).uniform(-largest, largest, 12)
    different = total = 0
    for image in pixels:
        for factor in factors:
            ours = operation(image, tf.constant(factor, tf.float64), interpolation)
            expected = reference(
                Image.fromarray(image),
                factor,
                resample=PIL_FILTERS[interpolation],
                fillcolor=FILL,
            )
            difference = np.abs(np.asarray(expected).astype(int) - ours.numpy())
            assert difference.max() <= LARGEST_DIFFERENCE
            different += np.count_nonzero(difference)
            total += difference.size
    assert different <= LARGEST_SHARE * total


@pytest.mark.parametrize("interpolation", PIL_FILTERS)
@pytest.mark.parametrize("name", MOVING)
def test_moving_operations_at_special_values(name, interpolation):
    """Identity, quarter turns, whole pixels, moved out of sight, and one colour."""
    operation = getattr(randaugment, name)
    reference = MOVING[name][1]
    image = photo(32, 32)
    factors = [0.0, 90.0, 180.0, -90.0, 360.0] if name == "rotate" else [0.0, 0.25, -0.5, 1.0, -2.0]
    how = {"resample": PIL_FILTERS[interpolation], "fillcolor": FILL}
    for factor in factors:
        ours = operation(image, factor, interpolation).numpy().astype(int)
        expected = np.asarray(reference(Image.fromarray(image), factor, **how))
        assert np.abs(ours - expected).max() <= (0 if name != "rotate" else LARGEST_DIFFERENCE)
    np.testing.assert_array_equal(operation(image, 0.0, interpolation), image)
    filled = np.broadcast_to(np.uint8(FILL), (20, 30, 3))
    np.testing.assert_array_equal(operation(filled, 0.21, interpolation), filled)


@pytest.fixture(scope="module")
def timm():
    """timm's `auto_augment`, without the rest of timm, which needs torchvision."""
    found = importlib.util.find_spec("timm")
    if found is None:
        pytest.skip("timm is not installed")
    path = pathlib.Path(found.submodule_search_locations[0], "data", "auto_augment.py")
    spec = importlib.util.spec_from_file_location("timm_auto_augment", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("increasing", (True, False), ids=("inc1", "inc0"))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_and_magnitudes_are_timms(timm, monkeypatch, operation, increasing):
    names = timm._RAND_INCREASING_TRANSFORMS if increasing else timm._RAND_TRANSFORMS
    (name,) = [n for n in names if n in (operation, f"{operation}Increasing", f"{operation}Rel")]
    augment = RandAugment(increasing=increasing, interpolation="bicubic")
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    image = photo(60, 80)
    # Where timm would ask Pillow for 0 bits, Pillow refuses.
    least, most = {
        ("Posterize", True): (0, 9.99),
        ("Posterize", False): (2.5, 10),
    }.get((operation, increasing), (0, 10))
    moving = operation.startswith(("Rotate", "Shear", "Translate"))
    for magnitude in (least, 3.21, 5, 7, 8.77, 9, most):
        for negative in (False, True):
            monkeypatch.setattr(timm.random, "random", lambda n=negative: 0.9 if n else 0.1)
            op = timm.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=hparams)
            expected = np.asarray(op(Image.fromarray(image))).astype(int)
            ours = augment.apply(image, operation, magnitude, negative)
            difference = np.abs(expected - ours.numpy()).max()
            assert difference <= (LARGEST_DIFFERENCE if moving else 0), (magnitude, negative)


def test_the_notation_is_read_as_timm_reads_it(timm):
    for text in (RECIPE, "rand-m7-n3-p0.9", "rand", "rand-inc1-mstd1", "rand-n1-m5-inc0"):
        ours, theirs = RandAugment.from_string(text), timm.rand_augment_transform(text)
        op = theirs.ops[-1]
        assert (ours.magnitude, ours.operations) == (op.magnitude, theirs.num_layers)
        assert (ours.magnitude_std, ours.probability) == (op.magnitude_std, op.prob)
        names = timm._RAND_INCREASING_TRANSFORMS if ours.increasing else timm._RAND_TRANSFORMS
        assert [op.name for op in theirs.ops] == names
        assert len(names) == len(OPERATIONS)


def test_statistics_of_what_is_drawn():
    augment = RandAugment.from_string(RECIPE)
    number = 4000
    draws = tf.data.Dataset.range(number).map(
        lambda i: augment.draw(tf.cast(tf.stack([7, i]), tf.int32))
    )
    draw = {
        name: values.numpy() for name, values in next(iter(draws.batch(number)))._asdict().items()
    }
    assert draw["operation"].shape == (number, 2)

    def is_rate(values, rate):
        return abs(values.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / values.size)

    for i in range(len(OPERATIONS)):
        assert is_rate(draw["operation"] == i, 1 / 15)
    assert is_rate(draw["operation"][:, 0] == draw["operation"][:, 1], 1 / 15)
    for name in ("applied", "negative", "bicubic"):
        assert is_rate(draw[name], 0.5)
        assert is_rate(draw[name][:, 0] == draw[name][:, 1], 0.5)
        assert is_rate(draw[name] & (draw["operation"] < 5), 0.5 / 3)
    assert is_rate(draw["applied"] & draw["negative"], 0.25)
    # Normal (9, 0.5), clipped at 10.
    magnitude = draw["magnitude"]
    assert magnitude.min() > 6 and magnitude.max() == 10
    assert is_rate(magnitude == 10, 0.02275)
    quantiles = np.quantile(magnitude, (0.02275, 0.15866, 0.5, 0.84134))
    np.testing.assert_allclose(quantiles, (8, 8.5, 9, 9.5), atol=0.05)


@pytest.mark.parametrize("interpolation", ("bicubic", "random"))
def test_the_chosen_operations_are_applied_in_order(interpolation):
    augment = RandAugment.from_string(RECIPE, interpolation=interpolation)
    # Sizes unknown, as where a pipeline has images of several sizes.
    call = tf.function(
        augment,
        input_signature=[tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec(2, tf.int32)],
    )
    image = photo(24, 40)
    changed = set()
    for i in range(60):
        seed = tf.constant([3, i])
        expected = image
        for operation, applied, magnitude, negative, bicubic in zip(
            *(values.numpy() for values in augment.draw(seed)), strict=True
        ):
            if applied:
                rule = {True: "bicubic", False: "bilinear"}[bool(bicubic)]
                step = RandAugment(
                    increasing=True,
                    interpolation=rule if interpolation == "random" else interpolation,
                )
                expected = step.apply(expected, OPERATIONS[operation], magnitude, negative)
                changed.add(OPERATIONS[operation])
        ours = call(image, seed)
        np.testing.assert_array_equal(ours, expected)
        np.testing.assert_array_equal(ours, call(image, seed))
    assert changed == set(OPERATIONS)


def test_seeds_decide_and_shapes_stay():
    image = tf.constant(photo(32, 48))
    augment = RandAugment.from_string("rand-m9-mstd0.5-inc1-n3-p1", interpolation="bilinear")
    data = tf.data.Dataset.range(40).map(
        lambda i: augment(image, tf.cast(tf.stack([i, 0]), tf.int32))
    )
    assert data.element_spec == tf.TensorSpec((32, 48, 3), tf.uint8)
    outputs = np.stack(list(data.as_numpy_iterator()))
    np.testing.assert_array_equal(outputs, np.stack(list(data.as_numpy_iterator())))
    assert len({output.tobytes() for output in outputs}) > 35
    never = RandAugment.from_string("rand-m9-p0")
    np.testing.assert_array_equal(never(image, (1, 2)), image)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("rand-m9-tweights", "'tweights'"),
        ("rand-m9-mmax12", "'mmax12'"),
        ("rand-m9-x3", "'x3'"),
        ("rand-m9-m8", "'m8'"),
        ("rand-m", "'m'"),
        ("rand-m9.5", "'m9.5'"),
        ("rand-m9-inc2", "'inc2'"),
        ("rand-m9-", "''"),
        ("augmix-m3", "'augmix-m3'"),
        (None, "None"),
        ("rand-m11", "magnitude=11"),
        ("rand-n0", "operations=0"),
        ("rand-p2", "probability=2.0"),
        ("rand-mstd101", "magnitude_std=101.0"),
    ],
)
def test_bad_notation(text, names):
    with pytest.raises(ValueError, match=names):
        RandAugment.from_string(text)


@pytest.mark.parametrize(
    ("kwargs", "names"),
    [
        ({"interpolation": "nearest"}, "'nearest'"),
        ({"fill": (0, 0)}, "fill="),
        ({"fill": (0.5, 0.5, 0.5)}, "fill="),
        ({"magnitude": True}, "magnitude=True"),
        ({"probability": float("nan")}, "probability=nan"),
    ],
)
def test_bad_arguments(kwargs, names):
    with pytest.raises(ValueError, match=names):
        RandAugment(**kwargs)


def test_bad_images_and_operations():
    with pytest.raises(ValueError, match="float32.*before normalising"):
        randaugment.invert(np.zeros((4, 4, 3), "float32"))
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        RandAugment()(np.zeros((4, 4), "uint8"), (0, 0))
    for operation in (randaugment.rotate, randaugment.shear_y):
        with pytest.raises(ValueError, match="'nearest'"):
            operation(np.zeros((4, 4, 3), "uint8"), 0.1, "nearest")
    with pytest.raises(ValueError, match="'Cutout'"):
        RandAugment().apply(np.zeros((4, 4, 3), "uint8"), "Cutout", 5)
