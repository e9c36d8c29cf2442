"""When a journal's log moves into its file: between heads, and not while an act waits."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from keeper.errors import KeeperError
from keeper.journal import sqlite
from keeper.journal.store import SqliteJournal
from tests.unit.journal.conftest import IDENTITY, Events

SQLITES_OWN_PAGES = 1_000
"""After so many a commit moves them, where nothing else is said (https://www.sqlite.org/pragma.html)."""
PAGE = 4_096


@pytest.fixture
def file(path: Path) -> Iterator[SqliteJournal]:
    with closing(SqliteJournal(path, identity=IDENTITY)) as journal:
        yield journal


def write(journal: SqliteJournal, event: Events, first: int) -> None:
    """Write some five hundred pages."""
    for case in range(first, first + 50):
        journal.record([event(case=case, note="x" * 10 * PAGE)])


def log_of(path: Path) -> Path:
    return Path(f"{path}-wal")


def test_commits_leave_the_file_alone_until_the_journal_rests(
    file: SqliteJournal, path: Path, event: Events
) -> None:
    before = path.stat().st_size
    write(file, event, 1)
    write(file, event, 51)
    write(file, event, 101)
    assert log_of(path).stat().st_size > SQLITES_OWN_PAGES * PAGE
    assert path.stat().st_size == before
    file.rest()
    assert path.stat().st_size > SQLITES_OWN_PAGES * PAGE


def test_after_a_rest_the_log_is_written_over_from_its_beginning(
    file: SqliteJournal, path: Path, event: Events
) -> None:
    write(file, event, 1)
    size = log_of(path).stat().st_size
    for first in (51, 101, 151):
        file.rest()
        write(file, event, first)
    assert log_of(path).stat().st_size < size * 1.2


def test_where_nobody_lets_it_rest_a_commit_moves_the_log_in_the_end(
    path: Path, event: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keeper.journal.store.UNRESTED_BYTES", 100 * PAGE)
    with closing(SqliteJournal(path, identity=IDENTITY)) as journal:
        before = path.stat().st_size
        write(journal, event, 1)
        assert path.stat().st_size > before


def test_a_rest_does_not_wait_for_who_writes(file: SqliteJournal, event: Events) -> None:
    resting = threading.Thread(target=file.rest)
    with file.together():
        file.record([event(case=1)])
        resting.start()
        resting.join(timeout=5)
        assert not resting.is_alive()
    assert len(file.open_cases()) == 1


def test_a_disk_that_fails_while_it_rests_is_told(
    file: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sqlite, "connect", fails)
    with pytest.raises(KeeperError, match=r"cannot be written: disk I/O error"):
        file.rest()
