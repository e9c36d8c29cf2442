"""What the sieve knows: the book as it lies in memory, and the marks in the shape in which they are fastest.

The sieve computes for an account a *surplus*: what its equity is above its level times its requirement, less
the rounding margin. Its value tells:

- more than 0: the account is clear;
- NaN: it holds something without a price, or has changed and was not read since; nobody acts on it;
- else, -inf where it holds what is doubtful: it is at rest, where it owes nothing and nothing that it holds
  can count against it, so that no rounding is in it; or ``scores.score`` must look at it, which decides.

The *reach* is how much of it hangs on prices, and surplus over reach is how far *away* an account is:
where no mark that it holds moves by so great a share, its surplus stays above 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from keeper.columns.legs import Floats
from keeper.columns.snapshot import Snapshot
from keeper.risk.marks import Groups, Marks, Netting

Singles = NDArray[np.float32]

# The compiled loops that are kept on disk know these as they were when ``compiled`` was last written to.
HORIZON = 0.1
"""How far away accounts are listed; a move beyond concerns everybody."""
SHELVES = 100
"""How many lists there are of each column, by how far away its holders are,"""
PER = SHELVES / HORIZON
"""and how many of a move by the whole."""
BELOW = 1 - 2**-22
"""Takes from how far away an account is more than single precision may add, to it and to a move."""
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


class Fills(Protocol):
    """The part of the loops that prepares marks; ``compiled`` says what it does."""

    def fill(
        self,
        value: Floats,
        gross: Floats,
        netting: Netting,
        levels: Floats,
        relative: float,
        net: Floats,
        against: NDArray[np.bool_],
        /,
    ) -> None: ...


class Terms(NamedTuple):
    """Marks by class k, by code (twice the column, and 1 more of a size below 0) and by scenario s."""

    net: Floats
    """[k, codes], times a size: what it adds to the surplus by itself."""
    alone: Floats
    """[codes], times a size: what it requires where it is alone in its group, before the level."""
    against: NDArray[np.bool_]
    """[k, codes], what may count against whoever holds it."""
    levels: Floats
    """[k]; where there is one class only, a row's own is not looked at."""
    risk: Floats
    """[columns, s]"""
    group: Groups
    """[columns]"""
    relative: float
    absolute: float

    @classmethod
    def of(cls, marks: Marks, loops: Fills) -> Terms:
        """Prepare some marks."""
        netting, levels = marks.netting, marks.levels
        shape = (len(levels), 2 * marks.value.shape[-1])
        net, against, relative = np.empty(shape), np.empty(shape, np.bool_), marks.relative * SLACK
        value, gross = marks.value.reshape(-1, shape[1] // 2), marks.gross.reshape(-1, shape[1] // 2)
        loops.fill(value, gross, netting, levels, relative, net, against)
        return cls(
            net,
            netting.alone.reshape(-1),
            against,
            levels,
            netting.risk,
            netting.group,
            relative,
            marks.absolute * SLACK,
        )

    def units(self) -> Floats:
        """Return how much of a surplus hangs on one unit of each code [k, codes]: the measure of moves."""
        most = np.repeat(np.abs(self.risk).max(axis=1, initial=0.0), 2)
        money = np.abs(self.net) + self.levels[:, None] * most
        return np.where(np.isfinite(money), money, 0.0)

    def is_alike(self, other: Terms) -> bool:
        """Tell whether only prices have moved between the two."""
        return (
            self.net.shape == other.net.shape
            and self.risk.shape == other.risk.shape
            and (self.relative, self.absolute) == (other.relative, other.absolute)
            and bool((self.levels == other.levels).all() and (self.group == other.group).all())
        )
