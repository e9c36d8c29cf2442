"""Perpetual v2's margin and takeovers, to the last unit, for accounts without open orders.

Each function names the one of the contracts that it mirrors, rounding by rounding. Money, sizes and prices
are times 1e18, whatever the settlement token's decimals; ratios are in millionths. The mark and the funding
that is due are the contract's own at one block: both move with every second, and are read, not carried. Not
modelled: collateral beside the settlement token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from keeper.units import WAD, Wad, mul_div_trunc

MILLION: Final = 10**6
DUST: Final = 10
"""Of size and of notional: less counts as nothing."""
SMALL_WAD: Final[Wad] = 100 * WAD
"""A position worth no more is taken over whole."""


class Unmet(Enum):
    """Why a takeover is refused, in the contract's words."""

    NOT_OPEN = "CH_MNO"
    HAS_ORDER = "CH_CLWTISO"
    HEALTHY = "CH_EAV"
    NO_POSITION = "CH_PSZ"
    WRONG_SIDE = "CH_WLD"
    UNINSURED = "CH_IIC"
    """The insurance fund cannot bear the account's bad debt."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for every market."""

    maintenance: int
    """Of the value of all positions, in millionths."""
    penalty: int
    """Of the notional taken over, in millionths."""
    decimals: int
    """Of the settlement token: values are rounded down to its units."""
    insurance_wad: Wad
    """What the insurance fund has, in its account and in its wallet."""

    @property
    def unit_wad(self) -> Wad:
        """One unit of the settlement token."""
        found: Wad = 10 ** (18 - self.decimals)
        return found


@dataclass(frozen=True, slots=True)
class Market:
    """A market as an account is judged by it."""

    mark_wad: Wad
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class Position:
    """One account's in one market; long is positive, and what was paid for it is a negative notional."""

    size_wad: Wad
    notional_wad: Wad
    funding_wad: Wad
    """Due, and not settled yet."""


@dataclass(frozen=True, slots=True)
class Trader:
    """An account: settled money, and positions by market."""

    cash_wad: Wad
    positions: Mapping[int, Position]
    has_order: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """Account value and what it must be at least."""

    value_wad: Wad
    required_wad: Wad

    @property
    def is_healthy(self) -> bool:
        return self.value_wad >= self.required_wad


@dataclass(frozen=True, slots=True)
class Close:
    """What one takeover moves."""

    size_wad: Wad
    """To the liquidator; negative for a short."""
    notional_wad: Wad
    """At the mark, with the size's sign."""
    penalty_wad: Wad
    reward_wad: Wad
    """The liquidator's part of the penalty: half, or all of it where the account's value is negative."""
    trader: Trader


def health(trader: Trader, markets: Mapping[int, Market], terms: Terms) -> Health:
    """Return ClearingHouse.getAccountValue and AccountBalance.getMarginRequirementForLiquidation."""
    value_wad, gross_wad = trader.cash_wad, 0
    for number, position in trader.positions.items():
        worth_wad = _worth_wad(position, markets[number])
        value_wad += worth_wad + position.notional_wad - position.funding_wad
        gross_wad += abs(worth_wad)
    return Health(_settled_wad(value_wad, terms), gross_wad * terms.maintenance // MILLION)


def most(trader: Trader, market: int, markets: Mapping[int, Market], terms: Terms) -> Wad:
    """Return the largest size that may be taken over (AccountBalance.getLiquidatablePositionSize).

    All of a small position, and of any where the value is below half of what is required; otherwise at most
    so much that half of the account's positions, by value, are taken.
    """
    standing = health(trader, markets, terms)
    size_wad = _size_wad(trader.positions.get(market))
    if standing.is_healthy or size_wad == 0:
        return 0
    worth_wad = abs(_worth_wad(trader.positions[market], markets[market]))
    if worth_wad <= SMALL_WAD or standing.value_wad < standing.required_wad // 2:
        return size_wad
    gross_wad = sum(abs(_worth_wad(each, markets[number])) for number, each in trader.positions.items())
    return mul_div_trunc(size_wad, min(MILLION, gross_wad * MILLION // (2 * worth_wad)), MILLION)


def close(
    trader: Trader, market: int, asked_wad: Wad, markets: Mapping[int, Market], terms: Terms
) -> Close | Unmet:
    """Return what ``liquidate`` of a size does, 0 meaning the most (ClearingHouse._liquidate)."""
    if not markets[market].is_open:
        return Unmet.NOT_OPEN
    if trader.has_order:
        return Unmet.HAS_ORDER
    standing = health(trader, markets, terms)
    if standing.is_healthy:
        return Unmet.HEALTHY
    held_wad = _size_wad(trader.positions.get(market))
    if held_wad == 0:
        return Unmet.NO_POSITION
    if held_wad * asked_wad < 0:
        return Unmet.WRONG_SIDE
    limit_wad = most(trader, market, markets, terms)
    size_wad = limit_wad if asked_wad == 0 or abs(asked_wad) > abs(limit_wad) else asked_wad
    notional_wad = mul_div_trunc(size_wad, markets[market].mark_wad, WAD)
    penalty_wad = abs(notional_wad) * terms.penalty // MILLION
    reward_wad = penalty_wad if standing.value_wad < 0 else penalty_wad // 2
    left = _reduced(trader, market, size_wad, notional_wad, penalty_wad)
    value_wad = health(left, markets, terms).value_wad
    # The fund has the other half of the penalty by now.
    capacity_wad = _settled_wad(terms.insurance_wad + penalty_wad - reward_wad, terms)
    if value_wad < min(0, -capacity_wad):
        return Unmet.UNINSURED
    if value_wad < 0 and not left.positions:
        # Vault.settleBadDebt: the insurance fund pays what an account without positions owes.
        left = replace(left, cash_wad=left.cash_wad - value_wad)
    return Close(size_wad, notional_wad, penalty_wad, reward_wad, left)


def reduced(trader: Trader, market: int, size_wad: Wad, markets: Mapping[int, Market]) -> Trader:
    """Return the account once it has closed a size at the mark, at no cost."""
    notional_wad = mul_div_trunc(size_wad, markets[market].mark_wad, WAD)
    return _reduced(trader, market, size_wad, notional_wad, 0)


def mark_wad(spot_wad: Wad, twap_wad: Wad, index_wad: Wad, premium_wad: Wad) -> Wad:
    """Return the mark of an open market (AccountBalance._getMarkPrice).

    Of the pool's price and its mean, and of the index with what the pool was above it, the one in the middle.
    """
    return sorted((spot_wad, twap_wad, index_wad + premium_wad))[1]


def taken(taker: Trader, market: int, size_wad: Wad, paid_wad: Wad) -> Trader:
    """Return the account that a takeover goes to (ClearingHouse._modifyPositionAndRealizePnl).

    ``paid_wad`` is the reward less the notional. What reduces a position there realises profit.
    """
    held = taker.positions.get(market, Position(0, 0, 0))
    profit_wad = 0
    if held.size_wad * size_wad < 0:
        share_wad = abs(size_wad) * WAD // abs(held.size_wad)
        if share_wad <= WAD:
            profit_wad = paid_wad + mul_div_trunc(held.notional_wad, share_wad, WAD)
        else:
            profit_wad = held.notional_wad + mul_div_trunc(paid_wad, WAD, share_wad)
    after = Position(held.size_wad + size_wad, held.notional_wad + paid_wad - profit_wad, 0)
    return _with(taker, market, after, taker.cash_wad + profit_wad - held.funding_wad)


def free_wad(trader: Trader, markets: Mapping[int, Market], initial: int) -> Wad:
    """Return Vault.getFreeCollateralByRatio at the initial margin's ratio, not rounded to the token's units.

    That is what counts: profit that is not realised frees nothing, and debt is what was borrowed to open.
    """
    settled_wad = trader.cash_wad - sum(each.funding_wad for each in trader.positions.values())
    notional_wad = sum(each.notional_wad for each in trader.positions.values())
    worth_wad = sum(_worth_wad(each, markets[number]) for number, each in trader.positions.items())
    owed_wad = sum(
        min(0, mul_div_trunc(each.size_wad, markets[number].mark_wad, WAD))
        for number, each in trader.positions.items()
    )
    required_wad = abs(min(0, notional_wad) + owed_wad) * initial // MILLION
    return min(settled_wad, settled_wad + worth_wad + notional_wad) - required_wad


def _reduced(trader: Trader, market: int, size_wad: Wad, notional_wad: Wad, penalty_wad: Wad) -> Trader:
    """Return the account after it gave a size away at the mark (Exchange.getPnlToBeRealized, and after)."""
    position = trader.positions[market]
    share_wad = abs(size_wad) * WAD // abs(position.size_wad)
    profit_wad = notional_wad + mul_div_trunc(position.notional_wad, share_wad, WAD)
    left = Position(position.size_wad - size_wad, position.notional_wad + notional_wad - profit_wad, 0)
    return _with(trader, market, left, trader.cash_wad + profit_wad - position.funding_wad - penalty_wad)


def _with(trader: Trader, market: int, position: Position, cash_wad: Wad) -> Trader:
    """Return an account with other money, and another position; with none where only dust is left of it."""
    positions = {**trader.positions, market: position}
    if max(abs(position.size_wad), abs(position.notional_wad)) < DUST:
        del positions[market]
    return replace(trader, cash_wad=cash_wad, positions=positions)


def _size_wad(position: Position | None) -> Wad:
    return position.size_wad if position and abs(position.size_wad) >= DUST else 0


def _worth_wad(position: Position, market: Market) -> Wad:
    """Return size x mark, cut toward zero (AccountBalance._getPositionValue)."""
    return mul_div_trunc(_size_wad(position), market.mark_wad, WAD)


def _settled_wad(value_wad: Wad, terms: Terms) -> Wad:
    """Return a value in whole units of the settlement token, rounded down."""
    return value_wad // terms.unit_wad * terms.unit_wad
