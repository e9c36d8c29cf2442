"""Accounts as a what-if asks for them: where they stand once prices have moved, and what their closing sells.

`Held` is the one port of every such question. `Portfolios` implements it for perps, futures and options that
a grid margins, and ``trigger.mirrored`` for the book of a deployment.

Falls are fractions of a price, [a], 0.25 for a quarter down and below 0 for a rise; money is in quote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from keeper.risk.grids import Grid
from keeper.risk.inputs import Floats, finite, shaped
from keeper.risk.margin import AddOns, Book, Instrument, revalued, scan

LEAST = 1e-6
"""Of a price, where it falls to nothing: at 0 neither an option nor a loan can be judged."""


@dataclass(frozen=True, slots=True)
class Standings:
    """Where accounts stand at some prices, [n] each but for what is sold."""

    equity: Floats
    """What counts for them: of a loan its collateral, each by its threshold."""
    requirement: Floats
    """What must count for them, and does not in a breach: of a loan its debts."""
    net: Floats
    """What is left of them once all is sold and all is paid; what is below 0 is bad debt."""
    left: Floats
    """What would count for them once they were closed whole, without any requirement."""
    sold: Floats
    """[n, a], what closing them whole sells of each asset, at the prices before they moved,"""
    bought: Floats
    """[n, a], and what it buys back."""

    @property
    def breached(self) -> NDArray[np.bool_]:
        """Tell who has less than must be."""
        return self.equity < self.requirement

    @property
    def bad_debt(self) -> Floats:
        """Return what each owes beyond all that it has."""
        return np.maximum(-self.net, 0.0)


class Held(Protocol):
    """What accounts [n] hold of assets [a]."""

    @property
    def assets(self) -> Sequence[str]:
        """Return what prices are of, as the source calls it: ``BTC``, or the feed ``BTC/USD``."""
        ...

    @property
    def spots(self) -> Floats:
        """Return their prices now [a]."""
        ...

    @property
    def exposures(self) -> Floats:
        """Return what each account gains where an asset's price doubles, to first order, [n, a]."""
        ...

    @property
    def accounts(self) -> Sequence[str]:
        """Return what the accounts are called [n]."""
        ...

    def standing(self, falls: Floats) -> Standings:
        """Return where they stand once each price fell by a fraction, all else as it is."""
        ...


def linear(held: Held) -> Book:
    """Return accounts as perps of their assets, in units: what they gain to first order."""
    spots = dict(zip(held.assets, held.spots.tolist(), strict=True))
    return Book.of([Instrument(each, each) for each in held.assets], spots, held.exposures / held.spots)


@dataclass(frozen=True, slots=True)
class Portfolios:
    """Implements `Held` for a ``margin.Book``: revalued at moved spots, volatility and time as they are.

    The requirement is the maintenance margin of a grid at the moved spots. A book in coin is told in quote:
    what it has, gains and requires, at its coin's moved price. What closing sells is the net delta of now.

    Raises BadInput where the equity is not one finite number an account.
    """

    accounts: Sequence[str]
    book: Book
    equity: Floats
    """[n], now, in what the book settles in."""
    grid: Grid
    add_ons: AddOns | None = None

    def __post_init__(self) -> None:
        shaped("equity", finite("equity", self.equity), self.book.accounts)

    @property
    def assets(self) -> Sequence[str]:
        """The underlyings."""
        return tuple(self.book.spots)

    @property
    def spots(self) -> Floats:
        """Their spots."""
        return np.array(list(self.book.spots.values()))

    @property
    def exposures(self) -> Floats:
        """What the legs gain, and the coin that a book in coin has."""
        return self.book.deltas + self._coin * (self.spots * self.equity[:, None])

    def standing(self, falls: Floats) -> Standings:
        """Revalue every instrument, and scan the book, at moved spots."""
        kept = np.maximum(1 - shaped("falls", finite("falls", falls), len(self.spots)), LEAST)
        spots = dict(zip(self.assets, (self.spots * kept).tolist(), strict=True))
        required = scan(replace(self.book, spots=spots), self.grid, add_ons=self.add_ons).maintenance
        worth = self.spots[0] * kept[0] if self._coin else 1.0
        equity = (self.equity + self._gains(kept)) * worth
        deltas = self.book.deltas
        sold, bought = np.maximum(deltas, 0.0), np.maximum(-deltas, 0.0)
        return Standings(equity, required * worth, equity, equity, sold, bought)

    @property
    def _coin(self) -> bool:
        return self.book.in_coin and len(self.spots) > 0

    def _gains(self, kept: Floats) -> Floats:
        """Return what accounts gain [n] where each spot is multiplied by a number [a]."""
        moves = dict(zip(self.assets, (kept - 1).tolist(), strict=True))
        by_column = np.array([[moves[each.underlying]] for each in self.book.instruments])
        unit = revalued(self.book, by_column.reshape(-1, 1))[:, 0]
        return self.book.by_account(self.book.legs @ unit)
