"""The keeper's side of ``contracts/demo/Formulas.sol``: the same formulas, from the same words.

A state is the row of words that the contract takes for it, and what comes back is a row of words too. The
random states of ``tests/anvil`` and the vectors of ``tests/golden`` are judged by these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from keeper.domain import Account, ArrayView, Holding, Kind, Leg, Phase, Valuation
from keeper.protocols.hybrid import math, portfolio
from keeper.protocols.hybrid.exp import exp_wad
from keeper.protocols.hybrid.params import CollateralTerms, Listed, Ramp, Risk, SlopeParams, Terms
from keeper.protocols.hybrid.portfolio import Position, Setting
from keeper.units import FeedId, Wad

Words: TypeAlias = tuple[int, ...]

KINDS: Final = tuple(Kind)
KEY: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula whose state has a fixed number of words."""

    twin: Callable[..., Words]
    """Of a state's words, and before them of the slope's where it depends on one."""
    takes: int
    gives: int = 1
    of_a_slope: bool = False


def _exp_wad(x: Wad) -> Words:
    return (exp_wad(x),)


def _decay(slope: SlopeParams, tau_s: int) -> Words:
    return (math.decay(slope, tau_s),)


def _scaled(equity_wad: Wad, q_wad: Wad) -> Words:
    return (math.scaled(equity_wad, q_wad),)


def _closeable(equity_wad: Wad, requirement_wad: Wad, notional_wad: Wad, kappa_wad: Wad, q_wad: Wad) -> Words:
    return (math.closeable(Valuation(equity_wad, requirement_wad, notional_wad), kappa_wad, q_wad),)


def _below(equity_wad: Wad, requirement_wad: Wad, notional_wad: Wad, level_wad: Wad) -> Words:
    return (Valuation(equity_wad, requirement_wad, notional_wad).breaches(level_wad),)


def _fee_cap(slope: SlopeParams, equity_wad: Wad, requirement_wad: Wad, notional_wad: Wad) -> Words:
    return (math.fee_cap(slope, Valuation(equity_wad, requirement_wad, notional_wad)),)


def _fee(slope: SlopeParams, since_confirmation_s: int, cap_wad: Wad) -> Words:
    return (math.fee(slope, since_confirmation_s, cap_wad),)


def _execution_price(slope: SlopeParams, fast_wad: Wad, slow_wad: Wad, since_confirmation_s: int) -> Words:
    return (math.execution_price(fast_wad, slow_wad, math.band_wad(slope, since_confirmation_s)),)


def _value_at(from_wad: Wad, to_wad: Wad, start_s: int, end_s: int, at_s: int) -> Words:
    return (Ramp(from_wad, to_wad, start_s, end_s).at(at_s),)


def _option(
    kind: int,
    strike_wad: Wad,
    settlement_wad: Wad,
    ref_wad: Wad,
    mark_wad: Wad,
    delta_wad: Wad,
    observed_at_s: int,
    price_wad: Wad,
    now_s: int,
) -> Words:
    array = ArrayView(ref_wad, mark_wad, delta_wad, observed_at_s, ()) if observed_at_s else None
    market = Listed(1, "", KINDS[kind], strike_wad)
    position = Position(market, 0, 0, array, settlement_wad or None)
    value_wad = portfolio.unit_value_wad(position, price_wad)
    current = portfolio.is_current(array, price_wad, now_s)
    return (value_wad, current, portfolio.is_silent(position, now_s))


FORMULAS: Final[Mapping[str, Formula]] = {
    "expWad": Formula(_exp_wad, takes=1),
    "decay": Formula(_decay, takes=1, of_a_slope=True),
    "scaled": Formula(_scaled, takes=2),
    "closeable": Formula(_closeable, takes=5),
    "below": Formula(_below, takes=4),
    "feeCap": Formula(_fee_cap, takes=3, of_a_slope=True),
    "fee": Formula(_fee, takes=2, of_a_slope=True),
    "executionPrice": Formula(_execution_price, takes=3, of_a_slope=True),
    "valueAt": Formula(_value_at, takes=5),
    "options": Formula(_option, takes=9, gives=3),
}
"""By the contract's function. Whole books have rows of different lengths: see ``World``."""


class World:
    """The markets and collaterals that many books share, from the words of their ``Leg`` and ``Holding``."""

    GROUP_GIVES: Final = 2
    BOOK_GIVES: Final = 8

    def __init__(self, markets: Sequence[Words], collaterals: Sequence[Words]) -> None:
        self.markets = markets
        self.collaterals = collaterals
        self._listed = [_listed(number, words) for number, words in enumerate(markets, 1)]
        self._risks = {listed.feed: _risk(words) for listed, words in zip(self._listed, markets, strict=True)}
        self._terms = Terms(
            slopes=(),
            default_slope=0,
            risks=self._risks,
            markets={listed.market: listed for listed in self._listed},
            collaterals={number: _collateral(number, words) for number, words in enumerate(collaterals, 1)},
        )
        self._arrays = {number: _array(words) for number, words in enumerate(markets, 1) if words[14]}
        self._settlements = {number: words[5] for number, words in enumerate(markets, 1) if words[5]}

    def group(self, row: Words) -> Words:
        """Judge a row of ``Formulas.groups``: requirement, and whether it is that of the scenarios."""
        rate_wad, now_s, price_wad, _ = row[:4]
        positions = [self._position(market, size) for market, size in _in_rows_of(2, row[4:])]
        options = [position for position in positions if position.market.is_option]
        judged = all(portfolio.is_current(option.array, price_wad, now_s) for option in options)
        risk = self._risks[positions[0].market.feed]
        needed = portfolio.requirement_wad(positions, price_wad, risk=risk, rate_wad=rate_wad, now_s=now_s)
        return (needed, judged)

    def book(self, row: Words) -> Words:
        """Judge a row of ``Formulas.books``: maintenance, initial margin, worth, and whether clocks stand."""
        cash_wad, now_s, beta_wad, count = row[:4]
        after_legs = 4 + 4 * count
        legs, marks = [], {}
        for market, size_wad, quote_leg_wad, price_wad in _in_rows_of(4, row[4:after_legs]):
            legs.append(Leg(market + 1, size_wad, quote_leg_wad))
            marks[self._listed[market].feed] = price_wad
        holdings = []
        for collateral, amount_wad, price_wad in _in_rows_of(3, row[after_legs + 1 :]):
            holdings.append(Holding(collateral + 1, amount_wad))
            marks[self._terms.collaterals[collateral + 1].feed] = price_wad
        account = Account(KEY, Phase.HEALTHY, cash_wad, tuple(legs), tuple(holdings))
        setting = Setting(self._terms, self._arrays, self._settlements, now_s)
        maintenance = math.maintenance(account, marks, setting)
        initial = math.initial(account, marks, setting, beta_wad)
        worth_wad = math.worth_wad(account, marks, setting)
        return (*_words(maintenance), *_words(initial), worth_wad, setting.is_silent(account))

    def _position(self, market: int, size_wad: Wad) -> Position:
        return Position(self._listed[market], size_wad, 0, self._arrays.get(market + 1))


def slope_of(words: Words) -> SlopeParams:
    """Read the contract's ``SlopeParams``."""
    return SlopeParams(*words)


def _words(m: Valuation) -> Words:
    return (m.equity_wad, m.requirement_wad, m.notional_wad)


def _in_rows_of(width: int, words: Words) -> Iterator[Words]:
    return (words[at : at + width] for at in range(0, len(words), width))


def _feed(word: int) -> FeedId:
    return hex(word)


def _listed(number: int, words: Words) -> Listed:
    return Listed(number, _feed(words[1]), KINDS[words[2]], words[4], words[3])


def _risk(words: Words) -> Risk:
    return Risk(*words[8:11])


def _array(words: Words) -> ArrayView:
    ref_wad, mark_wad, delta_wad, observed_at_s = words[11:15]
    return ArrayView(ref_wad, mark_wad, delta_wad, observed_at_s, words[15:31])


def _collateral(number: int, words: Words) -> CollateralTerms:
    return CollateralTerms(number, "", _feed(words[1]), *words[3:6])
