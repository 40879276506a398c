"""Smaller types for ONNX files: float16, and static int8 in QDQ form."""

import collections

from keras_sepvit.export.images import batches
from keras_sepvit.export.quiet import quiet

# What is computed in 8 bits: nearly all of the arithmetic.
INT8_OPERATORS = ("Conv", "Gemm", "MatMul")


def to_float16(path, kept_behind=()):
    """Rewrites a float32 file in float16, whose input and outputs stay float32.

    The normalisation of images, in front of the first convolution, and softmaxes
    over classes stay float32 too: pixels lose up to an eighth in half precision,
    and small probabilities nearly all. In a file of 8 bits, pixels lose more when they are
    quantised, and no cast may stand between a `DequantizeLinear` and its product.

    Args:
        path: Path of the file, of float32, or as `to_int8` leaves it.
        kept_behind: Names of tensors; what is computed of them alone stays float32, too, and
            what that reads that is computed of constants, such as anchors.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    proto = onnx.load(path)
    is_quantized = any(node.op_type == "DequantizeLinear" for node in proto.graph.node)
    kept = [] if is_quantized else [n.name for n in _before_first_convolution(proto.graph)]
    kept += [node.name for node in _behind(proto.graph, kept_behind)]
    outputs = {output.name for output in proto.graph.output}
    kept += [
        node.name
        for node in proto.graph.node
        if node.op_type == "Softmax" and outputs & set(node.output)
    ]
    # Types that an exporter wrote down would stay as they were; they are inferred again.
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        if node.op_type == "ConstantOfShape" and not node.attribute:
            # The default, written down: ONNX Runtime 1.22 leaves it in float32.
            zero = onnx.helper.make_tensor("value", onnx.TensorProto.FLOAT, [1], [0.0])
            node.attribute.append(onnx.helper.make_attribute("value", zero))
    proto = convert_float_to_float16(proto, keep_io_types=True, node_block_list=kept)
    _merge_casts(proto.graph)
    _remove_round_trips(proto.graph)
    model = OnnxModel(proto)
    model.topological_sort()
    onnx.save(model.model, path)


def to_int8(path, images, batch_size):
    """Rewrites a float32 file with its products and convolutions in 8 bits.

    Activations have one scale a tensor, weights one a channel; zero points are 0. On x86 processors
    without VNNI ONNX Runtime cuts sums of two large products off. Weights of 7 bits, against that,
    were too coarse for dense networks.
    Biases stay float32, since TensorRT reads no `DequantizeLinear` of 32 bits.

    Args:
        path: Path of the file.
        images: Images to find the ranges of activations with, as the file takes them.
        batch_size: Images in a batch of the file; None for any number.
    """
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self._batches = batches(images, batch_size or 1)

        def get_next(self):
            batch = next(self._batches, None)
            return None if batch is None else {"image": batch[0]}

    with quiet("root"):  # it advises to optimise the graph first, which is done
        quantization.quantize_static(
            str(path),
            str(path),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(INT8_OPERATORS),
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
            },
        )


def _before_first_convolution(graph):
    """The nodes in front of the first convolution, which normalise the images."""
    nodes = []
    for node in graph.node:
        if node.op_type == "Conv":
            return nodes
        nodes.append(node)
    return []


def _behind(graph, tensors):
    """The nodes that compute something of tensors, and from constants alone what those read.

    Not those that compute it of what there is without the tensors, too: what is taken of maps, at
    places that boxes tell, is of the maps.
    """
    inputs = [x.name for x in graph.input]
    others = _outputs_of(_reached_from(graph, inputs, {*tensors}))
    nodes = _reached_from(graph, tensors, others)
    varying = _outputs_of(_reached_from(graph, inputs))
    read = {name for node in nodes for name in node.input} - varying
    for node in reversed(graph.node):
        if read & {*node.output}:
            nodes.append(node)
            read.update(node.input)
    return nodes


def _reached_from(graph, tensors, barred=frozenset()):
    """The nodes that compute something of tensors' values, by way of others too; of those that
    give barred tensors, none."""
    reached, nodes = {*tensors}, []
    for node in graph.node:  # in the order in which they run
        read = reached & {*node.input} and node.op_type != "Shape"
        if read and not barred & {*node.output}:
            nodes.append(node)
            reached.update(node.output)
    return nodes


def _outputs_of(nodes):
    return {name for node in nodes for name in node.output}


def _merge_casts(graph):
    """Keeps one of the casts of a tensor, which the conversion makes for each that reads it."""
    made = set()
    for node in list(graph.node):
        if node.op_type == "Cast" and node.output[0] in made:
            graph.node.remove(node)  # the first that is equal
        made.update(node.output)


def keep_outputs(path, names):
    """Takes outputs of other names out of a file, and nodes out of which nothing comes then."""
    import onnx

    proto = onnx.load(path)
    graph = proto.graph
    outputs = {output.name: output for output in graph.output}
    del graph.output[:]
    graph.output.extend(outputs[name] for name in names)
    _remove_round_trips(graph)  # outputs were cast on the way
    used = {*names}
    for node in reversed(list(graph.node)):
        if used & {*node.output}:
            used.update(node.input)
        else:
            graph.node.remove(node)
    onnx.save(proto, path)


def _remove_round_trips(graph):
    """Reads float32 tensors where they are, not from a cast to float16 and back."""
    producers = {name: node for node in graph.node for name in node.output}

    def source(name):
        back = producers.get(name)
        there = producers.get(back.input[0]) if _casts_to(back, "FLOAT") else None
        return there.input[0] if _casts_to(there, "FLOAT16") else name

    named = {}
    for output in graph.output:
        at = source(output.name)
        if at != output.name and at in producers:
            named[at] = output.name
            producers[output.name].output[0] += "_cast"
    for node in graph.node:
        node.input[:] = [named.get(name, name) for name in map(source, node.input)]
        node.output[:] = [named.get(name, name) for name in node.output]
    outputs = {output.name for output in graph.output}
    used = collections.Counter(name for node in graph.node for name in node.input)
    for node in reversed(list(graph.node)):
        if node.op_type == "Cast" and not used[node.output[0]] and node.output[0] not in outputs:
            used[node.input[0]] -= 1
            graph.node.remove(node)


def _casts_to(node, dtype):
    import onnx

    return (
        node is not None
        and node.op_type == "Cast"
        and node.attribute[0].i == getattr(onnx.TensorProto, dtype)
    )
