"""Exports models to `torch.export`'s files (`.pt2`), which plain PyTorch runs."""

import collections
import json

import numpy as np

from keras_sepvit.export.check import compare, median_latency_ms, size_of, writing
from keras_sepvit.export.errors import require
from keras_sepvit.export.model import prepare
from keras_sepvit.export.quiet import quiet
from keras_sepvit.export.report import ExportReport
from keras_sepvit.export.worker import convert_on
from keras_sepvit.validation import positive_int


def to_torch(
    model,
    path,
    *,
    batch_size=1,
    probabilities=True,
    normalize=False,
    class_names=None,
    images=None,
    check=True,
    overwrite=False,
    verbose=True,
):
    """Exports a model with `torch.export`, runs the file, and compares it with the model.

    Any backend will do; PyTorch must be installed. The file needs no Keras:

    ```python
    model = torch.export.load("model.pt2").module()
    probabilities = model(images)["probabilities"]
    ```

    Args:
        model: A built Keras model of one image input of static size.
        path: Path of the file, ending with `.pt2`.
        batch_size: Images in a batch; None for any number.
        probabilities: Give a classifier whose head has no activation a softmax.
        normalize: Put ImageNet's normalisation in front of a model that takes
            normalised images; the file then takes images of 0..255.
        class_names: Optional names of the classes, in order: stored beside the
            program as `class_names.json`, one of `torch.export.load`'s `extra_files`.
        images: Images to compare on, of shape (count, height, width, channels) as
            the file takes them; some synthetic ones by default.
        check: True for an error where the outputs differ by more than 1e-4,
            `"warn"` for a warning, False for no comparison.
        overwrite: Replace an existing file.
        verbose: Print the report.

    Returns:
        An `ExportReport`.

    Raises:
        ImportError: if PyTorch is not installed.
        ExportError: if the conversion fails or the file disagrees with the model.
        FileExistsError: if there is a file at `path`, unless `overwrite`.
        TypeError: if `model` is no Keras model.
        ValueError: for an argument out of range, or a model that cannot be exported.
    """
    batch_size = None if batch_size is None else positive_int("batch_size", batch_size)
    torch = require("torch", extra="torch")
    deployment = prepare(
        model, probabilities=probabilities, normalize=normalize, class_names=class_names
    )
    with writing(path, overwrite, suffix=".pt2") as temporary:
        convert_on(
            "torch",
            save_program,
            deployment.model,
            temporary,
            batch_size=batch_size,
            class_names=deployment.class_names,
        )
        program = torch.export.load(temporary)
        module = program.module()

        def run(batch):
            with torch.inference_mode():
                outputs = module(torch.from_numpy(np.ascontiguousarray(batch)))
            return {name: output.numpy() for name, output in outputs.items()}

        agreement = compare(run, deployment, images, "float32", check, batch_size)
        example = np.zeros((batch_size or 1, *deployment.image_shape), "float32")
        size = size_of(temporary)
        threads = torch.get_num_threads()
        latency = median_latency_ms(lambda: run(example))
    report = ExportReport(
        format="torch",
        path=str(path),
        precision="float32",
        size_bytes=size,
        operators=_operators(program),
        latency_ms={threads: latency},
        **agreement.report_fields(),
    )
    if verbose:
        print(report)
    return report


def save_program(model, output, batch_size, class_names):
    """Writes a model as a `torch.export` program. Runs on the torch backend.

    Args:
        model: A deployed model, which returns a dict.
        output: Path to write to.
        batch_size: Images in a batch; None for any number.
        class_names: Names of the classes, or None.
    """
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
    extra_files = {} if class_names is None else {"class_names.json": json.dumps(class_names)}
    torch.export.save(program, output, extra_files=extra_files)


def traceable(model, batch_size):
    """A Keras model on the torch backend as torch's exporters take it.

    Args:
        model: A Keras model of one input.
        batch_size: Images in a batch; None for any number.

    Returns:
        The model as a module in evaluation mode, an example of its input, and the
        `dynamic_shapes` of this input.
    """
    import torch

    class Deployed(torch.nn.Module):
        # A Keras model takes its input under any name and with optional arguments, in
        # which the exporter finds no batch dimension. It is no attribute here: Keras
        # reads weights past torch's modules, and a file would hold them twice.
        def forward(self, image):
            return model(image, training=False)

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
