"""A whole keeper on a throw-away chain, block by block: any market, its desk, and the prices of a test.

Nothing happens but in ``head``: it mines what is pending, and has the pipeline work on that block to the end.
What the keeper sends there is mined in the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader, Params
from keeper.chain.wire import head_of
from keeper.desk.port import Desk
from keeper.domain import Call, CaseEvent, EventKind, Head, Quote, Unknown
from keeper.execute.sender import ChainSender
from keeper.journal.guard import Limits
from keeper.journal.reader import JournalReader
from keeper.journal.store import SqliteJournal
from keeper.lab.anvil import Node
from keeper.pipeline import Params as PipelineParams
from keeper.pipeline import Pipeline
from keeper.ports import Feed, Market
from keeper.state.book import Book
from keeper.units import WAD, AccountKey, FeedId, UnixS, Wad
from tests.unit.pipeline.desk import SIGNER

BLOCK_S = 12
PATIENCE_S = 30
LIMITS = Limits(spend_day_wei=100 * WAD)
Found = TypeVar("Found")
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
        return [_short(event) for event in self.history(account)]

    def acts(self, account: AccountKey) -> list[Any]:
        """Return what was reserved for an account, oldest first."""
        return [event.data["act"] for event in self.history(account) if event.kind is EventKind.RESERVED]

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
) -> AsyncIterator[Keeping]:
    """Run a keeper, with the wallet of ``SIGNER``, that has found every account and seen the newest block."""
    node.fund([SIGNER.address])
    async with Pool([node.http_url]) as pool:
        reader = ChainReader(pool, [node.ws_url], market.addresses, Params(deaf_poll_s=0.02, poll_s=0.2))
        for address, creation in (lent or {}).items():
            await reader.lend(address, creation)
        journal = SqliteJournal(folder / "journal", identity={"of": "a test"}, limits=limits)
        sender = ChainSender(pool, journal, SIGNER, chain_id=node.chain_id)
        pipeline = Pipeline(
            reader=reader,
            market=market,
            desk=desk,
            feed=feed,
            journal=journal,
            sender=sender,
            params=params,
        )
        kept = Keeping(node, pool, reader, pipeline, journal)
        try:
            await kept.start()
            yield kept
        finally:
            await reader.close()
            journal.close()


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
