"""Worked numbers of Morpho's formulas; the real contracts judge them in ``tests/anvil/foreign``."""

from dataclasses import replace

import pytest

from keeper.protocols.morpho_blue import math
from keeper.protocols.morpho_blue.math import Close, Position, PreTerms, Unmet
from keeper.units import WAD
from tests.unit.protocols.morpho_blue.made import MARKET, PERCENT, PRICE

PRICED = replace(MARKET, price=PRICE)


@pytest.mark.parametrize(("lltv", "incentive"), [(86, 1.0438), (945, 1.0168), (385, 1.15)])
def test_the_incentive_falls_with_the_limit_and_ends_at_fifteen_percent(lltv: int, incentive: float) -> None:
    lltv_wad = lltv * WAD // (100 if lltv < 100 else 1_000)
    assert math.incentive_wad(lltv_wad) / WAD == pytest.approx(incentive, abs=1e-4)


def test_simple_interest_is_that_of_three_terms() -> None:
    year = math.accrued(MARKET, MARKET.updated_at_s + math.YEAR_S, WAD // 10 // math.YEAR_S)
    assert year.borrow_assets / MARKET.borrow_assets == pytest.approx(1 + 0.1 + 0.005 + 0.001 / 6, abs=1e-8)


def test_the_adaptive_rate_at_target_use_is_the_rate_at_target() -> None:
    used = replace(MARKET, borrow_assets=MARKET.supply_assets * 9 // 10)
    rate_wad = 5 * PERCENT // math.YEAR_S
    assert math.adaptive_rate_wad(used, rate_wad, used.updated_at_s + 3_600) == rate_wad


def test_shares_for_an_amount_cost_no_more_than_it() -> None:
    for amount in (1, 999, 10**6 + 1):
        shares = math.shares_for(PRICED, amount)
        assert math.owed(PRICED, shares) <= amount < math.owed(PRICED, shares + 10**6) + 1
    assert math.debt_per_share(PRICED) == pytest.approx(1e-6)


def test_a_close_takes_the_incentive_and_no_more_than_there_is() -> None:
    position = Position(1_800 * 10**12, WAD)
    found = math.close(position, PRICED, shares=900 * 10**12)
    assert isinstance(found, Close)
    assert found.repaid == 900 * 10**6
    assert found.seized / WAD == pytest.approx(0.45 * math.incentive_wad(PRICED.lltv_wad) / WAD, abs=1e-9)
    assert math.close(position, PRICED, shares=1_801 * 10**12) is Unmet.PANIC
    assert math.close(position, PRICED, seized=1, shares=1) is Unmet.INCONSISTENT


def test_the_last_collateral_leaves_the_rest_as_bad_debt() -> None:
    position = Position(2_100 * 10**12, WAD)
    found = math.close(position, PRICED, seized=WAD)
    assert isinstance(found, Close)
    assert found.repaid + found.bad_debt == pytest.approx(2_100 * 10**6, abs=2)
    assert found.position == Position(0, 0)


def test_pre_liquidation_rises_in_straight_lines_between_its_limit_and_the_markets() -> None:
    terms = PreTerms(80 * PERCENT, (20 * PERCENT, 60 * PERCENT), (101 * PERCENT, 105 * PERCENT), PRICE)
    halfway = Position(1_660 * 10**12, WAD)
    assert math.pre_incentive_wad(halfway, PRICED, terms) / WAD == pytest.approx(1.03, abs=1e-6)
    assert math.pre_most(halfway, PRICED, terms) / halfway.borrow_shares == pytest.approx(0.4, abs=1e-6)
    safe, late = Position(1_600 * 10**12, WAD), Position(1_721 * 10**12, WAD)
    assert math.pre_close(safe, PRICED, terms, shares=1) is Unmet.PRE_HEALTHY
    assert math.pre_close(late, PRICED, terms, shares=1) is Unmet.PRE_TOO_LATE
    assert math.pre_incentive_wad(safe, PRICED, terms) == math.pre_most(late, PRICED, terms) == 0
