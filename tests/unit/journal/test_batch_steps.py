"""Steps of several accounts in one transaction: each has a permit, limits and an outcome of its own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keeper.domain import Agree, Booking, EventKind, Permit, Reason, Refuse, Rival
from keeper.errors import InvariantBroken
from keeper.journal import runs, tally
from keeper.journal.guard import Limits
from keeper.journal.reader import JournalReader
from keeper.journal.store import SqliteJournal, StoredJournal
from keeper.ports import NOTHING_MORE, Aftermath, BidKind, Outcome, StepState
from keeper.units import WAD
from tests.unit.journal.conftest import IDENTITY, Events, Journals, Steps, on_sqlite

E, S = EventKind, StepState
GAS, FEE = 1_000_000, 3 * 10**9
AT: Mapping[str, Any] = {"block": 101, "at_s": 101 * 12}


class Batch:
    """A journal, and the acts of some cases in one transaction of it."""

    def __init__(self, journal: StoredJournal, event: Events, step: Steps, tx: Mapping[str, Any]) -> None:
        self.journal, self._event, self._step, self._tx = journal, event, step, tx
        self.permits: list[Permit] = []

    def ask(self, case: int, *, tranche: int | None = None, **asked: Any) -> Permit | Refuse:
        """Ask for one more act in the transaction, or for the first one."""
        if self.journal.status(f"case{case}") is None:
            self.journal.record([self._event(case=case)])
        joins = self.permits[0] if self.permits else None
        acts = len(self.permits) + 1
        tx = {**self._tx, "data": "0x" + "12" * acts, "gas": GAS * acts}
        return self.journal.reserve(
            self._step(case=case, tranche=tranche, notional_wad=WAD), tx,
            **{"chain_nonce": 5, "block": 100, "at_s": 1_200, "joins": joins, **asked},
        )  # fmt: skip

    def take(self, *cases: int) -> list[str]:
        """Have cases join, each with its permit; return their steps."""
        for case in cases:
            granted = self.ask(case)
            assert isinstance(granted, Permit)
            self.permits.append(granted)
        return self.steps

    @property
    def steps(self) -> list[str]:
        return [each.step_id for each in self.permits]

    def send(self) -> None:
        self.journal.sign(self.steps[0], b"signed", "0xaa")
        self.journal.sent(self.steps[0], **AT)

    def states(self) -> list[StepState]:
        return [self.journal.step(each).state for each in self.steps]

    def settle(self, *kinds: EventKind, said: tuple[Aftermath, ...] = (NOTHING_MORE,)) -> None:
        first, *others = (Outcome(kind, 102, "0xb102", 70 + at, "0xaa") for at, kind in enumerate(kinds))
        outcome = replace(first, carried=tuple(others))
        self.journal.settle(self.steps[0], outcome, at_s=1_224, aftermath=said[0], carried=said[1:])


@pytest.fixture
def batch(journal: StoredJournal, event: Events, step: Steps, tx: dict[str, Any]) -> Batch:
    return Batch(journal, event, step, tx)


@pytest.fixture
def flaws(place: Any) -> Any:
    """What a journal contradicts of itself."""

    def _flaws() -> list[str]:
        with closing(JournalReader(place)) as reader:
            return reader.verify()

    return _flaws


# --- the door ---


def test_acts_share_a_nonce_and_the_cost_of_one_transaction(batch: Batch, journal: StoredJournal) -> None:
    batch.take(1, 2, 3)
    assert [each.nonce for each in batch.permits] == [5, 5, 5]
    [carrier] = journal.live_steps()
    assert carrier.step_id == batch.steps[0]
    assert carrier.unsigned_tx["data"] == "0x121212"
    assert (carrier.unsigned_tx["nonce"], carrier.unsigned_tx["gas"]) == (5, 3 * GAS)
    assert [(each.step_id, each.place) for each in carrier.carries] == [
        *zip(batch.steps[1:], (1, 2), strict=True)
    ]
    assert tally.in_flight(journal._db) == 1
    assert tally.in_flight_wei(journal._db) == 3 * GAS * FEE
    assert [tally.at_stake(journal._db, each).spent_wei for each in batch.steps] == [GAS * FEE] * 3


def test_a_batch_is_known_whole_and_signed_whole_in_the_commit_of_its_permits(
    batch: Batch, journal: StoredJournal
) -> None:
    with journal.together():
        batch.take(1, 2)
        carrier = journal.step(batch.steps[0])
        assert carrier.unsigned_tx["data"] == "0x1212"
        assert [each.step_id for each in carrier.carries] == batch.steps[1:]
        journal.sign(batch.steps[0], b"signed", "0xaa")
    assert [journal.step(each).tx_hash for each in batch.steps] == ["0xaa", "0xaa"]


def test_the_next_transaction_takes_the_next_nonce(batch: Batch) -> None:
    batch.take(1, 2)
    alone = batch.ask(3, joins=None)
    assert isinstance(alone, Permit)
    assert alone.nonce == 6


LIMITS: Mapping[str, Limits] = {
    "spend_day": Limits(spend_day_wei=3 * GAS * FEE - 1),
    "spend_hour": Limits(spend_hour_wei=3 * GAS * FEE - 1),
    "notional_block": Limits(notional_block_wad=3 * WAD - 1),
    "account": Limits(accounts_deny=frozenset({"0x" + "03" * 32})),
}


@pytest.mark.parametrize("rule", LIMITS)
def test_an_act_beyond_a_limit_stays_out_and_changes_nothing_of_the_others(
    open_journal: Journals, event: Events, step: Steps, tx: dict[str, Any], rule: str
) -> None:
    batch = Batch(open_journal(LIMITS[rule]), event, step, tx)
    batch.take(1, 2)
    [before] = batch.journal.live_steps()
    refused = batch.ask(3)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == f"limit.{rule}"
    assert batch.journal.live_steps() == (before,)
    assert before.unsigned_tx["gas"] == 2 * GAS


def test_an_act_that_joins_takes_no_place_of_a_transaction(
    open_journal: Journals, event: Events, step: Steps, tx: dict[str, Any]
) -> None:
    batch = Batch(open_journal(Limits(in_flight=1)), event, step, tx)
    batch.take(1, 2, 3)
    refused = batch.ask(4, joins=None)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "limit.in_flight"


def test_an_account_in_a_batch_takes_no_other_step(batch: Batch) -> None:
    batch.take(1, 2)
    for joins in (batch.permits[0], None):
        refused = batch.ask(2, joins=joins)
        assert isinstance(refused, Refuse)
        assert refused.reason.rule == "limit.duplicate"


def test_no_member_takes_of_an_account_without_an_agreement(batch: Batch) -> None:
    batch.take(1)
    refused = batch.ask(2, tranche=0)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "limit.agreement"
    assert isinstance(
        batch.ask(2, tranche=0, agreed=Agree("both clocks", account=bytes([2]) * 32, block=101)), Permit
    )


def test_nothing_joins_what_is_signed_or_over(batch: Batch, journal: StoredJournal) -> None:
    batch.take(1, 2)
    journal.sign(batch.steps[0], b"signed", "0xaa")
    with pytest.raises(InvariantBroken, match="takes no other along: it is signed, or over"):
        batch.ask(3)


# --- and what came of it ---


def test_all_are_sent_by_the_bytes_of_the_first(batch: Batch, journal: StoredJournal, flaws: Any) -> None:
    batch.take(1, 2, 3)
    batch.send()
    assert batch.states() == [S.SENT] * 3
    assert [journal.step(each).tx_hash for each in batch.steps] == ["0xaa"] * 3
    assert [journal.history(f"case{case}")[-1].kind for case in (1, 2, 3)] == [E.SENT] * 3
    assert flaws() == []


def test_each_act_ends_by_itself_with_its_share_of_the_gas(
    batch: Batch, journal: StoredJournal, flaws: Any
) -> None:
    batch.take(1, 2, 3)
    batch.send()
    batch.settle(E.REVERTED, E.INCLUDED, E.REVERTED, said=(NOTHING_MORE, Aftermath(Booking((), 7))))
    assert batch.states() == [S.REVERTED, S.INCLUDED, S.REVERTED]
    costs = [journal.history(f"case{case}")[-1].data["gas_cost_wei"] for case in (1, 2, 3)]
    assert costs == [70, 71, 72]
    assert journal.history("case2")[-1].data["worth_wad"] == 7
    assert "moved" not in journal.history("case1")[-1].data
    assert flaws() == []


def test_a_batch_of_which_one_outcome_is_missing_is_not_settled(batch: Batch) -> None:
    batch.take(1, 2)
    batch.send()
    with pytest.raises(InvariantBroken, match="carries 1, and 0 ended"):
        batch.settle(E.INCLUDED)
    assert batch.states() == [S.SENT] * 2


def test_a_reorg_puts_all_back_into_flight(batch: Batch, journal: StoredJournal, flaws: Any) -> None:
    batch.take(1, 2)
    batch.send()
    batch.settle(E.INCLUDED, E.REVERTED)
    journal.unsettle(batch.steps[0], **AT)
    assert batch.states() == [S.SENT] * 2
    assert tally.in_flight_wei(journal._db) == 2 * GAS * FEE
    assert flaws() == []


def test_what_is_given_up_is_given_up_whole_and_leaves_its_nonce(
    batch: Batch, journal: StoredJournal, flaws: Any
) -> None:
    first = batch.take(1, 2)
    journal.abandon(first[0], Reason("send.refused", "no", "yes"), **AT)
    assert batch.states() == [S.ABANDONED] * 2
    assert tally.sums(journal._db, 0).spent_wei == 0
    again = Batch(journal, batch._event, batch._step, batch._tx)
    for case in (1, 2):
        journal.record([batch._event(case=case, block=101)])
    second = again.take(1, 2)
    assert [each.nonce for each in again.permits] == [5, 5]
    assert [each.step_id for each in journal.step(second[0]).carries] == [second[1]]
    assert journal.step(first[0]).carries == ()
    assert flaws() == []


def test_of_a_batch_the_last_act_is_the_newest_outcome(batch: Batch, journal: StoredJournal) -> None:
    batch.take(1, 2, 3)
    batch.send()
    batch.settle(E.INCLUDED, E.INCLUDED, E.REVERTED)
    assert journal.outcomes_since(0, 1) == [False]
    assert journal.outcomes_since(0, 3) == [False, True, True]


def test_a_batch_that_reverts_whole_pauses_nobody_and_counts_as_one_revert(
    batch: Batch, journal: StoredJournal, event: Events
) -> None:
    before = journal.record_at(1_224).won_wad
    batch.take(*range(1, 9))
    batch.send()
    batch.settle(*[E.REVERTED] * 8)
    assert journal.outcomes_since(0, 20) == [False]
    [(kind, won_wad)] = journal.record_at(1_224).won_wad.items()
    assert (kind not in before, won_wad) == (True, 9 * WAD // 11)
    again = Batch(journal, event, batch._step, batch._tx)
    for case in (1, 2):
        journal.record([event(case=case, block=102)])
        assert journal.failed_whole(journal.step(batch.steps[case - 1]).account)
        assert isinstance(again.ask(case, chain_nonce=6, block=102, at_s=1_224), Permit)


def test_who_reverts_alone_after_its_batch_has_a_pause_and_goes_alone_on(
    batch: Batch, journal: StoredJournal, event: Events
) -> None:
    batch.take(1, 2)
    batch.send()
    batch.settle(E.REVERTED, E.REVERTED)
    alone, account = Batch(journal, event, batch._step, batch._tx), journal.step(batch.steps[0]).account
    journal.record([event(case=1, block=102)])
    granted = alone.ask(1, chain_nonce=6, block=102, at_s=1_224)
    assert isinstance(granted, Permit)
    journal.sign(granted.step_id, b"again", "0xbb")
    journal.sent(granted.step_id, **AT)
    journal.settle(granted.step_id, Outcome(E.REVERTED, 103, "0xb103", 70, "0xbb"), at_s=1_236)
    assert journal.failed_whole(account)
    journal.record([event(case=1, block=103)])
    refused = alone.ask(1, chain_nonce=7, block=103, at_s=1_237)
    assert isinstance(refused, Refuse)
    assert refused.reason == Reason("limit.backoff", "1 s since revert 1 in a row", "30 s")


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ((E.REVERTED, E.INCLUDED), NOTHING_MORE),
        ((E.REVERTED, E.REVERTED), Aftermath(lost_to=Rival("flag", "0xee", 101))),
    ],
)
def test_an_act_that_failed_by_itself_or_lost_its_race_has_its_pause(
    batch: Batch, journal: StoredJournal, event: Events, kinds: tuple[EventKind, ...], said: Aftermath
) -> None:
    batch.take(1, 2)
    batch.send()
    batch.settle(*kinds, said=(said,))
    assert not journal.failed_whole(journal.step(batch.steps[0]).account)
    journal.record([event(case=1, block=102)])
    refused = Batch(journal, event, batch._step, batch._tx).ask(1, chain_nonce=6, block=102, at_s=1_224)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "limit.backoff"


def test_a_higher_bid_counts_once_for_all_of_a_batch(batch: Batch, journal: StoredJournal) -> None:
    batch.take(1, 2)
    batch.send()
    [step] = journal.live_steps()
    raised = {**step.unsigned_tx, "maxFeePerGas": 2 * FEE, "maxPriorityFeePerGas": 2 * 10**9}
    journal.rebid(step.step_id, BidKind.RAISE, raised, **AT)
    assert tally.in_flight_wei(journal._db) == 2 * GAS * 2 * FEE


@on_sqlite
def test_a_batch_is_rewound_to_where_a_run_began(batch: Batch, path: Path, tmp_path: Path) -> None:
    batch.take(1, 2)
    with batch.journal.together():
        run = runs.begin(batch.journal._db, {"book": False})
    batch.send()
    batch.settle(E.INCLUDED, E.REVERTED)
    with closing(JournalReader(path)) as reader:
        [found] = [each for each in reader.runs() if each.run == run]
    SqliteJournal(tmp_path / "then", identity=IDENTITY).close()
    runs.rewind(path, tmp_path / "then", found, ())
    with closing(SqliteJournal(tmp_path / "then", identity=IDENTITY)) as then:
        [step] = then.live_steps()
        assert [(each.state, each.tx_hash) for each in (step, *step.carries)] == [(S.RESERVED, None)] * 2
        assert tally.in_flight_wei(then._db) == 2 * GAS * FEE
    with closing(JournalReader(tmp_path / "then")) as reader:
        assert reader.verify() == []


@on_sqlite
def test_what_was_booked_after_a_run_began_is_not_booked_where_it_is_rewound(
    batch: Batch, path: Path, tmp_path: Path
) -> None:
    batch.take(1)
    with batch.journal.together():
        run = runs.begin(batch.journal._db, {"book": False})
    at_risk = tally.sums(batch.journal._db, 0).loss_wad
    batch.send()
    outcome = Outcome(E.INCLUDED, 101, "0xb", 1)
    lost = Aftermath(Booking((), -5 * WAD, gas_wad=WAD))
    batch.journal.settle(batch.steps[0], outcome, at_s=1_212, aftermath=lost)
    assert tally.sums(batch.journal._db, 0).loss_wad == 6 * WAD
    with closing(JournalReader(path)) as reader:
        [found] = [each for each in reader.runs() if each.run == run]
    SqliteJournal(tmp_path / "then", identity=IDENTITY).close()
    runs.rewind(path, tmp_path / "then", found, ())
    with closing(SqliteJournal(tmp_path / "then", identity=IDENTITY)) as then:
        assert tally.sums(then._db, 0).loss_wad == at_risk


def test_a_journal_tells_of_a_member_that_was_left_behind(
    batch: Batch, journal: StoredJournal, flaws: Any
) -> None:
    batch.take(1, 2)
    batch.send()
    journal._db.execute("UPDATE steps SET state = 'included' WHERE step_id = ?", (batch.steps[0],))
    assert f"step {batch.steps[1]} is sent, and its transaction is included" in flaws()
