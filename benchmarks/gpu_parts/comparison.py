"""Compares what the processes of `agreement` left, without a backend."""

import pathlib

import numpy as np

COMPARED = ("forward", "training step")

# A weight is looked at alone if its gradient has this share of the norm of all.
LEAST_SHARE = 1e-3


def result_path(folder, part, network, precision):
    """Where the outputs are; gradients are beside them."""
    return pathlib.Path(folder) / f"{part}.{network}.{precision}.npz"


def gradients_path(path):
    return path.with_suffix(".gradients.npz")


def compare(folder, rows, reference="reference"):
    """Adds to rows how far their numbers are from the reference's.

    `difference`: for each output, |out - ref| / |ref| in the Euclidean norm, the largest of
    them; for a step, the same of all gradients together, `worst` and `worst_weight` of the
    weight that is furthest, and `loss_difference`, relative too.
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
        own, expected = (dict(np.load(path)) for path in (own, expected))
        if row["what"] == "forward":
            row["difference"] = max(distance(own[key], expected[key]) for key in expected)
            continue
        row["difference"] = distance(*(np.concatenate(list(x.values())) for x in (own, expected)))
        least = LEAST_SHARE * np.linalg.norm(np.concatenate(list(expected.values())))
        differences = {
            path: distance(own[path], gradient)
            for path, gradient in expected.items()
            if np.linalg.norm(gradient) > least
        }
        row["worst_weight"] = max(differences, key=differences.get)
        row["worst"] = differences[row["worst_weight"]]
        row["loss_difference"] = abs(row["loss"] / losses[row["network"]] - 1)


def distance(own, expected):
    """|own - expected| / |expected|."""
    return float(np.linalg.norm(own - expected) / np.linalg.norm(expected))
