"""The loop: what a new head leads to, and in which order.

One head at a time. Heads that arrive meanwhile coalesce in the reader: the newest wins, and the logs of
every block in between come with it, so that chain facts never drop. A fault of the node ends the work on
that head only; what was not read stays dirty and is read at the next one.

Where prices move between the heads, five tasks share the loop. The *watch* scores the book at every tick,
and waits for nothing else. Two judge and act, one at a time, for both hold ``busy``: the one on heads, in
their order, the other on those whom ticks made suspect. The fourth, between these, has the trigger learn
anew how far away everybody is, where prices went far since; the last one rehearses the way from a tick to its
act while nobody is on it, for processors forget what is idle. Nothing acts on a mixture of two heads: while
one is worked on, alarms wait until its rows are read, its prices and outcomes known and its acts sent; where
that failed, they wait for the next head, which looks at all suspects. After a head, what the accounts nearest
to breach would need is built and simulated, so that an alarm need not ask the node anything.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from keeper.desk.port import Desk
from keeper.domain import Announced, Head, Posture
from keeper.errors import ChainFault
from keeper.oracles.panel import Panel
from keeper.pipeline.blank import Blank
from keeper.pipeline.care import Care
from keeper.pipeline.cascade import Cascade
from keeper.pipeline.door import Door
from keeper.pipeline.mirror import Mirror, Shelf
from keeper.pipeline.moment import Moment
from keeper.pipeline.near import Near
from keeper.pipeline.params import Params
from keeper.pipeline.posture import Bearing, Lagging
from keeper.pipeline.rungs import Rungs
from keeper.pipeline.watch import Watch
from keeper.ports import (
    Alerts,
    BlockUpdate,
    Feed,
    Journal,
    LiveFeed,
    Market,
    Mempool,
    Notice,
    Progress,
    Reader,
    Sender,
    Tape,
    Vitals,
)
from keeper.trigger import Trigger
from keeper.units import Block

log = structlog.get_logger()
MarketT = TypeVar("MarketT", bound=Market[Any, Any])

YOUNG = 1
"""The generation up to which garbage is collected after a head: what came since the last ones."""
TURNS = 3
"""Of the event loop, from a message on a socket until those are known whom it alarms."""
LEAST_REST_MS = 1.0
"""Between two rehearsals, unless there is to be none: timers end with a millisecond."""
RESPITE_S = 0.001
"""What is ready goes first: for so long nobody else is scored, for a node beside it needs the processor."""
SETTLE_S = 0.1
"""From a tick that was far from what the trigger knows until it learns the new prices."""


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
        panel: Panel | None = None,
        alerts: Alerts | None = None,
        lagging: Lagging = lambda: None,
        tape: Tape | None = None,
        leads: Callable[[], bool] = lambda: True,
        mempool: Mempool | None = None,
    ) -> None:
        """Take parts; where ``leads`` says no, the keeper follows the chain, and writes and sends nothing."""
        desk.expect(market, feed.latest(0).keys())
        params = params or Params()
        alerts = alerts or Silence()
        self._reader = reader
        self._journal = journal
        self._desk = desk
        self._alerts = alerts
        self._tape = tape or Blank()
        self._leads = leads
        self._stood_by = False
        self.mirror = Mirror(
            reader=reader,
            market=market,
            desk=desk,
            journal=journal,
            params=params,
            shelf=shelf,
            panel=panel or Panel(),
            tape=self._tape,
        )
        self._trigger = Trigger()
        self._watch = Watch(self.mirror, trigger=self._trigger, feed=feed, params=params)
        self._rungs = Rungs(self.mirror, trigger=self._trigger, params=params)
        self._near = Near(
            self.mirror,
            trigger=self._trigger,
            desk=desk,
            served=feed.latest(0),
            params=params,
            rung=self._rungs.of,
        )
        self._care = Care(
            self.mirror,
            reader=reader,
            desk=desk,
            journal=journal,
            sender=sender,
            params=params,
            rungs=self._rungs,
            alerts=alerts,
            latest=feed.latest,
            mempool=mempool,
        )
        self._mempool = mempool
        self._before: list[Announced] = []
        """What was announced since the last head, in its order."""
        self._rehearse_ms = params.rehearse_ms
        self._pieces: Iterator[None] = iter(())
        """Of the way from a tick to its act, those that are still to be rehearsed."""
        self._bearing = Bearing(
            journal=journal,
            served=feed.latest(0).keys() & {*market.feeds},
            book=params.tide,
            block_time_s=params.block_time_s,
            alerts=alerts,
            lagging=lambda: self._tape.chance(lagging()),
        )
        self._door = Door(journal=journal, alerts=alerts)
        self._cascade = Cascade(self.mirror, desk=desk, params=params)
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
        self._tape.note("discover", from_block, head)
        begin = await self.mirror.discover(from_block, head, published=published, progress=progress)
        await asyncio.to_thread(self._trigger.warm_up, self.mirror.book.freeze(), self.accounts)
        return begin

    async def run(self) -> None:
        """Work on every head, and on every tick of a live feed, until cancelled."""
        works = [self._follow_heads()]
        if self._live is not None:
            works += [self._follow_ticks(self._live), self._answer_alarms(), self._settle()]
            works += [self._rehearse()] if self._rehearse_ms else []
        if self._mempool is not None:
            works.append(self._follow_mempool(self._mempool))
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
            heard_ns = await feed.tick()
            if not self.busy.locked() and self.on_news(heard_ns):
                # Their alarm is answered in the next turn, as far as to the wire.
                await asyncio.sleep(0)
                await asyncio.sleep(RESPITE_S)
            self.on_tick(heard_ns)
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

    async def _follow_mempool(self, mempool: Mempool) -> None:
        async with aclosing(mempool.announced()) as heard:
            async for announced in heard:
                async with self.busy:
                    try:
                        await self.on_announced(announced)
                    except ChainFault as fault:
                        log.warning("announced.failed", tx_hash=announced.tx_hash, why=str(fault))
                log.info("announced.looked", tx_hash=announced.tx_hash)

    async def _rehearse(self) -> None:
        rest_s = self._rehearse_ms / 1e3 if self._rehearse_ms >= LEAST_REST_MS else 0.0
        while True:
            await asyncio.sleep(rest_s if self._is_idle else max(rest_s, LEAST_REST_MS / 1e3))
            goes_on = True
            while goes_on:
                for _ in range(TURNS):
                    await asyncio.sleep(0)
                # What is not known now whoever acts will say.
                with suppress(ChainFault):
                    goes_on = self._is_idle and self.rehearse()

    @property
    def _is_idle(self) -> bool:
        """Whether the last head was worked on whole, and nobody is at work or waits to be judged."""
        return self._moment is not None and not self.busy.locked() and not self._watch.alarmed.is_set()

    async def _settle(self) -> None:
        while True:
            await self._watch.drifted.wait()
            # Ticks that wait come first, and so does whom they make suspect.
            await asyncio.sleep(SETTLE_S)
            async with self.busy:
                self.on_drift()

    async def on_update(self, update: BlockUpdate) -> None:
        """Do all that one new head asks for, and journal that it is done."""
        head, mirror = update.head, self.mirror
        self._tape.note("head", update)
        self._moment, self._pieces = None, iter(())
        self._before.clear()
        await mirror.hear(update)
        sampled = await mirror.read(head)
        if not self._leads():
            await self._stand_by(update)
            return
        self._take_over(head)
        await self._care.follow(head)
        self._care.observe(head)
        self._care.part(head)
        moment = self._watch.look(head, update.heard_ns)
        self._near.hear(moment.quotes)
        self._watch.settle()
        self._care.stand(self._take_bearing(moment), moment.at)
        near = await self._rungs.look(moment, self._near.day)
        await self._care.attend(moment)
        await self._care.call(near, moment)
        self._moment = moment
        await self._cascade.measure(moment)
        self._tell_of_mirror()
        await mirror.check(sampled, head)
        self._tell_of_mirror()
        await self._tape.pack()
        mirror.done(head)
        if mirror.is_due_for_disk:
            # The book stands still until the next head; what listens meanwhile need not wait for the disk.
            await asyncio.to_thread(mirror.save)

    async def _stand_by(self, update: BlockUpdate) -> None:
        """Be ready to take over at the next head: all is read and scored, nothing is journaled or sent."""
        self.mirror.stand_by(update.head)
        moment = self._watch.look(update.head, update.heard_ns)
        self._near.hear(moment.quotes)
        self._watch.settle()
        if not self._stood_by:
            log.info("standby.waits", block=update.head.number)
        self._stood_by = True
        await self._tape.pack()
        if self.mirror.is_due_for_disk:
            await asyncio.to_thread(self.mirror.save)

    def _take_over(self, head: Head) -> None:
        """Take up what the leader before has left, where there was one."""
        if self._stood_by:
            log.warning("standby.leads", block=head.number)
            self._bearing.take_up()
            self.mirror.leave_told()
            self._stood_by = False

    def _take_bearing(self, moment: Moment) -> Posture:
        mirror = self.mirror
        divergence = self._desk.divergence(mirror.market, mirror.world, moment.quotes)
        flow = self._cascade.found
        self._door.look(moment.head, moment.quotes, divergence)
        return self._bearing.look(
            moment.head,
            moment.quotes,
            divergence=divergence,
            false_alarms=self._care.false_alarms,
            flow=flow.ratio if flow else None,
            pace=1 / max(1.0, flow.ratio) if flow else 1.0,
        )

    def _tell_of_mirror(self) -> None:
        degraded = self.mirror.audit.degraded
        text = f"the mirror is degraded: {degraded}" if degraded else "the mirror is as the chain has it"
        rung = "degraded" if degraded else "healed"
        self._alerts.tell(Notice("mirror", rung, text, recovered=degraded is None))

    def on_news(self, heard_ns: int) -> bool:
        """Look, at the newest prices, at those alone whose acts are ready; tell if any of them is suspect."""
        if self._moment is None or not self._watch.is_free:
            return False
        self._tape.note("news")
        return self._watch.glance(heard_ns)

    def on_tick(self, heard_ns: int) -> None:
        """Find out who is suspect at the newest prices."""
        self._tape.note("tick")
        self._watch.hear(heard_ns)

    def on_drift(self) -> None:
        """Have the trigger learn the newest prices, where what it knows is far from them."""
        self._tape.note("settle")
        self._watch.settle()

    def rehearse(self) -> bool:
        """Go through a piece of the way from a tick to its act for nothing, so that the caches keep it.

        Nothing is changed, asked, journaled or noted on the tape. Where nobody is at work on head or alarm.
        Returns whether there was one; where there was none the way begins anew.
        """
        if self._moment is not None:
            with self._tape.aside():
                for _ in self._pieces:
                    return True
                self._pieces = chain(self._watch.rehearse(), self._care.rehearse(self._moment))
        return False

    async def on_alarm(self) -> None:
        """Judge whom ticks made suspect, and do what is due, where the last head was worked on whole."""
        self._tape.note("alarm")
        self._pieces = iter(())
        if self._moment is None:
            self._watch.disperse()
        elif moment := self._watch.take():
            await self._care.answer(moment)
            self._watch.answered(moment)

    async def on_announced(self, announced: Announced) -> None:
        """Look behind what moves prices in the next block, where the last head was worked on whole."""
        self._tape.note("announced", announced)
        if self._moment is not None:
            self._before.append(announced)
            await self._care.look_behind(self._moment, tuple(self._before))

    async def prepare(self) -> None:
        """Get ready for ticks, if there are any, and measure how far the nearest accounts are from breach.

        Garbage is collected and the journal rests last, the one in some hundred microseconds and the other in
        a thread: no act is to wait for them. After a head that was worked on whole.
        """
        moment = self._moment
        if moment is None:
            return
        self._tape.note("prepare")
        if self._live is not None:
            try:
                await self._care.prepare(moment, self._near.accounts(), self._watch.keep)
            except ChainFault as fault:
                log.warning("ready.failed", block=moment.head.number, why=str(fault))
        try:
            await self._rungs.refresh(moment)
        except ChainFault as fault:
            log.warning("watched.unread", block=moment.head.number, why=str(fault))
        await self._near.measure(moment)
        gc.collect(YOUNG)
        await asyncio.to_thread(self._journal.rest)

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
            alarms=self._care.alarms,
            flow=self._cascade.found,
            rungs={rung.label: count for rung, count in self._rungs.counts.items()} | self._care.rungs,
            level=self._bearing.stand.level,
            why=self._bearing.stand.why,
            thrown=self._door.thrown,
        )


class Silence:
    """Implements ``ports.Alerts`` where nobody is to be told: journal and log have it all."""

    def tell(self, notice: Notice) -> None:
        """Keep quiet."""


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """End tasks; raise what one of them ended with by itself."""
    for each in tasks:
        each.cancel()
    for found in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(found, Exception):
            raise found
