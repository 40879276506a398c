"""The trainer's step, as `Trainer` makes it, on a batch that lies on the device, and from tf.data.

The network trains by the recipe `imagenet_t`: uint8 images, random erasing, mixup, CutMix,
AdamW with clipping, drop path.
"""

import functools
import itertools
import tempfile
import time

import keras
import numpy as np
import trainer_step

from gpu_parts import peers_of_torch
from gpu_parts.building import on_host, to_device
from gpu_parts.syncs import count_syncs
from keras_sepvit import SepViT
from keras_sepvit.classification.mixing import BatchAugmentation
from keras_sepvit.policy import dtype_policy
from keras_sepvit.recipes import RECIPES
from keras_sepvit.training import device

CLASSES = 1000
WARM_UP_STEPS = 3
STEPS_PER_EPOCH = 1000


def run(job, sizes, rows):
    first, *others = sizes.train_batches
    runs = [(precision, first) for precision in sizes.train_precisions]
    runs += [(sizes.train_precisions[0], batch_size) for batch_size in others]
    for precision, batch_size in runs:
        what = {
            "backend": job["backend"],
            "what": "training",
            "precision": precision,
            "batch": batch_size,
        }

        made = {}

        def ours(precision=precision, batch_size=batch_size, made=made):
            return on_device(made, sizes, precision, batch_size)

        what |= {"network": sizes.main, "data": "on the device"}
        rows.add(what, ours)
        if job["backend"] == "torch" and made:
            step = functools.partial(made["model"].train_step, made["batch"])
            rows.add({**what, "what": "training, a step"}, functools.partial(one_step, step))
        made.clear()
        if (precision, batch_size) != runs[0]:
            continue

        def from_tf_data(precision=precision, batch_size=batch_size):
            return through_tf_data(sizes, precision, batch_size)

        rows.add({**what, "data": "tf.data"}, from_tf_data)
        for name in peers_of_torch.NAMES if job["backend"] == "torch" else ():

            def theirs(name=name, batch_size=batch_size):
                return peer_steps(name, sizes, batch_size)

            rows.add({**what, "network": name}, theirs)


def on_device(made, sizes, precision, batch_size):
    """Trains on one batch that stays on the device; leaves the model and the batch in `made`."""
    model = training_model(sizes, precision, batch_size)
    batch = keras.tree.map_structure(keras.ops.convert_to_tensor, random_batch(sizes, batch_size))
    made |= {"model": model, "batch": batch}
    return fit_steps(model, lambda: ((batch,) for _ in itertools.count()), sizes.steps, batch_size)


def random_batch(sizes, batch_size):
    """Images and labels, a quarter of the images erased, mixup in one half, CutMix in the other."""
    rng = np.random.default_rng(0)
    side = sizes.image_size
    second = np.arange(batch_size) >= batch_size // 2
    box = np.array([0, 0, side // 2, side // 2], "float32")
    return {
        "image": rng.integers(0, 256, (batch_size, side, side, 3), dtype="uint8"),
        "label": rng.integers(0, CLASSES, batch_size).astype("int32"),
        "erased": box * (np.arange(batch_size) % 4 == 0)[:, None].astype("float32"),
        "kept": np.where(second, 1.0, 0.7).astype("float32"),
        "box": box * second[:, None].astype("float32"),
    }


def one_step(step):
    """What a step of torch does: how often it waits for the GPU, and the GPU's kernels."""
    return {**count_syncs(step)[1], **kernels(step)}


def training_model(sizes, precision, batch_size):
    """The model that `Trainer` would train by the recipe, without its data."""
    recipe = RECIPES["imagenet_t"]
    keras.utils.set_random_seed(recipe.seed)
    with on_host():
        with dtype_policy(precision):
            network = SepViT(
                sizes.networks[sizes.main],
                input_shape=(sizes.image_size, sizes.image_size, 3),
                classes=CLASSES,
                classifier_activation=None,
            )
        augmentation = BatchAugmentation(
            CLASSES, recipe.augmentation.label_smoothing, group=batch_size, seed=recipe.seed
        )
        model = trainer_step.training_model(recipe, network, augmentation, STEPS_PER_EPOCH)
    to_device([*model.variables, *model.optimizer.variables])
    return model


def through_tf_data(sizes, precision, batch_size):
    """The same by `Trainer`, from uint8 images in memory through its pipeline.

    Raises:
        ImportError: without TensorFlow.
    """
    try:
        from keras_sepvit.classification import task
        from keras_sepvit.training import Trainer, load_recipe
        from keras_sepvit.training.sources.source import ArraySource
    except ImportError as error:
        raise ImportError("TensorFlow is not installed") from error
    rng = np.random.default_rng(0)
    shape = (2 * batch_size, sizes.image_size, sizes.image_size, 3)
    pixels = rng.integers(0, 256, shape, dtype="uint8")
    labels = rng.integers(0, CLASSES, len(pixels))
    source = ArraySource("generated", "train", pixels, labels, classes=CLASSES)
    task.open_splits = lambda *arguments: (source, None)
    variant = sizes.networks[sizes.main]
    if not isinstance(variant, str):  # recipes know names alone
        task.DIGITS_CONFIG, variant = variant, task.DIGITS_VARIANT
    recipe = load_recipe(
        "imagenet_t",
        [
            "data.name=generated",
            f"model.variant={variant}",
            "data.validation_split=null",
            f"model.image_size={sizes.image_size}",
            f"batch_size={batch_size}",
            f"precision={precision}",
            "distribution=none",
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(recipe, folder)
        data = trainer.training_data(0, 0)
        return fit_steps(trainer.model, lambda: data, sizes.steps, batch_size)


def fit_steps(model, data, steps, batch_size):
    """Trains by `fit`, and times it after the first steps, which compile."""
    start = time.perf_counter()
    model.fit(data(), steps_per_epoch=WARM_UP_STEPS, verbose=0, shuffle=False)
    first = time.perf_counter() - start
    start = time.perf_counter()
    history = model.fit(data(), steps_per_epoch=steps, verbose=0, shuffle=False).history
    wait_for_device()
    seconds = time.perf_counter() - start
    loss = history["loss"][-1]
    return {
        "first_steps_seconds": first,
        "steps": steps,
        "ms": {"p50": 1e3 * seconds / steps},
        "images_per_second": batch_size * steps / seconds,
        "loss": loss,
        "finite": bool(np.isfinite(loss)),
        **peak_memory(),
    }


def peak_memory():
    """The most bytes of the GPU; JAX and TensorFlow count from the process's start."""
    memory = device.peak_memory()
    return {} if "process" in memory else {"peak_bytes": max(memory.values())}


def wait_for_device():
    if keras.config.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


def peer_steps(name, sizes, batch_size):
    """Steps of AdamW of another network, in bfloat16 by autocast, without augmentation."""
    import torch

    module = peers_of_torch.build(name, sizes, "float32").train()
    forward = peers_of_torch.logits(name, module)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-4, weight_decay=0.05)
    kind = next(module.parameters()).device.type
    images = torch.randn(batch_size, 3, sizes.image_size, sizes.image_size, device=kind)
    labels = torch.randint(0, CLASSES, (batch_size,), device=kind)

    def step():
        with torch.autocast(kind, torch.bfloat16):
            logits = forward(images)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        return loss

    for _ in range(WARM_UP_STEPS):
        step()
    wait_for_device()
    start = time.perf_counter()
    for _ in range(sizes.steps):
        loss = step()
    wait_for_device()
    seconds = time.perf_counter() - start
    return {
        "steps": sizes.steps,
        "ms": {"p50": 1e3 * seconds / sizes.steps},
        "images_per_second": batch_size * sizes.steps / seconds,
        "finite": bool(torch.isfinite(loss)),
        **peak_memory(),
    }


def kernels(step, steps=3):
    """The GPU's kernels in a step of torch, and the time in them."""
    import torch

    if not torch.cuda.is_available():
        return {}
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    milliseconds = sum(event.self_device_time_total for event in events) / 1e3
    return {"kernels": round(len(events) / steps), "kernel_ms": milliseconds / steps}
