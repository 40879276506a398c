"""How PyTorch runs models: eagerly, by `torch.compile`, or by that of an exported program.

Keras's calls of layers break up the graph that `torch.compile` sees, and recompile the
same functions for each layer; `torch.export` leaves them behind.
"""

import contextlib

import torch
from torch._dynamo.utils import counters

from keras_sepvit.benchmark.optimizers import LEARNING_RATE, WEIGHT_DECAY


def prepare(device, threads):
    """Chooses the number of threads; must come first.

    Raises:
        ValueError: if there is no GPU and one is asked for.
    """
    if device == "gpu" and not torch.cuda.is_available():
        raise ValueError("--device gpu: PyTorch finds no GPU.")
    if threads is not None:
        torch.set_num_threads(threads)
    # Beyond the limit, parts would silently run eagerly, and more of them in later models.
    torch._dynamo.config.fail_on_recompile_limit_hit = True


def facts():
    """What the numbers depend on: device, and how float32 products are computed."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"gpu": gpu, "tf32": bool(gpu) and torch.get_float32_matmul_precision() != "highest"}


def forward(model, images, precision, mode):
    """A function that runs the model once and returns its output when that is there."""
    batch = _tensor(images).to(getattr(torch, precision))
    function = _logits_function(model, training=False)
    if mode == "export":
        function = _exported(model, function, batch)
    if mode != "eager":
        function = torch.compile(function)

    def run():
        with torch.inference_mode():
            output = function(batch)
        _wait()
        return output

    return run


def training_step(model, images, labels, precision, mode):
    """A function that trains the model by a step and returns the loss when that is done."""
    batch, targets = _tensor(images), _tensor(labels).long()
    function = _logits_function(model, training=True)
    if mode == "compile":
        function = torch.compile(function)
    weights = _trainable_tensors(model)
    optimizer = torch.optim.AdamW(weights, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    scaler = torch.amp.GradScaler(batch.device.type, enabled=precision == "float16")
    # Keras models compute in the precision of their policy by themselves.
    casting = contextlib.nullcontext()
    if precision != "float32" and not hasattr(model, "trainable_variables"):
        casting = torch.autocast(batch.device.type, getattr(torch, precision))

    def run():
        with casting:
            logits = function(batch)
        loss = torch.nn.functional.cross_entropy(logits.float(), targets)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        _wait()
        return loss.detach()

    return run


def _trainable_tensors(model):
    if hasattr(model, "trainable_variables"):  # Keras models may not list them as parameters
        return [variable.value for variable in model.trainable_variables]
    return [weight for weight in model.parameters() if weight.requires_grad]


def product(left, right, precision):
    """A function that multiplies two matrices and returns when that is done."""
    left, right = (_tensor(matrix).to(getattr(torch, precision)) for matrix in (left, right))

    def run():
        with torch.inference_mode():
            left @ right
        _wait()

    return run


def to_numpy(output):
    """An output as a float32 array."""
    return output.float().cpu().numpy()


def peak_device_memory():
    """Bytes of the GPU's memory that tensors took at most; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.max_memory_allocated()


def compilation_note():
    """What broke the graphs compiled since the last call, in words; None if nothing did."""
    breaks = dict(counters["graph_break"])
    counters.clear()
    if not breaks:
        return None
    (reason, _), *_ = sorted(breaks.items(), key=lambda item: -item[1])
    return f"{sum(breaks.values())} graph breaks: {' '.join(reason.split())[:160]}"


def _tensor(array):
    tensor = torch.from_numpy(array)
    return tensor.cuda() if torch.cuda.is_available() else tensor


def _wait():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _logits_function(model, training):
    if hasattr(model, "trainable_variables"):  # of Keras
        return lambda batch: model(batch, training=training)
    if torch.cuda.is_available():
        model.cuda()
    model.train(training)
    return lambda batch: model(batch).logits


def _exported(model, function, batch):
    """The operators that a model's function of a batch runs, without the code that calls them."""

    class Program(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model  # so that its weights are the program's

        def forward(self, batch):
            return function(batch)

    with torch.no_grad():
        return torch.export.export(Program(), (batch,)).module()
