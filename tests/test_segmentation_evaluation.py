"""Segmenters at photos' own sizes, against plain NumPy: scales, flips, windows, batches."""

import keras
import numpy as np
import pytest
from helpers import BACKEND, SMALL, randomize, run, to_numpy
from PIL import Image

from keras_sepvit import SepViT
from keras_sepvit.geometry import interpolation
from keras_sepvit.inference import KerasPredictor
from keras_sepvit.runtime.canvas import MEAN_COLOUR, fit_sides
from keras_sepvit.segmentation import (
    MeanIoU,
    SegmentationReport,
    SegmentationScores,
    SemanticFPN,
    evaluate,
    segment,
)
from keras_sepvit.training.report import DataReport

CLASSES = 4
SIDES = (40, 90)
SIZES = (50, 70), (70, 50), (25, 99), (50, 70), (41, 40)


def pointwise(image_shape=(None, None, 3)):
    """A segmenter of each pixel's and its neighbours' colours: one image costs nothing."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(image_shape),
            keras.layers.Rescaling(1 / 64, offset=-2),
            keras.layers.Conv2D(8, 5, padding="same", activation="relu"),
            keras.layers.Conv2D(CLASSES, 3, padding="same"),
        ]
    )
    randomize(model)
    return model


def photo(size, seed=0):
    rng = np.random.default_rng((seed, *size))
    cells = rng.integers(0, 256, (4, 5, 3)).astype("uint8")
    return np.asarray(Image.fromarray(cells).resize(size[::-1], Image.Resampling.BICUBIC))


class Photos:
    """Photos with random class maps, as sources of segmentation have them."""

    name, split, classes = "photos", "all", CLASSES

    def __init__(self, sizes=SIZES, class_names=None, broken=()):
        self.size, self.class_names = len(sizes), class_names
        self._sizes, self._broken = sizes, broken

    def __str__(self):
        return f"photos (all, {self.size} images, {self.classes} classes)"

    def read(self, number):
        if number in self._broken:
            raise OSError(f"{number}.jpg cannot be read as an image")
        size = self._sizes[number]
        class_map = np.random.default_rng(number).integers(0, CLASSES, size).astype("uint8")
        class_map[:3] = 255
        return f"{number}.jpg", photo(size, number), class_map


def resized(logits, size):
    """Bilinear as PyTorch's, written out."""
    for axis, side in enumerate(size):
        low, high, share = interpolation(logits.shape[axis], side)
        share = share.reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        before, behind = np.take(logits, low, axis), np.take(logits, high, axis)
        logits = before + share * (behind - before)
    return logits


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def on_canvas(image, multiple=32):
    height, width = image.shape[:2]
    canvas = np.empty((-(-height // multiple) * multiple, -(-width // multiple) * multiple, 3))
    canvas[:] = MEAN_COLOUR
    canvas[:height, :width] = image
    return canvas


def logits_of(model, image):
    height, width = image.shape[:2]
    return run(model, on_canvas(image)[np.newaxis].astype("float32"))[0, :height, :width]


def by_windows(model, image, window, stride):
    """mmsegmentation's `slide_inference`, written out."""
    height, width = image.shape[:2]
    rows = max(height - window + stride - 1, 0) // stride + 1
    columns = max(width - window + stride - 1, 0) // stride + 1
    sums, counts = np.zeros((height, width, CLASSES)), np.zeros((height, width, 1))
    for row in range(rows):
        for column in range(columns):
            bottom, right = min(row * stride + window, height), min(column * stride + window, width)
            top, left = max(bottom - window, 0), max(right - window, 0)
            sums[top:bottom, left:right] += logits_of(model, image[top:bottom, left:right])
            counts[top:bottom, left:right] += 1
    assert (counts > 0).all() and counts.max() > 1
    return sums / counts


def test_scales_and_flips_are_averaged_as_softmaxes():
    model, image = pointwise(), photo((50, 70))
    scales = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    total, views = 0, 0
    for scale in scales:
        placement = fit_sides((50, 70), int(40 * scale), int(90 * scale))
        for flipped in (False, True):
            placed = placement.place(image[:, ::-1] if flipped else image)
            shares = softmax(resized(logits_of(model, placed), (50, 70)))
            total, views = total + (shares[:, ::-1] if flipped else shares), views + 1
    assert views == 12
    (found,) = segment(model, [image], SIDES, scales, flip=True)
    agreement = (found == (total / views).argmax(axis=-1)).mean()
    assert agreement > 0.999
    (single,) = segment(model, [image], SIDES)
    assert 0.5 < (found == single).mean() < 0.99


@pytest.mark.parametrize("size", [(50, 70), (70, 50), (25, 99), (10, 12)])
def test_windows_are_averaged_as_in_mmseg(size):
    model, image = pointwise(), photo(size)
    placed = fit_sides(size, *SIDES).place(image)
    expected = resized(by_windows(model, placed, 32, 21), size).argmax(axis=-1)
    for stride in (21, None):  # two thirds are the default
        (found,) = segment(model, [image], SIDES, window=32, stride=stride)
        assert (found == expected).mean() > 0.999
    fixed = pointwise((32, 32, 3))
    fixed.set_weights(model.get_weights())
    (found,) = segment(fixed, [image], SIDES, window=32)
    assert (found == expected).mean() > 0.999
    both = segment(model, [image], SIDES, (0.5, 1.0), window=(32, 24), stride=(20, 24))
    assert both[0].shape == size


def test_scales_of_a_model_of_one_size_are_on_its_canvas():
    fixed, image = pointwise((48, 64, 3)), photo((50, 70))
    total = 0
    for size in ((46, 64), (23, 32)):  # 50 x 70 fitted into 48 x 64 and 24 x 32
        canvas = np.empty((48, 64, 3))
        canvas[:] = MEAN_COLOUR
        canvas[: size[0], : size[1]] = Image.fromarray(image).resize(
            size[::-1], Image.Resampling.BILINEAR
        )
        logits = run(fixed, canvas[np.newaxis].astype("float32"))[0]
        total = total + softmax(resized(logits[: size[0], : size[1]], (50, 70)))
    (found,) = segment(fixed, [image], scales=[1.0, 0.5])
    assert (found == total.argmax(axis=-1)).mean() > 0.999


@pytest.mark.by_default_on("torch")
def test_evaluation_is_segment_photo_by_photo():
    """Of a real network, whose answers depend on the whole canvas; in any batches."""
    model = SemanticFPN(SMALL, CLASSES, neck_channels=8, head_channels=8)
    randomize(model)
    source, expected = Photos(), SegmentationScores(CLASSES)
    for number in range(source.size):
        _, image, truth = source.read(number)
        expected.add(truth, *segment(model, [image], SIDES))
    for batch_size in (1, 3):
        details = SegmentationReport(CLASSES)
        result = evaluate(model, source, batch_size=batch_size, sides=SIDES, details=details)
        assert (result["images"], result["unreadable"]) == (5, 0)
        # 40 x 56, 56 x 40 and 41 x 40 on canvases of 64 x 64, 23 x 90 on one of 32 x 96
        assert result["shapes"] == 2
        for name, value in expected.result().items():
            assert result[name] == pytest.approx(value, abs=0.1)
        assert {told["image"] for told in details.record()["worst"]} == {
            f"{number}.jpg" for number in range(5)
        }


def test_all_ways_go_through_evaluation():
    model, source = pointwise(), Photos()
    ways = {"scales": (0.5, 1.0), "flip": True}, {"window": 32, "stride": 20}
    for way in ways:
        expected = SegmentationScores(CLASSES)
        for number in range(source.size):
            _, image, truth = source.read(number)
            expected.add(truth, *segment(model, [image], SIDES, **way))
        for batch_size in (1, 4):
            result = evaluate(model, source, batch_size=batch_size, sides=SIDES, **way)
            assert result["miou"] == pytest.approx(expected.result()["miou"], abs=0.05)


class Constant:
    """A segmenter that is not Keras's: one class everywhere."""

    image_shape, record, class_names = (32, 32, 3), None, None

    def segment(self, photo):
        return np.full(photo.shape[:2], 2, "uint8")


def test_unreadable_photos_are_counted_and_left_out():
    report = DataReport()
    result = evaluate(Constant(), Photos(broken=(1, 4)), report=report)
    assert (result["images"], result["unreadable"], result["shapes"]) == (3, 2, 1)
    assert report.names == [f"{number}.jpg cannot be read as an image" for number in (1, 4)]
    with pytest.raises(ValueError, match="nothing to evaluate: 2 images could not be read"):
        evaluate(Constant(), Photos(SIZES[:2], broken=(0, 1)))


def test_classes_are_matched_by_name():
    names = ["a", "b", "c", "d"]
    source = Photos(class_names=names)
    plain = evaluate(Constant(), source)["aacc"]
    matrix = SegmentationReport(CLASSES, names)
    assert evaluate(Constant(), source, class_names=names)["aacc"] == plain
    evaluate(Constant(), source, class_names=["b", "c", "d", "a"], details=matrix)
    assert (matrix.matrix.sum(axis=0) > 0).tolist() == [False, False, False, True]
    with pytest.raises(ValueError, match="'a', 'b', 'c', 'e', and .*'a', 'b', 'c', 'd'"):
        evaluate(Constant(), source, class_names=["a", "b", "c", "e"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"scales": (1.0, 0)}, "`scales` must be a number above 0. Received: scales=0"),
        ({"scales": ()}, r"`scales` must be a list of numbers above 0, .* Received: \(\)"),
        ({"scales": 1.5}, "`scales` must be a list of numbers above 0, .* Received: 1.5"),
        ({"flip": "no"}, "`flip` must be True or False"),
        ({"window": 32, "stride": 33}, "`stride` must be at most `window`.*stride=33, window=32"),
        ({"window": (32, 16), "stride": 20}, "`stride` must be at most `window`"),
        ({"stride": 8}, "`stride` goes with a `window`"),
        ({"window": 0}, "`window` must be a positive integer"),
        ({"sides": (90, 40)}, "`sides` are the shorter and the longer one"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"fixed": True, "sides": SIDES}, "`sides` is for .* takes images of 48 x 64"),
        ({"fixed": True, "scales": [1.0, 1.5]}, "`scales` above 1 are for .* 48 x 64"),
        ({"fixed": True, "window": 64}, "`window` must be at most .* 48 x 64"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    arguments = dict(arguments)
    model = pointwise((48, 64, 3) if arguments.pop("fixed", False) else (None, None, 3))
    with pytest.raises(ValueError, match=message):
        evaluate(model, Photos(), **arguments)


def test_other_models_and_data_are_told():
    classifier = SepViT(SMALL, input_shape=(64, 64, 3), classes=CLASSES)
    for model in (classifier, KerasPredictor(classifier)):
        with pytest.raises(ValueError, match="must be a segmenter: .*classification.evaluate"):
            evaluate(model, Photos())
    with pytest.raises(ValueError, match="`source` must be photos with class maps"):
        evaluate(Constant(), "folder")
    with pytest.raises(ValueError, match=r"The model has 4 classes, and photos .*\) has 3"):
        evaluate(pointwise(), type("Three", (Photos,), {"classes": 3})())
    for given in ({"flip": True}, {"scales": (0.5,)}, {"window": 32}, {"sides": SIDES}):
        with pytest.raises(ValueError, match=f"`{[*given][0]}` is for models of Keras"):
            evaluate(Constant(), Photos(), **given)
    with pytest.raises(ValueError, match=r"A photo must be .*float32 \(4, 4, 3\)"):
        segment(pointwise(), [np.zeros((4, 4, 3), "float32")])


def test_mean_iou_is_in_the_logs_of_fit():
    model = pointwise((16, 16, 3))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 16, 16, 3)).astype("uint8")
    maps = rng.integers(0, CLASSES, (5, 16, 16)).astype("uint8")
    maps[:, :2] = 255
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    model.compile("adam", loss, jit_compile=BACKEND == "jax")
    batches = [(images[:3], maps[:3]), (images[3:], keras.ops.convert_to_tensor(maps[3:]))]
    seen = []
    history = model.fit(
        images,
        maps,
        epochs=2,
        verbose=0,
        callbacks=[
            MeanIoU((images, maps), batch_size=2),
            keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: seen.append(dict(logs))),
            MeanIoU(batches),
        ],
    ).history
    scores = SegmentationScores(CLASSES)
    scores.add(maps, to_numpy(model.predict(images, verbose=0)).argmax(axis=-1))
    for name, value in scores.result().items():
        assert history[f"val_{name}"][-1] == pytest.approx(value)
        assert seen[-1][f"val_{name}"] == pytest.approx(value)
