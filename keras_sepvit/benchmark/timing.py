"""Times functions in turns, and what is made of milliseconds: percentiles, ratios by rounds."""

import math
import time

import numpy as np

# A turn lasts at least this long, in calls: one call of a few milliseconds says little.
TURN_SECONDS = 0.25
MOST_CALLS = 50

# A percentile is told from so many calls on, of which two are beyond it.
ENOUGH_CALLS = {90: 20, 99: 200}


def call_milliseconds(function):
    """Milliseconds of one call of a function that returns when its work is done."""
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def calls_of_a_turn(milliseconds):
    """How many calls make a turn, for a function whose call takes so long."""
    return min(MOST_CALLS, max(1, math.ceil(1e3 * TURN_SECONDS / milliseconds)))


def time_in_turns(functions, rounds, between=None):
    """Times functions in turns, every other round in reverse order.

    Args:
        functions: By name; each returns when its work is done, and has been called before.
        rounds: How often each has its turn.
        between: Called once in each round, without being timed.

    Returns:
        By name, a list for each round, of milliseconds by call.
    """
    calls = {
        name: calls_of_a_turn(call_milliseconds(function)) for name, function in functions.items()
    }
    turns = {name: [] for name in functions}
    order = list(functions)
    for _ in range(rounds):
        if between is not None:
            between()
        for name in order:
            turns[name].append([call_milliseconds(functions[name]) for _ in range(calls[name])])
        order.reverse()
    return turns


def quartiles(values):
    """Median and quartiles of numbers, as a dict."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return {"median": float(middle), "low": float(low), "high": float(high)}


def round_medians(turns):
    """The median of each turn: a list for each round in, one number for each out."""
    return [float(np.median(turn)) for turn in turns]


def ratio(turns, others, rounds):
    """How many times as long others took as these, by rounds: above 1 is faster than others.

    A machine that slows down or is shared changes both times of a round alike, and not
    their ratio. What differs between processes, such as where memory lies, changes it.

    Args:
        turns: Lists of milliseconds, those of one process after those of another.
        others: The same of another program, in the same rounds.
        rounds: Turns in a process.

    Returns:
        Median and quartiles over the rounds of one process; of several processes, the
        median, lowest and highest of their medians.
    """
    pairs = zip(round_medians(turns), round_medians(others), strict=True)
    ratios = [other / own for own, other in pairs]
    if len(ratios) <= rounds:
        return quartiles(ratios)
    starts = range(0, len(ratios), rounds)
    medians = [float(np.median(ratios[start : start + rounds])) for start in starts]
    return {"median": float(np.median(medians)), "low": min(medians), "high": max(medians)}


def latency(turns):
    """Median, 90th and 99th percentile of all calls, their number, and quartiles of turns.

    A percentile is None where calls are fewer than `ENOUGH_CALLS`.
    """
    calls = np.concatenate([np.asarray(turn) for turn in turns])
    percentiles = {
        f"p{share}": float(np.percentile(calls, share)) if len(calls) >= least else None
        for share, least in ENOUGH_CALLS.items()
    }
    turn = quartiles(round_medians(turns))
    return {"p50": float(np.median(calls)), **percentiles, "calls": len(calls), "turn": turn}
