"""The loop: what a new head leads to, and in which order.

One head at a time. Heads that arrive meanwhile coalesce in the reader: the newest wins, and the logs of
every block in between come with it, so that chain facts never drop. A fault of the node ends the work on
that head only; what was not read stays dirty and is read at the next one.

Where prices move between the heads, three tasks share the loop. The *watch* scores the book at every tick,
and waits for nothing else. The other two judge and act, one at a time, for both hold ``busy``: the one on
heads, in their order, the other on those whom ticks made suspect. Nothing acts on a mixture of two heads:
while one is worked on, alarms wait until its rows are read, its prices and outcomes known and its acts sent;
where that failed, they wait for the next head, which looks at all suspects. After a head, what the accounts
nearest to breach would need is built and simulated, so that an alarm need not ask the node anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from keeper.desk.port import Desk
from keeper.domain import Head
from keeper.errors import ChainFault
from keeper.pipeline.care import Care, Moment
from keeper.pipeline.mirror import Mirror, Shelf
from keeper.pipeline.near import Near
from keeper.pipeline.params import Params
from keeper.pipeline.watch import Watch
from keeper.ports import BlockUpdate, Feed, Journal, LiveFeed, Market, Progress, Reader, Sender, Vitals
from keeper.trigger import Trigger
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
        self._trigger = Trigger()
        self._watch = Watch(self.mirror, trigger=self._trigger, feed=feed, params=params)
        self._near = Near(self.mirror, trigger=self._trigger, desk=desk, served=feed.latest(0), params=params)
        self._care = Care(
            self.mirror, reader=reader, desk=desk, journal=journal, sender=sender, params=params
        )
        self._live = feed if isinstance(feed, LiveFeed) else None
        self._moment: Moment | None = None
        """The last head, where all suspects of it were judged and acted on."""
        self.busy = asyncio.Lock()
        """Held while a head or an alarm is worked on: who holds it may cancel the loop in between."""

    async def discover(
        self,
        from_block: Block,
        head: Head,
        *,
        published: Path | None = None,
        progress: Progress | None = None,
    ) -> Block:
        """Find every account that an event touched; return the block that the updates must begin with.

        What a large book needs to be scored is compiled before a head waits for it.
        """
        begin = await self.mirror.discover(from_block, head, published=published, progress=progress)
        await asyncio.to_thread(self._trigger.warm_up, self.mirror.book.freeze(), self.accounts)
        return begin

    async def run(self) -> None:
        """Work on every head, and on every tick of a live feed, until cancelled."""
        works = [self._follow_heads()]
        if self._live is not None:
            works += [self._follow_ticks(self._live), self._answer_alarms()]
        tasks = [asyncio.ensure_future(each) for each in works]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(tasks)

    async def _follow_heads(self) -> None:
        preparing: list[asyncio.Task[None]] = []
        try:
            async for update in self._reader.updates():
                await _end(preparing)
                async with self.busy:
                    try:
                        await self.on_update(update)
                    except ChainFault as fault:
                        log.warning("head.failed", block=update.head.number, why=str(fault))
                preparing = [asyncio.create_task(self.prepare())]
        finally:
            await _end(preparing)

    async def _follow_ticks(self, feed: LiveFeed) -> None:
        while True:
            self.on_tick(await feed.tick())
            # However fast prices move, others have their turn.
            await asyncio.sleep(0)

    async def _answer_alarms(self) -> None:
        while True:
            await self._watch.alarmed.wait()
            async with self.busy:
                try:
                    await self.on_alarm()
                except ChainFault as fault:
                    log.warning("alarm.failed", why=str(fault))

    async def on_update(self, update: BlockUpdate) -> None:
        """Do all that one new head asks for, and journal that it is done."""
        head, mirror = update.head, self.mirror
        self._moment = None
        await mirror.hear(update)
        sampled = await mirror.read(head)
        await self._care.follow(head)
        self._care.observe(head)
        moment = self._watch.look(head, update.heard_ns)
        self._near.hear(moment.quotes)
        await self._care.attend(moment)
        self._moment = moment
        await mirror.check(sampled, head)
        mirror.done(head)
        if mirror.is_due_for_disk:
            # The book stands still until the next head; what listens meanwhile need not wait for the disk.
            await asyncio.to_thread(mirror.save)

    def on_tick(self, heard_ns: int) -> None:
        """Find out who is suspect at the newest prices."""
        self._watch.hear(heard_ns)

    async def on_alarm(self) -> None:
        """Judge whom ticks made suspect, and do what is due, where the last head was worked on whole."""
        if self._moment is None:
            self._watch.disperse()
        elif moment := self._watch.take():
            await self._care.answer(moment)
            self._watch.answered(moment)

    async def prepare(self) -> None:
        """Get ready for ticks, if there are any, and measure how far the nearest accounts are from breach.

        After a head that was worked on whole.
        """
        moment = self._moment
        if moment is None:
            return
        if self._live is not None:
            self._trigger.prepare(self.mirror.book.freeze())
            try:
                self._watch.keep(await self._care.prepare(moment, self._near.accounts()))
            except ChainFault as fault:
                log.warning("ready.failed", block=moment.head.number, why=str(fault))
        await self._near.measure(moment)

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
            ticks=self._watch.ticks(self._care.ready) if self._live else None,
            nearest=self._near.found,
        )


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """End tasks; raise what one of them ended with by itself."""
    for each in tasks:
        each.cancel()
    for found in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(found, Exception):
            raise found
