"""What forgetting costs, and which runs can no longer be decided again after it."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import pytest

from keeper.domain import CaseEvent, EventKind, Head, Permit, Step
from keeper.journal import shared
from keeper.journal.db import Shared
from keeper.journal.reader import JournalReader
from keeper.journal.retention import DAY_S, LOOKS_BACK_S, Keep
from keeper.journal.shared import PostgresJournal
from keeper.journal.store import SqliteJournal, StoredJournal
from keeper.journal.tape import Packed, Recorder
from keeper.ports import Outcome
from keeper.replay.play import rewound
from keeper.units import WAD
from tests.postgres import drop
from tests.unit.journal.conftest import on_sqlite

Events: TypeAlias = Callable[..., CaseEvent]
Steps: TypeAlias = Callable[..., Step]
KEEP = Keep(days=30)
BLOCKS_A_DAY = DAY_S // 12
STEPS_AT_ONCE = 100


def at_day(day: float) -> Head:
    number = int(day * BLOCKS_A_DAY)
    return Head(number, f"0x{number}", "0x", number * 12, 1)


def effort(journal: SqliteJournal, work: Callable[[], object]) -> int:
    """Return how many hundreds of steps SQLite's machine takes for some work."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    journal._db.set_progress_handler(count, STEPS_AT_ONCE)
    work()
    journal._db.set_progress_handler(None, 0)
    return taken


def count(journal: StoredJournal) -> None:
    """Have a server know at once what it otherwise counts now and then."""
    if isinstance(journal, PostgresJournal):
        journal._db.execute("SELECT pg_stat_force_next_flush()")
        journal._db.execute("ANALYZE")


@on_sqlite
def test_where_nothing_is_old_a_crowd_of_closed_cases_is_not_looked_through(
    journal: SqliteJournal, event: Events
) -> None:
    journal.head_done(at_day(100))
    little = effort(journal, lambda: journal.forget(KEEP))
    for kind in (EventKind.SUSPECTED, EventKind.CLOSED):
        many = [event(kind, case=number, block=99 * BLOCKS_A_DAY) for number in range(250)]
        journal.record(many)
    assert effort(journal, lambda: journal.forget(KEEP)) <= little + 2


def test_an_open_case_does_not_keep_the_closed_ones_after_it(journal: StoredJournal, event: Events) -> None:
    journal.record([event(case=1), event(case=2), event(EventKind.CLOSED, case=2)])
    journal.head_done(at_day(100))
    assert journal.forget(KEEP)
    assert (journal.status("case1"), journal.status("case2")) == ("suspected", None)


def test_of_too_much_the_tape_goes_before_any_case(journal: StoredJournal, event: Events) -> None:
    for kind in (EventKind.SUSPECTED, EventKind.CLOSED):
        journal.record([event(kind, block=90 * BLOCKS_A_DAY)])
    for day in (90, 100):
        tape = Recorder()
        journal.keep_tape(tape, {})
        tape.note("q", {})
        tape._packed = tape.take_rest()
        journal.head_done(at_day(day))
    small = Keep(days=30, mb=0)
    assert not journal.forget(KEEP)
    count(journal)
    assert journal.forget(small)
    assert [row["number"] for row in journal._rows("SELECT number FROM tape")] == [at_day(100).number]
    assert journal.status("case1") == "closed"
    count(journal)
    assert journal.forget(small)
    assert journal.status("case1") is None


def test_a_copy_as_of_then_has_the_same_newest_cases_whatever_is_gone_between(
    journal: StoredJournal, event: Events, place: Path | Shared, tmp_path: Path
) -> None:
    for number in range(1, 6):
        journal.record([event(case=number)])
        # The first one stays: something has happened to it of late.
        last = 99 * BLOCKS_A_DAY if number in {1, 5} else BLOCKS_A_DAY
        journal.record([event(EventKind.CLOSED, case=number, block=last)])
    journal.head_done(at_day(100))
    assert journal.forget(KEEP)
    journal.keep_tape(Recorder(), {})
    newest = journal.alarms(2)
    assert {each.case_id for each in newest} == {"case5"}
    with closing(JournalReader(place)) as reader:
        [run] = reader.runs()
        with closing(rewound(reader, run, tmp_path / "then.sqlite")) as then:
            assert then.alarms(2) == newest


@pytest.mark.parametrize(("after_s", "cut"), [(LOOKS_BACK_S - 12, 1), (LOOKS_BACK_S, None)])
def test_a_run_that_looked_back_at_what_is_forgotten_cannot_be_decided_again(
    journal: StoredJournal,
    event: Events,
    step: Steps,
    tx: dict[str, Any],
    after_s: int,
    cut: int | None,
    place: Path | Shared,
) -> None:
    last = at_day(1)
    journal.record([event(block=last.number)])
    permit = journal.reserve(step(), tx, chain_nonce=0, block=last.number, at_s=last.timestamp_s)
    assert isinstance(permit, Permit)
    journal.sign(permit.step_id, b"raw", "0xaa")
    journal.sent(permit.step_id, block=last.number, at_s=last.timestamp_s)
    outcome = Outcome(EventKind.REVERTED, last.number, "0xb", 1)
    journal.settle(permit.step_id, outcome, at_s=last.timestamp_s)
    journal.record(
        [event(EventKind.SUSPECTED, block=last.number), event(EventKind.CLOSED, block=last.number)]
    )
    began = at_day(1 + after_s / DAY_S)
    journal.head_done(began)
    journal.keep_tape(Recorder(), {})
    seen = journal.record_at(began.timestamp_s).won_wad
    assert seen == ({} if cut is None else {"flag": 9 * WAD // 11})
    journal.head_done(at_day(40))
    assert journal.forget(KEEP)
    assert journal.record_at(began.timestamp_s).won_wad == {}
    with closing(JournalReader(place)) as reader:
        assert reader.runs()[-1].started.get("cut") == cut


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
def test_of_a_tape_in_the_database_its_size_is_known(journal: StoredJournal) -> None:
    journal.keep_tape(Recorder(), {})
    dice = random.Random(1)
    for number in range(100):
        tape = journal._tape
        assert tape is not None
        tape._packed = [Packed(dice.randbytes(5_000), listing=False)]
        journal.head_done(at_day(90 + number / 100))
    count(journal)
    assert 500_000 <= journal._db.size() <= 700_000
    journal._db.execute("DELETE FROM tape WHERE seq > 50")
    count(journal)
    assert 250_000 <= journal._db.size() <= 400_000


def test_books_that_a_leader_forgot_go_where_they_were_made(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = tmp_path / "book"
    book.write_bytes(b"a book")
    here, there = (
        Shared(server, f"test_{uuid4().hex}"[:20], tmp_path / name / "journal.sqlite") for name in "ab"
    )
    there = replace(there, schema=here.schema)
    for each in (here, there):
        each.path.parent.mkdir()
    with closing(PostgresJournal(here, identity={"chain_id": "1"})) as first:
        first.head_done(at_day(1))
        first.keep_tape(Recorder(), {}, book=None)
        for day in (1, 2):
            first._keep_book(book, day)
        (here.path.parent / "journal.sqlite.book-1-1").write_bytes(b"of the file of before")
    with closing(PostgresJournal(there, identity={"chain_id": "1"})) as leader:
        assert leader.leads()
        leader._db.execute("DELETE FROM books WHERE block = 1")
        with closing(PostgresJournal(here, identity={"chain_id": "1"})) as standby:
            assert not standby.forget(KEEP)
            assert len(list(here.path.parent.iterdir())) == 3
            monkeypatch.setattr(shared, "UNTOLD_S", -1)
            assert not standby.forget(KEEP)
    left = sorted(each.name for each in here.path.parent.iterdir())
    assert left == ["journal.sqlite.book-1-1", f"journal.sqlite.{here.schema}.book-1-2"]
    drop(server, here.schema)
