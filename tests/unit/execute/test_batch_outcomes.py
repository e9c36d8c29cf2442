"""A transaction that carries acts of several accounts, from its bytes to the outcome of each act."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain import Booking, CaseEvent, EventKind, Fees, Flag, Log, Permit, Step
from keeper.execute.batches import ACT_FAILED, by_act, failed
from keeper.execute.stuck import Patience
from keeper.journal.reader import JournalReader
from keeper.ports import Aftermath, BidKind, Outcome, StepRecord, StepState
from keeper.protocols.hybrid.abi import load
from keeper.units import WAD, AccountKey
from tests.unit.execute.conftest import Desk, head, update

MARKET, TOKEN = "0x" + "d1" * 20, "0x" + "70" * 20
SEEN = b"\x5e" * 32
SELECTOR = b"\x01\x02\x03\x04"
GAS = 100_000
S = StepState


def account(case: int) -> AccountKey:
    return case.to_bytes(32)


def log(*topics: bytes, address: str = MARKET, data: bytes = b"") -> Log:
    return Log(address, topics, data, 0, "0x", "0x", 0)


def lost(place: int, address: str = MARKET) -> Log:
    return log(ACT_FAILED, address=address, data=encode(["uint256", "bytes4"], [place, SELECTOR]))


# --- by its logs ---


def test_a_failed_act_is_known_by_the_contracts_own_word() -> None:
    logs = [lost(3), lost(0), lost(1, address=TOKEN), log(SEEN, data=bytes(64)), log()]
    assert failed(logs, MARKET.upper().replace("0X", "0x")) == {0: SELECTOR, 3: SELECTOR}


def test_the_selector_of_the_event_is_the_contracts() -> None:
    assert load("Liquidator").events["ActFailed"].topic == ACT_FAILED


def test_logs_belong_to_the_act_whose_account_is_named_next() -> None:
    paid, ended = log(SEEN, address=TOKEN), log(SEEN)
    first, second = log(SEEN, account(1)), log(SEEN, bytes(32), account(2))
    logs = [paid, first, paid, paid, second, ended]
    assert by_act(logs, [account(1), account(2)]) == [(paid, first), (paid, paid, second, ended)]


@given(st.lists(st.sampled_from([None, 1, 2, 3]), max_size=12))
def test_every_log_is_of_exactly_one_act_in_their_order(named: Sequence[int | None]) -> None:
    logs = [
        Log(MARKET, (SEEN,) if case is None else (SEEN, account(case)), b"", 0, "0x", "0x", at)
        for at, case in enumerate(named)
    ]
    parts = by_act(logs, [account(1), account(2), account(3)])
    assert sorted((each for part in parts for each in part), key=lambda each: each.index) == logs
    assert all(list(part) == sorted(part, key=lambda each: each.index) for part in parts)
    for place, part in enumerate(parts, 1):
        assert {topic for each in part for topic in each.topics[1:]} <= {account(place)}


# --- on its way ---


def reserve(desk: Desk, cases: Sequence[int], *, block: int = 100) -> list[Permit]:
    """Reserve the acts of some cases in one transaction."""
    permits: list[Permit] = []
    for acts, case in enumerate(cases, 1):
        name = f"case{case}"
        desk.journal.record([CaseEvent(name, account(case), EventKind.SUSPECTED, block, block * 12, {})])
        fees = Fees(3 * 10**9, 10**9).fields()
        tx = {"to": MARKET, "data": "0x" + "12" * acts, "value": 0, "gas": GAS * acts, "chainId": 1, **fees}
        granted = desk.journal.reserve(
            Step(name, Flag(account(case), WAD), 120, GAS, WAD),
            tx,
            chain_nonce=0,
            block=block,
            at_s=block * 12,
            joins=permits[0] if permits else None,
        )
        assert isinstance(granted, Permit)
        permits.append(granted)
    return permits


def steps(desk: Desk, permits: Sequence[Permit]) -> list[StepRecord]:
    return [desk.journal.step(each.step_id) for each in permits]


def states(desk: Desk, permits: Sequence[Permit]) -> list[StepState]:
    return [each.state for each in steps(desk, permits)]


def verify(desk: Desk) -> list[str]:
    reader = JournalReader(desk.path)
    found = reader.verify()
    reader.close()
    return found


async def sent(desk: Desk, *cases: int) -> tuple[list[Permit], str]:
    """Send the acts of some cases; return their permits, and the hash of the one transaction."""
    await desk.sender.resume(head(100))
    permits = reserve(desk, cases)
    [tx_hash] = await desk.sender.send(permits[:1])
    assert isinstance(tx_hash, str)
    assert len(desk.node.raws) == 1
    return permits, tx_hash


def mine(desk: Desk, tx_hash: str, block: int, *logs: Log, **how: Any) -> None:
    desk.node.mine(tx_hash, block, **how)
    receipt: dict[str, Any] = desk.node.receipts[tx_hash]
    receipt["logs"] = [
        {
            "address": each.address,
            "topics": ["0x" + topic.hex() for topic in each.topics],
            "data": "0x" + each.data.hex(),
            "blockNumber": hex(block),
            "blockHash": receipt["blockHash"],
            "transactionHash": tx_hash,
            "logIndex": hex(index),
        }
        for index, each in enumerate(logs)
    ]


async def test_one_lost_race_leaves_the_other_acts_alone(desk: Desk) -> None:
    permits, tx_hash = await sent(desk, 1, 2, 3)
    mine(desk, tx_hash, 101, log(SEEN, account(1)), lost(1), log(SEEN, account(3)))
    settled = await desk.sender.track(head(101), ())
    assert [each.step_id for each in settled] == [each.step_id for each in permits]
    assert states(desk, permits) == [S.INCLUDED, S.REVERTED, S.INCLUDED]
    assert verify(desk) == []


async def test_an_act_that_is_lost_first_is_so_alone(desk: Desk) -> None:
    permits, tx_hash = await sent(desk, 1, 2)
    mine(desk, tx_hash, 101, lost(0), log(SEEN, account(2)))
    await desk.sender.track(head(101), ())
    assert states(desk, permits) == [S.REVERTED, S.INCLUDED]
    assert await desk.sender.track(head(102), ()) == ()
    # A start looks at outcomes again, and finds these the same.
    desk.restart()
    assert await desk.sender.resume(head(103)) == ()
    assert states(desk, permits) == [S.REVERTED, S.INCLUDED]


async def test_a_transaction_that_reverts_takes_all_with_it(desk: Desk) -> None:
    permits, tx_hash = await sent(desk, 1, 2)
    mine(desk, tx_hash, 101, status=0)
    await desk.sender.track(head(101), ())
    assert states(desk, permits) == [S.REVERTED] * 2


async def test_the_gas_is_shared_to_the_wei(desk: Desk) -> None:
    permits, tx_hash = await sent(desk, 1, 2, 3)
    mine(desk, tx_hash, 101)
    desk.node.receipts[tx_hash]["gasUsed"] = hex(100_001)
    desk.node.receipts[tx_hash]["effectiveGasPrice"] = hex(1)
    await desk.sender.track(head(101), ())
    outcomes = [each.outcome for each in steps(desk, permits)]
    assert [each.gas_cost_wei for each in outcomes if each] == [33_335, 33_333, 33_333]


async def test_each_act_is_booked_by_its_own_logs(desk: Desk) -> None:
    _, tx_hash = await sent(desk, 1, 2, 3)
    mine(desk, tx_hash, 101, log(SEEN, account(1)), lost(1), log(SEEN), log(SEEN, account(3)))

    async def review(ended: Sequence[tuple[StepRecord, Outcome]]) -> Sequence[Aftermath]:
        return [Aftermath(Booking((), len(outcome.logs))) for _, outcome in ended]

    await desk.sender.track(head(101), (), review)
    ends = [desk.journal.history(f"case{case}")[-1].data.get("worth_wad") for case in (1, 2, 3)]
    assert ends == [1, 0, 1 + 1]


async def test_a_reorg_undoes_the_outcome_of_every_act(desk: Desk) -> None:
    permits, tx_hash = await sent(desk, 1, 2)
    mine(desk, tx_hash, 101, lost(1))
    await desk.sender.track(head(101), ())
    desk.node.drop(tx_hash)
    moved = await desk.sender.track(*update(101, 101))
    assert {each.step_id for each in moved} == {each.step_id for each in permits}
    assert states(desk, permits) == [S.SENT] * 2
    mine(desk, tx_hash, 102, lost(0))
    await desk.sender.track(head(102), ())
    assert states(desk, permits) == [S.REVERTED, S.INCLUDED]
    assert verify(desk) == []


async def test_another_branch_may_have_another_act_lost(desk: Desk) -> None:
    permits, tx_hash = await sent(desk, 1, 2)
    mine(desk, tx_hash, 101, lost(1))
    await desk.sender.track(head(101), ())
    desk.node.drop(tx_hash)
    mine(desk, tx_hash, 101, lost(0), fork="c")
    await desk.sender.track(*update(101, 101))
    assert states(desk, permits) == [S.REVERTED, S.INCLUDED]


async def test_who_is_killed_before_the_answer_sends_the_same_bytes_again(desk: Desk) -> None:
    permits, _ = await sent(desk, 1, 2)
    desk.restart()
    await desk.sender.resume(head(101))
    assert len(set(desk.node.raws)) == 1
    assert len(desk.node.raws) == 2
    assert states(desk, permits) == [S.SENT] * 2


async def test_who_is_killed_before_the_signature_signs_the_whole_batch(desk: Desk) -> None:
    await desk.sender.resume(head(100))
    permits = reserve(desk, (1, 2))
    desk.restart()
    await desk.sender.resume(head(101))
    assert states(desk, permits) == [S.SENT] * 2
    assert len(desk.node.raws) == 1
    assert verify(desk) == []


async def test_a_batch_that_is_never_signed_in_time_is_given_up_whole(desk: Desk) -> None:
    await desk.sender.resume(head(100))
    permits = reserve(desk, (1, 2))
    desk.restart()
    await desk.sender.resume(head(120))
    assert states(desk, permits) == [S.ABANDONED] * 2
    assert desk.node.raws == []


async def test_a_nonce_used_by_another_displaces_every_act(desk: Desk) -> None:
    permits, _ = await sent(desk, 1, 2)
    desk.node.nonces_used_at.append(101)
    await desk.sender.track(head(101), ())
    await desk.sender.track(head(103), ())
    assert states(desk, permits) == [S.DISPLACED] * 2


async def test_a_stuck_batch_is_outbid_and_its_acts_end_by_the_later_bytes(desk: Desk) -> None:
    desk.restart(patience=Patience(raise_after=1))
    permits, _ = await sent(desk, 1, 2)
    for block in (101, 102):
        await desk.sender.track(head(block), ())
    [bid, *_] = desk.journal.step(permits[0].step_id).bids
    assert (bid.kind, bid.unsigned_tx["data"]) == (BidKind.RAISE, "0x1212")
    assert bid.tx_hash is not None
    mine(desk, bid.tx_hash, 103, lost(1))
    await desk.sender.track(head(103), ())
    assert states(desk, permits) == [S.INCLUDED, S.REVERTED]
    assert verify(desk) == []


async def test_a_batch_that_is_late_is_cancelled_and_every_act_displaced(desk: Desk) -> None:
    desk.restart(patience=Patience(raise_after=1))
    permits, _ = await sent(desk, 1, 2)
    for block in (121, 122):
        await desk.sender.track(head(block), ())
    bid = desk.journal.step(permits[0].step_id).last
    assert bid.kind is BidKind.CANCEL
    assert bid.tx_hash is not None
    mine(desk, bid.tx_hash, 123)
    await desk.sender.track(head(123), ())
    assert states(desk, permits) == [S.DISPLACED] * 2


async def test_a_dry_run_gives_a_batch_up_whole(desk: Desk) -> None:
    desk.restart(dry_run=True)
    await desk.sender.resume(head(100))
    permits = reserve(desk, (1, 2))
    await desk.sender.send(permits[:1])
    assert states(desk, permits) == [S.ABANDONED] * 2
