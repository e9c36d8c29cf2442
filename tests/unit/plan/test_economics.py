"""What a step should bring, and what may be lost to keep an account solvent."""

from dataclasses import dataclass, field

import pytest

from keeper.domain import Economics, Record, Refuse
from keeper.plan.economics import Prudence, is_endangered, loss_wad, weigh
from keeper.risk.liquidity import Depth
from keeper.units import WAD, Wad

GWEI = 10**9


@dataclass
class Means:
    """Gas at 5 gwei and 2,000 a coin: 100,000 gas cost 1."""

    gas_price_wei: int = 5 * GWEI
    native_price_wad: Wad = 2_000 * WAD
    record: Record = field(default_factory=Record)


def economics(income: int = 10, exit_: int = 2, won: Wad = WAD) -> Economics:
    record = Record({"repay": won}, worst_gas_wei=11 * GWEI)
    means = Means(record=record)
    return weigh("repay", means, income_wad=income * WAD, exit_wad=exit_ * WAD, gas=100_000)


def test_profit_is_the_chance_of_what_is_left_less_all_of_the_gas() -> None:
    found = economics(won=WAD // 2)
    assert (found.gas_wad, found.worst_gas_wad) == (WAD, 22 * WAD // 10)
    assert found.profit_wad == 3 * WAD
    assert found.worst_profit_wad == 4 * WAD - 22 * WAD // 10
    assert str(found) == (
        "expected 3.0000 after gas: 0.50 x (income 10.0000 - exit 2.0000) - gas 1.0000 (at worst 2.2000)"
    )


def test_the_worst_fee_is_never_below_the_current_one_and_an_unknown_kind_has_the_presumed_chance() -> None:
    means = Means(record=Record(presumed_wad=9 * WAD // 10))
    found = weigh("flag", means, income_wad=10 * WAD, exit_wad=0, gas=100_000)
    assert found.worst_gas_wad == found.gas_wad
    assert found.profit_wad == 8 * WAD


def test_what_data_costs_counts_as_a_fee_or_as_gas_at_each_price() -> None:
    record = Record(worst_gas_wei=10 * GWEI, data_fee_wei=10**14, data_gas=50_000)
    found = weigh("flag", Means(record=record), income_wad=0, exit_wad=0, gas=100_000)
    assert (found.gas_wad, found.worst_gas_wad) == (17 * WAD // 10, 32 * WAD // 10)


@pytest.mark.parametrize(
    ("at_worst", "floor", "solvency", "endangered", "loses"),
    [
        (False, 3 * WAD, 0, False, 0),
        (False, 3 * WAD + 1, 0, False, None),
        (False, 3 * WAD + 1, WAD, False, None),
        (False, 3 * WAD + 1, WAD, True, 0),
        (True, 18 * WAD // 10, 0, False, 0),
        (True, 18 * WAD // 10 + 1, 0, False, None),
    ],
)
def test_a_step_below_the_floor_is_refused_with_every_term(
    at_worst: bool, floor: Wad, solvency: Wad, endangered: bool, loses: Wad | None
) -> None:
    prudence = Prudence(at_worst_fee=at_worst, solvency_day_wad=solvency)
    weighed = economics(won=WAD // 2)
    found = loss_wad("close.unprofitable", weighed, prudence, floor, endangered=endangered)
    if loses is None:
        assert isinstance(found, Refuse)
        assert found.reason.rule == "close.unprofitable"
        assert found.reason.evidence == str(weighed)
    else:
        assert found == loses


@pytest.mark.parametrize(("budget", "loses"), [(0, None), (3 * WAD - 1, None), (3 * WAD, 3 * WAD)])
def test_an_endangered_account_may_cost_what_a_day_allows(budget: Wad, loses: Wad | None) -> None:
    weighed = economics(income=0)
    found = loss_wad("r", weighed, Prudence(solvency_day_wad=budget), 0, endangered=True)
    assert (None if isinstance(found, Refuse) else found) == loses


def test_an_account_is_endangered_where_an_hours_deviation_takes_its_equity() -> None:
    # 0.9359... of a year: one hundredth an hour.
    prudence = Prudence(depth={"ETH/USD": Depth(10.0, volume_day=1e6, volatility=8760**0.5 / 100)})
    book = {"ETH/USD": -1_000 * WAD}
    assert is_endangered(10 * WAD - 1, book, prudence)
    assert not is_endangered(10 * WAD + 10**6, book, prudence)
    assert is_endangered(-1, {}, prudence)
    assert not is_endangered(0, {}, prudence)
