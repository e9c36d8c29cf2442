"""What becomes of a step whose transaction nobody signs yet."""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import Any

import pytest

from keeper.domain import EventKind, Head, Permit, Refuse, Wait
from keeper.execute.signer import Signed
from keeper.lifecycle import Status
from keeper.ports import StepState, Switch
from tests.unit.execute.distant import Distant

Updates = Callable[..., tuple[Head, tuple[Head, ...]]]


@pytest.fixture
def signer(key: str) -> Distant:
    return Distant(key)


@pytest.fixture
async def ready(desk: Any, signer: Distant, heads: Callable[[int], Head]) -> Any:
    """Give a desk whose sender has a distant signer, and has resumed at block 100."""
    desk.restart(signer=signer)
    await desk.sender.resume(heads(100))
    return desk


def reserved(desk: Any, count: int) -> list[Permit]:
    """Reserve a step of each of several accounts."""
    return [desk.reserve(account=bytes([number]) * 32) for number in range(1, count + 1)]


async def test_a_step_without_a_signature_keeps_its_nonce_and_goes_out_at_the_next_head(
    ready: Any, signer: Distant, updates: Updates
) -> None:
    signer.silent_for = {0}
    permit = ready.reserve()
    (waits,) = await ready.sender.send([permit])
    assert isinstance(waits, Wait)
    assert (waits.until_block, waits.reason.rule) == (101, "send.unsigned")
    assert waits.reason.evidence == "the signer is silent"
    assert ready.state(permit) is StepState.RESERVED
    assert ready.node.raws == []

    signer.silent_for = set()
    await ready.sender.track(*updates(101))
    assert ready.state(permit) is StepState.SENT
    assert ready.journal.step(permit.step_id).nonce == permit.nonce == 0
    assert len(ready.node.raws) == 1


async def test_a_silent_signer_is_asked_once_a_head(ready: Any, signer: Distant, updates: Updates) -> None:
    signer.silent_for = {0, 1}
    first, second = reserved(ready, 2)
    await ready.sender.send([first])
    await ready.sender.send([second])
    assert signer.asked == [0]
    await ready.sender.track(*updates(101))
    assert signer.asked == [0, 0, 1]
    assert {ready.state(first), ready.state(second)} == {StepState.RESERVED}


async def test_nothing_goes_out_above_a_nonce_that_is_not_signed(ready: Any, signer: Distant) -> None:
    signer.silent_for = {1}
    sent, *waits = await ready.sender.send(reserved(ready, 3))
    assert isinstance(sent, str)
    assert [each.reason.rule for each in waits] == ["send.unsigned"] * 2
    assert len(ready.node.raws) == 1


async def test_several_steps_are_signed_at_once(ready: Any, signer: Distant) -> None:
    together = asyncio.Barrier(3)
    near = signer.sign

    async def sign(tx: Mapping[str, Any]) -> Signed:
        await together.wait()
        return await near(tx)

    signer.sign = sign  # type: ignore[method-assign]  # to see that nobody is waited for
    assert len(set(await ready.sender.send(reserved(ready, 3)))) == 3
    assert len(ready.node.raws) == 3


async def test_what_is_not_signed_while_it_is_valid_is_abandoned(
    ready: Any, signer: Distant, updates: Updates
) -> None:
    signer.silent_for = {0}
    permit = ready.reserve(valid_until=102)
    await ready.sender.send([permit])
    await ready.sender.track(*updates(101))
    assert ready.state(permit) is StepState.RESERVED
    await ready.sender.track(*updates(102))
    assert ready.state(permit) is StepState.ABANDONED
    assert ready.journal.status("case") is Status.SETTLED
    told = ready.journal.history("case")[-1]
    assert (told.kind, told.data["rule"]) == (EventKind.ABANDONED, "send.unsigned")
    assert "the signer is silent" in told.data["evidence"]
    assert signer.asked == [0, 0]
    assert ready.node.raws == []


async def test_what_is_in_flight_is_followed_while_nobody_signs(
    ready: Any, signer: Distant, updates: Updates
) -> None:
    sent, waits = reserved(ready, 2)
    (tx_hash,) = await ready.sender.send([sent])
    signer.silent_for = {1}
    await ready.sender.send([waits])
    ready.node.mine(tx_hash, 101)
    (settled,) = await ready.sender.track(*updates(101))
    assert settled.state is StepState.INCLUDED
    assert ready.state(waits) is StepState.RESERVED


async def test_nothing_is_locked_while_a_signature_is_awaited(ready: Any, signer: Distant) -> None:
    locked = []

    def another_writer() -> None:
        with closing(sqlite3.connect(ready.path, timeout=0)) as db:
            db.execute("BEGIN IMMEDIATE")
            db.rollback()
        locked.append(False)

    signer.on_sign = another_writer
    await ready.sender.send([ready.reserve()])
    assert locked == [False]


def halt(desk: Any) -> None:
    desk.journal.throw(Switch.HALT, "", on=True, who="a test")


def note_a_stranger(desk: Any) -> None:
    desk.journal.note_foreign("nonce 7 is used and was not given out", at_s=1_200)


@pytest.mark.parametrize("stop", [halt, note_a_stranger], ids=["a halt", "a stranger"])
@pytest.mark.parametrize("is_late", [False, True], ids=["while it signs", "before the next head"])
async def test_what_stops_the_wallet_stops_a_permit_that_is_still_with_the_signer(
    ready: Any, signer: Distant, updates: Updates, stop: Callable[[Any], None], is_late: bool
) -> None:
    if is_late:
        signer.silent_for = {0}
    else:
        signer.on_sign = lambda: stop(ready)
    permit = ready.reserve()
    [answer] = await ready.sender.send([permit])
    assert isinstance(answer, Wait if is_late else Refuse)
    if is_late:
        signer.silent_for = set()
        stop(ready)
        await ready.sender.track(*updates(101))
    assert ready.state(permit) is StepState.ABANDONED
    assert (ready.node.raws, ready.journal.step(permit.step_id).tx_hash) == ([], None)
    told = ready.journal.history("case")[-1].data
    assert told["rule"] == "send.halted"
    assert ("limit.halted" if stop is halt else "wallet.foreign") in told["evidence"]


async def test_what_is_on_disk_goes_out_in_a_halt_for_it_may_be_out_already(
    ready: Any, heads: Callable[[int], Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    permit = ready.reserve()

    async def dying(*_: object) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(ready.node, "request", dying)
        await ready.sender.send([permit])
    halt(ready)
    ready.restart()
    await ready.sender.resume(heads(101))
    assert ready.state(permit) is StepState.SENT
    assert len(ready.node.raws) == 1


def test_a_key_of_this_process_signs_without_a_turn_of_the_loop(signer: Distant) -> None:
    tx = {
        "type": 2,
        "chainId": 1,
        "nonce": 0,
        "to": "0x" + "d1" * 20,
        "data": "0x",
        "value": 0,
        "gas": 21_000,
    }
    signing = signer.sign({**tx, "maxFeePerGas": 1, "maxPriorityFeePerGas": 1})
    with pytest.raises(StopIteration) as done:
        signing.send(None)
    assert isinstance(done.value.value, Signed)
