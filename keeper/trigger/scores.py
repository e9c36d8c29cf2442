"""The fast trigger: score every account at the fast price, and suspect all that cannot be cleared.

Float64, one pass over the book's columns, and a second one over the rows whose positions net. It may
suspect too many accounts, never too few: an account is left alone only when its equity exceeds its
requirement by more than any rounding could explain, and both are finite. Whatever confirms, sizes or signs
uses exact integers afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeper.risk.marks import Marks
from keeper.risk.netting import Underlying

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Classes = NDArray[np.unsignedinteger[Any]]

BLOCK = 4096
"""Rows whose absolute values, or marks by class, are taken at a time: they stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Equity, requirement and rounding margin per account, in quote units, all [n].

    ``unknown`` marks the rows that hold something without a price; their other values mean nothing.
    ``at_rest`` marks those that owe nothing and hold nothing that could be lost: no rounding is in them.
    """

    equity: Floats
    requirement: Floats
    margin: Floats
    unknown: NDArray[np.bool_]
    at_rest: NDArray[np.bool_]

    def of(self, rows: Rows) -> Scores:
        """Return those of some rows."""
        return Scores(
            self.equity[rows],
            self.requirement[rows],
            self.margin[rows],
            self.unknown[rows],
            self.at_rest[rows],
        )


def score(*, cash: Floats, positions: Floats, marks: Marks, classes: Classes | None = None) -> Scores:
    """Compute equity = cash + positions @ value and requirement = |positions| @ gross.

    ``cash`` [n] and ``positions`` [n, i] are the book; ``classes`` [n] say which marks are those of a row,
    where there are several. A mark that is not finite makes unknown exactly the rows that hold its column.

    In the rows that hold a column of an underlying, the columns of every one require together what it says.
    """
    value, gross, money = marks.value, marks.gross, marks.money
    priced = np.isfinite(value) & np.isfinite(gross)
    unknown = ~np.isfinite(cash)
    if not priced.all():
        unknown |= _holds(positions, ~priced, classes)
        value, gross, money = (np.where(priced, each, 0.0) for each in (value, gross, money))
    charges = np.empty((*gross.shape, 3))
    charges[..., 0], charges[..., 1], charges[..., 2] = gross, money, marks.nets
    requirement, counted, netted = _absolute_product(positions, charges, classes).T
    equity = cash + _product(positions, value, classes)
    rows = np.flatnonzero(netted)
    if len(rows):
        of = None if classes is None else classes[rows]
        requirement[rows] = _netted(positions[rows], gross, marks.underlyings, of)
    return Scores(
        equity=equity,
        requirement=requirement,
        margin=marks.absolute + marks.relative * (np.abs(cash) + counted),
        unknown=unknown,
        at_rest=(requirement == 0) & (netted == 0) & (cash >= 0) & (equity >= 0),
    )


def suspects(scores: Scores, *, level: float | Floats = 1.0) -> Rows:
    """Return the rows that cannot be cleared at ``level`` x requirement, the most endangered first.

    ``level`` is one number, or one of each row. Cleared is what has ``equity - level x requirement >
    margin``, and what is at rest. A comparison with NaN is false, so what is not a number is never cleared;
    unknown rows are left out here and are for ``Scores.unknown`` to report.
    """
    surplus = scores.equity - level * scores.requirement
    rows = np.flatnonzero(~((surplus > scores.margin) | scores.at_rest | scores.unknown))
    if len(rows) < 2:
        return rows
    with np.errstate(divide="ignore", invalid="ignore"):
        health = scores.equity[rows] / scores.requirement[rows]
    return rows[np.argsort(np.nan_to_num(health, nan=-np.inf), kind="stable")]


def _product(positions: Floats, marks: Floats, classes: Classes | None) -> Floats:
    """Return positions @ marks [n]; the marks are [i], or [k, i] by the class of a row."""
    if marks.ndim == 1 or classes is None:
        whole: Floats = positions @ marks
        return whole
    product = np.empty(len(positions))
    for block in _blocks(len(positions)):
        np.einsum("ni,ni->n", positions[block], marks[classes[block]], out=product[block])
    return product


def _absolute_product(positions: Floats, charges: Floats, classes: Classes | None) -> Floats:
    """Return |positions| @ charges [n, c]; the charges are [i, c], or [k, i, c] by the class of a row."""
    product = np.empty((len(positions), charges.shape[-1]))
    for block in _blocks(len(positions)):
        held = np.abs(positions[block])
        if charges.ndim == 2 or classes is None:
            np.matmul(held, charges, out=product[block])
        else:
            np.einsum("ni,nic->nc", held, charges[classes[block]], out=product[block])
    return product


def _holds(positions: Floats, wanted: NDArray[np.bool_], classes: Classes | None) -> NDArray[np.bool_]:
    """Tell which rows hold a column that is wanted [i], or [k, i] by their class."""
    if wanted.ndim == 1 or classes is None:
        return np.asarray((positions[:, wanted] != 0).any(axis=1))
    found = np.empty(len(positions), np.bool_)
    for block in _blocks(len(positions)):
        found[block] = ((positions[block] != 0) & wanted[classes[block]]).any(axis=1)
    return found


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, rows, BLOCK))


def _netted(
    positions: Floats, gross: Floats, underlyings: Sequence[Underlying], classes: Classes | None
) -> Floats:
    """Return the requirement of some rows, underlying by underlying; what has none is charged by itself."""
    alone = gross.copy()
    for underlying in underlyings:
        alone[..., underlying.columns] = 0.0
    requirement = _product(np.abs(positions), alone, classes)
    for underlying in underlyings:
        requirement += underlying.requirement(positions)
    return requirement
