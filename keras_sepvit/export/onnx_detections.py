"""Puts the suppression of boxes into ONNX files of detectors, by the standard's operator.

Neither exporter writes it: PyTorch's traces no loops, and tf2onnx makes many nodes of them.
"""

import numpy as np

from keras_sepvit.export.onnx_quantize import remove_round_trips


def add_suppression(path, count, score_threshold, iou_threshold, max_detections):
    """Rewrites a file of candidates as one of detections.

    It gives `boxes`, `labels`, `confidence` and `num_detections`, as
    `detection.decoding.retinanet_detections`.

    Args:
        path: The file. Of its outputs there must be `candidate_boxes` (batch, n, 4),
            `candidate_scores` and `candidate_labels` (batch, n), the best first; others go.
        count: Candidates of a picture, n.
        score_threshold, iou_threshold, max_detections: As there.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    proto = onnx.load(path)
    graph = proto.graph
    nodes, constants = [], []

    def node(operator, inputs, **attributes):
        name = f"suppression_{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(value, dtype):
        name = f"suppression_constant_{len(constants)}"
        constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    boxes, scores = "candidate_boxes", "candidate_scores"
    labels = node("Cast", ["candidate_labels"], to=TensorProto.INT64)
    zero, none = constant(0, "float32"), constant(-1, "float32")

    # Ranks stand for scores, so that of equal ones the first goes first in each runtime.
    valid = node("Greater", [scores, constant(score_threshold, "float32")])
    ranks = node("Where", [valid, constant(np.arange(count, 0, -1), "float32"), zero])
    # The operator takes scores by class: (batch, classes, n). Classes are those that there are.
    classes = node("Add", [node("ReduceMax", [labels], keepdims=0), constant(1, "int64")])
    classes = node("Range", [constant(0, "int64"), classes, constant(1, "int64")])
    by_class = node(
        "Equal",
        [
            node("Unsqueeze", [labels, constant([1], "int64")]),
            node("Unsqueeze", [classes, constant([1], "int64")]),
        ],
    )
    by_class = node(
        "Where",
        [
            by_class,
            node("Unsqueeze", [ranks, constant([1], "int64")]),
            zero,
        ],
    )
    chosen = node(
        "NonMaxSuppression",
        [
            boxes,
            by_class,
            constant([max_detections], "int64"),
            constant([iou_threshold], "float32"),
            constant([0.5], "float32"),
        ],
    )  # (batch, class, place) of each
    place = node("Gather", [chosen, constant([0, 2], "int64")], axis=1)
    kept = node(
        "ScatterND",
        [
            node("Mul", [ranks, zero]),
            place,
            node("GatherND", [ranks, place]),
        ],
    )
    most = min(max_detections, count)
    names = "suppression_ranks", "suppression_places"
    nodes.append(helper.make_node("TopK", [kept, constant([most], "int64")], names))
    is_detection, places = node("Greater", [names[0], zero]), names[1]
    at = node("Unsqueeze", [places, constant([2], "int64")])

    def output(name, tensor, condition, empty, dtype, axes=()):
        tensor = node("Where", [condition, node("GatherND", [tensor, at], batch_dims=1), empty])
        if most < max_detections:
            pads = [0, 0, *(0 for _ in axes), 0, max_detections - most, *(0 for _ in axes)]
            tensor = node("Pad", [tensor, constant(pads, "int64"), empty])
        nodes.append(helper.make_node("Cast", [tensor], [name], to=dtype, name=name))
        shape = (_batch(graph), max_detections, *axes)
        return helper.make_tensor_value_info(name, dtype, shape)

    boxed = node("Unsqueeze", [is_detection, constant([2], "int64")])
    outputs = [
        output("boxes", boxes, boxed, none, TensorProto.FLOAT, (4,)),
        output("labels", labels, is_detection, constant(-1, "int64"), TensorProto.INT32),
        output("confidence", scores, is_detection, none, TensorProto.FLOAT),
    ]
    number = node("Cast", [is_detection], to=TensorProto.INT32)
    axes = constant([1], "int64")
    nodes.append(helper.make_node("ReduceSum", [number, axes], ["num_detections"], keepdims=0))
    outputs.append(
        helper.make_tensor_value_info("num_detections", TensorProto.INT32, (_batch(graph),))
    )
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    del graph.output[:]
    graph.output.extend(outputs)
    remove_round_trips(graph)  # candidates were outputs, which a float16 file casts on the way
    _prune(graph)
    onnx.save(proto, path)


def _batch(graph):
    """Images in a batch, or the name of their number."""
    size = graph.input[0].type.tensor_type.shape.dim[0]
    return size.dim_param or size.dim_value


def _prune(graph):
    """Takes nodes out of which nothing comes."""
    used = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):
        if used & {*node.output}:
            used.update(node.input)
        else:
            graph.node.remove(node)
