"""What becomes of what the wallet seized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from keeper.domain import Refuse, Step
from keeper.lending.routes import Hop, Pool, Route
from keeper.lending.words import Approve, Convert, Redeem, Standing
from keeper.plan.conversion import plan_conversion, pockets
from keeper.plan.lending import Case, ConvertParams, Means, Params, Purse
from keeper.units import WAD
from tests.unit.toy_lending import AT, COLLATERAL, DEBT, ONE, RECEIPT, VENUE, market

ROUTER, WALLET = "0x" + "22" * 20, b"\xaa" * 20 + bytes(12)
V3: Route = (Hop(Pool("0x" + "90" * 20, COLLATERAL, DEBT, 3_000), COLLATERAL),)
V2: Route = (Hop(Pool("0x" + "91" * 20, COLLATERAL, DEBT, None), COLLATERAL),)
PARAMS = Params(convert=ConvertParams(ROUTER, DEBT))


@dataclass(frozen=True)
class Roads:
    known: Sequence[Route] = (V3, V2)

    def routes(self, sell: str, buy: str) -> Sequence[Route]:
        assert (sell, buy) == (COLLATERAL, DEBT)
        return self.known

    def lender(self, token: str, route: Route) -> Pool | None:
        raise NotImplementedError


def planned(
    balances: dict[str, int],
    allowed: int = 0,
    *,
    roads: Roads = Roads(),
    **changes: Any,
) -> tuple[Step, ...] | Refuse | None:
    toy: Any = market(**changes)
    case = Case("case", WALLET, None, Standing(None, 0, 0, None), toy, 2 * WAD, 19 * WAD // 10, AT)
    means = Means(Purse(balances, {(COLLATERAL, ROUTER): allowed}), 10**9, 2_000 * WAD)
    return plan_conversion(case, means, roads, PARAMS)


def steps(found: tuple[Step, ...] | Refuse | None) -> tuple[Step, ...]:
    assert isinstance(found, tuple)
    return found


def test_a_wallet_that_keeps_what_it_seized_sells_nothing_and_is_asked_nothing_more() -> None:
    toy: Any = market()
    assert pockets(toy, Params()) == ((DEBT, VENUE),)
    assert set(pockets(toy, PARAMS)) == {
        (DEBT, VENUE),
        *((token, ROUTER) for token in (DEBT, COLLATERAL, RECEIPT)),
    }
    case = Case("case", WALLET, None, Standing(None, 0, 0, None), toy, WAD, WAD, AT)
    means = Means(Purse({COLLATERAL: ONE}, {}), 0, WAD)
    assert plan_conversion(case, means, Roads(), Params()) is None


def test_what_was_seized_is_approved_for_the_router_and_then_sold_for_no_less_than_its_price() -> None:
    [approval] = steps(planned({COLLATERAL: 500 * ONE, DEBT: 7 * ONE}))
    assert approval.act == Approve(WALLET, COLLATERAL, ROUTER, 500 * ONE)
    raised, none = steps(planned({COLLATERAL: 500 * ONE}, 499 * ONE))
    assert (raised.act, none.act) == (approval.act, Approve(WALLET, COLLATERAL, ROUTER, 0))
    [sale] = steps(planned({COLLATERAL: 500 * ONE}, 500 * ONE))
    least = 500 * ONE * 19 // 10 * 99 // 100
    assert sale.act == Convert(WALLET, ROUTER, V3, 500 * ONE, least, AT.timestamp_s + 120)
    assert sale.expected_profit_wad < 0


def test_the_token_that_is_wanted_and_dust_are_left_alone() -> None:
    assert planned({DEBT: 500 * ONE}) is None
    assert planned({COLLATERAL: 20 * ONE}) is None
    assert planned({}) is None


def test_receipts_are_redeemed_first_where_they_are_worth_more() -> None:
    [first, second] = steps(planned({COLLATERAL: 500 * ONE, RECEIPT: 501 * ONE}))
    assert first.act == Redeem(WALLET, RECEIPT, 501 * ONE)
    assert second.act == Approve(WALLET, COLLATERAL, ROUTER, 500 * ONE)


def test_what_cannot_be_sold_keeps_nothing_else_back() -> None:
    [only] = steps(planned({COLLATERAL: 500 * ONE, RECEIPT: 400 * ONE}, roads=Roads(())))
    assert only.act == Redeem(WALLET, RECEIPT, 400 * ONE)


@pytest.mark.parametrize("known", [(), (V2,)])
def test_without_a_pool_of_v3_it_says_so(known: Sequence[Route]) -> None:
    refused = planned({COLLATERAL: 500 * ONE}, roads=Roads(known))
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "route.none"


def test_what_has_no_price_is_not_sold() -> None:
    assert planned({COLLATERAL: 500 * ONE}, worthless=frozenset({COLLATERAL})) is None
    refused = planned({COLLATERAL: 500 * ONE}, 500 * ONE, worthless=frozenset({DEBT}))
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "value.unknown"
