"""How much of a loan is closed, what with, and whether it pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from keeper.domain import Reason, Record, Refuse, Step, Unknown
from keeper.lending.routes import Hop, Pool, Route
from keeper.lending.words import (
    Approve,
    Close,
    Heal,
    Lender,
    Repay,
    Standing,
    Sweep,
    Way,
)
from keeper.plan.common import Policy
from keeper.plan.economics import Prudence
from keeper.plan.lending import (
    Case,
    FlashParams,
    Means,
    Params,
    Purse,
    chosen,
    is_harmful,
    left,
    plan_close,
    sizes_of,
    with_profit,
)
from keeper.units import WAD, Wad
from tests.unit.toy_lending import AT, COLLATERAL, DEBT, ONE, OWNER, VENUE, Loan, Toy, due, market

POOL = Pool("0x" + "90" * 20, COLLATERAL, DEBT, 3_000)
ROUTE: Route = (Hop(POOL, COLLATERAL),)
ENDLESS = 2**200
PURSE = Purse({DEBT: ENDLESS}, {(DEBT, VENUE): ENDLESS})
RICH = Means(PURSE, 10**9, 2_000 * WAD)
FLASH = Params(flash=FlashParams("0x" + "f1" * 20, Lender.MORPHO))
LOAN = Loan(1_000 * ONE, 810 * ONE)
"""Health 0.9877 at a price of 1, loan to value 0.81."""


@dataclass(frozen=True)
class Roads:
    """Pools that lead anywhere by some routes."""

    known: Sequence[Route] = (ROUTE,)
    lends: Pool | None = None

    def routes(self, sell: str, buy: str) -> Sequence[Route]:
        return self.known if sell != buy else ((),)

    def lender(self, token: str, route: Route) -> Pool | None:
        assert (token, route) == (DEBT, ROUTE)
        return self.lends


def case(loan: Loan = LOAN, *, chain: Wad = WAD, fast: Wad = WAD, **changes: Any) -> Case:
    toy: Any = market(**changes)
    standing = toy.stand(loan, chain)
    assert isinstance(standing, Standing)
    return Case("case", OWNER, loan, standing, toy, chain, fast, AT)


def steps(found: tuple[Step, ...] | Refuse) -> tuple[Step, ...]:
    assert not isinstance(found, Refuse), found
    return found


def sizes(found: tuple[Close, ...] | Refuse) -> tuple[Close, ...]:
    assert not isinstance(found, Refuse), found
    return found


def having(**changes: Any) -> Means:
    """Return means with another purse."""
    return replace(RICH, purse=replace(PURSE, **changes))


def rule(found: object) -> str:
    assert isinstance(found, Refuse), found
    return found.reason.rule


def wanted(loan: Case, params: Params = Params(), limit: int = 810 * ONE) -> tuple[Close, ...]:  # noqa: B008
    return sizes(sizes_of(loan, Toy().way, limit, params))


# --- sizes ---------------------------------------------------------------------------------------


def test_restore_asks_for_the_least_that_reaches_the_target() -> None:
    least, *larger = wanted(case())
    # h* D - W over h* - (1 + b) LT: 1.05 x 810 - 800 over 1.05 - 1.05 x 0.8.
    exact = (1.05 * 810 - 800) / (1.05 - 1.05 * 0.8)
    assert exact * ONE <= least.repaid <= exact * ONE + 810 * ONE / 1_000
    assert least.health_after_wad is not None
    assert least.health_after_wad >= 105 * WAD // 100
    assert [each.repaid for each in larger] == sorted(each.repaid for each in larger)
    assert larger[-1].repaid == 810 * ONE


def test_what_no_closing_restores_is_closed_as_far_as_the_protocol_lets() -> None:
    loan = case(close_factor_wad=WAD // 10)
    [only] = wanted(loan, limit=81 * ONE)
    assert only.repaid == 81 * ONE


def test_max_asks_for_all_first_and_for_less_where_that_does_not_pay() -> None:
    found = wanted(case(), Params(policy=Policy.MAX))
    assert [each.repaid for each in found] == [810 * ONE, 810 * ONE * 3 // 4, 405 * ONE, 810 * ONE // 4]


def test_a_part_does_harm_from_a_loan_to_value_of_one_over_bonus_and_slippage() -> None:
    worth = Standing(WAD, 100 * WAD, 106_050_000_000_000_000_000, None)
    assert is_harmful(worth, 5 * WAD // 100, WAD // 100)
    assert not is_harmful(replace(worth, collateral_wad=worth.collateral_wad + 1), 5 * WAD // 100, WAD // 100)


def test_where_a_part_does_harm_only_a_whole_closing_is_left() -> None:
    sunk = Loan(1_000 * ONE, 990 * ONE)
    loan = case(sunk)
    assert [each.is_whole for each in wanted(loan, limit=Toy().most(sunk, Toy().way, WAD))] == [True]
    refused = sizes_of(loan, Toy().way, 400 * ONE, Params())
    assert isinstance(refused, Refuse)
    assert refused.reason == Reason(
        "size.harm",
        "loan to value 0.9900",
        "a loan to value below 1 / 1.0500, or all of a debt or of a collateral",
    )


def test_the_refusal_of_the_protocol_is_the_refusal_of_the_size() -> None:
    assert rule(sizes_of(case(), Toy().way, 0, Params())) == "protocol.nothing"


# --- the wallet pays -----------------------------------------------------------------------------


def test_the_wallet_repays_the_least_and_keeps_what_is_seized() -> None:
    first, *_ = steps(plan_close(case(), RICH, Roads(), Params()))
    assert isinstance(first.act, Repay)
    assert (first.act.flash, first.act.way.venue, first.kind) == (None, VENUE, "repay")
    assert (first.valid_until_block, first.gas_limit) == (103, 900_000)
    repaid_wad = first.act.takes * WAD // ONE
    gas_wad = 300_000 * 10**9 * 2_000
    seized_wad = repaid_wad * 105 // 100
    assert first.notional_wad == repaid_wad
    assert first.expected_profit_wad == pytest.approx(seized_wad * 99 // 100 - repaid_wad - gas_wad, rel=1e-6)


def test_what_is_seized_counts_at_the_lower_of_both_prices() -> None:
    at_one = steps(plan_close(case(), RICH, Roads(), Params()))
    lower = steps(plan_close(case(fast=99 * WAD // 100), RICH, Roads(), Params()))
    assert lower[0].act == at_one[0].act
    assert lower[0].expected_profit_wad < at_one[0].expected_profit_wad


def test_no_more_is_repaid_than_the_wallet_has() -> None:
    means = having(balances={DEBT: 50 * ONE})
    [only] = steps(plan_close(case(), means, Roads(), Params()))
    assert isinstance(only.act, Repay)
    assert only.act.takes == 50 * ONE
    assert rule(plan_close(case(), having(balances={}), Roads(), Params())) == "means.no_tokens"


def test_an_approval_of_what_is_needed_comes_first() -> None:
    [only] = steps(plan_close(case(), having(allowances={}), Roads(), Params()))
    assert only.act == Approve(OWNER, DEBT, VENUE, 810 * ONE + 810 * ONE // 1_000 + 1)
    assert only.expected_profit_wad < 0
    assert chosen([only], Params()) is only


@pytest.mark.parametrize("policy", Policy)
def test_where_an_allowance_is_left_it_is_raised_or_else_taken_back(policy: Policy) -> None:
    params = Params(policy=policy)
    raised, none = steps(plan_close(case(), having(allowances={(DEBT, VENUE): ONE}), Roads(), params))
    assert isinstance(raised.act, Approve)
    assert none.act == replace(raised.act, amount=0)
    assert chosen([raised, none], params) is raised
    assert chosen([none], params) is none


@pytest.mark.parametrize("policy", Policy)
def test_what_is_ready_comes_before_an_approval(policy: Policy) -> None:
    params = Params(policy=policy)
    [approval] = steps(plan_close(case(), having(allowances={}), Roads(), params))
    ready = steps(plan_close(case(), RICH, Roads(), params))
    assert isinstance(chosen([approval, *ready], params), Step)
    assert chosen([approval, *ready], params) == chosen(ready, params)


def test_what_brings_less_than_its_gas_is_refused() -> None:
    dear = replace(RICH, gas_price_wei=10**12)
    refused = plan_close(case(), dear, Roads(), Params())
    assert rule(refused) == "close.unprofitable"


def test_a_size_that_does_not_pay_is_not_tried() -> None:
    first, *_ = steps(plan_close(case(), RICH, Roads(), Params()))
    pickier = replace(Params(), min_profit_wad=first.expected_profit_wad + 1)
    next_, *_ = steps(plan_close(case(), RICH, Roads(), pickier))
    assert next_.notional_wad > first.notional_wad


@pytest.mark.parametrize("token", [DEBT, COLLATERAL])
def test_what_has_no_price_is_not_traded(token: str) -> None:
    assert rule(plan_close(case(worthless=frozenset({token})), RICH, Roads(), Params())) == "value.unknown"


def test_without_a_pair_nothing_is_closed() -> None:
    assert rule(plan_close(case(Loan(0, ONE)), RICH, Roads(), Params())) == "size.no_way"


# --- with borrowed tokens ------------------------------------------------------------------------


def test_every_size_is_tried_along_every_route_with_a_least_profit_that_covers_gas() -> None:
    params = replace(FLASH, min_profit_wad=3 * WAD)
    roads = Roads(known=(ROUTE, (*ROUTE, Hop(POOL, DEBT))))
    found = steps(plan_close(case(), Means(Purse({}, {}), 10**9, 2_000 * WAD), roads, params))
    assert len(found) == 2 * len(wanted(case()))
    flash = [each.act.flash for each in found[:2] if isinstance(each.act, Repay)]
    for each, hops in zip(flash, (1, 2), strict=True):
        gas_wad = (300_000 + 180_000 + 110_000 * hops) * 10**9 * 2_000
        assert each is not None
        assert (each.liquidator, each.lender, len(each.route)) == ("0x" + "f1" * 20, Lender.MORPHO, hops)
        assert each.min_profit == -(-(gas_wad + 3 * WAD) * ONE // WAD)


def test_a_pool_that_lends_is_another_than_those_that_are_sold_through() -> None:
    params = replace(FLASH, flash=FlashParams("0x" + "f1" * 20, Lender.UNISWAP_V3))
    other = Pool("0x" + "91" * 20, COLLATERAL, DEBT, 500)
    [first, *_] = steps(plan_close(case(), RICH, Roads(lends=other), params))
    assert isinstance(first.act, Repay)
    assert first.act.flash is not None
    assert first.act.flash.pool == other.address
    assert rule(plan_close(case(), RICH, Roads(), params)) == "route.no_lender"


def test_a_debt_of_the_collateral_itself_needs_no_route() -> None:
    same = Way(VENUE, DEBT, DEBT, 5 * WAD // 100, 300_000)
    [first, *_] = steps(plan_close(case(way=same), RICH, Roads(known=()), FLASH))
    assert isinstance(first.act, Repay)
    assert first.act.flash is not None
    assert first.act.flash.route == ()


def test_without_a_route_nothing_is_borrowed() -> None:
    assert rule(plan_close(case(), RICH, Roads(known=()), FLASH)) == "route.none"


def test_what_does_not_even_pay_its_gas_at_the_better_price_is_not_simulated() -> None:
    dust = Loan(20 * ONE, 17 * ONE)
    assert rule(plan_close(case(dust), RICH, Roads(), FLASH)) == "close.unprofitable"
    assert steps(plan_close(case(dust, fast=2 * WAD), RICH, Roads(), FLASH))
    unpriced = case(worthless=frozenset({COLLATERAL}))
    assert rule(plan_close(unpriced, RICH, Roads(), FLASH)) == "value.unknown"


# --- an act of its own ---------------------------------------------------------------------------


def swept(gets: int, pays: int) -> Sweep:
    return Sweep(Heal(OWNER), (due(pays),), ((COLLATERAL, gets),), 400_000)


def test_a_small_account_is_closed_whole_by_the_wallet() -> None:
    [only] = steps(plan_close(case(sweeps=swept(110 * ONE, 100 * ONE)), RICH, Roads(), Params()))
    assert only.act == Heal(OWNER)
    assert only.expected_profit_wad == 110 * WAD * 99 // 100 - 100 * WAD - 400_000 * 10**9 * 2_000


def test_a_sweep_needs_its_tokens_its_approval_and_a_profit() -> None:
    loan = case(sweeps=swept(110 * ONE, 100 * ONE))
    assert rule(plan_close(loan, having(balances={DEBT: 1}), Roads(), Params())) == "means.no_tokens"
    [approval] = steps(plan_close(loan, having(allowances={}), Roads(), Params()))
    assert isinstance(approval.act, Approve)
    assert approval.act.amount == 100 * ONE + 100 * ONE // 1_000 + 1
    poor = case(sweeps=swept(100 * ONE, 100 * ONE))
    assert rule(plan_close(poor, RICH, Roads(), Params())) == "close.unprofitable"
    unpriced = case(sweeps=swept(110 * ONE, 100 * ONE), worthless=frozenset({COLLATERAL}))
    assert rule(plan_close(unpriced, RICH, Roads(), Params())) == "value.unknown"


# --- what was simulated --------------------------------------------------------------------------


def test_the_profit_of_a_simulation_counts_after_gas_at_the_lower_price() -> None:
    [first, *_] = steps(plan_close(case(), RICH, Roads(), FLASH))
    assert isinstance(first.act, Repay)
    found = with_profit(first, first.act.way, ROUTE, 7 * ONE, market(), (WAD, WAD), RICH)
    assert found.expected_profit_wad == 7 * WAD - (300_000 + 180_000 + 110_000) * 10**9 * 2_000


def test_restore_takes_the_smallest_that_pays_and_max_the_one_that_brings_most() -> None:
    found = steps(plan_close(case(), RICH, Roads(), FLASH))
    brought = [
        replace(each, expected_profit_wad=wad * WAD)
        for each, wad in zip(found[:4], (-1, 2, 5, 3), strict=True)
    ]
    assert chosen(brought, FLASH) is brought[1]
    assert chosen(brought, replace(FLASH, policy=Policy.MAX)) is brought[2]
    assert rule(chosen(brought[:1], FLASH)) == "close.unprofitable"


def test_what_borrowed_tokens_bring_must_pay_at_the_highest_fee_where_that_is_asked_for() -> None:
    [first, *_] = steps(plan_close(case(), RICH, Roads(), FLASH))
    assert isinstance(first.act, Repay)
    at_worst = replace(RICH, record=Record(worst_gas_wei=20 * 10**9))
    brought = with_profit(first, first.act.way, ROUTE, 7 * ONE, market(), (WAD, WAD), at_worst)
    assert chosen([brought], FLASH) is brought
    prudent = replace(FLASH, prudence=Prudence(at_worst_fee=True))
    assert rule(chosen([brought], prudent)) == "close.unprofitable"


def test_of_one_size_the_route_that_brings_more_is_taken() -> None:
    [first, *_] = steps(plan_close(case(), RICH, Roads(), FLASH))
    better = replace(first, expected_profit_wad=2 * WAD)
    assert chosen([replace(first, expected_profit_wad=WAD), better], FLASH) is better


def test_one_act_spends_the_largest_of_its_sizes() -> None:
    found = steps(plan_close(case(), RICH, Roads(), Params()))
    less = ENDLESS - 810 * ONE
    assert left(PURSE, found, None) == Purse({DEBT: less}, {(DEBT, VENUE): less})
    assert left(PURSE, steps(plan_close(case(), RICH, Roads(), FLASH)), None) == PURSE
    assert left(Purse({}, {}), found, None) == Purse({DEBT: 0}, {(DEBT, VENUE): 0})
    whole = swept(110 * ONE, 100 * ONE)
    found = steps(plan_close(case(sweeps=whole), RICH, Roads(), Params()))
    assert left(PURSE, found, whole).balances == {DEBT: ENDLESS - 100 * ONE}


def test_approvals_of_one_block_add_up_for_each_takes_the_place_of_the_one_before() -> None:
    means, spare = having(allowances={(DEBT, VENUE): ONE}), 810 * ONE // 1_000 + 1
    first = steps(plan_close(case(), means, Roads(), Params()))
    means = replace(means, purse=left(means.purse, first, None))
    [second] = steps(plan_close(case(), means, Roads(), Params()))
    assert second.act == Approve(OWNER, DEBT, VENUE, 2 * (810 * ONE + spare))
    third = left(means.purse, [second], None)
    assert third.promised == {(DEBT, VENUE): 2 * (810 * ONE + spare)}
    assert third.balances == {DEBT: ENDLESS - 2 * (810 * ONE + spare)}


def test_an_unknown_worth_brings_nothing() -> None:
    [first, *_] = steps(plan_close(case(), RICH, Roads(), FLASH))
    unpriced: Any = market(worthless=frozenset({DEBT}))
    assert isinstance(unpriced.worth_wad(DEBT, 1, WAD), Unknown)
    assert with_profit(first, Toy().way, (), 7 * ONE, unpriced, (WAD,), RICH).expected_profit_wad < 0
