"""A keeper beside one that leads: it follows, sends nothing, and goes on where that one has stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keeper.domain import Level
from keeper.errors import Deposed
from tests.unit.pipeline.desk import BREACHED, Desk


class Pair:
    """Two keepers on one chain and one journal; the first one leads until it is told otherwise."""

    def __init__(self, path: Path) -> None:
        self.leader = Desk(path, restarting=False)
        self.standby = Desk(path, restarting=False, chain=self.leader.chain)
        self.leads = False
        self.standby.pipeline._leads = lambda: self.leads

    async def head(self, *, leader_works: bool = True, mined: bool = False) -> None:
        """Add a block, and tell both; a leader that is gone hears nothing."""
        chain = self.leader.chain
        chain.extend()
        if mined:
            chain.mine()
        for each in (self.leader, self.standby) if leader_works else (self.standby,):
            await each.hear(adopted=[chain.tip])


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    found = Pair(tmp_path / "journal.sqlite")
    yield found
    found.leader.close()
    found.standby.close()


async def test_a_standby_has_its_book_warm_and_journals_and_sends_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "journal.sqlite", restarting=False)
    desk.pipeline._leads = lambda: False
    for _ in range(3):
        await desk.head(BREACHED)
    assert desk.pipeline.mirror.book.exact(BREACHED.key) == BREACHED
    assert (desk.cases(), desk.heads_done(), desk.acts()) == ([], [], [])
    assert desk.chain.sent == []
    desk.close()


async def test_at_its_first_head_with_the_lease_it_acts(tmp_path: Path) -> None:
    leads = False
    desk = Desk(tmp_path / "journal.sqlite", restarting=False)
    desk.pipeline._leads = lambda: leads
    await desk.head(BREACHED)
    leads = True
    await desk.head()
    assert desk.acts() == ["flag"]
    assert BREACHED.key in {key for page in desk.journal.found() for key in page}
    assert desk.violations() == []
    desk.close()


async def test_it_goes_on_with_what_the_leader_has_in_flight(pair: Pair) -> None:
    pair.leader.chain.put(BREACHED)
    await pair.head()
    [sent] = pair.leader.chain.sent
    pair.leads = True
    await pair.head(leader_works=False)
    # The very bytes go out once more before anything else, and nothing but them.
    assert pair.leader.chain.sent == [sent, sent]
    await pair.head(leader_works=False, mined=True)
    assert pair.standby.told()[:4] == pair.leader.told()[:4]
    assert pair.standby.violations() == []


async def test_it_takes_the_level_that_the_leader_came_to(pair: Pair) -> None:
    await pair.head()
    pair.leader.journal.note_level(pair.leader.chain.tip, Level.STRESSED, "a sign", {})
    await pair.head()
    pair.leads = True
    await pair.head(leader_works=False)
    assert pair.standby.pipeline.vitals.level >= Level.ELEVATED


async def test_of_what_the_chain_did_it_keeps_what_the_leader_has_not_journaled(pair: Pair) -> None:
    chain = pair.leader.chain
    for number in range(3):
        chain.put(replace(BREACHED, cash_wad=BREACHED.cash_wad + number))
        await pair.head()
    assert pair.standby.pipeline.mirror.facts == []
    assert pair.standby.pipeline.mirror.orphaned == []


async def test_what_the_leader_journals_after_the_standby_has_looked_is_not_told_twice(pair: Pair) -> None:
    chain = pair.leader.chain
    chain.put(BREACHED)
    await pair.head()
    chain.extend()
    chain.put(replace(BREACHED, cash_wad=BREACHED.cash_wad - 1))
    for each in (pair.standby, pair.leader):
        await each.hear(adopted=[chain.tip])
    assert pair.leader.told().count("Observed Poked") == 1
    pair.leads = True
    await pair.head(leader_works=False)
    assert pair.standby.told().count("Observed Poked") == 1


async def test_who_was_deposed_stops(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "journal.sqlite", restarting=False)
    await desk.head(BREACHED)

    def lost() -> bool:
        raise Deposed("b leads by lease 2, and this keeper had lease 1")

    desk.pipeline._leads = lost
    sent = list(desk.chain.sent)
    with pytest.raises(Deposed, match=r"standby\.deposed: b leads"):
        await desk.head()
    assert desk.chain.sent == sent
    desk.close()
