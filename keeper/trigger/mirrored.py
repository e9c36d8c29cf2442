"""The mirrored book of a deployment as a what-if asks for it; pure.

The trigger's own marks and scores, at prices that have moved in the protocol's own oracle: who would be in
breach, and by how much. What is sold follows from what one unit of each column is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

import numpy as np

from keeper.columns.snapshot import Snapshot
from keeper.domain import Quote
from keeper.risk.holdings import LEAST, Standings
from keeper.risk.inputs import Floats, finite, shaped
from keeper.risk.marks import Marks
from keeper.trigger.distance import Price, Quotes, moved
from keeper.trigger.scores import Rows, score
from keeper.units import WAD, AccountKey, FeedId

Worth: TypeAlias = Callable[[Quotes], Floats]
"""What one unit of each column is worth at some quotes, as ``ports.Market.worths``."""
BUMP = 0.01
"""A rise by so much tells what hangs on a price: options are bent, all else is straight."""
BLOCK = 2**14
"""Rows whose positions are taken at a time."""


def named(key: AccountKey) -> str:
    """Name an account in short: by owner and sub-account, where it is one."""
    sub = int.from_bytes(key[20:])
    return f"0x{key[:20].hex()}:{sub}" if sub < 2**32 else f"0x{key.hex()}"


class Mirrored:
    """Implements ``risk.holdings.Held``; assets are feeds, as the protocol's own oracle has them.

    Left out are accounts that cannot be judged, ``unknown`` of them: changed and not read since, or with
    something that has no price. An account with debts is a loan: its closing sells as much as they come to.
    """

    def __init__(
        self,
        book: Snapshot,
        quotes: Quotes,
        price: Price,
        worth: Worth,
        *,
        assets: Collection[FeedId] | None = None,
        rows: Rows | None = None,
    ) -> None:
        """Look at a book, or some rows of it; what can be moved are feeds with a quote, or some of them."""
        self._book, self._quoted, self._price, self._worth = book, quotes, price, worth
        wanted = quotes if assets is None else assets
        self._moved = [each for feed in wanted if isinstance(each := quotes.get(feed), Quote)]
        self.assets: Sequence[FeedId] = [each.feed for each in self._moved]
        self.spots: Floats = np.array([each.price_wad / WAD for each in self._moved])
        self._rows = np.arange(len(book)) if rows is None else rows
        now = self._quotes(np.zeros(len(self.assets)))
        known = np.isfinite(self._scored(price(now))).all(axis=0) & np.isfinite(self._net(worth(now)))
        self.unknown = int((~known).sum())
        self._rows = self._rows[known]
        self._gross, self.exposures = self._hanging(now)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def accounts(self) -> Sequence[str]:
        """The accounts, each by owner and sub-account, or by its key where that names none."""
        return [named(key) for key in self._book.keys[self._rows].tolist()]

    @property
    def positions(self) -> Floats:
        """What they hold of every column [n, i]."""
        return self._book.legs.dense(self._rows)

    def standing(self, falls: Floats) -> Standings:
        """Score every account by the marks of moved prices."""
        quotes = self._quotes(shaped("falls", finite("falls", falls), len(self.assets)))
        equity, requirement = self._scored(self._price(quotes))
        worth = self._worth(quotes)
        held, owed = self._sides(worth)
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(owed > 0, np.where(owed < held, owed / held, 1.0), 1.0)
        left = np.where(owed > 0, equity * (1 - part), equity)
        traded = self.exposures - (1 - part[:, None]) * self._gross
        sold, bought = np.maximum(traded, 0.0), np.maximum(-traded, 0.0)
        return Standings(equity, requirement, self._net(worth), left, sold, bought)

    def _quotes(self, falls: Floats) -> Quotes:
        kept = np.maximum(1 - falls, LEAST).tolist()
        fallen = {each.feed: moved(each, part) for each, part in zip(self._moved, kept, strict=True)}
        return {**self._quoted, **fallen}

    def _scored(self, marks: Marks) -> Floats:
        """Return equity, and requirement times level, of all rows in quote [2, n]; NaN where unknown."""
        found = np.empty((2, len(self._rows)))
        for begin in range(0, len(self._rows), BLOCK):
            part = slice(begin, begin + BLOCK)
            rows = self._rows[part]
            classes, positions = self._book.classes[rows], self._book.legs.dense(rows)
            scores = score(cash=self._book.cash[rows], positions=positions, marks=marks, classes=classes)
            quote = np.where(scores.unknown, np.nan, marks.in_quote(classes))
            found[:, part] = quote * scores.equity, quote * marks.levels[classes] * scores.requirement
        return found

    def _legs(self, worth: Floats) -> tuple[Rows, Floats, Floats]:
        """Return of each leg whose it is, what it is worth, and what one unit is."""
        legs = self._book.legs
        at, counts = legs.at(self._rows)
        of, columns = np.repeat(np.arange(len(self._rows)), counts), legs.codes[at] >> 1
        unit = worth[columns] if worth.ndim == 1 else worth[self._book.classes[self._rows][of], columns]
        return of, unit * legs.sizes[at], unit

    def _summed(self, of: Rows, money: Floats) -> Floats:
        return np.bincount(of, money, len(self._rows)).astype(np.float64)

    def _net(self, worth: Floats) -> Floats:
        of, money, _ = self._legs(worth)
        return self._book.cash[self._rows] + self._summed(of, money)

    def _sides(self, worth: Floats) -> tuple[Floats, Floats]:
        """Return what each account has, and what it owes of columns that are debts [n]."""
        of, money, unit = self._legs(worth)
        return self._summed(of, np.where(unit < 0, 0.0, money)), self._summed(
            of, np.where(unit < 0, -money, 0.0)
        )

    def _hanging(self, now: Quotes) -> tuple[Floats, Floats]:
        """Return what each account has, and what it has and owes, that moves with each price [n, a]."""
        before = self._worth(now)
        found, (_, _, was) = np.zeros((2, len(self._rows), len(self.assets))), self._legs(before)
        for place in range(len(self.assets)):
            rise = np.zeros(len(self.assets))
            rise[place] = -BUMP
            of, money, _ = self._legs((self._worth(self._quotes(rise)) - before) / BUMP)
            found[0, :, place] = self._summed(of, np.where(was < 0, 0.0, money))
            found[1, :, place] = self._summed(of, money)
        return found[0], found[1]
