"""A whole keeper on a throw-away chain, block by block: any market, its desk, and the prices of a test.

Nothing happens but in ``head``: it mines what is pending, and has the pipeline work on that block to the end.
What the keeper sends there is mined in the next one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

from keeper.chain.mempool import Mempool
from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader, Params
from keeper.chain.wire import head_of
from keeper.desk.port import Alarm, Desk
from keeper.domain import Announced, Call, CaseEvent, EventKind, Fees, Head, Quote, Unknown
from keeper.execute.fees import FeeParams
from keeper.execute.sender import ChainSender
from keeper.execute.sender import Params as SenderParams
from keeper.journal.guard import Limits
from keeper.journal.reader import JournalReader
from keeper.journal.runs import Run
from keeper.journal.store import SqliteJournal
from keeper.journal.tape import Recorder
from keeper.lab.anvil import GWEI, Node, Tx
from keeper.ladder import NEVER, Climb
from keeper.ladder import Book as Tide
from keeper.oracles.panel import Panel, reader_creation
from keeper.pipeline import Params as PipelineParams
from keeper.pipeline import Pipeline
from keeper.pipeline.posture import Lagging
from keeper.ports import Feed, Journal, LiveFeed, Market, Reports
from keeper.replay.deck import Deck
from keeper.replay.play import play_run, playable
from keeper.replay.scene import Parts, scene_at
from keeper.state.book import Book
from keeper.units import WAD, AccountKey, Block, FeedId, UnixS, Wad
from keeper.why.account import told_decision
from keeper.why.explain import explain, words_of
from keeper.why.nearest import nearest
from tests.unit.pipeline.desk import SIGNER

BLOCK_S = 12
PATIENCE_S = 30
LIMITS = Limits(spend_day_wei=100 * WAD)
NO_SIGN = (NEVER, NEVER, NEVER)
CALM = Tide(head_age=NO_SIGN, feeds_lost=NO_SIGN, divergence=NO_SIGN)
"""Time is made to pass between heads here, of some feeds nobody speaks, and one clock falls a block later."""
Found = TypeVar("Found")
Heard: TypeAlias = dict[tuple[Block, AccountKey], Any]
NOBODY_CALLED = Climb(most_called=0)
"""Most scenarios are of closings: nobody is called before or after."""
Lent = Mapping[str, bytes]
"""Creation code by address, of readers that are not deployed."""


@dataclass
class Spoken:
    """A feed that says the prices it is told, as of now; for those without one, that it knows none."""

    prices: dict[FeedId, Wad | None] = field(default_factory=dict)

    def latest(self, now_s: UnixS) -> dict[FeedId, Quote | Unknown]:
        return {
            feed: Quote(feed, price, now_s) if price else Unknown(feed, "nobody says")
            for feed, price in self.prices.items()
        }


class Keeping:
    """One keeper, watching and acting. ``keeping`` makes it, and ends it."""

    def __init__(
        self, node: Node, pool: Pool, reader: ChainReader, pipeline: Pipeline[Any], journal: SqliteJournal
    ) -> None:
        self.node = node
        self.reader = reader
        self.pipeline = pipeline
        self.journal = journal
        self._pool = pool
        self._updates = reader.updates()

    @property
    def book(self) -> Book[Any]:
        """Its mirror."""
        return self.pipeline.mirror.book

    async def start(self, from_block: int = 0) -> None:
        """Find every account, and work on the newest block."""
        await self.reader.start(await self.pipeline.discover(from_block, await _tip(self._pool)))
        await self.catch_up()

    async def head(self, after_s: int = BLOCK_S) -> Head:
        """Mine a block with all that is pending, and have the keeper work on it."""
        self.node.mine(self.node.timestamp_s() + after_s)
        return await self.catch_up()

    async def announce(self, txs: Sequence[Tx]) -> list[str]:
        """Send transactions that are in no block yet, and have the keeper look behind each."""
        hashes = self.node.send(txs)
        for tx, tx_hash in zip(txs, hashes, strict=True):
            call = Call((tx.to or "").lower(), tx.data)
            await self.pipeline.on_announced(
                Announced(tx_hash, tx.sender, call, tx.gas, Fees(9 * GWEI, GWEI))
            )
        return hashes

    async def catch_up(self) -> Head:
        """Have the keeper work on what was mined, up to the newest block."""
        tip = await _tip(self._pool)
        async with asyncio.timeout(PATIENCE_S):
            async for update in self._updates:
                await self.pipeline.on_update(update)
                if update.head.hash == tip.hash:
                    break
        return tip

    # --- what came of it ---

    def history(self, account: AccountKey) -> list[CaseEvent]:
        """Return the events of all cases of an account, oldest first."""
        rows = self.journal._rows("SELECT case_id FROM cases WHERE account = ? ORDER BY rowid", account)
        return [event for row in rows for event in self.journal.history(row["case_id"])]

    def told(self, account: AccountKey) -> list[str]:
        """Return them in short: each with its act, its rule, or the kind of its step."""
        return [_short(event) for event in self.history(account) if event.kind is not EventKind.MOVED]

    def acts(self, account: AccountKey) -> list[Any]:
        """Return what was reserved for an account, oldest first."""
        return [event.data["act"] for event in self.history(account) if event.kind is EventKind.RESERVED]

    def booked(self, *accounts: AccountKey) -> Counter[str]:
        """Return what all included steps of some accounts moved, as the journal has it."""
        moved = Counter[str]()
        for event in (each for account in accounts for each in self.history(account)):
            if event.kind is EventKind.INCLUDED:
                moved.update(event.data["moved"])
        return moved

    def violations(self) -> list[str]:
        """Return what is wrong with the journal, as an auditor in another process sees it."""
        reader = JournalReader(self.journal._path)
        try:
            return list(reader.verify())
        finally:
            reader.close()


@asynccontextmanager
async def keeping(
    node: Node,
    market: Market[Any, Any],
    desk: Desk[Any, Any],
    feed: Feed,
    folder: Path,
    *,
    lent: Lent | None = None,
    limits: Limits = LIMITS,
    params: PipelineParams | None = None,
    climb: Climb = NOBODY_CALLED,
    panel: Panel | None = None,
    lagging: Lagging = lambda: None,
    explained: bool = False,
) -> AsyncIterator[Keeping]:
    """Run a keeper, with the wallet of ``SIGNER``, that has found every account and seen the newest block."""
    node.fund([SIGNER.address])
    params, panel = replace(params or PipelineParams(), climb=climb, tide=CALM), panel or Panel()
    heard: Heard = {}
    async with Pool([node.http_url]) as pool:
        reader = ChainReader(pool, [node.ws_url], market.addresses, Params(deaf_poll_s=0.02, poll_s=0.2))
        for address, creation in {**(lent or {}), panel.reader: reader_creation()}.items():
            await reader.lend(address, creation)
        journal = SqliteJournal(folder / "journal", identity={"of": "a test"}, limits=limits)
        tape = Recorder()
        started = {"wallet": SIGNER.address, "signs_at_once": True, "chain_id": node.chain_id}
        journal.keep_tape(tape, started)
        sender = ChainSender(tape.rpc(pool), journal, SIGNER, chain_id=node.chain_id)
        pipeline = Pipeline(
            reader=tape.reader(reader),
            market=market,
            desk=cast("Desk[Any, Any]", Listened(desk, heard)),
            feed=tape.feed(feed),
            journal=journal,
            sender=sender,
            params=params,
            panel=panel,
            lagging=lagging,
            tape=tape,
            mempool=tape.mempool(Mempool(pool, [node.ws_url], (), reader.lent)),
        )
        kept = Keeping(node, pool, reader, pipeline, journal)
        try:
            await kept.start()
            yield kept
        finally:
            await reader.close()
            journal.close()
    parts = Parts(market, desk, params, FeeParams(), node.chain_id, "", panel)
    await expect_replay(journal, parts, limits, live=isinstance(feed, LiveFeed))
    if explained:
        await expect_explained(journal, parts, heard)


@dataclass
class Listened:
    """A desk that is listened to: what it said of each account at a head, by the number of that."""

    desk: Desk[Any, Any]
    heard: Heard

    def __getattr__(self, name: str) -> Any:
        return getattr(self.desk, name)

    def judge(self, sitting: Any, account: AccountKey, alarm: Alarm) -> Any:
        found = self.heard[sitting.at.block - 1, account] = self.desk.judge(sitting, account, alarm)
        return found


async def expect_explained(journal: SqliteJournal, parts: Parts, heard: Heard) -> None:
    """Expect that what is explained of every account at every head is what was decided there."""

    async def open_parts(run: Run, answers: Any, said: Reports) -> Parts:
        del run, answers, said
        return parts

    with closing(JournalReader(journal._path)) as reader:
        for block in sorted({block for block, _ in heard}):
            scene = await scene_at(reader, open_parts, block)
            for key in {key for _, key in heard if key in scene.book}:
                said = explain(reader, scene, f"0x{key.hex()}", block).get("decision", {})
                if (block, key) in heard and said:
                    said.pop("done", None)
                    assert said == told_decision(scene, heard[block, key])


async def expect_replay(journal: SqliteJournal, parts: Parts, limits: Limits, *, live: bool) -> None:
    """Play what the keeper has taped, and expect the same events; have every account explained."""

    async def make(deck: Deck, into: Journal, sender: ChainSender, book: Path | None) -> Pipeline[Any]:
        assert book is None
        return Pipeline(
            reader=deck.reader,
            market=parts.market,
            desk=parts.desk,
            feed=deck.feed(live=live),
            journal=into,
            sender=sender,
            params=parts.params,
            panel=parts.panel,
            tape=deck,
            mempool=deck.mempool,
        )

    async def open_parts(run: Run, answers: Any, said: Reports) -> Parts:
        del run, answers, said
        return parts

    path = journal._path
    with closing(JournalReader(path)) as reader:
        runs = playable(reader)
        scene = await scene_at(reader, open_parts, None)
        for key in scene.book.keys.tolist():
            said = explain(reader, scene, f"0x{key.hex()}", None)
            assert {"own", "unknown", "decision"} & said.keys()
            assert list(words_of(said))
        assert all("kind" in each["there"] for each in nearest(reader, scene, 10))
    for run in runs:
        played = await play_run(path, run, make, limits=limits, sender=SenderParams())
        assert list(played.differences) == []
        assert played.beyond == []


def read(node: Node, rounds: Generator[list[Call], list[bytes], Found], lent: Lent | None = None) -> Found:
    """Carry out a reading of several rounds at the newest block, as it is done before a keeper starts."""
    try:
        calls = next(rounds)
        while True:
            calls = rounds.send([ask(node, call, lent) for call in calls])
    except StopIteration as found:
        result: Found = found.value
        return result


def ask(node: Node, call: Call, lent: Lent | None = None) -> bytes:
    """Make one call at the newest block, to a contract that may be lent."""
    asked = [{"to": call.to, "data": "0x" + call.data.hex()}, "latest"]
    if creation := (lent or {}).get(call.to):
        code = node.rpc("eth_call", {"data": "0x" + creation.hex()}, "latest")
        asked.append({call.to: {"code": code}})
    return bytes.fromhex(node.rpc("eth_call", *asked)[2:])


async def _tip(pool: Pool) -> Head:
    return head_of(await pool.request("eth_getBlockByNumber", ["latest", False]))


def _short(event: CaseEvent) -> str:
    if event.kind is EventKind.OBSERVED:
        return f"Observed {event.data['act']}"
    named = event.data.get("rule") or (event.data.get("kind") if event.kind is EventKind.RESERVED else None)
    return f"{event.kind} {named}" if named else event.kind.value
