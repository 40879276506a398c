"""Products of matrices on torch, in the form that the processor computes fastest."""

import functools
import math
import time

from keras_sepvit.functional.eager import is_eager_inference_on_cpu


def torch_product(x):
    """The fastest of the forms below for a matrix x. oneDNN's is for inference on CPUs alone.

    They are functions of x (rows, channels), kernel (channels, units), bias (units,), and whether
    GELU follows.

    Graphs that torch captures keep plain operators, which it fuses itself, and exporters know.
    """
    import torch

    if (
        not is_eager_inference_on_cpu(x)
        or x.dtype not in (torch.float32, torch.bfloat16)
        or torch.is_autocast_enabled("cpu")
        or torch.are_deterministic_algorithms_enabled()  # another process might choose otherwise
        or type(x) is not torch.Tensor
        or torch._C._len_torch_dispatch_stack()  # something counts or replaces operators
    ):
        return plain_product
    rows = 1 << min(max(len(x), 1).bit_length() - 1, 10)
    return fastest_product(rows, x.dtype, torch.get_num_threads())


def plain_product(x, kernel, bias, gelu=False):
    import torch

    y = torch.addmm(bias, x, kernel)
    return torch.nn.functional.gelu(y) if gelu else y


def inference_product(x, kernel, bias, gelu=False):
    """The same without a second tensor for GELU: large ones are given back to the system, and
    mapped anew at each call."""
    import torch

    y = torch.addmm(bias, x, kernel)
    return torch.ops.aten.gelu_(y) if gelu else y


def onednn_product(x, kernel, bias, gelu=False):
    import torch

    # The operator that torch's compiler emits. It takes the kernel as (units, channels), and
    # copies it into an order of its own.
    activation = ("gelu", [], "none") if gelu else ("none", [], "")
    return torch.ops.mkldnn._linear_pointwise(x, kernel.t(), bias, *activation)


@functools.cache
def fastest_product(rows, dtype, threads):
    """Measured on this processor, in up to 50 ms: torch's own products (MKL), or oneDNN's.

    oneDNN's were twice as fast on an AMD processor with AVX-512, and slower on one without and on
    Intel's. They must be faster by a quarter: on the one without they sometimes are by a tenth
    here, and never in a network, whose kernels come from memory and not from a cache.
    """
    import torch

    if not torch.backends.mkldnn.is_available():
        return inference_product
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return inference_product
    tensors = [torch.ones(shape, dtype=dtype) for shape in ((rows, 384), (384, 384), (384,))]
    seconds = {inference_product: math.inf, onednn_product: math.inf}
    for _ in range(6):  # the first of each is slower
        for product, least in seconds.items():
            start = time.perf_counter()
            product(*tensors)
            seconds[product] = min(least, time.perf_counter() - start)
    faster = seconds[onednn_product] < 0.8 * seconds[inference_product]
    return onednn_product if faster else inference_product
