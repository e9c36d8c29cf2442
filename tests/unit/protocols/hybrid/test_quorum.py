"""Whose turn it is, which reports go together, and what two liars can do where three of five sign."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain import FeedView, Observation, OracleView, Report
from keeper.protocols.hybrid.quorum import (
    MAX_DISPERSION_BPS,
    Quorum,
    pick,
    posted,
    said_by,
    unusable,
    unusable_among,
)
from keeper.units import BPS, WAD, UnixS, Wad
from tests.unit.protocols.hybrid.books import NOW_S, feed_view

AT_S = NOW_S + 12
SIGNERS = tuple(f"0x{number:040x}" for number in (0xE, 0xA, 0xC, 0xB, 0xD))
QUORUM = Quorum(SIGNERS, 3)
VIEW = replace(feed_view("BTC/USD", 200 * WAD), fast_observed_at_s=NOW_S - 12)


def report(
    signer: int, price_wad: Wad, observed_at_s: UnixS = NOW_S + 10, confidence_bps: int = 10
) -> Report:
    seen = Observation("BTC/USD", price_wad, confidence_bps, observed_at_s, observed_at_s + 30)
    return Report(seen, b"", SIGNERS[signer] if signer < 5 else f"0x{signer:040x}")


def priced(*prices: float) -> list[Report]:
    """One report of each signer in turn, all observed at the same time."""
    return [report(signer, round(price * 1000) * WAD // 1000) for signer, price in enumerate(prices)]


def picked(reports: Sequence[Report], view: FeedView = VIEW) -> list[float] | None:
    bundle = pick(reports, QUORUM, view, AT_S)
    return None if bundle is None else sorted(each.observation.price_wad / WAD for each in bundle)


# --- turns ---------------------------------------------------------------------------------------


def test_turns_go_round_in_the_order_of_addresses() -> None:
    whose = [QUORUM.turn(60 + 12 * block, patience_s=12) for block in range(6)]
    assert whose == [*sorted(SIGNERS), min(SIGNERS)]


@given(data=st.data(), patience_s=st.integers(1, 600), size=st.integers(1, 9))
def test_in_any_schedule_one_reporter_at_most_may_post_while_its_patience_lasts(
    data: st.DataObject, patience_s: int, size: int
) -> None:
    signers = [f"0x{number:040x}" for number in range(size)]
    looks = st.tuples(st.sampled_from(signers), st.integers(NOW_S, NOW_S + 5 * patience_s))
    may_post: dict[int, set[str]] = {}
    for who, head_s in data.draw(st.lists(looks, max_size=60)):
        # The contract's order of signers is everybody's own reading, and must not matter.
        quorum = Quorum(tuple(data.draw(st.permutations(signers))), size // 2 + 1)
        if quorum.turn(head_s, patience_s) == who:
            may_post.setdefault(head_s // patience_s, set()).add(who)
    assert all(len(posting) == 1 for posting in may_post.values())


def test_whoever_is_silent_is_followed_by_the_next() -> None:
    turns = [QUORUM.turn(12 * block, patience_s=12) for block in range(10)]
    assert all(a != b for a, b in pairwise(turns))
    assert {*turns[:5]} == {*turns[5:]} == {*SIGNERS}


# --- which go together ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prices", "expected"),
    [
        ((200, 200, 200), [200, 200, 200]),
        ((200, 201), None),
        ((200, 201, 203, 203.1, 203.2), [203, 203.1, 203.2]),
        # A liar beyond the dispersion would have the contract refuse the whole bundle.
        ((200, 201, 199, 250), [199, 200, 201]),
        ((200, 201, 199, 150), [199, 200, 201]),
        ((200, 201, 250), None),
        # All five are heard: two who lie the same way do not get in.
        ((200, 200.2, 200.1, 205, 205), [200, 200.1, 200.2]),
        ((200, 200.2, 200.1, 195, 205), [200, 200.1, 200.2]),
        # One honest reporter is silent: those two have the median.
        ((200, 200.1, 205, 205), [200.1, 205, 205]),
        ((200, 200.1, 207, 207), None),
    ],
)
def test_the_closest_together_are_picked(prices: tuple[float, ...], expected: list[float] | None) -> None:
    for reports in permutations(priced(*prices)):
        assert picked(reports) == expected


def test_of_a_signer_what_was_observed_last_is_picked_and_strangers_are_not() -> None:
    newer = [report(0, 201 * WAD, NOW_S + 11), *priced(200, 200, 200), report(0, 300 * WAD, NOW_S + 1)]
    assert picked(newer) == [200, 200, 201]
    assert picked([*priced(200, 200), report(9, 200 * WAD)]) is None


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({}, None),
        ({"observed_at_s": AT_S}, None),
        ({"observed_at_s": AT_S + 1}, "report.from_future"),
        ({"observed_at_s": AT_S - 15}, None),
        ({"observed_at_s": AT_S - 16}, "report.too_old"),
        ({"valid_until_s": AT_S}, None),
        ({"valid_until_s": AT_S - 1}, "report.past_validity"),
        ({"confidence_bps": 100}, None),
        ({"confidence_bps": 101}, "report.unconfident"),
        ({"price_wad": 0}, "report.no_price"),
    ],
)
def test_what_the_contract_would_refuse_is_left_out(changes: dict[str, Any], rule: str | None) -> None:
    changed = report(0, 200 * WAD)
    changed = replace(changed, observation=replace(changed.observation, **changes))
    reason = unusable(changed, VIEW, AT_S)
    assert (reason.rule if reason else None) == rule
    others = [report(number, 200 * WAD, changed.observation.observed_at_s) for number in (1, 2)]
    found = pick([changed, *others], QUORUM, VIEW, AT_S)
    assert (found is None) is (rule is not None)
    named = dict(unusable_among([changed], {"BTC/USD": VIEW}, AT_S))
    assert named == ({} if reason is None else {SIGNERS[0]: reason})


def test_what_is_posted_already_is_left_out_and_nothing_to_name() -> None:
    view = replace(VIEW, fast_observed_at_s=NOW_S + 10)
    reason = unusable(report(0, 200 * WAD), view, AT_S)
    assert reason is not None
    assert reason.rule == "report.not_newer"
    assert pick(priced(200, 200, 200), QUORUM, view, AT_S) is None
    assert dict(unusable_among(priced(200), {"BTC/USD": view}, AT_S)) == {}


def test_reports_of_different_times_do_not_go_together() -> None:
    old = [report(number, 200 * WAD, AT_S - 14) for number in (0, 1)]
    young = [report(number, 201 * WAD, AT_S - 2) for number in (2, 3, 4)]
    view = replace(VIEW, fast_observed_at_s=AT_S - 20)
    assert picked(old + young, view) == [201, 201, 201]
    assert picked(old + young[:2], view) is None


def test_a_liar_about_the_time_does_not_keep_the_others_out() -> None:
    honest = [report(number, 200 * WAD, AT_S - 11) for number in (0, 1, 2, 3)]
    assert picked([*honest, report(4, 200 * WAD, AT_S)]) == [200, 200, 200]
    honest = [report(number, 200 * WAD, AT_S - 1) for number in (0, 1, 2, 3)]
    assert picked([*honest, report(4, 200 * WAD, AT_S - 15)]) == [200, 200, 200]


prices_st = st.integers(190 * 1000, 210 * 1000).map(lambda thousandths: thousandths * WAD // 1000)
close_st = st.integers(198 * 1000, 202 * 1000).map(lambda thousandths: thousandths * WAD // 1000)
any_price_st = st.one_of(prices_st, st.integers(1, 2**128 - 1))


@given(
    honest=st.lists(prices_st, min_size=2, max_size=4),
    lie=any_price_st,
    times=st.lists(st.integers(AT_S - 17, AT_S + 2), min_size=5, max_size=5),
)
def test_one_liar_of_five_never_moves_the_median_out_of_the_honest_range(
    honest: list[Wad], lie: Wad, times: list[UnixS]
) -> None:
    reports = [report(i, price, times[i]) for i, price in enumerate(honest)]
    bundle = pick([*reports, report(4, lie, times[4])], QUORUM, VIEW, AT_S)
    assert bundle is None or min(honest) <= said_by(bundle).price_wad <= max(honest)


@given(honest=st.lists(close_st, min_size=3, max_size=3), lies=st.lists(any_price_st, min_size=2, max_size=2))
def test_where_all_are_heard_two_liars_move_it_by_no_more_than_the_honest_lie_apart(
    honest: list[Wad], lies: list[Wad]
) -> None:
    apart = max(honest) - min(honest)
    reports = [report(i, price) for i, price in enumerate([*honest, *lies])]
    bundle = pick(reports, QUORUM, VIEW, AT_S)
    assert bundle is not None
    assert min(honest) - apart <= said_by(bundle).price_wad <= max(honest) + apart


@given(honest=prices_st, lie=any_price_st)
def test_two_liars_and_one_honest_report_say_what_they_like_within_the_dispersion(
    honest: Wad, lie: Wad
) -> None:
    """What K = 3 of 5 does not withstand; docs/reporters.md says so."""
    bundle = pick([report(0, honest), report(1, lie), report(2, lie)], QUORUM, VIEW, AT_S)
    if abs(lie - honest) * BPS > MAX_DISPERSION_BPS * lie:
        assert bundle is None
    else:
        assert bundle is not None
        assert said_by(bundle).price_wad == lie
        assert honest * 9708 // BPS <= lie <= honest * 10310 // BPS


# --- what the oracle says then -------------------------------------------------------------------


def test_a_posted_bundle_is_its_median_as_old_as_its_oldest_report() -> None:
    bundle = (report(0, 203 * WAD, NOW_S + 3), report(1, 200 * WAD, NOW_S + 9), report(2, 201 * WAD))
    other = feed_view("ETH/USD", 1_500 * WAD)
    after = posted(OracleView({"BTC/USD": VIEW, "ETH/USD": other}), {"BTC/USD": bundle}, AT_S)
    assert after["BTC/USD"] == replace(VIEW, fast_wad=201 * WAD, fast_observed_at_s=NOW_S + 3)
    assert after["ETH/USD"] == other


def test_a_price_that_was_too_old_counts_again_once_it_is_posted_and_no_sequencer_is_woken() -> None:
    bundle = tuple(priced(201, 201, 201))
    aged = replace(VIEW, fast_ok=False, fast_observed_at_s=AT_S - 16)
    assert posted(OracleView({"BTC/USD": aged}), {"BTC/USD": bundle}, AT_S)["BTC/USD"].fast_fresh(AT_S)
    down = replace(VIEW, fast_ok=False, fast_observed_at_s=AT_S - 15)
    assert not posted(OracleView({"BTC/USD": down}), {"BTC/USD": bundle}, AT_S)["BTC/USD"].fast_fresh(AT_S)
