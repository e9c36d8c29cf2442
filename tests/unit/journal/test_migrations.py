"""A journal of an older keeper opens, whole, and what it was stays beside it."""

from __future__ import annotations

import gzip
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from keeper.domain import Flag, Seen, Step
from keeper.errors import ConfigError
from keeper.journal import guard, migrations, runs, tally
from keeper.journal.guard import Claims, Limits
from keeper.journal.reader import JournalReader
from keeper.journal.store import SqliteJournal, StoredJournal
from keeper.journal.tally import GWEI, Inventory, Sums
from keeper.ports import StepState
from keeper.units import WAD

OLD = Path(__file__).parents[2] / "golden" / "journal-v1.sqlite.gz"
"""Of version 1: a breach that was flagged, and a confirmation in flight."""
V6 = OLD.with_name("journal-v6.sqlite.gz")
"""Of version 6: steps that ended, one in flight that was bid for again, a batch of two that is not signed,
and a run that began after the second step."""
IDENTITY = {"chain_id": "31337"}
NOW_S = 1_000_000
COUNTED = Claims(
    nonces=frozenset(range(5)),
    in_flight_wei=10**16,
    notional_block_wad=9 * WAD,
    losses_day_wad=5 * WAD,
    hour=Sums(10_200_000 * GWEI, 39 * WAD, 7 * WAD),
    day=Sums(10_300_000 * GWEI, 48 * WAD, 7 * WAD),
    moved_minute_wad={"ETH/USD": 27 * WAD, "BTC/USD": 4 * WAD},
    taken_day_wad={"ETH/USD": 27 * WAD, "BTC/USD": 8 * WAD},
    inventory={"ETH/USD": Inventory(-20 * WAD, 7 * WAD), "BTC/USD": Inventory(7 * WAD, WAD)},
    in_flight=2,
)
"""What the keeper of version 6 found for the next step."""
ACCOUNT = b"\x0a" * 20 + bytes(12)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(gzip.decompress(OLD.read_bytes()))
    return path


@pytest.fixture
def sixth(tmp_path: Path) -> Path:
    path = tmp_path / "sixth.sqlite"
    path.write_bytes(gzip.decompress(V6.read_bytes()))
    return path


def held(journal: StoredJournal) -> Claims:
    """Return what the steps of a journal mean for one of everything that they take."""
    takes = tuple((feed, WAD) for feed in tally.markets(journal._db))
    step = Step("case", Flag(ACCOUNT, WAD), NOW_S, 1, WAD, takes=takes, loss_wad=WAD)
    every = {guard.EACH: WAD}
    limits = Limits(market_day_wad=every, inventory_wad=every)
    standing = guard.Standing()
    return guard.held(
        journal._db, step, limits, standing=standing, chain_nonce=0, block=NOW_S // 12, at_s=NOW_S
    )


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


def test_what_older_steps_take_and_lose_is_what_their_keeper_counted(sixth: Path) -> None:
    with closing(SqliteJournal(sixth, identity=IDENTITY)) as journal:
        assert held(journal) == COUNTED
        assert journal.closed_since(NOW_S - 30) == {bytes([2]) * 32: Seen(NOW_S - 12, 97 * WAD // 100)}
        assert [len(each.carries) for each in journal.live_steps()] == [0, 1]
    with closing(JournalReader(sixth)) as reader:
        assert reader.verify() == []
        [told] = (json.loads(line) for line in reader.export("case2") if '"table":"steps"' in line)
    assert told["takes"] == {"ETH/USD": str(-20 * WAD), "BTC/USD": str(3 * WAD)}
    assert (told["loss_wad"], told["ends_at_wad"]) == (str(2 * WAD), str(97 * WAD // 100))


def test_a_run_of_an_older_keeper_begins_with_what_its_steps_took_and_lost(
    sixth: Path, tmp_path: Path
) -> None:
    with closing(JournalReader(sixth)) as reader:
        [run] = reader.runs()
    SqliteJournal(tmp_path / "then", identity=IDENTITY).close()
    runs.rewind(sixth, tmp_path / "then", run, ())
    with closing(SqliteJournal(tmp_path / "then", identity=IDENTITY)) as then:
        found = held(then)
        assert then.closed_since(NOW_S - 30) == {bytes([2]) * 32: Seen(NOW_S - 12, 97 * WAD // 100)}
    assert (found.nonces, found.losses_day_wad) == (frozenset({0, 1}), 2 * WAD)
    assert found.moved_minute_wad == {"ETH/USD": 20 * WAD, "BTC/USD": 3 * WAD}


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
        db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (str(migrations.VERSION + 1),))
    told = f"schema is {migrations.VERSION + 1}, and this keeper knows 1 to {migrations.VERSION}"
    for opened in (lambda: SqliteJournal(old, identity=IDENTITY), lambda: JournalReader(old)):
        with pytest.raises(ConfigError, match=told):
            opened()


def test_a_new_journal_gives_pages_back(tmp_path: Path) -> None:
    SqliteJournal(tmp_path / "new", identity=IDENTITY).close()
    with closing(sqlite3.connect(tmp_path / "new")) as db:
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_an_older_journal_gives_pages_back_too(old: Path) -> None:
    SqliteJournal(old, identity=IDENTITY).close()
    with closing(sqlite3.connect(old)) as db:
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
