"""The fast trigger: score every account at the fast price, and suspect all that cannot be cleared.

Float64, one pass over the book's columns. It may suspect too many accounts, never too few: an account is
left alone only when its equity exceeds its requirement by more than any rounding could explain, and both
are finite. Whatever confirms, sizes or signs uses exact integers afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Params:
    """How far rounding may reach: ``relative`` of the gross money of an account, plus ``absolute`` quote."""

    relative: float = 1e-9
    absolute: float = 1e-9


@dataclass(frozen=True, slots=True)
class Scores:
    """Equity, requirement and rounding margin per account, in quote units, all [n].

    ``unknown`` marks the rows that hold something without a price; their other values mean nothing.
    """

    equity: Floats
    requirement: Floats
    margin: Floats
    unknown: NDArray[np.bool_]


def score(
    *, cash: Floats, positions: Floats, value: Floats, gross: Floats, params: Params | None = None
) -> Scores:
    """Compute equity = cash + positions @ value and requirement = |positions| @ gross.

    ``cash`` [n] and ``positions`` [n, i] are the book; ``value`` [i] and ``gross`` [i] the marks, NaN where
    no price is known. A mark that is not finite makes unknown exactly the rows that hold its column.
    """
    params = params or Params()
    priced = np.isfinite(value) & np.isfinite(gross)
    unknown = ~np.isfinite(cash) | (positions[:, ~priced] != 0).any(axis=1)
    held = positions[:, priced]
    value, gross = value[priced], gross[priced]
    absolute = np.abs(held)
    return Scores(
        equity=cash + held @ value,
        requirement=absolute @ gross,
        margin=params.absolute + params.relative * (np.abs(cash) + absolute @ np.abs(value)),
        unknown=unknown,
    )


def suspects(scores: Scores, *, level: float = 1.0) -> NDArray[np.intp]:
    """Return the rows that cannot be cleared at ``level`` x requirement, the most endangered first.

    Cleared is what has ``equity - level x requirement > margin``, and what has neither a requirement nor
    negative equity. A comparison with NaN is false, so what is not a number is never cleared; unknown rows
    are left out here and are for ``Scores.unknown`` to report.
    """
    surplus = scores.equity - level * scores.requirement
    clear = (surplus > scores.margin) | ((scores.requirement == 0) & (scores.equity >= 0))
    rows = np.flatnonzero(~clear & ~scores.unknown)
    with np.errstate(divide="ignore", invalid="ignore"):
        health = scores.equity[rows] / scores.requirement[rows]
    return rows[np.argsort(np.nan_to_num(health, nan=-np.inf), kind="stable")]
