"""Whatever happens, in whatever order: the lifecycle's rules hold, and so does the journal's word."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from keeper.domain import Agree, CaseEvent, EventKind, Liquidate, Permit, Reason, Refuse, Step
from keeper.errors import InvariantBroken
from keeper.journal.guard import Limits
from keeper.journal.reader import JournalReader
from keeper.journal.store import SqliteJournal
from keeper.lifecycle import OUTCOMES, TABLE, Status, advance, diagram, fold
from keeper.ports import Outcome, StepRecord, StepState
from keeper.units import WAD

E, S = EventKind, Status

kinds = st.lists(st.sampled_from(EventKind), max_size=40)


def lived(attempts: list[EventKind]) -> list[CaseEvent]:
    """Return the history of a case that took every event it could."""
    history: list[CaseEvent] = []
    status: Status | None = None
    for kind in attempts:
        if (status, kind) in TABLE:
            status = advance(status, kind)
            history.append(CaseEvent("case", b"\x01" * 32, kind, 1, 12, {}))
    return history


@given(kinds)
def test_an_event_moves_a_case_by_the_table_or_not_at_all(attempts: list[EventKind]) -> None:
    status: Status | None = None
    for kind in attempts:
        if (status, kind) in TABLE:
            status = advance(status, kind)
        else:
            with pytest.raises(InvariantBroken, match=kind):
                advance(status, kind)


@given(kinds)
def test_a_status_is_the_fold_of_its_history_from_any_point_on(attempts: list[EventKind]) -> None:
    history = lived(attempts)
    status: Status | None = None
    for seen, event in enumerate(history):
        assert fold(history[:seen]) is status
        status = advance(status, event.kind)
    assert fold(history) is status


@given(kinds)
def test_in_flight_is_left_on_chain_evidence_only(attempts: list[EventKind]) -> None:
    history = lived(attempts)
    for seen, event in enumerate(history):
        before, after = fold(history[:seen]), fold(history[: seen + 1])
        if before is S.IN_FLIGHT and after is not S.IN_FLIGHT:
            assert event.kind in OUTCOMES


@given(kinds)
def test_a_case_is_never_reserved_twice_without_an_end_between(attempts: list[EventKind]) -> None:
    reserved = False
    for event in lived(attempts):
        if event.kind is E.RESERVED:
            assert not reserved
            reserved = True
        elif event.kind in {*OUTCOMES, E.ABANDONED, E.UNINCLUDED}:
            reserved = False


@given(kinds)
def test_what_the_chain_shows_of_an_account_never_moves_its_case(attempts: list[EventKind]) -> None:
    history = lived(attempts)
    without = [event for event in history if event.kind not in {E.OBSERVED, E.MOVED}]
    assert fold(history) is fold(without)


@given(kinds)
def test_nothing_is_reserved_of_an_account_that_is_only_called(attempts: list[EventKind]) -> None:
    history = lived(attempts)
    for seen, event in enumerate(history):
        if event.kind is E.RESERVED:
            assert fold(history[:seen]) is S.SUSPECTED


def test_every_status_can_be_reached_and_closed() -> None:
    def closure(pairs: set[tuple[Status | None, Status | None]], start: Status | None) -> set[Status | None]:
        found, grown = set[Status | None](), {start}
        while grown != found:
            found = grown
            grown = found | {target for source, target in pairs if source in found}
        return found

    forward: set[tuple[Status | None, Status | None]] = {
        (source, target) for (source, _), target in TABLE.items()
    }
    assert closure(forward, None) == {None, *Status}
    assert closure({(target, source) for source, target in forward}, S.CLOSED) == {None, *Status}


@pytest.mark.parametrize("status", Status)
def test_the_diagram_shows_every_status(status: Status) -> None:
    assert f"    {status} -->" in diagram()
    assert f"--> {status}:" in diagram()


class Keeping(RuleBasedStateMachine):
    """Drive two accounts through everything that can happen; the file is opened anew at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "journal.db"
        self.block = 100
        self.hashes: dict[str, str] = {}
        self.nonces: dict[int, str] = {}
        self.opened = 0
        self.journal = self._open()

    def _open(self) -> SqliteJournal:
        limits = Limits(spend_day_wei=WAD, attempts_hour=4, backoff_s=24)
        return SqliteJournal(self.path, identity={"chain_id": "1"}, limits=limits)

    def teardown(self) -> None:
        self.journal.close()
        self.folder.cleanup()

    @property
    def at_s(self) -> int:
        return self.block * 12

    def _event(self, case_id: str, account: bytes, kind: EventKind) -> CaseEvent:
        return CaseEvent(case_id, account, kind, self.block, self.at_s, {})

    def _live(self, which: int) -> StepRecord | None:
        live = self.journal.live_steps()
        return live[which % len(live)] if live else None

    @rule(blocks=st.integers(1, 200))
    def time_passes(self, blocks: int) -> None:
        self.block += blocks

    @rule()
    def restart(self) -> None:
        self.journal.close()
        self.journal = self._open()

    def _suspect(self, account: bytes) -> str:
        case_id = self.journal.open_case(account)
        if case_id is None:
            self.opened += 1
            case_id = f"case{self.opened}"
        if (self.journal.status(case_id), E.SUSPECTED) in TABLE:
            self.journal.record([self._event(case_id, account, E.SUSPECTED)])
        return case_id

    @rule(who=st.sampled_from([1, 2]), kind=st.sampled_from([E.CALLED, E.MOVED]))
    def call(self, who: int, kind: EventKind) -> None:
        account = bytes([who]) * 32
        case_id = self.journal.open_case(account)
        if case_id is None:
            self.opened += 1
            case_id = f"case{self.opened}"
        if (self.journal.status(case_id), kind) in TABLE:
            self.journal.record([self._event(case_id, account, kind)])

    @rule(who=st.sampled_from([1, 2]), tranche=st.integers(0, 3), stale=st.integers(0, 3))
    def reserve(self, who: int, tranche: int, stale: int) -> None:
        account = bytes([who]) * 32
        case_id = self._suspect(account)
        if self.journal.status(case_id) is not S.SUSPECTED:
            return
        nonce = max([*self.nonces, -1]) + 1
        act = Liquidate(account, b"\x09" * 32, nonce * 4 + tranche, 10**6, 0, WAD, 0)
        step = Step(case_id, act, self.block + 9, 10**6, WAD)
        tx = {"to": "0x" + "d1" * 20, "gas": 10**6, "maxFeePerGas": 10**10}
        busy = any(live.account == account for live in self.journal.live_steps())
        answer = self.journal.reserve(
            step,
            tx,
            agreed=Agree("both clocks", account=account, block=self.block + 1),
            chain_nonce=max(nonce - stale, 0),
            block=self.block,
            at_s=self.at_s,
        )
        if isinstance(answer, Permit):
            assert not busy
            assert answer.nonce not in self.nonces
            self.nonces[answer.nonce] = answer.step_id
        else:
            assert isinstance(answer, Refuse)

    @rule(which=st.integers(0, 9))
    def sign(self, which: int) -> None:
        step = self._live(which)
        if step is not None:
            self._sign(step)

    def _sign(self, step: StepRecord) -> None:
        tx_hash = self.hashes.setdefault(step.step_id, f"0x{len(self.hashes)}")
        self.journal.sign(step.step_id, tx_hash.encode(), tx_hash)

    @rule(which=st.integers(0, 9))
    def sign_otherwise(self, which: int) -> None:
        step = self._live(which)
        if step is not None and step.signed_tx is not None:
            with pytest.raises(InvariantBroken):
                self.journal.sign(step.step_id, b"other", "0xother")

    @rule(which=st.integers(0, 9))
    def send(self, which: int) -> None:
        step = self._live(which)
        if step is not None:
            self._sign(step)
            self.journal.sent(step.step_id, block=self.block, at_s=self.at_s)

    @rule(which=st.integers(0, 9))
    def abandon(self, which: int) -> None:
        step = self._live(which)
        if step is not None and step.state is StepState.RESERVED:
            reason = Reason("send.refused", "found", "expected")
            self.journal.abandon(step.step_id, reason, block=self.block, at_s=self.at_s)
            del self.nonces[step.nonce]

    @rule(which=st.integers(0, 9), kind=st.sampled_from(OUTCOMES))
    def send_and_settle(self, which: int, kind: EventKind) -> None:
        step = self._live(which)
        if step is not None:
            self._sign(step)
            self.journal.sent(step.step_id, block=self.block, at_s=self.at_s)
            outcome = Outcome(kind, self.block, f"0xb{self.block}", 10**15)
            self.journal.settle(step.step_id, outcome, at_s=self.at_s)

    @rule(depth=st.integers(0, 500))
    def reorganise(self, depth: int) -> None:
        for step in self.journal.settled_since(self.block - depth):
            self.journal.unsettle(step.step_id, block=self.block, at_s=self.at_s)

    @rule(who=st.sampled_from([1, 2]))
    @precondition(lambda self: not self.journal.live_steps())
    def close(self, who: int) -> None:
        account = bytes([who]) * 32
        case_id = self.journal.open_case(account)
        if case_id is not None and (self.journal.status(case_id), E.CLOSED) in TABLE:
            self.journal.record([self._event(case_id, account, E.CLOSED)])

    @invariant()
    def the_journal_keeps_its_word(self) -> None:
        reader = JournalReader(self.path)
        try:
            assert reader.verify() == []
        finally:
            reader.close()


TestKeeping = Keeping.TestCase
TestKeeping.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
