"""What earlier steps add up to, whatever became of them."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keeper.domain import QUOTE, Booking, CaseEvent, Economics, EventKind, Flag, Permit, Reason, Refuse, Step
from keeper.journal import tally
from keeper.journal.guard import EACH, Limits
from keeper.journal.store import SqliteJournal
from keeper.journal.tally import GWEI, Inventory, Sums
from keeper.ports import Aftermath, Measure, Outcome, Switch
from keeper.units import WAD, UnixS
from tests.unit.journal.conftest import on_sqlite

NOW_S = 1_000_000
ETH = "ETH/USD"
OLD = Path(__file__).parents[2] / "golden" / "journal-v1.sqlite.gz"
RICH = Limits(spend_day_wei=10**30)
Journals = Callable[..., SqliteJournal]
Grants = Callable[..., Permit]


@pytest.fixture
def grant(event: Callable[..., CaseEvent], step: Callable[..., Step], tx: dict[str, Any]) -> Grants:
    cases = iter(range(1, 200))

    def _grant(journal: SqliteJournal, *, at_s: int = NOW_S, **terms: Any) -> Permit:
        case = next(cases)
        journal.record([event(case=case)])
        wanted = replace(step(case=case), **terms)
        found = journal.reserve(wanted, tx, chain_nonce=0, block=at_s // 12, at_s=at_s)
        assert isinstance(found, Permit), found
        return found

    return _grant


def end(
    journal: SqliteJournal,
    permit: Permit,
    kind: EventKind,
    cost_wei: int = 1,
    booking: Booking | None = None,
    at_s: UnixS = NOW_S,
) -> None:
    journal.sign(permit.step_id, b"raw", f"0x{permit.nonce}")
    journal.sent(permit.step_id, block=1, at_s=at_s)
    outcome = Outcome(kind, 1, "0xb", cost_wei)
    journal.settle(permit.step_id, outcome, at_s=at_s, aftermath=Aftermath(booking))


LOSSES = {
    None: 4,
    EventKind.INCLUDED: 3,
    EventKind.REVERTED: 4,
    EventKind.DISPLACED: 0,
    EventKind.ABANDONED: 0,
}


@pytest.mark.parametrize(("kind", "lost"), LOSSES.items(), ids=map(str, LOSSES))
def test_a_loss_is_the_most_it_may_be_until_the_step_is_included(
    journal: SqliteJournal, grant: Grants, kind: EventKind | None, lost: int
) -> None:
    economics = Economics(2 * WAD, 0, 3 * WAD, 4 * WAD)
    permit = grant(journal, expected_profit_wad=-3 * WAD, economics=economics)
    if kind is EventKind.ABANDONED:
        journal.abandon(permit.step_id, Reason("test", "", ""), block=1, at_s=NOW_S)
    elif kind is not None:
        end(journal, permit, kind)
    assert tally.sums(journal._db, NOW_S - 1).loss_wad == lost * WAD


BOOKED = {
    "lost": (EventKind.INCLUDED, Booking((), -5 * WAD, gas_wad=WAD), 6),
    "earned": (EventKind.INCLUDED, Booking((), 5 * WAD, gas_wad=WAD), 0),
    "a revert": (EventKind.REVERTED, Booking((), 0, gas_wad=WAD), 1),
    "a cancel": (EventKind.DISPLACED, Booking((), 0, gas_wad=2 * WAD), 2),
    "worth unknown": (EventKind.INCLUDED, Booking((), None, gas_wad=WAD), 3),
    "gas unknown": (EventKind.INCLUDED, Booking((), 5 * WAD), 3),
    "worth of a revert unknown": (EventKind.REVERTED, Booking((), None, gas_wad=WAD), 4),
}


@pytest.mark.parametrize(
    ("cost_wei", "gwei"),
    [
        (0, 0),
        (1, 1),
        (GWEI - 1, 1),
        (GWEI, 1),
        (GWEI + 1, 2),
        (40 * WAD, 40 * GWEI),
        (40 * WAD + 1, 40 * GWEI + 1),
    ],
)
def test_what_a_step_has_cost_counts_in_whole_gwei_however_much_it_is(
    journal: SqliteJournal, grant: Grants, cost_wei: int, gwei: int
) -> None:
    end(journal, grant(journal), EventKind.INCLUDED, cost_wei)
    assert tally.sums(journal._db, NOW_S - 1).spent_wei == gwei * GWEI


@pytest.mark.parametrize(("kind", "booking", "lost"), BOOKED.values(), ids=BOOKED)
def test_what_was_booked_takes_the_place_of_what_was_expected_until_a_reorg(
    journal: SqliteJournal, grant: Grants, kind: EventKind, booking: Booking, lost: int
) -> None:
    permit = grant(journal, expected_profit_wad=-3 * WAD, economics=Economics(2 * WAD, 0, 3 * WAD, 4 * WAD))
    end(journal, permit, kind, booking=booking)
    assert tally.sums(journal._db, NOW_S - 1).loss_wad == lost * WAD
    journal.unsettle(permit.step_id, block=2, at_s=NOW_S)
    assert tally.sums(journal._db, NOW_S - 1).loss_wad == 4 * WAD
    journal.settle(permit.step_id, Outcome(EventKind.INCLUDED, 2, "0xb2", 1), at_s=NOW_S)
    assert tally.sums(journal._db, NOW_S - 1).loss_wad == 3 * WAD, "nobody has booked it anew"


def test_losses_on_accounts_kept_solvent_are_those_that_were_booked(
    journal: SqliteJournal, grant: Grants
) -> None:
    journal._limits = replace(RICH, solvency_day_wad=100 * WAD)
    first, second = (grant(journal, loss_wad=8 * WAD) for _ in range(2))
    assert tally.kept_solvent_wad(journal._db, NOW_S) == 16 * WAD
    end(journal, first, EventKind.INCLUDED, booking=Booking((), -2 * WAD, gas_wad=WAD))
    end(journal, second, EventKind.INCLUDED, booking=Booking((), 2 * WAD, gas_wad=WAD))
    assert tally.kept_solvent_wad(journal._db, NOW_S) == 3 * WAD
    journal.unsettle(first.step_id, block=2, at_s=NOW_S)
    assert tally.kept_solvent_wad(journal._db, NOW_S) == 8 * WAD


HELD = {
    "parts of it": (Booking((), 0, ((ETH, 5 * WAD), ("BTC/USD", -2 * WAD))), 5, -2),
    "one of them": (Booking((), 0, ((ETH, 5 * WAD),)), 5, -4),
    "half of the slice": (Booking((), 0, sliced_wad=15 * WAD), 4, -2),
    "more than the slice": (Booking((), 0, sliced_wad=60 * WAD), 16, -8),
    "a reward alone": (Booking(((QUOTE, WAD),), WAD, ((QUOTE, WAD),)), 8, -4),
}


@pytest.mark.parametrize(("booking", "ether", "bitcoin"), HELD.values(), ids=HELD)
def test_inventory_is_what_was_booked_until_a_reorg(
    journal: SqliteJournal, grant: Grants, booking: Booking, ether: int, bitcoin: int
) -> None:
    permit = grant(journal, notional_wad=30 * WAD, takes=((ETH, 8 * WAD), ("BTC/USD", -4 * WAD)))
    end(journal, permit, EventKind.INCLUDED, booking=booking)
    assert tally.inventory(journal._db, ETH) == Inventory(ether * WAD)
    assert tally.inventory(journal._db, "BTC/USD") == Inventory(bitcoin * WAD)
    journal.unsettle(permit.step_id, block=2, at_s=NOW_S)
    assert tally.inventory(journal._db, ETH) == Inventory(0, 8 * WAD, 0)
    end_again = Outcome(EventKind.REVERTED, 2, "0xb2", 1)
    journal.settle(permit.step_id, end_again, at_s=NOW_S, aftermath=Aftermath(Booking((), 0)))
    assert tally.inventory(journal._db, ETH) == Inventory()


def test_what_is_in_flight_counts_whenever_it_was_reserved(journal: SqliteJournal, grant: Grants) -> None:
    permit = grant(journal, notional_wad=5 * WAD)
    most_wei = 3 * 10**15
    later_s = NOW_S + 10**6
    assert tally.sums(journal._db, later_s) == Sums(most_wei, 5 * WAD, 0)
    end(journal, permit, EventKind.INCLUDED, 10**15 + 1)
    assert tally.sums(journal._db, later_s) == Sums()
    assert tally.sums(journal._db, NOW_S - 1) == Sums(10**15 + GWEI, 5 * WAD, 0)
    journal.unsettle(permit.step_id, block=2, at_s=NOW_S)
    assert tally.sums(journal._db, later_s) == Sums(most_wei, 5 * WAD, 0)


def test_what_waited_for_hours_counts_from_when_its_outcome_was_seen(
    journal: SqliteJournal, grant: Grants
) -> None:
    permit, late_s = grant(journal, notional_wad=5 * WAD), NOW_S + 9_000
    journal.sign(permit.step_id, b"raw", f"0x{permit.nonce}")
    journal.sent(permit.step_id, block=1, at_s=NOW_S)
    journal.settle(permit.step_id, Outcome(EventKind.INCLUDED, 750, "0xb", 10**15), at_s=late_s)
    assert tally.sums(journal._db, late_s - tally.HOUR_S) == Sums(10**15, 5 * WAD, 0)
    assert tally.sums(journal._db, late_s) == Sums()


@pytest.mark.parametrize("kind", LOSSES, ids=map(str, LOSSES))
def test_hour_and_day_are_what_the_sums_of_each_say(
    open_journal: Journals, grant: Grants, kind: EventKind | None
) -> None:
    journal = open_journal(replace(RICH, in_flight=1_000))
    economics = Economics(2 * WAD, 0, 3 * WAD, 4 * WAD)
    ages_s = (0, 1, tally.HOUR_S - 1, tally.HOUR_S, tally.HOUR_S + 1, tally.DAY_S - 1, tally.DAY_S, 10**6 - 1)
    for number, age_s in enumerate(ages_s):
        terms: dict[str, Any] = {"notional_wad": 10**number * WAD, "expected_profit_wad": -number * WAD}
        permit = grant(journal, at_s=NOW_S - age_s, economics=economics, **terms)
        if kind is EventKind.ABANDONED:
            journal.abandon(permit.step_id, Reason("test", "", ""), block=1, at_s=NOW_S - age_s)
        elif kind is not None:
            journal.sign(permit.step_id, b"raw", f"0x{number}")
            journal.sent(permit.step_id, block=1, at_s=NOW_S - age_s)
            journal.settle(permit.step_id, Outcome(kind, 1, "0xb", 10**9 * (number + 1)), at_s=NOW_S - age_s)
    for at_s in (NOW_S, NOW_S + 1, NOW_S + tally.HOUR_S, NOW_S + tally.DAY_S):
        apart = tally.sums(journal._db, at_s - tally.HOUR_S), tally.sums(journal._db, at_s - tally.DAY_S)
        assert tally.hour_and_day(journal._db, at_s) == apart


def test_what_was_taken_over_is_held_until_it_is_sold(journal: SqliteJournal, grant: Grants) -> None:
    end(journal, grant(journal, takes=((ETH, 9 * WAD), ("BTC/USD", -WAD))), EventKind.INCLUDED)
    end(journal, grant(journal, takes=((ETH, 7 * WAD),)), EventKind.REVERTED)
    flying = grant(journal, takes=((ETH, -2 * WAD),))
    assert tally.inventory(journal._db, ETH) == Inventory(9 * WAD, 0, -2 * WAD)
    assert tally.inventory(journal._db, "BTC/USD") == Inventory(-WAD)
    assert tally.inventory(journal._db, "BTC/USD").most_wad == WAD
    sale = grant(journal, sells=(ETH,))
    assert tally.inventory(journal._db, ETH).held_wad == 9 * WAD, "it may still revert"
    end(journal, flying, EventKind.INCLUDED)
    end(journal, sale, EventKind.INCLUDED)
    assert tally.inventory(journal._db, ETH) == Inventory()


def test_what_the_operator_has_sold_is_held_no_more_but_for_what_is_in_flight(
    open_journal: Journals, event: Callable[..., CaseEvent], grant: Grants, step: Callable[..., Step],
    tx: dict[str, Any],
) -> None:  # fmt: skip
    limits = replace(RICH, inventory_wad={EACH: 10 * WAD})
    journal = open_journal(limits)
    end(journal, grant(journal, takes=((ETH, 6 * WAD),)), EventKind.INCLUDED)
    flying = grant(journal, takes=((ETH, 4 * WAD),))
    journal.record([event(case=99)])
    more = replace(step(case=99), takes=((ETH, 6 * WAD),))
    refused = journal.reserve(more, tx, chain_nonce=0, block=1, at_s=NOW_S)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "limit.inventory"
    journal.throw(Switch.SOLD, ETH, on=True, who="a test")
    end(journal, flying, EventKind.INCLUDED)
    journal.close()
    again = open_journal(limits)
    assert [(each.subject, each.used) for each in again.measures() if each.limit == "inventory"] == [(ETH, 4)]
    assert isinstance(again.reserve(more, tx, chain_nonce=0, block=1, at_s=NOW_S), Permit)


def test_only_what_is_known_to_have_come_in_is_known_to_be_gone(
    journal: SqliteJournal, grant: Grants
) -> None:
    before = grant(journal)
    end(journal, grant(journal, takes=((ETH, 6 * WAD),)), EventKind.INCLUDED)
    assert journal.holding() == (), "what is in flight since before might take of it, too"
    end(journal, before, EventKind.REVERTED)
    assert journal.holding() == (ETH,)
    flying = grant(journal, takes=((ETH, -2 * WAD),))
    assert journal.holding() == ()
    end(journal, flying, EventKind.DISPLACED)
    assert journal.holding() == (ETH,)
    journal.note_sold(ETH, "none is left", at_s=NOW_S)
    assert journal.holding() == ()
    assert [each.used for each in journal.measures() if each.limit == "inventory"] == [0]


def test_what_a_block_showed_to_be_sold_is_held_again_where_that_block_is_taken_back(
    journal: SqliteJournal, grant: Grants
) -> None:
    def held_wad() -> int:
        [found] = [each.used for each in journal.measures() if each.limit == "inventory"]
        return round(found * WAD)

    def take(wad: int) -> None:
        end(journal, grant(journal, takes=((ETH, wad),)), EventKind.INCLUDED)

    take(6 * WAD)
    journal.note_sold(ETH, "none is left", at_s=100)
    journal.unsell(101)
    assert held_wad() == 0, "an older block stands"
    journal.unsell(100)
    assert held_wad() == 6 * WAD
    journal.unsell(100)
    assert (held_wad(), len(journal.switched(9))) == (6 * WAD, 2)
    journal.note_sold(ETH, "none is left", at_s=112)
    take(2 * WAD)
    journal.note_sold(ETH, "none is left", at_s=124)
    journal.unsell(118)
    assert held_wad() == 2 * WAD, "what was sold before that block is sold"
    journal.unsell(100)
    assert held_wad() == 8 * WAD
    journal.throw(Switch.SOLD, ETH, on=True, who="a test")
    journal.unsell(0)
    assert held_wad() == 0, "an operator knows better"


def test_a_day_may_cost_more_wei_than_an_integer_of_the_store_holds(
    open_journal: Journals, grant: Grants
) -> None:
    journal = open_journal(RICH)
    for _ in range(4):
        journal._db.execute("UPDATE stakes SET most_gwei = ?", (9 * GWEI,))
        grant(journal)
    assert tally.sums(journal._db, NOW_S - 1).spent_wei > 2**64


def test_an_amount_that_no_limit_admits_counts_as_very_much(journal: SqliteJournal, grant: Grants) -> None:
    journal._limits = replace(RICH, notional_block_wad=10**60)
    grant(journal, notional_wad=10**50)
    assert tally.sums(journal._db, NOW_S - 1).notional_wad == tally.MOST * tally.MICRO


def test_what_an_older_journal_has_spent_counts_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(gzip.decompress(OLD.read_bytes()))
    with closing(sqlite3.connect(path)) as db:
        most = sum(
            int(row[0]) for row in db.execute("SELECT coalesce(gas_cost_wei, max_cost_wei) FROM steps")
        )
        notional = sum(int(row[0]) for row in db.execute("SELECT notional_wad FROM steps"))
    with closing(SqliteJournal(path, identity={"chain_id": "31337"})) as journal:
        found = tally.sums(journal._db, 0)
    assert 0 <= found.spent_wei - most < 9 * GWEI
    assert 0 < found.notional_wad - notional < 9 * tally.MICRO


@on_sqlite
def test_what_lies_behind_costs_the_next_permit_nothing(open_journal: Journals, grant: Grants) -> None:
    every, takes = {EACH: 10**9 * WAD}, ((ETH, WAD), ("BTC/USD", -WAD))
    limits = replace(RICH, market_day_wad=every, inventory_wad=every, solvency_day_wad=10**9 * WAD)
    journal = open_journal(limits)
    wanted = Step("case", Flag(bytes(32), WAD), NOW_S, 1, WAD, takes=takes, loss_wad=WAD)
    work = 0

    def count() -> int:
        nonlocal work
        work += 1
        return 0

    def after(more: int) -> int:
        """Return how many instructions SQLite runs for what a permit depends on, after more old steps."""
        nonlocal work
        old_s = NOW_S - 10 * tally.DAY_S
        for _ in range(more):
            taken = grant(journal, at_s=old_s, takes=takes, loss_wad=WAD)
            end(journal, taken, EventKind.INCLUDED, at_s=old_s)
        for market, _ in takes:
            journal.note_sold(market, "sold", at_s=old_s)
        work = 0
        journal._db.set_progress_handler(count, 1)
        journal.used(limits, NOW_S // 12, NOW_S)
        journal.held(wanted, limits, 10**6, NOW_S // 12, NOW_S)
        tally.last_stake(journal._db)
        journal.closed_since(NOW_S - 1)
        journal.settled_since(NOW_S // 12)
        journal._db.set_progress_handler(None, 0)
        return work

    few = after(3)
    assert after(100) < few * 1.5


def test_each_limit_that_adds_something_up_is_measured(open_journal: Journals, grant: Grants) -> None:
    journal = open_journal(replace(RICH, loss_day_wad=5 * WAD, market_day_wad={ETH: 50 * WAD}))
    grant(journal, takes=((ETH, -9 * WAD),), notional_wad=9 * WAD, expected_profit_wad=-WAD)
    found = {(each.limit, each.subject): each for each in journal.measures()}
    assert found["spend_day", ""] == Measure("spend_day", "", 0.003, 10**12, "native", own=0.003)
    assert found["loss_day", ""] == Measure("loss_day", "", 1, 5, "quote", own=1)
    assert found["market_day", ETH] == Measure("market_day", ETH, 9, 50, "quote", own=9)
    assert found["inventory", ETH] == Measure("inventory", ETH, 9, None, "quote", own=9)


def test_losses_to_keep_accounts_solvent_are_added_up_by_terms_whatever_was_staked(
    open_journal: Journals, grant: Grants
) -> None:
    journal = open_journal(replace(RICH, solvency_day_wad=100 * WAD))
    grant(journal, loss_wad=2 * WAD)
    grant(journal, expected_profit_wad=-WAD)
    grant(journal, at_s=NOW_S - tally.DAY_S, loss_wad=7 * WAD)
    older = grant(journal, loss_wad=3 * WAD)
    journal.abandon(grant(journal, loss_wad=11 * WAD).step_id, Reason("", "", ""), block=1, at_s=NOW_S)
    with journal.together():
        # As the stakes of a journal from before there were any.
        values = (older.step_id,)
        journal._db.execute("UPDATE stakes SET loss_micro = 0, risk_micro = 0 WHERE step_id = ?", values)
    assert tally.kept_solvent_wad(journal._db, NOW_S) == 5 * WAD
