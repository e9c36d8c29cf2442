"""What the journal keeps of a step's terms, and what it tells the next one by them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from keeper.domain import CaseEvent, Economics, EventKind, Permit, Reason, Refuse, Seen, Step
from keeper.journal.guard import Limits
from keeper.journal.store import ODDS_OF, StoredJournal
from keeper.ports import Outcome
from keeper.units import WAD

NOW_S = 1_000_000
ETH = "ETH/USD"
Journals = Callable[..., StoredJournal]
Events = Callable[..., CaseEvent]
Steps = Callable[..., Step]


def reserve(journal: StoredJournal, step: Step, tx: dict[str, Any], at_s: int = NOW_S) -> Permit | Refuse:
    return journal.reserve(step, tx, chain_nonce=0, block=at_s // 12, at_s=at_s)


def granted(journal: StoredJournal, step: Step, tx: dict[str, Any], at_s: int = NOW_S) -> Permit:
    found = reserve(journal, step, tx, at_s)
    assert isinstance(found, Permit), found
    return found


def settle(journal: StoredJournal, permit: Permit, kind: EventKind, at_s: int = NOW_S) -> None:
    journal.sign(permit.step_id, b"raw", f"0x{permit.nonce}")
    journal.sent(permit.step_id, block=at_s // 12, at_s=at_s)
    journal.settle(permit.step_id, Outcome(kind, at_s // 12, "0xb", 1), at_s=at_s)


def test_all_accounts_share_what_a_market_takes_within_a_minute(
    open_journal: Journals, event: Events, step: Steps, tx: dict[str, Any]
) -> None:
    journal = open_journal(Limits(spend_day_wei=10**30, depth_minute_wad={ETH: 100 * WAD}))
    journal.record([event(case=number) for number in (1, 2, 3)])
    granted(journal, replace(step(), takes=((ETH, 60 * WAD),)), tx)
    other = replace(step(case=2), takes=((ETH, -40 * WAD - 1),))
    refused = reserve(journal, other, tx, NOW_S + 59)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "limit.depth_minute"
    assert journal.record_at(NOW_S + 59).moved_wad == {ETH: 60 * WAD}
    assert journal.record_at(NOW_S + 60).moved_wad == {}
    granted(journal, replace(other, takes=((ETH, -40 * WAD),)), tx, NOW_S + 59)
    granted(journal, replace(step(case=3), takes=((ETH, 60 * WAD),)), tx, NOW_S + 60)


def test_what_was_taken_at_a_later_time_counts_when_a_reorg_has_set_the_clock_back(
    open_journal: Journals, event: Events, step: Steps, tx: dict[str, Any]
) -> None:
    journal = open_journal(Limits(spend_day_wei=10**30, depth_minute_wad={ETH: 100 * WAD}))
    journal.record([event(case=number) for number in (1, 2)])
    granted(journal, replace(step(), takes=((ETH, 60 * WAD),)), tx, NOW_S + 12)
    refused = reserve(journal, replace(step(case=2), takes=((ETH, 60 * WAD),)), tx, NOW_S)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "limit.depth_minute"


@pytest.mark.parametrize(("kind", "moved"), [(EventKind.INCLUDED, 60), (EventKind.REVERTED, 0)])
def test_what_a_reverted_step_would_have_taken_is_free_again(
    open_journal: Journals, event: Events, step: Steps, tx: dict[str, Any], kind: EventKind, moved: int
) -> None:
    journal = open_journal()
    journal.record([event()])
    permit = granted(journal, replace(step(), takes=((ETH, -60 * WAD),)), tx)
    settle(journal, permit, kind)
    assert journal.record_at(NOW_S).moved_wad == ({ETH: moved * WAD} if moved else {})


def test_losses_of_a_day_are_booked_with_the_permit_and_outlive_a_restart(
    open_journal: Journals, event: Events, step: Steps, tx: dict[str, Any]
) -> None:
    limits = Limits(spend_day_wei=10**30, solvency_day_wad=30 * WAD)
    journal = open_journal(limits)
    journal.record([event(case=number) for number in (1, 2)])
    first = granted(journal, replace(step(), loss_wad=20 * WAD), tx)
    settle(journal, first, EventKind.REVERTED)
    journal.close()
    again = open_journal(limits)
    refused = reserve(again, replace(step(case=2), loss_wad=10 * WAD + 1), tx, NOW_S + 86_399)
    assert isinstance(refused, Refuse)
    assert refused.reason == Reason(
        "limit.solvency_day",
        f"{20 * WAD} wad lost in 24 h and {10 * WAD + 1} wad by this step",
        f"{30 * WAD} wad",
    )
    granted(again, replace(step(case=2), loss_wad=10 * WAD), tx, NOW_S + 86_399)


def test_a_loss_of_an_abandoned_step_is_none(
    open_journal: Journals, event: Events, step: Steps, tx: dict[str, Any]
) -> None:
    journal = open_journal(Limits(spend_day_wei=10**30, solvency_day_wad=30 * WAD))
    journal.record([event(case=number) for number in (1, 2)])
    first = granted(journal, replace(step(), loss_wad=30 * WAD), tx)
    journal.abandon(first.step_id, Reason("send.refused", "no", "yes"), block=1, at_s=NOW_S)
    granted(journal, replace(step(case=2), loss_wad=30 * WAD), tx)


def test_the_chance_of_a_kind_is_that_of_its_last_steps_and_what_was_presumed(
    open_journal: Journals, event: Events, step: Steps, tx: dict[str, Any]
) -> None:
    journal = open_journal(Limits(spend_day_wei=10**30, attempts_hour=10**6, backoff_s=0))
    assert journal.record_at(NOW_S).won_wad == {}
    assert journal.record_at(NOW_S).presumed_wad == 9 * WAD // 10
    kinds = [EventKind.REVERTED, EventKind.DISPLACED, EventKind.INCLUDED]
    journal.record([event(case=number) for number in (1, 2, 3)])
    for number, kind in enumerate(kinds):
        settle(journal, granted(journal, step(case=1 + number), tx), kind)
    assert journal.record_at(NOW_S).won_wad == {"flag": 10 * WAD // 13}
    assert ODDS_OF == 50


def test_whom_an_included_step_should_have_restored_is_known_for_a_while(
    open_journal: Journals, event: Events, step: Steps, tx: dict[str, Any]
) -> None:
    journal = open_journal(Limits(spend_day_wei=10**30))
    journal.record([event(case=number) for number in (1, 2, 3)])
    ends = 97 * WAD // 100
    settle(journal, granted(journal, replace(step(), ends_at_wad=ends), tx), EventKind.INCLUDED)
    settle(journal, granted(journal, replace(step(case=2), ends_at_wad=ends), tx), EventKind.REVERTED)
    settle(journal, granted(journal, step(case=3), tx), EventKind.INCLUDED)
    assert journal.closed_since(NOW_S - 1) == {bytes([1]) * 32: Seen(NOW_S, ends)}
    assert journal.closed_since(NOW_S) == {}


def test_of_several_restorations_the_last_time_and_the_best_health_count(
    open_journal: Journals, event: Events, step: Steps, tx: dict[str, Any]
) -> None:
    journal = open_journal(Limits(spend_day_wei=10**30))
    journal.record([event()])
    for number, cents in enumerate((98, 99, 97)):
        at_s, restoring = NOW_S + 12 * number, replace(step(), ends_at_wad=cents * WAD // 100)
        settle(journal, granted(journal, restoring, tx, at_s), EventKind.INCLUDED, at_s)
        journal.record([event()])
    assert journal.closed_since(NOW_S - 1) == {bytes([1]) * 32: Seen(NOW_S + 24, 99 * WAD // 100)}


def test_the_first_suspicion_of_a_case_is_told_with_its_health(journal: StoredJournal, event: Events) -> None:
    assert journal.alarm("case1") is None
    journal.record([event(health=0.5), event(health=0.25)])
    assert journal.alarm("case1") == Seen(1_200, WAD // 2)
    journal.record([event(case=2)])
    assert journal.alarm("case2") is None


def test_the_permit_says_what_the_step_rests_on(
    journal: StoredJournal, event: Events, step: Steps, tx: dict[str, Any]
) -> None:
    journal.record([event()])
    bound = Reason("size.depth", "much", "little")
    economics = Economics(3 * WAD, WAD, WAD, 2 * WAD)
    granted(journal, replace(step(), bounds=(bound,), economics=economics, loss_wad=0), tx)
    told = journal.history("case1")[-1].data
    assert told["bounds"] == [{"rule": "size.depth", "evidence": "much", "bound": "little", "feed": ""}]
    assert told["economics"]["income_wad"] == 3 * WAD
    assert "loss_wad" not in told
