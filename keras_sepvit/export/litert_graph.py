"""Looks into LiteRT files; imports neither Keras nor TensorFlow."""

import collections
import dataclasses
import mmap

# What GPU delegates take at most.
_MAX_RANK = 4


@dataclasses.dataclass(frozen=True)
class Graph:
    """What a LiteRT file holds, and how the runtime divides it.

    Attributes:
        operators: How often it has each operator, by name.
        max_rank: Highest rank of its tensors.
        partitions: Parts that XNNPACK takes; between them the graph leaves it.
        not_delegated: How often it runs each operator outside XNNPACK, by name.
        gpu_obstacles: What GPU delegates commonly refuse, in words.
    """

    operators: dict
    max_rank: int
    partitions: int
    not_delegated: dict
    gpu_obstacles: tuple


def inspect(path):
    """The `Graph` of a LiteRT file."""
    from ai_edge_litert.interpreter import Interpreter

    operators, obstacles, max_rank = _read_operators(path)
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    partitions, not_delegated = _executed(interpreter)
    if max_rank > _MAX_RANK:
        obstacles = (f"a tensor has rank {max_rank}", *obstacles)
    return Graph(operators, max_rank, partitions, not_delegated, obstacles)


def _read_operators(path):
    """Operators by name with their counts, obstacles to GPU delegates, and the highest rank."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name[0] != "_"}
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        model = schema.Model.GetRootAs(content)
        operators = collections.Counter()
        shrinking = 0
        max_rank = 0
        for index in range(model.SubgraphsLength()):
            graph = model.Subgraphs(index)
            for tensor in map(graph.Tensors, range(graph.TensorsLength())):
                max_rank = max(max_rank, tensor.ShapeLength())
            for operator in map(graph.Operators, range(graph.OperatorsLength())):
                code = model.OperatorCodes(operator.OpcodeIndex())
                # Early codes are in a field of one byte, which is full for later ones.
                name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
                if name == "CUSTOM":
                    name = code.CustomCode().decode()
                operators[name] += 1
                if name == "STRIDED_SLICE":
                    table = operator.BuiltinOptions()
                    options = schema.StridedSliceOptions()
                    options.Init(table.Bytes, table.Pos)
                    shrinking += options.ShrinkAxisMask() != 0
                    del table, options
                del operator, code
            del tensor, graph
        del model
    obstacles = []
    if shrinking:
        obstacles.append(f"{shrinking} STRIDED_SLICE drop an axis")
    if operators["BROADCAST_TO"]:
        obstacles.append(f"it has {operators['BROADCAST_TO']} BROADCAST_TO")
    return dict(operators.most_common()), tuple(obstacles), max_rank


def _executed(interpreter):
    """How many partitions a delegate took, and which operators run outside them.

    The interpreter lists the operators of the file and, after them, a node for each
    partition. What it executes is found by going back from the outputs, by way of
    the partition that gives a tensor where there is one.
    """
    producers = {}
    partitions = 0
    for node in interpreter._get_ops_details():
        partitions += node["op_name"] == "DELEGATE"
        for tensor in node["outputs"]:
            producers[tensor] = node  # a partition comes after the operators it replaces
    executed = {}
    waiting = [output["index"] for output in interpreter.get_output_details()]
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node["index"] not in executed:
            executed[node["index"]] = node["op_name"]
            waiting.extend(node["inputs"])
    counts = collections.Counter(name for name in executed.values() if name != "DELEGATE")
    return partitions, dict(counts.most_common())
