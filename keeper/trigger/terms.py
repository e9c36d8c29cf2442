"""What the sieve knows: the book as it lies in memory, and the marks in the shape in which they are fastest.

The sieve computes for every account a *surplus*: what its equity is above its level times its requirement,
less the rounding margin. Its value alone tells:

- more than 0: the account is clear;
- ``AT_REST``: it owes nothing, and nothing that it holds can count against it, so that no rounding is in it;
- NaN: it holds something without a price, or has changed and was not read since; nobody acts on it;
- else, -inf where it holds what is doubtful: it must be looked at by ``scores.score``, which decides.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keeper.columns.legs import Floats
from keeper.columns.snapshot import Snapshot
from keeper.risk.marks import ALONE, Groups, Marks

AT_REST = 1e300
FINITE = 1e301
"""More than any surplus that is believed: what is not finite is never clear."""
SLACK = 1.01
"""The sieve's rounding margin in those of ``score``: whom rounding tells apart, ``score`` judges."""


class Held(NamedTuple):
    """A book: [n] rows, and the legs of row r at [first[r], first[r] + counts[r])."""

    first: NDArray[np.uint32]
    counts: NDArray[np.uint8]
    codes: NDArray[np.uint16]
    sizes: Floats
    cash: Floats
    classes: NDArray[np.unsignedinteger[Any]]

    @classmethod
    def of(cls, book: Snapshot) -> Held:
        """Look into a book."""
        legs = book.legs
        return cls(legs.first, legs.counts, legs.codes, legs.sizes, book.cash, book.classes)


class Terms(NamedTuple):
    """Marks by class k, by code (twice the column, and 1 more of a size below 0) and by scenario s."""

    rates: Floats
    """[k, codes, 3], times a size: what it adds to equity less the rounding of it; what it requires by
    itself; and what it requires where it is alone in its group."""
    levels: Floats
    """[k]; where there is one class only, a row's own is not looked at."""
    risk: Floats
    """[columns, s]"""
    group: Groups
    """[columns]"""
    relative: float
    absolute: float

    @classmethod
    def of(cls, marks: Marks) -> Terms:
        """Prepare some marks."""
        netting, levels = marks.netting, marks.levels
        width = marks.value.shape[-1]
        priced = np.isfinite(marks.value) & np.isfinite(marks.gross)
        relative = marks.relative * SLACK
        rounding = relative * marks.money
        charge = np.where(priced & (netting.group == ALONE), marks.gross, 0.0)
        rates = np.empty((len(levels), width, 2, 3))
        for side, sign in enumerate((1.0, -1.0)):
            value = np.where(netting.doubtful, -sign * np.inf, marks.value - sign * rounding)
            rates[:, :, side, 0] = np.where(priced, value, np.nan)
            rates[:, :, side, 1] = sign * charge
        rates[:, :, 1, 1] -= netting.short
        rates[:, :, 0, 2] = -netting.risk.min(axis=1, initial=0.0)
        rates[:, :, 1, 2] = -netting.risk.max(axis=1, initial=0.0)
        return cls(
            rates.reshape(len(levels), 2 * width, 3),
            levels,
            netting.risk,
            netting.group,
            relative,
            marks.absolute * SLACK,
        )

    def units(self) -> Floats:
        """Return how much of a surplus hangs on one unit of each code [k, codes]: the measure of moves."""
        most = np.abs(self.risk).max(axis=1, initial=0.0)
        money = np.abs(self.rates[:, :, 0]) + self.levels[:, None] * (
            np.abs(self.rates[:, :, 1]) + np.repeat(most, 2)
        )
        return np.where(np.isfinite(money), money, 0.0)

    def is_alike(self, other: Terms) -> bool:
        """Tell whether only prices have moved between the two."""
        return (
            self.rates.shape == other.rates.shape
            and self.risk.shape == other.risk.shape
            and (self.relative, self.absolute) == (other.relative, other.absolute)
            and bool((self.levels == other.levels).all() and (self.group == other.group).all())
        )
