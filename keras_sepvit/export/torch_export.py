"""Exports models to `torch.export`'s files (`.pt2`), which plain PyTorch runs."""

import collections
import json
from typing import Unpack

import numpy as np

from keras_sepvit.export.check import median_latency_ms
from keras_sepvit.export.driver import Format, OpenFile, Options, export
from keras_sepvit.export.quiet import quiet
from keras_sepvit.export.worker import convert_on
from keras_sepvit.lazy import require
from keras_sepvit.record import RECORD_NAME


def to_torch(model, path, *, batch_size=1, **options: Unpack[Options]):
    """Exports a model with `torch.export`, runs the file, and compares it with the model.

    Any backend will do; PyTorch must be installed. The file needs no Keras:

    ```python
    model = torch.export.load("model.pt2").module()
    probabilities = model(images)["probabilities"]
    ```

    Beside the program, as `torch.export.load`'s `extra_files`, are its record
    (`keras_sepvit.json`) and the names of classes (`class_names.json`, a list).

    Args:
        model: A built Keras model of one image input.
        path: Path of the file, ending with `.pt2`.
        batch_size: Images in a batch; None for any number.
        **options: See `keras_sepvit.export.Options`.

    Returns:
        An `ExportReport`. Errors are those of `keras_sepvit.export.driver.export`.
    """
    return export(TorchExport(batch_size=batch_size), model, path, **options)


class TorchExport(Format):
    """Programs of `torch.export`."""

    name = "torch"
    suffix = ".pt2"
    without_suppression = "torch.export"

    def require(self):
        require("torch", "torch")

    def write(self, deployment, record, path):
        extra_files = {RECORD_NAME: record.to_json()}
        if record.class_names is not None:
            extra_files["class_names.json"] = json.dumps(record.class_names)
        form = {"batch_size": self.batch_size, "extra_files": extra_files}
        convert_on("torch", save_program, deployment.model, path, **form)

    def open(self, path):
        import torch

        program = torch.export.load(path)
        module = program.module()

        def run(batch):
            with torch.inference_mode():
                outputs = module(torch.from_numpy(np.ascontiguousarray(batch)))
            return {name: output.numpy() for name, output in outputs.items()}

        opened = OpenFile(run, self.batch_size)
        opened.program = program
        return opened

    def facts(self, path, opened, deployment):
        import torch

        example = np.zeros((self.batch_size or 1, *deployment.image_shape), "float32")
        latency = median_latency_ms(lambda: opened.run(example))
        return {
            "operators": _operators(opened.program),
            "latency_ms": {torch.get_num_threads(): latency},
        }


def save_program(model, output, batch_size, extra_files):
    """Writes a deployed model to a path, with texts by name beside it. Runs on torch."""
    import torch
    from torch.export.passes import move_to_device_pass

    module, example, dynamic_shapes = traceable(model, batch_size)
    with quiet(), torch.no_grad():
        program = torch.export.export(module, (example,), dynamic_shapes=dynamic_shapes)
        # Keras converts dtypes all along the way, each time checked and to what it is.
        program = program.run_decompositions({})
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)
    program.graph_module.recompile()
    if example.device.type != "cpu":
        program = move_to_device_pass(program, "cpu")
    torch.export.save(program, output, extra_files=extra_files)


def traceable(model, batch_size):
    """A Keras model on the torch backend as torch's exporters take it.

    Returns the model as a module in evaluation mode, an example of its input, and the
    `dynamic_shapes` of this input.
    """
    import torch

    class Deployed(torch.nn.Module):
        # A Keras model takes its input under any name and with optional arguments, in
        # which the exporter finds no batch dimension. It is no attribute here: Keras
        # reads weights past torch's modules, and a file would hold them twice.
        def forward(self, image):
            outputs = model(image, training=False)
            return {name: outputs[name] for name in model.output}  # Keras sorts them

    device = model.weights[0].value.device
    # An example of one image would fix the batch at one.
    example = torch.zeros((batch_size or 2, *model.input_shape[1:]), device=device)
    dynamic_shapes = None if batch_size else ({0: torch.export.Dim("batch")},)
    return Deployed().eval(), example, dynamic_shapes


def _operators(program):
    """How often a program calls each operator, by its name in ATen."""
    return dict(
        collections.Counter(
            node.target.__name__.partition(".")[0]
            for node in program.graph.nodes
            if node.op == "call_function"
        )
    )
