"""What counts as agreement of the slow oracle, rule by rule."""

from dataclasses import replace

import pytest

from keeper.confirm.hybrid import confirm_alarm, confirm_slice, contradicted, has_slow_evidence
from keeper.domain import (
    Account,
    Agree,
    Assessment,
    ChainTime,
    FeedView,
    FlagState,
    Leg,
    OracleView,
    Phase,
    Refuse,
    Valuation,
    Wait,
)
from keeper.units import WAD

FLAGGED_AT = 1_000_000
BREACHED = Valuation(900 * WAD, 1000 * WAD, 20_000 * WAD)
HEALTHY = Valuation(1200 * WAD, 1000 * WAD, 20_000 * WAD)


def feed(**changes: object) -> FeedView:
    """Both prices at 200, observed 20 s after the flag."""
    view = FeedView(
        feed="ETH/USD",
        fast_wad=200 * WAD,
        fast_observed_at_s=FLAGGED_AT + 20,
        fast_max_age_s=15,
        slow_wad=200 * WAD,
        slow_updated_at_s=FLAGGED_AT + 10,
        slow_ok=True,
        slow_deviation_wad=WAD // 100,
        slow_heartbeat_s=3600,
        min_delay_s=12,
    )
    return replace(view, **changes)  # type: ignore[arg-type]


def of(view: FeedView) -> OracleView:
    return OracleView(feeds={view.feed: view})


def silent(**changes: object) -> FeedView:
    """The same feed, but that its fast price was last heard of ten minutes before it is asked."""
    return feed(fast_wad=150 * WAD, fast_observed_at_s=FLAGGED_AT - 576, **changes)


def flagged(**changes: object) -> Assessment:
    """An account in breach at all three prices, 24 s and two blocks after its flag."""
    account = Account(
        key=bytes(32),
        phase=Phase.FLAGGED,
        cash_wad=0,
        legs=(Leg(1, 100 * WAD, -21_000 * WAD),),
        holdings=(),
        flag=FlagState(flagged_at_s=FLAGGED_AT, flagged_block=100),
    )
    case = Assessment(
        account=account,
        at=ChainTime(102, FLAGGED_AT + 24),
        fast=BREACHED,
        slow=BREACHED,
        execution=BREACHED,
        feeds=("ETH/USD",),
        fresh=True,
        flag_level_wad=WAD,
        tau_s=24,
        since_confirmation_s=0,
        q_wad=WAD,
        fee_wad=5 * 10**15,
        closeable_wad=WAD // 8,
        step_room_wad=WAD // 5,
    )
    return replace(case, **changes)  # type: ignore[arg-type]


def test_a_breach_that_both_clocks_show_is_agreed() -> None:
    assert isinstance(confirm_alarm(flagged(), of(feed())), Agree)


@pytest.mark.parametrize(
    ("case", "oracle", "rule", "until_block"),
    [
        (flagged(at=ChainTime(101, FLAGGED_AT + 24)), feed(), "confirm.min_blocks", 102),
        (flagged(fresh=False), feed(), "oracle.stale", 103),
        (flagged(), feed(min_delay_s=60), "confirm.min_delay", 105),
        (flagged(), feed(fast_observed_at_s=FLAGGED_AT + 5), "confirm.fast_evidence", 103),
        (
            flagged(),
            feed(slow_updated_at_s=FLAGGED_AT - 1, slow_wad=203 * WAD),
            "confirm.slow_evidence",
            103,
        ),
        (flagged(), feed(slow_updated_at_s=FLAGGED_AT - 3600), "confirm.slow_evidence", 103),
        (flagged(slow=HEALTHY), feed(), "confirm.no_breach_at_slow", 103),
        (flagged(fast=HEALTHY), feed(), "confirm.no_breach_at_fast", 103),
        (flagged(execution=HEALTHY), feed(), "confirm.no_breach_at_execution", 103),
        (flagged(arrays_silent=True), feed(), "array.silent", 103),
        (flagged(breaker_level=2), feed(), "breaker.level", 103),
        (flagged(fresh=False, slow_only=True), silent(min_delay_s=13), "confirm.min_delay", 103),
        (
            flagged(fresh=False, slow_only=True),
            silent(slow_updated_at_s=FLAGGED_AT - 1),
            "confirm.slow_evidence",
            103,
        ),
    ],
)
def test_missing_evidence_waits_and_names_the_rule(
    case: Assessment, oracle: FeedView, rule: str, until_block: int
) -> None:
    verdict = confirm_alarm(case, of(oracle))
    assert isinstance(verdict, Wait)
    assert (verdict.reason.rule, verdict.until_block) == (rule, until_block)


def test_the_slow_oracle_alone_confirms_after_twice_the_delay_on_a_new_round() -> None:
    case = flagged(fresh=False, slow_only=True)
    assert isinstance(confirm_alarm(case, of(silent())), Agree)
    # Its fast price, 25% away and old, neither counts as evidence nor contradicts any.
    assert not has_slow_evidence(
        silent(slow_updated_at_s=FLAGGED_AT - 1, slow_wad=150 * WAD),
        since_s=FLAGGED_AT,
        now_s=FLAGGED_AT + 24,
    )


def test_the_first_breaker_level_holds_nothing_up() -> None:
    assert isinstance(confirm_alarm(flagged(breaker_level=1), of(feed())), Agree)


def test_a_slice_waits_for_the_breaker_for_prices_and_for_arrays() -> None:
    for changes, rule in (
        ({"slices_halted": True, "breaker_level": 3}, "breaker.level"),
        ({"fresh": False}, "oracle.stale"),
        ({"arrays_silent": True}, "array.silent"),
    ):
        verdict = confirm_slice(flagged(**changes))
        assert isinstance(verdict, Wait)
        assert verdict.reason.rule == rule
    assert isinstance(confirm_slice(flagged(breaker_level=3)), Agree)
    assert isinstance(confirm_slice(flagged(fresh=False, slow_only=True)), Agree)


def test_an_old_round_within_heartbeat_and_deviation_is_evidence() -> None:
    old = feed(slow_updated_at_s=FLAGGED_AT - 100, fast_wad=199 * WAD)
    assert has_slow_evidence(old, since_s=FLAGGED_AT, now_s=FLAGGED_AT + 24)
    assert isinstance(confirm_alarm(flagged(), of(old)), Agree)


def test_prices_too_far_apart_are_refused_with_evidence_and_bound() -> None:
    verdict = confirm_alarm(flagged(), of(feed(fast_wad=130 * WAD)))
    assert isinstance(verdict, Refuse)
    assert verdict.reason.rule == "oracle.divergent"
    assert "35.00%" in verdict.reason.evidence
    assert "30.00%" in verdict.reason.bound


@pytest.mark.parametrize("vector", ["fast", "slow", "execution"])
def test_a_slice_needs_the_breach_at_every_price(vector: str) -> None:
    assert isinstance(confirm_slice(flagged()), Agree)
    verdict = confirm_slice(flagged(**{vector: HEALTHY}))
    assert isinstance(verdict, Wait)
    assert verdict.reason.rule == f"slope.no_breach_at_{vector}"


def test_decay_keeps_an_account_above_maintenance_in_breach() -> None:
    barely = Valuation(1050 * WAD, 1000 * WAD, 20_000 * WAD)
    case = flagged(fast=barely, slow=barely, execution=barely)
    assert isinstance(confirm_slice(case), Wait)
    assert isinstance(confirm_slice(replace(case, q_wad=9 * WAD // 10)), Agree)


def test_decay_never_improves_negative_equity() -> None:
    broke = Valuation(-(10**18), 0, 0)
    assert broke.breaches_scaled(WAD // 2)
    assert not Valuation(0, 0, 0).breaches_scaled(WAD)


def with_flag(case: Assessment, **changes: object) -> Assessment:
    flag = replace(case.account.flag, **changes)  # type: ignore[arg-type]
    return replace(case, account=replace(case.account, flag=flag))


@pytest.mark.parametrize(
    ("case", "oracle", "expected"),
    [
        (flagged(fast=HEALTHY, slow=HEALTHY), feed(), True),
        (flagged(fast=HEALTHY), feed(), False),
        (flagged(slow=HEALTHY), feed(), False),
        (flagged(fast=HEALTHY, slow=HEALTHY, fresh=False), feed(), False),
        (flagged(fast=HEALTHY, slow=HEALTHY), feed(fast_observed_at_s=FLAGGED_AT), False),
        (flagged(fast=HEALTHY, slow=HEALTHY), feed(slow_updated_at_s=0), False),
        (with_flag(flagged(fast=HEALTHY, slow=HEALTHY), aid_wad=200 * WAD), feed(), True),
        (with_flag(flagged(fast=HEALTHY, slow=HEALTHY), aid_wad=200 * WAD + 1), feed(), False),
        (with_flag(flagged(fast=HEALTHY, slow=HEALTHY), reduced=True), feed(), False),
        (flagged(fast=HEALTHY, slow=HEALTHY, arrays_silent=True), feed(), False),
        (flagged(fast=HEALTHY, slow=HEALTHY, fresh=False, slow_only=True), silent(), True),
        (
            flagged(fast=HEALTHY, slow=HEALTHY, fresh=False, slow_only=True),
            silent(slow_updated_at_s=FLAGGED_AT),
            False,
        ),
    ],
)
def test_an_alarm_is_contradicted_only_by_both_oracles_and_without_help(
    case: Assessment, oracle: FeedView, expected: bool
) -> None:
    assert contradicted(case, of(oracle)) is expected
