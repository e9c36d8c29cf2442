"""The fast trigger: score every account at the fast price, and suspect all that cannot be cleared.

Float64, one pass over the book's columns, and a second one over the rows whose positions net. It may
suspect too many accounts, never too few: an account is left alone only when its equity exceeds its
requirement by more than any rounding could explain, and both are finite. Whatever confirms, sizes or signs
uses exact integers afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keeper.risk.netting import Underlying

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

BLOCK = 4096
"""Rows of which the absolute values are taken at a time: they stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Params:
    """How far rounding may reach: ``relative`` of the gross money of an account, plus ``absolute`` quote."""

    relative: float = 1e-9
    absolute: float = 1e-9


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


def score(
    *,
    cash: Floats,
    positions: Floats,
    value: Floats,
    gross: Floats,
    nets: NDArray[np.bool_] | None = None,
    underlyings: Sequence[Underlying] = (),
    params: Params | None = None,
) -> Scores:
    """Compute equity = cash + positions @ value and requirement = |positions| @ gross.

    ``cash`` [n] and ``positions`` [n, i] are the book; ``value`` [i] and ``gross`` [i] the marks, NaN where
    no price is known. A mark that is not finite makes unknown exactly the rows that hold its column.

    ``nets`` [i] marks the columns whose charge is not ``gross``: in the rows that hold one, the columns of
    every underlying require together what it says.
    """
    params = params or Params()
    priced = np.isfinite(value) & np.isfinite(gross)
    unknown = ~np.isfinite(cash)
    if not priced.all():
        unknown |= (positions[:, ~priced] != 0).any(axis=1)
        value, gross = np.where(priced, value, 0.0), np.where(priced, gross, 0.0)
    nets = np.zeros(len(value), np.bool_) if nets is None else nets
    charges = np.column_stack([gross, _money(value, gross, underlyings), nets])
    requirement, money, netted = _absolute_product(positions, charges).T
    equity = cash + positions @ value
    rows = np.flatnonzero(netted)
    requirement[rows] = _netted(positions[rows], gross, underlyings)
    return Scores(
        equity=equity,
        requirement=requirement,
        margin=params.absolute + params.relative * (np.abs(cash) + money),
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
    with np.errstate(divide="ignore", invalid="ignore"):
        health = scores.equity[rows] / scores.requirement[rows]
    return rows[np.argsort(np.nan_to_num(health, nan=-np.inf), kind="stable")]


def _absolute_product(positions: Floats, charges: Floats) -> Floats:
    """Return |positions| @ charges."""
    product = np.empty((len(positions), charges.shape[1]))
    for start in range(0, len(positions), BLOCK):
        block = slice(start, start + BLOCK)
        np.matmul(np.abs(positions[block]), charges, out=product[block])
    return product


def _netted(positions: Floats, gross: Floats, underlyings: Sequence[Underlying]) -> Floats:
    """Return the requirement of some rows, underlying by underlying; what has none is charged by itself."""
    alone = gross.copy()
    for underlying in underlyings:
        alone[underlying.columns] = 0.0
    requirement: Floats = np.abs(positions) @ alone
    for underlying in underlyings:
        requirement += underlying.requirement(positions)
    return requirement


def _money(value: Floats, gross: Floats, underlyings: Sequence[Underlying]) -> Floats:
    """Return what one unit of each column can count for [i]: rounding is a part of that."""
    money = np.abs(value) + gross
    for underlying in underlyings:
        money[underlying.columns] += underlying.money
    return money
