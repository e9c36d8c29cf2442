"""What a recorder keeps where work is given up in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from keeper.domain import Call
from keeper.journal.tape import LARGE, Recorder, at_block, call_id, calls_key, unpack

CALL = Call("0x" + "d1" * 20, b"\x01\x02\x03\x04")
HASH = "0x" + "ab" * 32


class Reader:
    """Answers at length."""

    async def call_many(self, calls: Sequence[Call], at_hash: str) -> list[bytes]:
        assert at_hash == HASH
        return [bytes(LARGE)] * len(calls)


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forever(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "to_thread", forever)


async def give_up(work: Any) -> None:
    """Cancel some work once it waits."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.mark.usefixtures("hangs")
async def test_a_question_given_up_while_its_long_answer_is_written_is_one_given_up() -> None:
    tape = Recorder()
    reader: Any = tape.reader(Reader())  # type: ignore[type-var]
    await give_up(reader.call_many([CALL], HASH))
    [packed] = tape.take_rest()
    assert unpack(packed.data) == [["x", calls_key(at_block(HASH), [call_id(CALL)])]]


@pytest.mark.usefixtures("hangs")
async def test_a_listing_is_still_one_where_it_could_not_be_packed() -> None:
    tape = Recorder()
    tape.note("listing", "x" * LARGE)
    await give_up(tape.pack())
    [packed] = tape.take_rest()
    assert packed.listing
    assert [record[0] for record in unpack(packed.data)] == ["listing"]
