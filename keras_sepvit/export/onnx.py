"""Exports models to ONNX: float32, float16 or static int8, of standard operators only."""

import collections
import dataclasses
import importlib.util
import json
from typing import Unpack

from keras_sepvit import functional
from keras_sepvit.export.deployment import DetectionsDeployment
from keras_sepvit.export.driver import (
    Format,
    Options,
    export,
    latency_by_threads,
    open_with_runtime,
)
from keras_sepvit.export.errors import ExportError
from keras_sepvit.export.images import refuse_unused_calibration
from keras_sepvit.export.onnx_quantize import keep_outputs, to_float16, to_int8
from keras_sepvit.export.onnx_suppression import write_suppression
from keras_sepvit.export.quiet import quiet
from keras_sepvit.export.torch_export import traceable
from keras_sepvit.export.worker import convert_on
from keras_sepvit.lazy import require
from keras_sepvit.record import RECORD_NAME
from keras_sepvit.runtime.onnx import CLASS_NAMES_KEY
from keras_sepvit.validation import positive_int

QUANTIZE = (None, "float16", "int8", "int8_float16")
CALIBRATED = ("int8", "int8_float16")

# Of each exporter: the newest opset that it writes. TensorRT 10 reads 9 to 20 and more,
# and from 18 on nothing that SepViT uses has changed its meaning.
MIN_OPSET = 18
MIN_OPSETS = {"int8_float16": 19}  # from where scales may be of half precision
MAX_OPSETS = {"torch": 20, "tf2onnx": 18}


def to_onnx(
    model,
    path,
    *,
    quantize=None,
    batch_size=1,
    opset=None,
    calibration_images=None,
    **options: Unpack[Options],
):
    """Exports a model to ONNX, runs the file in ONNX Runtime, and compares it with the model.

    Any backend will do. The graph is best from PyTorch's exporter (opset 20, with
    `LayerNormalization` and `Gelu` as one operator each), which is used where
    PyTorch is installed; otherwise TensorFlow and tf2onnx write it (opset 18, both
    as their parts, which ONNX Runtime puts together again).

    The file takes `image`, float32, and gives `probabilities` (or the outputs that
    the model has), float32, at every precision. Its metadata hold its record
    (`keras_sepvit.json`) and the names of classes (`class_names`, a JSON list).

    Args:
        model: A built Keras model of one image input.
        path: Path of the file, ending with `.onnx`.
        quantize: None for float32. `"float16"` for weights and activations of half
            precision, meant for GPUs: TensorRT takes the precision from the file;
            the normalisation of images and the final softmax stay float32. `"int8"`
            for the products and convolutions in 8 bits (static, symmetric, weights
            by channel), in the QDQ form that ONNX Runtime and TensorRT read;
            `"int8_float16"` for the same with half precision between them, for GPUs.
        batch_size: Images in a batch; None for any number.
        opset: Version of ONNX's operators, 18 to 20; the newest of the exporter by
            default.
        calibration_images: For the precisions with `int8`: at least 32 images as the file
            takes them, of the kind that the model will see.
        **options: See `keras_sepvit.export.Options`.

    Returns:
        An `ExportReport`. Errors are those of `keras_sepvit.export.driver.export`.
    """
    return export(Onnx(quantize, batch_size, calibration_images, opset), model, path, **options)


@dataclasses.dataclass
class Onnx(Format):
    """ONNX's `.onnx`, as ONNX Runtime runs it."""

    opset: int | None = None

    name = "onnx"
    suffix = ".onnx"
    precisions = QUANTIZE
    calibrated = CALIBRATED

    def __post_init__(self):
        super().__post_init__()
        refuse_unused_calibration(self)

    def require(self):
        require("onnx", "export")
        require("onnxruntime", "export")
        self._exporter = _find_exporter()
        oldest = MIN_OPSETS.get(self.quantize, MIN_OPSET)
        self.opset = _check_opset(self.opset, self._exporter, oldest)

    def write(self, deployment, record, path):
        backend, write = {
            "torch": ("torch", write_with_torch),
            "tf2onnx": ("tensorflow", write_with_tf2onnx),
        }[self._exporter]
        form = {"batch_size": self.batch_size, "opset": self.opset}
        halves = self.quantize in ("float16", "int8_float16")
        traced = halves and isinstance(deployment, DetectionsDeployment)
        model = deployment.traced if traced else deployment.model
        convert_on(backend, write, model, path, **form)
        if self.quantize in CALIBRATED:
            to_int8(path, self.calibration_images, self.batch_size)
        if halves:
            to_float16(path, [*model.output.keys() - deployment.outputs.keys()])
        if traced:
            keep_outputs(path, deployment.outputs)
        _finish(path, record)
        _check_graph(path)

    def open(self, path):
        return open_with_runtime(path, self.batch_size)

    def facts(self, path, opened, deployment):
        return {
            "operators": count_operators(path),
            "latency_ms": latency_by_threads(path, deployment, self.batch_size),
            "notes": (f"Written by the exporter of {self._exporter}, opset {self.opset}.",),
        }


def write_with_torch(model, output, batch_size, opset):
    """Writes a deployed model to a path in ONNX. Runs on the torch backend."""
    import torch

    module, example, dynamic_shapes = traceable(model, batch_size)
    with quiet("torch.onnx", "onnxscript", "onnx_ir"), torch.no_grad():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=["image"],
            output_names=list(model.output),
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )
        program.save(output, external_data=False)
    write_suppression(output)


def write_with_tf2onnx(model, output, batch_size, opset):
    """As `write_with_torch`, on the TensorFlow backend."""
    import tf2onnx

    with quiet("tensorflow", "tf2onnx"):
        proto, _ = tf2onnx.convert.from_graph_def(
            frozen_graph(model, batch_size),
            input_names=["image:0"],
            output_names=[f"{name}:0" for name in model.output],
            opset=opset,
        )
    renamed = {"image:0": "image", **{f"{name}:0": name for name in model.output}}
    _rename(proto.graph, renamed)
    # Declared, and used by no node.
    for index, imported in reversed(list(enumerate(proto.opset_import))):
        if imported.domain:
            del proto.opset_import[index]
    with open(output, "wb") as file:
        file.write(proto.SerializeToString())


def frozen_graph(model, batch_size):
    """A deployed model on TensorFlow as a `GraphDef` without variables.

    From the placeholder `image` follow operations of the outputs' names.
    `convert_variables_to_constants_v2` leaves constants that were made outside of
    a function, such as those of Keras's Normalization, as inputs without value.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    def named(image):
        with functional.forms_for("tf2onnx"):
            outputs = model(image, training=False)
        return [tf.identity(tensor, name=name) for name, tensor in outputs.items()]

    image = tf.TensorSpec((batch_size, *model.input_shape[1:]), tf.float32, name="image")
    function = tf.function(named, input_signature=[image]).get_concrete_function()
    # Loops stay functions, which tf2onnx knows best.
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    graph = frozen.graph.as_graph_def()
    values = {
        inner.op.name: outer
        for outer, inner in function.graph.captures
        if outer.dtype != "resource"
    }
    for node in graph.node:
        if node.op == "Placeholder" and node.name in values:
            value = values[node.name]
            node.op = "Const"
            node.ClearField("attr")
            node.attr["dtype"].type = value.dtype.as_datatype_enum
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.numpy()))
    return graph


def _find_exporter():
    """`"torch"` or `"tf2onnx"`, whichever can run here, the former first."""
    for exporter, modules in {
        "torch": ("torch", "onnxscript"),
        "tf2onnx": ("tensorflow", "tf2onnx"),
    }.items():
        if all(importlib.util.find_spec(module) for module in modules):
            return exporter
    raise ImportError(
        "ONNX files are written by PyTorch with `onnxscript`, or by TensorFlow with `tf2onnx`, "
        "whatever the model's backend, and neither pair is installed. Install one with "
        '`pip install "keras-sepvit[export,torch]"` or '
        '`pip install "keras-sepvit[export,tensorflow]"`.'
    )


def _check_opset(opset, exporter, oldest):
    newest = MAX_OPSETS[exporter]
    if newest < oldest:
        raise ImportError(
            f"This precision needs opset {oldest}, which PyTorch's exporter writes: "
            '`pip install "keras-sepvit[export,torch]"`.'
        )
    if opset is None:
        return newest
    if positive_int("opset", opset) not in range(oldest, newest + 1):
        advice = (
            ""
            if exporter == "torch" or not oldest <= opset <= MAX_OPSETS["torch"]
            else ' Newer ones need PyTorch: `pip install "keras-sepvit[export,torch]"`.'
        )
        raise ValueError(
            f"`opset` must be from {oldest} to {newest} (the exporter of {exporter}). "
            f"Received: opset={opset}.{advice}"
        )
    return opset


def _finish(path, record):
    """Takes traces of the machine out of a file, and puts the metadata in."""
    import onnx

    proto = onnx.load(path)
    _remove_traces(proto)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    metadata[RECORD_NAME] = record.to_json()
    if record.class_names is not None:
        metadata[CLASS_NAMES_KEY] = json.dumps(record.class_names, ensure_ascii=False)
    onnx.helper.set_model_props(proto, metadata)
    onnx.save(proto, path)


def _remove_traces(proto):
    """Removes where in the exporting program each node was made, paths of files included."""
    graph = proto.graph
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    graph.ClearField("metadata_props")
    graph.ClearField("doc_string")


def count_operators(path):
    """How often the graph of an ONNX file has each operator, by name."""
    import onnx

    nodes = onnx.load(path).graph.node
    return dict(collections.Counter(node.op_type for node in nodes).most_common())


def _check_graph(path):
    """Refuses a file that ONNX's own checks find invalid, or with operators not ONNX's own."""
    import onnx

    proto = onnx.load(path)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"The ONNX file is invalid: {error}") from error
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in proto.graph.node if node.domain})
    if foreign or proto.functions:
        raise ExportError(f"The ONNX file has operators that are not of the standard: {foreign}.")


def _rename(graph, names):
    """Renames tensors of a graph."""
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, name) for name in tensors]
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
