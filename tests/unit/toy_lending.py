"""A lending protocol that fits on a page: one debt worth 1, one collateral whose price is the world."""
# ruff: noqa: ARG002 it has the arguments of the real ones

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keeper.domain import ChainTime, Quote, Reason, Refuse, Unknown
from keeper.lending.words import By, Close, Due, Sight, Standing, Sweep, Way
from keeper.risk.marks import Marks
from keeper.units import WAD, AccountKey, FeedId, Wad

DEBT, COLLATERAL, VENUE = "0x" + "d0" * 20, "0x" + "c0" * 20, "0x" + "ee" * 20
RECEIPT = "0x" + "cc" * 20
OWNER: AccountKey = b"\x0b" * 20 + bytes(12)
AT = ChainTime(101, 1_000_012)
FEED = "ETH/USD"
ONE = 10**6
"""Both tokens have six decimals."""


@dataclass(frozen=True)
class Loan:
    """What one account has."""

    collateral: int
    debt: int
    key: AccountKey = OWNER


@dataclass(frozen=True)
class Toy:
    """What plans and desks ask of ``ports.LendingMarket``; a world is the collateral's price, WAD."""

    threshold_wad: Wad = 8 * WAD // 10
    bonus_wad: Wad = 5 * WAD // 100
    close_factor_wad: Wad = WAD
    sweeps: Sweep | None = None
    worthless: frozenset[str] = frozenset()
    refusing: Reason | None = None
    answered_at_s: int = 0
    feed: FeedId = FEED
    """What the price of the collateral is called."""
    untold: tuple[str, ...] = ()
    """The prices that no feed speaks of."""
    name: str = ""
    spending: tuple[tuple[str, str], ...] = ((DEBT, VENUE),)
    tokens: tuple[str, ...] = (DEBT, COLLATERAL)
    feeds: tuple[FeedId, ...] = (FEED,)
    receipts: Mapping[str, str] = field(default_factory=lambda: {RECEIPT: COLLATERAL})
    way: Way = field(default_factory=lambda: Way(VENUE, DEBT, COLLATERAL, 5 * WAD // 100, 300_000))

    def market_of(self, loan: Loan) -> str:
        return self.name

    def carried(self, world: Wad, at: ChainTime) -> Wad:
        assert at == AT
        return world

    def fast(self, world: Wad, quotes: Mapping[FeedId, Quote | Unknown]) -> Wad:
        quote = quotes.get(self.feed)
        return quote.price_wad if isinstance(quote, Quote) else world

    def marks(self, world: Wad, quotes: Mapping[FeedId, Quote | Unknown], at_s: int) -> Marks:
        return Marks(np.ones(1), np.zeros(1), np.ones(1))

    def sights(self, loan: Loan, world: Wad, quotes: Mapping[FeedId, Quote | Unknown]) -> tuple[Sight, ...]:
        quote = quotes.get(self.feed)
        fast_wad = quote.price_wad if isinstance(quote, Quote) else None
        return (Sight(self.feed, fast_wad, world, self.answered_at_s),)

    def unseen(self, loan: Loan, world: Wad) -> tuple[str, ...]:
        return self.untold

    def stand(self, loan: Loan, world: Wad) -> Standing | Unknown:
        worth_wad = loan.collateral * WAD // ONE * world // WAD
        debt_wad = loan.debt * WAD // ONE
        health = worth_wad * self.threshold_wad // debt_wad if debt_wad else None
        return Standing(health, debt_wad, worth_wad, self.refusing)

    def ways(self, loan: Loan, world: Wad) -> tuple[Way, ...]:
        return (self.way,) if loan.debt and loan.collateral else ()

    def most(self, loan: Loan, way: Way, world: Wad) -> int:
        affordable = loan.collateral * world * 100 // (WAD * 105)
        return min(loan.debt * self.close_factor_wad // WAD, affordable)

    def close(self, loan: Loan, way: Way, amount: int, world: Wad) -> Close | Refuse:
        if amount == 0:
            return Refuse(Reason("protocol.nothing", "0", "some"))
        seized = min(loan.collateral, amount * (WAD + self.bonus_wad) // world)
        left = Loan(loan.collateral - seized, loan.debt - amount)
        standing = self.stand(left, world)
        assert isinstance(standing, Standing)
        is_whole = left.debt == 0 or left.collateral <= 1
        return Close(By.REPAID, amount, amount, seized, standing.health_wad, is_whole)

    def sweep(self, loan: Loan, world: Wad) -> Sweep | None:
        return self.sweeps

    def worth_wad(self, token: str, amount: int, world: Wad) -> Wad | Unknown:
        if token in self.worthless:
            return Unknown(token, "it has no price")
        return amount * WAD // ONE * (world if token in {COLLATERAL, RECEIPT} else WAD) // WAD


def market(**changes: Any) -> Any:
    """Return the toy as the market that it stands in for."""
    return Toy(**changes)


def due(amount: int) -> Due:
    return Due(DEBT, VENUE, amount)
