"""Slices, closings and takeovers inside every bound, on the exact mathematics of their protocols."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keeper.domain import (
    Account,
    Agree,
    Assessment,
    Liquidate,
    OracleView,
    Record,
    Refuse,
    Seen,
    Step,
    Valuation,
    Wait,
)
from keeper.lending.words import Close, Repay
from keeper.plan import hybrid, lending, perp
from keeper.plan.common import Policy
from keeper.plan.economics import Prudence
from keeper.plan.rest import Rest
from keeper.ports import SlicePreview
from keeper.protocols.hybrid import liquidator
from keeper.protocols.hybrid.market import HybridMarket
from keeper.risk.liquidity import Depth
from keeper.units import WAD, Wad, mul_div_down
from tests.unit.plan.test_lending_plan import PURSE, Roads
from tests.unit.plan.test_lending_plan import case as loan_case
from tests.unit.plan.test_perp_plan import LONG
from tests.unit.plan.test_perp_plan import case as perp_case
from tests.unit.protocols.hybrid.books import AT, deployment, oracles, rules, taker, worked_example
from tests.unit.protocols.perp_curie.perps import ETH, world
from tests.unit.toy_lending import COLLATERAL, ONE

BTC = "BTC/USD"
NONE = Prudence()
MARKET = HybridMarket(deployment())
WHOLE_WAD = 100 * WAD // 900
"""Of the worked example, of which 20,000 are long BTC: what may be closed at once."""


def depth(most: int, inventory: int | None = None, bps: float = 10.0) -> Depth:
    """A market that takes so much at so many basis points."""
    limit = None if inventory is None else inventory * WAD
    return Depth(bps, levels=((bps / 10_000, float(most)),), inventory_wad=limit)


# --- slices --------------------------------------------------------------------------------------


def assessed() -> Assessment:
    found = MARKET.assess(worked_example(), oracles(), AT)
    assert isinstance(found, Assessment)
    return found


def sliced(prudence: Prudence = NONE, **means: Any) -> hybrid.Slice | Step | Wait | Refuse:
    has = replace(hybrid.Means(taker(), 0, 0, WAD), **means)
    return hybrid.plan_slice(
        "case",
        assessed(),
        Agree("both"),
        market=MARKET,
        oracles=oracles(),
        means=has,
        params=hybrid.Params(prudence=prudence),
    )


def went(found: Any) -> tuple[Wad, list[str]]:
    assert isinstance(found, hybrid.Slice), found
    assert isinstance(found.step.act, Liquidate)
    done = liquidator.liquidate(
        worked_example(), taker(), oracles(), AT, rules(), max_fraction_wad=found.step.act.max_fraction_wad
    )
    assert isinstance(done, liquidator.Slice)
    assert done.fraction_wad == found.preview.fraction_wad
    return done.fraction_wad, [each.rule for each in found.step.bounds]


def test_an_account_tells_what_it_is_exposed_to_and_a_slice_what_it_takes() -> None:
    assert assessed().exposures == ((BTC, 20_000 * WAD),)
    found = sliced()
    assert isinstance(found, hybrid.Slice)
    assert found.step.takes == ((BTC, mul_div_down(20_000 * WAD, WHOLE_WAD, WAD) // 200 * 200),)
    assert found.step.takes[0][1] <= found.step.notional_wad


@pytest.mark.parametrize(
    ("bound", "means", "fraction", "rules_"),
    [
        (Prudence(), {}, WHOLE_WAD, []),
        (Prudence(depth={BTC: depth(1_000)}), {}, WAD // 20, ["size.depth"]),
        (Prudence(depth={BTC: depth(3_000)}), {}, WHOLE_WAD, []),
        (
            Prudence(depth={BTC: depth(3_000)}),
            {"record": Record(moved_wad={BTC: 2_000 * WAD})},
            WAD // 20,
            ["size.depth"],
        ),
        (
            Prudence(depth={BTC: depth(3_000, 1_600)}),
            {"held_wad": {BTC: 600 * WAD}},
            WAD // 20,
            ["size.inventory"],
        ),
        (Prudence(depth={BTC: depth(3_000, 1_600)}), {"held_wad": {BTC: -9_000 * WAD}}, WHOLE_WAD, []),
        (Prudence(), {"pace_wad": WAD // 2}, WHOLE_WAD // 2, ["size.pace"]),
        (Prudence(), {"pace_wad": 1}, WAD // 40, ["size.pace"]),
        (
            Prudence(depth={BTC: depth(2_000, 1_000)}),
            {"pace_wad": WAD // 2},
            WAD // 20,
            ["size.inventory", "size.pace", "size.depth"],
        ),
    ],
)
def test_a_slice_stays_within_every_bound_and_names_those_that_bind(
    bound: Prudence, means: dict[str, Any], fraction: Wad, rules_: list[str]
) -> None:
    assert went(sliced(bound, **means)) == (fraction, rules_)


@pytest.mark.parametrize(
    ("prudence", "means", "rule"),
    [
        (Prudence(depth={BTC: depth(499)}), {}, "size.depth"),
        (Prudence(depth={BTC: depth(3_000)}), {"record": Record(moved_wad={BTC: 3_000 * WAD})}, "size.depth"),
        (Prudence(depth={BTC: depth(3_000, 700)}), {"held_wad": {BTC: 600 * WAD}}, "size.inventory"),
    ],
)
def test_where_less_is_left_than_the_smallest_slice_the_bound_waits(
    prudence: Prudence, means: dict[str, Any], rule: str
) -> None:
    found = sliced(prudence, **means)
    assert isinstance(found, Wait)
    assert (found.reason.rule, found.until_block) == (rule, AT.block + 1)


def test_what_selling_the_slice_costs_counts_against_its_fee() -> None:
    dear = Prudence(depth={BTC: depth(3_000, bps=50.0)})
    found = sliced(dear)
    assert isinstance(found, Refuse)
    assert found.reason.rule == "slope.unprofitable"
    assert "exit 11.1111" in found.reason.evidence


def test_a_pace_that_leaves_too_little_to_pay_is_given_up() -> None:
    dear: dict[str, Any] = {"gas_price_wei": 10**9, "native_price_wad": 8_000 * WAD}
    whole, slow = sliced(**dear), sliced(**dear, pace_wad=WAD // 4)
    assert isinstance(whole, hybrid.Slice)
    assert slow == whole


@pytest.mark.parametrize(("budget", "goes"), [(0, False), (1, False), (40, True)])
def test_an_account_near_its_end_may_be_sliced_at_a_loss_that_is_booked(budget: int, goes: bool) -> None:
    wild = Depth(10_000.0, volume_day=1e15, volatility=5.0)
    prudence = Prudence(depth={BTC: wild}, solvency_day_wad=budget * WAD)
    found = sliced(prudence, gas_price_wei=10**10, native_price_wad=8_000 * WAD)
    assert isinstance(found, hybrid.Slice) == goes
    if isinstance(found, hybrid.Slice):
        assert isinstance(found.step.act, Liquidate)
        assert found.step.loss_wad == -found.step.expected_profit_wad > 0
        assert found.step.act.min_fee_wad == 0


def test_a_slice_that_would_leave_the_account_less_healthy_is_refused() -> None:
    class Harmful(HybridMarket):
        def preview(
            self, target: Assessment, taker: Account, oracles: OracleView, max_fraction_wad: Wad
        ) -> SlicePreview | Refuse:
            found = super().preview(target, taker, oracles, max_fraction_wad)
            assert isinstance(found, SlicePreview)
            after = Valuation(700 * WAD, 900 * WAD, 0)
            return replace(found, before=Valuation(900 * WAD, 1_000 * WAD, 0), after=after)

    market: Any = Harmful(deployment())
    found = hybrid.plan_slice(
        "case",
        assessed(),
        Agree("both"),
        market=market,
        oracles=oracles(),
        means=hybrid.Means(taker(), 0, 0, WAD),
        params=hybrid.Params(),
    )
    assert isinstance(found, Refuse)
    assert found.reason.rule == "size.harm"


def test_an_account_that_was_just_cured_is_not_flagged_again() -> None:
    health_wad = assessed().health_wad
    assert health_wad == 9 * WAD // 10
    healthy = replace(assessed(), account=replace(worked_example()))
    means = hybrid.Means(taker(), 10**6 * WAD, 0, WAD)
    closed = Seen(AT.timestamp_s - 24, health_wad)
    params = hybrid.Params(prudence=Prudence(rest=Rest(band_wad=WAD // 10)))
    found = hybrid.plan_alarm("case", healthy, means, params, closed=closed)
    assert isinstance(found, Wait)
    assert (found.reason.rule, found.until_block) == ("size.rest", AT.block + 3)
    worse = replace(closed, health_wad=WAD + 2 * WAD // 100)
    assert isinstance(hybrid.plan_alarm("case", healthy, means, params, closed=worse), Step)
    assert isinstance(hybrid.plan_alarm("case", healthy, means, hybrid.Params(), closed=closed), Step)


# --- closings ------------------------------------------------------------------------------------


def closed(prudence: Prudence, policy: Policy = Policy.MAX, **means: Any) -> tuple[Step, ...] | Refuse:
    has = lending.Means(PURSE, 10**6, WAD, **means)
    return lending.plan_close(loan_case(), has, Roads(), lending.Params(policy=policy, prudence=prudence))


def largest(found: tuple[Step, ...] | Refuse) -> tuple[int, list[str]]:
    assert not isinstance(found, Refuse), found
    asked = [each.act.asked for each in found if isinstance(each.act, Repay)]
    return max(asked), [each.rule for each in found[0].bounds]


MOST, _ = largest(closed(Prudence()))
SEIZED_WAD = MOST * 105 // 100 * WAD // ONE


def test_a_closing_by_the_wallet_stays_within_depth_and_inventory_of_what_it_seizes() -> None:
    half = Prudence(depth={COLLATERAL: Depth(10.0, levels=((0.001, SEIZED_WAD // WAD / 2),))})
    asked, names = largest(closed(half))
    assert names == ["size.depth"]
    assert asked == pytest.approx(MOST // 2, rel=0.01)
    assert asked <= MOST // 2
    purse = lending.Purse({**PURSE.balances, COLLATERAL: 400 * ONE}, PURSE.allowances)
    held = lending.Means(purse, 10**6, WAD)
    limit = Prudence(depth={COLLATERAL: replace(half.depth[COLLATERAL], inventory_wad=500 * WAD)})
    params = lending.Params(policy=Policy.MAX, prudence=limit)
    asked, names = largest(lending.plan_close(loan_case(), held, Roads(), params))
    assert names == ["size.inventory", "size.depth"]
    assert asked * 105 // 100 <= 100 * ONE


def test_a_market_that_has_taken_all_of_a_minute_refuses_a_closing_by_name() -> None:
    full = Prudence(depth={COLLATERAL: depth(500)})
    found = closed(full, record=Record(moved_wad={COLLATERAL: 500 * WAD}))
    assert isinstance(found, Refuse)
    assert found.reason.rule == "size.depth"


def test_a_slower_pace_closes_its_share_of_what_the_policy_wants() -> None:
    for policy in Policy:
        wanted = closed(Prudence(), policy)
        assert not isinstance(wanted, Refuse)
        assert isinstance(wanted[0].act, Repay)
        slow = closed(Prudence(), policy, pace_wad=WAD // 4)
        assert not isinstance(slow, Refuse)
        asked = [each.act.asked for each in slow if isinstance(each.act, Repay)]
        assert max(asked) <= wanted[0].act.asked // 4 + 1
        assert [each.rule for each in slow[0].bounds] == ["size.pace"]


def test_a_closing_says_what_it_takes_and_whether_it_should_end_the_breach() -> None:
    found = closed(Prudence(), Policy.RESTORE)
    assert not isinstance(found, Refuse)
    assert found[0].ends_at_wad == loan_case().standing.health_wad
    [(token, worth_wad)] = found[0].takes
    assert token == COLLATERAL
    assert worth_wad > found[0].notional_wad
    slow = closed(Prudence(), Policy.RESTORE, pace_wad=WAD // 10)
    assert not isinstance(slow, Refuse)
    assert slow[0].ends_at_wad is None


def test_what_the_steps_of_a_block_seize_counts_as_held() -> None:
    limit = Prudence(depth={COLLATERAL: Depth(100.0, volume_day=1e15, inventory_wad=300 * WAD)})
    found = closed(limit, coming_wad={COLLATERAL: 300 * WAD})
    assert isinstance(found, Refuse)
    assert found.reason.rule == "size.inventory"


def test_a_part_that_lowers_health_is_never_a_size() -> None:
    class Toxic:
        def __getattr__(self, name: str) -> Any:
            return getattr(loan_case().market, name)

        def close(self, loan: Any, way: Any, amount: int, world_: Any) -> Any:
            found = loan_case().market.close(loan, way, amount, world_)
            assert isinstance(found, Close)
            return replace(found, health_after_wad=WAD // 2, is_whole=False)

    toxic: Any = Toxic()
    found = lending.plan_close(
        replace(loan_case(), market=toxic), lending.Means(PURSE, 10**6, WAD), Roads(), lending.Params()
    )
    assert isinstance(found, Refuse)
    assert found.reason.rule == "size.harm"


def test_a_loan_near_its_end_may_be_closed_at_a_loss_within_the_days_bound() -> None:
    dear = lending.Means(PURSE, 10**12, WAD * 10**3)
    near: Any = replace(
        loan_case(), standing=replace(loan_case().standing, collateral_wad=1_060 * WAD, debt_wad=1_005 * WAD)
    )
    wild = Depth(10_000.0, volume_day=1e18, volatility=5.0)
    found = {}
    for budget in (0, 300):
        prudence = Prudence(depth={COLLATERAL: wild}, solvency_day_wad=budget * WAD)
        params = lending.Params(policy=Policy.MAX, slippage_wad=0, prudence=prudence)
        found[budget] = lending.plan_close(near, dear, Roads(), params)
    refused, steps = found[0], found[300]
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "close.unprofitable"
    assert not isinstance(steps, Refuse), steps
    assert all(each.loss_wad == -each.expected_profit_wad > 0 for each in steps)


# --- takeovers -----------------------------------------------------------------------------------


def taken(prudence: Prudence, **means: Any) -> perp.Planned | Refuse:
    one = perp_case(LONG, world(1_980))
    return perp.plan_takeover(
        replace(one, means=replace(one.means, **means)), perp.Params(policy=Policy.MAX, prudence=prudence)
    )


@pytest.mark.parametrize(
    ("most", "inventory", "pace", "size", "names"),
    [
        (100_000, None, WAD, 5 * WAD, []),
        (1_980, None, WAD, WAD, ["size.depth"]),
        (100_000, 3_960, WAD, 2 * WAD, ["size.inventory"]),
        (100_000, None, WAD // 2, 5 * WAD // 2, ["size.pace"]),
        (1_980, 3_960, WAD // 2, WAD, ["size.depth", "size.inventory", "size.pace"]),
    ],
)
def test_a_takeover_stays_within_every_bound(
    most: int, inventory: int | None, pace: Wad, size: Wad, names: list[str]
) -> None:
    found = taken(Prudence(depth={ETH: depth(most, inventory)}), pace_wad=pace)
    assert isinstance(found, perp.Planned)
    assert found.step.takes == ((ETH, size * 1_980),)
    assert [each.rule for each in found.step.bounds] == names


def test_a_market_that_has_taken_all_of_a_minute_refuses_a_takeover_by_name() -> None:
    found = taken(Prudence(depth={ETH: depth(500)}), record=Record(moved_wad={ETH: 500 * WAD}))
    assert isinstance(found, Refuse)
    assert found.reason.rule == "size.depth"
