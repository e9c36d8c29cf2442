import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import pytest
from eth_account import Account as Wallet
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from keeper.domain import Call, EventKind, Fees, Head, Permit, Refuse
from keeper.errors import ChainFault, InvariantBroken
from keeper.execute.keys import LocalSigner
from keeper.execute.signer import UNSENDABLE, Signed
from keeper.lifecycle import Status
from keeper.ports import Sender, StepState
from tests.unit.execute.distant import Distant

GWEI = 10**9
COST_WEI = 200_000 * 2 * GWEI


def signed_by(key: str, tx: Mapping[str, Any]) -> bytes:
    """Return the bytes as eth_account signs them."""
    checksummed = {**tx, "to": to_checksum_address(tx["to"])}
    return bytes(Wallet.sign_transaction(checksummed, key).raw_transaction)


class Crash(BaseException):
    """The end of the process, as far as a test can have it."""


async def send(desk: Any, permit: Permit, *, tick_ns: int | None = None) -> Any:
    """Send one permit; return its hash or refusal."""
    (answer,) = await desk.sender.send([permit], tick_ns=tick_ns)
    return answer


@pytest.fixture
async def ready(desk: Any, heads: Callable[[int], Head]) -> Any:
    """Give a desk whose sender has resumed at block 100 with an empty journal."""
    await desk.sender.resume(heads(100))
    return desk


async def test_a_permit_becomes_one_transaction_in_flight(ready: Any) -> None:
    permit = ready.reserve()
    tx_hash = await send(ready, permit, tick_ns=time.monotonic_ns())
    stored = ready.journal.step(permit.step_id)
    assert (stored.state, stored.tx_hash) == (StepState.SENT, tx_hash)
    assert ready.node.raws == ["0x" + stored.signed_tx.hex()]
    sent = ready.journal.history("case")[-1]
    assert (sent.kind, sent.block, sent.at_s) == (EventKind.SENT, 100, 1200)
    assert sent.data["answer"] == "taken"
    assert 0 < sent.data["tick_to_tx_ms"] < 10_000


async def test_a_refusal_of_sealed_bytes_is_definite_for_they_were_never_out(ready: Any) -> None:
    ready.node.faults = [ChainFault("error -32000: insufficient funds for gas * price + value")]
    with ready.journal.together():
        permit = ready.reserve()
        sealed = ready.sender.seal([permit])
    [refused] = await ready.sender.send([permit], sealed=sealed)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "send.refused"
    assert ready.state(permit) is StepState.ABANDONED


async def test_a_key_that_is_elsewhere_seals_nothing(ready: Any, key: str, heads: Any) -> None:
    assert ready.sender.seals
    ready.restart(signer=Distant(key))
    await ready.sender.resume(heads(100))
    assert not ready.sender.seals
    with pytest.raises(InvariantBroken, match="elsewhere"), ready.journal.together():
        ready.sender.seal([ready.reserve()])


async def test_nobody_seals_in_a_dry_run(ready: Any) -> None:
    ready.restart(dry_run=True)
    assert not ready.sender.seals
    ready.sender.rehearse(UNSENDABLE)
    assert ready.sender._ahead is None


@pytest.fixture
def signed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The transactions that were signed, in order."""
    found: list[Any] = []
    whole = LocalSigner.at_once

    def at_once(signer: LocalSigner, tx: Mapping[str, Any]) -> Signed:
        found.append(tx)
        return whole(signer, tx)

    monkeypatch.setattr(LocalSigner, "at_once", at_once)
    return found


@pytest.mark.parametrize(("later", "signatures"), [(0, 1), (1, 2)])
async def test_a_permit_takes_bytes_that_were_signed_ahead_for_its_very_transaction(
    ready: Any, key: str, signed: list[Any], later: int, signatures: int
) -> None:
    with ready.journal.together():
        permit = ready.reserve()
        tx = ready.journal.step(permit.step_id).unsigned_tx
        ready.sender.rehearse({**tx, "nonce": tx["nonce"] + later})
        [sealed] = ready.sender.seal([permit])
    assert len(signed) == signatures
    assert (sealed.raw, sealed.tx_hash) == (signed_by(key, tx), "0x" + keccak(sealed.raw).hex())


async def test_what_is_signed_ahead_goes_nowhere_by_itself(ready: Any, signed: list[Any]) -> None:
    permit = ready.reserve()
    tx = ready.journal.step(permit.step_id).unsigned_tx
    for _ in range(3):
        ready.sender.rehearse(tx)
    assert signed == [tx, UNSENDABLE, UNSENDABLE]
    assert ready.node.raws == []
    assert ready.journal.step(permit.step_id).signed_tx is None


async def test_the_signed_bytes_are_on_disk_before_the_node_sees_them(ready: Any) -> None:
    permit = ready.reserve()
    on_disk = []

    def another_reader_sees(raw: str) -> None:
        with closing(sqlite3.connect(ready.path)) as db:
            found = db.execute("SELECT signed_tx FROM steps WHERE step_id = ?", (permit.step_id,)).fetchone()
        on_disk.append("0x" + found[0].hex() == raw)

    ready.node.on_send = another_reader_sees
    await send(ready, permit)
    assert on_disk == [True]


async def test_sending_again_gives_the_same_hash_and_no_second_event(ready: Any) -> None:
    permit = ready.reserve()
    first = await send(ready, permit)
    assert await send(ready, permit) == first
    assert len(set(ready.node.raws)) == 1
    assert ready.kinds() == ["Suspected", "Reserved", "Sent"]


async def test_a_settled_permit_is_not_sent_again(
    ready: Any, updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    permit = ready.reserve()
    tx_hash = await send(ready, permit)
    ready.node.mine(tx_hash, 101)
    await ready.sender.track(*updates(101))
    assert await send(ready, permit) == tx_hash
    assert len(ready.node.raws) == 1


async def test_an_unknown_answer_stays_in_flight_and_goes_out_again_with_the_same_bytes(
    ready: Any, updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    ready.node.faults = [ChainFault("connection reset")]
    permit = ready.reserve()
    await send(ready, permit)
    assert ready.state(permit) is StepState.SENT
    assert ready.journal.history("case")[-1].data["answer"] == "unknown"
    for block in (101, 102):
        await ready.sender.track(*updates(block))
    assert len(ready.node.raws) == 1
    await ready.sender.track(*updates(103))
    assert len(ready.node.raws) == 2
    assert len(set(ready.node.raws)) == 1
    await ready.sender.track(*updates(104))
    assert len(ready.node.raws) == 2


async def test_a_refusal_of_the_first_send_abandons_the_step_and_frees_its_nonce(ready: Any) -> None:
    ready.node.faults = [ChainFault("error -32000: insufficient funds for gas * price + value")]
    permit = ready.reserve()
    refused = await send(ready, permit)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "send.refused"
    assert "insufficient funds" in refused.reason.evidence
    assert ready.state(permit) is StepState.ABANDONED
    assert ready.journal.status("case") is Status.SETTLED
    with pytest.raises(InvariantBroken, match="permit is void"):
        await send(ready, permit)

    again = ready.reserve()
    assert again.nonce == permit.nonce
    assert isinstance(await send(ready, again), str)


async def test_a_refusal_of_a_later_send_leaves_the_step_in_flight(
    ready: Any, updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    permit = ready.reserve()
    tx_hash = await send(ready, permit)
    ready.node.faults = [ChainFault("insufficient funds")]
    await ready.sender.track(*updates(103))
    assert len(ready.node.raws) == 2
    assert ready.state(permit) is StepState.SENT
    ready.node.mine(tx_hash, 104)
    await ready.sender.track(*updates(104))
    assert ready.state(permit) is StepState.INCLUDED


async def test_bytes_that_the_node_knows_already_count_as_sent(ready: Any) -> None:
    ready.node.faults = [ChainFault("already known")]
    permit = ready.reserve()
    await send(ready, permit)
    assert ready.state(permit) is StepState.SENT
    assert ready.journal.history("case")[-1].data["answer"] == "known"


@pytest.mark.parametrize(("status", "kind"), [(1, EventKind.INCLUDED), (0, EventKind.REVERTED)])
async def test_a_receipt_settles_a_step_with_its_block_and_its_cost(
    ready: Any, updates: Callable[..., tuple[Head, tuple[Head, ...]]], status: int, kind: EventKind
) -> None:
    permit = ready.reserve()
    tx_hash = await send(ready, permit)
    assert await ready.sender.track(*updates(101)) == ()
    ready.node.mine(tx_hash, 101, status=status)
    (settled,) = await ready.sender.track(*updates(102))
    assert settled.step_id == permit.step_id
    assert (settled.outcome.kind, settled.outcome.block) == (kind, 101)
    assert settled.outcome.gas_cost_wei == COST_WEI
    last = ready.journal.history("case")[-1]
    assert (last.kind, last.block, last.at_s) == (kind, 101, 102 * 12)
    assert ready.sender.chain_nonce == 1


async def test_a_receipt_above_the_head_waits_for_the_head(
    ready: Any, updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    permit = ready.reserve()
    ready.node.mine(await send(ready, permit), 103)
    await ready.sender.track(*updates(102))
    assert ready.state(permit) is StepState.SENT
    await ready.sender.track(*updates(103))
    assert ready.state(permit) is StepState.INCLUDED


async def test_a_nonce_taken_by_another_transaction_displaces_ours_two_blocks_later(
    ready: Any, updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    ready.node.nonces_used_at.append(100)
    ready.node.faults = [ChainFault("nonce too low: next nonce 1, tx nonce 0")]
    permit = ready.reserve()
    await send(ready, permit)
    states = []
    for block in (101, 102):
        await ready.sender.track(*updates(block))
        states.append(ready.state(permit))
    assert states == [StepState.SENT, StepState.DISPLACED]
    assert ready.journal.step(permit.step_id).outcome.gas_cost_wei == 0
    assert ready.kinds()[-2:] == ["Sent", "Displaced"]


async def test_a_reorg_puts_a_transaction_back_in_flight_and_sends_it_at_once(
    ready: Any, updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    permit = ready.reserve()
    tx_hash = await send(ready, permit)
    ready.node.mine(tx_hash, 101)
    await ready.sender.track(*updates(101))
    ready.node.drop(tx_hash)
    (back,) = await ready.sender.track(*updates(102, 101))
    assert (back.state, back.outcome) == (StepState.SENT, None)
    assert len(ready.node.raws) == 2
    ready.node.mine(tx_hash, 103, fork="c")
    await ready.sender.track(*updates(103))
    assert ready.kinds()[2:] == ["Sent", "Included", "Unincluded", "Included"]


async def test_a_reorg_that_moves_a_transaction_to_another_block_is_written_down(
    ready: Any, updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    permit = ready.reserve()
    tx_hash = await send(ready, permit)
    ready.node.mine(tx_hash, 101)
    await ready.sender.track(*updates(101))
    ready.node.drop(tx_hash)
    ready.node.mine(tx_hash, 102, status=0, fork="c")
    (moved,) = await ready.sender.track(*updates(102, 101))
    assert moved.outcome.kind is EventKind.REVERTED
    assert ready.kinds()[2:] == ["Sent", "Included", "Unincluded", "Reverted"]
    assert len(ready.node.raws) == 1


async def test_a_reorg_that_leaves_a_transaction_where_it_was_is_no_event(
    ready: Any, updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    permit = ready.reserve()
    tx_hash = await send(ready, permit)
    ready.node.mine(tx_hash, 101)
    await ready.sender.track(*updates(101))
    assert await ready.sender.track(*updates(102, 101)) == ()
    assert ready.kinds()[2:] == ["Sent", "Included"]


async def test_a_displacement_is_undone_by_a_reorg_too(
    ready: Any, updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    permit = ready.reserve()
    tx_hash = await send(ready, permit)
    ready.node.nonces_used_at.append(101)
    await ready.sender.track(*updates(103))
    assert ready.state(permit) is StepState.DISPLACED
    assert await ready.sender.track(*updates(104, 103)) == ()
    ready.node.nonces_used_at.clear()
    ready.node.mine(tx_hash, 105, fork="c")
    await ready.sender.track(*updates(105, 101, 102, 103, 104))
    assert ready.state(permit) is StepState.INCLUDED


async def test_a_reorg_during_an_outage_is_looked_at_when_the_node_is_back(
    ready: Any, updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    permit = ready.reserve()
    tx_hash = await send(ready, permit)
    ready.node.mine(tx_hash, 101)
    await ready.sender.track(*updates(101))
    ready.node.drop(tx_hash)
    ready.node.batch_faults = [ChainFault("connection reset")]
    with pytest.raises(ChainFault):
        await ready.sender.track(*updates(102, 101))
    assert ready.state(permit) is StepState.INCLUDED
    await ready.sender.track(*updates(103))
    assert ready.state(permit) is StepState.SENT


async def test_an_outcome_deep_below_the_head_is_looked_at_again_only_when_orphaned(
    ready: Any, updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    permit = ready.reserve()
    tx_hash = await send(ready, permit)
    ready.node.mine(tx_hash, 101)
    await ready.sender.track(*updates(101))
    ready.node.drop(tx_hash)
    await ready.sender.track(*updates(166))
    assert ready.state(permit) is StepState.INCLUDED
    await ready.sender.track(*updates(166, 101))
    assert ready.state(permit) is StepState.SENT


async def test_an_outcome_that_was_undone_long_before_a_restart_is_looked_at_again(
    ready: Any, heads: Callable[[int], Head], updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    permit = ready.reserve()
    tx_hash = await send(ready, permit)
    ready.node.mine(tx_hash, 101)
    await ready.sender.track(*updates(101))
    ready.journal.head_done(heads(102))
    ready.node.drop(tx_hash)
    ready.restart()
    await ready.sender.resume(heads(1_000))
    assert ready.state(permit) is StepState.SENT


async def test_a_dry_run_signs_and_sends_nothing_on_any_path(
    desk: Any, heads: Callable[[int], Head], updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    left_over = desk.reserve()
    desk.restart(dry_run=True)
    await desk.sender.resume(heads(100))
    assert desk.state(left_over) is StepState.ABANDONED
    permit = desk.reserve()
    refused = await send(desk, permit)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "dry_run"
    await desk.sender.track(*updates(110))
    assert desk.node.raws == []
    assert desk.journal.step(permit.step_id).signed_tx is None


async def test_a_dry_run_only_follows_what_an_earlier_run_has_sent(
    ready: Any, heads: Callable[[int], Head], updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    permit = ready.reserve()
    tx_hash = await send(ready, permit)
    ready.restart(dry_run=True)
    await ready.sender.resume(heads(101))
    await ready.sender.track(*updates(110))
    assert len(ready.node.raws) == 1
    ready.node.mine(tx_hash, 111)
    await ready.sender.track(*updates(111))
    assert ready.state(permit) is StepState.INCLUDED


async def test_a_dry_run_takes_the_keeper_beside_it_for_no_stranger(
    desk: Any, heads: Callable[[int], Head], updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    for is_dry, strangers in ((True, []), (False, ["foreign"])):
        desk.restart(dry_run=is_dry)
        await desk.sender.resume(heads(100))
        await desk.sender.prepare()
        desk.node.nonces_used_at.append(101)
        await desk.sender.track(*updates(101))
        await desk.sender.prepare()
        assert [each.switch for each in desk.journal.thrown()] == strangers


@pytest.mark.parametrize("receipt", [{}, {"blockNumber": None}, {"blockNumber": "0x65", "status": "0x1"}])
async def test_an_incomplete_receipt_is_the_chains_fault_and_settles_nothing(
    ready: Any, updates: Callable[..., tuple[Head, tuple[Head, ...]]], receipt: dict[str, str]
) -> None:
    permit = ready.reserve()
    ready.node.receipts[await send(ready, permit)] = receipt
    with pytest.raises(ChainFault, match="at block 101 is incomplete"):
        await ready.sender.track(*updates(101))
    assert ready.state(permit) is StepState.SENT


async def test_a_crash_after_the_reservation_signs_the_same_transaction(
    ready: Any, heads: Callable[[int], Head]
) -> None:
    permit = ready.reserve()
    unsigned = permit.unsigned_tx
    ready.restart()
    await ready.sender.resume(heads(101))
    (live,) = ready.journal.live_steps()
    assert live.unsigned_tx == unsigned
    assert live.state is StepState.SENT
    ready.restart()
    await ready.sender.resume(heads(102))
    assert len(ready.node.raws) == 2
    assert len(set(ready.node.raws)) == 1


async def test_a_crash_between_signing_and_the_answer_resumes_with_the_same_hash(
    ready: Any, heads: Callable[[int], Head]
) -> None:
    permit = ready.reserve()

    def crash(raw: str) -> None:
        ready.node.raws.append(raw)
        raise Crash

    ready.node.on_send = crash
    with pytest.raises(Crash):
        await send(ready, permit)
    stored = ready.journal.step(permit.step_id)
    assert stored.state is StepState.RESERVED
    assert stored.tx_hash is not None

    ready.node.on_send = len
    ready.node.mine(stored.tx_hash, 101)
    ready.node.faults = [ChainFault("nonce too low")]
    ready.restart()
    (settled,) = await ready.sender.resume(heads(102))
    assert (settled.tx_hash, settled.state) == (stored.tx_hash, StepState.INCLUDED)
    assert len(set(ready.node.raws)) == 1
    assert ready.kinds() == ["Suspected", "Reserved", "Sent", "Included"]


async def test_a_signed_step_is_in_flight_after_a_restart_even_where_the_node_refuses_it(
    ready: Any, heads: Callable[[int], Head]
) -> None:
    permit = ready.reserve()
    signed = await ready.sender._signer.sign(permit.unsigned_tx)
    ready.journal.sign(permit.step_id, signed.raw, signed.tx_hash)
    ready.node.faults = [ChainFault("insufficient funds")]
    ready.restart()
    await ready.sender.resume(heads(101))
    assert ready.state(permit) is StepState.SENT


async def test_a_step_that_was_never_signed_and_is_no_longer_valid_is_abandoned_at_start(
    ready: Any, heads: Callable[[int], Head]
) -> None:
    permit = ready.reserve(valid_until=101)
    ready.restart()
    await ready.sender.resume(heads(101))
    assert ready.state(permit) is StepState.ABANDONED
    assert ready.node.raws == []
    assert ready.journal.history("case")[-1].data["rule"] == "send.validity"


async def test_a_reorg_while_the_keeper_was_down_is_found_at_start(
    ready: Any, heads: Callable[[int], Head], updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    permit = ready.reserve()
    tx_hash = await send(ready, permit)
    ready.node.mine(tx_hash, 101)
    await ready.sender.track(*updates(101))
    ready.node.drop(tx_hash)
    ready.restart()
    (back,) = await ready.sender.resume(heads(103))
    assert back.state is StepState.SENT
    assert len(ready.node.raws) == 2


async def test_a_sender_resumes_before_it_is_used(desk: Any) -> None:
    permit = desk.reserve()
    with pytest.raises(InvariantBroken, match="must resume"):
        await send(desk, permit)
    with pytest.raises(InvariantBroken, match="must resume"):
        _ = desk.sender.chain_nonce


async def test_with_nothing_in_flight_the_node_is_asked_for_the_nonce_only_before_an_act(
    ready: Any, updates: Callable[..., tuple[Head, tuple[Head, ...]]]
) -> None:
    ready.node.batch_faults.append(ChainFault("asked"))
    assert await ready.sender.track(*updates(101)) == ()
    with pytest.raises(InvariantBroken, match="must be prepared"):
        _ = ready.sender.chain_nonce
    with pytest.raises(ChainFault, match="asked"):
        await ready.sender.prepare()
    ready.node.nonces_used_at.append(101)
    await ready.sender.prepare()
    assert ready.sender.chain_nonce == 1


async def test_it_is_the_sender_that_the_pipeline_asks_for(ready: Any) -> None:
    sender: Sender = ready.sender
    assert sender.address == sender.address.lower()
    assert await sender.balance() == 7 * 10**18


def test_a_transaction_is_whole_but_for_its_nonce(desk: Any) -> None:
    tx = desk.sender.transaction(Call("0x" + "d1" * 20, b"\x00\xff"), 100, Fees(30, 2))
    assert tx == {
        "type": 2,
        "chainId": 31337,
        "to": "0x" + "d1" * 20,
        "data": "0x00ff",
        "value": 0,
        "gas": 100,
        "maxFeePerGas": 30,
        "maxPriorityFeePerGas": 2,
    }
