"""Books that hedge with options, and beside each of them its legs, every one in an account of its own.

A hedged book and its legs open at one health: cash is the same multiple of what each account requires. What
tells them apart afterwards is the netting alone. Not every book here is hedged against a fall: a covered call
is spared its premium and loses the rest, and it loses to a rising volatility too. It is reduced like any
other account once it breaches at both oracles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from keeper.domain import Account, Kind, Leg, Phase, Quote, Unknown
from keeper.errors import ChainFault
from keeper.lab.deploy import OptionSpec
from keeper.lab.paths import Paths
from keeper.protocols.hybrid import math
from keeper.protocols.hybrid.params import Rules
from keeper.protocols.hybrid.portfolio import Setting, unit_value_wad
from keeper.risk.scenarios import Option, VolShocks
from keeper.steward.arrays import Listed, Post, proposed
from keeper.units import WAD, FeedId, UnixS, Wad

STRIKE_STEP: Mapping[FeedId, int] = {"BTC/USD": 100, "ETH/USD": 5}
"""The feeds with options, and the quote units between two strikes."""
VOLS: Mapping[FeedId, float] = {"BTC/USD": 0.8, "ETH/USD": 1.0}
"""Annualised, before the fall: assumptions, not measurements."""
HALF_LIFE_S = 6 * 3600
"""Of the steward's volatility, which then rises more than threefold in the fall."""
QUARTER_S: UnixS = 1_585_296_000
"""2020-03-27 08:00 UTC, two weeks after the drill."""
SOON = 0.8
"""The part of the drill after which the short-dated options expire."""
HEALTH = (1.8, 3.0)
"""At which books and legs are opened."""
NOTIONAL = (4_000.0, 60_000.0)
SPARE_WAD = 1_002 * WAD // 1_000
"""Initial margin at opening is met with this to spare."""
VALIDITY_S = 60
MICRO = WAD // 10**6


@dataclass(frozen=True, slots=True)
class Contract:
    """An option of the listing: its strike in percent of the starting price, and when it expires."""

    kind: Kind
    percent: int
    soon: bool = False


CALL_AT, CALL_ABOVE = Contract(Kind.CALL, 100), Contract(Kind.CALL, 110)
PUT_AT, PUT_BELOW = Contract(Kind.PUT, 100), Contract(Kind.PUT, 90)
SOON_AT, SOON_BELOW = Contract(Kind.PUT, 100, soon=True), Contract(Kind.PUT, 90, soon=True)
CONTRACTS = (CALL_AT, CALL_ABOVE, PUT_AT, PUT_BELOW, SOON_AT, SOON_BELOW)


class Strategy(StrEnum):
    """The kinds of books."""

    PROTECTIVE_PUT = "protective put"
    COLLAR = "collar"
    IRON_FLY = "iron fly, delta-hedged"
    PUT_SPREAD = "put spread"
    CALL_SPREAD = "call spread"
    EXPIRING_SPREAD = "put spread, expiring"
    COVERED_CALL = "covered call"


UNITS: Mapping[Strategy, Mapping[Contract | None, int]] = {
    Strategy.PROTECTIVE_PUT: {None: 1, PUT_AT: 1},
    Strategy.COLLAR: {None: 1, PUT_AT: 1, CALL_ABOVE: -1},
    Strategy.IRON_FLY: {CALL_AT: -1, PUT_AT: -1, CALL_ABOVE: 1, PUT_BELOW: 1},
    Strategy.PUT_SPREAD: {PUT_AT: 1, PUT_BELOW: -1},
    Strategy.CALL_SPREAD: {CALL_AT: 1, CALL_ABOVE: -1},
    Strategy.EXPIRING_SPREAD: {SOON_AT: 1, SOON_BELOW: -1},
    Strategy.COVERED_CALL: {None: 1, CALL_AT: -1},
}
"""What a unit of a book holds, the perp under None. An iron fly's perp offsets the deltas of its options."""


@dataclass(frozen=True, slots=True)
class Stake:
    """What one account is to hold: signed sizes by market, and its cash."""

    legs: Mapping[int, Wad]
    cash_wad: Wad


@dataclass(frozen=True, slots=True)
class HedgePlan:
    """A book to be opened, and its legs apart."""

    strategy: Strategy
    feed: FeedId
    health: float
    whole: Stake
    apart: tuple[Stake, ...]

    @property
    def stakes(self) -> tuple[Stake, ...]:
        """Return all accounts that it asks for, the hedged one first."""
        return (self.whole, *self.apart)


def listing(paths: Paths) -> tuple[OptionSpec, ...]:
    """Return the options of a drill, strikes around its starting prices."""
    start = paths.true_at(paths.start_s)
    soon_s = paths.block_time_s(int(SOON * paths.blocks))
    return tuple(
        OptionSpec(
            feed,
            contract.kind,
            round(start[feed] * contract.percent / 100 / step) * step * WAD,
            soon_s if contract.soon else QUARTER_S,
        )
        for feed, step in STRIKE_STEP.items()
        for contract in CONTRACTS
    )


def value(rules: Rules, prices: Mapping[FeedId, Wad], at_s: UnixS) -> Post:
    """Compute the risk array of every option at given prices and the volatilities before the fall."""
    terms = rules.at(at_s)
    arrays = []
    for number in rules.options:
        market = rules.markets[number]
        mmr_wad = terms.risks[market.feed].mmr_wad
        option = Option(number, market.kind, market.strike_wad, market.expiry_s)
        listed = Listed(option, market.feed, None, (mmr_wad, mmr_wad))
        quote = Quote(market.feed, prices[market.feed], at_s)
        array = proposed(listed, quote, VOLS[market.feed], VolShocks())
        if isinstance(array, Unknown):
            raise ChainFault(f"no risk array for {array.what}: {array.why}")
        arrays.append(array)
    return Post(tuple(arrays), at_s + VALIDITY_S)


def draw_hedges(
    seed: int, each: int, rules: Rules, prices: Mapping[FeedId, Wad], at_s: UnixS
) -> list[HedgePlan]:
    """Draw ``each`` books of every strategy, their feeds in turn; ``rules`` list what ``listing`` says."""
    arrays = {array.market: array.view for array in value(rules, prices, at_s).arrays}
    setting = Setting(rules.at(at_s), arrays, settlements={}, now_s=at_s)
    drawer = _Drawer(np.random.default_rng([seed, 0x4ED6E]), setting, dict(prices))
    feeds = tuple(STRIKE_STEP)
    return [
        drawer.draw(strategy, feeds[(turn + number) % len(feeds)])
        for number, strategy in enumerate(Strategy)
        for turn in range(each)
    ]


@dataclass(frozen=True, slots=True)
class _Drawer:
    rng: np.random.Generator
    setting: Setting
    prices: dict[FeedId, Wad]

    def draw(self, strategy: Strategy, feed: FeedId) -> HedgePlan:
        """Draw the size and the health of one book."""
        health = float(self.rng.uniform(*HEALTH))
        notional = float(np.clip(self.rng.lognormal(np.log(15_000), 0.8), *NOTIONAL))
        unit = int(notional * 1e6) * MICRO * WAD // self.prices[feed] // MICRO * MICRO
        legs = self._legs(strategy, feed, unit)
        apart = tuple(self._stake({market: size}, health) for market, size in legs.items())
        return HedgePlan(strategy, feed, health, self._stake(legs, health), apart)

    def _legs(self, strategy: Strategy, feed: FeedId, unit: Wad) -> dict[int, Wad]:
        numbers = self._numbers(feed)
        legs = {numbers[contract]: sign * unit for contract, sign in UNITS[strategy].items()}
        if strategy is Strategy.IRON_FLY:
            delta = sum(size * self.setting.arrays[market].delta_wad // WAD for market, size in legs.items())
            legs[numbers[None]] = -delta // MICRO * MICRO
        return legs

    def _numbers(self, feed: FeedId) -> dict[Contract | None, int]:
        """Return the feed's market of every contract, the perp's under None."""
        markets = [market for market in self.setting.terms.markets.values() if market.feed == feed]
        perp, *options = sorted(markets, key=lambda market: market.market)
        return {None: perp.market} | {
            contract: option.market for contract, option in zip(CONTRACTS, options, strict=True)
        }

    def _stake(self, legs: Mapping[int, Wad], health: float) -> Stake:
        """Give an account the cash of its health, and of its initial margin where that is more."""
        account = opened(legs, self.setting, self.prices)
        needed = math.maintenance(account, self.prices, self.setting)
        beta_wad = self.setting.terms.slope_of(account).beta_wad
        initial = math.initial(account, self.prices, self.setting, beta_wad)
        cash_wad = max(
            int(health * needed.requirement_wad) - needed.equity_wad,
            initial.requirement_wad * SPARE_WAD // WAD - initial.equity_wad,
        )
        return Stake(legs, cash_wad // MICRO * MICRO + MICRO)


def opened(legs: Mapping[int, Wad], setting: Setting, prices: Mapping[FeedId, Wad]) -> Account:
    """Imagine a book as opened at its marks, without cash."""
    paid = (
        Leg(market, size, -(size * price_wad(market, setting, prices) // WAD))
        for market, size in legs.items()
    )
    return Account(bytes(32), Phase.HEALTHY, 0, tuple(paid), ())


def price_wad(market: int, setting: Setting, prices: Mapping[FeedId, Wad]) -> Wad:
    """Return what one unit of a market is worth: the perp's price, or the option's mark."""
    position = setting.position(Leg(market, WAD, 0))
    return unit_value_wad(position, prices[position.market.feed])
