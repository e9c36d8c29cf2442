"""What becomes of what the wallet seized: it is kept, or turned into one token.

All of every token that the protocol lists is sold but that one, so that a wallet which converts is to be used
for nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from keeper.domain import Act, Reason, Refuse, Step, Unknown
from keeper.lending.words import Approve, Convert, Redeem
from keeper.plan.lending import (
    APPROVE_GAS,
    HOP_GAS,
    Case,
    ConvertParams,
    Means,
    Params,
    Roads,
    step_of,
    unvalued,
)
from keeper.ports import LendingMarket
from keeper.units import WAD, Wad

REDEEM_GAS = 250_000
CONVERT_GAS = 60_000
"""Beside what each hop takes."""
DEADLINE_S = 120
UNITS = 10**18
"""So many units are valued together, that nothing of a price is lost."""


def pockets(market: LendingMarket[Any, Any], params: Params) -> tuple[tuple[str, str], ...]:
    """Return every token that the wallet may have to do with, with whoever may take it."""
    if params.convert is None:
        return market.spending
    router = params.convert.router
    sold = ((token, router) for token in (*market.tokens, *market.receipts))
    return tuple(dict.fromkeys((*market.spending, *sold)))


def plan_conversion(
    case: Case, means: Means, pools: Roads, params: Params
) -> tuple[Step, ...] | Refuse | None:
    """Plan to sell what the wallet holds beside the one token that it keeps, the most valuable first.

    The next one comes where one cannot be sold. Where gas would cost more than the slippage's part of its
    worth, it is left alone; None where nothing else is there.
    """
    convert = params.convert
    if convert is None:
        return None
    found = sorted(_convertible(case, means, convert, params), reverse=True)
    planned = [_sold(case, token, amount, means, pools, params, convert) for _, token, amount in found]
    steps = tuple(step for each in planned if not isinstance(each, Refuse) for step in each)
    return steps or next((each for each in planned if isinstance(each, Refuse)), None)


def _sold(
    case: Case, token: str, amount: int, means: Means, pools: Roads, params: Params, convert: ConvertParams
) -> tuple[Step, ...] | Refuse:
    """Return the routes along which one token may be sold, or what has to come before."""
    if token in case.market.receipts:
        return (_own_step(case, Redeem(case.account, token, amount), params, REDEEM_GAS, means),)
    routes = [each for each in pools.routes(token, convert.into) if all(hop.pool.fee for hop in each)]
    if not routes:
        found_none = f"no pool of Uniswap v3 sells {token} for {convert.into}"
        return Refuse(Reason("route.none", found_none, "a direct pool, or two over a bridge token"))
    allowed = means.purse.allowances.get((token, convert.router), 0)
    if allowed < amount:
        # Where an allowance is left, some tokens let it be taken back only.
        amounts = (amount, 0) if allowed else (amount,)
        acts = [Approve(case.account, token, convert.router, each) for each in amounts]
        return tuple(_own_step(case, act, params, APPROVE_GAS, means) for act in acts)
    least = _least_out(case, token, amount, convert.into, params)
    if isinstance(least, Unknown):
        return unvalued(least)
    deadline_s = case.at.timestamp_s + DEADLINE_S
    sells = (token, *(each for each, of in case.market.receipts.items() if of == token))
    steps = (
        _own_step(
            case,
            Convert(case.account, convert.router, route, amount, least, deadline_s),
            params,
            CONVERT_GAS + HOP_GAS * len(route),
            means,
        )
        for route in routes
    )
    return tuple(replace(step, sells=sells) for step in steps)


def _convertible(
    case: Case, means: Means, convert: ConvertParams, params: Params
) -> Iterator[tuple[Wad, str, int]]:
    """Yield what is worth being sold: its worth, the token, and how much of it there is."""
    gas_wad = means.gas_cost_wad(APPROVE_GAS + CONVERT_GAS + 2 * HOP_GAS)
    for token in (*case.market.tokens, *case.market.receipts):
        amount = means.purse.balances.get(token, 0)
        worth = case.worth_wad(token, amount) if amount and token != convert.into else 0
        if isinstance(worth, tuple) and worth[0] * params.slippage_wad // WAD > gas_wad:
            yield worth[0], token, amount


def _least_out(case: Case, token: str, amount: int, into: str, params: Params) -> int | Unknown:
    """Return the least that a sale must bring, in units of what is bought."""
    sold, unit = case.worth_wad(token, amount), case.worth_wad(into, UNITS)
    if isinstance(sold, Unknown):
        return sold
    if isinstance(unit, Unknown) or unit[1] == 0:
        return Unknown(f"token {into}", "it has no price")
    return sold[0] * (WAD - params.slippage_wad) // WAD * UNITS // unit[1]


def _own_step(case: Case, act: Act, params: Params, gas: int, means: Means) -> Step:
    return step_of(case, act, params, gas, -means.gas_cost_wad(gas), 0)
