"""Margins from closes: what each piece does to them, what data give none, and what must hold of all."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.errors import BadInput
from keeper.risk import parameters as module
from keeper.risk.dynamic import MAINTENANCE
from keeper.risk.inputs import Floats
from keeper.risk.liquidity import DEPTH_LEFT, sqrt_impact
from keeper.risk.parameters import Estimate, Market, Policy, estimate, uncertain, unsound
from keeper.risk.prices import DAY_S, Prices
from keeper.risk.tail import filtered_returns, historical

STEP_S = 14_400
LAST_S = 1_700_006_400
POLICY = Policy()
NONE: dict[str, Market] = {}


def closes(*returns: Floats, step_s: int = STEP_S, last_s: int = LAST_S) -> Prices:
    """The closes of assets A, B, ... that make these returns, ending at 100."""
    moved = np.column_stack(returns)
    paths = np.vstack([np.zeros(len(returns)), np.cumsum(moved, axis=0)])
    times = last_s - step_s * np.arange(len(paths))[::-1]
    return Prices(tuple("ABCDEF"[: len(returns)]), times.astype(np.int64), 100 * np.exp(paths - paths[-1]))


def walk(deviation: float, n: int = 800, seed: int = 0) -> Floats:
    return deviation * np.random.default_rng(seed).standard_normal(n)


def only(prices: Prices, policy: Policy = POLICY, markets: dict[str, Market] = NONE) -> Estimate:
    (found,) = estimate(prices, policy, markets)
    return found


def refused(
    prices: Prices, policy: Policy = POLICY, *, now_s: int = LAST_S, **marks: float
) -> dict[str, str]:
    said = unsound(prices, policy, now_s=now_s, marks=marks)
    return {asset: str(refusal.reason) for asset, refusal in said}


# --- the estimate --------------------------------------------------------------------------------


def test_the_shortfall_is_that_of_the_side_that_loses_more() -> None:
    falls = np.where(np.arange(800) % 37 == 0, -0.2, 0.004) + walk(0.001)
    drawn = filtered_returns(falls[:, None], decay=0.5 ** (STEP_S / POLICY.half_life_s))[:, 0]
    of_a_long = float(historical(-np.expm1(drawn), 0.99).es)
    of_a_short = float(historical(np.expm1(-drawn), 0.99).es)
    assert only(closes(falls)).shortfall == pytest.approx(of_a_long, rel=1e-12)
    assert only(closes(-falls)).shortfall == pytest.approx(of_a_short, rel=1e-12)
    # What rises by as many logarithms takes more than what falls by them.
    assert of_a_short > of_a_long > 0.15


def test_a_long_loses_of_a_fall_and_a_short_of_a_rise_what_the_price_moves() -> None:
    """By hand: of moves that are all 0.1 in logarithms an EWMA expects 0.1, now and always."""
    both = 0.1 * np.where(np.random.default_rng(2).random(800) < 0.5, 1.0, -1.0)
    for moves, lost in ((both, math.exp(0.1) - 1), (np.full(800, -0.1), 1 - math.exp(-0.1))):
        first, second = estimate(closes(moves, moves), replace(POLICY, joint_stress=0.0), NONE)
        for piece in (first.shortfall, first.stressed, first.long_run, first.joint, second.joint):
            assert piece == pytest.approx(lost, rel=1e-9)
        assert first.initial == pytest.approx(lost, rel=1e-9)
        assert (first.joint_with, second.joint_with) == ("B", "A")


def test_long_paths_are_weighed_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    prices = closes(walk(0.02), walk(0.03, seed=1))
    whole = [(each.stressed, each.joint, each.initial) for each in estimate(prices, POLICY, NONE)]
    monkeypatch.setattr(module, "TILE", 100)
    parts = [(each.stressed, each.joint, each.initial) for each in estimate(prices, POLICY, NONE)]
    assert parts == [pytest.approx(each, rel=1e-12) for each in whole]


def test_in_calm_a_part_of_the_worst_times_stays() -> None:
    storm_first = np.r_[walk(0.06, 200), walk(0.01, 800, seed=1)]
    found = only(closes(storm_first))
    without = only(closes(storm_first), replace(POLICY, stressed_weight=0.0))
    assert found.stressed > 3 * found.shortfall
    mixed = 0.75 * found.shortfall + 0.25 * found.stressed
    assert found.maintenance == pytest.approx(MAINTENANCE * max(mixed, found.long_run), rel=1e-12)
    assert found.maintenance >= without.maintenance


def test_the_long_run_is_a_floor() -> None:
    found = only(
        closes(np.r_[walk(0.03, 1000), walk(0.003, 400, seed=1)]), replace(POLICY, stressed_weight=0.0)
    )
    assert found.binding == "floor"
    assert found.maintenance == pytest.approx(MAINTENANCE * found.long_run, rel=1e-12)
    assert found.long_run > found.shortfall


def test_an_asset_with_thin_tails_is_asked_for_what_another_would_bring() -> None:
    """B goes with A, and has no tail of its own: A's crash is B's too."""
    a = np.random.default_rng(3).standard_t(3, 1200) * 0.01
    b = 0.02 * np.sign(a) * np.random.default_rng(4).uniform(0.9, 1.1, 1200)
    together = estimate(closes(a, b), replace(POLICY, stressed_weight=0.0), NONE)[1]
    alone = only(closes(b), replace(POLICY, stressed_weight=0.0))
    assert (together.binding, together.joint_with) == ("scan", "A")
    assert together.joint > together.shortfall
    assert together.maintenance > alone.maintenance
    assert (alone.joint, alone.joint_with) == (0.0, "")


def test_stress_moves_correlations_and_with_them_the_joint_loss() -> None:
    prices = closes(walk(0.02), walk(0.02, seed=1))
    joint = [estimate(prices, replace(POLICY, joint_stress=k), NONE)[0].joint for k in (0.0, 0.5, 1.0)]
    assert joint == sorted(joint)
    assert joint[0] < 0.3 * joint[2]


def test_closing_the_largest_position_is_added_to_initial_margin_alone() -> None:
    prices, market = closes(walk(0.02)), Market(5e6, 3e8)
    found, without = only(prices, markets={"A": market}), only(prices)
    a_day = found.volatility / np.sqrt(365)
    cost = sqrt_impact(5e6, volume_day=3e8 * DEPTH_LEFT["stressed"], volatility_day=a_day)
    assert found.liquidity == pytest.approx(float(cost), rel=1e-9)
    assert found.initial == pytest.approx(without.initial + float(cost), rel=1e-12)
    assert found.maintenance == without.maintenance
    assert only(prices, markets={"A": Market(5e6, None)}).liquidity == 0


def test_a_buffer_is_full_in_calm_and_used_up_before_margins_rise() -> None:
    policy = replace(POLICY, buffer=0.25, stressed_weight=0.0)
    calm = walk(0.02, 1200)
    shaken = closes(np.r_[calm, [0.12, -0.11]])
    rest, risen, bare = (
        only(closes(calm), policy),
        only(shaken, policy),
        only(shaken, replace(policy, buffer=0.0)),
    )
    assert rest.buffer == pytest.approx(0.25, abs=0.02)
    assert 0 <= risen.buffer < 0.2
    assert rest.maintenance < bare.maintenance <= risen.maintenance


def test_closes_of_a_finer_step_are_taken_as_far_apart_as_the_horizon() -> None:
    hourly = closes(walk(0.01, 3200), step_s=3600)
    assert only(hourly) == only(hourly.every(4))
    with pytest.raises(BadInput, match="the horizon of 4 h is a multiple, found them 1 d apart"):
        only(closes(walk(0.01), step_s=DAY_S))
    with pytest.raises(BadInput, match="found them 3 h apart"):
        only(closes(walk(0.01), step_s=10_800))


@given(st.integers(0, 2**32 - 1), st.floats(1, 5))
def test_margins_rise_with_returns_and_scale_with_small_ones(seed: int, factor: float) -> None:
    moves = 0.01 * np.random.default_rng(seed).standard_t(4, (600, 2))
    for size in (1.0, 1e-6):
        less, more = (estimate(closes(*(size * part * moves).T), POLICY, NONE) for part in (1.0, factor))
        for one, other in zip(less, more, strict=True):
            assert other.maintenance >= one.maintenance * (1 - 1e-9)
            assert other.initial >= one.initial * (1 - 1e-9)
            if size < 1:
                assert other.maintenance == pytest.approx(factor * one.maintenance, rel=1e-5)
                assert other.initial == pytest.approx(factor * one.initial, rel=1e-5)


@given(st.integers(0, 2**32 - 1))
def test_more_stress_and_a_higher_level_never_ask_for_less(seed: int) -> None:
    prices = closes(*(0.02 * np.random.default_rng(seed).standard_t(4, (600, 2))).T)
    grown = [
        replace(POLICY, stressed_weight=w, level=q, joint_stress=w) for w, q in ((0.1, 0.95), (0.4, 0.99))
    ]
    low, high = (estimate(prices, policy, NONE) for policy in grown)
    for one, other in zip(low, high, strict=True):
        assert other.maintenance >= one.maintenance
        assert other.initial >= other.maintenance / MAINTENANCE - 1e-12


# --- what is refused -----------------------------------------------------------------------------


def test_sound_closes_are_refused_for_nothing() -> None:
    assert refused(closes(walk(0.02), walk(0.03, seed=1)), A=101.0, B=99.0) == {}
    assert uncertain(only(closes(walk(0.02))), POLICY) is None


def test_each_refusal_names_what_was_found_and_its_bound() -> None:
    good = closes(walk(0.02))
    assert refused(closes(walk(0.02, 499)), A=100) == {
        "A": "data.thin: 499 returns of 4 h, bound 500 or more"
    }
    assert refused(closes(walk(0.02, 500)), A=100) == {}
    assert refused(good, now_s=LAST_S + DAY_S, A=100) == {}
    assert refused(good, now_s=LAST_S + DAY_S + 1, A=100) == {
        "A": "data.stale: the last close is 86401 s old, bound 0 to 86400 s"
    }
    assert refused(good, now_s=LAST_S - 1, A=100) == {
        "A": "data.stale: the last close is 1 s ahead of the chain, bound 0 to 86400 s"
    }
    assert refused(good, A=90.0) == {
        "A": "data.apart: the last close is 100 where 90 is said elsewhere, bound 10.0%"
    }
    assert refused(good) == {"A": "data.alone: no other source tells its price, bound one that does"}


def test_a_source_that_stands_still_is_refused_wherever_it_did() -> None:
    moves = walk(0.02)
    moves[300:323] = 0
    assert refused(closes(moves), A=100) == {}
    moves[323] = 0
    assert refused(closes(moves), A=100) == {"A": "data.still: 25 closes in a row are the same, bound 24"}


def test_an_asset_is_refused_for_itself_alone() -> None:
    assert refused(closes(walk(0.02), walk(0.03, seed=1)), A=100, B=50).keys() == {"B"}


def test_an_estimate_that_its_sample_does_not_bear_is_refused() -> None:
    found = only(closes(walk(0.02)))
    refusal = uncertain(replace(found, error=0.51), POLICY)
    assert refusal
    assert str(refusal.reason) == "data.uncertain: a standard error of 51%, bound 50%"
    assert uncertain(replace(found, error=0.5), POLICY) is None
    assert uncertain(replace(found, error=float("nan")), POLICY)


def test_where_all_but_a_few_returns_gain_nothing_bears_the_estimate() -> None:
    crashes = np.where(np.arange(800) % 200 == 150, -0.5, 0.004) + walk(0.0001)
    found = only(closes(crashes))
    assert (found.error, found.shortfall > 0.1) == (np.inf, True)
    assert uncertain(found, POLICY)
