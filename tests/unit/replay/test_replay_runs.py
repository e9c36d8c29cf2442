"""What was taped is decided again: the same events, or the first that differ."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from eth_utils.crypto import keccak

from keeper.desk.hybrid import HybridDesk
from keeper.desk.hybrid import Params as DeskParams
from keeper.errors import ChainFault, ConfigError
from keeper.execute.sender import ChainSender
from keeper.execute.sender import Params as SenderParams
from keeper.execute.transports import PENDING_UPDATES, Via
from keeper.journal import tape
from keeper.journal.db import Shared
from keeper.journal.guard import Limits
from keeper.journal.reader import JournalReader
from keeper.journal.runs import Run
from keeper.oracles.panel import Panel
from keeper.pipeline import Params, Pipeline, Shelf
from keeper.plan import hybrid as plan
from keeper.ports import Journal, Switch
from keeper.protocols.hybrid.market import HybridMarket
from keeper.replay.deck import Deck
from keeper.replay.play import Played, play_run, playable
from keeper.replay.scene import _place
from keeper.replay.told import words_of
from keeper.units import WAD
from tests.unit.execute.distant import Distant
from tests.unit.pipeline.desk import BREACHED, KEEPER, KEY, SIGNER, Chain, Desk, confirmed, cured, flagged
from tests.unit.pipeline.ticking import Ticker
from tests.unit.protocols.hybrid.books import deployment
from tests.unit.replay import fall

OTHER = replace(BREACHED, key=b"\x0c" * 20 + bytes(12))
BTC, ABOVE, BELOW = "BTC/USD", 203 * WAD, 200 * WAD


@pytest.fixture(params=[False, True], ids=["running", "restarted before every head"])
def taped(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "journal.sqlite", restarting=request.param)
    desk.taping = True
    desk.start()
    yield desk
    desk.close()


@dataclass
class Studio:
    """Where tapes are played, with parameters of one's own."""

    live: bool = False
    plan: plan.Params = field(default_factory=plan.Params)
    limits: Limits = field(default_factory=Limits)
    params: Params = field(default_factory=Params)
    panel: Panel = field(default_factory=Panel)
    sender: SenderParams = field(default_factory=SenderParams)

    async def make(
        self, deck: Deck, journal: Journal, sender: ChainSender, book: Path | None
    ) -> Pipeline[Any]:
        shelf = Shelf(book, 31337, "hybrid", every_blocks=2**62) if book else None
        return Pipeline(
            reader=deck.reader,
            market=HybridMarket(deployment()),
            desk=HybridDesk(SIGNER.address, KEEPER, DeskParams("ETH/USD", plan=self.plan)),
            feed=deck.feed(live=self.live),
            journal=journal,
            sender=sender,
            params=self.params,
            shelf=shelf,
            panel=self.panel,
            tape=deck,
            leads=deck.leads,
        )

    async def play(self, desk: Desk) -> list[Played]:
        assert desk.violations() == []
        desk.close()
        reader = JournalReader(desk.place)
        runs = playable(reader)
        reader.close()
        return [await self.play_one(desk.place, run) for run in runs]

    async def play_one(self, place: Path | Shared, run: Run) -> Played:
        return await play_run(place, run, self.make, limits=self.limits, sender=self.sender)


def expect_equal(played: list[Played]) -> None:
    for each in played:
        assert list(each.differences) == []
        assert (each.beyond, each.unasked, each.cut) == ([], 0, 0)


async def episode(desk: Desk) -> None:
    """A breach, its flag, a reorg that takes it back, the confirmation, a slice and the cure."""
    await desk.head(BREACHED)
    await desk.head(flagged(BREACHED, desk.chain.tip), mined=True)
    await desk.head(BREACHED, reorg=1)
    alarmed = flagged(BREACHED, desk.chain.next)
    await desk.head(alarmed, mined=True)
    for _ in range(3):
        await desk.head()
    agreed = confirmed(alarmed, desk.chain.next)
    await desk.head(agreed, mined=True)
    desk.chain.fails.append("simulate")
    await desk.head(OTHER)
    await desk.head(mined=True)
    await desk.head(cured(agreed))
    await desk.head()


async def test_a_run_is_replayed_event_for_event(taped: Desk) -> None:
    await episode(taped)
    told = [each for case in range(len(taped.cases())) for each in taped.told(case)]
    assert {"Reserved flag", "Reserved confirm", "Reserved liquidate", "Unincluded"} <= set(told)
    events = sum(len(taped.history(case)) for case in range(len(taped.cases())))
    played = await Studio().play(taped)
    expect_equal(played)
    assert sum(each.heads for each in played) == _records(taped).count("head")
    assert sum(len(each.now) for each in played) == events


async def test_why_a_step_reverted_and_to_whom_it_lost_is_replayed(taped: Desk) -> None:
    taped.chain.reverted = {"flag": b""}
    taped.chain.places = (0, 1)
    await taped.head(BREACHED)
    await taped.head(flagged(BREACHED, taped.chain.next), mined=True, status=0)
    [reverted] = [event for event in taped.history() if event.kind == "Reverted"]
    assert {"why", "lost_to", "profit_wad"} <= reverted.data.keys()
    expect_equal(await Studio().play(taped))


async def test_a_run_with_batches_is_replayed(taped: Desk) -> None:
    taped.batch = 4
    taped.start()
    both = [replace(BREACHED, key=bytes([at]) * 20 + bytes(12)) for at in (10, 11)]
    await taped.head(*both)
    await taped.head(reorg=1)
    await taped.head(*(flagged(each, taped.chain.tip) for each in both), mined=True)
    await taped.head()
    query = "SELECT count(*), sum(place), sum(state = 'included') FROM steps WHERE kind = 'flag'"
    assert [tuple(row) for row in taped.journal._rows(query)] == [(2, 1, 2)]
    expect_equal(await Studio(params=Params(batch=4)).play(taped))


async def test_what_goes_alone_after_its_batch_goes_alone_again(taped: Desk) -> None:
    taped.batch = 4
    taped.start()
    await taped.head(*(replace(BREACHED, key=bytes([at]) * 20 + bytes(12)) for at in (10, 11)))
    await taped.head(mined=True, status=0)
    assert [len(step.carries) for step in taped.journal.live_steps()] == [0, 0]
    await taped.head()
    expect_equal(await Studio(params=Params(batch=4)).play(taped))


@dataclass
class Relay:
    """Hears of an update now and then, and takes every other transaction that it is sent."""

    chain: Chain
    asked: list[str] = field(default_factory=list)

    async def request(self, method: str, params: list[Any]) -> Any:
        self.asked.append(method)
        if method == PENDING_UPDATES:
            return ["0x" + "fe" * 32] if self.asked.count(method) % 3 == 0 else []
        if len(self.asked) % 2:
            raise ChainFault("unable to decode txs")
        [asked] = params
        for raw in asked.get("txs") or [each["tx"] for each in asked["body"] if "tx" in each]:
            self.chain.pending["0x" + keccak(bytes.fromhex(raw[2:])).hex()] = raw
        return {"bundleHash": "0x" + "bb" * 32}


async def test_what_relays_said_is_replayed(taped: Desk) -> None:
    relay = taped.relay = Relay(taped.chain)
    taped.via = (Via.AUCTION, Via.BUNDLE, Via.PUBLIC)
    taped.start()
    await episode(taped)
    cases = range(len(taped.cases()))
    vias = {event.data["via"] for case in cases for event in taped.history(case) if "via" in event.data}
    assert {Via.BUNDLE, Via.PUBLIC} <= vias
    assert {PENDING_UPDATES, "eth_sendBundle", "mev_sendBundle"} == set(relay.asked)
    expect_equal(await Studio(sender=SenderParams(via=taped.via)).play(taped))


async def test_a_fall_with_calls_depth_witnesses_and_levels_is_replayed(taped: Desk) -> None:
    fall.prepare(taped)
    await fall.fall(taped)
    told = {each for case in range(len(taped.cases())) for each in taped.told(case)}
    assert {"Called", "Waited confirm.witnesses", "Waited size.depth", "Reserved liquidate"} <= told
    levels = taped.journal._rows("SELECT level FROM levels ORDER BY seq")
    assert [row["level"] for row in levels] == ["elevated", "normal"][: 2 - taped.restarting]
    played = await Studio(plan=fall.PLAN, params=fall.params(), panel=fall.PANEL).play(taped)
    expect_equal(played)
    assert sum(len(each.now) for each in played) > 40


async def test_a_signer_that_was_silent_is_silent_again(taped: Desk) -> None:
    taped.signer = signer = Distant(KEY)
    taped.start()
    signer.silent_for = {0, 1}
    await taped.head(BREACHED)
    await taped.head(OTHER)
    signer.silent_for = {1}
    await taped.head()
    signer.silent_for = set()
    for _ in range(2):
        await taped.head()
    told = [each for case in range(len(taped.cases())) for each in taped.told(case)]
    assert told.count("Reserved flag") == told.count("Sent") == 2
    assert signer.asked.count(0) >= 3
    expect_equal(await Studio().play(taped))


async def test_a_step_that_nobody_signed_in_time_is_abandoned_again(kept: Desk) -> None:
    kept.signer = signer = Distant(KEY)
    kept.start()
    signer.silent_for = {0}
    await kept.head(BREACHED)
    while "Abandoned send.unsigned" not in kept.told():
        await kept.head()
    signer.silent_for = set()
    await kept.head()
    assert kept.told(len(kept.cases()) - 1)[-2:] == ["Reserved flag", "Sent"]
    expect_equal(await Studio().play(kept))


async def test_a_tape_that_gets_too_long_without_a_head_ends_there_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tape, "MOST", 2**13)
    desk = Desk(tmp_path / "journal.sqlite", restarting=False)
    desk.taping, desk.feed = True, Ticker(desk.chain)
    desk.start()
    await desk.head()
    await desk.head()
    recorder: Any = desk.pipeline._tape
    for _ in range(2_000):
        desk.pipeline.on_tick(0)
        assert recorder._bytes <= tape.MOST
    await desk.head(BREACHED)
    await desk.head()
    reader = JournalReader(desk.path)
    at = desk.chain.tip.number - 2
    for block in (None, at + 1):
        with pytest.raises(ConfigError, match=f"ended after block {at}"):
            _place(reader, block)
    assert _place(reader, at)[0].run == 1
    reader.close()
    [played] = await Studio(live=True).play(desk)
    assert played.is_equal
    assert played.blocks is not None
    assert (played.blocks[1], played.has_ended) == (at, True)
    assert played.cut >= 2
    assert any("the tape had ended" in line for line in words_of(played, other=False))


def _records(desk: Desk) -> list[str]:
    reader = JournalReader(desk.path)
    found = [record[0] for run in reader.runs() for reel in reader.tape(run.run) for record in reel.records]
    reader.close()
    return found


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "journal.sqlite", restarting=False)
    desk.taping = True
    desk.start()
    yield desk
    desk.close()


def let_move(desk: Desk) -> Ticker:
    """Have prices move between the heads; nobody is suspect at first."""
    feed = Ticker(desk.chain, known={BTC: ABOVE})
    desk.feed = feed
    desk.start()
    return feed


async def ticking(desk: Desk, feed: Ticker) -> None:
    """Heads and ticks in turn: one that is ready, one that is not, and one that comes too late."""

    async def tick(price_wad: int) -> None:
        heard_ns = feed.move(BTC, price_wad)
        if desk.pipeline.on_news(heard_ns):
            await desk.pipeline.on_alarm()
        desk.pipeline.on_tick(heard_ns)
        await desk.pipeline.on_alarm()

    await desk.head(BREACHED)
    await desk.pipeline.prepare()
    await tick(BELOW)
    await tick(ABOVE)
    desk.pipeline.on_drift()
    await desk.head(flagged(BREACHED, desk.chain.tip), OTHER, mined=True)
    await tick(BELOW - WAD)
    await desk.head(OTHER)
    await desk.pipeline.prepare()
    desk.chain.fails.append("simulate")
    await tick(BELOW - 2 * WAD)
    await desk.head()


async def test_ticks_and_alarms_are_replayed_where_they_came(kept: Desk) -> None:
    feed = let_move(kept)
    await ticking(kept, feed)
    assert kept.acts().count("flag") == 2
    assert {"news", "tick", "settle", "alarm", "prepare", "mark"} <= set(_records(kept))
    played = await Studio(live=True).play(kept)
    expect_equal(played)
    assert len(played[-1].now) >= 8


async def test_what_is_rehearsed_between_ticks_leaves_nothing_on_the_tape(
    kept: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each tick and each head, so that whatever a rehearsal left behind would show in the next one."""
    feed = let_move(kept)
    rehearsed: list[int] = []

    def rehearsing(work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def begun(*args: Any) -> Any:
            assert kept.tape is not None
            noted = len(kept.tape._records)
            for _ in range(8):
                kept.pipeline.rehearse()
            assert len(kept.tape._records) == noted
            rehearsed.append(noted)
            return work(*args)

        return begun

    for name in ("on_news", "on_tick", "on_alarm", "on_drift", "on_update"):
        monkeypatch.setattr(kept.pipeline, name, rehearsing(getattr(kept.pipeline, name)))
    await ticking(kept, feed)
    assert kept.acts().count("flag") == 2
    assert len(rehearsed) > 10
    expect_equal(await Studio(live=True).play(kept))


async def test_ticks_while_a_head_is_worked_on_are_replayed_there(kept: Desk) -> None:
    feed = let_move(kept)
    await kept.head(BREACHED)
    preparing = asyncio.create_task(kept.pipeline.prepare())
    kept.chain.answering.clear()
    for price_wad in (BELOW, ABOVE, BELOW):
        await asyncio.sleep(0.001)
        kept.pipeline.on_tick(feed.move(BTC, price_wad))
    kept.chain.answering.set()
    await preparing
    await kept.pipeline.on_alarm()
    working = asyncio.create_task(kept.head(OTHER, flagged(BREACHED, kept.chain.tip), mined=True))
    kept.chain.answering.clear()
    await asyncio.sleep(0.001)
    kept.pipeline.on_tick(feed.move(BTC, BELOW - WAD))
    kept.chain.answering.set()
    await working
    await kept.pipeline.on_alarm()
    expect_equal(await Studio(live=True).play(kept))


async def test_a_run_that_took_up_a_book_is_replayed_with_that_book(kept: Desk, tmp_path: Path) -> None:
    kept.shelf = Shelf(tmp_path / "book", 31337, "hybrid", every_blocks=1)
    kept.start()
    await kept.head(BREACHED, OTHER)
    kept.start()
    await kept.head(flagged(BREACHED, kept.chain.tip), mined=True)
    for _ in range(3):
        await kept.head()
    kept.start()
    await kept.head(cured(OTHER))
    played = await Studio().play(kept)
    assert len(played) == 3
    expect_equal(played)


async def test_a_book_that_cannot_be_read_keeps_nobody_from_starting(kept: Desk, tmp_path: Path) -> None:
    kept.shelf = Shelf(tmp_path / "book", 31337, "hybrid")
    (tmp_path / "book").write_bytes(b"none")
    kept.start()
    await kept.head(BREACHED)
    assert kept.told() == ["Suspected", "Reserved flag", "Sent"]
    kept.close()
    with closing(JournalReader(kept.path)) as reader, pytest.raises(ConfigError, match="has no tape"):
        playable(reader)


async def test_a_question_that_was_given_up_is_given_up_again(kept: Desk) -> None:
    let_move(kept)
    await kept.head(BREACHED)
    kept.chain.answering.clear()
    preparing = asyncio.create_task(kept.pipeline.prepare())
    await asyncio.sleep(0.01)
    preparing.cancel()
    with suppress(asyncio.CancelledError):
        await preparing
    kept.chain.answering.set()
    await kept.head()
    assert "x" in _records(kept)
    expect_equal(await Studio(live=True).play(kept))


async def test_a_stranger_with_the_key_stops_a_replay_where_it_stopped_the_run(kept: Desk) -> None:
    await kept.head(BREACHED)
    await kept.head(flagged(BREACHED, kept.chain.next), mined=True)
    kept.chain.receipts["0xee"] = {"blockNumber": hex(kept.chain.tip.number + 1)}
    await kept.head(OTHER)
    kept.journal.throw(Switch.FOREIGN, "", on=False, who="a test")
    await kept.head()
    await kept.head(flagged(OTHER, kept.chain.next), mined=True)
    first = kept.told(1)[:4]
    assert first == ["Suspected", "Refused wallet.foreign", "Reserved flag", "Sent"]
    expect_equal(await Studio().play(kept))


async def test_a_measurement_that_a_head_cut_short_is_not_beyond_the_tape(kept: Desk) -> None:
    for _ in range(3):
        await kept.head(BREACHED)
        preparing = asyncio.create_task(kept.pipeline.prepare())
        await asyncio.sleep(0)
        preparing.cancel()
        with suppress(asyncio.CancelledError):
            await preparing
    await kept.head()
    assert _records(kept).count("prepare") == 3
    assert "mark" not in _records(kept)
    expect_equal(await Studio().play(kept))


async def test_a_run_that_was_killed_is_replayed_as_far_as_its_tape_goes(kept: Desk) -> None:
    await kept.head(BREACHED)
    feed = let_move(kept)
    await kept.head(flagged(BREACHED, kept.chain.tip), OTHER, mined=True)
    kept.pipeline.on_tick(feed.move(BTC, BELOW))
    await kept.pipeline.on_alarm()
    kept.journal._tape = None
    kept.start()
    await kept.head(mined=True)
    played = await Studio(live=True).play(kept)
    assert [list(each.differences) for each in played] == [[], [], []]
    assert [each.cut for each in played] == [0, 3, 0]


async def test_another_decision_is_told_and_what_it_asks_is_beyond_the_tape(kept: Desk) -> None:
    await episode(kept)
    [played] = await Studio(plan=plan.Params(upkeep=False, min_profit_wad=10**30)).play(kept)
    assert not played.is_equal
    was, now = played.otherwise()
    assert was["Reserved flag"] > 0
    assert now["Refused alarm.unprofitable"] == 2
    assert "Reserved flag" not in now


async def test_a_limit_that_is_another_makes_another_run(kept: Desk) -> None:
    await episode(kept)
    [played] = await Studio(limits=Limits(halted=True)).play(kept)
    was, now = played.otherwise()
    assert (was["Reserved flag"], now["Refused limit.halted"]) == (2, 5)
    assert not any(name.startswith("Reserved") for name in now)


async def test_a_replay_ends_at_the_block_that_is_asked_for(kept: Desk) -> None:
    await episode(kept)
    whole = [event.block for event in kept.history()]
    kept.close()
    reader = JournalReader(kept.path)
    [run] = playable(reader)
    reader.close()
    played = await play_run(kept.path, run, Studio().make, limits=Limits(), sender=SenderParams(), until=104)
    assert list(played.differences) == []
    assert played.now[-1].block <= 104 < whole[-1]


async def test_a_journal_without_a_tape_is_not_replayed(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "journal.sqlite", restarting=False)
    await desk.head(BREACHED)
    desk.close()
    reader = JournalReader(desk.path)
    with pytest.raises(ConfigError, match="has no tape that begins with a start"):
        playable(reader)
    reader.close()


async def test_no_signed_bytes_are_on_a_tape(kept: Desk) -> None:
    await episode(kept)
    kept.close()
    reader = JournalReader(kept.path)
    raw = {signed.hex() for signed, _ in reader.signed().values()}
    text = repr([reel.records for run in reader.runs() for reel in reader.tape(run.run)])
    reader.close()
    assert raw
    assert not any(each in text for each in raw)
