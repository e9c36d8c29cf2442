"""The loops over many accounts, compiled: what ``margin``, ``levels`` and ``stress`` do in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_array

Column = NDArray[np.float64]
Numbers = NDArray[np.intp]
Legs: TypeAlias = tuple[NDArray[Any], NDArray[Any], Column]
"""Of a sparse matrix: where rows begin, columns, sizes."""
VECTOR = 8
"""Numbers that a processor takes at a time, at most."""
Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(loop: Loop) -> Loop:
    """Compile a loop, and keep it on disk; where nothing can be kept, it is compiled at every start."""
    try:
        kept = njit(nogil=True, cache=True)(loop)
    except RuntimeError:
        kept = njit(nogil=True)(loop)
    return cast("Loop", kept)


def worst_scenarios(legs: csr_array, risk: Column) -> tuple[Column, Numbers]:
    """Return the cost of each row's worst scenario [m], 0 at least, and which it is; the first of equals."""
    loss, worst = np.empty(legs.shape[0]), np.empty(legs.shape[0], np.intp)
    # The last scenario is repeated to a whole number of vectors; the first of equals counts.
    padded = np.pad(risk, ((0, 0), (0, -risk.shape[1] % VECTOR)), mode="edge")
    _scan(legs.indptr, legs.indices, legs.data, padded, loss, worst)
    return loss, worst


@compiled
def _scan(
    indptr: NDArray[Any], indices: NDArray[Any], sizes: Column, risk: Column, loss: Column, worst: Numbers
) -> None:
    # Unsigned and in one row, so that no index is taken to count from the end.
    scenarios, arrays = np.uintp(risk.shape[1]), risk.ravel()
    gains = np.empty(risk.shape[1])
    for row in range(len(loss)):
        gains[:] = 0.0
        for leg in range(indptr[row], indptr[row + 1]):
            size, first = sizes[leg], np.uintp(indices[leg]) * scenarios
            for each in range(scenarios):
                gains[each] += size * arrays[first + each]
        least, place = gains[0], 0
        for each in range(1, len(gains)):
            if gains[each] < least:
                least, place = gains[each], each
        loss[row] = max(-least, 0.0)
        worst[row] = place


@compiled
def slices_sold(
    legs: Legs,
    accounts: tuple[Numbers, Numbers, Column],
    units: Column,
    risk: Column,
    slope: tuple[float, float],
    sold: Column,
) -> None:
    """Add up what slices sell of each underlying at each level [u, l], as ``levels.flow``.

    Accounts have a first row [n + 1], the underlying of each row [m], and equity before the fall [n];
    ``units`` [6, i, l] are those of ``levels``, ``risk`` is [i, s, l], ``slope`` is q and the fee.
    """
    indptr, indices, sizes = legs
    (first, group, held), (q, fee) = accounts, slope
    gained, bought, short, minimum, notional, delta = units
    levels = risk.shape[2]
    counted, required, most = np.empty(levels), np.empty(levels), np.empty(levels)
    profit, cost, share = np.empty(levels), np.empty(levels), np.empty(levels)
    for account in range(len(held)):
        begin, end = first[account], first[account + 1]
        counted[:], most[:], required[:], cost[:] = held[account], 0.0, 0.0, 0.0
        for leg in range(indptr[begin], indptr[end]):
            size, place = sizes[leg], indices[leg]
            _add(size, gained[place], counted)
            _add(abs(size), bought[place] if size > 0.0 else short[place], most)
        _scale_positive(q, counted)
        # Who has what all legs require by themselves needs no scenarios.
        if not _is_below(counted, most):
            continue
        for leg in range(indptr[begin], indptr[end]):
            size, place = sizes[leg], indices[leg]
            _add(max(-size, 0.0), minimum[place], required)
            _add(q * fee * abs(size), notional[place], cost)
        for row in range(begin, end):
            _add_worst(legs, row, risk, profit, most, required)
        if not _is_below(counted, required):
            continue
        _to_slices(counted, required, cost, share)
        for row in range(begin, end):
            profit[:] = 0.0
            for leg in range(indptr[row], indptr[row + 1]):
                _add(sizes[leg], delta[indices[leg]], profit)
            total = sold[group[row]]
            for level in range(levels):
                total[level] += share[level] * max(profit[level], 0.0)


@compiled
def _add_worst(legs: Legs, row: int, risk: Column, profit: Column, worst: Column, required: Column) -> None:
    indptr, indices, sizes = legs
    worst[:] = 0.0
    for scenario in range(risk.shape[1]):
        profit[:] = 0.0
        for leg in range(indptr[row], indptr[row + 1]):
            _add(sizes[leg], risk[indices[leg], scenario], profit)
        for level in range(len(worst)):
            worst[level] = min(worst[level], profit[level])
    _add(-1.0, worst, required)


@compiled
def _to_slices(counted: Column, required: Column, cost: Column, share: Column) -> None:
    for level in range(len(share)):
        lacking, relief = required[level] - counted[level], required[level] - cost[level]
        part = lacking / relief if relief > lacking > 0.0 else 1.0
        share[level] = part if lacking > 0.0 else 0.0


@compiled
def _scale_positive(factor: float, values: Column) -> None:
    for place in range(len(values)):
        values[place] = max(factor * values[place], 0.0)


@compiled
def _is_below(values: Column, bounds: Column) -> bool:
    below = 0
    for place in range(len(values)):
        below += values[place] < bounds[place]
    return below > 0


@compiled
def linear_sold(
    cash: Column,
    positions: Column,
    prices: Column,
    margins: Column,
    closes: tuple[int, int, bool, bool],
    sold: Column,
) -> None:
    """Add up what is sold of each asset at each level [a, l], in units, as ``stress.flow``.

    ``prices`` and ``margins`` of one unit are [a, l]; ``closes`` tells which accounts, from one to before
    another, whether all of a book in breach goes, and whether the breach of one that is only long lasts from
    level to level: then all of it goes from its first one on.
    """
    first, last, whole, lasts = closes
    levels = prices.shape[1]
    begun = np.zeros((prices.shape[0], levels + 1))
    equity, required, share = np.empty(levels), np.empty(levels), np.empty(levels)
    held = np.empty(len(prices), np.intp)
    for account in range(first, last):
        sizes = positions[account]
        count, is_long = _held(sizes, held)
        if whole and lasts and is_long:
            begin = _first_breach(cash[account], sizes, held[:count], prices, margins)
            for asset in held[:count]:
                begun[asset, begin] += sizes[asset]
            continue
        equity[:], required[:] = cash[account], 0.0
        for asset in held[:count]:
            _add(sizes[asset], prices[asset], equity)
            _add(abs(sizes[asset]), margins[asset], required)
        if _to_shares(equity, required, whole, share):
            for asset in held[:count]:
                _add(max(sizes[asset], 0.0), share, sold[asset])
    for asset in range(len(sold)):
        sold[asset] += np.cumsum(begun[asset])[:levels]


@compiled
def _held(sizes: Column, held: Numbers) -> tuple[int, bool]:
    count, is_long = 0, True
    for asset in range(len(sizes)):
        held[count] = asset
        count += sizes[asset] != 0.0
        is_long &= sizes[asset] >= 0.0
    return count, is_long


@compiled
def _first_breach(cash: float, sizes: Column, held: Numbers, prices: Column, margins: Column) -> int:
    begin, end = 0, prices.shape[1]
    while begin < end:
        middle, left = (begin + end) // 2, cash
        for asset in held:
            left += sizes[asset] * (prices[asset, middle] - margins[asset, middle])
        if left < 0.0:
            end = middle
        else:
            begin = middle + 1
    return begin


@compiled
def _add(size: float, units: Column, total: Column) -> None:
    for level in range(len(total)):
        total[level] += size * units[level]


@compiled
def _to_shares(equity: Column, required: Column, whole: bool, share: Column) -> bool:
    breaches = 0
    for level in range(len(share)):
        missing = required[level] - equity[level]
        part = 1.0 if whole or not required[level] > 0.0 else min(missing / required[level], 1.0)
        share[level] = part if missing > 0.0 else 0.0
        breaches += missing > 0.0
    return breaches > 0


def reaching(samples: Column, bounds: Column) -> Column:
    """Collect what reaches the bounds, as ``upper.Collect``."""
    # The first number after the last one that is kept is written, too.
    ends, widths = np.empty((len(samples), samples.shape[1] + 1)), np.empty(len(samples), np.intp)
    _reaching(samples, bounds, ends, widths)
    width = widths.max()
    return np.where(np.arange(width) < widths[:, None], ends[:, :width], -np.inf)


@compiled
def _reaching(samples: Column, bounds: Column, ends: Column, widths: Numbers) -> None:
    for row in range(len(samples)):
        values, kept, bound = samples[row], ends[row], bounds[row]
        # Every number is written, and stays where it is kept: no branch to guess.
        place = np.uintp(0)
        for column in range(len(values)):
            kept[place] = values[column]
            place += np.uintp(values[column] >= bound)
        widths[row] = place
