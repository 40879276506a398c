"""The numbers: outputs and a training step in each precision, to compare with a CPU's.

Outputs and gradients go into `.npz` files; `comparison` compares those of all backends with
the files of the reference, float32 on the CPU.
"""

import time

import keras
import numpy as np

from gpu_parts.building import on_host, to_device
from gpu_parts.comparison import gradients_path, result_path
from gpu_parts.syncs import count_syncs
from keras_sepvit import SepViT, SepViTBackbone
from keras_sepvit.benchmark import programs
from keras_sepvit.policy import dtype_policy

# The plainest way in which each backend runs a model.
MODE = {"tensorflow": "graph", "jax": "xla", "torch": "eager"}

# A gradient of each weight is compared at so many of its numbers at most.
GRADIENT_NUMBERS = 4096

# So large that a weight's own rounding does not count in its change by a step.
LEARNING_RATE = 1e4

# Loss scaling starts at 2 ** 15, and halves the scale where gradients overflow.
MOST_SKIPPED = 16

DENSE = "dense"


def run(job, sizes, rows):
    networks = list(sizes.networks)
    networks.insert(networks.index(sizes.main) + 1, DENSE)
    for name in networks:
        for precision in job["precisions"]:
            what = {"backend": job["backend"], "network": name, "precision": precision}
            path = result_path(job["folder"], job["name"], name, precision)
            made = {}

            def forward(name=name, precision=precision, path=path, made=made):
                start = time.perf_counter()
                made["model"], made["levels"] = build(name, sizes, precision)
                seconds = time.perf_counter() - start
                found = save_outputs(path, made["levels"], images(name, sizes), job["backend"])
                return {"build_seconds": round(seconds, 2), **found}

            rows.add({**what, "what": "forward"}, forward)
            if "model" in made:
                step = lambda path=path, made=made: save_step(path, made["model"])  # noqa: E731
                rows.add({**what, "what": "training step"}, step)
            made.clear()


def build(name, sizes, precision):
    """A classifier, and the model of its outputs to compare: the same, or the pyramid's levels.

    Without drop path, so that a step is the same everywhere; of the dense form's, the logits
    are the means of its levels.
    """
    with on_host(), dtype_policy(precision):
        if name != DENSE:
            shape = (sizes.image_size, sizes.image_size, 3)
            model = SepViT(
                sizes.networks[name],
                include_preprocessing=False,
                input_shape=shape,
                classifier_activation=None,
                drop_path_rate=0.0,
            )
            levels = keras.Model(model.input, {"logits": model.output})
        else:
            backbone = SepViTBackbone.from_variant(
                sizes.networks[sizes.main],
                dense=True,
                image_shape=(*sizes.dense_size, 3),
                drop_path_rate=0.0,
            )
            levels = keras.Model(backbone.input, backbone.pyramid_outputs)
            means = [
                keras.layers.GlobalAveragePooling2D(dtype="float32")(level)
                for level in backbone.pyramid_outputs.values()
            ]
            model = keras.Model(backbone.input, keras.layers.Concatenate(dtype="float32")(means))
    to_device(model.variables)
    set_seeded_weights(model)
    return model, levels


def set_seeded_weights(model):
    """Gives weights values that depend on the seed and their shapes alone.

    They are larger than the initial ones, so that each layer shows in the outputs.
    """
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        values = rng.standard_normal(weight.shape, "float32")
        last = weight.path.rpartition("/")[2]
        if last == "gamma":
            values = 1 + 0.1 * values
        elif last in ("kernel", "depthwise_kernel"):
            depthwise = last != "kernel" or weight.shape[-1] == 1
            inputs = np.prod(weight.shape[: 2 if depthwise else -1])
            values = values / np.sqrt(inputs)
        else:
            values = 0.1 * values
        weight.assign(values)


def images(name, sizes):
    size = sizes.dense_size if name == DENSE else (sizes.image_size,) * 2
    return np.random.default_rng(1).standard_normal((sizes.checked_batch, *size, 3), "float32")


def save_outputs(path, levels, batch, backend):
    batch = keras.ops.convert_to_tensor(batch, levels.compute_dtype)
    program = programs.forward(levels, batch, MODE[backend])
    outputs, syncs = count_syncs(program)
    outputs = {
        name: keras.ops.convert_to_numpy(keras.ops.cast(output, "float32"))
        for name, output in outputs.items()
    }
    np.savez(path, **outputs)
    finite = all(np.isfinite(output).all() for output in outputs.values())
    return {"finite": bool(finite), **syncs}


def save_step(path, model):
    """Keras's own step of plain gradient descent, whose gradients its change of weights shows."""
    with np.load(path) as outputs:
        batch = len(next(iter(outputs.values())))
    labels = np.arange(batch) % model.output.shape[-1]
    x = np.random.default_rng(1).standard_normal((batch, *model.input.shape[1:]), "float32")
    model.compile(
        keras.optimizers.SGD(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    before = sampled_weights(model)
    skipped = 0
    while True:
        loss = float(model.train_on_batch(x, labels, return_dict=True)["loss"])
        after = sampled_weights(model)
        if skipped == MOST_SKIPPED or any((after[key] != before[key]).any() for key in after):
            break
        skipped += 1
    gradients = {key: (before[key] - after[key]) / LEARNING_RATE for key in after}
    np.savez(gradients_path(path), **gradients)
    finite = all(np.isfinite(gradient).all() for gradient in gradients.values())
    return {"loss": loss, "finite": bool(finite), "updates_skipped": skipped}


def sampled_weights(model):
    """Numbers of each trainable weight, evenly spread, in float64."""
    sampled = {}
    for weight in model.trainable_variables:
        flat = keras.ops.convert_to_numpy(weight).reshape(-1)
        step = max(1, len(flat) // GRADIENT_NUMBERS)
        sampled[weight.path] = flat[::step][:GRADIENT_NUMBERS].astype("float64")
    return sampled
