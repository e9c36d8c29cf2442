"""A journal goes from its file to a server with all that is open and in flight, whole or not at all."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from keeper.domain import EventKind, Head, Permit
from keeper.errors import ConfigError
from keeper.journal import backup, moving, opening
from keeper.journal.db import Shared
from keeper.journal.lock import alone
from keeper.journal.reader import JournalReader
from keeper.journal.retention import Keep
from keeper.journal.shared import PostgresJournal
from keeper.journal.store import SqliteJournal, StoredJournal
from keeper.journal.tape import Recorder
from keeper.ports import Outcome, Searched, Switch
from tests.postgres import drop
from tests.unit.journal.conftest import IDENTITY, Events, Steps
from tests.unit.journal.test_migrations import OLD, V6, held
from tests.unit.journal.test_retention import at_day

LIVE = {**IDENTITY, "mode": "live"}


@pytest.fixture
def shared(server: str, tmp_path: Path) -> Iterator[Shared]:
    (tmp_path / "new").mkdir()
    place = Shared(server, f"test_{uuid4().hex}", tmp_path / "new" / "journal.sqlite")
    yield place
    drop(place.url, place.schema)


def fill(journal: StoredJournal, event: Events, step: Steps, tx: dict[str, Any], book: Path) -> None:
    """Fill a journal: old cases that are forgotten, open ones, steps that ended and one in flight, a tape."""
    journal.record([event(case=9, block=7_200)])
    journal.record([event(EventKind.CLOSED, case=9, block=7_200)])
    journal.head_done(at_day(90))
    assert journal.forget(Keep(days=30))
    block = at_day(90).number
    book.write_bytes(b"a book")
    tape = Recorder()
    journal.keep_tape(tape, {})
    journal._keep_book(book, block)
    tape.note("q", {})
    tape._packed = tape.take_rest()
    for number, case in enumerate((3, 1, 2)):
        journal.record([event(case=case, block=block, equity_wad=-(10**30))])
        permit = journal.reserve(step(case=case), tx, chain_nonce=5, block=block, at_s=block * 12)
        assert isinstance(permit, Permit)
        journal.sign(permit.step_id, b"raw" + bytes([number]), f"0xa{number}")
        journal.sent(permit.step_id, block=block, at_s=block * 12)
        if case == 3:
            outcome = Outcome(EventKind.INCLUDED, block, "0xb", 7)
            journal.settle(permit.step_id, outcome, at_s=block * 12)
    journal.note_found([b"\x02" * 32, b"\x01" * 32], Searched(1, 90, "0xab"))
    journal.throw(Switch.PAUSE, "ETH/USD", on=True, who="a test", why="why not")
    journal.head_done(Head(block + 1, "0xc", "0xb", block * 12 + 12, 10**9))


@pytest.fixture
def filled(tmp_path: Path, event: Events, step: Steps, tx: dict[str, Any]) -> Path:
    path = tmp_path / "journal.sqlite"
    with closing(SqliteJournal(path, identity=LIVE)) as journal:
        fill(journal, event, step, tx, tmp_path / "book")
    return path


ASKED: tuple[Callable[[StoredJournal], object], ...] = (
    lambda journal: journal.open_cases(),
    lambda journal: journal.live_steps(),
    lambda journal: [journal.history(each.case_id) for each in journal.open_cases()],
    lambda journal: journal.settled_since(0),
    lambda journal: (journal.last_head(), journal.searched(), list(journal.found()), journal.next_nonce()),
    lambda journal: (journal.switched(10), journal.thrown(), journal.measures()),
    lambda journal: journal.record_at(at_day(90).timestamp_s),
    lambda journal: journal.alarms(10),
)


def test_a_journal_goes_on_where_it_has_gone_to(
    filled: Path, shared: Shared, event: Events, step: Steps, tx: dict[str, Any]
) -> None:
    moved = opening.take_in(filled, shared, LIVE)
    assert {name: moved[name] for name in ("cases", "steps", "events", "tape")} == {
        "cases": 3, "steps": 3, "events": 10, "tape": 2,
    }  # fmt: skip
    with closing(JournalReader(shared)) as reader:
        assert reader.verify() == []
        [run] = reader.runs()
        assert reader.books(run, 10)[0][1].read_bytes() == b"a book"
    journals = (SqliteJournal(filled, identity=LIVE), PostgresJournal(shared, identity=LIVE, lease_s=60))
    with closing(journals[0]) as was, closing(journals[1]) as now:
        assert now.leads()
        for each in ASKED:
            assert each(now) == each(was)
        for journal in journals:
            block = at_day(90).number + 1
            journal.record([event(case=4, block=block)])
            permit = journal.reserve(step(case=4), tx, chain_nonce=5, block=block, at_s=block * 12)
            assert isinstance(permit, Permit)
            assert permit.nonce == 8
            journal.head_done(Head(block + 1, "0xd", "0xc", block * 12 + 24, 10**9))
            journal.keep_tape(Recorder(), {})
        assert now.last_event() == was.last_event()
        for each in ASKED:
            assert each(now) == each(was)


@pytest.mark.parametrize(("kept", "live"), [(OLD, 1), (V6, 2)])
def test_an_older_journal_is_brought_up_on_the_way_and_stays_as_it_is(
    tmp_path: Path, shared: Shared, kept: Path, live: int
) -> None:
    old = tmp_path / "old.sqlite"
    old.write_bytes(gzip.decompress(kept.read_bytes()))
    before = old.read_bytes()
    moving.move(old, shared)
    assert old.read_bytes() == before
    identity = {"chain_id": "31337"}
    with closing(PostgresJournal(shared, identity=identity, lease_s=60)) as now:
        assert now.leads()
        with closing(SqliteJournal(old, identity=identity)) as was:
            for each in ASKED:
                assert each(now) == each(was)
            assert held(now) == held(was)
            assert len(now.live_steps()) == live
    with closing(JournalReader(shared)) as reader:
        assert reader.verify() == []


def test_a_place_that_is_taken_stays_as_it_is(filled: Path, shared: Shared, event: Events) -> None:
    with closing(PostgresJournal(shared, identity=LIVE)) as there:
        there.record([event(case=7)])
    with pytest.raises(ConfigError, match=r"a journal is there already: name another journal.schema_name"):
        moving.move(filled, shared)
    with closing(JournalReader(shared)) as reader:
        assert reader.summary().cases == {"suspected": 1}


def test_while_the_wallet_is_led_nothing_is_imported(
    filled: Path, shared: Shared, server: str, tmp_path: Path
) -> None:
    beside = Shared(server, f"{shared.schema}_beside", tmp_path / "beside")
    leader = PostgresJournal(beside, identity=LIVE | {"deployment": "another"}, holder="a")
    with closing(leader), pytest.raises(ConfigError, match=f"a leads the wallet by schema {beside.schema}"):
        moving.move(filled, shared)
    moving.move(filled, shared)
    drop(server, beside.schema)


def test_what_cannot_be_written_whole_leaves_nothing(
    filled: Path, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = backup.pages

    def lossy(db: Any, table: str, names: Any) -> Iterator[Any]:
        rows = real(db, table, names)
        if table == "stakes":
            next(rows)
        return rows

    monkeypatch.setattr("keeper.journal.moving.pages", lossy)
    with pytest.raises(ConfigError, match="3 rows of stakes were read, and 2 written"):
        moving.move(filled, shared)
    with closing(opening.to_read(shared)) as db:
        assert db.tables() == set()
    monkeypatch.undo()
    moving.move(filled, shared)


def test_a_file_that_is_in_use_damaged_or_anothers_is_refused(
    filled: Path, shared: Shared, tmp_path: Path
) -> None:
    with alone(filled), pytest.raises(ConfigError, match="another keeper works with the journal"):
        moving.move(filled, shared)
    with pytest.raises(ConfigError, match=r"the chain_id of .* is 31337, and 1 is configured"):
        opening.take_in(filled, shared, {"chain_id": "1"})
    with pytest.raises(ConfigError, match=r"journal.url is not set"):
        opening.take_in(filled, tmp_path / "other.sqlite", {})
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(ConfigError, match="is no keeper's journal"):
        opening.take_in(tmp_path / "empty.sqlite", shared, {})
    (tmp_path / "text.sqlite").write_text("no database" * 1_000)
    with pytest.raises(ConfigError, match=r"text\.sqlite cannot be read: file is not a database"):
        opening.take_in(tmp_path / "text.sqlite", shared, {})
    with closing(sqlite3.connect(filled)) as db, db:
        db.execute("UPDATE cases SET status = 'closed' WHERE case_id = 'case1'")
    with pytest.raises(ConfigError, match="contradicts itself: case case1 is closed"):
        moving.move(filled, shared)
