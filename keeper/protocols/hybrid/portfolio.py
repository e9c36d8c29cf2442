"""What the positions on one underlying are worth, and what they require together, to the wei.

Mirrors ``contracts/src/Portfolio.sol``, function by function and rounding by rounding: losses round up and
gains down, each position by itself. Where the risk arrays may be judged by, the worst of sixteen scenarios in
the order of SPAN; where not, perps as without options, and of each expiry's options the most that they can
lose, but for those sold that the perps cover.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from keeper.domain import SCENARIOS, Account, ArrayView, Kind, Leg, OracleView
from keeper.protocols.hybrid.params import Listed, Risk, Rules, Terms
from keeper.units import WAD, UnixS, Wad, mul_div_down, mul_div_up

CURRENT_FOR_S: Final = 600
"""How long a risk array may be judged by; then it is silent, and from ``LOST_AFTER_S`` on lost."""
LOST_AFTER_S: Final = 4200
NEAR: Final = 50
"""One over how far the price may have moved from the array's: 2%."""
THIRDS: Final = (0, 0, 1, 1, -1, -1, 2, 2, -2, -2, 3, 3, -3, -3, 9, -9)
"""The price move of each scenario, in thirds of the range."""
EXTREME: Final = 14
"""The first of the two extremes, and one over their weight."""
EXTREME_PART: Final = 3


@dataclass(frozen=True, slots=True)
class Position:
    """A leg with everything that its margin needs (HybridTypes.Leg)."""

    market: Listed
    size_wad: Wad
    quote_leg_wad: Wad
    array: ArrayView | None = None
    settlement_wad: Wad | None = None

    @property
    def is_settled(self) -> bool:
        """Tell whether it is worth a fixed amount, at no risk (Portfolio.settled)."""
        return self.settlement_wad is not None


@dataclass(frozen=True, slots=True)
class Setting:
    """What margin depends on at one moment, beside the account and the prices of the underlyings."""

    terms: Terms
    arrays: Mapping[int, ArrayView]
    settlements: Mapping[int, Wad]
    now_s: UnixS

    def position(self, leg: Leg) -> Position:
        """Return a leg with everything that its margin needs."""
        number = leg.market
        return Position(
            market=self.terms.markets[number],
            size_wad=leg.size_wad,
            quote_leg_wad=leg.quote_leg_wad,
            array=self.arrays.get(number),
            settlement_wad=self.settlements.get(number),
        )

    def positions(self, account: Account) -> tuple[Position, ...]:
        """Return the account's legs with everything that their margin needs."""
        return tuple(self.position(leg) for leg in account.legs)

    def is_silent(self, account: Account) -> bool:
        """Tell whether clocks stand for a risk array of the account (MarginMath.silent)."""
        return any(is_silent(position, self.now_s) for position in self.positions(account))


def setting_at(rules: Rules, oracles: OracleView, now_s: UnixS) -> Setting:
    """Put together what the chain says with the terms of one moment."""
    return Setting(rules.at(now_s), oracles.arrays, oracles.settlements, now_s)


def unit_value_wad(position: Position, price_wad: Wad) -> Wad:
    """Return what one unit is worth at a price of the underlying (Portfolio.unitValue).

    A perp the price; a settled option its payoff; another one its array's mark moved along delta, rounded
    down and held between its payoff and the most that it can be worth.
    """
    market, array = position.market, position.array
    if market.kind is Kind.PERP:
        return price_wad
    if position.settlement_wad is not None:
        return market.payoff_wad(position.settlement_wad)
    least = market.payoff_wad(price_wad)
    if array is None:
        return least
    moved = array.mark_wad + mul_div_down(array.delta_wad, price_wad - array.ref_wad, WAD)
    return min(ceiling_wad(market, price_wad), max(least, moved))


def ceiling_wad(option: Listed, price_wad: Wad) -> Wad:
    """Return the most that an option can be worth: the underlying, or a put's strike (Portfolio.ceiling)."""
    return price_wad if option.kind is Kind.CALL else option.strike_wad


def is_current(array: ArrayView | None, price_wad: Wad, now_s: UnixS) -> bool:
    """Tell whether an array may be judged by at a price (Portfolio.current)."""
    if array is None:
        return False
    young = now_s <= array.observed_at_s + CURRENT_FOR_S
    return young and abs(price_wad - array.ref_wad) * NEAR <= array.ref_wad


def is_silent(position: Position, now_s: UnixS) -> bool:
    """Tell whether an option's array is too old to be judged by, and not yet lost (Portfolio.silent)."""
    if not position.market.is_option or position.is_settled or position.array is None:
        return False
    return CURRENT_FOR_S < now_s - position.array.observed_at_s < LOST_AFTER_S


def requirement_wad(
    positions: Sequence[Position], price_wad: Wad, *, risk: Risk, rate_wad: Wad, now_s: UnixS
) -> Wad:
    """Return what one underlying's positions, none of them settled, require (Portfolio.requirement).

    ``rate_wad`` is mmr for maintenance; for initial margin the larger one that all requirements grow to.
    """
    options = [position for position in positions if position.market.is_option]
    perps_wad = _perps(positions, price_wad, rate_wad)
    if not options:
        return perps_wad
    least = _grown(_short_minimum(options, price_wad, risk), risk, rate_wad)
    if all(is_current(option.array, price_wad, now_s) for option in options):
        return least + _worst_scenario(positions, price_wad, risk, rate_wad)
    alone, covered = (
        perps_wad + _grown(most, risk, rate_wad) for most in max_loss_wad(positions, price_wad, risk)
    )
    if alone == covered:
        return least + alone
    # Cover takes nothing off what the last arrays ask for.
    return least + max(covered, min(alone, _worst_scenario(positions, price_wad, risk, rate_wad)))


def max_loss_wad(positions: Sequence[Position], price_wad: Wad, risk: Risk) -> tuple[Wad, Wad]:
    """Return the most that options can lose from their marks, each expiry by itself (Portfolio.maxLoss).

    First all of them; then without what the perps cover of those sold, wherever that asks for less.
    """
    options = [position for position in positions if position.market.is_option]
    bare = _uncovered(positions)
    alone = covered = 0
    for expiry_s in {option.market.expiry_s for option in options}:
        most, less = (
            _max_loss_of_expiry([each for each in held if each.market.expiry_s == expiry_s], price_wad, risk)
            for held in (options, bare)
        )
        alone += most
        covered += min(most, less)
    return alone, covered


def _uncovered(positions: Sequence[Position]) -> list[Position]:
    """Return the options without what perps cover, an equal part of every call sold, rounded down.

    Of every put where the perps are short themselves (Portfolio._uncovered).
    """
    perps = sum(each.size_wad for each in positions if not each.market.is_option)
    kind = Kind.PUT if perps < 0 else Kind.CALL
    options = [each for each in positions if each.market.is_option]
    sold = sum(-each.size_wad for each in options if each.market.kind is kind and each.size_wad < 0)
    uncovered = max(0, sold - abs(perps))
    return [
        replace(each, size_wad=-mul_div_up(-each.size_wad, uncovered, sold))
        if each.market.kind is kind and each.size_wad < 0
        else each
        for each in options
    ]


def _max_loss_of_expiry(options: Sequence[Position], price_wad: Wad, risk: Risk) -> Wad:
    """Hold marks against the worst payoff over a price of nothing and every strike (Portfolio._maxLoss).

    Calls sold beyond those bought are covered by buying the underlying, at the end of the range above.
    """
    worth = sum(mul_div_down(each.size_wad, unit_value_wad(each, price_wad), WAD) for each in options)
    calls = sum(each.size_wad for each in options if each.market.kind is Kind.CALL)
    cover = max(0, -calls)
    ends = (0, *(each.market.strike_wad for each in options))
    least = min(_payoffs(options, end_wad) + mul_div_down(cover, end_wad, WAD) for end_wad in ends)
    least -= mul_div_up(cover, price_wad, WAD) + _share(cover, price_wad, risk.mmr_wad)
    return max(0, worth - least)


def _payoffs(options: Sequence[Position], end_wad: Wad) -> Wad:
    """Return what options pay where the underlying ends at a price, each rounded down."""
    return sum(mul_div_down(each.size_wad, each.market.payoff_wad(end_wad), WAD) for each in options)


def _perps(positions: Sequence[Position], price_wad: Wad, rate_wad: Wad) -> Wad:
    """Return the net position moved by the rate (Portfolio.perps)."""
    net = 0
    for position in positions:
        if not position.market.is_option:
            moved = _share(abs(position.size_wad), price_wad, rate_wad)
            net += moved if position.size_wad > 0 else -moved
    return abs(net)


def _worst_scenario(positions: Sequence[Position], price_wad: Wad, risk: Risk, rate_wad: Wad) -> Wad:
    """Return the worst loss of all together, 0 where none of the scenarios loses (Portfolio.scenarios)."""
    pnl = [
        _option_pnl(position, risk, rate_wad)
        if position.market.is_option
        else _perp_pnl(position, price_wad, rate_wad)
        for position in positions
    ]
    worst: Wad = min(sum(scenario) for scenario in zip(*pnl, strict=True))
    return max(0, -worst)


def _perp_pnl(perp: Position, price_wad: Wad, rate_wad: Wad) -> list[Wad]:
    """Move a perp through the scenarios; an extreme is three ranges at a third of the weight: one range."""
    range_wad = _share(abs(perp.size_wad), price_wad, rate_wad)
    side = 1 if perp.size_wad > 0 else -1
    thirds = (*THIRDS[:EXTREME], 3, -3)
    return [mul_div_down(range_wad, side * moved, 3) for moved in thirds]


def _option_pnl(option: Position, risk: Risk, rate_wad: Wad) -> list[Wad]:
    if option.array is None:
        return [0] * SCENARIOS
    values = [mul_div_down(option.size_wad, pnl_wad, WAD) for pnl_wad in option.array.pnl_wad]
    if rate_wad != risk.mmr_wad:
        values = [mul_div_down(value, rate_wad, risk.mmr_wad) for value in values]
    return [*values[:EXTREME], *(value // EXTREME_PART for value in values[EXTREME:])]


def _short_minimum(options: Sequence[Position], price_wad: Wad, risk: Risk) -> Wad:
    """Return the least requirement of the short options (Portfolio.shortMinimum)."""
    return sum(_share(-each.size_wad, price_wad, risk.short_min_wad) for each in options if each.size_wad < 0)


def _share(size_wad: Wad, price_wad: Wad, rate_wad: Wad) -> Wad:
    """Return the rate's share of a position's notional, rounded up twice (Portfolio._share)."""
    return mul_div_up(mul_div_up(size_wad, price_wad, WAD), rate_wad, WAD)


def _grown(value_wad: Wad, risk: Risk, rate_wad: Wad) -> Wad:
    """Scale a requirement from mmr to the rate, rounded up (Portfolio._grown)."""
    return value_wad if rate_wad == risk.mmr_wad else mul_div_up(value_wad, rate_wad, risk.mmr_wad)
