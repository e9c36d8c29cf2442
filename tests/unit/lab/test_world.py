"""The books that a drill opens, before any chain is there."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.domain import Account, Holding, Leg, Phase
from keeper.lab.deploy import Spec
from keeper.lab.paths import generate, wad
from keeper.lab.world import (
    DRIFT,
    HEALTH,
    Plan,
    Zone,
    draw_plans,
    keeper_means,
    opening_prices,
    person,
    reporters,
)
from keeper.protocols.hybrid import math
from keeper.protocols.hybrid.portfolio import Setting
from keeper.units import WAD

SPEC = Spec()
TERMS = SPEC.rules().at(0)
SETTING = Setting(TERMS, {}, {}, 0)
BETA_WAD = SPEC.slope.beta_wad
SYMBOLS = {c.symbol: number for number, c in enumerate(SPEC.collaterals, 1)}
START = {feed: wad(price) for feed, price in generate(0).true_at(generate(0).start_s).items()}
WICKED = "ETH/USD"


def draw(seed: int, accounts: int) -> list[Plan]:
    return draw_plans(seed, accounts, START, TERMS, SYMBOLS, WICKED)


def opened(plan: Plan) -> Account:
    """The account that a plan leads to, long legs bought above the start, short ones sold below it."""
    legs = []
    for number, feed in enumerate(SPEC.perps, 1):
        if size := plan.legs.get(feed, 0):
            paid = opening_prices(START, 1 + DRIFT if size > 0 else 1 - DRIFT)[feed]
            legs.append(Leg(number, size, -size * paid // WAD))
    holdings = tuple(Holding(SYMBOLS[symbol], amount) for symbol, amount in plan.holdings.items())
    return Account(bytes(32), Phase.HEALTHY, plan.cash_wad, tuple(legs), holdings)


def meets_initial_margin(plan: Plan, level: float) -> bool:
    prices = opening_prices(START, level)
    return not math.initial(opened(plan), prices, SETTING, BETA_WAD).breaches()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), accounts=st.integers(20, 60))
def test_every_zone_has_its_share_and_its_health(seed: int, accounts: int) -> None:
    plans = draw(seed, accounts)
    zones = Counter(plan.zone for plan in plans)
    assert len(plans) == accounts
    assert zones[Zone.DANGER] >= accounts // 5 - 1
    assert zones[Zone.NEAR] >= 3 * accounts // 10 - 1
    for plan in plans:
        found = math.maintenance(opened(plan), START, SETTING)
        health = found.equity_wad / found.requirement_wad
        assert health >= HEALTH[plan.zone][0] - 1e-6
        if plan.zone is Zone.DANGER:
            assert health < 1.35


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_book_is_opened_within_initial_margin(seed: int) -> None:
    for plan in draw(seed, 40):
        longs = {feed: size for feed, size in plan.legs.items() if size > 0}
        at_high = Plan(plan.zone, longs, plan.holdings, plan.cash_wad, tops_up=False)
        assert not math.initial(
            opened(at_high), opening_prices(START, 1 + DRIFT), SETTING, BETA_WAD
        ).breaches()
        if len(longs) < len(plan.legs):
            assert not math.initial(
                opened(plan), opening_prices(START, 1 - DRIFT), SETTING, BETA_WAD
            ).breaches()
        assert plan.cash_wad > 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_somebody_is_always_there_for_the_false_print(seed: int) -> None:
    plans = draw(seed, 20)
    shaken = START | {WICKED: START[WICKED] * 92 // 100}
    alarmed = [plan for plan in plans if math.maintenance(opened(plan), shaken, SETTING).breaches()]
    calm = [plan for plan in alarmed if not math.maintenance(opened(plan), START, SETTING).breaches()]
    assert len(calm) >= 2


@pytest.mark.parametrize("accounts", [20, 500])
def test_some_owners_near_the_edge_come_to_help(accounts: int) -> None:
    helpers = [plan for plan in draw(1, accounts) if plan.tops_up]
    assert accounts // 10 <= len(helpers) <= accounts // 3
    assert all(plan.zone is not Zone.SAFE and plan.pocket_wad > 0 for plan in helpers)


def test_the_keeper_is_given_finite_means_in_proportion() -> None:
    small, large = keeper_means(draw(1, 20), START), keeper_means(draw(1, 500), START)
    assert 0 < small[0] < large[0] < 10**8 * WAD
    assert large[1] == 270_000 * WAD


def test_the_same_seed_gives_the_same_books_and_keys() -> None:
    assert draw(7, 30) == draw(7, 30)
    assert draw(7, 30) != draw(8, 30)
    assert person(7, "keeper") == person(7, "keeper")
    people = [person(7, "keeper"), person(8, "keeper"), person(7, "maker"), *reporters(7)]
    assert len({who.address for who in people}) == len(people)


def test_a_person_does_not_print_its_key() -> None:
    who = person(1, "keeper")
    assert who.key.hex() not in repr(who)
