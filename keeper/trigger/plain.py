"""The loops of the sieve in numpy, to the bit what ``compiled`` does; said there, for each function."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeper.columns.legs import Floats
from keeper.columns.pool import ranges
from keeper.trigger.terms import AT_REST, FINITE, Held, Terms

Numbers = NDArray[np.int32]
Flags = NDArray[np.bool_]

BLOCK = 2**14
"""Rows that are worked on at a time: what that takes in between stays in the processor's cache."""


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
    found = unknown = 0
    for first in range(begin, end, BLOCK):
        block = _block(rows, first, min(first + BLOCK, end))
        surplus = _surplus(held, terms, block)
        if keep:
            state[block, 0] = surplus
        low = ~((surplus > bar * state[block, 1]) & (surplus < FINITE))
        nan = np.isnan(surplus)
        unknown += int(nan.sum())
        hits = block[low & ~nan]
        out[begin + found : begin + found + len(hits)] = hits
        found += len(hits)
    return found, unknown


def _block(rows: Numbers, first: int, last: int) -> NDArray[np.integer[Any]]:
    return rows[first:last] if len(rows) else np.arange(first, last)


def _surplus(held: Held, terms: Terms, rows: NDArray[np.integer[Any]]) -> Floats:
    """Add up one leg of every row after the other, so that the sums are those of the compiled loop."""
    cash, counts = held.cash[rows], held.counts[rows]
    of = held.classes[rows] if len(terms.levels) > 1 else np.zeros(len(rows), np.uint8)
    equity, alone, worst = cash - terms.relative * np.abs(cash), np.zeros(len(rows)), np.zeros(len(rows))
    at_rest = cash >= 0
    together = np.zeros((len(rows), terms.risk.shape[1]))
    group = np.full(len(rows), -1)
    for number in range(int(counts.max(initial=0))):
        has = np.flatnonzero(counts > number)
        leg = held.first[rows[has]].astype(np.intp) + number
        size, code = held.sizes[leg], held.codes[leg].astype(np.intp)
        rates = terms.rates[of[has], code]
        value = size * rates[:, 0]
        equity[has] += value
        alone[has] += size * rates[:, 1]
        now = terms.group[code >> 1]
        at_rest[has] &= (value >= 0) & (now < 0)
        if together.shape[1]:
            gain = size[:, None] * terms.risk[code >> 1]
            same = (now == group[has]) & (now >= 0)
            other = has[~same]
            worst[other] -= np.minimum(together[other].min(axis=1), 0.0)
            together[has[same]] += gain[same]
            together[other] = gain[~same]
            group[has] = now
    if together.shape[1]:
        worst -= np.minimum(together.min(axis=1), 0.0)
    surplus: Floats = equity - terms.levels[of] * (alone + worst) - terms.absolute
    return np.where(at_rest & (alone == 0), AT_REST, surplus)


def measure(held: Held, units: Floats, rows: Numbers, begin: int, end: int, state: Floats) -> None:
    for first in range(begin, end, BLOCK):
        block = _block(rows, first, min(first + BLOCK, end))
        counts = held.counts[block]
        of = held.classes[block] if len(units) > 1 else np.zeros(len(block), np.uint8)
        reach = np.zeros(len(block))
        for number in range(int(counts.max(initial=0))):
            has = np.flatnonzero(counts > number)
            leg = held.first[block[has]].astype(np.intp) + number
            reach[has] += np.abs(held.sizes[leg]) * units[of[has], held.codes[leg]]
        state[block, 1] = reach


def shift(
    rows: Numbers,
    sizes: Floats,
    classes: NDArray[np.unsignedinteger[Any]],
    moved: Floats,
    stale: Flags,
    state: Floats,
    bar: float,
    begin: int,
    end: int,
    out: Numbers,
) -> int:
    fresh = ~stale[rows[begin:end]]
    row, size = rows[begin:end][fresh], sizes[begin:end][fresh]
    of = classes[row] if len(moved) > 1 else 0
    surplus = state[row, 0] + size * moved[of, (size < 0).astype(np.intp)]
    state[row, 0] = surplus
    hits = row[~(surplus > bar * state[row, 1]) & ~np.isnan(surplus)]
    out[begin : begin + len(hits)] = hits
    return len(hits)


def within(rows: Numbers, state: Floats, bar: float, out: Numbers) -> int:
    surplus = state[rows, 0]
    hits = rows[~((surplus > bar * state[rows, 1]) & (surplus < FINITE)) & ~np.isnan(surplus)]
    out[: len(hits)] = hits
    return len(hits)


def apart(now: Terms, then: Terms, units: Floats, out: Floats) -> None:
    value, was = now.rates[:, :, 0], then.rates[:, :, 0]
    charge, before = now.rates[:, :, 1], then.rates[:, :, 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = np.where(np.isfinite(value) & np.isfinite(was), np.abs(value - was), np.inf)
        moved[(value == was) | (np.isnan(value) & np.isnan(was))] = 0.0
        moved[((charge == 0) != (before == 0)) | ((value < 0) != (was < 0))] = np.inf
        loss = np.abs(now.risk - then.risk).max(axis=1, initial=0.0)
        moved += now.levels[:, None] * (np.abs(charge - before) + np.repeat(loss, 2))
        far = np.where(moved > 0, np.where(units > 0, moved / units, np.inf), 0.0)
    out[:] = far.max(axis=0).reshape(-1, 2).max(axis=1)


def index(held: Held, width: int, starts: NDArray[np.int64], rows: Numbers, sizes: Floats) -> None:
    at = ranges(held.first.astype(np.intp), held.counts)
    columns = held.codes[at] >> 1
    order = np.argsort(columns, kind="stable")
    starts[:] = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=width))])
    rows[:] = np.repeat(np.arange(len(held.first), dtype=np.int32), held.counts)[order]
    sizes[:] = held.sizes[at][order]
