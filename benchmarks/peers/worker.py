"""Measures networks of the catalogue on one backend: `python -m peers.worker`.

Besides times: parameters and multiply-accumulates (MACs) in the graph, the machine's rate of
matrix products in each round, and, of one network, the peak memory.
"""

import collections
import contextlib
import functools
import statistics

import numpy as np

from keras_sepvit.benchmark.machine import proc_fields
from keras_sepvit.benchmark.timing import call_milliseconds
from keras_sepvit.benchmark.worker import Refused, Worker, device, main, reason_of, warm_up
from keras_sepvit.configs import VARIANTS
from peers.build import build_model, check_parameters, count_parameters, import_library
from peers.catalogue import catalogue_model

# (rows, inner, columns) of products: those of SepViT-T's layers at 224 x 224 and batch 16 (64
# on a GPU), and square ones, which reach a machine's highest rate.
CPU_PRODUCTS = ((3136, 384, 1536), (12544, 192, 768), (50176, 96, 384), (2048, 2048, 2048))
GPU_PRODUCTS = ((50176, 192, 768), (200704, 96, 384), (4096, 4096, 4096), (8192, 8192, 8192))

# Where products are this slow (float16 on many CPUs), the smallest one has to do.
LONGEST_PRODUCT_SECONDS = 1

PROFILED_CALLS = 10


class PeerWorker(Worker):
    """Networks of the catalogue, those of Hugging Face included, where the backend is torch.

    Instead of times a job with `memory` asks for the peak of its only network, one with
    `operators` for the time in each operator of torch.
    """

    def __init__(self, job):
        names = [name for name in job["models"] if job["backend"] in catalogue_model(name).backends]
        super().__init__({**job, "models": names})
        self._rates = {}

    def measure(self):
        """Adds `models`, with `parameters` and `macs` or an `error`, to what was timed.

        Raises:
            Refused: for a network that is not the published one.
        """
        if self.job.get("memory"):
            return self._peak_memory()
        if self.job.get("operators"):
            return {name: self._operators(name) for name in self.job["models"]}
        return {**super().measure(), "models": {n: self._facts(n) for n in self.job["models"]}}

    def group(self, task, batch_size):
        """Adds the rates of products in the same rounds, by precision, in GFLOP/s."""
        self._rates = self._product_rates()
        rates = {precision: rate.gflops for precision, rate in self._rates.items()}
        return {**super().group(task, batch_size), "product_gflops": rates}

    def between_rounds(self):
        for rate in self._rates.values():
            rate.measure()

    def build(self, name):
        with recomputed_blocks() if self.job.get("recompute") else contextlib.nullcontext():
            model = build_model(name, self.job["image_size"])
        check_parameters(name, count_parameters(model))
        return model

    def program(self, task, name, precision, mode, batch_size):
        network = catalogue_model(name)
        if (task, network.task, network.library) == ("train", "detection", "keras_hub"):
            return self._detector_step(name, network, precision, mode, batch_size)
        if network.library != "transformers":
            return super().program(task, name, precision, mode, batch_size)
        import torch
        from keras import ops

        from keras_sepvit.benchmark import programs

        mixed = task == "train" and precision != "float32"
        module = self.model(name, f"mixed_{precision}" if mixed else precision)
        images = self.images(name, batch_size, (None, None, None, 3)).transpose(0, 3, 1, 2)
        batch = ops.convert_to_tensor(np.ascontiguousarray(images))
        module.to(batch.device).train(task == "train")

        if task == "train":
            loss = loss_of(module, catalogue_model(name), batch)
            return training_step(module, loss, batch, precision, mode)

        def function(images):
            return module(images).logits

        return programs.torch_forward(module, function, batch.to(getattr(torch, precision)), mode)

    def _detector_step(self, name, network, precision, mode, batch_size):
        """KerasHub's detector with its own losses.

        Past its own `train_on_batch`, which makes one tensor of a dict of targets, and fails.
        """
        import keras
        from keras import ops

        from keras_sepvit.benchmark import programs

        model = self.model(
            name, precision if precision == "float32" else f"mixed_{precision}", mode
        )
        batch = ops.convert_to_tensor(self.images(name, batch_size, model.input_shape))
        targets = programs.random_boxes(np.random.default_rng(1), batch.shape, network.classes)
        programs.step_with(model, batch, targets, mode)
        return lambda: keras.Model.train_on_batch(model, batch, targets)

    def _product_rates(self):
        """A `ProductRate` for each precision that the backend has products in."""
        on_cpu = "cpu" in device(self.job["backend"]).lower()
        rates = {}
        for precision in self.job["precision"]:
            # JAX on CPUs has no float16 products.
            with contextlib.suppress(Exception):
                rates[precision] = ProductRate(precision, CPU_PRODUCTS if on_cpu else GPU_PRODUCTS)
        return rates

    def _facts(self, name):
        from keras_sepvit.complexity.graph import traced_macs

        try:
            model = self.model(name)
            facts = {"parameters": count_parameters(model)}
        except Refused:
            raise
        except Exception as error:
            return {"error": reason_of(error)}
        channels_first = catalogue_model(name).library == "transformers"
        shape = (*self.job["image_size"], 3)
        try:
            return {**facts, "macs": traced_macs(model, shape, channels_first=channels_first)}
        except Exception as error:  # an operator of unknown cost, or an image that is too small
            return {**facts, "error": reason_of(error)}

    def _peak_memory(self):
        """Bytes of the process (Linux) before it built the network, and at most.

        The imported backend is a good part of both. With `timed_calls` also the milliseconds of
        the fastest of so many calls.
        """
        (name,) = self.job["models"]
        import_library(catalogue_model(name).library)  # which is no part of the network
        before = process_memory("VmRSS")
        program = self._only_program(name)
        times = [call_milliseconds(program) for _ in range(self.job.get("timed_calls", 0))]
        return {"before": before, "peak": process_memory("VmHWM"), "ms": min(times, default=None)}

    def _operators(self, name):
        """Milliseconds of a call, and of those each operator's own; medians of some calls."""
        from torch.profiler import ProfilerActivity, profile

        program = self._only_program(name)
        times, operators = [], collections.defaultdict(list)
        for _ in range(PROFILED_CALLS):  # by turns, since a machine's speed changes
            times.append(call_milliseconds(program))
            with profile(activities=[ProfilerActivity.CPU]) as calls:
                program()
            for event in calls.key_averages():
                operators[event.key].append(event.self_cpu_time_total / 1e3)
        medians = {name: statistics.median(own) for name, own in operators.items()}
        return {"ms": statistics.median(times), "operators": medians}

    def _only_program(self, name):
        """The program of a network in a job of one task, precision, mode and batch size."""
        job = self.job
        (task,), (precision,), (batch_size,) = job["task"], job["precision"], job["batch_sizes"]
        (mode,) = job["modes"][task]
        program = self.program(task, name, precision, mode, batch_size)
        warm_up(program, name)
        return program


def recomputed_blocks():
    """The scope in which SepViT's blocks are recomputed in the backward pass."""
    import keras

    deepest = max(max(config.depths) for config in VARIANTS.values())
    blocks = range(1, deepest + 1)
    names = [f"stage{stage}_block{block}" for stage in range(1, 5) for block in blocks]
    return keras.RematScope("list_of_layers", layer_names=names)


def loss_of(module, model, batch):
    """A function of a batch of images that gives the loss of a torch module for random labels.

    Args:
        module: The torch module.
        model: Its `CatalogueModel`.
        batch: The images, (batch, 3, height, width).
    """
    import torch

    shape = (len(batch),) if model.task == "classification" else (len(batch), *batch.shape[2:])
    labels = np.random.default_rng(1).integers(0, model.classes, shape)
    targets = torch.from_numpy(labels).to(batch.device)
    if model.task == "segmentation":  # with that of the auxiliary head
        return lambda images: module(images, labels=targets).loss
    return lambda images: torch.nn.functional.cross_entropy(module(images).logits.float(), targets)


def training_step(module, loss, batch, precision, mode):
    """As `programs.training_step`, of a torch module and a function to its loss."""
    import torch

    from keras_sepvit.benchmark import programs

    if mode == "compile":
        loss = torch.compile(loss)
    optimizer = torch.optim.AdamW(
        module.parameters(), programs.LEARNING_RATE, weight_decay=programs.WEIGHT_DECAY
    )
    kind = batch.device.type
    scaler = torch.amp.GradScaler(kind, enabled=precision == "float16")
    casting = functools.partial(
        torch.autocast, kind, getattr(torch, precision), enabled=precision != "float32"
    )

    def run():
        with casting():
            value = loss(batch)
        optimizer.zero_grad()
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        return value.item()

    return run


class ProductRate:
    """The rate of matrix products in one precision: what a machine can do at most.

    Args:
        precision: `"float32"`, `"bfloat16"` or `"float16"`.
        shapes: (rows, inner, columns) of the products, small ones first; the fastest counts.
    """

    def __init__(self, precision, shapes):
        from keras import ops

        from keras_sepvit.benchmark.programs import waited

        rng = np.random.default_rng(0)
        self._products = []
        for rows, inner, columns in shapes:
            left, right = (
                ops.convert_to_tensor(rng.standard_normal(shape, "float32"), precision)
                for shape in ((rows, inner), (inner, columns))
            )

            def product(left=left, right=right):
                # One number waits for the product without taking all of it from a GPU.
                return waited(ops.matmul(left, right)[0, 0])

            product()
            self._products.append((2e-6 * rows * inner * columns, product))
            if call_milliseconds(product) > 1e3 * LONGEST_PRODUCT_SECONDS:
                break
        self.gflops = []

    def measure(self):
        """Adds the rate of now, in GFLOP/s, to `gflops`."""
        self.gflops.append(
            max(mflops / call_milliseconds(product) for mflops, product in self._products)
        )


def process_memory(key):
    """Bytes of this process's memory (Linux): now for `"VmRSS"`, at most for `"VmHWM"`.

    Not `getrusage`, whose peak a process takes over from the one that started it.
    """
    return 1024 * int(proc_fields("/proc/self/status")[key].split()[0])


if __name__ == "__main__":
    main(PeerWorker)
