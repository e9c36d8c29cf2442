"""Of which position, how much, and whether it is worth its gas."""

from dataclasses import replace

import pytest

from keeper.domain import ChainTime, Reason, Record, Refuse, Step, TakeOver
from keeper.lending.words import Flash, FlashTakeOver, Lender
from keeper.plan.common import Policy
from keeper.plan.economics import Prudence
from keeper.plan.lending import FlashParams
from keeper.plan.perp import Case, Means, Params, Planned, chosen, plan_flash, plan_takeover
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


def test_restore_takes_the_least_that_pays_where_less_would_do_for_the_account() -> None:
    low = replace(LONG, trader=replace(LONG.trader, cash_wad=1_300 * WAD))
    enough = taken(plan_takeover(case(low, world(1_990)), Params()))[1]
    gas_price_wei = 40 * GWEI
    planned = plan_takeover(case(low, world(1_990), gas_price_wei=gas_price_wei), Params())
    assert isinstance(planned, Planned)
    assert enough < taken(planned)[1] < 5 * WAD
    assert 0 <= planned.step.expected_profit_wad < WAD // 1_000


@pytest.mark.parametrize("at_worst_fee", [False, True])
def test_the_least_that_pays_counts_how_often_takeovers_fail_and_the_fee_at_worst(at_worst_fee: bool) -> None:
    low = replace(LONG, trader=replace(LONG.trader, cash_wad=1_300 * WAD))
    at, params = case(low, world(1_990)), Params(prudence=Prudence(at_worst_fee=at_worst_fee))
    record = Record(won_wad={"takeover": WAD * 98 // 100}, worst_gas_wei=40 * GWEI)
    means = replace(at.means, gas_price_wei=30 * GWEI, record=record)
    planned = plan_takeover(replace(at, means=means), params)
    assert isinstance(planned, Planned)
    economics = planned.step.economics
    assert economics is not None
    counted_wad = economics.worst_profit_wad if at_worst_fee else economics.profit_wad
    assert 0 <= counted_wad < WAD // 1_000


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
    planned = plan_takeover(case(LONG, world(1_980), poor), MAX)
    _, size_wad = taken(planned)
    assert isinstance(planned, Planned)
    assert [each.rule for each in planned.step.bounds] == ["size.margin"]
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


# --- with borrowed margin ------------------------------------------------------------------------

FLASH = FlashParams("0x" + "0f" * 20, Lender.MORPHO)
LOW = replace(LONG, trader=replace(LONG.trader, cash_wad=1_300 * WAD))
"""One that a part of the most restores."""


def borrowed(one: Account, at: PerpWorld, params: Params) -> tuple[Step, ...]:
    steps = plan_flash(case(one, at, account(9, 0, {})), params, FLASH)
    assert isinstance(steps, tuple)
    return steps


def act_of(step: Step) -> FlashTakeOver:
    assert isinstance(step.act, FlashTakeOver)
    return step.act


def brought(step: Step, dollars: int) -> Step:
    return replace(step, expected_profit_wad=dollars * WAD)


def test_candidates_are_what_the_policy_wants_and_parts_of_the_most() -> None:
    parts = [each * WAD * 5 // 4 for each in (1, 2, 3, 4)]
    assert [act_of(each).size_wad for each in borrowed(LOW, world(1_990), MAX)] == [parts[3], *parts[:3]]
    least = taken(plan_takeover(case(LOW, world(1_990)), Params()))[1]
    assert [act_of(each).size_wad for each in borrowed(LOW, world(1_990), Params())] == [least, *parts]


def test_the_margin_is_lent_with_something_to_spare_and_gas_and_profit_are_the_least_wanted() -> None:
    wanted = Params(policy=Policy.MAX, min_profit_wad=3 * WAD)
    step = borrowed(LONG, world(1_980), wanted)[0]
    act = act_of(step)
    margin_wad = MARKET.margin_wad(after(LONG, world(1_980), ETH, act.size_wad), world(1_980))
    assert act.lent == -(-margin_wad * 6 // (5 * 10**12))
    gas = 1_600_000 + 200_000
    cost = gas * GWEI // 10 * 2_000 // 10**12
    assert act.flash == Flash(FLASH.liquidator, Lender.MORPHO, "", (), 3 * 10**6 + cost)
    assert step.gas_limit == 2 * gas + 300_000
    assert (step.kind, step.notional_wad) == ("flashtakeover", 9_900 * WAD)


def test_positions_that_are_worth_the_most_are_tried() -> None:
    both = account(1, 600, {0: (1, -2_000), 1: (1, -40_000)})
    assert [act_of(each).market for each in borrowed(both, world(1_990), MAX)] == [BTC] * 4 + [ETH] * 4


def test_restore_chooses_the_smallest_that_is_enough_and_pays() -> None:
    at = case(LOW, world(1_990))
    least, quarter, half, *more = borrowed(LOW, world(1_990), Params())
    gone = [brought(least, -1), brought(quarter, 5), brought(half, 1), *(brought(each, 9) for each in more)]
    assert act_of(least).size_wad > act_of(quarter).size_wad
    assert chosen(at, gone, Params()) is gone[2]
    # Where none is enough, the one that brings the most goes on.
    assert chosen(at, gone[:2], Params()) is gone[1]


def test_max_chooses_what_brings_the_most() -> None:
    gone = [brought(each, number) for number, each in enumerate(borrowed(LONG, world(1_980), MAX))]
    assert chosen(case(LONG, world(1_980)), gone, MAX) is gone[-1]


def test_none_is_chosen_where_the_pool_pays_too_little() -> None:
    gone = [brought(each, -1) for each in borrowed(LONG, world(1_980), MAX)]
    found = chosen(case(LONG, world(1_980)), gone, MAX)
    assert isinstance(found, Refuse)
    assert found.reason == Reason("takeover.unprofitable", "expected -1.0000 after gas", ">= 0.0000")


def test_with_borrowed_margin_the_contracts_refusals_are_told_too() -> None:
    for at, rule in (
        (world(1_700), "takeover.refused"),
        (world(view(1_980, is_open=False)), "takeover.none"),
    ):
        found = plan_flash(case(LONG, at), Params(), FLASH)
        assert isinstance(found, Refuse)
        assert found.reason.rule == rule
