"""Hedged books and their legs apart, before any chain is there."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.domain import Kind
from keeper.lab.deploy import Spec
from keeper.lab.hedges import (
    CONTRACTS,
    HEALTH,
    NOTIONAL,
    SOON,
    STRIKE_STEP,
    UNITS,
    HedgePlan,
    Strategy,
    draw_hedges,
    listing,
    opened,
    value,
)
from keeper.lab.paths import generate, wad
from keeper.protocols.hybrid import math
from keeper.protocols.hybrid.clearing import MAX_LEGS
from keeper.protocols.hybrid.portfolio import Setting
from keeper.units import WAD

PATHS = generate(0, fast=True)
AT_S = PATHS.start_s
RULES = Spec(options=listing(PATHS)).rules()
PRICES = {feed: wad(price) for feed, price in PATHS.true_at(AT_S).items()}
ARRAYS = {array.market: array.view for array in value(RULES, PRICES, AT_S).arrays}
SETTING = Setting(RULES.at(AT_S), ARRAYS, {}, AT_S)
BETA_WAD = Spec().slope.beta_wad


def draw(seed: int, each: int = 2) -> list[HedgePlan]:
    return draw_hedges(seed, each, RULES, PRICES, AT_S)


def health(plan: HedgePlan, number: int) -> float:
    stake = plan.stakes[number]
    found = math.maintenance(opened(stake.legs, SETTING, PRICES), PRICES, SETTING)
    return (found.equity_wad + stake.cash_wad) / found.requirement_wad


def test_strikes_lie_around_the_start_and_some_options_expire_within_the_drill() -> None:
    options = listing(PATHS)
    assert len(options) == len(STRIKE_STEP) * len(CONTRACTS)
    for option in options:
        assert option.strike_wad % (STRIKE_STEP[option.feed] * WAD) == 0
        assert 0.87 < option.strike_wad / PRICES[option.feed] < 1.13
    soon = {option.expiry_s for option in options if option.expiry_s < PATHS.block_time_s(PATHS.blocks)}
    assert soon == {PATHS.block_time_s(int(SOON * PATHS.blocks))}


def test_a_dealer_of_one_underlying_can_hold_every_option_of_it() -> None:
    assert len(CONTRACTS) <= MAX_LEGS


def test_every_option_has_an_array_that_the_contract_would_take() -> None:
    assert ARRAYS.keys() == set(RULES.options)
    for number in RULES.options:
        market, array = RULES.markets[number], ARRAYS[number]
        assert market.payoff_wad(array.ref_wad) <= array.mark_wad
        assert (array.delta_wad > 0) is (market.kind is Kind.CALL)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_book_and_its_legs_apart_open_at_one_health(seed: int) -> None:
    for plan in draw(seed):
        assert HEALTH[0] <= plan.health <= HEALTH[1]
        assert health(plan, 0) == pytest.approx(plan.health, rel=1e-3)
        for number in range(1, len(plan.stakes)):
            # Initial margin may ask for more; of a short-dated option hardly anything is required at all.
            assert health(plan, number) >= plan.health * (1 - 1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_everyone_of_a_pair_opens_within_initial_margin(seed: int) -> None:
    for plan in draw(seed):
        for stake in plan.stakes:
            found = math.initial(opened(stake.legs, SETTING, PRICES), PRICES, SETTING, BETA_WAD)
            assert found.equity_wad + stake.cash_wad >= found.requirement_wad


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_legs_apart_add_up_to_the_book(seed: int) -> None:
    for plan in draw(seed):
        apart = [leg for stake in plan.apart for leg in stake.legs.items()]
        assert dict(apart) == plan.whole.legs
        assert len(apart) == len(plan.whole.legs) <= MAX_LEGS
        largest = max(abs(size) for _, size in apart) * PRICES[plan.feed] / WAD / WAD
        assert NOTIONAL[0] * 0.99 <= largest <= NOTIONAL[1] * 1.01


def test_every_strategy_is_drawn_as_often_as_asked_for_on_every_underlying() -> None:
    plans = draw(1, each=2)
    assert Counter(plan.strategy for plan in plans) == dict.fromkeys(Strategy, 2)
    assert {(plan.strategy, plan.feed) for plan in plans} == {(s, f) for s in Strategy for f in STRIKE_STEP}


def test_an_iron_fly_is_indifferent_to_small_moves() -> None:
    for plan in draw(3, each=4):
        if plan.strategy is not Strategy.IRON_FLY:
            continue
        deltas = [
            size * (ARRAYS[market].delta_wad if market in ARRAYS else WAD) // WAD
            for market, size in plan.whole.legs.items()
        ]
        assert len(plan.whole.legs) == 1 + len(UNITS[Strategy.IRON_FLY])
        assert abs(sum(deltas)) < WAD // 10**5


def test_a_hedged_book_requires_less_than_its_legs_apart() -> None:
    for plan in draw(5):
        apart = sum(stake.cash_wad for stake in plan.apart)
        assert plan.whole.cash_wad < apart, plan.strategy


@pytest.mark.parametrize("percent", [95, 97, 103])
def test_a_covered_call_does_not_fall_when_the_price_outruns_its_array(percent: int) -> None:
    prices = {feed: price * percent // 100 for feed, price in PRICES.items()}
    arrays = {array.market: array.view for array in value(RULES, prices, AT_S).arrays}
    for plan in draw(11):
        if plan.strategy is not Strategy.COVERED_CALL:
            continue
        account = replace(opened(plan.whole.legs, SETTING, PRICES), cash_wad=plan.whole.cash_wad)
        left_behind, current = (
            math.maintenance(account, prices, replace(SETTING, arrays=each)) for each in (ARRAYS, arrays)
        )
        assert left_behind.equity_wad > left_behind.requirement_wad
        assert left_behind.requirement_wad == pytest.approx(current.requirement_wad, rel=0.2)


def test_the_same_seed_gives_the_same_books() -> None:
    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
