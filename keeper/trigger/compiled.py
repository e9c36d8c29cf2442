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
from keeper.trigger.terms import AT_REST, FINITE, Held, Terms

Numbers = NDArray[np.int32]
Loop = TypeVar("Loop", bound=Callable[..., Any])

ONE = np.uintp(1)
AHEAD = 256
"""Rows here and there whose memory is asked for before the first of them is worked on,"""
APART = 8
"""where they lie so far apart."""


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
    state: Floats,
    bar: float,
    keep: bool,
    out: Numbers,
) -> tuple[int, int]:
    """Compute the surplus of rows[begin:end], or of the rows themselves where none are listed.

    Where ``keep``, write it into ``state`` [n, 2]. Write into out[begin:] which rows are not above ``bar``
    times their reach, and return how many these are, and how many are unknown.
    """
    add_up = _together if terms.risk.shape[1] else _alone
    found, unknown, _ = add_up(held, terms, rows, begin, end, state, bar, keep, out)
    return _without_resting(held, terms, begin, found, state, keep, out), unknown


@compiled
def _touched(held: Held, rows: Numbers, begin: int, end: int, state: Floats) -> float:
    """Read a little of all that rows[begin:end] will be asked for: memory answers many such reads together.

    The sum means nothing; without it the compiler would leave the reads out.
    """
    touched = 0.0
    for at in range(begin, end):
        row = rows[at]
        touched += held.cash[row] + state[row, 1]
        if held.counts[row] > 0:
            leg = held.first[row]
            touched += held.sizes[leg] + held.codes[leg]
    return touched


@compiled
def _alone(
    held: Held,
    terms: Terms,
    rows: Numbers,
    begin: int,
    end: int,
    state: Floats,
    bar: float,
    keep: bool,
    out: Numbers,
) -> tuple[int, int, float]:
    """Do that where nothing nets. Kept apart, for it is a fifth faster without the other."""
    net, several, listed = terms.net, terms.levels.shape[0] > 1, rows.shape[0] > 0
    found = unknown = 0
    touched, ahead = 0.0, listed and begin < end and rows[end - 1] - rows[begin] > APART * (end - begin)
    for at in range(begin, end):
        if ahead and (at - begin) % AHEAD == 0:
            touched += _touched(held, rows, at, min(at + AHEAD, end), state)
        row = rows[at] if listed else at
        of = held.classes[row] if several else 0
        cash = held.cash[row]
        surplus = cash - terms.relative * abs(cash) - terms.absolute
        leg = np.uintp(held.first[row])
        last = leg + np.uintp(held.counts[row])
        while leg < last:
            surplus += held.sizes[leg] * net[of, held.codes[leg]]
            leg += ONE
        if keep:
            state[row, 0] = surplus
        if not (surplus > bar * state[row, 1] and surplus < FINITE):
            if np.isnan(surplus):
                unknown += 1
            else:
                out[begin + found] = row
                found += 1
    return found, unknown, touched


@compiled
def _together(
    held: Held,
    terms: Terms,
    rows: Numbers,
    begin: int,
    end: int,
    state: Floats,
    bar: float,
    keep: bool,
    out: Numbers,
) -> tuple[int, int, float]:
    """Do that where the legs of a group, which lie side by side, require what their worst scenario does."""
    net, alone, risk, group, levels = terms.net, terms.alone, terms.risk, terms.group, terms.levels
    scenarios, several, listed = risk.shape[1], levels.shape[0] > 1, rows.shape[0] > 0
    together = np.zeros(scenarios)
    found = unknown = 0
    touched, ahead = 0.0, listed and begin < end and rows[end - 1] - rows[begin] > APART * (end - begin)
    for at in range(begin, end):
        if ahead and (at - begin) % AHEAD == 0:
            touched += _touched(held, rows, at, min(at + AHEAD, end), state)
        row = rows[at] if listed else at
        of = held.classes[row] if several else 0
        cash = held.cash[row]
        surplus = cash - terms.relative * abs(cash) - terms.absolute
        leg = np.uintp(held.first[row])
        last = leg + np.uintp(held.counts[row])
        worst = 0.0
        after = -1
        if leg < last:
            after = group[held.codes[leg] >> 1]
        while leg < last:
            size, code, now = held.sizes[leg], held.codes[leg], after
            surplus += size * net[of, code]
            leg += ONE
            after = -1
            if leg < last:
                after = group[held.codes[leg] >> 1]
            if now < 0:
                continue
            if after != now:
                worst += size * alone[code]
                continue
            for each in range(scenarios):
                together[each] = size * risk[code >> 1, each]
            while after == now:
                size, code = held.sizes[leg], held.codes[leg]
                surplus += size * net[of, code]
                for each in range(scenarios):
                    together[each] += size * risk[code >> 1, each]
                leg += ONE
                after = -1
                if leg < last:
                    after = group[held.codes[leg] >> 1]
            least = 0.0
            for each in range(scenarios):
                least = min(least, together[each])
            worst -= least
        surplus -= levels[of] * worst
        if keep:
            state[row, 0] = surplus
        if not (surplus > bar * state[row, 1] and surplus < FINITE):
            if np.isnan(surplus):
                unknown += 1
            else:
                out[begin + found] = row
                found += 1
    return found, unknown, touched


@compiled
def _without_resting(
    held: Held, terms: Terms, begin: int, found: int, state: Floats, keep: bool, out: Numbers
) -> int:
    """Take out of ``out`` who is at rest; return how many are left."""
    several = terms.levels.shape[0] > 1
    kept = 0
    for at in range(begin, begin + found):
        row = out[at]
        of = held.classes[row] if several else 0
        at_rest = held.cash[row] >= 0
        for each in range(held.first[row], held.first[row] + held.counts[row]):
            at_rest &= not terms.against[of, held.codes[each]]
        if not at_rest:
            out[begin + kept] = row
            kept += 1
        elif keep:
            state[row, 0] = AT_REST
    return kept


@compiled
def measure(held: Held, units: Floats, rows: Numbers, begin: int, end: int, state: Floats) -> None:
    """Write into ``state`` [n, 2] how far a surplus reaches: sizes times ``units`` [k, codes], added up."""
    several, listed = units.shape[0] > 1, rows.shape[0] > 0
    for at in range(begin, end):
        row = rows[at] if listed else at
        of = held.classes[row] if several else 0
        reach = 0.0
        for leg in range(held.first[row], held.first[row] + held.counts[row]):
            reach += abs(held.sizes[leg]) * units[of, held.codes[leg]]
        state[row, 1] = reach


def shift(
    rows: Numbers,
    sizes: Floats,
    classes: NDArray[np.unsignedinteger],
    moved: Floats,
    stale: NDArray[np.bool_],
    state: Floats,
    bar: float,
    begin: int,
    end: int,
    out: Numbers,
) -> int:
    """Move the surplus of rows[begin:end] by their sizes times ``moved`` [k, side], unless ``stale`` [n].

    Write into out[begin:] which are not above ``bar`` times their reach, and return how many.
    """
    found, _ = _shift(rows, sizes, classes, moved, stale, state, bar, begin, end, out)
    return found


@compiled
def _shift(
    rows: Numbers,
    sizes: Floats,
    classes: NDArray[np.unsignedinteger],
    moved: Floats,
    stale: NDArray[np.bool_],
    state: Floats,
    bar: float,
    begin: int,
    end: int,
    out: Numbers,
) -> tuple[int, float]:
    several, doubt = moved.shape[0] > 1, stale.shape[0] > 0
    found = 0
    touched, ahead = 0.0, begin < end and rows[end - 1] - rows[begin] > APART * (end - begin)
    for at in range(begin, end):
        if ahead and (at - begin) % AHEAD == 0:
            # As in ``_touched``.
            for each in range(at, min(at + AHEAD, end)):
                touched += state[rows[each], 0]
        row, size = rows[at], sizes[at]
        if doubt and stale[row]:
            continue
        of = classes[row] if several else 0
        surplus = state[row, 0] + size * moved[of, 1 if size < 0 else 0]
        state[row, 0] = surplus
        if not (surplus > bar * state[row, 1]) and not np.isnan(surplus):
            out[begin + found] = row
            found += 1
    return found, touched


@compiled
def within(rows: Numbers, state: Floats, bar: float, out: Numbers) -> int:
    """Write into ``out`` which rows are not above ``bar`` times their reach; return how many."""
    found = 0
    for row in rows:
        surplus = state[row, 0]
        if not (surplus > bar * state[row, 1] and surplus < FINITE) and not np.isnan(surplus):
            out[found] = row
            found += 1
    return found


@compiled
def apart(now: Terms, then: Terms, units: Floats, out: Floats) -> None:
    """Write into ``out`` [columns] how far the terms of each column are apart, in ``units`` [k, codes].

    Infinite where one is a number and the other is none, and where what counted for an account may count
    against it now, or the other way round.
    """
    for column in range(out.shape[0]):
        loss = 0.0
        for each in range(now.risk.shape[1]):
            loss = max(loss, abs(now.risk[column, each] - then.risk[column, each]))
        most = 0.0
        for of in range(now.net.shape[0]):
            for code in (2 * column, 2 * column + 1):
                value, was = now.net[of, code], then.net[of, code]
                if now.against[of, code] != then.against[of, code]:
                    money = np.inf
                elif value == was or (np.isnan(value) and np.isnan(was)):
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
def index(held: Held, width: int, starts: NDArray[np.int64], rows: Numbers, sizes: Floats) -> None:
    """Write the legs of a book by column: those of column c at [starts[c], starts[c + 1]), by row."""
    ends = np.zeros(width + 1, np.int64)
    for row in range(held.first.shape[0]):
        for leg in range(held.first[row], held.first[row] + held.counts[row]):
            ends[(held.codes[leg] >> 1) + 1] += 1
    for column in range(width):
        ends[column + 1] += ends[column]
    starts[:] = ends
    for row in range(held.first.shape[0]):
        for leg in range(held.first[row], held.first[row] + held.counts[row]):
            column = held.codes[leg] >> 1
            rows[ends[column]] = row
            sizes[ends[column]] = held.sizes[leg]
            ends[column] += 1
