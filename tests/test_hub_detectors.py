"""SepViT in KerasHub's RetinaNet, and what `keras_sepvit.hub` puts beside it."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import BACKEND, SMALL, tiny_backbone, to_numpy, weights_by_name
from keras import ops
from keras.utils import bounding_boxes

pytest.importorskip("keras_hub", reason="needs the `hub` extra: keras-hub[grain]")

import keras_hub  # noqa: E402

import keras_sepvit  # noqa: E402
from keras_sepvit import hub  # noqa: E402
from keras_sepvit.hub.detection import BOX_FORMATS  # noqa: E402

pytestmark = [pytest.mark.hub, pytest.mark.by_default_on("torch")]

SHAPE = (64, 96, 3)
BOXES = np.float32([[[4, 4, 40, 40], [50, 10, 80, 60]], [[10, 20, 42, 50], [-1, -1, -1, -1]]])
LABELS = np.int32([[1, 2], [0, -1]])


NOT_ON_JAX = pytest.mark.skipif(
    BACKEND == "jax", reason="trains as `trained` does, and XLA compiles it for half a minute"
)


def photos(height=64, width=96, count=2):
    return np.random.default_rng(1).integers(0, 256, (count, height, width, 3), dtype="uint8")


def small_retinanet(bounding_box_format="xyxy", backbone=SMALL):
    return hub.retinanet(
        backbone, 3, bounding_box_format, image_shape=SHAPE, pre_logits_num_conv_layers=1
    )


def fit(detector, boxes=BOXES, labels=LABELS, epochs=1):
    detector.compile("adam", **hub.retinanet_losses(3), jit_compile=BACKEND == "jax")
    detector.optimizer.build(detector.trainable_variables)  # else TensorFlow traces twice
    targets = {"boxes": boxes, "labels": labels}
    return detector.fit(photos(), targets, batch_size=2, epochs=epochs, verbose=0).history["loss"]


def predict(detector, images):
    detector.jit_compile = BACKEND == "jax"
    return to_numpy(detector.predict(images, verbose=0))


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(0)
    detector = small_retinanet()
    losses = fit(detector, epochs=4)
    return detector, losses


def test_fit_lowers_the_loss(trained):
    _, losses = trained
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


def test_predictions_lie_inside_the_image(trained):
    predictions = predict(trained[0], photos())
    count = predictions["num_detections"].astype(int)
    assert (count > 0).all()
    for boxes, labels, confidence, number in zip(
        predictions["boxes"], predictions["labels"], predictions["confidence"], count, strict=True
    ):
        assert (boxes[:number] >= 0).all() and (boxes[:number] <= [96, 64, 96, 64]).all()
        assert (boxes[number:] == -1).all() and (labels[number:] == -1).all()
        assert (confidence[:number] > 0.05).all() and (np.diff(confidence[:number]) <= 0).all()


@pytest.mark.thorough
@pytest.mark.once
def test_a_file_gives_the_same_boxes_in_a_fresh_process(trained, tmp_path):
    detector, _ = trained
    detector.save(tmp_path / "detector.keras")
    np.savez(tmp_path / "expected.npz", photos=photos(), **predict(detector, photos()))
    program = """
import sys
import keras, numpy as np
import keras_sepvit.hub

detector = keras.saving.load_model(sys.argv[1] + "/detector.keras", compile=False)
detector.compile(jit_compile=keras.backend.backend() == "jax")
expected = np.load(sys.argv[1] + "/expected.npz")
predictions = detector.predict(expected["photos"], verbose=0)
for name, value in predictions.items():
    value = keras.ops.convert_to_numpy(value)
    np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-3, err_msg=name)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=300)


def test_preset_round_trip(trained, tmp_path):
    detector, _ = trained
    detector.save_to_preset(str(tmp_path))
    loaded = keras_hub.models.ObjectDetector.from_preset(str(tmp_path))
    expected = predict(detector, photos())
    actual = predict(loaded, photos())
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
    assert type(loaded.backbone.image_encoder) is hub.SepViTBackbone


@pytest.mark.parametrize("bounding_box_format", BOX_FORMATS)
def test_targets_do_not_depend_on_the_format(bounding_box_format, trained):
    """The relative ones crash in KerasHub's own."""

    def targets(detector, boxes):
        return to_numpy(detector.label_encoder(ops.zeros((1, *SHAPE)), boxes, LABELS[:1]))

    expected_deltas, expected_labels = targets(trained[0], BOXES[:1])
    boxes = bounding_boxes.convert_format(
        ops.array(BOXES[:1]), "xyxy", bounding_box_format, height=64, width=96
    )
    deltas, labels = targets(small_retinanet(bounding_box_format), boxes)
    np.testing.assert_array_equal(labels, expected_labels)
    assert (labels >= 0).sum() > 5
    np.testing.assert_allclose(deltas[labels >= 0], expected_deltas[labels >= 0], atol=1e-5)


@pytest.mark.thorough
@NOT_ON_JAX
def test_relative_boxes_train_and_come_back():
    relative = np.where(BOXES < 0, -1, BOXES / np.float32([96, 64, 96, 64]))
    detector = small_retinanet("rel_xyxy")
    assert np.isfinite(fit(detector, boxes=relative)).all()
    boxes = predict(detector, photos())["boxes"]
    assert boxes.max() <= 1


def test_the_prior_is_on_the_class_head():
    detector = small_retinanet()
    prior = -np.log(99)
    np.testing.assert_allclose(
        to_numpy(detector.classification_head.prediction_layer.bias), prior, rtol=1e-5
    )
    np.testing.assert_array_equal(to_numpy(detector.box_head.prediction_layer.bias), 0)
    kernels = to_numpy(detector.box_head.conv_layers[0].kernel)
    assert 0.009 < kernels.std() < 0.011


def test_losses_are_those_of_the_paper():
    """KerasHub's loss with these arguments, against focal loss and L1 written out."""
    detector = small_retinanet()
    detector.compile("sgd", **hub.retinanet_losses(3), jit_compile=False)
    images = ops.zeros((2, *SHAPE))
    deltas, labels = to_numpy(detector.label_encoder(images, ops.array(BOXES), ops.array(LABELS)))
    anchors = labels.shape[1]
    rng = np.random.default_rng(0)
    outputs = {
        "cls_logits": rng.normal(-2, 1, (2, anchors, 3)).astype("float32"),
        "bbox_regression": rng.normal(0, 1, (2, anchors, 4)).astype("float32"),
    }
    loss = detector.compute_loss(
        images,
        {"boxes": ops.array(BOXES), "labels": ops.array(LABELS)},
        {name: ops.array(value) for name, value in outputs.items()},
        sample_weight=None,
    )

    positive, counted = labels >= 0, labels > -2
    one_hot = (labels[..., None] == np.arange(3)).astype("float64")
    probability = 1 / (1 + np.exp(-outputs["cls_logits"].astype("float64")))
    of_truth = np.where(one_hot == 1, probability, 1 - probability)
    alpha = np.where(one_hot == 1, 0.25, 0.75)
    focal = -alpha * (1 - of_truth) ** 2 * np.log(of_truth)
    l1 = np.abs(outputs["bbox_regression"] - deltas)
    expected = (focal[counted].sum() + l1[positive].sum()) / positive.sum()
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_warm_start_from_a_classifier():
    from keras_sepvit.configs import DIGITS_CONFIG

    with pytest.warns(UserWarning, match=r"Loaded 108 of the model's 128(.|\n)*stage1_norm/gamma"):
        detector = hub.retinanet(DIGITS_CONFIG, 3, image_shape=(64, 64, 3), weights="digits")
    encoder = detector.backbone.image_encoder
    classifier = keras_sepvit.SepViT(DIGITS_CONFIG, classes=10, weights="digits")
    for layer in ("stage1_embed", "stage4_block1"):
        own = {v.path: to_numpy(v) for v in encoder.get_layer(layer).trainable_weights}
        others = {v.path: to_numpy(v) for v in classifier.get_layer(layer).trainable_weights}
        shared = own.keys() & others.keys()
        assert len(shared) > 3
        for path in shared:
            np.testing.assert_array_equal(own[path], others[path])


@pytest.mark.thorough
@NOT_ON_JAX
def test_a_frozen_backbone_stays_as_it_is():
    detector = small_retinanet()
    encoder = detector.backbone.image_encoder
    encoder.trainable = False
    before = [to_numpy(weight) for weight in encoder.weights]
    head = to_numpy(detector.box_head.prediction_layer.kernel)
    fit(detector)
    for weight, value in zip(encoder.weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(weight), value)
    assert not np.array_equal(to_numpy(detector.box_head.prediction_layer.kernel), head)


@pytest.mark.parametrize("library_key", ["labels", "classes"])
def test_detect_gives_boxes_of_the_photo(library_key):
    """A stand-in detector that finds the bright rectangle of the canvas exactly."""

    class Finder(keras.Model):
        bounding_box_format = "yxyx"

        def predict(self, canvases, verbose):
            self.canvases = canvases
            found = []
            for canvas in canvases:
                rows, columns = np.nonzero((canvas > 200).all(axis=-1))
                box = [0, 0, 0, 0]
                if len(rows):
                    box = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
                found.append([box, [-1] * 4])
            return {
                "boxes": np.float32(found),
                library_key: np.int32([[3, -1]] * len(canvases)),
                "confidence": np.float32([[0.8, -1]] * len(canvases)),
            }

    image = keras.Input((96, 128, 3))
    finder = Finder(inputs=image, outputs=image)
    pictures = []
    for height, width in ((480, 640), (200, 90), (33, 400), (96, 128)):
        picture = np.zeros((height, width, 3), "uint8")
        picture[height // 4 : height // 2, width // 3 : width // 2] = 255
        pictures.append(picture)
    for picture, found in zip(pictures, hub.detect(finder, pictures), strict=True):
        height, width = picture.shape[:2]
        expected = [width // 3, height // 4, width // 2, height // 2]
        tolerance = max(height / 96, width / 128, 1)  # a pixel of the canvas
        np.testing.assert_allclose(found["boxes"], [expected], atol=tolerance)
        assert found["labels"].tolist() == [3]
    assert finder.canvases.shape == (4, 96, 128, 3)
    assert hub.detect(finder, pictures[:1], threshold=0.9)[0]["boxes"].shape == (0, 4)


def test_detect_reads_files_upright(tmp_path):
    from PIL import Image

    picture = Image.fromarray(photos(40, 60, 1)[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save(tmp_path / "photo.png", exif=exif)
    seen = []

    class Recorder(keras.Model):
        bounding_box_format = "xyxy"

        def predict(self, canvases, verbose):
            seen.append(canvases[0])
            boxes = np.float32([[[0, 0, 96, 96]]] * len(canvases))
            ones = np.ones((len(canvases), 1), "float32")
            return {"boxes": boxes, "labels": ones, "confidence": ones}

    image = keras.Input((96, 96, 3))
    (found,) = hub.detect(Recorder(inputs=image, outputs=image), [tmp_path / "photo.png"])
    np.testing.assert_array_equal(found["boxes"], [[0, 0, 40, 60]])
    assert (seen[0][:, 64:] == [124, 116, 104]).all() and not (seen[0][:, 63] == 124).all()


@pytest.mark.thorough
@NOT_ON_JAX
def test_resnet_of_kerashub_has_the_levels():
    """What detectors of this package will ask of a backbone: levels of strides 4 to 32."""
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64, 64, 64],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        image_shape=SHAPE,
    )
    sizes = {level: output.shape[1:3] for level, output in backbone.pyramid_outputs.items()}
    assert sizes == {"P2": (16, 24), "P3": (8, 12), "P4": (4, 6), "P5": (2, 3)}
    detector = small_retinanet(backbone=backbone)
    assert detector.input_shape == (None, *SHAPE)
    assert np.isfinite(fit(detector)).all()


def test_swin_of_kerashub_has_no_levels():
    """Its stages give sequences, after patches have been merged, and it has no pyramid."""
    swin = keras_hub.models.SwinTransformerBackbone(
        image_shape=SHAPE, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=2
    )
    with pytest.raises(ValueError, match="lacks P3, P4, P5"):
        small_retinanet(backbone=swin)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"image_shape": (60, 96, 3)}, r"multiples of 32.*image_shape=\(60, 96, 3\)"),
        ({"image_shape": 64}, r"must be \(height, width, channels\).*64"),
        ({"backbone": "of 96 pixels"}, r"takes images of \(96, 96, 3\) alone.*\(64, 64, 3\)"),
        ({"image_shape": (None, None, 3)}, "static image size"),
        ({"bounding_box_format": "coco"}, "Unknown `bounding_box_format`: 'coco'"),
        ({"num_classes": 0}, "`num_classes` must be a positive integer"),
        ({"backbone": "sepvit_q"}, "Unknown `variant`: 'sepvit_q'"),
        ({"backbone": "classifier"}, "classification form.*dense=True"),
        ({"backbone": "no pyramid"}, "`no_pyramid` lacks P3, P4, P5"),
        ({"weights": "digits"}, "do not fit model"),
    ],
)
def test_wrong_use_is_told(arguments, message):
    arguments = {"backbone": SMALL, "num_classes": 3, "image_shape": (64, 64, 3), **arguments}
    if arguments["backbone"] == "classifier":
        arguments["backbone"] = tiny_backbone()
    if arguments["backbone"] == "of 96 pixels":
        arguments["backbone"] = tiny_backbone((96, 96, 3), dense=True)
    if arguments["backbone"] == "no pyramid":
        image = keras.Input((64, 64, 3))
        arguments["backbone"] = keras.Model(image, image, name="no_pyramid")
    with pytest.raises(ValueError, match=message):
        hub.retinanet(**arguments)


def test_size_of_the_detector_is_that_of_its_backbone():
    assert hub.retinanet(tiny_backbone((64, 96, 3), dense=True), 3).input_shape[1:] == SHAPE
    anysize = tiny_backbone((None, None, 3), dense=True)
    assert hub.retinanet(anysize, 3, image_shape=SHAPE).input_shape[1:] == SHAPE
    with pytest.raises(TypeError, match="drop_path_rate"):
        hub.retinanet(SMALL, 3, drop_path_rate=0.5)


def test_a_detectors_backbone_loads_into_another(trained, tmp_path):
    detector, _ = trained
    detector.save(tmp_path / "detector.keras")
    backbone = hub.SepViTBackbone.from_variant(SMALL, (None, None, 3), dense=True)
    report = keras_sepvit.load_weights(backbone, tmp_path / "detector.keras")
    assert not report.new and report.unused == report.unused_head
    expected = weights_by_name(detector.backbone.image_encoder)
    for name, value in weights_by_name(backbone).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.thorough
@NOT_ON_JAX
def test_half_precision_keeps_boxes_and_targets():
    keras.config.set_dtype_policy("mixed_bfloat16")
    detector = small_retinanet()
    assert detector.backbone.image_encoder.compute_dtype == "bfloat16"
    assert np.isfinite(fit(detector)).all()
    exact = np.float32([[[3.3, 4.7, 41.1, 39.9]]])
    deltas, labels = to_numpy(
        detector.label_encoder(ops.zeros((1, *SHAPE)), exact, np.int32([[1]]))
    )
    keras.config.set_dtype_policy("float32")
    expected, _ = to_numpy(
        small_retinanet().label_encoder(ops.zeros((1, *SHAPE)), exact, np.int32([[1]]))
    )
    np.testing.assert_allclose(deltas[labels >= 0], expected[labels >= 0], atol=1e-5)
    assert predict(detector, photos())["boxes"].shape == (2, 100, 4)


def test_decoder_keeps_boxes_exact_and_drops_those_outside():
    keras.config.set_dtype_policy("mixed_bfloat16")
    decoder = hub.ClassWiseNonMaxSuppression("xyxy", from_logits=False)
    boxes = np.float32([[[30.3, 3.7, 44.1, 45.9], [100, 0, 120, 50], [-9, -9, -1, 70]]])
    scores = np.float32([[[0.9], [0.8], [0.7]]])
    found = to_numpy(decoder(boxes, scores, image_shape=SHAPE))
    np.testing.assert_array_equal(found["num_detections"], [1])
    np.testing.assert_array_equal(found["boxes"][0, 0], boxes[0, 0])
    with pytest.raises(ValueError, match="`iou_threshold`.*50"):
        hub.ClassWiseNonMaxSuppression("xyxy", iou_threshold=50)


class Nothing(keras.Model):
    """A detector that finds nothing in images of any size."""

    bounding_box_format = "xyxy"

    def predict(self, canvases, verbose):
        minus = -np.ones((len(canvases), 1), "float32")
        return {"boxes": minus[..., None] * np.ones(4), "labels": minus, "confidence": minus}


GREY = np.full((40, 60, 3), 128, "uint8")


@pytest.mark.once
@pytest.mark.parametrize(
    "photos, arguments, message",
    [
        ("street.jpg", {"image_size": 64}, "must be a list.*'street.jpg'"),
        (GREY, {"image_size": 64}, r"shape \(60, 3\)"),
        ([GREY[..., 0]], {"image_size": 64}, r"shape \(40, 60\)"),
        ([GREY[:0]], {"image_size": 64}, r"shape \(0, 60, 3\)"),
        ([GREY / 255], {"image_size": 64}, r"numbers of 0\.\.255.*from 0\.50"),
        ([GREY * np.nan], {"image_size": 64}, r"numbers of 0\.\.255.*nan"),
        ([GREY - 200.0], {"image_size": 64}, r"numbers of 0\.\.255.*-72"),
        ([None], {"image_size": 64}, "Received one of type NoneType"),
        ([GREY], {}, "`image_size` must tell"),
        ([GREY], {"image_size": 100}, "`image_size` must have .* multiples of 32"),
        ([GREY], {"image_size": (64, 64), "batch_size": 0}, "`batch_size` must be a positive"),
    ],
)
def test_detect_tells_wrong_use(photos, arguments, message):
    image = keras.Input((None, None, 3))
    with pytest.raises(ValueError, match=message):
        hub.detect(Nothing(inputs=image, outputs=image), photos, **arguments)


@pytest.mark.once
def test_detect_tells_wrong_models():
    image = keras.Input((64, 64, 3))
    with pytest.raises(ValueError, match="takes images of 64 x 64 alone"):
        hub.detect(Nothing(inputs=image, outputs=image), [GREY], image_size=96)
    with pytest.raises(ValueError, match="must be a detector"):
        hub.detect(keras.Model(image, image), [GREY])
    assert hub.detect(Nothing(inputs=image, outputs=image), []) == []
