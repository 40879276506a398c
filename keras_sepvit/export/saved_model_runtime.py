"""Runs a SavedModel in plain TensorFlow, without Keras; a process of its own.

    python -m keras_sepvit.export.saved_model_runtime SAVED_MODEL FOLDER BATCH_SIZE

reads `images.npy` in the folder, and writes `outputs.npz` and `facts.json` there.
"""

import collections
import json
import os
import pathlib
import sys

import numpy as np
import tensorflow as tf

from keras_sepvit.export.check import median_latency_ms
from keras_sepvit.export.images import run_batches


def main(path, folder, batch_size):
    """Runs `serving_default` on the images, and counts and times its operators."""
    folder = pathlib.Path(folder)
    batch_size = int(batch_size)
    images = np.load(folder / "images.npy")
    model = tf.saved_model.load(path)
    serve = model.signatures["serving_default"]

    def run(batch):
        return {name: x.numpy() for name, x in serve(image=tf.constant(batch)).items()}

    np.savez(folder / "outputs.npz", **run_batches(run, images, batch_size))
    batch = images[:1].repeat(batch_size, axis=0)
    facts = {
        "operators": count_operators(serve.graph.as_graph_def()),
        "latency_ms": median_latency_ms(lambda: run(batch)),
        "threads": os.cpu_count(),
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def count_operators(graph):
    """How often a `GraphDef` and the functions in it have each operator, by name."""
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    return dict(collections.Counter(node.op for node in nodes).most_common())


if __name__ == "__main__":
    main(*sys.argv[1:])
