"""Images a second of inference, by network, precision, batch size and mode.

Beside them the rate of a large matrix product in bfloat16, of which each program's arithmetic
is a share.
"""

import concurrent.futures
import functools
import time

import keras
import numpy as np

from gpu_parts import peers_of_torch
from gpu_parts.building import on_host, to_device
from keras_sepvit import SepViT
from keras_sepvit.benchmark import programs
from keras_sepvit.benchmark.timing import latency, time_in_turns
from keras_sepvit.benchmark.worker import warm_up
from keras_sepvit.policy import dtype_policy

ROUNDS = 3
# Modes that compile little, so that all networks and sizes can be measured.
PLAIN = ("eager", "graph")

# Programs that XLA compiles at a time.
COMPILING = 4


def run(job, sizes, rows):
    rows.add({"backend": job["backend"], "what": "product"}, lambda: product(sizes.product))
    if job["mode"] in PLAIN:
        uncompiled(job, sizes, rows)
    elif job["backend"] == "jax":
        compiled_by_jax(job, sizes, rows)
    else:
        compiled(job, sizes, rows)


def product(size):
    """The rate of a bfloat16 product of two random square matrices, in TFLOP/s."""
    rng = np.random.default_rng(0)
    left, right = (
        keras.ops.convert_to_tensor(rng.standard_normal((size, size), "float32"), "bfloat16")
        for _ in range(2)
    )
    multiply = keras.ops.matmul
    if keras.config.backend() == "jax":
        import jax

        multiply = jax.jit(multiply)
    calls = 10

    def some_products():
        for _ in range(calls):
            outputs = multiply(left, right)
        return programs.waited(outputs)

    some_products()
    milliseconds = latency(time_in_turns({"": some_products}, ROUNDS)[""])["p50"] / calls
    return {"ms": milliseconds, "tflops": 2e-9 * size**3 / milliseconds, "size": size}


def uncompiled(job, sizes, rows):
    """Models built once in each precision, at all batch sizes."""
    for precision in sizes.precisions:
        for name in names(job, sizes):
            made = {}
            for batch_size in sizes.batches:
                measure = functools.partial(
                    measure_uncompiled, made, name, precision, batch_size, job, sizes
                )
                rows.add(row(job, name, precision, batch_size), measure)
            made.clear()


def measure_uncompiled(made, name, precision, batch_size, job, sizes):
    if "model" not in made:
        made["model"] = build(name, precision, sizes)
    return timed(program(made["model"], name, precision, batch_size, job, sizes), batch_size)


def compiled(job, sizes, rows):
    """The programs of `order`, each of a model of its own, compiled as it comes."""
    for name, precision, batch_size in order(job, sizes):

        def measure(name=name, precision=precision, batch_size=batch_size):
            if job["backend"] == "torch":
                import torch

                torch._dynamo.reset()
            model = build(name, precision, sizes)
            return timed(program(model, name, precision, batch_size, job, sizes), batch_size)

        rows.add(row(job, name, precision, batch_size), measure)


def compiled_by_jax(job, sizes, rows):
    """The programs of `order`, some compiled at a time, then timed when all of them are there."""
    models = {}
    with concurrent.futures.ThreadPoolExecutor(COMPILING) as pool:
        programs = list(order(job, sizes))
        for start in range(0, len(programs), COMPILING):
            found = []
            for name, precision, batch_size in programs[start : start + COMPILING]:
                what = row(job, name, precision, batch_size)
                if rows.seconds_left() < 0:
                    rows.add(what, None)
                    continue
                if (name, precision) not in models:
                    models[name, precision] = build(name, precision, sizes)
                batch = images(name, precision, batch_size, sizes)
                arguments, lowered = lower(models[name, precision], batch)
                found.append((what, arguments, pool.submit(compile_program, lowered)))
            concurrent.futures.wait([compiling for _, _, compiling in found])
            for what, arguments, compiling in found:
                measure = functools.partial(measure_compiled, compiling, arguments)
                rows.add(what, measure, begun=True)


def lower(model, batch):
    """The arguments of a model's program, and the program before it is compiled."""
    import jax

    state = [
        [variable.value for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]
    arguments = state, batch
    function = jax.jit(lambda state, x: model.stateless_call(*state, x, training=False)[0])
    return arguments, function.lower(*arguments)


def compile_program(lowered):
    start = time.perf_counter()
    return lowered.compile(), time.perf_counter() - start


def measure_compiled(compiling, arguments):
    import jax

    executable, seconds = compiling.result()
    memory = executable.memory_analysis()
    parts = (memory.temp_size_in_bytes, memory.argument_size_in_bytes, memory.output_size_in_bytes)
    found = timed(lambda: jax.block_until_ready(executable(*arguments)), len(arguments[1]))
    return {**found, "peak_bytes": sum(parts), "first_call_seconds": seconds}


def order(job, sizes):
    """(network, precision, batch size) of what is compiled, the most telling first.

    Time may be out before the last.
    """
    others = [name for name in names(job, sizes) if name != sizes.main]
    peers = [name for name in others if name not in sizes.timed]
    first, *batches = sizes.batches
    for precision in sizes.precisions:
        for name in (sizes.main, *peers):
            yield name, precision, first
        for batch_size in batches:
            yield sizes.main, precision, batch_size
        for name in others:
            if name not in peers:
                for batch_size in sizes.compiled_batches:
                    yield name, precision, batch_size


def names(job, sizes):
    return [*sizes.timed, *(peers_of_torch.NAMES if job["backend"] == "torch" else ())]


def row(job, name, precision, batch_size):
    return {
        "backend": job["backend"],
        "what": "inference",
        "network": name,
        "precision": precision,
        "batch": batch_size,
        "mode": job["mode"],
    }


def build(name, precision, sizes):
    """A classifier with logits, wholly in one precision."""
    keras.utils.set_random_seed(0)
    if name in peers_of_torch.NAMES:
        return peers_of_torch.build(name, sizes, precision)
    with on_host(), dtype_policy(precision):
        model = SepViT(
            sizes.networks[name],
            include_preprocessing=False,
            input_shape=(sizes.image_size, sizes.image_size, 3),
            classifier_activation=None,
        )
    to_device(model.variables)
    return model


def images(name, precision, batch_size, sizes):
    shape = (batch_size, sizes.image_size, sizes.image_size, 3)
    pixels = np.random.default_rng(0).standard_normal(shape, "float32")
    if name in peers_of_torch.NAMES:
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return keras.ops.convert_to_tensor(pixels, precision)


def program(model, name, precision, batch_size, job, sizes):
    """A function that runs a model on a batch and returns when its output is there."""
    batch = images(name, precision, batch_size, sizes)
    mode = job["mode"]
    if name in peers_of_torch.NAMES:
        mode = "compile" if mode == "compiled" else mode
        return programs.torch_forward(model, peers_of_torch.logits(name, model), batch, mode)
    # Keras's calls of layers break the graph of `torch.compile`: it compiles an exported one.
    return programs.forward(model, batch, "export" if mode == "compiled" else mode)


def timed(call, batch_size):
    """Times of a function's calls; the first, which may compile, is told apart."""
    first = warm_up(call, "inference")
    turns = time_in_turns({"": call}, ROUNDS)[""]
    found = latency(turns)
    return {
        "first_call_seconds": first,
        "ms": found,
        "images_per_second": 1e3 * batch_size / found["turn"]["median"],
        **peak_memory(),
    }


def peak_memory():
    """The most bytes of a GPU since the count began; JAX's programs tell theirs themselves."""
    if keras.config.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            return {"peak_bytes": torch.cuda.max_memory_allocated()}
    return {}
