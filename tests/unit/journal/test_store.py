import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from keeper.domain import (
    Account,
    CaseEvent,
    ChainTime,
    EventKind,
    Flag,
    Head,
    Observation,
    Permit,
    Phase,
    Reason,
    Refuse,
    Report,
    Step,
)
from keeper.errors import ConfigError, InvariantBroken, KeeperError
from keeper.journal import rows, store
from keeper.journal.db import Shared
from keeper.journal.guard import Limits
from keeper.journal.migrations import VERSION
from keeper.journal.reader import JournalReader
from keeper.journal.store import SqliteJournal, StoredJournal
from keeper.lifecycle import Status
from keeper.ports import Journal, Outbox, Outcome, Searched, StepRecord, StepState
from keeper.units import WAD
from tests.unit.journal.conftest import Events, Steps, on_sqlite

INCLUDED = Outcome(EventKind.INCLUDED, 103, "0xb103", 1_000_000 * 2 * 10**9)
REVERTED = Outcome(EventKind.REVERTED, 103, "0xb103", 500_000 * 2 * 10**9)


@pytest.fixture
def permitted(
    journal: StoredJournal, event: Callable[..., CaseEvent], step: Callable[..., Step], tx: dict[str, Any]
) -> Permit:
    """Reserve one step of case 1."""
    journal.record([event()])
    permit = journal.reserve(step(), tx, chain_nonce=5, block=101, at_s=1212)
    assert isinstance(permit, Permit)
    return permit


def granted(journal: StoredJournal, step: Step, tx: dict[str, Any]) -> Permit:
    found = journal.reserve(step, tx, chain_nonce=5, block=101, at_s=1212)
    assert isinstance(found, Permit)
    return found


def _sent(journal: StoredJournal, permit: Permit) -> None:
    journal.sign(permit.step_id, b"raw", "0xaa")
    journal.sent(permit.step_id, block=102, at_s=1224)


def test_the_journal_is_what_the_pipeline_and_the_sender_ask_for(journal: StoredJournal) -> None:
    for_pipeline: Journal = journal
    for_sender: Outbox = journal
    assert for_pipeline.last_head() is None
    assert for_sender.live_steps() == ()


def test_events_come_back_as_they_went_in(journal: StoredJournal, event: Callable[..., CaseEvent]) -> None:
    told = event(equity_wad=-(10**30), health=0.97, feeds=["BTC/USD"], note={"über": None})
    journal.record([told])
    assert journal.history("case1") == (told,)
    assert type(journal.history("case1")[0].data["equity_wad"]) is int


def test_bytes_become_hexadecimal_text(journal: StoredJournal, event: Callable[..., CaseEvent]) -> None:
    journal.record([event(flagger=b"\x0a\xff")])
    assert journal.history("case1")[0].data == {"flagger": "0x0aff"}


def test_a_message_goes_in_with_all_its_fields(journal: StoredJournal, event: Events) -> None:
    seen = Observation("BTC/USD", 2**64, 7, 1_200, 1_300)
    act = Flag(b"\x01" * 32, 5 * WAD, ((Report(seen, b"\x02" * 65, "0xab"),),))
    journal.record([event(act=act)])
    report = {"observation": asdict(seen), "signature": "0x" + "02" * 65, "signer": "0xab"}
    told = {"account": "0x" + "01" * 32, "bond_wad": 5 * WAD, "reports": [[report]]}
    assert journal.history("case1")[0].data == {"act": told}


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_what_json_cannot_hold_is_refused(
    journal: StoredJournal, event: Callable[..., CaseEvent], value: object
) -> None:
    with pytest.raises((TypeError, ValueError)):
        journal.record([event(value=value)])
    assert journal.status("case1") is None


def test_a_status_follows_the_lifecycle(journal: StoredJournal, event: Callable[..., CaseEvent]) -> None:
    assert journal.status("case1") is None
    journal.record([event(), event(EventKind.WAITED), event(EventKind.OBSERVED)])
    assert journal.status("case1") is Status.SUSPECTED
    journal.record([event(EventKind.CLOSED)])
    assert journal.status("case1") is Status.CLOSED


def test_a_case_tells_the_rung_of_its_last_alarm_alone(
    journal: StoredJournal, event: Callable[..., CaseEvent]
) -> None:
    journal.record([event(), event(EventKind.MOVED, rung="confirmed")])
    rungs = [journal.open_cases()[0].rung]
    journal.record([event(EventKind.CALLED), event()])
    assert [*rungs, journal.open_cases()[0].rung] == ["confirmed", None]


def test_what_the_lifecycle_forbids_is_refused_with_case_account_and_block(
    journal: StoredJournal, event: Callable[..., CaseEvent]
) -> None:
    with pytest.raises(InvariantBroken, match=r"case case1, account 0101.*, block 100: .*new.*Waited"):
        journal.record([event(EventKind.WAITED)])


def test_one_forbidden_event_undoes_the_whole_record(
    journal: StoredJournal, event: Callable[..., CaseEvent]
) -> None:
    with pytest.raises(InvariantBroken):
        journal.record([event(), event(EventKind.CLOSED), event(EventKind.WAITED)])
    assert journal.status("case1") is None
    assert journal.history("case1") == ()


def test_events_of_a_transaction_cannot_be_recorded_past_its_step(
    journal: StoredJournal, event: Callable[..., CaseEvent]
) -> None:
    journal.record([event()])
    for kind in (EventKind.RESERVED, EventKind.SENT, EventKind.INCLUDED, EventKind.UNINCLUDED):
        with pytest.raises(InvariantBroken, match="belongs to a step"):
            journal.record([event(kind)])


def test_an_account_is_in_one_open_case_at_a_time(
    journal: StoredJournal, event: Callable[..., CaseEvent]
) -> None:
    journal.record([event()])
    assert journal.open_case(b"\x01" * 32) == "case1"
    second = CaseEvent("case1b", b"\x01" * 32, EventKind.SUSPECTED, 101, 1212, {})
    with pytest.raises(InvariantBroken, match="under care already, as case case1"):
        journal.record([second])
    journal.record([event(EventKind.CLOSED), second])
    assert journal.open_case(b"\x01" * 32) == "case1b"
    assert [case.case_id for case in journal.open_cases()] == ["case1b"]


def test_a_case_keeps_its_account(journal: StoredJournal, event: Callable[..., CaseEvent]) -> None:
    journal.record([event()])
    with pytest.raises(InvariantBroken, match="is that of account 0101"):
        journal.record([CaseEvent("case1", b"\x02" * 32, EventKind.WAITED, 101, 1212, {})])


def test_a_permit_carries_the_stored_transaction_with_its_nonce(
    journal: StoredJournal, permitted: Permit, tx: dict[str, Any]
) -> None:
    assert permitted.unsigned_tx == tx | {"nonce": 5}
    stored = journal.step(permitted.step_id)
    assert stored.unsigned_tx == permitted.unsigned_tx
    assert stored.state is StepState.RESERVED
    assert journal.status("case1") is Status.RESERVED
    reserved = journal.history("case1")[-1]
    assert reserved.kind is EventKind.RESERVED
    assert reserved.data["act"] == {"account": "0x" + "01" * 32, "bond_wad": 5 * 10**18, "reports": []}


class Asked:
    """Answers with the values it is asked for."""

    def __init__(self) -> None:
        self.statements: set[str] = set()

    def execute(self, sql: str, values: list[object]) -> list[object]:
        self.statements.add(sql)
        assert sql.count("?") == len(values) <= 512
        return list(dict.fromkeys(values))


def test_lists_of_any_length_are_looked_up_by_few_statements() -> None:
    asked: Any = Asked()
    for count in range(1_200):
        assert list(rows._looked_up(asked, "IN ({})", range(count))) == list(range(count))
    assert len(asked.statements) == 10


def test_a_step_is_as_written_in_the_commit_of_its_permit(
    journal: StoredJournal, event: Events, step: Steps, tx: dict[str, Any]
) -> None:
    with journal.together():
        journal.record([event()])
        permit = granted(journal, step(), tx)
        permitted = journal.step(permit.step_id)
        journal.sign(permit.step_id, b"raw", "0xaa")
        signed = journal.step(permit.step_id)
    assert signed == journal.step(permit.step_id) == replace(permitted, signed_tx=b"raw", tx_hash="0xaa")
    assert permitted.unsigned_tx == permit.unsigned_tx


def test_a_permit_that_was_taken_back_leaves_no_step(
    journal: StoredJournal, event: Events, step: Steps, tx: dict[str, Any]
) -> None:
    journal.record([event()])

    def take_back() -> None:
        with journal.together():
            permit = granted(journal, step(), tx)
            raise KeyError(permit.step_id)

    with pytest.raises(KeyError) as raised:
        take_back()
    with pytest.raises(InvariantBroken, match="knows no step"):
        journal.step(raised.value.args[0])


def test_nobody_sees_a_step_before_its_permit_is_committed(
    journal: StoredJournal, event: Events, step: Steps, tx: dict[str, Any]
) -> None:
    seen: list[StepRecord] = []
    with journal.together():
        journal.record([event()])
        permit = granted(journal, step(), tx)
        looking = threading.Thread(target=lambda: seen.append(journal.step(permit.step_id)))
        looking.start()
        looking.join(timeout=0.1)
        assert seen == []
    looking.join(timeout=5)
    assert [each.step_id for each in seen] == [permit.step_id]


def test_a_step_goes_from_permit_to_inclusion_together_with_its_case(
    journal: StoredJournal, permitted: Permit
) -> None:
    _sent(journal, permitted)
    assert journal.status("case1") is Status.IN_FLIGHT
    journal.settle(permitted.step_id, INCLUDED, at_s=1236)
    settled = journal.step(permitted.step_id)
    assert (settled.state, settled.outcome) == (StepState.INCLUDED, INCLUDED)
    assert journal.status("case1") is Status.SETTLED
    assert journal.live_steps() == ()
    assert journal.settled_since(103) == (settled,)
    assert journal.settled_since(104) == ()
    last = journal.history("case1")[-1]
    assert (last.kind, last.block, last.data["tx_hash"]) == (EventKind.INCLUDED, 103, "0xaa")
    assert last.data["gas_cost_wei"] == INCLUDED.gas_cost_wei


def test_a_reorg_puts_a_step_back_in_flight_even_when_its_case_is_closed(
    journal: StoredJournal, permitted: Permit, event: Callable[..., CaseEvent]
) -> None:
    _sent(journal, permitted)
    journal.settle(permitted.step_id, INCLUDED, at_s=1236)
    journal.record([event(EventKind.CLOSED, block=104)])
    journal.unsettle(permitted.step_id, block=104, at_s=1248)
    back = journal.step(permitted.step_id)
    assert (back.state, back.outcome) == (StepState.SENT, None)
    assert journal.status("case1") is Status.IN_FLIGHT
    journal.settle(permitted.step_id, REVERTED, at_s=1260)
    assert journal.status("case1") is Status.SETTLED


def test_a_second_hash_for_a_step_is_refused(journal: StoredJournal, permitted: Permit) -> None:
    journal.sign(permitted.step_id, b"raw", "0xaa")
    journal.sign(permitted.step_id, b"raw", "0xaa")
    with pytest.raises(InvariantBroken, match="as 0xaa, not as 0xbb"):
        journal.sign(permitted.step_id, b"other", "0xbb")
    assert journal.step(permitted.step_id).signed_tx == b"raw"


def test_nothing_is_sent_before_its_signed_bytes_are_committed(
    journal: StoredJournal, permitted: Permit
) -> None:
    with pytest.raises(InvariantBroken, match="before its signed bytes"):
        journal.sent(permitted.step_id, block=102, at_s=1224)


def test_sent_twice_is_one_event(journal: StoredJournal, permitted: Permit) -> None:
    _sent(journal, permitted)
    journal.sent(permitted.step_id, block=103, at_s=1236)
    assert [e.kind for e in journal.history("case1")].count(EventKind.SENT) == 1


def test_a_step_cannot_settle_before_it_was_sent_nor_twice(journal: StoredJournal, permitted: Permit) -> None:
    with pytest.raises(InvariantBroken, match="is reserved and cannot become included"):
        journal.settle(permitted.step_id, INCLUDED, at_s=1236)
    _sent(journal, permitted)
    journal.settle(permitted.step_id, INCLUDED, at_s=1236)
    with pytest.raises(InvariantBroken, match="is included and cannot become reverted"):
        journal.settle(permitted.step_id, REVERTED, at_s=1236)
    assert journal.step(permitted.step_id).outcome == INCLUDED


def test_a_sent_step_cannot_be_abandoned(journal: StoredJournal, permitted: Permit) -> None:
    _sent(journal, permitted)
    with pytest.raises(InvariantBroken, match="is sent and cannot become abandoned"):
        journal.abandon(permitted.step_id, Reason("send.refused", "a", "b"), block=102, at_s=1224)


def test_an_abandoned_step_frees_its_nonce_for_the_next_attempt(
    journal: StoredJournal,
    permitted: Permit,
    event: Callable[..., CaseEvent],
    step: Callable[..., Step],
    tx: dict[str, Any],
) -> None:
    journal.abandon(permitted.step_id, Reason("send.refused", "a", "b"), block=102, at_s=1224)
    assert journal.status("case1") is Status.SETTLED
    journal.record([event(block=102)])
    again = journal.reserve(step(), tx, chain_nonce=5, block=102, at_s=1224)
    assert isinstance(again, Permit)
    assert again.nonce == permitted.nonce
    assert (permitted.step_id, again.step_id) == ("case1:flag:-:1", "case1:flag:-:2")


def test_nonces_go_on_from_what_is_held_and_from_what_the_chain_says(
    journal: StoredJournal, event: Callable[..., CaseEvent], step: Callable[..., Step], tx: dict[str, Any]
) -> None:
    nonces = []
    for case, chain_nonce in [(1, 5), (2, 5), (3, 9), (4, 5)]:
        journal.record([event(case=case)])
        permit = journal.reserve(step(case=case), tx, chain_nonce=chain_nonce, block=101, at_s=1212)
        assert isinstance(permit, Permit)
        nonces.append(permit.nonce)
    assert nonces == [5, 6, 9, 7]


def test_an_unknown_step_is_our_own_fault(journal: StoredJournal) -> None:
    with pytest.raises(InvariantBroken, match="knows no step nowhere"):
        journal.step("nowhere")


def test_the_last_head_done_comes_back(journal: StoredJournal, head: Callable[[int], Head]) -> None:
    assert journal.last_head() is None
    journal.head_done(head(7))
    journal.head_done(head(6))
    assert journal.last_head() == head(6)


def test_old_heads_are_forgotten(
    journal: StoredJournal, head: Callable[[int], Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "HEADS_KEPT", 3)
    for number in range(10):
        journal.head_done(head(number))
    assert [number for (number,) in journal._rows("SELECT number FROM heads ORDER BY seq")] == [7, 8, 9]


@pytest.mark.parametrize(
    ("key", "value"), [("chain_id", "1"), ("deployment", "0x" + "aa" * 20), ("wallet", "0x" + "bb" * 20)]
)
def test_a_journal_of_another_chain_deployment_or_wallet_is_refused_with_both_values(
    journal: StoredJournal,
    open_journal: Callable[..., StoredJournal],
    place: Path | Shared,
    key: str,
    value: str,
) -> None:
    with pytest.raises(ConfigError) as refused:
        open_journal(**{key: value})
    expected = JournalReader(place)
    assert key in str(refused.value)
    assert value in str(refused.value)
    assert expected.identity[key] in str(refused.value)
    assert str(place) in str(refused.value)
    expected.close()
    assert journal.open_cases() == ()


def test_upper_case_in_an_address_makes_no_other_identity(
    journal: StoredJournal, open_journal: Callable[..., StoredJournal]
) -> None:
    assert open_journal(wallet="0x" + "E2" * 20).open_cases() == journal.open_cases()


def test_another_schema_is_refused(
    journal: StoredJournal, open_journal: Callable[..., StoredJournal]
) -> None:
    journal._db.execute("UPDATE meta SET value = '0' WHERE key = 'schema'")
    with pytest.raises(ConfigError, match=f"schema is 0, and this keeper knows 1 to {VERSION}"):
        open_journal()


@on_sqlite
def test_a_file_that_is_no_database_is_refused(
    open_journal: Callable[..., StoredJournal], path: Path
) -> None:
    path.write_bytes(b"not a database at all" * 500)
    with pytest.raises(ConfigError, match="cannot be used: file is not a database"):
        open_journal()


@on_sqlite
def test_another_programs_database_is_left_alone(
    open_journal: Callable[..., StoredJournal], path: Path
) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE photographs (name TEXT)")
    db.close()
    with pytest.raises(ConfigError, match="not a keeper's journal"):
        open_journal()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("photographs",)]
    db.close()


@pytest.mark.parametrize("where", ["missing/journal.db", "."])
def test_a_place_without_a_file_is_refused(tmp_path: Path, where: str) -> None:
    with pytest.raises(ConfigError, match="unable to open database file"):
        SqliteJournal(tmp_path / where, identity={"chain_id": "1"})


def test_ten_racing_threads_get_one_permit(
    open_journal: Callable[..., StoredJournal],
    event: Callable[..., CaseEvent],
    step: Callable[..., Step],
    tx: dict[str, Any],
) -> None:
    journals = [open_journal() for _ in range(10)]
    journals[0].record([event()])
    together = threading.Barrier(10)

    def reserve(journal: StoredJournal) -> Permit | Refuse:
        together.wait()
        return journal.reserve(step(), tx, chain_nonce=0, block=101, at_s=1212)

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(reserve, journals))
    refusals = [answer for answer in answers if isinstance(answer, Refuse)]
    assert len(refusals) == 9
    assert {refusal.reason.rule for refusal in refusals} == {"limit.duplicate"}


def test_ten_threads_may_share_one_journal(
    journal: StoredJournal, event: Callable[..., CaseEvent], step: Callable[..., Step], tx: dict[str, Any]
) -> None:
    def reserve(case: int) -> Permit | Refuse:
        journal.record([event(case=case)])
        return journal.reserve(step(case=case), tx, chain_nonce=0, block=101, at_s=1212)

    with ThreadPoolExecutor(10) as pool:
        permits = [permit for permit in pool.map(reserve, range(1, 11)) if isinstance(permit, Permit)]
    assert sorted(permit.nonce for permit in permits) == list(range(10))


# --- accounts -------------------------------------------------------------------------------------


def test_what_was_found_and_searched_comes_back(open_journal: Callable[..., StoredJournal]) -> None:
    journal = open_journal()
    assert (list(journal.found()), journal.searched()) == ([], None)
    journal.note_found([b"\x01" * 32, b"\x02" * 32], None)
    journal.note_found([b"\x02" * 32], Searched(5, 90, "0xab"))
    journal.note_found([], Searched(5, 120, "0xcd"))
    again = open_journal()
    assert list(again.found()) == [[b"\x01" * 32, b"\x02" * 32]]
    assert again.searched() == Searched(5, 120, "0xcd")
    again.note_found([], Searched(5, 121, "0xce", "0xa 0xb"))
    assert open_journal().searched() == Searched(5, 121, "0xce", "0xa 0xb")


def test_a_journal_from_before_there_were_accounts_in_it_goes_on(
    open_journal: Callable[..., StoredJournal],
) -> None:
    journal = open_journal()
    for table in ("accounts", "searched", "search_scope", "differences", "healed"):
        journal._db.execute(f"DROP TABLE {table}")
    assert list(open_journal().found()) == []
    assert open_journal().unhealed() == 0


def test_many_accounts_are_found_some_at_a_time(
    journal: StoredJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "ACCOUNTS_AT_ONCE", 3)
    keys = [bytes(31) + bytes([number]) for number in range(8)]
    journal.note_found(reversed(keys), None)
    assert list(journal.found()) == [keys[:3], keys[3:6], keys[6:]]


def test_differences_are_unhealed_until_a_later_note(journal: StoredJournal) -> None:
    head, account = Head(5, "0x5", "0x4", 12, 1), Account(bytes(32), Phase.HEALTHY, 0, (), ())
    for _ in range(2):
        journal.note_difference(head, account, replace(account, cash_wad=1))
    assert journal.unhealed() == 2
    journal.note_healed()
    assert journal.unhealed() == 0
    journal.note_difference(head, account, replace(account, cash_wad=1))
    assert journal.unhealed() == 1


def test_many_events_of_many_cases_are_one_batch(
    journal: StoredJournal, event: Callable[..., CaseEvent]
) -> None:
    called = event(EventKind.CALLED)
    opened = [
        replace(called, case_id=f"case{number}", account=number.to_bytes(32)) for number in range(1_200)
    ]
    again = [replace(each, kind=EventKind.SUSPECTED) for each in opened]
    journal.record([*opened, *again, opened[7]])
    assert [case.status for case in journal.open_cases()].count(Status.SUSPECTED) == 1_199
    assert [each.kind for each in journal.history("case7")] == ["Called", "Suspected", "Called"]


def test_a_batch_is_written_whole_or_not_at_all(
    journal: StoredJournal, event: Callable[..., CaseEvent]
) -> None:
    with pytest.raises(InvariantBroken, match="case2"):
        journal.record([event(), event(EventKind.WAITED, case=2)])
    assert journal.open_cases() == ()


def test_a_case_tells_its_first_suspicion_since_the_last_call(
    journal: StoredJournal, event: Callable[..., CaseEvent]
) -> None:
    def suspected() -> ChainTime | None:
        return journal.open_cases()[0].suspected

    journal.record([event(EventKind.CALLED)])
    assert suspected() is None
    journal.record([replace(event(), block=104, at_s=1248), replace(event(), block=105, at_s=1260)])
    assert suspected() == ChainTime(104, 1248)
    journal.record([event(EventKind.CALLED), replace(event(), block=109, at_s=1308)])
    assert suspected() == ChainTime(109, 1308)


def test_a_journal_tells_whose_cases_moved_since_an_event(
    journal: StoredJournal, event: Callable[..., CaseEvent]
) -> None:
    journal.record([event(EventKind.CALLED), event(case=2), event(EventKind.OBSERVED)])
    assert set(journal.moved_since(0)) == {event(case=2).account}
    since = journal.last_event()
    assert journal.moved_since(since) == {}
    closed = event(EventKind.CLOSED, case=2)
    journal.record([closed])
    assert journal.moved_since(since) == {closed.account: None}


def test_what_need_not_last_is_written_and_undone_like_all_else(
    journal: StoredJournal, event: Callable[..., CaseEvent]
) -> None:
    with journal.together(lasting=False):
        journal.record([event(case=1)])
    unknown = event(EventKind.CLOSED, case=2)
    with pytest.raises(InvariantBroken), journal.together(lasting=False):
        journal.record([event(case=3), unknown])
    assert [journal.status(case) for case in ("case1", "case3")] == [Status.SUSPECTED, None]


READS: dict[str, Callable[[StoredJournal], object]] = {
    "open case": lambda journal: journal.open_case(b"\x01" * 32),
    "record": lambda journal: journal.record_at(1_212),
    "held": lambda journal: journal.held(None, Limits(), 0, 101, 1_212),
    "bids": lambda journal: journal._to_steps(
        [{"step_id": "one", "nonce": 5, "place": 0, "state": "sent", "returned_block": None}]
    ),
    "next nonce": lambda journal: journal.next_nonce(),
    "switches": lambda journal: journal.thrown(),
}


@pytest.mark.parametrize("read", READS)
def test_whoever_asks_a_journal_that_is_gone_is_told_so(journal: StoredJournal, read: str) -> None:
    journal._db.close()
    with pytest.raises(KeeperError, match=f"{journal._name} cannot be read"):
        READS[read](journal)
