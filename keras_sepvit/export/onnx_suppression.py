"""Puts the suppression of boxes into ONNX files, by the standard's operator.

PyTorch's exporter traces no loops. Where a graph suppresses boxes, it writes a node of a domain of
our own instead (`selection.onnx_suppress`); here nodes of the standard take its place.
"""

import numpy as np

from keras_sepvit.selection import ONNX_DOMAIN


def write_suppression(path):
    """Rewrites the nodes `Suppress` of a file as what `detection.decoding.suppress` tells.

    Args:
        path: The file. The nodes' inputs are boxes (batch, n, 4), the best first, their groups,
            int (batch, n), and which count, bool (batch, n); their attributes `iou_threshold`,
            `count` and `number`, n.
    """
    import onnx
    from onnx import helper

    proto = onnx.load(path)
    graph = proto.graph
    nodes = []
    for node in graph.node:
        if node.domain == ONNX_DOMAIN:
            values = {x.name: helper.get_attribute_value(x) for x in node.attribute}
            own = _Nodes(f"suppression_{len(nodes)}")
            _add_suppression(own, *node.input, **values)
            own.nodes[-1].output[:] = node.output
            nodes += own.nodes
            graph.initializer.extend(own.constants)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    imports = [x for x in proto.opset_import if x.domain != ONNX_DOMAIN]
    del proto.opset_import[:]
    proto.opset_import.extend(imports)
    onnx.save(proto, path)


class _Nodes:
    """Nodes of a graph and their constants, all of names that begin with a prefix."""

    def __init__(self, prefix):
        self._prefix, self.nodes, self.constants = prefix, [], []

    def add(self, operator, *inputs, outputs=1, **attributes):
        """The name of the output of a new node, or the names of its several."""
        from onnx import helper

        name = f"{self._prefix}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{n}" for n in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=name, **attributes))
        return name if outputs == 1 else names

    def constant(self, value, dtype="int64"):
        from onnx import numpy_helper

        name = f"{self._prefix}_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name


def _add_suppression(graph, boxes, groups, valid, iou_threshold, count, number):
    """Adds the nodes of a suppression, whose last one gives the places, to `_Nodes`."""
    from onnx import TensorProto

    add, constant = graph.add, graph.constant
    zero, none = constant(0, "float32"), constant(-1)
    groups = add("Cast", groups, to=TensorProto.INT64)
    # Ranks stand for scores, so that of equal ones the first goes first in each runtime.
    ranks = constant(np.arange(number, 0, -1), "float32")
    ranks = add("Where", valid, ranks, zero)
    # The operator takes scores by class: (batch, classes, n). Classes are those that there are.
    classes = add("Add", add("ReduceMax", groups, keepdims=0), constant(1))
    classes = add("Range", constant(0), classes, constant(1))
    middle = constant([1])
    by_class = add("Equal", add("Unsqueeze", groups, middle), add("Unsqueeze", classes, middle))
    by_class = add("Where", by_class, add("Unsqueeze", ranks, middle), zero)
    limits = constant([count]), constant([iou_threshold], "float32"), constant([0.5], "float32")
    chosen = add("NonMaxSuppression", boxes, by_class, *limits)  # (batch, class, place) of each
    chosen = add("Gather", chosen, constant([0, 2]), axis=1)
    kept = add("ScatterND", add("Mul", ranks, zero), chosen, add("GatherND", ranks, chosen))
    ranks, places = add("TopK", kept, constant([min(count, number)]), outputs=2)
    places = add("Where", add("Greater", ranks, zero), places, none)
    if count > number:
        pads = constant([0, 0, 0, count - number])
        places = add("Pad", places, pads, none)
    add("Cast", places, to=TensorProto.INT32)
