"""The whole keeper between a venue's socket and a node's: a transaction for each account that is breached.

How long that takes ``scripts/bench latency`` measures; here it is only that it happens.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from keeper.journal.reader import JournalReader
from keeper.lab.reaction import least, rig
from keeper.lab.stages import parts_of, read_stages

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]


async def test_every_price_that_breaches_somebody_leads_to_a_signed_transaction(tmp_path: Path) -> None:
    async with rig(tmp_path, accounts=300, rungs=4, burst=20, ready=2, stages=True) as found:
        reactions = [each async for each in found.descend()]
        assert [each.was_ready for each in reactions].count(True) == 2
        crashed = await found.crash()
        assert len(crashed) == 4 + 20
        assert len(found.front.handed) == 4 + 4 + 24
    journal = JournalReader(tmp_path / "journal.sqlite")
    assert journal.summary().steps == {"included": 32}
    journal.close()
    spans = read_stages(tmp_path)
    for was_ready, first in ((True, "look at the ready"), (False, "score")):
        ways = [(each.price_ns, each.wire_ns) for each in reactions if each.was_ready == was_ready]
        parts = {part.stage: part for part in parts_of(spans, ways)}
        assert ("simulate" in parts) == (not was_ready)
        # What is signed may be so ahead of its permit.
        order = ["read the message", first, "judge", "permit", "journal the bytes"]
        assert [part for part in parts if part in order] == order
        assert {parts[stage].times for stage in order} == {2}


async def test_every_new_low_leads_to_a_signed_transaction_of_the_least_there_is(tmp_path: Path) -> None:
    took_us = [us async for us in least(tmp_path, 5)]
    assert len(took_us) == 5
    with closing(sqlite3.connect(tmp_path / "floor.sqlite")) as db:
        assert [row[0] for row in db.execute("SELECT nonce FROM sent")] == [*range(5)]
