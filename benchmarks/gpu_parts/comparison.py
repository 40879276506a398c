"""Compares what the processes of `agreement` left, without a backend."""

import pathlib

import numpy as np

COMPARED = ("forward", "training step")


def result_path(folder, part, network, precision):
    """Where the outputs are; gradients are beside them."""
    return pathlib.Path(folder) / f"{part}.{network}.{precision}.npz"


def gradients_path(path):
    return path.with_suffix(".gradients.npz")


def compare(folder, rows, reference="reference"):
    """Adds to rows how far their numbers are from the reference's.

    `difference`: for each output, |out - ref| / |ref| in the Euclidean norm, the largest of
    them; for a step, the same of all gradients together, and `loss_difference`, relative too.
    """
    losses = {
        row["network"]: row["loss"] for row in rows if row["part"] == reference and "loss" in row
    }
    for row in rows:
        done = "difference" in row or row["part"] == reference
        if done or row["what"] not in COMPARED or "finite" not in row:
            continue
        own = result_path(folder, row["part"], row["network"], row["precision"])
        expected = result_path(folder, reference, row["network"], "float32")
        if row["what"] == "training step":
            own, expected = gradients_path(own), gradients_path(expected)
        if not expected.exists() or row["what"] == "training step" and row["network"] not in losses:
            continue  # the reference is not there yet, or failed
        with np.load(own) as own, np.load(expected) as expected:
            if row["what"] == "forward":
                row["difference"] = max(distance([own[k]], [expected[k]]) for k in expected)
            else:
                keys = list(expected)
                row["difference"] = distance([own[k] for k in keys], [expected[k] for k in keys])
                loss = losses[row["network"]]
                row["loss_difference"] = abs(row["loss"] - loss) / abs(loss)


def distance(own, expected):
    """|own - expected| / |expected|, of lists of arrays."""
    own, expected = (np.concatenate([x.ravel() for x in xs]) for xs in (own, expected))
    return float(np.linalg.norm(own - expected) / np.linalg.norm(expected))
