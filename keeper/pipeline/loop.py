"""The loop: what a new head leads to, and in which order.

One task, one head at a time. Heads that arrive meanwhile coalesce in the reader: the newest wins, and the
logs of every block in between come with it, so that chain facts never drop. A fault of the node ends the
work on that head only; what was not read stays dirty and is read at the next one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from keeper.desk.port import Desk
from keeper.domain import Head
from keeper.errors import ChainFault
from keeper.pipeline.care import Care
from keeper.pipeline.mirror import Mirror, Shelf
from keeper.pipeline.params import Params
from keeper.pipeline.watch import Watch
from keeper.ports import BlockUpdate, Feed, Journal, Market, Progress, Reader, Sender, Vitals
from keeper.units import Block

log = structlog.get_logger()
MarketT = TypeVar("MarketT", bound=Market[Any, Any])


class Pipeline(Generic[MarketT]):
    """One keeper on one deployment."""

    def __init__(
        self,
        *,
        reader: Reader,
        market: MarketT,
        desk: Desk[MarketT, Any],
        feed: Feed,
        journal: Journal,
        sender: Sender,
        params: Params | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        desk.expect(market, feed.latest(0).keys())
        params = params or Params()
        self._reader = reader
        self._journal = journal
        self.mirror = Mirror(
            reader=reader, market=market, desk=desk, journal=journal, params=params, shelf=shelf
        )
        self._watch = Watch(self.mirror, feed=feed, params=params)
        self._care = Care(
            self.mirror, reader=reader, desk=desk, journal=journal, sender=sender, params=params
        )
        self.busy = asyncio.Lock()
        """Held while a head is worked on: who holds it may cancel the loop between two heads."""

    async def discover(
        self,
        from_block: Block,
        head: Head,
        *,
        published: Path | None = None,
        progress: Progress | None = None,
    ) -> Block:
        """Find every account that an event touched; return the block that the updates must begin with."""
        return await self.mirror.discover(from_block, head, published=published, progress=progress)

    async def run(self) -> None:
        """Work on every head until cancelled."""
        async for update in self._reader.updates():
            async with self.busy:
                try:
                    await self.on_update(update)
                except ChainFault as fault:
                    log.warning("head.failed", block=update.head.number, why=str(fault))

    async def on_update(self, update: BlockUpdate) -> None:
        """Do all that one new head asks for, and journal that it is done."""
        head, mirror = update.head, self.mirror
        await mirror.hear(update)
        sampled = await mirror.read(head)
        await self._care.follow(head)
        self._care.observe(head)
        moment, suspects = self._watch.look(head)
        await self._care.attend(moment, suspects, update.heard_ns)
        await mirror.check(sampled, head)
        mirror.done(head)
        if mirror.is_due_for_disk:
            # The book stands still until the next head; what listens meanwhile need not wait for the disk.
            await asyncio.to_thread(mirror.save)

    def save(self) -> None:
        """Write the book to disk, where it is to be kept and was read whole at one head."""
        self.mirror.save()

    @property
    def accounts(self) -> int:
        """How many accounts are known, or waiting to be read for the first time."""
        return self.mirror.book.known

    @property
    def vitals(self) -> Vitals:
        """How the keeper does, as plain values."""
        mirror = self.mirror
        return Vitals(
            accounts=len(mirror.book),
            dirty=len(mirror.book.dirty()),
            done=self._journal.last_head() if self._care.has_started else None,
            mirror_at_s=mirror.as_of_s,
            degraded=mirror.audit.degraded,
            checked=mirror.audit.checked,
            differences=mirror.audit.differences,
            cases=self._care.cases,
            logs_waiting=mirror.logs_waiting,
            facts_waiting=len(mirror.facts),
        )
