"""What a permit would look at is looked at for nothing, and by nobody who would have to wait."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from keeper.domain import Permit, Refuse
from keeper.journal.guard import EACH, Limits
from keeper.journal.opening import to_switch
from keeper.journal.store import SqliteJournal
from keeper.ports import Switch
from keeper.units import WAD
from tests.unit.journal.conftest import IDENTITY, Events, Steps

NOW: dict[str, Any] = {"chain_nonce": 0, "block": 101, "at_s": 1212}


def halt_of(path: Path) -> Path:
    """Return the file that halts the keeper of a journal."""
    return path.with_name("halt")


@pytest.fixture
def file(path: Path, event: Events) -> Iterator[SqliteJournal]:
    each = {EACH: 10**9 * WAD}
    limits = Limits(kill_file=halt_of(path), market_day_wad=each, inventory_wad=each)
    with closing(SqliteJournal(path, identity=IDENTITY, limits=limits)) as journal:
        journal.record([event(case=1)])
        yield journal


def traced(file: SqliteJournal) -> list[str]:
    """Return the list to which each statement is added that the journal runs from now on."""
    said: list[str] = []
    file._db.set_trace_callback(said.append)
    return said


def look_of(said: list[str]) -> set[str]:
    """Return what a permit has looked at, before the first of what it wrote."""
    before = said[: next(number for number, each in enumerate(said) if "INSERT" in each)]
    return {each for each in before if each.startswith(("SELECT", "WITH")) and "FROM cases" not in each}


def pause(file: SqliteJournal) -> None:
    """Have the journal stand otherwise than before."""
    file.throw(Switch.PAUSE, "ETH/USD", on=True, who="a test", why="a look is out of date")


def test_a_rehearsal_looks_at_all_that_a_permit_looks_at(
    file: SqliteJournal, step: Steps, tx: dict[str, Any]
) -> None:
    said = traced(file)
    file.rehearse(step(), **NOW)
    rehearsed = set(said)
    pause(file)
    said.clear()
    assert isinstance(file.reserve(step(), tx, **NOW), Permit)
    assert len(look_of(said)) > 8
    assert look_of(said) <= rehearsed


def test_what_a_rehearsal_saw_a_permit_does_not_look_at_again(
    file: SqliteJournal, step: Steps, event: Events, tx: dict[str, Any]
) -> None:
    said = traced(file)
    file.rehearse(step(), **NOW)
    file.record([event(case=2)])
    said.clear()
    assert isinstance(file.reserve(step(), tx, **NOW), Permit)
    assert look_of(said) == set()
    said.clear()
    assert isinstance(file.reserve(step(case=2), tx, **NOW), Permit)
    assert len(look_of(said)) > 8


def test_of_another_account_a_permit_looks_at_its_own_steps_alone(
    file: SqliteJournal, step: Steps, event: Events, tx: dict[str, Any]
) -> None:
    said = traced(file)
    file.rehearse(step(), **NOW)
    file.record([event(case=2)])
    said.clear()
    assert isinstance(file.reserve(step(case=2), tx, **NOW), Permit)
    assert len(look_of(said)) == 2


def write_beside(file: SqliteJournal) -> None:
    """Have another process throw a switch."""
    with closing(to_switch(file._path, Limits())) as other:
        other.throw(Switch.HALT, "", on=True, who="a test", why="enough")


def write_itself(file: SqliteJournal) -> None:
    file.throw(Switch.HALT, "", on=True, who="a test", why="enough")


def put_a_file(file: SqliteJournal) -> None:
    halt_of(file._path).touch()


def lower_a_limit(file: SqliteJournal) -> None:
    file.reload(Limits(spend_day_wei=1), "a test", "thrift")


@pytest.mark.parametrize(
    ("meanwhile", "rule"),
    [
        (write_beside, "limit.halted"),
        (write_itself, "limit.halted"),
        (put_a_file, "limit.halted"),
        (lower_a_limit, "limit.spend_day"),
    ],
)
def test_what_was_written_since_a_rehearsal_counts(
    file: SqliteJournal,
    step: Steps,
    tx: dict[str, Any],
    meanwhile: Callable[[SqliteJournal], None],
    rule: str,
) -> None:
    file.rehearse(step(), **NOW)
    meanwhile(file)
    refused = file.reserve(step(), tx, **NOW)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == rule


def test_a_permit_since_a_rehearsal_counts(file: SqliteJournal, step: Steps, tx: dict[str, Any]) -> None:
    file.rehearse(step(), **NOW)
    assert isinstance(file.reserve(step(), tx, **NOW), Permit)
    refused = file.reserve(step(), tx, **NOW)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "limit.duplicate"


def test_no_two_permits_of_one_commit_share_a_nonce(
    file: SqliteJournal, step: Steps, event: Events, tx: dict[str, Any]
) -> None:
    file.rehearse(step(), **NOW)
    with file.together():
        file.record([event(case=2)])
        granted = [file.reserve(step(case=case), tx, **NOW) for case in (1, 2)]
    assert [each.nonce for each in granted if isinstance(each, Permit)] == [0, 1]


@pytest.mark.parametrize("moment", [{"chain_nonce": 1}, {"block": 102}, {"at_s": 1213}])
def test_what_a_rehearsal_saw_is_of_its_moment(
    file: SqliteJournal, step: Steps, tx: dict[str, Any], moment: dict[str, int]
) -> None:
    file.rehearse(step(), **NOW)
    said = traced(file)
    assert isinstance(file.reserve(step(), tx, **NOW | moment), Permit)
    assert len(look_of(said)) > 8


def test_a_rehearsal_grants_and_writes_nothing(file: SqliteJournal, step: Steps) -> None:
    said, before = traced(file), file._db.total_changes
    file.rehearse(step(), **NOW)
    assert {each.split()[0] for each in said} == {"BEGIN", "SELECT", "PRAGMA", "COMMIT"}
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
