"""What the owner of an account can do about a margin call, in the contracts' own integers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from keeper.domain import Account, Holding, Leg, OracleView
from keeper.protocols.hybrid import liquidator
from keeper.protocols.hybrid.math import Marks, leg_value_wad
from keeper.protocols.hybrid.portfolio import Setting
from keeper.remedies import Do, Mend
from keeper.units import WAD, UnixS, Wad, mul_div_down, mul_div_trunc

MOST: Final = 2**127 - 1
"""A deposit of more is none."""
PERCENT: Final = 16
"""Digits of a share of a book behind the point, in per cent."""


def mends(
    account: Account, setting: Setting, oracles: OracleView, quote: str, at_s: UnixS
) -> tuple[Mend, ...]:
    """Return deposits of quote and of each collateral listed, and the reduction of all positions alike."""
    prices = liquidator.prices_of(
        [feed for feed in oracles if oracles[feed].fast_wad or oracles[feed].slow_wad], oracles, 0, at_s
    ).fast
    deposits = [Mend(Do.DEPOSIT, quote, 18, WAD, MOST, partial(_paid_in, account))]
    deposits += [
        Mend(Do.DEPOSIT, terms.token, 18, WAD, MOST, partial(deposited, account, number))
        for number, terms in setting.terms.collaterals.items()
        if terms.h_mm_wad and prices.get(terms.feed)
    ]
    if not account.legs:
        return tuple(deposits)
    reduce = partial(reduced, account, prices, setting)
    return (*deposits, Mend(Do.REDUCE, "% of every position", PERCENT, WAD // 100, WAD, reduce))


def _paid_in(account: Account, amount_wad: Wad) -> Account:
    return replace(account, cash_wad=account.cash_wad + amount_wad)


def deposited(account: Account, collateral: int, amount_wad: Wad) -> Account:
    """Return an account with so much more of a collateral."""
    held = {each.collateral: each.amount_wad for each in account.holdings}
    held[collateral] = held.get(collateral, 0) + amount_wad
    return replace(account, holdings=tuple(Holding(*each) for each in held.items()))


def reduced(account: Account, prices: Marks, setting: Setting, share_wad: Wad) -> Account:
    """Return an account that has closed a share of every position at the fast price, at no cost."""
    cash_wad, legs = account.cash_wad, []
    for leg in account.legs:
        closed = Leg(
            leg.market,
            mul_div_trunc(leg.size_wad, share_wad, WAD),
            mul_div_down(leg.quote_leg_wad, share_wad, WAD),
        )
        position = setting.position(closed)
        cash_wad += leg_value_wad(position, prices[position.market.feed])
        left = Leg(leg.market, leg.size_wad - closed.size_wad, leg.quote_leg_wad - closed.quote_leg_wad)
        if left.size_wad:
            legs.append(left)
        else:
            cash_wad += left.quote_leg_wad
    return replace(account, cash_wad=cash_wad, legs=tuple(legs))
