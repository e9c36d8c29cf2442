"""What a permit would look at is looked at for nothing, and by nobody who would have to wait."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from keeper.domain import Permit
from keeper.journal.guard import EACH, Limits
from keeper.journal.store import SqliteJournal
from keeper.units import WAD
from tests.unit.journal.conftest import IDENTITY, Events, Steps

NOW: dict[str, Any] = {"chain_nonce": 0, "block": 101, "at_s": 1212}


@pytest.fixture
def file(path: Path, event: Events) -> Iterator[SqliteJournal]:
    limits = Limits(market_day_wad={EACH: 10**9 * WAD}, inventory_wad={EACH: 10**9 * WAD})
    with closing(SqliteJournal(path, identity=IDENTITY, limits=limits)) as journal:
        journal.record([event(case=1)])
        yield journal


def traced(file: SqliteJournal) -> list[str]:
    """Return the list to which each statement is added that the journal runs from now on."""
    said: list[str] = []
    file._db.set_trace_callback(said.append)
    return said


def test_a_rehearsal_looks_at_all_that_a_permit_looks_at(
    file: SqliteJournal, step: Steps, tx: dict[str, Any]
) -> None:
    said = traced(file)
    file.rehearse(step(), **NOW)
    rehearsed = set(said)
    said.clear()
    assert isinstance(file.reserve(step(), tx, **NOW), Permit)
    looked = set(said[: next(number for number, each in enumerate(said) if "INSERT" in each)])
    assert len(rehearsed) > 8
    assert {each for each in looked if each.startswith(("SELECT", "WITH"))} - rehearsed == {
        each for each in looked if "FROM cases" in each
    }


def test_a_rehearsal_grants_and_writes_nothing(file: SqliteJournal, step: Steps) -> None:
    said, before = traced(file), file._db.total_changes
    file.rehearse(step(), **NOW)
    assert {each.split()[0] for each in said} == {"SELECT"}
    assert (file._db.total_changes, file.live_steps()) == (before, ())


def test_a_rehearsal_waits_for_nobody(file: SqliteJournal, step: Steps) -> None:
    said = traced(file)
    rehearsing = threading.Thread(target=file.rehearse, args=(step(),), kwargs=NOW)
    with file.together():
        said.clear()
        rehearsing.start()
        rehearsing.join(timeout=5)
        assert not rehearsing.is_alive()
        assert said == []
