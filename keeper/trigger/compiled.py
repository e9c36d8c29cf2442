"""The loops of the sieve, compiled. ``plain`` does the same in numpy, to the bit.

One pass over the legs in the order in which they lie; the marks of all columns stay in the nearest cache. The
interpreter's lock is let go of, so that two threads can share a book. Shapes and meaning: ``terms``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from keeper.columns.legs import Floats
from keeper.risk.marks import ALONE, Groups, Netting
from keeper.trigger.terms import BELOW, PER, SHELVES, Held, Singles, Terms

Numbers = NDArray[np.int32]
Loop = TypeVar("Loop", bound=Callable[..., Any])

ONE = np.uintp(1)


def compiled(loop: Loop) -> Loop:
    """Compile a loop, and keep it on disk; where nothing can be kept, it is compiled at every start."""
    try:
        kept = njit(nogil=True, cache=True)(loop)
    except RuntimeError:
        kept = njit(nogil=True)(loop)
    return cast("Loop", kept)


def fill(
    value: Floats,
    gross: Floats,
    netting: Netting,
    levels: Floats,
    relative: float,
    net: Floats,
    against: NDArray[np.bool_],
) -> None:
    """Fill in ``Terms.net`` and ``against`` [k, codes] from value and gross [k or 1, columns]."""
    parts = (netting.group, netting.short, netting.doubtful, netting.money)
    _fill(value, gross, *parts, levels, relative, net, against)


@compiled
def _fill(
    value: Floats,
    gross: Floats,
    group: Groups,
    short: Floats,
    doubtful: NDArray[np.bool_],
    charged: Floats,
    levels: Floats,
    relative: float,
    net: Floats,
    against: NDArray[np.bool_],
) -> None:
    for of in range(net.shape[0]):
        row, other = min(of, value.shape[0] - 1), min(of, gross.shape[0] - 1)
        for column in range(value.shape[1]):
            worth, charge = value[row, column], gross[other, column]
            rounding = relative * (abs(worth) + charge + charged[column])
            nets = group[column] != ALONE
            if nets:
                charge = 0.0
            for side in range(2):
                sign = 1.0 - 2.0 * side
                required = charge + short[column] * side
                found = sign * (worth * sign - rounding - levels[of] * required)
                if not np.isfinite(found):
                    found = np.nan
                elif doubtful[column]:
                    found = -sign * np.inf
                net[of, 2 * column + side] = found
                against[of, 2 * column + side] = nets or required != 0 or worth * sign < 0


def sieve(
    held: Held,
    terms: Terms,
    rows: Numbers,
    begin: int,
    end: int,
    surplus: Floats,
    out: Numbers,
) -> tuple[int, int]:
    """Add up the surplus of rows[begin:end], or of the rows themselves where none are listed.

    Write them into surplus[begin:end], unless that is empty, and into out[begin:] which rows are not above 0
    and not at rest. Return how many these are, and how many are unknown.
    """
    add_up = _together if terms.risk.shape[1] else _alone
    found, unknown = add_up(held, terms, rows, begin, end, surplus, out)
    return _without_resting(held, terms, begin, found, out), unknown


@compiled
def _alone(
    held: Held, terms: Terms, rows: Numbers, begin: int, end: int, surplus: Floats, out: Numbers
) -> tuple[int, int]:
    """Do that where nothing nets. Kept apart, for it is a fifth faster without the other.

    All that the loop reads has a variable of its own, and no comparison is chained: that is a third faster.
    """
    first, counts, codes, sizes, cashes, classes = held
    net, relative, absolute, several = terms.net, terms.relative, terms.absolute, terms.levels.shape[0] > 1
    listed, keep = rows.shape[0] > 0, surplus.shape[0] > 0
    found = unknown = 0
    for at in range(begin, end):
        row = np.uintp(rows[at] if listed else at)
        of = np.uintp(classes[row] if several else 0)
        cash = cashes[row]
        left = cash - relative * abs(cash) - absolute
        leg = np.uintp(first[row])
        last = leg + np.uintp(counts[row])
        while leg < last:
            left += sizes[leg] * net[of, codes[leg]]
            leg += ONE
        if keep:
            surplus[at] = left
        if not (left > 0 and left < np.inf):
            if np.isnan(left):
                unknown += 1
            else:
                out[begin + found] = row
                found += 1
    return found, unknown


@compiled
def _together(
    held: Held, terms: Terms, rows: Numbers, begin: int, end: int, surplus: Floats, out: Numbers
) -> tuple[int, int]:
    """Do that where the legs of a group, which lie side by side, require what their worst scenario does."""
    first, counts, codes, sizes, cashes, classes = held
    net, alone, _, levels, risk, group, relative, absolute = terms
    scenarios, several = risk.shape[1], levels.shape[0] > 1
    listed, keep = rows.shape[0] > 0, surplus.shape[0] > 0
    together = np.zeros(scenarios)
    found = unknown = 0
    for at in range(begin, end):
        row = np.uintp(rows[at] if listed else at)
        of = np.uintp(classes[row] if several else 0)
        cash = cashes[row]
        left = cash - relative * abs(cash) - absolute
        leg = np.uintp(first[row])
        last = leg + np.uintp(counts[row])
        worst = 0.0
        after = -1
        if leg < last:
            after = group[codes[leg] >> 1]
        while leg < last:
            size, code, now = sizes[leg], codes[leg], after
            left += size * net[of, code]
            leg += ONE
            after = -1
            if leg < last:
                after = group[codes[leg] >> 1]
            if now < 0:
                continue
            if after != now:
                worst += size * alone[code]
                continue
            for each in range(scenarios):
                together[each] = size * risk[code >> 1, each]
            while after == now:
                size, code = sizes[leg], codes[leg]
                left += size * net[of, code]
                for each in range(scenarios):
                    together[each] += size * risk[code >> 1, each]
                leg += ONE
                after = -1
                if leg < last:
                    after = group[codes[leg] >> 1]
            least = 0.0
            for each in range(scenarios):
                least = min(least, together[each])
            worst -= least
        left -= levels[of] * worst
        if keep:
            surplus[at] = left
        if not (left > 0 and left < np.inf):
            if np.isnan(left):
                unknown += 1
            else:
                out[begin + found] = row
                found += 1
    return found, unknown


@compiled
def _without_resting(held: Held, terms: Terms, begin: int, found: int, out: Numbers) -> int:
    """Take out of ``out`` who is at rest; return how many are left."""
    kept = 0
    for at in range(begin, begin + found):
        if not _is_at_rest(held, terms, out[at]):
            out[begin + kept] = out[at]
            kept += 1
    return kept


@compiled
def _is_at_rest(held: Held, terms: Terms, row: int) -> bool:
    of = held.classes[row] if terms.levels.shape[0] > 1 else 0
    for leg in range(held.first[row], held.first[row] + held.counts[row]):
        if terms.against[of, held.codes[leg]]:
            return False
    return bool(held.cash[row] >= 0)


@compiled
def measure(
    held: Held,
    terms: Terms,
    units: Floats,
    rows: Numbers,
    begin: int,
    end: int,
    surplus: Floats,
    away: Singles,
) -> None:
    """Write into ``away`` [n] how far off rows[begin:end] are, or the rows themselves where none are listed.

    That is surplus[begin:end] over the *reach*: sizes times ``units`` [k, codes], added up. Whom no move
    brings to breach is infinitely far off; NaN is who is unknown, and less than 0 or 0 whom nothing clears.
    """
    several, listed = units.shape[0] > 1, rows.shape[0] > 0
    for at in range(begin, end):
        row = rows[at] if listed else at
        of = held.classes[row] if several else 0
        left, reach = surplus[at], 0.0
        for leg in range(held.first[row], held.first[row] + held.counts[row]):
            reach += abs(held.sizes[leg]) * units[of, held.codes[leg]]
        if np.isnan(left):
            away[row] = np.nan
        elif not 0 < left < np.inf and _is_at_rest(held, terms, row):
            away[row] = np.inf
        elif np.isfinite(left) and reach > 0:
            away[row] = left / reach * BELOW
        else:
            away[row] = np.inf if 0 < left < np.inf else -np.inf


@compiled
def apart(now: Terms, then: Terms, units: Floats, out: Floats) -> None:
    """Write into ``out`` [columns] how far the terms of each column are apart, in ``units`` [k, codes].

    Infinite where one is a number and the other is none, and where what counted for an account may count
    against it now, or the other way round; 0 where both are none: whoever holds that is unknown anyway.
    """
    for column in range(out.shape[0]):
        loss = 0.0
        for each in range(now.risk.shape[1]):
            loss = max(loss, abs(now.risk[column, each] - then.risk[column, each]))
        most = 0.0
        for of in range(now.net.shape[0]):
            for code in (2 * column, 2 * column + 1):
                value, was = now.net[of, code], then.net[of, code]
                if np.isnan(value) and np.isnan(was):
                    continue
                if now.against[of, code] != then.against[of, code]:
                    money = np.inf
                elif value == was:
                    money = 0.0
                elif np.isfinite(value) and np.isfinite(was):
                    money = abs(value - was)
                else:
                    money = np.inf
                money += now.levels[of] * loss
                if money > 0:
                    unit = units[of, code]
                    most = max(most, money / unit if unit > 0 else np.inf)
        out[column] = most


@compiled
def index(held: Held, width: int, away: Singles) -> tuple[NDArray[np.int64], Numbers]:
    """List who holds each column by shelf of ``away`` [n], and after all columns everybody.

    Return ``starts`` and rows: those of column c and shelf s begin at starts[c * SHELVES + s] and end where
    the next ones begin.
    """
    ends = np.zeros((width + 1) * SHELVES + 1, np.int64)
    for row in range(held.first.shape[0]):
        shelf = _shelf(away[row])
        if shelf < SHELVES:
            ends[width * SHELVES + shelf + 1] += 1
            for leg in range(held.first[row], held.first[row] + held.counts[row]):
                ends[(held.codes[leg] >> 1) * SHELVES + shelf + 1] += 1
    for each in range(1, ends.shape[0]):
        ends[each] += ends[each - 1]
    starts, rows = ends.copy(), np.empty(ends[-1], np.int32)
    for row in range(held.first.shape[0]):
        shelf = _shelf(away[row])
        if shelf < SHELVES:
            rows[ends[width * SHELVES + shelf]] = row
            ends[width * SHELVES + shelf] += 1
            for leg in range(held.first[row], held.first[row] + held.counts[row]):
                column = held.codes[leg] >> 1
                rows[ends[column * SHELVES + shelf]] = row
                ends[column * SHELVES + shelf] += 1
    return starts, rows


@compiled
def _shelf(away: float) -> int:
    """Return on which shelf so far off is; ``SHELVES`` beyond the last, and of who is unknown."""
    place = np.float64(away) * PER
    return int(max(place, 0.0)) if place < SHELVES else SHELVES
