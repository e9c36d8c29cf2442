"""Of which position, how much, and whether it is worth its gas."""

from dataclasses import replace

import pytest

from keeper.domain import ChainTime, Refuse, TakeOver
from keeper.plan.common import Policy
from keeper.plan.perp import Case, Means, Params, Planned, plan_takeover
from keeper.ports import Offer, Takeover
from keeper.protocols.perp_curie.codec import PerpWorld
from keeper.protocols.perp_curie.rows import Account
from keeper.units import WAD, Wad
from tests.unit.protocols.perp_curie.perps import BTC, ETH, MARKET, account, view, world

GWEI = 10**9
RICH = account(9, 50_000, {})
LONG = account(1, 1_000, {0: (10, -20_000)})
MAX = Params(policy=Policy.MAX)


def case(one: Account, at: PerpWorld, taker: Account = RICH, gas_price_wei: int = GWEI // 10) -> Case:
    means = Means(taker, gas_price_wei, 2_000 * WAD)
    return Case("case", one, MARKET, at, means, ChainTime(100, 0))


def taken(planned: Planned | Refuse) -> tuple[str, Wad]:
    assert isinstance(planned, Planned)
    act = planned.step.act
    assert isinstance(act, TakeOver)
    return act.market, act.size_wad


def after(one: Account, at: PerpWorld, market: str, size_wad: Wad) -> Takeover:
    found = MARKET.take_over(one, Offer(market, size_wad), size_wad, at)
    assert isinstance(found, Takeover)
    return found


def test_restore_takes_the_least_that_brings_the_account_back_above_its_target() -> None:
    low = replace(LONG, trader=replace(LONG.trader, cash_wad=1_300 * WAD))
    market, size_wad = taken(plan_takeover(case(low, world(1_990)), Params()))
    assert market == ETH
    assert 0 < size_wad < 5 * WAD
    target_wad = Params().target_wad
    assert after(low, world(1_990), ETH, size_wad).margin.covers(target_wad)
    assert not after(low, world(1_990), ETH, size_wad * 999_999 // 1_000_000).margin.covers(target_wad)


def test_restore_takes_the_most_where_one_takeover_is_not_enough() -> None:
    assert taken(plan_takeover(case(LONG, world(1_980)), Params())) == (ETH, 5 * WAD)


def test_max_takes_the_most_and_a_short_is_taken_as_a_short() -> None:
    short = account(1, 1_300, {0: (-10, 20_000)})
    at = world(2_010)
    assert taken(plan_takeover(case(short, at), MAX)) == (ETH, -5 * WAD)
    least = taken(plan_takeover(case(short, at), Params()))[1]
    assert -5 * WAD < least < 0
    assert after(short, at, ETH, least).margin.covers(Params().target_wad)


def test_of_two_positions_the_one_is_taken_that_suffices() -> None:
    both = account(1, 2_600, {0: (1, -2_000), 1: (1, -40_000)})
    market, size_wad = taken(plan_takeover(case(both, world(1_990)), Params()))
    assert market == BTC
    assert after(both, world(1_990), BTC, size_wad).margin.covers(Params().target_wad)


def test_max_takes_the_position_that_brings_the_most() -> None:
    both = account(1, 600, {0: (1, -2_000), 1: (1, -40_000)})
    assert taken(plan_takeover(case(both, world(1_990)), MAX)) == (BTC, WAD)


def test_what_the_step_says_is_reward_less_gas_and_the_notional() -> None:
    planned = plan_takeover(case(LONG, world(1_980)), Params())
    assert isinstance(planned, Planned)
    gas = 1_200_000 + 200_000
    assert planned.step.expected_profit_wad == 123 * WAD + 3 * WAD // 4 - gas * GWEI // 10 * 2_000
    assert planned.step.notional_wad == 9_900 * WAD
    assert planned.step.valid_until_block == 102
    assert planned.step.kind == "takeover"
    assert planned.taker.trader.positions[0].size_wad == 5 * WAD


def test_what_does_not_pay_for_its_gas_is_refused() -> None:
    found = plan_takeover(case(LONG, world(1_980), gas_price_wei=52 * GWEI), Params())
    assert isinstance(found, Refuse)
    assert found.reason.rule == "takeover.unprofitable"
    wanted = Params(min_profit_wad=124 * WAD)
    assert isinstance(plan_takeover(case(LONG, world(1_980)), wanted), Refuse)


def test_the_keepers_own_margin_bounds_what_is_taken_with_something_to_spare() -> None:
    poor = account(9, 500, {})
    _, size_wad = taken(plan_takeover(case(LONG, world(1_980), poor), MAX))
    found = after(LONG, world(1_980), ETH, size_wad)
    free_wad = MARKET.free_wad(MARKET.taken(poor, found), world(1_980))
    assert isinstance(free_wad, int)
    # Of 500 nine tenths are used: what is borrowed needs a tenth as margin.
    assert 49 * WAD < free_wad < 51 * WAD


@pytest.mark.parametrize("cash", [0, -5])
def test_without_margin_nothing_is_taken(cash: int) -> None:
    found = plan_takeover(case(LONG, world(1_980), account(9, cash, {})), Params())
    assert isinstance(found, Refuse)
    assert found.reason.rule == "taker.no_margin"
    assert found.reason.evidence == f"the keeper's account has {cash:.2f} beyond its margin"


def test_a_keeper_that_nobody_can_judge_leaves_its_margin_to_the_simulation() -> None:
    maker = account(9, 0, {}, barred=1)
    assert taken(plan_takeover(case(LONG, world(1_980), maker), MAX)) == (ETH, 5 * WAD)


def test_what_the_contract_would_refuse_is_told_in_its_words() -> None:
    found = plan_takeover(case(LONG, world(1_700)), Params())
    assert isinstance(found, Refuse)
    assert found.reason.evidence == "CH_IIC: the insurance fund cannot bear the bad debt"


def test_nothing_is_planned_where_no_market_is_open() -> None:
    found = plan_takeover(case(LONG, world(view(1_980, is_open=False))), Params())
    assert isinstance(found, Refuse)
    assert found.reason.rule == "takeover.none"
