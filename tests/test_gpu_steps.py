"""Training steps as GPUs run them, without a GPU.

What differs there: TensorFlow's step is compiled by XLA, JAX's is lowered for CUDA, and
torch's kernels take operands of one dtype on one device, and wait for no number.
"""

import contextlib
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import BACKEND, SMALL

from keras_sepvit import SepViT
from keras_sepvit.classification import BatchAugmentation, Classification
from keras_sepvit.classification.mixing import draw_erasing, draw_mixing
from keras_sepvit.recipes import RECIPES
from keras_sepvit.training.model import TrainingModel
from keras_sepvit.training.optimizer import build_optimizer

CLASSES = 10
BATCH = 4

# Set in the process that has torch's stand-in for an accelerator.
OWN_PROCESS = "KERAS_SEPVIT_TEST_OWN_PROCESS"

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")

# On torch also with residuals in a dtype of their own.
STEPS = (*((policy, False) for policy in POLICIES), ("mixed_bfloat16", True))

# Recipes that differ in more than the network's size.
DIFFERENT = ("imagenet_t", "finetune", "frozen_backbone")


def training_model(
    name, policy="float32", scaled=True, residual_in_fp32=False, **compile_arguments
):
    """The model that a recipe trains, with a small network, compiled."""
    recipe = RECIPES[name]
    network = SepViT(
        SMALL,
        classes=CLASSES,
        classifier_activation=None,
        drop_path_rate=0.1,
        dtype=policy,
        residual_in_fp32=residual_in_fp32,
    )
    if recipe.model.frozen_backbone:
        for layer in network.layers:
            layer.trainable = layer.name == "head"
    smoothing = recipe.augmentation.label_smoothing
    augmentation = BatchAugmentation(CLASSES, smoothing, group=BATCH, seed=0)
    model = TrainingModel(network, Classification(recipe), augmentation)
    optimizer = build_optimizer(recipe, network, steps_per_epoch=10)
    if policy == "mixed_float16" and scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer=optimizer, **compile_arguments)
    optimizer.build(model.trainable_variables)
    return model


def batch(name="imagenet_t"):
    """A batch of a recipe with what is drawn beforehand."""
    size = (SMALL.image_size,) * 2
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *size, 3), dtype="uint8")
    settings = RECIPES[name].augmentation
    draws = {}
    if settings.erase_rate:
        draws["erased"] = draw_erasing((0, 0), BATCH, size, settings.erase_rate)
    if settings.mixup:
        draws |= draw_mixing((0, 1), BATCH, size, BATCH, settings.mixup, settings.cutmix, 0.5)
    draws = {key: value.numpy() for key, value in draws.items()}
    return {"image": images, "label": np.arange(BATCH, dtype="int32"), **draws}


@pytest.mark.thorough
@pytest.mark.skipif(BACKEND != "tensorflow", reason="XLA compiles this step on TensorFlow's GPUs")
@pytest.mark.parametrize("name", DIFFERENT)
def test_xla_compiles_the_step_of_every_recipe(name):
    model = training_model(name, jit_compile=True)
    before = [keras.ops.convert_to_numpy(weight) for weight in model.trainable_variables]
    loss = model.train_on_batch(batch(name), return_dict=True)["loss"]
    assert np.isfinite(loss)
    after = [keras.ops.convert_to_numpy(weight) for weight in model.trainable_variables]
    assert any((x != y).any() for x, y in zip(before, after, strict=True))


@pytest.mark.skipif(BACKEND != "jax", reason="lowering for other platforms is JAX's")
@pytest.mark.parametrize("policy", POLICIES)
def test_jax_lowers_the_step_for_cuda(policy):
    import jax

    model = training_model("imagenet_t", policy)
    state = [
        [variable.value for variable in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    ]
    step = jax.jit(model.train_step).trace(tuple(state), batch())
    lowered = step.lower(lowering_platforms=("cuda",))
    assert "stablehlo.dot_general" in lowered.as_text()


@pytest.mark.skipif(BACKEND != "torch" or OWN_PROCESS in os.environ, reason="torch's kernels")
def test_torch_steps_in_a_process_of_their_own():
    """torch takes a new kind of device only before a process's first backward pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    result = subprocess.run(
        [*command, "-k", "on_an_accelerator"],
        env={**os.environ, OWN_PROCESS: "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert f"{len(STEPS)} passed" in result.stdout


@pytest.mark.skipif(OWN_PROCESS not in os.environ, reason="runs in a process of its own")
@pytest.mark.parametrize("policy, residual_in_fp32", STEPS)
def test_torch_steps_on_an_accelerator(policy, residual_in_fp32, monkeypatch):
    """Every operand on the device, products and norms in one dtype, no number fetched.

    Without loss scaling, which fetches one in Keras's own optimiser.
    """
    import torch

    with accelerator(monkeypatch) as (operations, copies):
        model = training_model(
            "imagenet_t", policy, scaled=False, residual_in_fp32=residual_in_fp32
        )
        inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, batch())
        copies.clear()
        model.network(inputs["image"], training=True)
        # One of Keras's normalisation of pixels; the rates and the seed of all drop paths.
        assert len(copies) <= 3, copies
        operations.clear()
        logs = model.train_step(inputs)
    assert logs["loss"].device == torch.device(ACCELERATOR)
    half = getattr(torch, policy.removeprefix("mixed_"))
    seen = {}
    for operation, dtypes in operations:
        assert len(dtypes) == 1, f"{operation} of {', '.join(map(str, dtypes))}"
        seen.setdefault(operation, set()).update(dtypes)
    for operation in ("native_layer_norm", "addmm", "mm", "convolution"):
        assert half in seen[operation]


# A device that torch has no kernels for, and Keras takes for one of its own.
ACCELERATOR = "pretended:0"

# Operators whose kernels want operands of one dtype on GPUs.
ONE_DTYPE = ("mm", "addmm", "bmm", "baddbmm", "convolution", "layer_norm")


@contextlib.contextmanager
def accelerator(monkeypatch):
    """Keras computes inside on a device that exists by name, with tensors without values.

    Fetching a number, and mixing devices, are errors. Yields the list of the operators of
    `ONE_DTYPE` that ran, each with the set of its operands' floating-point dtypes, and the list
    of what the host would wait for: numbers of Python and NumPy that were copied to the device,
    and seeds of draws.
    """
    import torch
    from keras.src.backend.torch import random
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class OnDevice(TorchFunctionMode):
        """Makes tensors of Python's and NumPy's numbers, which fake tensors copy to no device."""

        def __torch_function__(self, function, types, args=(), kwargs=None):
            kwargs = dict(kwargs or {})
            if function in (torch.as_tensor, torch.tensor) and "device" in kwargs:
                device = kwargs.pop("device")
                x = function(*args, **kwargs)
                copies.append(args[0])
                return torch.empty(x.shape, dtype=x.dtype, device=device)
            return function(*args, **kwargs)

    operations, copies = [], []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = function.overloadpacket.__name__
            # Backward, statistics are float32.
            if any(part in name for part in ONE_DTYPE) and "backward" not in name:
                tensors = [x for x in torch.utils._pytree.tree_leaves(args) if is_float(x)]
                operations.append((name, {x.dtype for x in tensors}))
            return function(*args, **(kwargs or {}))

    def is_float(x):
        return isinstance(x, torch.Tensor) and x.is_floating_point()

    register_accelerator()
    # Keras reads a seed as a number for each draw; torch's own state of the draws does here.
    monkeypatch.setattr(random, "torch_seed_generator", copies.append)
    with FakeTensorMode(), OnDevice(), Recorder(), keras.device(ACCELERATOR):
        yield operations, copies


def register_accelerator():
    import torch
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    if not hasattr(torch, "accelerator_for_tests"):
        _setup_privateuseone_for_python_backend(ACCELERATOR.partition(":")[0])
        torch.accelerator_for_tests = True
