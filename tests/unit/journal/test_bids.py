"""What is bid after the first time: raised, dropped, cancelled, and what fills a gap below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from keeper.domain import CaseEvent, Permit, Reason, Refuse, Step
from keeper.errors import InvariantBroken
from keeper.journal.guard import Limits
from keeper.journal.store import StoredJournal
from keeper.ports import BidKind, StepRecord, Switch
from tests.unit.journal.conftest import Journals

GWEI = 10**9
AT: dict[str, Any] = {"block": 101, "at_s": 1_212}
LATE = Reason("send.validity", "next block 103", "valid until block 102")
Outs = Callable[..., StepRecord]


@pytest.fixture
def out(journal: StoredJournal, event: Callable[..., CaseEvent], step: Callable[..., Step], tx: Any) -> Outs:
    """Have the step of a case reserved from a nonce up, and sent."""

    def _out(case: int = 1, *, chain_nonce: int = 0) -> StepRecord:
        journal.record([event(case=case)])
        permit = journal.reserve(step(case=case), tx, chain_nonce=chain_nonce, block=100, at_s=1_200)
        assert isinstance(permit, Permit)
        journal.sign(permit.step_id, b"raw", f"0x{case}")
        journal.sent(permit.step_id, block=100, at_s=1_200)
        return journal.step(permit.step_id)

    return _out


def reserved(
    journal: StoredJournal, event: CaseEvent, step: Step, tx: Any, *, chain_nonce: int
) -> Permit | Refuse:
    journal.record([event])
    return journal.reserve(step, tx, chain_nonce=chain_nonce, block=100, at_s=1_200)


def bid(journal: StoredJournal, of: StepRecord, kind: BidKind, gwei: int, **other: Any) -> Any:
    fees = {"maxFeePerGas": gwei * GWEI, "maxPriorityFeePerGas": 2 * GWEI}
    return journal.rebid(of.step_id, kind, {**of.unsigned_tx, **fees, **other}, **AT)


def most_wei(journal: StoredJournal) -> int:
    """Return what a day may have cost, as the limits see it."""
    [found] = [each.used for each in journal.measures() if each.limit == "spend_day"]
    return round(found * 10**18)


def test_a_bid_that_is_dropped_is_none_of_its_step_and_its_number_is_not_given_again(
    journal: StoredJournal, out: Outs
) -> None:
    sent = out()
    raised = bid(journal, sent, BidKind.RAISE, 4)
    assert [each.number for each in raised.bids] == [2]
    dropped = journal.drop(sent.step_id, 2, LATE, **AT)
    assert (dropped.bids, dropped.last.number) == ((), 1)
    again = bid(journal, dropped, BidKind.CANCEL, 4)
    assert [(each.number, each.kind) for each in again.bids] == [(3, BidKind.CANCEL)]
    told = [each.data for each in journal.history("case1")[-3:]]
    assert [(each["act"], each["bid"]) for each in told] == [("Outbid", 2), ("Dropped", 2), ("Cancel", 3)]
    assert told[1]["rule"] == LATE.rule


def test_what_is_signed_and_what_is_no_bid_cannot_be_dropped(journal: StoredJournal, out: Outs) -> None:
    sent = out()
    bid(journal, sent, BidKind.RAISE, 4)
    journal.sign(sent.step_id, b"more", "0x11", bid=2)
    for number in (1, 2, 3):
        with pytest.raises(InvariantBroken, match=f"no bid {number} that nobody has signed"):
            journal.drop(sent.step_id, number, LATE, **AT)
    assert journal.step(sent.step_id).last.tx_hash == "0x11"


def test_what_fills_a_gap_holds_its_nonce_and_counts_besides(journal: StoredJournal, out: Outs) -> None:
    sent = out(chain_nonce=7)
    assert journal.gaps(5, **AT) == (5, 6)
    before = most_wei(journal)
    filled = bid(journal, sent, BidKind.FILL, 4, nonce=5, gas=21_000)
    assert ([each.nonce for each in filled.fills], filled.bids) == ([5], ())
    assert journal.gaps(5, **AT) == (6,)
    assert most_wei(journal) - before == 21_000 * 4 * GWEI
    journal.sign(sent.step_id, b"fill", "0x5", bid=2)
    outbid = bid(journal, filled, BidKind.FILL, 5, nonce=5, gas=21_000)
    assert most_wei(journal) - before == 21_000 * 5 * GWEI
    assert outbid.fill_hashes == ("0x5",)
    bid(journal, outbid, BidKind.RAISE, 6)
    assert most_wei(journal) - before == 21_000 * 5 * GWEI + 1_000_000 * 3 * GWEI
    assert out(2, chain_nonce=5).nonce == 6


def test_a_nonce_pays_for_its_data_once_however_often_is_bid_for_it(
    journal: StoredJournal, out: Outs
) -> None:
    sent, data_wei = out(chain_nonce=7), 10**15
    before = most_wei(journal)
    for gwei in (4, 5, 6):
        fees = {"maxFeePerGas": gwei * GWEI, "maxPriorityFeePerGas": 2 * GWEI}
        fill = {**sent.unsigned_tx, **fees, "nonce": 5, "gas": 21_000}
        filled = journal.rebid(sent.step_id, BidKind.FILL, fill, **AT, data_fee_wei=data_wei)
        assert isinstance(filled, StepRecord)
        assert most_wei(journal) - before == 21_000 * gwei * GWEI + data_wei
    raised = {**sent.unsigned_tx, "maxFeePerGas": 6 * GWEI, "maxPriorityFeePerGas": 2 * GWEI}
    journal.rebid(sent.step_id, BidKind.RAISE, raised, **AT, data_fee_wei=data_wei)
    own_wei = 1_000_000 * 3 * GWEI + data_wei
    assert most_wei(journal) - before == 21_000 * 6 * GWEI + data_wei + own_wei


def test_what_fills_a_gap_is_in_flight_until_its_nonce_is_used(
    open_journal: Journals, event: Callable[..., CaseEvent], step: Callable[..., Step], tx: Any
) -> None:
    journal = open_journal(Limits(in_flight=3))
    sent = reserved(journal, event(case=1), step(case=1), tx, chain_nonce=7)
    assert isinstance(sent, Permit)
    journal.sign(sent.step_id, b"raw", "0x1")
    journal.sent(sent.step_id, block=100, at_s=1_200)
    for gwei in (4, 5):
        bid(journal, journal.step(sent.step_id), BidKind.FILL, gwei, nonce=5, gas=21_000)
    bid(journal, journal.step(sent.step_id), BidKind.FILL, 4, nonce=6, gas=21_000)
    assert journal.endings()["in_flight"] == 3
    refused = reserved(journal, event(case=2), step(case=2), tx, chain_nonce=5)
    assert isinstance(refused, Refuse)
    assert refused.reason == Reason("limit.in_flight", "3 in flight", "3 transactions")
    assert isinstance(reserved(journal, event(case=3), step(case=3), tx, chain_nonce=6), Permit)


FILLS: dict[str, tuple[dict[str, Any], str]] = {
    "its own nonce": ({"nonce": 7}, "no bid on nonce 7"),
    "a nonce above": ({"nonce": 8}, "no bid on nonce 8"),
}


@pytest.mark.parametrize(("other", "why"), FILLS.values(), ids=FILLS)
def test_what_is_no_gap_is_not_filled(
    journal: StoredJournal, out: Outs, other: dict[str, Any], why: str
) -> None:
    out(1, chain_nonce=6)
    sent = out(2, chain_nonce=6)
    with pytest.raises(InvariantBroken, match=why):
        bid(journal, sent, BidKind.FILL, 4, **other)


def test_what_another_holds_meanwhile_is_no_gap(journal: StoredJournal, out: Outs) -> None:
    out(1, chain_nonce=6)
    held = bid(journal, out(2, chain_nonce=6), BidKind.FILL, 4, nonce=6)
    assert isinstance(held, Refuse)
    assert held.reason.rule == "nonce.held"


def test_a_stop_is_told_and_lets_a_fill_pass_where_it_stops_a_raise(
    journal: StoredJournal, out: Outs
) -> None:
    sent = out(chain_nonce=6)
    assert journal.stopped(1_212) is None
    journal.throw(Switch.HALT, "", on=True, who="a test")
    stopped = journal.stopped(1_212)
    assert stopped is not None
    assert stopped.rule == "limit.halted"
    assert isinstance(bid(journal, sent, BidKind.RAISE, 4), Refuse)
    assert isinstance(bid(journal, sent, BidKind.FILL, 4, nonce=5, gas=21_000), StepRecord)
    journal.throw(Switch.HALT, "", on=False, who="a test")
    journal.note_foreign("nonce 9 is used and was not given out", at_s=1_212)
    stopped = journal.stopped(1_212)
    assert stopped is not None
    assert stopped.rule == "wallet.foreign"
    journal.reload(Limits(foreign_stops=False), "a test", "")
    assert journal.stopped(1_212) is None
