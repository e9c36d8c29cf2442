"""The loops of the sieve in numpy, to the bit what ``compiled`` does; said there, for each function."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeper.columns.legs import Floats
from keeper.columns.pool import ranges
from keeper.risk.marks import ALONE, Netting
from keeper.trigger.terms import BELOW, PER, SHELVES, Held, Singles, Terms

Numbers = NDArray[np.int32]
Flags = NDArray[np.bool_]

SIDES, SOLD = np.array([1.0, -1.0]), np.array([0.0, 1.0])
"""The signs of a size by the last bit of its code, and which of them is below 0."""
BLOCK = 2**14
"""Rows that are worked on at a time: what that takes in between stays in the processor's cache."""


def fill(
    value: Floats,
    gross: Floats,
    netting: Netting,
    levels: Floats,
    relative: float,
    net: Floats,
    against: Flags,
) -> None:
    nets = netting.group != ALONE
    charge = np.where(nets, 0.0, gross)[..., None] + netting.short[:, None] * SOLD
    rounding = relative * (np.abs(value) + gross + netting.money)[..., None]
    value = value[..., None] * SIDES
    found = SIDES * (value - rounding - levels[:, None, None] * charge)
    found[~np.isfinite(found)] = np.nan
    doubtful = found[:, netting.doubtful]
    found[:, netting.doubtful] = np.where(np.isnan(doubtful), np.nan, -SIDES * np.inf)
    net[:] = found.reshape(net.shape)
    against.reshape(found.shape)[...] = nets[:, None] | (charge != 0) | (value < 0)


def sieve(
    held: Held,
    terms: Terms,
    rows: Numbers,
    begin: int,
    end: int,
    surplus: Floats,
    out: Numbers,
) -> tuple[int, int]:
    found = unknown = 0
    for first in range(begin, end, BLOCK):
        last = min(first + BLOCK, end)
        block = _block(rows, first, last)
        with np.errstate(invalid="ignore"):
            left = _surplus(held, terms, block)
        if len(surplus):
            surplus[first:last] = left
        low = np.flatnonzero(~((left > 0) & (left < np.inf)))
        nan = np.isnan(left[low])
        hits = block[low[~nan]]
        hits = hits[~_at_rest(held, terms, hits)]
        out[begin + found : begin + found + len(hits)] = hits
        found, unknown = found + len(hits), unknown + int(nan.sum())
    return found, unknown


def _block(rows: Numbers, first: int, last: int) -> NDArray[np.integer[Any]]:
    return rows[first:last] if len(rows) else np.arange(first, last)


def _class(held: Held, rows: NDArray[np.integer[Any]], several: int) -> NDArray[np.integer[Any]]:
    return held.classes[rows] if several > 1 else np.zeros(len(rows), np.uint8)


def _at_rest(held: Held, terms: Terms, rows: NDArray[np.integer[Any]]) -> Flags:
    counts, of = held.counts[rows], _class(held, rows, len(terms.levels))
    against = terms.against[
        np.repeat(of, counts), held.codes[ranges(held.first[rows].astype(np.intp), counts)]
    ]
    rest: Flags = np.asarray(held.cash[rows] >= 0)
    rest[np.repeat(np.arange(len(rows)), counts)[against]] = False
    return rest


def _surplus(held: Held, terms: Terms, rows: NDArray[np.integer[Any]]) -> Floats:
    """Add up one leg of every row after the other, so that the sums are those of the compiled loop."""
    cash, counts, of = held.cash[rows], held.counts[rows], _class(held, rows, len(terms.levels))
    surplus: Floats = cash - terms.relative * np.abs(cash) - terms.absolute
    worst, group = np.zeros(len(rows)), np.full(len(rows), ALONE)
    together = np.zeros((len(rows), terms.risk.shape[1]))
    for number in range(int(counts.max(initial=0))):
        has = np.flatnonzero(counts > number)
        leg = held.first[rows[has]].astype(np.intp) + number
        size, code = held.sizes[leg], held.codes[leg]
        surplus[has] += size * terms.net[of[has], code]
        if together.shape[1]:
            now, gain = terms.group[code >> 1], size[:, None] * terms.risk[code >> 1]
            same = (now == group[has]) & (now != ALONE)
            other = has[~same]
            worst[other] -= np.minimum(together[other].min(axis=1), 0.0)
            together[has[same]] += gain[same]
            together[other] = gain[~same]
            group[has] = now
    if together.shape[1]:
        worst -= np.minimum(together.min(axis=1), 0.0)
        surplus -= terms.levels[of] * worst
    return surplus


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
    for first in range(begin, end, BLOCK):
        last = min(first + BLOCK, end)
        block = _block(rows, first, last)
        counts, left = held.counts[block], surplus[first:last]
        of = _class(held, block, len(units))
        reach = np.zeros(len(block))
        for number in range(int(counts.max(initial=0))):
            has = np.flatnonzero(counts > number)
            leg = held.first[block[has]].astype(np.intp) + number
            reach[has] += np.abs(held.sizes[leg]) * units[of[has], held.codes[leg]]
        clear = (left > 0) & (left < np.inf)
        low = np.flatnonzero(~clear)
        rest = clear.copy()
        rest[low] = _at_rest(held, terms, block[low])
        with np.errstate(all="ignore"):
            far = np.where(
                np.isfinite(left) & (reach > 0), left / reach * BELOW, np.where(clear, np.inf, -np.inf)
            )
            far[low[rest[low]]] = np.inf
            far[np.isnan(left)] = np.nan
            away[block] = far


def apart(now: Terms, then: Terms, units: Floats, out: Floats) -> None:
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = np.where(np.isfinite(now.net) & np.isfinite(then.net), np.abs(now.net - then.net), np.inf)
        moved[now.net == then.net] = 0.0
        moved[now.against != then.against] = np.inf
        loss = np.abs(now.risk - then.risk).max(axis=1, initial=0.0)
        moved += now.levels[:, None] * np.repeat(loss, 2)
        moved[np.isnan(now.net) & np.isnan(then.net)] = 0.0
        far = np.where(moved > 0, np.where(units > 0, moved / units, np.inf), 0.0)
    out[:] = far.max(axis=0).reshape(-1, 2).max(axis=1)


def index(held: Held, width: int, away: Singles) -> tuple[NDArray[np.int64], Numbers]:
    place = away.astype(np.float64) * PER
    listed = np.flatnonzero(place < SHELVES).astype(np.int32)
    shelf, counts = np.maximum(place[listed], 0.0).astype(np.intp), held.counts[listed]
    columns = held.codes[ranges(held.first[listed].astype(np.intp), counts)].astype(np.intp) >> 1
    rows = np.concatenate([np.repeat(listed, counts), listed])
    keys = np.concatenate([columns * SHELVES + np.repeat(shelf, counts), width * SHELVES + shelf])
    starts = np.zeros((width + 1) * SHELVES + 1, np.int64)
    np.cumsum(np.bincount(keys, minlength=len(starts) - 1), out=starts[1:])
    return starts, rows[np.argsort(keys, kind="stable")]
