"""What the leaders of a shared journal taped is decided again, whoever led before and after."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from keeper.cli.keeping import STANDING_BYTES, TapeTooLong, _leads
from keeper.domain import Level, Unknown
from keeper.errors import ConfigError
from keeper.journal.db import Shared
from keeper.journal.reader import JournalReader
from keeper.journal.shared import PostgresJournal
from keeper.journal.tape import Packed
from keeper.pipeline import Shelf
from keeper.pipeline.mirror import SETTLED
from keeper.replay.play import playable
from keeper.replay.scene import scene_at
from keeper.why.explain import explain
from tests.unit.pipeline.desk import BREACHED, Chain, Desk, confirmed, cured, flagged
from tests.unit.replay.test_replay_runs import OTHER, Studio, expect_equal
from tests.unit.why.test_why import CALM, open_parts

PATIENCE_S = 40.0


class Sharing(Desk):
    """A desk whose journal others share."""

    def __init__(self, shared: Shared, chain: Chain) -> None:
        self._shared = shared
        super().__init__(shared.path, restarting=False, chain=chain)
        self.place, self.taping = shared, True
        self.start()

    def open_journal(self) -> PostgresJournal:
        identity = {"chain_id": "31337"}
        return PostgresJournal(self._shared, identity=identity, limits=self.limits, lease_s=60)


class Pair:
    """A leader, and a standby that hears the same blocks."""

    def __init__(self, url: str, folder: Path) -> None:
        schema, self.chain = f"test_{uuid4().hex}", Chain()
        for name in "ab":
            (folder / name).mkdir()
        self.leader, self.standby = (
            Sharing(Shared(url, schema, folder / name / "journal"), self.chain) for name in "ab"
        )
        assert self.leader.journal.leads()
        assert not self.standby.journal.leads()

    async def head(self, *changes: object, mined: bool = False, reorg: int = 0) -> None:
        """Add a block that changes accounts, and tell both."""
        orphaned = self.chain.cut(reorg) if reorg else []
        adopted = [self.chain.extend() for _ in range(max(reorg, 1))]
        for account in changes:
            self.chain.put(account)  # type: ignore[arg-type]
        if mined:
            self.chain.mine()
        for each in (self.leader, self.standby):
            await each.hear(orphaned, adopted)

    def take_over(self) -> Desk:
        """End the leader; return who leads now."""
        self.leader.close()
        deadline = time.monotonic() + PATIENCE_S
        while not self.standby.journal.leads():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self.standby


@pytest.fixture
def pair(server: str, tmp_path: Path) -> Iterator[Pair]:
    found = Pair(server, tmp_path)
    yield found
    for each in (found.leader, found.standby):
        each.close()


async def test_the_runs_of_two_leaders_are_replayed_event_for_event(pair: Pair) -> None:
    await pair.head(BREACHED)
    await pair.head(flagged(BREACHED, pair.chain.tip), mined=True)
    await pair.head(BREACHED, reorg=1)
    alarmed = flagged(BREACHED, pair.chain.next)
    await pair.head(alarmed, OTHER, mined=True)
    pair.leader.journal.note_level(pair.chain.tip, Level.ELEVATED, "a sign", {})
    next_ = pair.take_over()
    for _ in range(3):
        await next_.head()
    agreed = confirmed(alarmed, pair.chain.next)
    await next_.head(agreed, mined=True)
    await next_.head(mined=True)
    await next_.head(cured(agreed))
    told = [each for case in range(len(next_.cases())) for each in next_.told(case)]
    assert {"Reserved flag", "Reserved confirm", "Reserved liquidate"} <= set(told)
    first, second = played = await Studio().play(next_)
    expect_equal(played)
    assert (len(first.now) > 4, len(second.now) > 6) == (True, True)
    assert second.heads > len(next_.chain.heads) // 2
    with closing(JournalReader(pair.standby.place)) as reader:
        assert len(first.now) + len(second.now) == sum(reader.summary().events.values())


async def test_a_run_begins_with_what_the_journal_said_when_its_keeper_started(pair: Pair) -> None:
    await pair.head(BREACHED)
    for _ in range(SETTLED):
        await pair.head()
    row = pair.leader.pipeline.mirror.book.exact(BREACHED.key)
    assert not isinstance(row, Unknown)
    pair.leader.journal.note_difference(pair.chain.tip, row, row)
    # By now blocks are searched, a case is open, and the mirror of whoever starts is in doubt.
    assert (pair.leader.journal.searched() is None, pair.leader.journal.unhealed()) == (False, 1)
    next_ = pair.take_over()
    await next_.head(OTHER)
    await next_.head()
    assert next_.pipeline.vitals.degraded is None
    expect_equal(await Studio().play(next_))


async def test_a_standby_begins_its_run_when_it_leads_with_the_book_of_its_start(
    pair: Pair, tmp_path: Path
) -> None:
    book = tmp_path / "book"
    pair.standby.shelf = Shelf(book, 31337, "hybrid", every_blocks=2)
    pair.standby.start()
    await pair.head(BREACHED)
    for _ in range(2):
        await pair.head()
    pair.standby.start()
    was = book.read_bytes()
    for _ in range(3):
        await pair.head(replace(BREACHED, cash_wad=BREACHED.cash_wad - 1))
    assert book.read_bytes() != was
    with closing(JournalReader(pair.standby.place)) as reader:
        assert [run.run for run in reader.runs()] == [1]
    next_ = pair.take_over()
    await next_.head()
    with closing(JournalReader(next_.place)) as reader:
        _, run = playable(reader)
        kept = reader.book(run)
    assert kept is not None
    assert kept.read_bytes() == was
    assert [each.name for each in kept.parent.glob("*waiting")] == []
    expect_equal(await Studio().play(next_))


async def test_a_leader_that_was_deposed_leaves_its_tape_as_it_was(pair: Pair) -> None:
    await pair.head(BREACHED)
    leader, standby = pair.leader.journal, pair.standby.journal
    assert isinstance(leader, PostgresJournal)
    assert isinstance(standby, PostgresJournal)
    with closing(JournalReader(pair.leader.place)) as reader:
        reels = [reel.seq for reel in reader.tape(1)]
    standby._db.execute("UPDATE door SET token = 9")
    pair.leader.pipeline._tape.note("tick")
    leader.close()
    with closing(JournalReader(pair.leader.place)) as reader:
        assert [reel.seq for reel in reader.tape(1)] == reels


async def test_a_standby_that_has_heard_much_is_to_begin_anew(pair: Pair) -> None:
    await pair.head(BREACHED)
    tape = pair.standby.tape
    assert tape is not None
    assert 0 < tape.waiting_bytes < 2**16
    assert not _leads(pair.standby.journal, tape)
    tape._packed.append(Packed(bytes(STANDING_BYTES), listing=False))
    with pytest.raises(TapeTooLong):
        _leads(pair.standby.journal, tape)
    tape.take()
    assert not _leads(pair.standby.journal, tape)
    tape.has_ended = True
    with pytest.raises(TapeTooLong):
        _leads(pair.standby.journal, tape)
    assert _leads(pair.leader.journal, tape)


async def test_accounts_are_explained_from_the_tape_of_either_leader(pair: Pair) -> None:
    await pair.head(BREACHED, CALM)
    await pair.head(flagged(BREACHED, pair.chain.tip), mined=True)
    before = pair.chain.tip.number
    next_ = pair.take_over()
    await next_.head()
    after = next_.chain.tip.number
    with closing(JournalReader(next_.place)) as reader:
        for block, run in ((before, 1), (after, 2)):
            scene = await scene_at(reader, open_parts, block)
            assert (scene.run.run, scene.head.number) == (run, block)
            said = explain(reader, scene, f"0x{CALM.key.hex()}", block)
            assert (said["E"], said["M"], said["decision"]["kind"]) == (3_000, 1_000, "nothing")
            [case] = explain(reader, scene, f"0x{BREACHED.key.hex()}", block)["cases"]
            assert [step["kind"] for step in case["steps"]][:1] == ["flag"]


async def test_where_its_book_is_not_a_run_is_neither_explained_nor_replayed(
    pair: Pair, tmp_path: Path
) -> None:
    pair.standby.close()
    desk = pair.leader
    desk.shelf = Shelf(tmp_path / "book", 31337, "hybrid", every_blocks=1)
    desk.start()
    await desk.head(BREACHED)
    desk.start()
    await desk.head()
    assert isinstance(desk.place, Shared)
    elsewhere = replace(desk.place, path=tmp_path / "elsewhere" / "journal")
    with closing(JournalReader(elsewhere)) as reader:
        with pytest.raises(ConfigError, match=r"no book of run 3 is beside .*elsewhere"):
            await scene_at(reader, open_parts, None)
        run = playable(reader)[-1]
    assert run.started["book"]
    with pytest.raises(ConfigError, match=r"its book is not beside .*book-3-102"):
        await Studio().play_one(elsewhere, run)
