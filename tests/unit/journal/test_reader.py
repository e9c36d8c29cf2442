from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keeper.domain import Agree, CaseEvent, EventKind, Head, Permit, Step
from keeper.errors import ConfigError
from keeper.journal.db import Shared
from keeper.journal.reader import JournalReader
from keeper.journal.store import StoredJournal
from keeper.ports import Outcome
from tests.unit.journal.conftest import on_sqlite


@pytest.fixture
def reader(
    place: Path | Shared,
    journal: StoredJournal,
    event: Callable[..., CaseEvent],
    step: Callable[..., Step],
    tx: dict[str, Any],
) -> Iterator[JournalReader]:
    """Read a journal of three cases: one tranche included, one in flight, one that waits."""
    for case in (1, 2):
        journal.record([event(case=case)])
        agreed = Agree("both clocks", account=bytes([case]) * 32, block=102)
        permit = journal.reserve(
            step(case=case, tranche=0), tx, agreed=agreed, chain_nonce=0, block=101, at_s=1212
        )
        assert isinstance(permit, Permit)
        journal.sign(permit.step_id, b"raw", f"0x{case}")
        journal.sent(permit.step_id, block=101, at_s=1212, data={"tick_to_tx_ms": 1.5 * case})
    journal.settle("case1:liquidate:0:1", Outcome(EventKind.INCLUDED, 102, "0xb", 10), at_s=1224)
    waited = event(EventKind.WAITED, case=3, rule="confirm.stale", evidence="71 s", bound="60 s")
    journal.record([event(case=3), waited, waited, event(EventKind.REFUSED, case=3, rule="plan.profit")])
    reader = JournalReader(place)
    yield reader
    reader.close()


def test_a_summary_counts_cases_events_steps_and_reasons(reader: JournalReader) -> None:
    summary = reader.summary()
    assert summary.cases == {"in_flight": 1, "settled": 1, "suspected": 1}
    assert summary.events == {
        "Suspected": 3, "Reserved": 2, "Sent": 2, "Included": 1, "Waited": 2, "Refused": 1
    }  # fmt: skip
    assert summary.steps == {"included": 1, "sent": 1}
    assert summary.reasons == {"Waited": {"confirm.stale": 2}, "Refused": {"plan.profit": 1}}


def test_latencies_come_in_the_order_of_sending(reader: JournalReader) -> None:
    assert reader.tick_to_tx_ms() == [1.5, 3.0]


def test_a_head_is_done_by_its_number_or_by_exactly_its_hash(
    reader: JournalReader, journal: StoredJournal, head: Callable[[int], Head]
) -> None:
    assert not reader.head_done(7)
    journal.head_done(head(7))
    assert reader.head_done(7)
    assert reader.head_done(6)
    assert not reader.head_done(8)
    assert reader.head_done(7, head(7).hash)
    assert not reader.head_done(7, "0xdead")


@on_sqlite
def test_a_head_is_looked_up_by_an_index(reader: JournalReader) -> None:
    query = "EXPLAIN QUERY PLAN SELECT 1 FROM heads WHERE number >= 5 LIMIT 1"
    assert "INDEX heads_by_number" in reader._db.execute(query).fetchone()["detail"]


def test_a_reader_cannot_write(reader: JournalReader) -> None:
    with pytest.raises(reader._db.Fault, match=r"read-?only"):
        reader._db.execute("DELETE FROM events")


def test_a_reader_needs_a_journal(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: there is no such file"):
        JournalReader(tmp_path / "none.db")
    (tmp_path / "empty.db").touch()
    with pytest.raises(ConfigError, match=r"cannot be read: it is empty, or no keeper's journal"):
        JournalReader(tmp_path / "empty.db")


def test_a_sound_journal_has_no_violations(reader: JournalReader) -> None:
    assert reader.verify() == []


DAMAGE = {
    "status": (
        "UPDATE cases SET status = 'settled' WHERE case_id = 'case3'",
        "case case3 is settled, and its events lead to suspected",
    ),
    "history": (
        "DELETE FROM events WHERE case_id = 'case3' AND kind = 'Suspected'",
        "case case3: a case that is new cannot take the event Waited",
    ),
    "tranche": (
        "UPDATE steps SET state = 'included', account = (SELECT account FROM cases WHERE case_id = 'case1')",
        f"tranche 0 of account {'01' * 32} was included several times",
    ),
    "hash": (
        "UPDATE steps SET tx_hash = '0xff' WHERE case_id = 'case2'",
        "has hashes that were not signed: 0x2",
    ),
    "nonce": (
        "DROP INDEX one_nonce_one_transaction; UPDATE steps SET nonce = 0",
        "nonce 0 is held by several steps",
    ),
    "transaction": (
        "UPDATE steps SET nonce = 7 WHERE case_id = 'case2'",
        "holds nonce 7, and its transaction another",
    ),
    "state": (
        "UPDATE steps SET state = 'reserved' WHERE case_id = 'case2'",
        "step case2:liquidate:0:1 is reserved, and its events say otherwise",
    ),
    "outcome": ("UPDATE steps SET outcome_block = NULL", "is included with the outcome None"),
    "bytes": ("UPDATE steps SET signed_tx = NULL WHERE case_id = 'case2'", "is sent without signed bytes"),
    "step": (
        "DELETE FROM steps WHERE case_id = 'case2'",
        "tell of step case2:liquidate:0:1, which is missing",
    ),
}


@pytest.mark.parametrize(("damage", "violation"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found_and_named(
    reader: JournalReader, journal: StoredJournal, damage: str, violation: str
) -> None:
    for statement in damage.split("; "):
        journal._db.execute(statement)
    assert any(violation in found for found in reader.verify()), reader.verify()
