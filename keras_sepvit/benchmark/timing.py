"""Times functions in turns, and the machine's matrix products between them."""

import math
import time

import numpy as np

# A turn lasts at least this long, in calls: one call of a few milliseconds says little.
TURN_SECONDS = 0.25
MOST_CALLS = 50

# (rows, inner, columns) of products: those of SepViT-T's layers at 224 x 224 and batch 16 (64
# on a GPU), and square ones, which reach a machine's highest rate.
CPU_PRODUCTS = ((3136, 384, 1536), (12544, 192, 768), (50176, 96, 384), (2048, 2048, 2048))
GPU_PRODUCTS = ((50176, 192, 768), (200704, 96, 384), (4096, 4096, 4096), (8192, 8192, 8192))

# Where products are this slow (float16 on many CPUs), the smallest one has to do.
LONGEST_PRODUCT_SECONDS = 1


def call_milliseconds(function):
    """Milliseconds of one call of a function that returns when its work is done."""
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def calls_of_a_turn(milliseconds):
    """How many calls make a turn, for a function whose call takes so long."""
    return min(MOST_CALLS, max(1, math.ceil(1e3 * TURN_SECONDS / milliseconds)))


def time_in_turns(functions, rounds, between=None):
    """Times functions in turns, every other round in reverse order.

    Args:
        functions: By name; each returns when its work is done, and has been called before.
        rounds: How often each has its turn.
        between: Called once in each round, without being timed.

    Returns:
        By name, a list for each round, of milliseconds by call.
    """
    calls = {
        name: calls_of_a_turn(call_milliseconds(function)) for name, function in functions.items()
    }
    turns = {name: [] for name in functions}
    order = list(functions)
    for _ in range(rounds):
        if between is not None:
            between()
        for name in order:
            turns[name].append([call_milliseconds(functions[name]) for _ in range(calls[name])])
        order.reverse()
    return turns


class ProductRate:
    """The rate of matrix products in one precision: what a machine can do at most.

    Args:
        backend: The backend's module, with `product`.
        precision: `"float32"`, `"bfloat16"` or `"float16"`.
        shapes: (rows, inner, columns) of the products, small ones first; the fastest counts.
    """

    def __init__(self, backend, precision, shapes):
        rng = np.random.default_rng(0)
        self._products = []
        for rows, inner, columns in shapes:
            left = rng.standard_normal((rows, inner), "float32")
            right = rng.standard_normal((inner, columns), "float32")
            function = backend.product(left, right, precision)
            function()
            self._products.append((2e-6 * rows * inner * columns, function))
            if call_milliseconds(function) > 1e3 * LONGEST_PRODUCT_SECONDS:
                break
        self.gflops = []

    def measure(self):
        """Adds the rate of now, in GFLOP/s, to `gflops`."""
        self.gflops.append(
            max(mflops / call_milliseconds(function) for mflops, function in self._products)
        )
