"""Regions: what is taken of maps in boxes, the heads on it, masks cut out and pasted."""

import keras
import numpy as np
import pytest
from helpers import BACKEND, randomize, run, to_numpy
from keras import ops
from reference import load_expected
from rois_reference import reference_roi_align

from keras_sepvit.detection.roi_heads import BoxHead, MaskHead, RPNHead
from keras_sepvit.detection.rois import RoIAlign, mask_targets, roi_align, roi_levels
from keras_sepvit.runtime.masks import decode, encode, paste, paste_all
from keras_sepvit.training.masks import cropped

# Of two pictures of 125 x 167: without area, of exactly 112 x 112, far out of the picture, turned
# around, beside it, tiny, of all levels.
ROIS = np.float32(
    [
        [[10.25, 8.5, 10.25, 8.5], [5, 6, 117, 118], [-60, -50, 300, 290], [-900, -120, 420, 400]],
        [[40, 30, 20, 10], [300, 5, 340, 45], [90.1, 33.2, 93.7, 35.9], [-4, 100, 60.5, 160]],
    ]
)
LEVELS = [[0, 1, 2, 3], [0, 0, 0, 0]]
SIZE = 3


def maps_of(dtype="float32"):
    rng = np.random.default_rng(0)
    sides = [(-(-125 // stride), -(-167 // stride)) for stride in (4, 8, 16, 32)]
    return [rng.standard_normal((2, *side, 4)).astype(dtype) for side in sides]


def expected_regions(maps):
    return np.concatenate(
        [
            reference_roi_align([level[i] for level in maps], ROIS[i], SIZE, ratio=2)
            for i in range(2)
        ]
    )


def test_regions_and_their_gradient():
    """Values by the definition; what they change by where maps change, too; levels."""
    maps = maps_of()
    np.testing.assert_array_equal(to_numpy(roi_levels(ROIS)), LEVELS)
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((8, SIZE, SIZE, 4)).astype("float32")
    values, gradients = values_and_gradients(maps, weights)
    expected = expected_regions(maps)
    assert np.abs(expected[[1, 2, 3, 6, 7]]).max(axis=(1, 2, 3)).min() > 0.1
    np.testing.assert_allclose(values, expected, atol=1e-5)
    for _ in range(3):
        ways = [rng.standard_normal(level.shape).astype("float32") for level in maps]
        ahead, back = (
            expected_regions([level + sign * way for level, way in zip(maps, ways, strict=True)])
            for sign in (1, -1)
        )
        slope = ((ahead.astype("float64") - back) / 2 * weights).sum()
        own = sum(
            (gradient.astype("float64") * way).sum()
            for gradient, way in zip(gradients, ways, strict=True)
        )
        assert own == pytest.approx(slope, rel=1e-4)


def values_and_gradients(maps, weights):
    """Regions, and the gradient of their weighted sum in each map; compiled where it can be."""

    def total(maps):
        regions = roi_align(maps, ROIS, SIZE)
        return ops.sum(ops.multiply(regions, weights)), regions

    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function
        def differentiate(maps):
            with tf.GradientTape() as tape:
                tape.watch(maps)
                value, regions = total(maps)
            return regions, tape.gradient(value, maps)

        regions, gradients = differentiate([tf.constant(level) for level in maps])
    elif BACKEND == "jax":
        import jax

        (_, regions), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(maps)
    else:
        maps = [ops.convert_to_tensor(level).requires_grad_() for level in maps]
        value, regions = total(maps)
        value.backward()
        regions, gradients = regions.detach(), [level.grad for level in maps]
    return to_numpy(regions), to_numpy(gradients)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
    """Maps in half precision; boxes and sums in float32."""
    maps = [np.round(level * 8) / 8 for level in maps_of()]
    layer = RoIAlign(SIZE, dtype=f"mixed_{dtype}")
    half = [ops.cast(level, dtype) for level in maps]
    found = layer(half, ROIS)
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    np.testing.assert_allclose(to_numpy(found), expected_regions(maps), atol=0.02)


def test_boxes_that_are_nowhere():
    """NaN and infinity give zeros, and no place that there is not."""
    rois = ROIS.copy()
    rois[0, 0, 2], rois[0, 1] = np.nan, [-np.inf, 0, np.inf, 50]
    found = to_numpy(roi_align(maps_of(), rois, SIZE))
    assert (found[:2] == 0).all()
    np.testing.assert_array_equal(found[2:], to_numpy(roi_align(maps_of(), ROIS, SIZE))[2:])


def test_layers_of_regions():
    """Symbolic shapes are those of tensors, for any size; configurations; masks half by half."""
    maps = [keras.Input((None, None, 4)) for _ in range(4)]
    rois = keras.Input((4, 4))
    rpn = RPNHead(3, 5)(maps)
    regions = RoIAlign(2)(maps, rois)
    boxes, masks = BoxHead(3, 6)(regions), MaskHead(3, 5, num_convs=1)(regions)
    model = keras.Model([*maps, rois], {"rpn": rpn, "boxes": boxes, "masks": masks})
    randomize(model)
    found = run(model, [*maps_of(), ROIS])
    assert [x.shape[-1] for x in (*found["rpn"]["classes"], *found["rpn"]["boxes"])] == [
        *(3, 3, 3, 3, 12, 12, 12, 12)
    ]
    assert found["boxes"]["classes"].shape == (8, 4) and found["boxes"]["boxes"].shape == (8, 12)
    assert found["masks"].shape == (8, 4, 4, 3)
    for symbolic, tensor in zip(
        keras.tree.flatten(model.output), keras.tree.flatten(found), strict=True
    ):
        known = zip(symbolic.shape[1:], tensor.shape[1:], strict=True)
        assert all(side in (None, other) for side, other in known)
    again = keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    same = run(again, [*maps_of(), ROIS])
    np.testing.assert_array_equal(same["masks"], found["masks"])


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantised_heads_load_again(tmp_path):
    maps = [keras.Input((None, None, 4)) for _ in range(4)]
    rois = keras.Input((4, 4))
    model = keras.Model([*maps, rois], BoxHead(3, 6, name="bbox_head")(RoIAlign(2)(maps, rois)))
    randomize(model)
    expected = run(model, [*maps_of(), ROIS])
    model.quantize("int8")
    assert model.get_layer("bbox_head").fc_cls.quantization_mode == "int8"
    found = run(model, [*maps_of(), ROIS])
    model.save(tmp_path / "model.keras")
    loaded = run(keras.saving.load_model(tmp_path / "model.keras"), [*maps_of(), ROIS])
    for name, value in expected.items():
        assert 0 < np.abs(found[name] - value).max() < 0.1 * np.abs(value).max()
        np.testing.assert_array_equal(loaded[name], found[name])


def test_doubling_is_a_transposed_convolution():
    head = MaskHead(3, 5, num_convs=1)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype("float32")
    head.build(x.shape)
    randomize(head)
    hidden = ops.relu(head.upsample(head.convs[0](x)))
    np.testing.assert_allclose(run(head, x), to_numpy(head.conv_logits(hidden)), atol=1e-5)


@pytest.mark.parametrize("size", ["96x160", "125x167"])
def test_mask_targets(size):
    """Cut out of masks of 112 x 112 they are mmdetection's of full ones, in all but a few cells."""
    expected = load_expected(f"official_mask_rcnn_tiny_{size}")
    height, width = expected["batch_image_shapes"].max(axis=0)
    found = []
    for i in (0, 2):  # the second picture has no object
        boxes = expected[f"gt{i}_boxes"]
        full = [ellipse(box, height, width) for box in boxes]
        assert [mask.sum() for mask in full] == [*expected[f"gt{i}_mask_areas"]]
        masks = np.stack([cropped(mask, box) for mask, box in zip(full, boxes, strict=True)])
        inputs = (masks, boxes, expected[f"rcnn_pos{i}_boxes"], expected[f"rcnn_pos{i}_gt"])
        found.append(run(lambda x: mask_targets(*x), [x[np.newaxis] for x in inputs])[0])
    found = np.concatenate(found)
    assert found.shape == tuple(expected["mask_targets_shape"])
    assert np.abs(found.sum(axis=(1, 2)) - expected["mask_targets_sums"]).max() <= 4
    bits = np.unpackbits(expected["mask_targets_bits"])[: 20 * 28 * 28].reshape(20, 28, 28)
    assert (found[:20] != bits).sum(axis=(1, 2)).max() <= 2


def ellipse(box, height, width):
    left, top, right, bottom = box.astype("float64")
    y, x = np.ogrid[:height, :width]
    across = (x + 0.5 - (left + right) / 2) / ((right - left) / 2)
    down = (y + 0.5 - (top + bottom) / 2) / ((bottom - top) / 2)
    return across**2 + down**2 <= 1


def test_mask_targets_of_boxes_without_area():
    """All is finite, and nothing covered: padding, no area, beside the object, no mask."""
    masks = np.full((1, 2, 112, 112), 255, "uint8")
    masks[0, 1] = 0
    boxes = np.float32([[[10, 10, 50, 40], [-1, -1, -1, -1]]])
    rois = np.float32([[[0, 0, 0, 0], [60, 60, 80, 80], [10, 10, 50, 40], [10, 10, 50, 40]]])
    found = run(lambda x: mask_targets(*x), (masks, boxes, rois, np.array([[1, 0, 1, 0]])))
    assert [x.mean() for x in found[0]] == [0, 0, 0, 1]


@pytest.mark.once
@pytest.mark.parametrize("size", ["96x160", "125x167"])
def test_pasted_masks_are_mmdetections(size):
    """On the image and in the original picture; of the first four detections."""
    expected = load_expected(f"official_mask_rcnn_tiny_{size}")
    for i in range(3):
        masks = 1 / (1 + np.exp(-expected[f"mask{i}_logits"]))
        for boxes, key in ((f"det{i}", f"mask{i}"), (f"rescaled{i}", f"rescaled_mask{i}")):
            shape = expected[f"{key}_shape"]
            boxes = expected[boxes][:4, :4]
            found = paste_all(masks, boxes, shape[1:])
            np.testing.assert_array_equal(found.sum(axis=(1, 2)), expected[f"{key}_areas"][:4])
            if f"{key}_bits" in expected:
                bits = np.unpackbits(expected[f"{key}_bits"])[: shape.prod()]
                np.testing.assert_array_equal(found, bits.reshape(shape)[:4])


@pytest.mark.once
def test_masks_beside_the_photo():
    """Boxes may reach out of the photo, lie beside it, have no area; soft masks end at a half."""
    full = np.ones((28, 28))
    assert paste(full, [-5, -7, 100, 90], (9, 12)).all()
    assert paste(full, [2, 3, 5, 7], (9, 12)).sum() == 12
    for box in ([20, 0, 30, 9], [-9, -9, -1, -1], [5, 5, 5, 5], [6, 6, 2, 2], [0, 0, np.nan, 5]):
        assert not paste(full, box, (9, 12)).any()
    left = full * (np.arange(28) < 14)
    np.testing.assert_array_equal(
        paste(left, [0, 0, 10, 10], (10, 10)), np.tile(np.arange(10) < 5, (10, 1))
    )
    assert not paste(0.49 * full, [0, 0, 9, 9], (9, 12)).any()


@pytest.mark.once
def test_run_lengths():
    coco = pytest.importorskip("pycocotools.mask")
    pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")
    rng = np.random.default_rng(0)
    for mask in (rng.random((37, 51)) > 0.7, np.zeros((5, 3), bool), np.ones((4, 6), bool)):
        encoded = encode(mask)
        assert encoded["size"] == [*mask.shape] and type(encoded["counts"]) is str
        theirs = coco.encode(np.asfortranarray(mask, "uint8"))
        assert encoded["counts"] == theirs["counts"].decode()
        for form in (encoded, theirs):
            np.testing.assert_array_equal(decode(form), mask)
