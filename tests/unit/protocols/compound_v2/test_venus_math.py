"""Worked numbers of Venus's formulas; the real contracts judge them in ``tests/anvil/foreign``."""

from dataclasses import replace

import pytest

from keeper.protocols.compound_v2 import math
from keeper.protocols.compound_v2.math import Action, Close, Unmet
from keeper.units import WAD
from tests.unit.protocols.compound_v2.made import AT, DOLLAR, ETH, MARKET, POOL, loan


def test_interest_is_simple_by_the_block_and_a_tenth_is_kept() -> None:
    later = math.accrued(MARKET, AT.block + 1_000)
    assert later.borrows == MARKET.borrows + MARKET.borrows * 10**10 * 1_000 // WAD
    assert later.reserves == (later.borrows - MARKET.borrows) // 10
    assert later.borrow_index_wad == 2 * WAD + 2 * 10**10 * 1_000


def test_a_debt_grows_with_the_index_since_it_was_written() -> None:
    assert math.owed(loan(1_500).state, POOL, DOLLAR) == 1_500 * 10**6
    assert math.owed(loan(1_500).state, POOL, ETH) == 0


def test_health_counts_collateral_by_thresholds() -> None:
    found = math.health(loan(1_500).state, POOL)
    assert (found.collateral, found.weighted, found.owed) == (2_000 * WAD, 1_600 * WAD, 1_500 * WAD)
    assert (found.liquidity, found.shortfall) == (100 * WAD, 0)


def test_a_close_takes_the_incentive_and_the_protocol_its_part_of_it() -> None:
    found = math.close(loan(1_700).state, POOL, ETH, DOLLAR, 500 * 10**6, AT.block)
    assert isinstance(found, Close)
    assert found.seized == {ETH: 275 * 10**5}
    assert found.taken == {ETH: 2625 * 10**4}
    assert found.loan.held == {ETH: 725 * 10**5}


@pytest.mark.parametrize(
    ("dollars", "ether", "amount", "unmet"),
    [
        (1_500, 1.0, 1, Unmet.HEALTHY),
        (1_700, 1.0, 851 * 10**6, Unmet.TOO_MUCH),
        (1_700, 1.0, 0, Unmet.NOTHING),
        (45, 0.025, 1, Unmet.SMALL),
        (9_000, 1.0, 4_000 * 10**6, Unmet.NOT_ENOUGH_HELD),
    ],
)
def test_what_the_contract_does_not_take_is_refused_by_its_own_name(
    dollars: int, ether: float, amount: int, unmet: Unmet
) -> None:
    assert math.close(loan(dollars, ether).state, POOL, ETH, DOLLAR, amount, AT.block) is unmet


def test_what_is_paused_is_refused() -> None:
    for action in Action:
        markets = tuple(replace(each, paused=frozenset({action})) for each in POOL.markets)
        paused = replace(POOL, markets=markets)
        found = math.close(loan(1_700).state, paused, ETH, DOLLAR, 10**6, AT.block)
        assert found is Unmet.PAUSED


def test_a_small_account_is_closed_whole_or_healed() -> None:
    paid = loan(42, 0.025).state
    orders = math.orders(paid, POOL, AT.block)
    found = math.close_all(paid, POOL, orders, AT.block)
    assert isinstance(found, Close)
    assert (found.repaid, found.loan.debts) == ({DOLLAR: 42 * 10**6}, {})
    short = loan(60, 0.025).state
    assert math.close_all(short, POOL, math.orders(short, POOL, AT.block), AT.block) is Unmet.TO_BE_HEALED
    healed = math.heal(short, POOL, AT.block)
    assert isinstance(healed, Close)
    assert healed.repaid[DOLLAR] + healed.bad_debt[DOLLAR] == 60 * 10**6
    assert healed.repaid[DOLLAR] == pytest.approx(50 * 10**6 / 1.1, abs=1)
