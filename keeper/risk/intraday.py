"""What sets returns within a day apart from daily ones: the hour they are of, and jumps.

Markets that never close still have busy hours, and a crash is a jump more often than a busy hour. A model of
daily returns fits hourly ones only after both are dealt with: divide by the factors of `calm_factors`, and
multiply what is forecast by the factor of its hour.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keeper.errors import BadInput
from keeper.risk import inputs
from keeper.risk.inputs import Floats

DAY_H = 24
MEAN_ABS = math.sqrt(2 / math.pi)
"""The mean distance from 0 of a standard normal variable."""


def diurnal_factors(returns: ArrayLike, slots: ArrayLike, *, count: int = DAY_H) -> Floats:
    """Return how large returns [n] of each slot are next to all, [count]; the mean of the squares is 1.

    ``slots`` [n] are integers from 0 on: the hour of the day, or of 168 of the week. Returns divided by the
    factors of their slots have one variance in all slots.

    Raises BadInput for shapes that differ, a slot out of range, and one in which nothing moves.
    Source: Taylor, Xu, "The incremental volatility information in one million foreign exchange quotations"
    (1997): the root of the mean square by slot.
    """
    moves = inputs.finite("returns", returns, 1)
    at = slots_of(slots, moves.shape, inputs.count("count", count))
    times = np.bincount(at, minlength=count)
    squares = np.bincount(at, moves**2, minlength=count)
    if not (squares > 0).all():
        raise BadInput(f"every slot must hold a return other than 0, found none in {np.argmin(squares)}")
    variance = squares / times
    return np.asarray(np.sqrt(variance / variance.mean()))


def calm_factors(returns: ArrayLike, slots: ArrayLike, *, count: int = DAY_H) -> Floats:
    """Return `diurnal_factors` of returns [n] without their jumps, which would make an hour busy for ever.

    What is a jump is asked of returns over the median size in their slot: else every busy hour would be full
    of them. Raises BadInput as `diurnal_factors`, for returns no more than the window of `without_jumps`, and
    a slot in which most returns are 0.

    Source: Boudt, Croux, Laurent, "Robust estimation of intraweek periodicity in volatility and jump
    detection" (2011), whose first estimate is the median too.
    """
    moves = inputs.finite("returns", returns, 1)
    at = slots_of(slots, moves.shape, inputs.count("count", count))
    sizes = _medians(np.abs(moves), at, count)
    if not (sizes > 0).all():
        raise BadInput(f"most returns of every slot must differ from 0, found others in {np.argmin(sizes)}")
    return diurnal_factors(without_jumps(moves / sizes[at]) * sizes[at], at, count=count)


def bipower_variance(returns: ArrayLike) -> float:
    """Return the mean variance of returns [n] without that of jumps: pi/2 times the mean of |r| |r before|.

    Raises BadInput for fewer than 2 returns.
    Source: Barndorff-Nielsen, Shephard, "Power and bipower variation with stochastic volatility and jumps"
    (2004).
    """
    size = np.abs(inputs.finite("returns", returns, 1))
    if len(size) < 2:
        raise BadInput("returns must be 2 or more")
    return float(np.mean(size[1:] * size[:-1]) / MEAN_ABS**2)


def jumps(returns: ArrayLike, *, window: int = 156, significance: float = 0.01) -> NDArray[np.bool_]:
    """Tell which returns [n] are too large for the volatility of those before: jumps.

    So large would be the largest of n returns without jumps with the probability of ``significance`` only.
    The volatility is bipower, over the ``window`` returns before; of the first ones nothing is said.

    Raises BadInput for returns no more than the window, a window below 4, and a significance outside (0,
    1).
    Source: Lee, Mykland, "Jumps in financial markets: a new nonparametric test and jump dynamics" (2008),
    definition 1 and lemma 1; 156 is their window for hours of stocks.
    """
    moves = inputs.finite("returns", returns, 1)
    mask: NDArray[np.bool_] = np.abs(moves) > _largest(moves, window, significance)
    return mask


def without_jumps(returns: ArrayLike, *, window: int = 156, significance: float = 0.01) -> Floats:
    """Return returns [n], jumps cut to the largest move that is none. Raises BadInput as `jumps`."""
    moves = inputs.finite("returns", returns, 1)
    most = _largest(moves, window, significance)
    return np.clip(moves, -most, most)


def slots_of(slots: ArrayLike, shape: tuple[int, ...], count: int) -> NDArray[np.int64]:
    """Return slots, one for each return. Raises BadInput for another shape, and one outside [0, count)."""
    found = np.asarray(slots)
    if found.shape != shape or not np.issubdtype(found.dtype, np.integer):
        raise BadInput(f"slots must be {shape[0]} integers, found {found.dtype} of the shape {found.shape}")
    if found.min() < 0 or found.max() >= count:
        raise BadInput(f"slots must lie in [0, {count - 1}], found {found.min()} to {found.max()}")
    return found.astype(np.int64)


def _medians(values: Floats, slots: NDArray[np.int64], count: int) -> Floats:
    """Return the median of the values [n] in each slot [count]; 0 where there is none."""
    ordered = values[np.lexsort((values, slots))]
    times = np.bincount(slots, minlength=count)
    begin, some = np.cumsum(times) - times, np.flatnonzero(times)
    found = np.zeros(count)
    low, high = (begin + (times - 1) // 2)[some], (begin + times // 2)[some]
    found[some] = (ordered[low] + ordered[high]) / 2
    return found


def _largest(moves: Floats, window: int, significance: float) -> Floats:
    """Return the largest size [n] of a return that is no jump; infinite of those that nothing is said of."""
    n, width = len(moves), inputs.count("window", window, least=4)
    rare = inputs.probability("significance", significance)
    if n <= width:
        raise BadInput(f"returns must be more than the window of {width}, found {n}")
    root = math.sqrt(2 * math.log(n))
    centre = (root - (math.log(math.pi) + math.log(math.log(n))) / (2 * root)) / MEAN_ABS
    bound = centre - math.log(-math.log1p(-rare)) / (MEAN_ABS * root)
    products = np.abs(moves[1:]) * np.abs(moves[:-1])
    # Product j is of the returns j and j + 1: of a return i count those up to i - 2, width - 2 of them.
    means = np.lib.stride_tricks.sliding_window_view(products, width - 2).mean(axis=1)
    most = np.full(n, np.inf)
    most[width:] = bound * np.sqrt(means[1 : n - width + 1])
    return most
