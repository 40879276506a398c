"""Decoding, crops, resizing and flips, against Pillow and models in NumPy."""

import io
import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance

tf = pytest.importorskip("tensorflow")

from keras_sepvit.classification import images as classification  # noqa: E402
from keras_sepvit.classification.images import EvalTransform, TrainTransform  # noqa: E402
from keras_sepvit.training import images  # noqa: E402
from keras_sepvit.training.images import decode  # noqa: E402

pytestmark = pytest.mark.once

# How many values of a resized image may differ from Pillow's, by 1.
LARGEST_SHARE = {"bicubic": 1e-3, "bilinear": 2e-2}

PIL_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def photo(height, width, seed=0):
    """A smooth colour image with fine texture."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (5, 6, 3)).astype("uint8")
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(smooth + rng.normal(0, 12, (height, width, 1)), 0, 255).astype("uint8")


def encode(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def encoded(height=60, width=81):
    """Images in files, by a name."""
    image = Image.fromarray(photo(height, width))
    transparent = image.copy()
    transparent.putalpha(100)
    return {
        "jpeg": encode(image, quality=90),
        "jpeg 4:4:4": encode(image, subsampling=0),
        "progressive jpeg": encode(image, progressive=True),
        "grey jpeg": encode(image.convert("L")),
        "cmyk jpeg": encode(image.convert("CMYK")),
        "png": encode(image, "PNG"),
        "grey png": encode(image.convert("L"), "PNG"),
        "palette png": encode(image.convert("P"), "PNG"),
        "one-bit png": encode(image.convert("1"), "PNG"),
        "transparent png": encode(transparent, "PNG"),
        "gif": encode(image, "GIF"),
        "animated gif": encode(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
        "bmp": encode(image, "BMP"),
        "webp": encode(image, "WEBP"),
    }


def seeds(number):
    """A data set of seeds."""
    return tf.data.Dataset.range(number).map(lambda i: tf.cast(tf.stack([11, i]), tf.int32))


def collect(data):
    return np.stack(list(data.as_numpy_iterator()))


@pytest.mark.parametrize("kind", encoded())
def test_every_kind_of_file_is_decoded_as_pillow_decodes_it(kind):
    content = encoded()[kind]
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(decode(content), expected)
    for top, left, height, width in (
        (0, 0, 60, 81),
        (7, 13, 30, 41),
        (59, 80, 1, 1),
        (16, 5, 44, 9),
    ):
        sizes = []

        def choose(size, window=(top, left, height, width), sizes=sizes):
            sizes.append(size)
            return tf.constant(window)

        part = decode(content, choose).numpy()
        assert [tuple(size.numpy()) for size in sizes] == [(60, 81)]
        if kind in ("jpeg", "progressive jpeg"):  # at the last column colours may differ
            edge = expected[top : top + height, left + width - 1].astype(int)
            assert np.abs(part[:, -1] - edge).max() <= 16
            part, width = part[:, :-1], width - 1
        np.testing.assert_array_equal(
            part, expected[top : top + height, left : left + width], err_msg=f"{top} {left}"
        )


def test_sixteen_bits_keep_the_higher_eight():
    values = np.random.default_rng(0).integers(0, 65536, (9, 7)).astype("uint16")
    decoded = decode(encode(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(decoded, np.repeat((values >> 8)[..., None], 3, axis=-1))


def test_arrays_become_rgb():
    image = photo(5, 6)
    np.testing.assert_array_equal(decode(image), image)
    grey = image[..., :1]
    np.testing.assert_array_equal(decode(grey), np.repeat(grey, 3, axis=-1))
    np.testing.assert_array_equal(decode(np.concatenate([image, grey], -1)), image)
    part = decode(image, lambda size: tf.constant([1, 2, 3, 4]))
    np.testing.assert_array_equal(part, image[1:4, 2:6])


@pytest.mark.parametrize(
    "content",
    {
        "empty": b"",
        "text": b"<html>not found</html>",
        "cut off in the header": encoded()["jpeg"][:100],
        "cut off in the middle": encoded()["jpeg"][:1500],
        "png cut off": encoded()["png"][:2000],
        "starts like a jpeg": b"\xff\xd8\xff" + bytes(500),
    }.items(),
    ids=lambda item: item[0],
)
def test_bytes_that_are_no_image_raise_in_the_operation(content):
    whole = TrainTransform(32, scale=(1, 1), ratio=(81 / 60, 81 / 60))
    for transform in (EvalTransform(32), lambda image: whole(image, (0, 0))):
        data = tf.data.Dataset.from_tensors(content[1]).map(transform)
        with pytest.raises(tf.errors.InvalidArgumentError):
            next(iter(data))


@pytest.mark.parametrize("interpolation", PIL_FILTERS)
@pytest.mark.parametrize("size", [(64, 64), (24, 90), (180, 150), (97, 131), (3, 2)], ids=str)
def test_resize_is_pillows(size, interpolation):
    image = photo(97, 131)
    expected = Image.fromarray(image).resize(size[::-1], PIL_FILTERS[interpolation])
    expected = np.asarray(expected).astype(int)
    ours = images.resize(image, size, interpolation).numpy()
    difference = np.abs(ours - expected)
    assert ours.dtype == np.uint8
    # Enlarging bilinearly, many values are halfway between two integers.
    halfway = interpolation == "bilinear" and size[0] > image.shape[0]
    assert difference.max() <= (2 if halfway else 1)
    assert np.mean(difference > 0) <= (0.1 if halfway else LARGEST_SHARE[interpolation])
    flipped = images.resize(image, size, interpolation, flip=True)
    np.testing.assert_array_equal(flipped, ours[:, ::-1])


def reference_evaluation(image, image_size, crop, resample):
    """timm's and torchvision's evaluation transform in Pillow."""
    least = [math.floor(side / crop) for side in image_size]
    width, height = image.size
    if least[0] == least[1]:
        short = min(width, height)
        width, height = int(least[0] * width / short), int(least[0] * height / short)
    else:
        ratio = min(height / least[0], width / least[1])
        width, height = round(width / ratio), round(height / ratio)
    top, left = round((height - image_size[0]) / 2), round((width - image_size[1]) / 2)
    image = image.resize((width, height), resample)
    return image.crop((left, top, left + image_size[1], top + image_size[0]))


@pytest.mark.parametrize("interpolation", PIL_FILTERS)
@pytest.mark.parametrize(
    ("shape", "image_size", "crop"),
    [
        ((150, 200), (96, 96), 0.875),
        ((201, 150), (96, 96), 0.9),
        ((111, 111), (96, 96), 1.0),
        ((150, 220), (64, 96), 0.875),
        ((150, 220), (96, 64), 0.95),
        ((40, 333), (96, 96), 0.875),
    ],
    ids=str,
)
def test_evaluation_is_timms(shape, image_size, crop, interpolation):
    """The result is at most 1 from Pillow's, bicubically in one value of a thousand."""
    image = photo(*shape)
    transform = tf.function(EvalTransform(image_size, crop, interpolation))
    ours = transform(tf.constant(encode(Image.fromarray(image), "PNG"))).numpy()
    expected = reference_evaluation(
        Image.fromarray(image), image_size, crop, PIL_FILTERS[interpolation]
    )
    difference = np.abs(ours - np.asarray(expected).astype(int))
    assert ours.shape == (*image_size, 3)
    assert difference.max() <= 1
    assert np.mean(difference > 0) <= LARGEST_SHARE[interpolation]


def reference_windows(number, height, width, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """torchvision's `RandomResizedCrop.get_params` in NumPy."""
    rng = np.random.default_rng(5)
    windows = []
    for _ in range(number):
        for _ in range(10):
            area = height * width * rng.uniform(*scale)
            aspect = math.exp(rng.uniform(*np.log(ratio)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                windows.append((rng.integers(height - h + 1), rng.integers(width - w + 1), h, w))
                break
        else:
            h, w = height, width
            if width / height < ratio[0]:
                h = round(width / ratio[0])
            elif width / height > ratio[1]:
                w = round(height * ratio[1])
            windows.append(((height - h) // 2, (width - w) // 2, h, w))
    return np.array(windows)


@pytest.mark.parametrize("size", [(350, 400), (400, 120), (60, 400)], ids=str)
def test_crop_windows_are_distributed_as_torchvisions(size):
    """The last size has the fallback in most cases, the second in some."""
    from scipy import stats

    number = 3000
    ours = collect(seeds(number).map(lambda seed: classification.random_resized_crop(size, seed)))
    theirs = reference_windows(number, *size)
    assert ours.dtype == np.int32 and ours.min() >= 0 and ours[:, 2:].min() >= 1
    assert np.all(ours[:, :2] + ours[:, 2:] <= size)

    def quantities(windows):
        top, left, height, width = windows.T.astype(float)
        free_height, free_width = np.maximum([[size[0]], [size[1]]] - windows[:, 2:].T, 1)
        return {
            "area": height * width,
            "ratio": width / height,
            "height": height,
            "vertical position": top / free_height,
            "horizontal position": left / free_width,
        }

    for (name, first), second in zip(
        quantities(ours).items(), quantities(theirs).values(), strict=True
    ):
        # Two samples of one distribution exceed this once in 10,000 times.
        distance = stats.ks_2samp(first, second).statistic
        assert distance < 2.23 * math.sqrt(2 / number), name


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (2, 3)], ids=str)
def test_crop_windows_of_tiny_images_are_inside(size):
    windows = collect(seeds(100).map(lambda seed: classification.random_resized_crop(size, seed)))
    assert windows[:, 2:].min() >= 1 and np.all(windows[:, :2] + windows[:, 2:] <= size)


def test_training_is_crop_resize_and_flip():
    """With one possible window, the result is the image, resized and perhaps flipped."""
    image = photo(40, 40)
    resized = images.resize(image, (24, 32))
    data = seeds(200)
    flips = []
    for flip in (0.0, 0.5, 1.0):
        transform = TrainTransform((24, 32), (1, 1), (1, 1), flip=flip, color_jitter=0)
        outputs = collect(data.map(lambda seed, t=transform: t(image, seed)))
        plain = np.all(outputs == resized, axis=(1, 2, 3))
        assert np.all(plain | np.all(outputs == resized[:, ::-1], axis=(1, 2, 3)))
        flips.append(1 - plain.mean())
    assert flips[0] == 0 and 0.35 < flips[1] < 0.65 and flips[2] == 1


def test_interpolation_is_random_where_asked():
    image = photo(40, 40)
    transform = TrainTransform((24, 32), (1, 1), (1, 1), "random", flip=0, color_jitter=0)
    outputs = collect(seeds(200).map(lambda seed: transform(image, seed)))
    bicubic, bilinear = (
        np.all(outputs == images.resize(image, (24, 32), rule), axis=(1, 2, 3))
        for rule in ("bicubic", "bilinear")
    )
    assert np.all(bicubic ^ bilinear) and 0.35 < bicubic.mean() < 0.65


@pytest.mark.parametrize("content", ["jpeg", "png", "array"])
def test_training_is_a_function_of_image_and_seed(content):
    image = photo(60, 81) if content == "array" else encoded()[content]
    transform = TrainTransform((32, 48), auto_augment="rand-m9-mstd0.5-inc1")
    data = seeds(30).map(lambda seed: transform(image, seed))
    assert data.element_spec == tf.TensorSpec((32, 48, 3), tf.uint8)
    outputs = collect(data)
    np.testing.assert_array_equal(outputs, collect(data))
    assert len({output.tobytes() for output in outputs}) == 30


@pytest.mark.thorough
def test_color_jitter_acts_without_auto_augment_or_where_forced():
    image = photo(40, 40)

    def outputs(**kwargs):
        transform = TrainTransform(32, **kwargs)
        return collect(seeds(20).map(lambda seed: transform(image, seed)))

    plain = outputs(color_jitter=0)
    assert np.any(plain != outputs(color_jitter=0.4))
    for jitter in (0, 0.4):
        augmented = outputs(color_jitter=jitter, auto_augment="rand-m9-p0")
        np.testing.assert_array_equal(augmented, plain)
    forced = outputs(color_jitter=0.4, auto_augment="rand-m9-p0", force_color_jitter=True)
    assert np.any(forced != plain)


def test_color_jitter_is_torchvisions():
    # Of one grey, contrast and saturation change nothing: the brightness factor shows.
    grey = np.full((4, 4, 3), 100, "uint8")
    factors = collect(seeds(1000).map(lambda seed: classification._color_jitter(grey, 0.4, seed)))
    factors = factors[:, 0, 0, 0] / 100
    assert 0.59 <= factors.min() < 0.61 and 1.38 < factors.max() <= 1.4
    assert abs(np.mean(factors) - 1) < 0.03 and abs(np.std(factors) - 0.8 / math.sqrt(12)) < 0.01

    # Each factor is found in the result: some order of the three gives it in Pillow.
    image = photo(24, 24)
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    orders = set()
    for i in range(40):
        seed = tf.constant([1, i])
        factors = 1 + 0.4 * (2 * tf.random.stateless_uniform([2, 3], seed, alg="philox")[0] - 1)
        ours = classification._color_jitter(image, 0.4, seed).numpy()
        for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
            result = Image.fromarray(image)
            for j in order:
                result = kinds[j](result).enhance(float(factors[j]))
            if np.array_equal(result, ours):
                orders.add(order)
                break
        else:
            pytest.fail(f"no order of the operations gives the result of seed {i}")
    assert len(orders) >= 5


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: TrainTransform(0), "image_size=0"),
        (lambda: TrainTransform((1, 2, 3)), "image_size"),
        (lambda: TrainTransform(32, scale=(0, 1)), "0 < low <= high <= 1.*scale="),
        (lambda: TrainTransform(32, scale=(0.5, 1.5)), "scale="),
        (lambda: TrainTransform(32, ratio=(2, 1)), "ratio="),
        (lambda: TrainTransform(32, ratio=1.0), "ratio=1.0"),
        (lambda: TrainTransform(32, interpolation="nearest"), "'nearest'"),
        (lambda: TrainTransform(32, flip=1.5), "flip=1.5"),
        (lambda: TrainTransform(32, color_jitter=-1), "color_jitter=-1"),
        (lambda: TrainTransform(32, auto_augment="rand-q3"), "'q3'"),
        (lambda: EvalTransform(32, crop=0), "crop=0"),
        (lambda: EvalTransform(32, crop=1.1), "crop=1.1"),
        (lambda: EvalTransform(32, interpolation="random"), "'random'"),
        (lambda: EvalTransform(32)(np.zeros((8, 8, 3), "float32")), "float32"),
        (lambda: EvalTransform(32)(np.zeros((8, 8), "uint8")), r"\(8, 8\)"),
        (lambda: EvalTransform(32)(np.zeros((8, 8, 2), "uint8")), "1, 3 or 4 channels"),
        (lambda: EvalTransform(32)([b"a", b"b"]), r"\(2,\)"),
    ],
)
def test_bad_arguments(make, names):
    with pytest.raises(ValueError, match=names):
        make()
