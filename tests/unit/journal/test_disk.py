"""A disk that is full, may not be written, or has damaged the file: the keeper stops, and says what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import structlog

from keeper.domain import CaseEvent
from keeper.errors import ConfigError, KeeperError
from keeper.journal import opening
from keeper.journal.guard import Limits
from keeper.journal.store import PAGE_BYTES, SqliteJournal
from keeper.journal.wallet import Wallet
from tests.unit.journal.conftest import IDENTITY, Events


@pytest.fixture
def file(path: Path, event: Events) -> SqliteJournal:
    journal = SqliteJournal(path, identity=IDENTITY)
    journal.record([event(case=case, note="x" * 2_000) for case in range(1, 200)])
    return journal


def test_a_full_disk_stops_the_keeper_and_leaves_the_journal_whole(
    file: SqliteJournal, path: Path, event: Events
) -> None:
    [(pages,)] = file._rows("PRAGMA page_count")
    file._db.execute(f"PRAGMA max_page_count = {pages}")
    before = file.last_event()
    with pytest.raises(KeeperError, match=r"cannot be written: .* is full; make room on its disk"):
        file.record([event(case=case, note="x" * 2_000) for case in range(200, 256)])
    after = file.last_event()
    file.close()
    with closing(SqliteJournal(path, identity=IDENTITY)) as again:
        assert again.last_event() == after >= before


LIMITED = """
import resource, sys
from pathlib import Path
from keeper.domain import CaseEvent, EventKind
from keeper.errors import KeeperError
from keeper.journal.store import SqliteJournal
journal = SqliteJournal(Path(sys.argv[1]), identity={"chain_id": "1"})
most = 100_000 + max(each.stat().st_size for each in Path(sys.argv[1]).parent.iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
for number in range(1_000):
    account, note = number.to_bytes(32, "big"), {"note": "x" * 5_000}
    event = CaseEvent(f"case{number}", account, EventKind.SUSPECTED, 1, 1, note)
    try:
        journal.record([event])
    except KeeperError as error:
        print(number, error)
        break
"""


def test_a_file_that_may_not_grow_stops_the_keeper_and_loses_nothing_it_was_told(path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True
    ).stdout
    written, _, words = told.partition(" ")
    assert "cannot be written: " in words
    assert "; make room on its disk" in words or "; look at its disk" in words
    with closing(SqliteJournal(path, identity={"chain_id": "1"})) as again:
        assert len(again.open_cases()) == int(written) > 0


def test_a_file_that_may_not_be_written_stops_the_keeper(file: SqliteJournal, event: Events) -> None:
    file._db.execute("PRAGMA query_only = ON")
    with pytest.raises(KeeperError, match=r"cannot be written: .*readonly.*; let the keeper write to it"):
        file.record([event(case=200)])
    file._db.execute("PRAGMA query_only = OFF")
    file.close()


def damage(path: Path) -> None:
    """Overwrite what lies in the middle of a file, as a disk does that loses sectors."""
    data = bytearray(path.read_bytes())
    for start in range(20 * PAGE_BYTES, len(data) - PAGE_BYTES, 3 * PAGE_BYTES):
        data[start : start + 512] = bytes([0xA5]) * 512
    path.write_bytes(data)


def start(path: Path) -> None:
    """Open a journal as a keeper does that is to work with it."""
    journal = opening.to_write(path, identity=IDENTITY, limits=Limits(), lease_s=1, wallet=Wallet())
    journal.close()


def test_a_damaged_file_is_refused_at_the_start(file: SqliteJournal, path: Path) -> None:
    file.close()
    start(path)
    damage(path)
    with pytest.raises(ConfigError, match=r"; keep the file, and go on from the last backup"):
        start(path)


def test_damage_that_shows_later_stops_the_keeper(file: SqliteJournal, path: Path) -> None:
    file._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file._db.execute("PRAGMA cache_size = 1")
    damage(path)
    with pytest.raises(KeeperError, match=r"cannot be read: .*malformed; keep the file"):
        file.events_after(0)


def test_of_a_large_file_a_start_says_that_it_was_not_looked_through(
    file: SqliteJournal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.close()
    monkeypatch.setattr(opening, "LOOK_S", -1.0)
    monkeypatch.setattr("keeper.journal.sqlite.STEPS_AT_ONCE", 1)
    with structlog.testing.capture_logs() as said:
        start(path)
    assert [each["event"] for each in said] == ["journal.unchecked"]


def test_a_transaction_cannot_be_signed_where_it_cannot_be_noted(
    file: SqliteJournal, event: Callable[..., CaseEvent]
) -> None:
    file._db.execute("PRAGMA query_only = ON")
    with pytest.raises(KeeperError, match="cannot be written"), file.together():
        file.record([event(case=200)])
    assert not file._db.in_transaction
    file._db.execute("PRAGMA query_only = OFF")
    file.close()
