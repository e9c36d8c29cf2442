"""What a loss of power leaves of a step: everything up to the last commit that waited for the disk."""

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from keeper.domain import EventKind
from keeper.errors import ChainFault, InvariantBroken
from keeper.journal.sqlite import SqliteDb
from keeper.ports import StepState

FILES = ("", "-wal")


@dataclass
class Disk:
    """What is certain to be on disk of a journal: its files as the last commit that waited left them."""

    path: Path
    waits: int = 0
    """How often a commit has waited for it."""
    kept: dict[str, bytes] = field(default_factory=dict)

    def wait(self) -> None:
        self.waits += 1
        self.kept = {name: Path(f"{self.path}{name}").read_bytes() for name in FILES}

    def restore(self, path: Path) -> None:
        """Write what is left where a keeper finds it after the power is back."""
        for name, found in self.kept.items():
            Path(f"{path}{name}").write_bytes(found)


@pytest.fixture
def disk(desk: Any, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(desk.path)

    def execute(db: SqliteDb, sql: str, *values: Any) -> sqlite3.Cursor:
        found = sqlite3.Connection.execute(db, sql, *values)
        level = sqlite3.Connection.execute(db, "PRAGMA synchronous").fetchone()[0]
        if sql == "COMMIT" and level == 2:
            disk.wait()
        return found

    monkeypatch.setattr(SqliteDb, "execute", execute)
    with desk.journal.together():
        pass
    return disk


def lose_power(desk: Any, disk: Disk, tmp_path: Path) -> None:
    """Have a new keeper take up what the old one is certain to have left."""
    after = tmp_path / "after" / desk.path.name
    after.parent.mkdir()
    disk.restore(after)
    desk.path = disk.path = after
    desk.restart()


def reserve(desk: Any) -> Any:
    with desk.journal.together(lasting=False):
        return desk.reserve()


async def test_a_step_waits_for_the_disk_once_before_it_is_sent(desk: Any, disk: Disk, heads: Any) -> None:
    await desk.sender.resume(heads(100))
    before, at_send = disk.waits, list[int]()
    desk.node.on_send = lambda _: at_send.append(disk.waits)
    await desk.sender.send([reserve(desk)])
    assert (at_send, disk.waits) == ([before + 1], before + 1)


def seal(desk: Any) -> Any:
    """Reserve a step and sign it in one commit; return its permit, and what was signed."""
    with desk.journal.together():
        permit = desk.reserve()
        return permit, desk.sender.seal([permit])


async def test_permit_and_bytes_of_a_sealed_step_come_to_disk_by_one_wait(
    desk: Any, disk: Disk, heads: Any, tmp_path: Path
) -> None:
    await desk.sender.resume(heads(100))
    before = disk.waits
    permit, [sealed] = seal(desk)
    assert disk.waits == before + 1
    lose_power(desk, disk, tmp_path)
    stored = desk.journal.step(permit.step_id)
    assert (stored.state, stored.signed_tx) == (StepState.RESERVED, sealed.raw)
    await desk.sender.resume(heads(101))
    assert desk.node.raws == ["0x" + sealed.raw.hex()]
    assert desk.state(permit) is StepState.SENT


async def test_a_sealed_step_waits_for_the_disk_no_more(desk: Any, disk: Disk, heads: Any) -> None:
    await desk.sender.resume(heads(100))
    permit, sealed = seal(desk)
    before, at_send = disk.waits, list[int]()
    desk.node.on_send = lambda _: at_send.append(disk.waits)
    [tx_hash] = await desk.sender.send([permit], sealed=sealed)
    assert (at_send, disk.waits) == ([before], before)
    assert (desk.state(permit), sealed[0].tx_hash) == (StepState.SENT, tx_hash)
    assert desk.node.raws == ["0x" + sealed[0].raw.hex()]


async def test_what_was_sent_is_sent_again_with_the_same_bytes(
    desk: Any, disk: Disk, heads: Any, updates: Any, tmp_path: Path
) -> None:
    await desk.sender.resume(heads(100))
    permit = reserve(desk)
    [tx_hash] = await desk.sender.send([permit])
    lose_power(desk, disk, tmp_path)
    assert desk.state(permit) is StepState.RESERVED
    assert desk.kinds() == [EventKind.SUSPECTED, EventKind.RESERVED]
    await desk.sender.resume(heads(101))
    assert desk.state(permit) is StepState.SENT
    assert len(desk.node.raws) == 2
    assert len(set(desk.node.raws)) == 1
    desk.node.mine(tx_hash, 102)
    await desk.sender.track(*updates(102))
    assert desk.state(permit) is StepState.INCLUDED


async def test_of_a_permit_without_a_signature_nothing_is_left_and_nothing_is_out(
    desk: Any, disk: Disk, heads: Any, tmp_path: Path
) -> None:
    await desk.sender.resume(heads(100))
    lost = reserve(desk)
    lose_power(desk, disk, tmp_path)
    assert desk.node.raws == []
    assert desk.journal.live_steps() == desk.journal.open_cases() == ()
    await desk.sender.resume(heads(101))
    assert reserve(desk).nonce == lost.nonce
    assert len(desk.journal.live_steps()) == 1


async def test_a_nonce_that_is_free_again_is_so_after_a_loss_of_power(
    desk: Any, disk: Disk, heads: Any, tmp_path: Path
) -> None:
    await desk.sender.resume(heads(100))
    desk.node.faults = [ChainFault("insufficient funds for gas * price + value")]
    permit = reserve(desk)
    await desk.sender.send([permit])
    lose_power(desk, disk, tmp_path)
    assert desk.state(permit) is StepState.ABANDONED


async def test_nothing_is_sealed_where_it_may_be_lost(desk: Any, heads: Any) -> None:
    await desk.sender.resume(heads(100))
    with pytest.raises(InvariantBroken, match="must be on disk"), desk.journal.together(lasting=False):
        desk.sender.seal([desk.reserve()])
    assert desk.journal.live_steps() == ()


def test_signed_bytes_are_never_written_where_they_may_be_lost(desk: Any) -> None:
    permit = desk.reserve()
    with pytest.raises(InvariantBroken, match="must be on disk"), desk.journal.together(lasting=False):
        desk.journal.sign(permit.step_id, b"\x02", "0x" + "ab" * 32)
    assert desk.journal.step(permit.step_id).signed_tx is None
