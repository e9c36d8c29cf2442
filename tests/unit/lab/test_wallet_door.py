"""What passes through the one door on the bench: the same steps as a keeper's, with bytes on disk first."""

from pathlib import Path

from keeper.domain import EventKind
from keeper.lab.door import Door


async def test_each_pass_is_a_step_of_its_own_that_was_signed_before_it_was_sent(tmp_path: Path) -> None:
    door = Door(tmp_path / "journal", durable=False)
    await door.open(3)
    took_us = [await door.pass_through() for _ in range(20)]
    assert min(took_us) > 0
    assert door.journal.live_steps() == ()
    steps = door.journal.settled_since(0)
    assert [step.nonce for step in steps] == [*range(20)]
    assert all(step.signed_tx for step in steps)
    kinds = [event.kind for step in steps for event in door.journal.history(step.case_id)]
    assert kinds == [EventKind.SUSPECTED, EventKind.RESERVED, EventKind.SENT, EventKind.INCLUDED] * 20
    door.journal.close()
