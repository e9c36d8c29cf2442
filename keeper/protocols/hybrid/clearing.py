"""What the Clearing contract does to the accounts on the two sides of a slice, to the wei.

Mirrors the Liquidator's door of ``contracts/src/Clearing.sol``. The order of legs and of holdings is the
contract's: what is emptied is replaced by the last one. It matters, for the first holding is sold first.
Quote legs are net of the losses socialised so far, as the contract's views and the MarginReader give them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from keeper.domain import Account, Holding, Leg, Phase, Valuation
from keeper.protocols.hybrid.math import Marks, initial
from keeper.protocols.hybrid.portfolio import Position, Setting, unit_value_wad
from keeper.units import WAD, Block, UnixS, Wad, mul_div_down, mul_div_trunc

MAX_LEGS: Final = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Move:
    """``size`` units bought for ``value`` of quote; both sides of a slice move the same integers."""

    market: int
    size_wad: Wad
    value_wad: Wad
    notional_wad: Wad = 0
    """|size| at the underlying's price; nothing where the option has settled."""


def take_slice(
    account: Account, taker: Account, fraction_wad: Wad, *, execution: Marks, setting: Setting, block: Block
) -> tuple[Account, Account, tuple[Move, ...]]:
    """Move the fraction of every leg to the taker at the execution prices (Clearing.takeSlice).

    The caller refuses a taker with more than ``MAX_LEGS`` legs afterwards.
    """
    moves = []
    for position in setting.positions(account):
        moved = _part(position, fraction_wad, execution)
        if moved.size_wad == 0:
            continue
        given = replace(moved, size_wad=-moved.size_wad, value_wad=-moved.value_wad)
        account = move(account, given, setting.now_s)
        taker = move(taker, moved, setting.now_s)
        moves.append(moved)
    taker = replace(taker, last_risk_s=setting.now_s, last_risk_block=block)
    return account, taker, tuple(moves)


def _part(position: Position, fraction_wad: Wad, execution: Marks) -> Move:
    """Cut a fraction out of a leg, toward zero."""
    market, price = position.market, execution[position.market.feed]
    size = mul_div_trunc(position.size_wad, fraction_wad, WAD)
    return Move(
        market=market.market,
        size_wad=size,
        value_wad=mul_div_trunc(size, unit_value_wad(position, price), WAD),
        notional_wad=0 if position.is_settled else mul_div_down(abs(size), price, WAD),
    )


def settle(account: Account, market: int, setting: Setting) -> Account:
    """Turn an option whose settlement price is known into cash (Clearing.settle)."""
    index = next(i for i, leg in enumerate(account.legs) if leg.market == market)
    position = setting.position(account.legs[index])
    payoff = mul_div_down(position.size_wad, unit_value_wad(position, 0), WAD)
    cash = account.cash_wad + payoff + position.quote_leg_wad
    settled = replace(account, cash_wad=cash, legs=_drop(account.legs, index))
    return touch_debt_clock(settled, setting.now_s)


def move(account: Account, bought: Move, now_s: UnixS) -> Account:
    """Buy, or sell; what reduces a leg realises its share of the quote leg to cash (Clearing._move)."""
    size, quote = bought.size_wad, -bought.value_wad
    index = next((i for i, leg in enumerate(account.legs) if leg.market == bought.market), None)
    if index is None:
        opened = (*account.legs, Leg(bought.market, size, quote))
        return touch_debt_clock(replace(account, legs=opened), now_s)
    leg = account.legs[index]
    if (leg.size_wad > 0) == (size > 0):
        grown = Leg(leg.market, leg.size_wad + size, leg.quote_leg_wad + quote)
        return touch_debt_clock(replace(account, legs=_put(account.legs, index, grown)), now_s)
    flips = abs(size) > abs(leg.size_wad)
    closing = -leg.size_wad if flips else size
    entry_share = leg.quote_leg_wad if flips else mul_div_trunc(leg.quote_leg_wad, -closing, leg.size_wad)
    exit_share = mul_div_trunc(quote, closing, size) if flips else quote
    rest = Leg(leg.market, leg.size_wad + size, leg.quote_leg_wad - entry_share + quote - exit_share)
    legs = _put(account.legs, index, rest) if rest.size_wad else _drop(account.legs, index)
    cash = account.cash_wad + entry_share + exit_share
    return touch_debt_clock(replace(account, cash_wad=cash, legs=legs), now_s)


def sell_first_holding(account: Account, amount_wad: Wad, paid_wad: Wad, now_s: UnixS) -> Account:
    """Sell of the first holding, for cash; sold whole, it leaves the list (Clearing.sellHolding)."""
    first = account.holdings[0]
    rest = Holding(first.collateral, first.amount_wad - amount_wad)
    holdings = _put(account.holdings, 0, rest) if rest.amount_wad else _drop(account.holdings, 0)
    cash = account.cash_wad + paid_wad
    return touch_debt_clock(replace(account, cash_wad=cash, holdings=holdings), now_s)


def pay(account: Account, amount_wad: Wad, now_s: UnixS) -> Account:
    """Add to an account's cash, or take from it (Clearing.payFee and payFromInsurance)."""
    return touch_debt_clock(replace(account, cash_wad=account.cash_wad + amount_wad), now_s)


def touch_debt_clock(account: Account, now_s: UnixS) -> Account:
    """Start or stop the clock of an account that has only debt (Clearing._touchDebtClock)."""
    only_debt = account.cash_wad < 0 and not account.legs
    since = (account.debt_since_s or now_s) if only_debt else 0
    return replace(account, debt_since_s=since)


def write_off(account: Account) -> Account:
    """Close an account that has nothing left but debt (Clearing.writeOff)."""
    return replace(account, cash_wad=0, phase=Phase.CLOSED, debt_since_s=0)


def worst_initial(account: Account, fast: Marks, slow: Marks, setting: Setting, beta_wad: Wad) -> Valuation:
    """Return the initial margin that decides: the fast one where that fails, else the slow one.

    It is met where it does not breach (MarginEngine.initial).
    """
    at_fast = initial(account, fast, setting, beta_wad)
    return at_fast if at_fast.breaches() else initial(account, slow, setting, beta_wad)


def _put(items: tuple[T, ...], index: int, item: T) -> tuple[T, ...]:
    return (*items[:index], item, *items[index + 1 :])


def _drop(items: Sequence[T], index: int) -> tuple[T, ...]:
    """Remove one item; the last one takes its place."""
    kept = list(items)
    kept[index] = kept[-1]
    return tuple(kept[:-1])
