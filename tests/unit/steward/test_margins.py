"""What the steward proposes of an estimate, what holds it back, and whom it may not bring into breach."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain import Account, Head, Leg, Phase, Reason, Refuse
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.params import Ramp, Underlying
from keeper.protocols.hybrid.steward import Allowed, Bounds, MarginChange, Stewardship, broken_bound
from keeper.risk.parameters import Estimate, Policy
from keeper.risk.scenarios import Option, VolShocks, array_of, pack
from keeper.steward.arrays import FixedVols
from keeper.steward.margins import Effect, Findings, Params, Proposal, Standing, agreed, decide, weigh
from keeper.steward.telling import as_data, is_amiss, lines
from keeper.units import BPS, WAD, Wad
from tests.unit.protocols.hybrid.books import (
    CALL,
    EXPIRY_S,
    NOW_S,
    OPTIONS,
    PERPS,
    UNDERLYINGS,
    array,
    deployment,
    oracles,
    taker,
)

DAY_S = 86_400
PERCENT = WAD // 100
FEED = "BTC/USD"
TERMS = UNDERLYINGS[FEED]
"""5% and 8%, at rest."""
BOUNDS = Bounds(2 * PERCENT, 20 * PERCENT, 4 * PERCENT, 40 * PERCENT, WAD // 4, WAD // 10, DAY_S)
ALLOWED = Allowed(BOUNDS, NOW_S - 5 * DAY_S, NOW_S - 5 * DAY_S)
PARAMS = Params()
FOUND = Estimate(
    asset=FEED,
    observed_at_s=NOW_S - 60,
    volatility=0.6,
    shortfall=0.06,
    stressed=0.12,
    long_run=0.05,
    joint=0.04,
    joint_with="ETH/USD",
    error=0.1,
    buffer=0.0,
    liquidity=0.003,
    binding="shortfall",
    maintenance=0.06,
    initial=0.09,
)


def decided(
    mmr: float = 0.06,
    imr: float = 0.09,
    *,
    allowed: Allowed = ALLOWED,
    terms: Underlying = TERMS,
    params: Params = PARAMS,
    at_s: int = NOW_S,
) -> tuple[MarginChange | Refuse, tuple[str, ...]]:
    found = replace(FOUND, maintenance=mmr, initial=imr)
    return decide(found, allowed, terms, at_s=at_s, params=params)


def margins(outcome: tuple[MarginChange | Refuse, tuple[str, ...]]) -> tuple[float, float]:
    change, _ = outcome
    assert isinstance(change, MarginChange), change
    return change.mmr_wad / WAD, change.imr_wad / WAD


def rule(outcome: tuple[MarginChange | Refuse, tuple[str, ...]]) -> str:
    refusal, _ = outcome
    assert isinstance(refusal, Refuse), refusal
    return str(refusal.reason)


# --- decide --------------------------------------------------------------------------------------


def test_an_estimate_within_all_bounds_is_proposed_in_whole_basis_points_rounded_up() -> None:
    change, held = decided(0.06, 0.09)
    assert change == MarginChange(FEED, 6 * PERCENT, 9 * PERCENT, DAY_S, NOW_S - 60, NOW_S + 600)
    assert held == ()
    assert margins(decided(0.060001, 0.0900999)) == (0.0601, 0.0901)


def test_a_rise_is_held_to_the_stewards_own_pace_and_to_the_owners_bounds() -> None:
    assert decided(0.07, 0.11)[1] == (
        "mmr of 7.00% to 6.25% by the steward's pace of 25% a day",
        "imr of 11.00% to 10.00% by the steward's pace of 25% a day",
    )
    assert margins(decided(0.07, 0.11)) == (0.0625, 0.1)
    slower = replace(ALLOWED, bounds=replace(BOUNDS, rise_wad=WAD // 10))
    outcome = decided(0.06, 0.09, allowed=slower)
    assert margins(outcome) == (0.055, 0.088)
    assert outcome[1][0] == "mmr of 6.00% to 5.50% by the owner's bounds"
    tight = replace(ALLOWED, bounds=replace(BOUNDS, mmr_most_wad=55 * PERCENT // 10))
    assert margins(decided(0.06, 0.09, allowed=tight)) == (0.055, 0.09)


def test_a_fall_is_held_to_the_owners_bounds() -> None:
    outcome = decided(0.03, 0.05)
    assert margins(outcome) == (0.045, 0.072)
    assert outcome[1] == (
        "mmr of 3.00% to 4.50% by the owner's bounds",
        "imr of 5.00% to 7.20% by the owner's bounds",
    )


def test_a_margin_stays_above_the_least_requirement_of_a_short_option() -> None:
    loose = replace(ALLOWED, bounds=replace(BOUNDS, mmr_least_wad=PERCENT // 2, fall_wad=9 * WAD // 10))
    params = replace(PARAMS, most_swing=100.0)
    assert margins(decided(0.007, 0.05, allowed=loose, params=params)) == (0.01, 0.05)


def test_a_ramp_on_its_way_is_reckoned_with_until_the_signatures_lapse() -> None:
    """Halfway from 5% to 6%, and 10 minutes further: a tenth below 5.5069% is more than below 5.5%."""
    moving = replace(TERMS, mmr=Ramp(5 * PERCENT, 6 * PERCENT, NOW_S - DAY_S // 2, NOW_S + DAY_S // 2))
    later_wad = moving.mmr.at(NOW_S + 600)
    mmr, _ = margins(decided(0.04, 0.08, terms=moving))
    assert mmr * WAD == pytest.approx(-(-(later_wad * 9 // 10) // (WAD // BPS)) * (WAD // BPS), rel=1e-12)
    assert mmr > 0.0495


def test_each_refusal_names_what_was_found_and_its_bound() -> None:
    assert (
        rule(decided(allowed=Allowed(None))) == "margins.no_bounds: the owner allows no change, bound bounds"
    )
    assert rule(decided(0.1501)) == "data.swung: mmr estimated at 15.01%, bound 1.67% to 15.00%"
    assert rule(decided(0.0166)) == "data.swung: mmr estimated at 1.66%, bound 1.67% to 15.00%"
    assert rule(decided(0.0512, 0.0838)) == "margins.unchanged: a change of 4.8%, bound 5.0% or more"
    assert margins(decided(0.0512, 0.084)) == (0.0512, 0.084)
    seen = replace(ALLOWED, observed_at_s=NOW_S - 60)
    assert rule(decided(allowed=seen)) == f"margins.not_newer: {NOW_S - 60}, bound after {NOW_S - 60}"
    soon = replace(ALLOWED, changed_at_s=NOW_S - DAY_S + 1)
    assert rule(decided(allowed=soon)) == f"margins.too_soon: at {NOW_S}, bound {NOW_S + 1} or later"
    unsure = decide(replace(FOUND, error=0.6), ALLOWED, TERMS, at_s=NOW_S, params=PARAMS)
    assert rule(unsure) == "data.uncertain: a standard error of 60%, bound 50%"


def test_what_lies_too_far_outside_the_bounds_is_left_to_the_owner() -> None:
    far = replace(ALLOWED, bounds=replace(BOUNDS, mmr_least_wad=2 * PERCENT, mmr_most_wad=3 * PERCENT))
    assert rule(decided(0.05, 0.08, allowed=far)) == "margins.mmr: 3.0000%, bound 4.5000% to 3.0000%"


def test_what_another_source_would_not_come_to_is_disputed() -> None:
    change, _ = decided(0.06, 0.09)
    assert isinstance(change, MarginChange)
    near, far = replace(change, imr_wad=99 * PERCENT // 10), replace(change, mmr_wad=53 * PERCENT // 10)
    unmoved = Refuse(Reason("margins.unchanged", "a change of 1.0%", "5.0% or more"))
    assert agreed(change, [], 0.1) is change
    assert agreed(change, [near, change], 0.11) is change
    assert (
        rule((agreed(change, [near, far], 0.11), ()))
        == "margins.disputed: source 3 is 11.7% away, bound 11.0%"
    )
    assert rule((agreed(change, [near], 0.09), ())) == "margins.disputed: source 2 is 10.0% away, bound 9.0%"
    disputed = (
        "margins.disputed: source 2: margins.unchanged: a change of 1.0%, bound 5.0% or more, bound the same"
    )
    assert rule((agreed(change, [unmoved], 0.1), ())) == disputed


@given(
    st.floats(0.001, 0.9),
    st.floats(0.001, 1.5),
    *[st.floats(0.005, 0.5)] * 2,
    *[st.floats(0, 0.99)] * 2,
    st.integers(0, 2 * DAY_S),
)
def test_what_is_proposed_the_chain_takes_for_as_long_as_it_is_signed(
    mmr: float, imr: float, now: float, to: float, rise: float, fall: float, passed_s: int
) -> None:
    start_s = NOW_S - passed_s
    maintenance, initial = (
        Ramp(int(part * now * WAD), int(part * to * WAD), start_s, start_s + DAY_S) for part in (1, 1.5)
    )
    terms = Underlying(FEED, maintenance, initial, Ramp(PERCENT // 2, PERCENT // 2, 0, 0))
    bounds = replace(BOUNDS, rise_wad=int(rise * WAD), fall_wad=int(fall * WAD), interval_s=0)
    allowed = replace(ALLOWED, bounds=bounds)
    params = replace(PARAMS, most_swing=1e9, least_change=0.0)
    change, _ = decided(mmr, imr, allowed=allowed, terms=terms, params=params)
    if isinstance(change, MarginChange):
        assert all(broken_bound(change, allowed, terms, at_s) is None for at_s in (NOW_S, NOW_S + 600))
    else:
        reach = allowed.reach(terms.mmr.at(NOW_S), terms.imr.at(NOW_S))
        later = allowed.reach(terms.mmr.at(NOW_S + 600), terms.imr.at(NOW_S + 600))
        crossed = any(max(a[0], b[0]) > min(a[1], b[1]) for a, b in zip(reach, later, strict=True))
        assert crossed or change.reason.rule in {"margins.imr", "margins.short_min"}


# --- accounts ------------------------------------------------------------------------------------


def holder(number: int, cash_wad: Wad, *legs: Leg) -> Account:
    return replace(taker(cash_wad, legs), key=bytes([number]) * 20 + bytes(12))


LONG = Leg(1, 100 * WAD, -20_000 * WAD)
"""A notional of 20,000, of which 5% are 1,000."""
NEAR, FAR = holder(1, 1_100 * WAD, LONG), holder(2, 5_000 * WAD, LONG)
IDLE, SHUT = holder(3, 10 * WAD), replace(NEAR, key=bytes([4]) * 32, phase=Phase.CLOSED, legs=())


def standing(*accounts: Account, vols: FixedVols | None = None, **more: Any) -> Standing:
    market = HybridMarket(deployment(markets={**PERPS, **OPTIONS}))
    return Standing(market, accounts, oracles(**more), NOW_S, vols)


def effects(there: Standing, *changes: MarginChange) -> tuple[Effect, ...]:
    return there.effects(there.valued(there.market.deployment.rules), changes)


def change(feed: str = FEED, mmr_percent: int = 6) -> MarginChange:
    return MarginChange(feed, mmr_percent * PERCENT, 2 * mmr_percent * PERCENT, DAY_S, NOW_S, NOW_S + 600)


def proposal(outcome: MarginChange | Refuse, feed: str = FEED) -> Proposal:
    return Proposal(feed, UNDERLYINGS[feed], NOW_S, replace(FOUND, asset=feed), None, outcome)


def test_effects_are_health_before_and_after_the_nearest_first() -> None:
    near, far = effects(standing(FAR, NEAR, IDLE, SHUT), change(mmr_percent=10))
    assert (near.account, far.account) == (NEAR.key, FAR.key)
    assert (near.now.requirement_wad, near.then.requirement_wad) == (1_000 * WAD, 2_000 * WAD)
    assert (near.breaks, near.comes_nearer) == (True, True)
    assert (far.breaks, far.comes_nearer) == (False, True)


def test_a_change_of_another_underlying_brings_nobody_nearer() -> None:
    (near,) = effects(standing(NEAR), change("ETH/USD"))
    assert (near.now, near.comes_nearer, near.breaks) == (near.then, False, False)


def test_who_is_in_breach_already_is_not_brought_there() -> None:
    (found,) = effects(standing(holder(1, 900 * WAD, LONG)), change())
    assert found.now.breaches()
    assert not found.breaks


def test_the_worse_of_both_prices_counts() -> None:
    there = standing(NEAR)
    lower = replace(there.oracles[FEED], fast_wad=197 * WAD)
    feeds = {**there.oracles.feeds, FEED: lower}
    (found,) = effects(replace(there, oracles=replace(there.oracles, feeds=feeds)))
    assert found.now.equity_wad == 800 * WAD


def test_an_account_on_a_feed_without_price_is_left_out() -> None:
    there = standing(NEAR, holder(2, 10**5 * WAD, Leg(2, WAD, -1_500 * WAD)))
    silent = replace(there.oracles[FEED], fast_wad=0)
    feeds = {**there.oracles.feeds, FEED: silent}
    found = effects(replace(there, oracles=replace(there.oracles, feeds=feeds)))
    assert [each.account for each in found] == [bytes([2]) * 20 + bytes(12)]


def test_changes_that_would_breach_are_refused_and_what_two_do_together_counts() -> None:
    """Each alone leaves the account 50 above its requirement; both together do not."""
    both = holder(1, 1_150 * WAD, Leg(1, 50 * WAD, -10_000 * WAD), Leg(2, 10 * WAD, -15_000 * WAD))
    there = standing(both, FAR)
    first, second = proposal(change("BTC/USD", 5)), proposal(change("ETH/USD", 5), "ETH/USD")
    alone, _ = weigh([second], there, 0)
    assert isinstance(alone[0].outcome, Refuse)
    who = f"0x{both.key[:20].hex()}:0"
    assert str(alone[0].outcome.reason) == f"margins.breaches: 1 would be in breach: {who}, bound 0"
    (kept, refused), told = weigh([first, second], there, 0)
    assert isinstance(kept.outcome, MarginChange)
    assert isinstance(refused.outcome, Refuse)
    assert not any(each.breaks for each in told)
    (_, allowed), told = weigh([first, second], there, 1)
    assert isinstance(allowed.outcome, MarginChange)
    assert sum(each.breaks for each in told) == 1


def test_of_many_whom_a_change_would_breach_the_nearest_are_named() -> None:
    crowd = [holder(number, (1_105 - number) * WAD, LONG) for number in range(1, 6)]
    (refused,), _ = weigh([proposal(change())], standing(*crowd), 0)
    assert isinstance(refused.outcome, Refuse)
    worst = ", ".join(f"0x{bytes([number]).hex() * 20}:0" for number in (5, 4, 3))
    assert refused.outcome.reason.evidence == f"5 would be in breach: {worst} and 2 more"


def test_a_change_is_not_refused_for_whom_the_owners_own_ramp_will_breach() -> None:
    there = standing(NEAR, FAR)
    rules = there.market.deployment.rules
    ramp = Ramp(5 * PERCENT, 6 * PERCENT, NOW_S, NOW_S + DAY_S)
    moving = replace(rules, underlyings={**rules.underlyings, FEED: replace(TERMS, mmr=ramp)})
    there = replace(there, market=HybridMarket(replace(there.market.deployment, rules=moving)))
    (other,), told = weigh([proposal(change("ETH/USD"), "ETH/USD")], there, 0)
    assert isinstance(other.outcome, MarginChange)
    assert [each.breaks for each in told] == [True, False]
    (relief,), told = weigh([proposal(change(FEED, 5))], there, 0)
    assert isinstance(relief.outcome, MarginChange)
    assert not any(each.breaks for each in told)
    (worse,), _ = weigh([proposal(change(FEED, 30))], there, 0)
    assert isinstance(worse.outcome, Refuse)


def test_options_are_judged_by_the_arrays_that_the_new_range_will_bring() -> None:
    option = Option(CALL, OPTIONS[CALL].kind, OPTIONS[CALL].strike_wad, EXPIRY_S)

    def packed(mmr: float) -> object:
        made = array_of(option, spot=200.0, vol=0.8, mmr=mmr, now_s=NOW_S - 60, shocks=VolShocks())
        wad = int(mmr * WAD)
        return pack(option, made, mmrs_wad=(wad, wad)).view

    short = holder(1, 20_000 * WAD, Leg(CALL, -100 * WAD, 500 * WAD))
    arrays = {CALL: packed(0.05)}
    (found,) = effects(standing(short, vols=FixedVols({FEED: 0.8}), arrays=arrays), change(mmr_percent=10))
    (exact,) = effects(standing(short, arrays={CALL: packed(0.1)}), change(mmr_percent=10))
    (posted,) = effects(standing(short, arrays=arrays), change(mmr_percent=10))
    assert found.then == exact.then
    assert found.then.requirement_wad > 1.4 * found.now.requirement_wad
    assert posted.then.requirement_wad == posted.now.requirement_wad


def test_the_largest_position_is_of_perps_net_and_the_slow_price_is_the_other_source() -> None:
    hedged = holder(1, 0, Leg(1, -70 * WAD, 0), Leg(CALL, 500 * WAD, 0))
    there = standing(hedged, holder(2, 0, Leg(1, 30 * WAD, 0)), arrays={CALL: array(8 * WAD)})
    assert there.largest(FEED) == 70 * 200
    assert there.largest("SYN/USD") == 0
    view = replace(there.oracles[FEED], slow_wad=199 * WAD)

    def marked(**changes: object) -> float | None:
        feeds = {FEED: replace(view, **changes)}  # type: ignore[arg-type]
        return replace(there, oracles=replace(there.oracles, feeds=feeds)).mark(FEED)

    assert marked() == 199
    assert marked(slow_ok=False) == 200
    assert marked(slow_ok=False, fast_observed_at_s=NOW_S - 16) is None


# --- what is told --------------------------------------------------------------------------------


def findings(*proposals: Proposal, accounts: tuple[Account, ...] = (NEAR, FAR)) -> Findings:
    head = Head(100, "0x" + "aa" * 32, "0x" + "ab" * 32, NOW_S, 0)
    weighed, told = weigh(proposals, standing(*accounts), 1)
    return Findings(head, Stewardship("0x" + "5a" * 20, {}), weighed, told)


def test_it_is_told_what_moved_why_and_who_comes_nearer() -> None:
    before = replace(FOUND, volatility=0.45)
    moved = replace(proposal(change()), before=before, held=("mmr of 7.00% to 6.00% by the owner's bounds",))
    stays = proposal(Refuse(Reason("margins.unchanged", "a change of 1.0%", "5.0% or more")), "ETH/USD")
    found = findings(moved, stays)
    lost = "6.00% now, 12.00% at the highest volatility, 5.00% in the long run, 4.00% with ETH/USD"
    cost = "0.30% of that for closing the largest position"
    why = [
        f"  lost in 4 h, expected beyond the quantile: {lost} as it loses its own",
        f"  decided by the shortfall, in part stressed: mmr 6.00%, imr 9.00%, {cost}",
    ]
    assert list(lines(found, Policy().horizon_s)) == [
        "BTC/USD: mmr 5.00% → 6.00%, imr 8.00% → 12.00%, along 1 d",
        "  a volatility from 45.0% at the last change to 60.0% a year",
        *why,
        "  held back: mmr of 7.00% to 6.00% by the owner's bounds",
        "ETH/USD: mmr 4.00% and imr 7.00% stay: margins.unchanged: a change of 1.0%, bound 5.0% or more",
        "  a volatility of 60.0% a year",
        *why,
        "2 accounts hold positions, 0 are in breach; 2 come nearer, 1 would breach by margins alone",
    ]
    told = as_data(found, 1)
    assert told["underlyings"]["BTC/USD"]["change"] == {"mmr": 0.06, "imr": 0.12, "ramp_s": DAY_S}
    assert told["underlyings"]["ETH/USD"]["refused"]["rule"] == "margins.unchanged"
    assert told["accounts"] == {
        "with_positions": 2,
        "nearer": 2,
        "breached_by_it": 1,
        "in_breach": 0,
        "left_out": 0,
        "nearest": [
            {
                "account": f"0x{NEAR.key.hex()}",
                "health": pytest.approx(1.1),
                "health_then": pytest.approx(1_100 / 1_200),
                "requirement": 1000.0,
                "requirement_then": 1200.0,
                "equity": 1100.0,
            }
        ],
    }


def test_who_cannot_be_judged_is_counted() -> None:
    found = replace(findings(proposal(change())), left_out=3)
    said = "3 more cannot be judged, for want of a price, and are left out"
    assert list(lines(found, Policy().horizon_s))[-1] == said
    assert as_data(found, 1)["accounts"]["left_out"] == 3


def test_what_is_endless_is_told_a_program_as_null() -> None:
    found = findings(replace(proposal(change()), found=replace(FOUND, error=math.inf)), accounts=(NEAR,))
    (near,) = found.effects
    free = replace(near, now=replace(near.now, requirement_wad=0))
    told = json.loads(json.dumps(as_data(replace(found, effects=(free,)), 1), allow_nan=False))
    assert told["underlyings"][FEED]["estimate"]["error"] is None
    assert told["accounts"]["nearest"][0]["health"] is None
    assert told["accounts"]["nearest"][0]["health_then"] == pytest.approx(1_100 / 1_200)


def test_only_what_should_have_been_published_is_amiss() -> None:
    assert not is_amiss(findings(proposal(change())))
    for rule_name, amiss in (
        ("margins.unchanged", False),
        ("margins.too_soon", False),
        ("margins.not_newer", False),
        ("margins.breaches", True),
        ("data.stale", True),
    ):
        assert is_amiss(findings(proposal(Refuse(Reason(rule_name, "", ""))))) is amiss
