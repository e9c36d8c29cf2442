"""What stops the wallet: thrown from another process, outliving a restart, tripped by rule, read anew."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keeper.domain import Account, CaseEvent, EventKind, Head, Permit, Phase, Refuse, Rival, Step
from keeper.journal.db import Shared
from keeper.journal.guard import Limits, Standing
from keeper.journal.opening import to_switch
from keeper.journal.store import SqliteJournal
from keeper.journal.tape import of_standing, to_standing
from keeper.ports import Aftermath, Outcome, Switch, Thrown
from keeper.units import WAD

NOW_S = 1_000_000
FOUND = Account(bytes(32), Phase.HEALTHY, 0, (), ())
RICH = Limits(spend_day_wei=10**30)
JUMP = (Switch.JUMP, "ETH/USD")
Journals = Callable[..., SqliteJournal]
Asks = Callable[..., str]


@pytest.fixture
def asked(event: Callable[..., CaseEvent], step: Callable[..., Step], tx: dict[str, Any]) -> Asks:
    """Ask for a permit of a new account; return the rule that refuses it, or ``permit``."""
    cases = iter(range(1, 200))

    def _asked(journal: SqliteJournal, *markets: str, at_s: int = NOW_S, **terms: Any) -> str:
        case = next(cases)
        journal.record([event(case=case)])
        answer = journal.reserve(
            replace(step(case=case), **terms), tx, markets=markets, chain_nonce=0, block=at_s // 12, at_s=at_s
        )
        return "permit" if isinstance(answer, Permit) else answer.reason.rule

    return _asked


def test_a_halt_of_another_process_holds_at_the_next_grant_and_over_a_restart(
    open_journal: Journals, asked: Asks, place: Path | Shared
) -> None:
    journal = open_journal(RICH)
    assert asked(journal) == "permit"
    with closing(to_switch(place, RICH)) as other:
        other.throw(Switch.HALT, "", on=True, who="command of user 7", why="exploit")
    assert asked(journal) == "limit.halted"
    journal.close()
    again = open_journal(RICH)
    assert asked(again) == "limit.halted"
    assert [each.told for each in again.thrown()] == ["by command of user 7: exploit"]
    again.throw(Switch.HALT, "", on=False, who="SIGUSR2")
    assert asked(again) == "permit"
    assert again.thrown() == ()


def test_a_pause_is_of_one_market_until_that_is_unpaused(journal: SqliteJournal, asked: Asks) -> None:
    for market in ("ETH/USD", "BTC/USD"):
        journal.throw(Switch.PAUSE, market, on=True, who="a test")
    journal.throw(Switch.PAUSE, "BTC/USD", on=False, who="a test")
    assert asked(journal, "BTC/USD", "ETH/USD") == "limit.paused"
    assert asked(journal, "BTC/USD") == "permit"


def test_what_says_of_no_market_hangs_on_what_it_takes(journal: SqliteJournal, asked: Asks) -> None:
    journal.throw(Switch.PAUSE, "ETH/USD", on=True, who="a test")
    assert asked(journal, takes=(("ETH/USD", WAD),)) == "limit.paused"


def test_a_file_halts_while_it_exists(open_journal: Journals, asked: Asks, tmp_path: Path) -> None:
    file = tmp_path / "halt"
    journal = open_journal(replace(RICH, kill_file=file))
    assert asked(journal) == "permit"
    file.touch()
    assert asked(journal) == "limit.halted"
    assert [each.who for each in journal.thrown()] == ["file"]
    file.unlink()
    assert asked(journal) == "permit"


def test_a_link_to_nowhere_and_a_place_that_cannot_be_looked_at_halt_too(
    open_journal: Journals, asked: Asks, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "plain").touch()
    for place in ("link", "plain/halt"):
        assert asked(open_journal(replace(RICH, kill_file=tmp_path / place))) == "limit.halted"


def test_a_breaker_trips_at_its_bound_and_closes_by_itself(open_journal: Journals, asked: Asks) -> None:
    limits = replace(RICH, breakers={"jump": 0.5}, breaker_rest_s=100)
    journal = open_journal(limits)
    assert journal.watch({JUMP: 0.4999}, NOW_S) == ()
    [tripped] = journal.watch({JUMP: 0.5}, NOW_S)
    assert (tripped.subject, tripped.who, tripped.why) == ("ETH/USD", "rule", "0.5, bound 0.5")
    taking: dict[str, Any] = {"takes": (("ETH/USD", WAD),)}
    journal.close()
    again = open_journal(limits)
    assert [each.name for each in again.watch({JUMP: 0.1}, NOW_S + 99)] == ["jump ETH/USD"]
    assert asked(again, at_s=NOW_S + 99, **taking) == "permit", "an alarm takes nothing"
    assert again.watch({JUMP: 0.1}, NOW_S + 100) == ()


def test_a_breaker_holds_for_as_long_as_its_figure_does(open_journal: Journals) -> None:
    journal = open_journal(replace(RICH, breakers={"jump": 0.5}, breaker_rest_s=100))
    for at_s in range(NOW_S, NOW_S + 301, 10):
        assert journal.watch({JUMP: 0.7}, at_s)
    assert journal.watch({JUMP: 0.1}, NOW_S + 349)
    assert len(journal.switched(100)) == 6, "at every sixth head, and not at each"


def test_a_breaker_that_is_reset_stays_closed_while_its_figure_is_low(open_journal: Journals) -> None:
    journal = open_journal(RICH)
    assert journal.watch({JUMP: 0.9}, NOW_S)
    journal.throw(*JUMP, on=False, who="a test")
    assert journal.watch({JUMP: 0.4}, NOW_S + 12) == ()
    assert journal.watch({JUMP: 0.9}, NOW_S + 24)


def test_a_breaker_without_a_bound_never_trips(open_journal: Journals) -> None:
    journal = open_journal(replace(RICH, breakers={}))
    assert journal.watch({JUMP: 1e9, (Switch.DIVERGENCE, ""): 1e9}, NOW_S) == ()


def test_so_many_reverts_stop_everything_and_the_next_ones_count_anew(
    open_journal: Journals, event: Callable[..., CaseEvent], step: Callable[..., Step], tx: dict[str, Any]
) -> None:
    journal = open_journal(replace(RICH, breakers={"reverts": 0.75}, breaker_rest_s=100))

    def mined(case: int, kind: EventKind, at_s: int, lost_to: Rival | None = None) -> None:
        journal.record([event(case=case)])
        wanted = replace(step(case=case), notional_wad=WAD)
        permit = journal.reserve(wanted, tx, chain_nonce=0, block=case, at_s=at_s)
        assert isinstance(permit, Permit), permit
        journal.sign(permit.step_id, b"raw%d" % case, f"0x{case}")
        journal.sent(permit.step_id, block=case, at_s=at_s)
        aftermath = Aftermath(lost_to=lost_to)
        journal.settle(permit.step_id, Outcome(kind, case, "0xb", 1), at_s=at_s, aftermath=aftermath)

    mined(1, EventKind.INCLUDED, NOW_S)
    for case in range(2, 8):
        mined(case, EventKind.REVERTED, NOW_S)
    assert journal.watch({}, NOW_S) == (), "seven are too few"
    for case in range(10, 20):
        mined(case, EventKind.REVERTED, NOW_S, lost_to=Rival("Tranche", "0xaa", case))
    assert journal.watch({}, NOW_S) == (), "a race that was lost is no fault of ours"
    mined(8, EventKind.INCLUDED, NOW_S)
    [tripped] = journal.watch({}, NOW_S)
    assert (tripped.switch, tripped.why) == (Switch.REVERTS, "0.75, bound 0.75")
    journal.record([event(case=9)])
    refused = journal.reserve(step(case=9), tx, chain_nonce=0, block=9, at_s=NOW_S + 99)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "limit.breaker"
    assert journal.watch({}, NOW_S + 100) == (), "those of before do not count twice"


def test_what_the_mirror_had_otherwise_trips_a_breaker_until_all_was_found_the_same(
    open_journal: Journals, head: Callable[[int], Head]
) -> None:
    journal = open_journal(replace(RICH, breakers={"drift": 3}, breaker_rest_s=10))
    for _ in range(2):
        journal.note_difference(head(5), FOUND, FOUND)
    assert journal.watch({}, NOW_S) == ()
    journal.note_difference(head(5), FOUND, FOUND)
    assert [each.name for each in journal.watch({}, NOW_S)] == ["drift"]
    journal.note_healed()
    assert journal.watch({}, NOW_S + 10) == ()


def test_limits_that_are_read_anew_hold_from_the_next_grant_on_and_are_journaled(
    open_journal: Journals, asked: Asks
) -> None:
    journal = open_journal(RICH)
    assert asked(journal) == "permit"
    other = replace(RICH, spend_day_wei=5, attempts_hour=7)
    journal.reload(other, "SIGHUP", RICH.changes(other))
    assert asked(journal) == "limit.spend_day"
    assert journal.limits == other
    [(told, _)] = journal.switched(9)
    assert (told.switch, told.who) == (Switch.LIMITS, "SIGHUP")
    assert told.why == f"spend_day_wei {10**30} -> 5, attempts_hour 60 -> 7"


def test_limits_in_the_settings_halt_too(open_journal: Journals) -> None:
    journal = open_journal(Limits(halted=True))
    assert [each.who for each in journal.thrown()] == ["settings"]


def test_the_tape_gives_back_what_a_grant_went_by() -> None:
    thrown = Thrown(Switch.JUMP, "ETH/USD", "rule", "0.6, bound 0.5", NOW_S, NOW_S + 600)
    limits = Limits(
        spend_day_wei=10**30,
        accounts_deny=frozenset({"0x" + "ab" * 20}),
        inventory_wad={"ETH/USD": 10**30},
        breakers={"drift": 3.0},
    )
    for standing in (Standing(), Standing((thrown,)), Standing((thrown, thrown), limits)):
        assert to_standing(of_standing(standing)) == standing


def test_what_each_grant_goes_by_passes_through_the_tape(open_journal: Journals, asked: Asks) -> None:
    journal, seen = open_journal(RICH), list[Standing]()
    halted = Standing((Thrown(Switch.HALT, "", "a tape", "", NOW_S),))

    def told(standing: Standing) -> Standing:
        seen.append(standing)
        return halted

    journal.go_by(told)
    assert asked(journal) == "limit.halted"
    assert seen == [Standing()]
