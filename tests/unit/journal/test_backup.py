"""Copies of a journal, and its rows as lines of JSON, from either store."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from keeper.domain import CaseEvent, EventKind, Head, Permit, Step
from keeper.errors import ConfigError
from keeper.journal import backup
from keeper.journal.db import Shared
from keeper.journal.reader import JournalReader
from keeper.journal.store import SqliteJournal, StoredJournal
from keeper.ports import BidKind, Searched, StepRecord
from tests.unit.journal.conftest import IDENTITY


@pytest.fixture
def filled(
    journal: StoredJournal,
    event: Callable[..., CaseEvent],
    step: Callable[..., Step],
    tx: dict[str, Any],
    head: Callable[[int], Head],
) -> StoredJournal:
    """Fill a journal with three cases, one of them with a step in flight."""
    journal.record([event(case=case, equity_wad=-(10**30)) for case in (3, 1, 2)])
    permit = journal.reserve(step(), tx, chain_nonce=0, block=101, at_s=1212)
    assert isinstance(permit, Permit)
    journal.sign(permit.step_id, b"raw", "0xaa")
    journal.sent(permit.step_id, block=101, at_s=1212)
    journal.note_found([b"\x02" * 32, b"\x01" * 32], Searched(1, 90, "0xab"))
    journal.head_done(head(101))
    return journal


def test_a_backup_is_the_journal_while_the_keeper_goes_on(
    filled: StoredJournal, place: Path | Shared, event: Callable[..., CaseEvent], tmp_path: Path
) -> None:
    target = tmp_path / "copy.sqlite"
    with closing(JournalReader(place)) as reader:
        reader.back_up(target)
    cases, found = filled.open_cases(), list(filled.found())
    filled.record([event(EventKind.CLOSED, case=2)])
    with closing(JournalReader(target)) as copied:
        assert copied.verify() == []
    with closing(SqliteJournal(target, identity=IDENTITY)) as copy:
        assert copy.open_cases() == cases
        assert list(copy.found()) == found
        assert copy.live_steps() == filled.live_steps()
        assert copy.history("case1") == filled.history("case1")
        assert (copy.last_head(), copy.searched()) == (filled.last_head(), filled.searched())
        copy.record([event(case=4)])
        assert copy.last_event() == filled.last_event()


def test_a_backup_takes_the_place_of_nothing(
    filled: StoredJournal, place: Path | Shared, tmp_path: Path
) -> None:
    target = tmp_path / "copy.sqlite"
    target.write_text("of value")
    with closing(JournalReader(place)) as reader:
        with pytest.raises(ConfigError, match="exists already"):
            reader.back_up(target)
        with pytest.raises(ConfigError, match="cannot be written"):
            reader.back_up(tmp_path / "nowhere" / "copy.sqlite")
    assert target.read_text() == "of value"
    assert len(filled.open_cases()) == 3


def test_every_row_is_a_line_however_few_are_read_at_a_time(
    filled: StoredJournal, place: Path | Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "AT_ONCE", 2)
    with closing(JournalReader(place)) as reader:
        lines = [json.loads(line) for line in reader.export()]
    assert [line["case_id"] for line in lines if line["table"] == "cases"] == ["case3", "case1", "case2"]
    assert [line["kind"] for line in lines if line["table"] == "events"] == [
        "Suspected", "Suspected", "Suspected", "Reserved", "Sent"
    ]  # fmt: skip
    [sent] = [line for line in lines if line["table"] == "steps"]
    assert (sent["signed_tx"], sent["unsigned_tx"]["nonce"], sent["account"]) == (
        "0x726177",
        0,
        "0x" + "01" * 32,
    )
    assert lines[-1]["number"] == 101
    assert filled.last_event() == 5


def test_one_case_is_exported_alone_with_its_bids(
    filled: StoredJournal, place: Path | Shared, step: Callable[..., Step], tx: dict[str, Any]
) -> None:
    other = filled.reserve(step(case=2), tx, chain_nonce=0, block=101, at_s=1212)
    assert isinstance(other, Permit)
    filled.sign(other.step_id, b"other", "0xbb")
    filled.sent(other.step_id, block=101, at_s=1212)
    for each in filled.live_steps():
        dearer = {**each.unsigned_tx, "maxFeePerGas": 4 * 10**9}
        assert isinstance(filled.rebid(each.step_id, BidKind.RAISE, dearer, block=103, at_s=1236), StepRecord)
    with closing(JournalReader(place)) as reader:
        lines = [json.loads(line) for line in reader.export("case1")]
        tables = [line["table"] for line in lines]
        assert tables == ["cases", *["events"] * 4, "steps", "sends"]
        assert {line["case_id"] for line in lines[:6]} == {"case1"}
        [of] = {line["step_id"] for line in lines[5:]}
        assert of != other.step_id
        assert lines[6]["unsigned_tx"]["maxFeePerGas"] == 4 * 10**9
        with pytest.raises(ConfigError, match="has no case case9"):
            next(reader.export("case9"))
    assert filled.status("case1") == "in_flight"
