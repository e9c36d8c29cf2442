"""A journal of an older keeper opens, whole, and what it was stays beside it."""

from __future__ import annotations

import gzip
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from keeper.errors import ConfigError
from keeper.journal import migrations
from keeper.journal.reader import JournalReader
from keeper.journal.store import SqliteJournal
from keeper.ports import StepState

OLD = Path(__file__).parents[2] / "golden" / "journal-v1.sqlite.gz"
"""Of version 1: a breach that was flagged, and a confirmation in flight."""
IDENTITY = {"chain_id": "31337"}
ACCOUNT = b"\x0a" * 20 + bytes(12)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(gzip.decompress(OLD.read_bytes()))
    return path


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        return {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_an_older_journal_is_brought_up_and_goes_on(old: Path, tmp_path: Path) -> None:
    journal = SqliteJournal(old, identity=IDENTITY)
    [case] = journal.open_cases()
    assert [event.kind for event in journal.history(case.case_id)][:3] == ["Suspected", "Reserved", "Sent"]
    assert [step.state for step in journal.live_steps()] == [StepState.SENT]
    journal.close()
    SqliteJournal(tmp_path / "new", identity=IDENTITY).close()
    assert tables(old) == tables(tmp_path / "new")
    reader = JournalReader(old)
    assert (reader.identity["schema"], reader.verify()) == (str(migrations.VERSION), [])
    reader.close()


def test_what_it_was_stays_beside_it(old: Path) -> None:
    before = tables(old)
    SqliteJournal(old, identity=IDENTITY).close()
    copy = old.with_name("journal.sqlite.v1")
    assert tables(copy) == before
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == ("1",)


def test_a_journal_is_migrated_once(old: Path) -> None:
    SqliteJournal(old, identity=IDENTITY).close()
    old.with_name("journal.sqlite.v1").unlink()
    SqliteJournal(old, identity=IDENTITY).close()
    assert not old.with_name("journal.sqlite.v1").exists()


def test_a_migration_that_fails_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tables(old)
    broken = (*migrations.MIGRATIONS[2], "CREATE TABLE tape (again INTEGER) STRICT")
    monkeypatch.setattr(migrations, "MIGRATIONS", {2: broken})
    with pytest.raises(ConfigError, match="cannot be used: table tape already exists"):
        SqliteJournal(old, identity=IDENTITY)
    assert tables(old) == before


@pytest.mark.parametrize("version", range(1, migrations.VERSION + 1))
def test_a_journal_of_any_version_can_be_read_without_being_touched(old: Path, version: int) -> None:
    with closing(sqlite3.connect(old, isolation_level=None)) as db:
        for statement in (each for to in range(2, version + 1) for each in migrations.MIGRATIONS[to]):
            db.execute(statement)
        db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (str(version),))
    was = old.read_bytes()
    with closing(JournalReader(old)) as reader:
        assert reader.identity["schema"] == str(version)
        assert reader.verify() == []
        assert [len(each.steps) for each in reader.cases_of(ACCOUNT, None)] == [2]
        assert {json.loads(line)["table"] for line in reader.export()} >= {"cases", "events", "steps"}
    assert old.read_bytes() == was


def test_a_newer_journal_is_refused(old: Path) -> None:
    with closing(sqlite3.connect(old)) as db, db:
        db.execute("UPDATE meta SET value = '7' WHERE key = 'schema'")
    for opened in (lambda: SqliteJournal(old, identity=IDENTITY), lambda: JournalReader(old)):
        with pytest.raises(ConfigError, match="schema is 7, and this keeper knows 1 to 6"):
            opened()


def test_a_new_journal_gives_pages_back(tmp_path: Path) -> None:
    SqliteJournal(tmp_path / "new", identity=IDENTITY).close()
    with closing(sqlite3.connect(tmp_path / "new")) as db:
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_an_older_journal_gives_pages_back_too(old: Path) -> None:
    SqliteJournal(old, identity=IDENTITY).close()
    with closing(sqlite3.connect(old)) as db:
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
