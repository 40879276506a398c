"""Runs a SavedModel in plain TensorFlow. It imports that alone, and runs as a file.

    python saved_model_runtime.py SAVED_MODEL FOLDER

reads `batches.npy` in the folder, of shape (batches, batch_size, height, width, channels),
and writes `outputs.npz`, of shapes (batches, batch_size, ...), and `facts.json` there.
"""

import collections
import json
import os
import pathlib
import statistics
import sys
import time

import numpy as np
import tensorflow as tf

# Of the latency, in all.
_MOST_RUNS, _MILLISECONDS = 20, 500


def main(path, folder):
    """Runs `serving_default` on the batches, and counts and times its operators."""
    folder = pathlib.Path(folder)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    model = tf.saved_model.load(path)
    serve = model.signatures["serving_default"]

    def run(batch):
        return {name: x.numpy() for name, x in serve(image=tf.constant(batch)).items()}

    batches = np.load(folder / "batches.npy")
    outputs = [run(batch) for batch in batches]
    np.savez(folder / "outputs.npz", **{k: np.stack([o[k] for o in outputs]) for k in outputs[0]})
    times = []
    while len(times) < _MOST_RUNS and sum(times) < _MILLISECONDS:
        start = time.perf_counter()
        run(batches[0])
        times.append(1e3 * (time.perf_counter() - start))
    facts = {
        "operators": count_operators(serve.graph.as_graph_def()),
        "latency_ms": statistics.median(times),
        "threads": os.cpu_count(),
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def count_operators(graph):
    """How often a `GraphDef` computes each operator, by name.

    Of one of TensorRT's engines it counts the engine alone, not what TensorFlow would do
    without it.
    """
    functions = {function.signature.name: function for function in graph.library.function}
    counts = collections.Counter()
    pending = [graph.node]
    while pending:
        for node in pending.pop():
            if node.op in ("PartitionedCall", "StatefulPartitionedCall"):
                pending.append(functions[node.attr["f"].func.name].node_def)
            elif node.op not in ("Const", "Identity", "NoOp", "Placeholder"):
                counts[node.op] += 1
    return dict(counts.most_common())


if __name__ == "__main__":
    main(*sys.argv[1:])
