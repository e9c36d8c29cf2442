"""Aave's rules in numbers small enough to check by hand; the real contracts hold the rest."""

from dataclasses import replace

import pytest

from keeper.protocols.aave_v3 import math
from keeper.protocols.aave_v3.math import RAY, Category, Close, Loan, Reserve, Rules, Unmet, World
from keeper.units import WAD

ETH, USD = range(2)
ETHER, DOLLAR, PRICE = 10**18, 10**6, 10**8
LOAN = Loan(0, {ETH: 10 * ETHER}, {USD: 15_000 * DOLLAR})


def reserve(price: int, decimals: int, threshold_bps: int, bonus_bps: int) -> Reserve:
    return Reserve(
        price=price,
        decimals=decimals,
        threshold_bps=threshold_bps,
        bonus_bps=bonus_bps,
        fee_bps=1_000,
        income_ray=RAY,
        income_rate_ray=0,
        debt_ray=RAY,
        debt_rate_ray=0,
        updated_at_s=1,
        liquid=10**30,
    )


def world(eth: int = 1_800, rules: Rules = Rules.V3_6) -> World:
    reserves = (reserve(eth * PRICE, 18, 8_000, 10_500), reserve(PRICE, 6, 7_500, 10_400))
    return World(rules, reserves, {}, sentinel_allows=True, at_s=1)


def changed(here: World, number: int, **terms: object) -> World:
    reserves = list(here.reserves)
    reserves[number] = replace(reserves[number], **terms)  # type: ignore[arg-type]
    return replace(here, reserves=tuple(reserves))


@pytest.mark.parametrize("rules", Rules)
def test_health_is_weighed_collateral_over_debt(rules: Rules) -> None:
    found = math.health(LOAN, world(rules=rules))
    assert (found.collateral, found.debt, found.factor_wad) == (
        18_000 * PRICE,
        15_000 * PRICE,
        96 * WAD // 100,
    )


def test_3_0_takes_the_mean_threshold_in_whole_basis_points() -> None:
    mixed = Loan(0, {ETH: ETHER, USD: 1}, {USD: 1_000 * DOLLAR})
    assert math.health(mixed, world(1_000, Rules.V3_0)).factor_wad < 8 * WAD // 10
    assert math.health(mixed, world(1_000)).factor_wad >= 8 * WAD // 10


def test_a_balance_is_rounded_against_the_account_in_3_6_and_to_the_nearest_in_3_0() -> None:
    here = changed(world(), USD, debt_ray=RAY + 1, income_ray=RAY + RAY // 2)
    assert (math.owed(here, USD, 10), math.supplied(here, USD, 1)) == (11, 1)
    old = replace(here, rules=Rules.V3_0)
    assert (math.owed(old, USD, 10), math.supplied(old, USD, 1)) == (10, 2)


def test_e_mode_has_a_threshold_of_its_own() -> None:
    here = replace(world(), categories={1: Category(9_000, 10_100, 1 << ETH)})
    inside = replace(LOAN, category=1)
    assert math.health(inside, here).factor_wad == 108 * WAD // 100
    assert math.bonus_bps(inside, here, ETH) == 10_100
    assert math.bonus_bps(LOAN, here, ETH) == 10_500
    assert math.health(replace(LOAN, category=2), here).factor_wad == 96 * WAD // 100


@pytest.mark.parametrize(("eth", "most"), [(1_800, 7_500), (1_750, 15_000)])
def test_at_95_hundredths_and_below_all_may_be_closed(eth: int, most: int) -> None:
    assert math.most(LOAN, ETH, USD, world(eth)) == most * DOLLAR
    assert math.most(LOAN, ETH, USD, world(eth, Rules.V3_0)) == most * DOLLAR


def test_a_small_debt_may_be_closed_whole_in_3_6_alone() -> None:
    small = Loan(0, {ETH: ETHER}, {USD: 1_500 * DOLLAR})
    assert math.most(small, ETH, USD, world()) == 1_500 * DOLLAR
    assert math.most(small, ETH, USD, world(rules=Rules.V3_0)) == 750 * DOLLAR


def test_what_is_left_is_worth_a_thousand_dollars_or_nothing() -> None:
    small = Loan(0, {ETH: ETHER}, {USD: 1_500 * DOLLAR})
    for amount, left in ((1_000 * DOLLAR, Unmet.DUST), (500 * DOLLAR, None)):
        done = math.close(small, ETH, USD, amount, world())
        assert (done if isinstance(done, Unmet) else None) == left


def test_an_order_for_all_of_a_debt_covers_interest_till_a_later_block() -> None:
    small, here = Loan(0, {ETH: ETHER}, {USD: 1_500 * DOLLAR}), changed(world(), USD, debt_rate_ray=RAY // 2)
    asked, done = math.close_at_most(small, ETH, USD, 1_500 * DOLLAR, here)
    assert isinstance(done, Close)
    assert done.repaid == 1_500 * DOLLAR
    later = math.carried(here, 601)
    assert math.close(small, ETH, USD, done.repaid, later) is Unmet.DUST
    afterwards = math.close(small, ETH, USD, asked, later)
    assert isinstance(afterwards, Close)
    assert afterwards.after.debt == {}


def test_an_order_for_a_part_is_left_as_it_is() -> None:
    asked, done = math.close_at_most(LOAN, ETH, USD, 1_000 * DOLLAR, world())
    assert asked == 1_000 * DOLLAR
    assert isinstance(done, Close)
    small = Loan(0, {ETH: ETHER}, {USD: 1_500 * DOLLAR})
    assert math.close_at_most(small, ETH, USD, 1_000 * DOLLAR, world()) == (1_000 * DOLLAR, Unmet.DUST)


def test_refusals_of_all_pairs_are_those_of_each() -> None:
    both = Loan(0, {ETH: ETHER, USD: DOLLAR}, {USD: 5_000 * DOLLAR, ETH: 1})
    for here in (world(), world(9_000), changed(world(), ETH, is_paused=True)):
        assert math.unmet_by_pair(both, here) == {
            (held, owed): math.unmet(both, held, owed, here) for held in (ETH, USD) for owed in (USD, ETH)
        }


@pytest.mark.parametrize(
    ("terms", "unmet"),
    [
        ({"is_active": False, "is_paused": True}, Unmet.INACTIVE),
        ({"is_paused": True, "grace_until_s": 9}, Unmet.PAUSED),
        ({"grace_until_s": 1}, Unmet.GRACE),
        ({"liquid": 0}, Unmet.ILLIQUID),
    ],
)
def test_the_pool_refuses_in_its_own_order(terms: dict[str, object], unmet: Unmet) -> None:
    assert math.close(LOAN, ETH, USD, 1_000 * DOLLAR, changed(world(), ETH, **terms)) is unmet


def test_the_sentinel_protects_who_is_above_95_hundredths() -> None:
    for eth, unmet in ((1_800, Unmet.SENTINEL), (1_750, None)):
        here = replace(world(eth), sentinel_allows=False)
        assert math.unmet(LOAN, ETH, USD, here) is unmet
