"""Rows of numbers from a record's times."""

from keras_sepvit.benchmark import ratios
from keras_sepvit.benchmark.catalogue import catalogue_model

# A training step's products over a forward pass's: the backward pass has two for each.
STEP_FACTOR = {"inference": 1, "train": 3}


def summarise(record):
    """The rows of all tables.

    Args:
        record: The result of `run_benchmark`.

    Returns:
        A list of dicts, one for each backend, task, batch size, model, precision and mode:

        - `ms`: as `ratios.latency`; `images_per_second`, median of turns
        - `first_is_faster`: median and quartiles of (time / first model's time), in the same
          precision and mode
        - `best_mode`: whether no other mode of this model and precision has a lower median
        - `best_first_is_faster`: the same as `first_is_faster`, between the best modes;
          only in rows of best modes
        - `faster_than_float32`: ratio to this model's best mode in float32; only in rows
          of best modes in other precisions
        - `gflops`, `share`: achieved, from the MACs of the traced graph, and in proportion
          to the rate of matrix products in the same round
        - `note`, or `error` instead of all numbers
    """
    rows = []
    for backend, result in record["backends"].items():
        for group in result["groups"]:
            rows += _group_rows(record, backend, result, group)
    return rows


def _group_rows(record, backend, result, group):
    first = record["settings"]["models"][0]
    timed = [row for row in group["rows"] if "turns_ms" in row]
    turns = {(row["model"], row["precision"], row["mode"]): row["turns_ms"] for row in timed}
    best = _best_modes(turns)
    rows = []
    for row in group["rows"]:
        model, precision, mode = row["model"], row["precision"], row["mode"]
        summary = {
            "backend": backend,
            "task": group["task"],
            "batch_size": group["batch_size"],
            "model": model,
            "title": catalogue_model(model).title,
            "precision": precision,
            "mode": mode,
            "note": row.get("note"),
        }
        rows.append(summary)
        if "turns_ms" not in row:
            summary["error"] = row["error"]
            continue
        own = row["turns_ms"]
        ms = ratios.latency(own)
        summary |= {
            "ms": ms,
            "images_per_second": 1e3 * group["batch_size"] / ms["turn"]["median"],
            "first_call_s": row["first_call_s"],
            "best_mode": best[model, precision] == mode,
        }
        if (first, precision, mode) in turns:
            summary["first_is_faster"] = ratios.ratio(turns[first, precision, mode], own)
        if summary["best_mode"]:
            if (first, precision) in best:
                other = turns[first, precision, best[first, precision]]
                summary["best_first_is_faster"] = ratios.ratio(other, own)
            if precision != "float32" and (model, "float32") in best:
                other = turns[model, "float32", best[model, "float32"]]
                summary["faster_than_float32"] = ratios.ratio(own, other)
        macs = result["models"][model].get("macs")
        if macs is not None:
            gflop = 2e-9 * macs * group["batch_size"] * STEP_FACTOR[group["task"]]
            summary["gflops"] = gflop / (1e-3 * ms["turn"]["median"])
            if precision in group["product_gflops"]:
                rates = group["product_gflops"][precision]
                summary["share"] = ratios.share(own, gflop, rates)
    return rows


def _best_modes(turns):
    """The mode of the lowest median time, by (model, precision)."""
    best = {}
    for (model, precision, mode), values in turns.items():
        median = ratios.quartiles(ratios.round_medians(values))["median"]
        if (model, precision) not in best or median < best[model, precision][0]:
            best[model, precision] = (median, mode)
    return {key: mode for key, (_, mode) in best.items()}
