"""Schedule and optimiser of the recipes."""

import json
import math
import re

import keras
import numpy as np
import pytest
from helpers import BACKEND, TINY, to_numpy
from keras import ops
from reference import DATA

from keras_sepvit import SepViT, SepViTBlock
from keras_sepvit.detection import MaskRCNN, RetinaNet
from keras_sepvit.recipes import load_recipe
from keras_sepvit.segmentation import SemanticFPN, UPerNet
from keras_sepvit.training.optimizer import (
    LayerwiseAdamW,
    build_optimizer,
    build_schedule,
    decays,
    layer_scales,
)
from keras_sepvit.training.schedule import WarmupCosine, WarmupPolynomial, WarmupSteps


def test_schedule_is_a_cosine_over_all_steps_with_a_linear_warmup():
    schedule = WarmupCosine(peak=1e-3, steps=300, warmup_steps=5, initial=1e-6, final=1e-5)
    rates = to_numpy(schedule(ops.arange(301)))
    # timm's CosineLRScheduler(t_initial=300, warmup_t=5, warmup_lr_init=1e-6, lr_min=1e-5).
    np.testing.assert_allclose(rates[:5], 1e-6 + np.arange(5) * (1e-3 - 1e-6) / 5, rtol=1e-5)
    steps = np.arange(5, 301)
    expected = 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + np.cos(math.pi * steps / 300))
    np.testing.assert_allclose(rates[5:], expected, rtol=1e-4)
    assert float(schedule(1000)) == pytest.approx(1e-5)
    copy = WarmupCosine.from_config(schedule.get_config())
    assert float(copy(7)) == float(schedule(7))


def test_polynomial_and_steps_are_mmcvs():
    """Poly with power and floor; steps; a warm-up that scales the decayed rate, from step 0."""
    polynomial = WarmupPolynomial(
        peak=6e-5, steps=100, warmup_steps=10, initial=6e-11, final=1e-6, power=0.9
    )
    steps = np.arange(120)
    decayed = 1e-6 + (6e-5 - 1e-6) * np.maximum(1 - steps / 100, 0) ** 0.9
    warm = decayed * (1 - (1 - steps / 10) * (1 - 1e-6))
    expected = np.where(steps < 10, warm, decayed)
    np.testing.assert_allclose(
        to_numpy(polynomial(ops.arange(120))), expected, rtol=1e-4, atol=1e-11
    )

    stepped = WarmupSteps(peak=1e-4, steps=120, boundaries=[80, 110], warmup_steps=5, initial=1e-7)
    expected = 1e-4 * 0.1 ** ((steps >= 80).astype(int) + (steps >= 110))
    expected[:5] = 1e-4 * (1 - (1 - np.arange(5) / 5) * (1 - 1e-3))
    np.testing.assert_allclose(to_numpy(stepped(ops.arange(120))), expected, rtol=1e-4)
    for schedule in (polynomial, stepped):
        copy = type(schedule).from_config(schedule.get_config())
        assert float(copy(7)) == float(schedule(7))


# The recipes whose schedules mmcv computed, with epochs of the reference's length.
MMCV = np.load(DATA / "official_schedules_resizes_metrics.npz")
SCHEDULES = {
    "fpn": "ade20k_fpn_t",
    "upernet": "ade20k_upernet_b",
    "retinanet_1x": "coco_retinanet_t_1x",
    "mask_rcnn_1x": "coco_mask_rcnn_t_1x",
    "detection_3x": "coco_mask_rcnn_s_3x",
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_mmcvs_at_the_steps_of_the_reference(name):
    recipe = load_recipe(SCHEDULES[name], ["data.name=folder:x"])
    schedule = build_schedule(recipe, int(MMCV["detection_iterations_per_epoch"]))
    steps, expected = MMCV[f"{name}_iterations"], MMCV[f"{name}_lr"]
    rates = to_numpy(schedule(ops.convert_to_tensor(steps.astype("int64"))))
    np.testing.assert_allclose(rates, expected, rtol=2e-4, atol=1e-11)


def test_another_batch_sees_as_many_images():
    """Rate, warm-up and length follow the batch; steps that are given stay as they are."""
    changes = ["data.name=folder:x", "batch_size=4"]
    recipe = load_recipe("ade20k_upernet_t", changes)
    schedule = build_schedule(recipe, steps_per_epoch=5052)
    assert (schedule.steps, schedule.warmup_steps) == (640_000, 6_000)
    assert schedule.peak == pytest.approx(1.5e-5) and schedule.initial == pytest.approx(1.5e-11)
    fixed = ["steps=100", "optimizer.warmup_steps=10"]
    schedule = build_schedule(load_recipe("ade20k_upernet_t", [*changes, *fixed]), 5052)
    assert (schedule.steps, schedule.warmup_steps) == (100, 10)


def test_recipes_choose_their_schedule():
    changes = ["epochs=12", "optimizer.warmup_steps=500", "optimizer.milestones=[8,11]"]
    recipe = load_recipe("imagenet_t", ["optimizer.schedule=steps", *changes])
    schedule = build_schedule(recipe, steps_per_epoch=100)
    assert schedule.boundaries == [800, 1100]
    assert (schedule.steps, schedule.warmup_steps) == (1200, 500)
    recipe = load_recipe("imagenet_t", ["optimizer.schedule=polynomial", "optimizer.power=0.9"])
    schedule = build_schedule(recipe, steps_per_epoch=100, steps=160)
    assert (schedule.steps, schedule.power, schedule.warmup_steps) == (160, 0.9, 500)


@pytest.fixture(scope="module")
def network():
    return SepViT(TINY, classes=7, classifier_activation=None)


def test_weight_decay_spares_what_the_paper_spares(network):
    decayed = {variable.path for variable in network.trainable_variables if decays(variable)}
    in_code = {variable.path for variable in network.trainable_variables if decays(variable, True)}
    assert all(path.endswith("kernel") for path in decayed)
    assert {"stage1_block1/mlp/fc1/kernel", "stage2_embed/proj/kernel", "head/kernel"} <= decayed
    assert in_code - decayed == {
        *(f"stage{stage}_peg/proj/kernel" for stage in (1, 2, 3, 4)),
        *(
            variable.path
            for variable in network.trainable_variables
            if variable.path.endswith("win_tokens")
        ),
    }
    block = SepViTBlock(2, 2, window_tokens="depthwise_conv", name="block")
    block.build((None, 4, 4, 8))
    decayed = {variable.path for variable in block.trainable_variables if decays(variable)}
    assert "block/attn/win_kernel" in decayed and "block/attn/win_bias" not in decayed


@pytest.mark.once
@pytest.mark.parametrize(
    "name, recipe, network, classes",
    [
        ("fpn", "ade20k_fpn_t", SemanticFPN, 150),
        ("upernet", "ade20k_upernet_t", UPerNet, 150),
        ("retinanet", "coco_retinanet_t_1x", RetinaNet, 80),
        ("mask_rcnn_3x", "coco_mask_rcnn_t_3x", MaskRCNN, 80),
    ],
)
def test_weight_decay_is_that_of_the_authors_settings(name, recipe, network, classes):
    """By number of weights and elements, and of what is spared by part of the name."""
    expected = json.loads((DATA / "official_weight_decay.json").read_text())[name]
    recipe = load_recipe(recipe, ["data.name=folder:x"])
    variables = network("sepvit_t", num_classes=classes).trainable_variables
    sizes = {variable.path: math.prod(variable.shape) for variable in variables}
    assert (len(sizes), sum(sizes.values())) == (expected["tensors"], expected["elements"])
    assert {0.0, recipe.optimizer.weight_decay} >= {*expected["decays"]}
    assert {recipe.peak_learning_rate()} == {*expected["rates"]}
    spared = {v.path for v in variables if not decays(v, spared=recipe.optimizer.spared)}
    assert len(spared) == expected["zero_decay_tensors"]
    parts = {
        **{"norm1": "/norm1/", "norm2": "/norm2/", "norm_list": r"^stage\d_norm/"},
        **{"win_tokens_norm": "/win_tokens_norm/", "patch_embeds": "_embed/"},
        **{"pos_block": "_peg/", ".bn.": "/bn/"},
    }
    sums = {
        part: sum(sizes[path] for path in spared if re.search(pattern, path))
        for part, pattern in parts.items()
    }
    assert sums == expected["zero_decay_sums"]


def test_layers_learn_slower_the_farther_from_the_head(network):
    scales = layer_scales(network.trainable_variables, 0.5)
    # Blocks of TINY: 1, 2, 2, 1; the first patch embedding is layer 0, norm and head layer 7.
    assert scales["stage1_embed/proj/kernel"] == 0.5**7
    assert scales["stage1_block1/attn/proj/kernel"] == scales["stage1_peg/proj/bias"] == 0.5**6
    assert scales["stage2_embed/norm/gamma"] == scales["stage2_block1/norm1/beta"] == 0.5**5
    assert scales["stage3_block2/mlp/fc1/kernel"] == 0.5**2
    assert scales["norm/gamma"] == scales["head/kernel"] == 1
    assert len(scales) == len(network.trainable_variables)


def test_a_segmenters_backbone_may_have_a_rate_of_its_own():
    network = SemanticFPN(TINY, 3, neck_channels=8, head_channels=8)
    scales = layer_scales(network.trainable_variables, 0.5, backbone=0.1)
    assert scales["decode_head/conv_seg/kernel"] == scales["neck/fpn_convs_0/conv/bias"] == 1
    # The norm behind a stage belongs to its last block, here the last of all.
    assert scales["stage4_norm/gamma"] == scales["stage4_block1/norm1/gamma"] == 0.1 * 0.5
    assert scales["stage1_norm/gamma"] == 0.1 * 0.5**6
    rates = ["backbone_rate=0.1", "learning_rate=1e-3", "warmup_epochs=2"]
    changes = ["batch_size=16", *(f"optimizer.{rate}" for rate in rates)]
    recipe = load_recipe("finetune_segmenter", ["data.name=x", *changes])
    optimizer = build_optimizer(recipe, network, steps_per_epoch=10)
    assert optimizer.scales["stage2_embed/proj/kernel"] == 0.1


def test_recipe_becomes_adamw(network):
    recipe = load_recipe("imagenet_b", ["batch_size=512", "accumulate=4", "ema_decay=0.99"])
    optimizer = build_optimizer(recipe, network, steps_per_epoch=10)
    assert isinstance(optimizer, keras.optimizers.AdamW)
    schedule = optimizer._learning_rate.get_config()
    assert schedule == {
        "peak": pytest.approx(5e-4),
        "steps": 3000,
        "warmup_steps": 200,
        "initial": 1e-6,
        "final": 1e-5,
        "accumulate": 4,
    }
    config = optimizer.get_config()
    assert config["epsilon"] == 1e-8
    assert config["weight_decay"] == 0.1 and config["global_clipnorm"] == 1.0
    assert config["gradient_accumulation_steps"] == 4
    assert config["ema_momentum"] ** 4 == pytest.approx(0.99)


def weights_after(optimizer, values, gradients):
    variables = [keras.Variable(value, name=f"v{i}") for i, value in enumerate(values)]
    if isinstance(optimizer, LayerwiseAdamW):
        optimizer.scales = dict(
            zip([v.path for v in variables], optimizer.scales.values(), strict=True)
        )
    optimizer.build(variables)
    for gradient in gradients:
        optimizer.apply([ops.convert_to_tensor(g) for g in gradient], variables)
    return [to_numpy(variable) for variable in variables]


def test_rate_goes_by_updates_not_by_parts(network):
    short = ["epochs=4", "optimizer.warmup_epochs=1"]
    whole, parts = (
        build_optimizer(
            load_recipe("digits", [f"accumulate={count}", *short]), network, steps_per_epoch=10
        )
        for count in (1, 4)
    )
    for update in (0, 3, 17, 39):
        whole.iterations.assign(update)
        rates = []
        for part in range(4):
            parts._iterations.assign(4 * update + part)
            rates.append(float(parts.learning_rate))
        assert rates == [float(whole.learning_rate)] * 4
    assert rates[0] < 0.1 * load_recipe("digits").peak_learning_rate()


@pytest.mark.by_default_on("tensorflow", "torch")
def test_accumulated_parts_train_as_the_whole_batch():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2, 5)).astype("float32")
    gradients = rng.standard_normal((12, 4, 2, 5)).astype("float32")
    settings = {"weight_decay": 0.1, "global_clipnorm": 1.0, "epsilon": 1e-8}
    schedule = {"peak": 0.05, "steps": 12, "warmup_steps": 3, "final": 1e-4}
    whole = weights_after(
        keras.optimizers.AdamW(WarmupCosine(**schedule), **settings),
        values,
        gradients.mean(axis=1),
    )
    parts = weights_after(
        keras.optimizers.AdamW(
            WarmupCosine(**schedule, accumulate=4), gradient_accumulation_steps=4, **settings
        ),
        values,
        gradients.reshape(48, 2, 5),
    )
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert np.abs(whole - values).max() > 0.05


def test_layerwise_adamw_is_adamw_at_each_layers_own_rate():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2, 5)).astype("float32")
    gradients = rng.standard_normal((3, 2, 5)).astype("float32")
    settings = {"weight_decay": 0.1, "epsilon": 1e-8}
    scaled = weights_after(
        LayerwiseAdamW({"a": 1.0, "b": 0.25}, learning_rate=0.01, **settings), values, gradients
    )
    for index, rate in enumerate((0.01, 0.0025)):
        alone = weights_after(
            keras.optimizers.AdamW(learning_rate=rate, **settings),
            values[index : index + 1],
            gradients[:, index : index + 1],
        )
        np.testing.assert_allclose(scaled[index], alone[0], atol=1e-6)
    assert np.abs(scaled[1] - values[1]).max() > 1e-3  # it did learn


@pytest.mark.parametrize("as_on_gpus", [False, True] if BACKEND == "torch" else [False])
@pytest.mark.parametrize("changes", [[], ["optimizer.layer_decay=0.9"]], ids=["plain", "layers"])
def test_updates_are_those_of_kerass_adamw(network, changes, as_on_gpus, monkeypatch):
    """And clipping and averages; a large epsilon shows where in the formula it stands."""
    if as_on_gpus:
        monkeypatch.setattr("keras_sepvit.training.torch_adamw._on_cpu", lambda tensors: False)
    changes = [*changes, "optimizer.epsilon=0.01", "optimizer.weight_decay=0.3", "epochs=3"]
    changes += ["optimizer.learning_rate=0.05", "optimizer.warmup_epochs=0"]
    recipe = load_recipe("digits", changes)
    optimizer = build_optimizer(recipe, network, steps_per_epoch=4)
    rng = np.random.default_rng(0)
    paths = ("stage1_block1/mlp/fc1/kernel", "stage2_block1/norm1/gamma", "head/kernel")
    chosen = [v for path in paths for v in network.trainable_variables if v.path == path]
    starts = [np.array(to_numpy(variable)) for variable in chosen]
    gradients = [[rng.standard_normal(x.shape).astype("float32") for x in starts] for _ in range(6)]
    gradients[3] = [1e-3 * x for x in gradients[3]]  # not clipped
    optimizer.build(chosen)
    averages = [0.0] * len(chosen)
    for step, gradient in enumerate(gradients):
        optimizer.apply([ops.convert_to_tensor(np.array(g)) for g in gradient], chosen)
        momentum = optimizer.ema_momentum if step else 0
        averages = [
            momentum * average + (1 - momentum) * to_numpy(variable)
            for average, variable in zip(averages, chosen, strict=True)
        ]
    kept = [to_numpy(average) for average in optimizer._model_variables_moving_average]
    for average, expected in zip(kept, averages, strict=True):
        np.testing.assert_allclose(average, expected, atol=1e-6)
    scales = getattr(optimizer, "scales", dict.fromkeys(paths, 1.0))
    beta_2 = recipe.optimizer.beta_2
    clipped = [
        [g * min(1, 1 / np.sqrt(sum(np.sum(x**2) for x in step))) for g in step]
        for step in gradients
    ]
    for index, (path, start, variable) in enumerate(zip(paths, starts, chosen, strict=True)):
        rate = build_schedule(recipe, 4)
        rates = [float(rate(step)) * scales[path] for step in range(len(clipped))]
        decay = 0.0 if "gamma" in path else 0.3
        expected = adamw(start, [step[index] for step in clipped], rates, decay, 0.01, beta_2)
        np.testing.assert_allclose(to_numpy(variable), expected, atol=2e-6)
        assert np.abs(expected - start).max() > 1e-3
    broken = [np.full_like(x, np.inf) if i == 1 else x for i, x in enumerate(gradients[0])]
    optimizer.apply([ops.convert_to_tensor(g) for g in broken], chosen)
    assert all(np.isnan(to_numpy(variable)).all() for variable in chosen)
    for variable, start in zip(chosen, starts, strict=True):
        variable.assign(start)


def adamw(value, gradients, rates, decay, epsilon, beta_2, beta_1=0.9):
    """Keras's AdamW (arXiv 1711.05101), in float64."""
    value, momentum, velocity = value.astype("float64"), 0.0, 0.0
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        value = value * (1 - rate * decay)
        momentum = beta_1 * momentum + (1 - beta_1) * gradient
        velocity = beta_2 * velocity + (1 - beta_2) * gradient.astype("float64") ** 2
        correction = math.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        value = value - rate * correction * momentum / (np.sqrt(velocity) + epsilon)
    return value
