"""What is made of milliseconds: medians, quartiles, percentiles, ratios in the same round."""

import numpy as np


def quartiles(values):
    """Median and quartiles of numbers, as a dict."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return {"median": float(middle), "low": float(low), "high": float(high)}


def round_medians(turns):
    """The median of each turn: a list for each round in, one number for each out."""
    return [float(np.median(turn)) for turn in turns]


def ratio(turns, others):
    """How many times as long others took as these, by rounds: above 1 is faster than others.

    Both are lists of turns, of the same rounds. A machine that slows down or is shared
    changes both times of a round alike, and not their ratio.
    """
    pairs = zip(round_medians(turns), round_medians(others), strict=True)
    return quartiles([other / own for own, other in pairs])


def latency(turns):
    """Median, 90th and 99th percentile of all calls, their number, and quartiles of turns."""
    calls = np.concatenate([np.asarray(turn) for turn in turns])
    middle, p90, p99 = np.percentile(calls, (50, 90, 99))
    return {
        "p50": float(middle),
        "p90": float(p90),
        "p99": float(p99),
        "calls": len(calls),
        "turn": quartiles(round_medians(turns)),
    }


def share(turns, gflop, rates):
    """Share of the machine's rate of products in the same round, 0..1.

    Args:
        turns: Lists of milliseconds of calls, by round.
        gflop: Floating-point operations of a call, in billions.
        rates: GFLOP/s of matrix products, by round.
    """
    pairs = zip(round_medians(turns), rates, strict=True)
    return quartiles([gflop / (1e-3 * milliseconds) / rate for milliseconds, rate in pairs])
