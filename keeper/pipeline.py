"""The loop: what a new head leads to, and in which order.

One task, one head at a time. Heads that arrive meanwhile coalesce in the reader: the newest wins, and the
logs of every block in between come with it, so that chain facts never drop. A fault of the node ends the
work on that head only; what was not read stays dirty and is read at the next one.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from keeper.abi import event
from keeper.columns.shape import RowT, Shape
from keeper.columns.snapshot import Snapshot
from keeper.desk.port import Desk, Judgement, Tried
from keeper.domain import (
    Call,
    CaseEvent,
    ChainTime,
    EventKind,
    Fact,
    Fees,
    Head,
    Log,
    Permit,
    Quote,
    Reason,
    Refuse,
    Step,
    Unknown,
    Wait,
)
from keeper.errors import ChainFault, ConfigError
from keeper.lifecycle import Status, advance
from keeper.ports import (
    BlockUpdate,
    Feed,
    Journal,
    Market,
    Progress,
    Range,
    Reader,
    Searched,
    Sender,
    Vitals,
    World,
    read_through,
)
from keeper.state.archive import Stamp
from keeper.state.audit import Audit
from keeper.state.book import Book
from keeper.trigger import Trigger
from keeper.units import AccountKey, Block, FeedId, UnixS

log = structlog.get_logger()
MarketT = TypeVar("MarketT", bound=Market[Any, Any])

PAGE = 200
"""Accounts per bulk read, at most."""
GROUP = 16
"""Bulk reads that are folded in before the next ones are asked for: so much a first read holds at a time."""
SETTLED = 64
"""What lies so far below the head is searched by number; what is above comes by hash, with the heads. No
less than the deepest reorg that the reader follows, or one could take back what was searched."""
SIMULATIONS = 16
"""Steps simulated at the same time."""
UPGRADED = event("Upgraded(address indexed implementation)")
"""Of every proxy and beacon by ERC-1967."""


@dataclass(frozen=True, slots=True)
class Params:
    """What the loop itself needs."""

    block_time_s: int = 12
    dry_run: bool = False
    page: int = PAGE
    """Accounts per bulk read: fewer where a row takes much gas."""
    check_blocks: Block = 10
    """How often accounts are read again to check the mirror."""
    check_rows: int = PAGE
    """How many of them."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where the book lies on disk, and whose it is."""

    path: Path
    chain_id: int
    deployment: str
    every_blocks: Block = 300

    def stamp(self, head: Head) -> Stamp:
        """Return what a book that was read at a head is marked with."""
        return Stamp(self.chain_id, self.deployment, head.number, head.hash)

    def load(self, shape: Shape[RowT], published: Path | None = None) -> tuple[Book[RowT], Stamp] | None:
        """Read the keeper's own book back; where there is none, a published one, if any.

        A file of its own that cannot be used is passed over, aloud: all that it holds can be read anew.
        """
        if self.path.exists():
            if published is not None:
                log.warning("book.published_ignored", own=str(self.path))
            try:
                return Book.load(self.path, shape, chain_id=self.chain_id, deployment=self.deployment)
            except ConfigError as error:
                log.warning("book.unusable", why=str(error))
        if published is None:
            return None
        return Book.load(published, shape, chain_id=self.chain_id, deployment=self.deployment)


@dataclass(slots=True)
class Case:
    """An open case, its status in the journal, and the rule it last waited for or was refused by."""

    case_id: str
    status: Status | None = None
    said: str = ""


@dataclass(frozen=True, slots=True)
class Planned:
    """Steps of which one is worth sending, and the judgement they follow from."""

    account: AccountKey
    steps: tuple[Step, ...]
    judged: Judgement[Any]


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
        self._reader = reader
        self._market = market
        self._feed = feed
        self._journal = journal
        self._sender = sender
        self._desk = desk
        self._params = params or Params()
        self._shelf = shelf
        self._book = Book(market.shape)
        self._trigger = Trigger()
        self._world: World | None = None
        self._funds: Any = None
        """What the wallet has to act with, as the desk decoded it."""
        self._cases: dict[AccountKey, Case] = {}
        self._rehearsed: dict[AccountKey, str] = {}
        self._logs: deque[Log] = deque()
        self._facts: list[Fact] = []
        self._orphaned: list[Head] = []
        self._told: Head | None = None
        """Where the facts of the first update begin that the journal does not have from before the start."""
        self._new: dict[AccountKey, None] = {}
        """Accounts that facts named, and the journal does not have yet."""
        self._line: deque[Head] = deque()
        """Heads that were adopted and are not settled yet, oldest first."""
        self._first: Block = 0
        """Where the deployment's events begin."""
        self._trusted_at: Block = 0
        """The head at the start, whose code is the one that was looked at."""
        self._searched: Searched | None = None
        self._taken_up: Stamp | None = None
        """The block of the book that was taken up, until the first update shows whether it still stands."""
        self._read_at: Head | None = None
        """The head that the book was read at; None while that is not one and the same for all rows."""
        self._mirror_at_s: UnixS | None = None
        self._saved_at: Block = 0
        # By chance, so that short lives check the same accounts no more often than others.
        self._audit = Audit(random.randrange(2**31), _doubt_left(journal))
        self._checked_at: Block = 0
        self._unpriced: dict[FeedId, str] = {}
        self._unjudged: set[str] = set()
        """Why some of those under care cannot be judged."""
        self._simulations = asyncio.Semaphore(SIMULATIONS)
        self._halted: Refuse | None = None
        """Why nothing more is sent before a restart."""
        self._started = False
        self.busy = asyncio.Lock()
        """Held while a head is worked on: who holds it may cancel the loop between two heads."""

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
        head = update.head
        try:
            self._fold(update)
        except ChainFault:
            await self._hear_again(self._logs[0])
            raise
        sampled = await self._read(head)
        await self._follow(head)
        self._observe(head)
        planned = await self._decide(head)
        await self._act(planned, head, update.heard_ns)
        await self._check(sampled, head)
        self._done(head)
        if self._shelf and head.number >= self._saved_at + self._shelf.every_blocks:
            # The book stands still until the next head; what listens meanwhile need not wait for the disk.
            await asyncio.to_thread(self.save)

    def _done(self, head: Head) -> None:
        """Journal that a head is done, and how far the chain is searched."""
        settled = None
        while self._line and self._line[0].number <= head.number - SETTLED:
            settled = self._line.popleft()
        if settled:
            self._searched = Searched(self._first, settled.number, settled.hash)
        with self._journal.together():
            if self._new or settled:
                self._journal.note_found(self._new, self._searched)
            self._journal.head_done(head)
        self._new.clear()

    def save(self) -> None:
        """Write the book to disk, where it is to be kept and was read whole at one head."""
        if self._shelf is None or self._read_at is None:
            return
        self._saved_at = self._read_at.number
        try:
            self._book.save(self._shelf.path, self._shelf.stamp(self._read_at))
        except OSError as error:
            log.warning("book.not_saved", path=str(self._shelf.path), why=error.strerror)

    async def _check(self, sampled: Sequence[bytes], head: Head) -> None:
        """Hold the rows that came with the head's reads against the mirror, now that these are folded in.

        What differs is journaled with both values and read once more. While the mirror is degraded, more are
        checked, at every head, in requests of their own: nobody is to wait for so many. A check that fails is
        made up for at the next head; it holds nothing up.
        """
        degraded = self._audit.degraded is not None
        if not (sampled or degraded):
            return
        try:
            if degraded:
                sampled = await self._pages(self._audit.sample(self._book, self._params.page * GROUP), head)
            found = [each for page in sampled for each in self._compare(page, head)]
            self._fold_rows(await self._pages(found, head), head)
        except ChainFault as fault:
            self._leave_unchecked(fault, head)
            return
        self._checked_at = head.number
        if degraded and self._audit.degraded is None:
            self._journal.note_healed()
            log.info("mirror.healed", block=head.number, accounts=len(self._book))

    @staticmethod
    def _leave_unchecked(fault: ChainFault, head: Head) -> None:
        log.warning("mirror.unchecked", block=head.number, why=str(fault))

    def _sample(self, head: Head) -> Sequence[AccountKey]:
        """Return the accounts to be checked with the head's own reads: every so many blocks some, in turn."""
        degraded = self._audit.degraded is not None
        if degraded or head.number < self._checked_at + self._params.check_blocks:
            return ()
        return self._audit.sample(self._book, self._params.check_rows)

    def _compare(self, page: bytes, head: Head) -> list[AccountKey]:
        """Journal what differs and make it dirty, so that nobody acts on it before it is read again."""
        found = self._audit.compare(self._book, page)
        with self._journal.together():
            for each in found:
                self._journal.note_difference(head, each.mirror, each.chain)
        keys = [each.chain.key for each in found]
        if keys:
            log.error("mirror.differs", block=head.number, accounts=[f"0x{key.hex()}" for key in keys])
            self._book.mark_dirty(keys, head.number)
        return keys

    async def _pages(self, accounts: Sequence[AccountKey], head: Head) -> list[bytes]:
        _, rows = await self._call([], self._paged(accounts), head)
        return rows

    async def _call(
        self, calls: Sequence[Call], pages: Sequence[Sequence[AccountKey]], head: Head
    ) -> tuple[list[bytes], list[bytes]]:
        """Make calls and read pages of accounts, all pinned to a head; return the answers to both.

        Raises ChainFault where a page holds others than were asked for.
        """
        rows_calls = [self._market.rows_call(page) for page in pages]
        answers = await self._reader.call_many([*calls, *rows_calls], head.hash)
        rows = answers[len(calls) :]
        for row, page in zip(rows, pages, strict=True):
            self._market.shape.check_names(row, page)
        return answers[: len(calls)], rows

    # --- what is known from before ---

    async def discover(
        self,
        from_block: Block,
        head: Head,
        *,
        published: Path | None = None,
        progress: Progress | None = None,
    ) -> Block:
        """Find every account that an event touched; return the block that the updates must begin with.

        Settled blocks are searched here, once in the life of a journal, whatever restarts there are; the
        first update brings the others, and reads all that is dirty. What happened since the head that was
        done last goes into the history of the cases still open.
        """
        done = self._journal.last_head()
        self._told = done or replace(head, hash="")
        self._checked_at = self._trusted_at = head.number
        begin = await self._take_up_book(from_block, published)
        if done and self._journal.open_cases():
            begin = max(from_block, min(begin, done.number + 1))
        updates_from = max(from_block, head.number - SETTLED + 1, 0)
        async for found in self._reader.search(begin, updates_from - 1):
            self._take_in(found, done)
            if progress is not None:
                progress.at(found.last - begin + 1, updates_from - begin)
        return updates_from

    def _take_in(self, found: Range, done: Head | None) -> None:
        """Mark what a range of settled blocks touched, and commit it with how far the search has come."""
        touched: dict[AccountKey, None] = {}
        for log_ in found.logs:
            fact = self._market.decode(log_)
            if fact is not None:
                touched.update(dict.fromkeys(self._concerned(fact)))
                if done and fact.block > done.number:
                    self._facts.append(fact)
        self._book.mark_dirty(touched, found.last)
        if self._searched is None or found.last > self._searched.last:
            self._searched = Searched(self._first, found.last, found.last_hash)
        self._journal.note_found(touched, self._searched)

    async def _take_up_book(self, from_block: Block, published: Path | None) -> Block:
        """Take up what journal and disk hold of the accounts; return the first block to be searched.

        What the chain does not have any more is not built on: without the block that the book was read at
        every row is read again, without the block that was searched last the search begins anew.
        """
        self._first = from_block
        searched = self._journal.searched()
        if searched and await self._stands(searched, from_block):
            self._first, self._searched = searched.first, searched
        elif searched:
            log.warning("search.begins_anew", first=searched.first, last=searched.last)
        begin = self._searched.last + 1 if self._searched else from_block
        loaded = self._shelf.load(self._market.shape, published) if self._shelf else None
        if loaded:
            self._book, stamp = loaded
            self._taken_up = stamp
            stands = await self._reader.hash_at(stamp.block) == stamp.block_hash
            log.info("book.loaded", accounts=len(self._book), block=stamp.block, on_this_chain=stands)
            if not stands:
                self._book.mark_dirty(self._book.keys.tolist(), stamp.block)
            elif searched is None:
                self._journal.note_found(self._book.keys.tolist(), None)
                begin = max(from_block, stamp.block + 1)
            else:
                begin = min(begin, stamp.block + 1)
        for accounts in self._journal.found():
            self._book.mark_dirty(self._book.without_row(accounts), from_block)
        return begin

    async def _stands(self, searched: Searched, from_block: Block) -> bool:
        """Tell whether what was searched is of this chain, and reaches back far enough."""
        return (
            searched.first <= from_block and await self._reader.hash_at(searched.last) == searched.last_hash
        )

    @property
    def accounts(self) -> int:
        """How many accounts are known, or waiting to be read for the first time."""
        return self._book.known

    @property
    def vitals(self) -> Vitals:
        """How the keeper does, as plain values."""
        return Vitals(
            accounts=len(self._book),
            dirty=len(self._book.dirty()),
            done=self._journal.last_head() if self._started else None,
            mirror_at_s=self._mirror_at_s,
            degraded=self._audit.degraded,
            checked=self._audit.checked,
            differences=self._audit.differences,
            cases=len(self._cases),
            logs_waiting=len(self._logs),
            facts_waiting=len(self._facts),
        )

    # --- what is known ---

    def _fold(self, update: BlockUpdate) -> None:
        """Mark what the new blocks touched, and what the orphaned ones had.

        Logs, facts and orphaned heads are kept until they were understood, told and followed up, however many
        heads it takes.
        """
        self._book.unwind(update.orphaned)
        self._leave_book(update.adopted)
        self._orphaned += update.orphaned
        gone = {head.hash for head in update.orphaned}
        self._facts = [fact for fact in self._facts if fact.block_hash not in gone]
        self._logs = deque(each for each in self._logs if each.block_hash not in gone)
        self._logs += update.logs
        self._line = deque(each for each in self._line if each.hash not in gone)
        self._line += update.adopted
        while self._logs:
            fact = self._market.decode(self._logs[0])
            self._heed_upgrade(self._logs[0])
            self._logs.popleft()
            if fact is None:
                continue
            self._mark_dirty(fact)
            self._new.update(dict.fromkeys(fact.touched))
            if not self._is_told(fact):
                self._facts.append(fact)
        self._told = None

    def _heed_upgrade(self, log_: Log) -> None:
        """Send nothing more where other code stands behind a contract: it was not what was trusted."""
        if log_.block_number > self._trusted_at and log_.topics and log_.topics[0] == UPGRADED.topic:
            [code] = UPGRADED.values(log_.topics, log_.data)
            found = f"{log_.address} has the code of {code} since block {log_.block_number}"
            self._halted = Refuse(
                Reason("code.changed", found, "the code at the start; look, and start anew")
            )
            log.error("code.changed", contract=log_.address, code=code, block=log_.block_number)

    async def _hear_again(self, garbled: Log) -> None:
        """Ask anew for the logs of a block where one cannot be decoded; the next head goes on with them.

        For a block time at most: a search goes on until it is answered, and other heads wait.
        """
        number = garbled.block_number
        with suppress(TimeoutError):
            async with asyncio.timeout(self._params.block_time_s):
                again = [log_ async for found in self._reader.search(number, number) for log_ in found.logs]
            again = [each for each in again if each.index >= garbled.index]
            # Not where the block is another by now, or the log is left out this time.
            if again and (again[0].block_hash, again[0].index) == (garbled.block_hash, garbled.index):
                rest = [each for each in self._logs if each.block_hash != garbled.block_hash]
                self._logs = deque([*again, *rest])

    def _leave_book(self, adopted: Sequence[Head]) -> None:
        """Read every row again where the block of the book that was taken up went while the search ran.

        Nobody had followed the chain yet, so that no update calls such a block orphaned.
        """
        stamp, self._taken_up = self._taken_up, None
        if stamp is None or stamp.block < adopted[0].number:
            return
        if all(head.hash != stamp.block_hash for head in adopted):
            log.warning("book.orphaned", block=stamp.block)
            self._book.mark_dirty(self._book.keys.tolist(), stamp.block)

    def _is_told(self, fact: Fact) -> bool:
        told = self._told
        return told is not None and (fact.block < told.number or fact.block_hash == told.hash)

    def _mark_dirty(self, fact: Fact) -> None:
        """Mark the accounts that a fact names, and whoever has a position in a market that it names."""
        self._book.mark_dirty(fact.touched, fact.block)
        for market in fact.markets:
            self._book.mark_holders_dirty(market, fact.block)

    async def _read(self, head: Head) -> Sequence[bytes]:
        """Read dirty rows, prices and what the wallet has, all at this head's hash, in one batch.

        Return the rows that came with them to be checked, if it is time for that.

        Where more rows are dirty than a group holds, each group is folded in before the next one is read.
        Where the prices say that the listing is out of date, read it anew, and then the batch again. After a
        reorg read it in any case: a version says nothing across branches, and a market that is gone reverts.
        """
        self._read_at = None
        if self._orphaned:
            await self._relist(head)
        dirty = list(dict.fromkeys([*self._desk.own, *self._book.dirty()]))
        group, sample = self._params.page * GROUP, self._sample(head)
        world, funds, rows, sampled = await self._ask(dirty[:group], sample, head)
        if world.version != self._market.version:
            await self._relist(head)
            world, funds, rows, sampled = await self._ask(dirty[:group], sample, head)
            if world.version != self._market.version:
                found = f"has version {self._market.version}, its prices have {world.version}"
                raise ChainFault(f"the listing of block {head.number} {found}")
        self._world, self._funds = world, self._desk.decode(self._market, funds)
        self._fold_rows(rows, head)
        for first in range(group, len(dirty), group):
            self._fold_rows(await self._pages(dirty[first : first + group], head), head)
            log.info("book.reading", accounts=min(first + group, len(dirty)), of=len(dirty))
        self._read_at, self._mirror_at_s = head, head.timestamp_s
        return sampled

    def _fold_rows(self, rows: Iterable[bytes], head: Head) -> None:
        for page in rows:
            self._book.fold_rows(page, head.number)

    async def _ask(
        self, dirty: Sequence[AccountKey], sample: Sequence[AccountKey], head: Head
    ) -> tuple[World, list[bytes], list[bytes], list[bytes]]:
        """Ask for prices, means, dirty rows and a sample, once more without the sample where that fails."""
        pages, checks = self._paged(dirty), self._paged(sample)
        calls = [self._market.prices_call(), *self._desk.calls(self._market)]
        try:
            (prices, *funds), rows = await self._call(calls, [*pages, *checks], head)
        except ChainFault as fault:
            if not checks:
                raise
            self._leave_unchecked(fault, head)
            (prices, *funds), rows = await self._call(calls, pages, head)
        return self._market.decode_prices(prices), funds, rows[: len(pages)], rows[len(pages) :]

    def _paged(self, accounts: Sequence[AccountKey]) -> list[Sequence[AccountKey]]:
        """Cut accounts into bulk reads."""
        page = self._params.page
        return [accounts[first : first + page] for first in range(0, len(accounts), page)]

    async def _relist(self, head: Head) -> None:
        """Read the listing and its terms anew, and give the book a column for every instrument."""
        self._market = await read_through(self._reader, self._market.refresh(), head.hash)
        self._book.relist(self._market.shape)
        self._reader.watch(self._market.addresses)
        log.info(
            "listing.read",
            block=head.number,
            version=self._market.version,
            columns=len(self._market.shape.columns),
        )

    async def _follow(self, head: Head) -> None:
        """See what became of our transactions, and take the open cases from the journal.

        A reorg may open again a case that was closed; where its account has a newer one, that one goes first.
        """
        if self._started:
            await self._sender.track(head, self._orphaned)
        else:
            await self._sender.resume(head)
            await self._warn_of_means()
            self._started = True
        self._orphaned.clear()
        said = {case.case_id: case.said for case in self._cases.values()}
        self._cases = {
            case.account: Case(case.case_id, case.status, said.get(case.case_id, ""))
            for case in self._journal.open_cases()
        }
        # The first head after a start may find one that no event since ``from_block`` has touched.
        self._book.mark_dirty([each for each in self._cases if each not in self._book], head.number)

    async def _warn_of_means(self) -> None:
        """Say aloud at the start what the wallet lacks to act with."""
        lacking = self._desk.lacking(self._book, self._funds)
        if await self._sender.balance() == 0:
            lacking = ["native currency for gas", *lacking]
        if lacking:
            log.warning("wallet.lacks", what=lacking, wallet=self._sender.address)

    def _observe(self, head: Head) -> None:
        """Write into open cases what the chain shows of their accounts, whoever did it."""
        events = []
        for fact in self._facts:
            data = {"act": fact.act, "tx_hash": fact.tx_hash, "log_index": fact.log_index, **fact.args}
            for account in self._concerned(fact):
                case = self._cases.get(account)
                if case is not None:
                    seen = replace(head, number=fact.block)
                    events.append(_event(case, account, EventKind.OBSERVED, seen, data))
        self._journal.record(events)
        self._facts.clear()

    def _concerned(self, fact: Fact) -> Sequence[AccountKey]:
        return list(dict.fromkeys((*fact.touched, *self._book.holders(fact.markets))))

    # --- what to do about it ---

    async def _decide(self, head: Head) -> list[Planned]:
        """Judge every account that is suspect or under care; return the steps worth sending, in order."""
        at = ChainTime(head.number + 1, head.timestamp_s + self._params.block_time_s)
        quotes = self._feed.latest(head.timestamp_s)
        sitting = self._sit(quotes, head, at)
        suspects, cared = self._under_care(sitting, quotes, head, at)
        if self._market.drifts:
            self._fold_rows(await self._pages(cared, head), head)
        planned: list[Planned] = []
        events: list[CaseEvent] = []
        unjudged = Counter[str]()
        for account in cared:
            case = self._cases.get(account)
            if case is not None and case.status in {Status.RESERVED, Status.IN_FLIGHT}:
                continue
            # The hash too: after a reorg the same account may be suspected again at the same height.
            case_id = case.case_id if case else f"0x{account.hex()}@{head.number}-{head.hash[2:10]}"
            judged = self._desk.judge(sitting, account, case_id, suspects.get(account))
            if isinstance(judged, Unknown):
                unjudged[f"{judged.what}: {judged.why}"] += 1
                events += self._say(case, account, Wait(at.block, _unknown(judged)), head)
                continue
            case = case or Case(case_id)
            events += self._take_up(case, account, judged, suspects.get(account), head)
            sitting, decision = judged.left, judged.decision
            if isinstance(decision, tuple):
                planned.append(Planned(account, decision, judged))
            elif decision is not None:
                events += self._say(case, account, decision, head)
        self._journal.record(events)
        self._warn_of_unjudged(unjudged, head)
        return planned

    def _warn_of_unjudged(self, unjudged: Mapping[str, int], head: Head) -> None:
        """Say aloud why some cannot be judged, whenever that changes: without a case no journal tells it."""
        if unjudged.keys() != self._unjudged:
            log.warning("accounts.unjudged", block=head.number, accounts=dict(unjudged))
        self._unjudged = set(unjudged)

    def _under_care(
        self, sitting: Any, quotes: Mapping[FeedId, Quote | Unknown], head: Head, at: ChainTime
    ) -> tuple[Mapping[AccountKey, str], Sequence[AccountKey]]:
        """Return the suspects with the score of each, and all that are to be judged, in order."""
        book = self._book.freeze()
        suspects = self._suspects(book, quotes, head, at)
        return suspects, self._desk.under_care(sitting, book, suspects, self._cases)

    def _suspects(
        self, book: Snapshot, quotes: Mapping[FeedId, Quote | Unknown], head: Head, at: ChainTime
    ) -> Mapping[AccountKey, str]:
        """Score the book at the fast prices; return why each suspect is one, the worst first."""
        self._warn_of_unpriced(self._market.feeds, quotes)
        marks = self._market.marks(self._world, quotes, at.timestamp_s)
        found = self._trigger.tick(book, marks, self._book.take_changed())
        if found.unknown:
            log.warning("accounts.unknown", block=head.number, accounts=found.unknown, of=len(book))
        return {
            book.key(int(row)): f"E {equity:.2f}, M {requirement:.2f}"
            for row, equity, requirement in zip(
                found.rows, found.scores.equity, found.scores.requirement, strict=True
            )
        }

    def _warn_of_unpriced(self, feeds: Iterable[FeedId], quotes: Mapping[FeedId, Quote | Unknown]) -> None:
        """Say aloud which feeds have no fast price, whenever that changes."""
        found = {
            feed: quotes.get(feed, Unknown(feed, "the feed does not serve it")) for feed in sorted(feeds)
        }
        unpriced = {feed: quote.why for feed, quote in found.items() if isinstance(quote, Unknown)}
        if unpriced.keys() != self._unpriced.keys():
            log.warning("feed.unknown", feeds=unpriced) if unpriced else log.info("feed.all_known")
        self._unpriced = unpriced

    def _take_up(
        self, case: Case, account: AccountKey, judged: Judgement[Any], suspicion: str | None, head: Head
    ) -> list[CaseEvent]:
        """Open the case of an account, or close it."""
        outcome = {"phase": judged.phase, "health": judged.health}
        if not judged.cared:
            closed = self._cases.pop(account, None)
            return [_event(case, account, EventKind.CLOSED, head, outcome)] if closed else []
        self._cases[account] = case
        if case.status is Status.SUSPECTED:
            return []
        return [_event(case, account, EventKind.SUSPECTED, head, {"score": suspicion, **outcome})]

    def _sit(self, quotes: Mapping[FeedId, Quote | Unknown], head: Head, at: ChainTime) -> Any:
        """Open the desk for the decisions of a head."""
        fees = self._sender.fees(head)
        tip_wei = fees.priority_fee_wei if isinstance(fees, Fees) else 0
        price_wei = head.base_fee_wei + tip_wei
        return self._desk.sit(
            self._market,
            self._book,
            self._world,
            self._funds,
            quotes=quotes,
            gas_price_wei=price_wei,
            at=at,
        )

    # --- and to do it ---

    async def _act(self, planned: list[Planned], head: Head, tick_ns: int) -> None:
        """Simulate all steps at once, reserve those picked in one commit, then send them."""
        if not planned:
            return
        fees = self._halted or self._sender.fees(head)
        if isinstance(fees, Refuse):
            for each in planned:
                self._refuse(each.account, fees, head)
            return
        at = ChainTime(head.number + 1, head.timestamp_s + self._params.block_time_s)
        _, tried = await asyncio.gather(
            self._sender.prepare(),
            asyncio.gather(*(self._try_all(each.steps, at) for each in planned)),
        )
        permits = []
        with self._journal.together():
            for each, found in zip(planned, tried, strict=True):
                picked = self._desk.pick(each.judged.left, found)
                if not isinstance(picked.result, bytes):
                    self._refuse(each.account, picked.result, head)
                elif not self._is_rehearsed(each, picked.step):
                    permits += self._reserve(each, picked, fees, head)
        await self._sender.send(permits, tick_ns=tick_ns)

    async def _try_all(self, steps: Sequence[Step], at: ChainTime) -> list[Tried]:
        return await asyncio.gather(*(self._try(step, at) for step in steps))

    async def _try(self, step: Step, at: ChainTime) -> Tried:
        """Run one step as if in its block. A fault of the node holds up that step only."""
        call = self._market.encode(step.act)
        async with self._simulations:
            try:
                result = await self._reader.simulate(self._sender.address, call, at, step.gas_limit)
            except ChainFault as fault:
                unknown = Wait(at.block, Reason("simulation.unknown", str(fault), "an answer"))
                return Tried(step, call, unknown)
        return Tried(step, call, self._market.explain(result) if isinstance(result, Refuse) else result)

    def _reserve(self, each: Planned, picked: Tried, fees: Fees, head: Head) -> list[Permit]:
        """Ask for the permit of one step; the agreement that it rests on goes into the same commit."""
        granted = self._journal.reserve(
            picked.step,
            self._sender.transaction(picked.call, picked.step.gas_limit, fees),
            chain_nonce=self._sender.chain_nonce,
            block=head.number,
            at_s=head.timestamp_s,
        )
        if isinstance(granted, Refuse):
            self._refuse(each.account, granted, head)
            return []
        account, agreed = each.account, each.judged.agreed
        self._rehearsed[account] = _state(each, picked.step)
        if agreed:
            data = {"act": "Agreed", "step_id": granted.step_id, "evidence": agreed.evidence}
            self._journal.record([_event(self._cases[account], account, EventKind.OBSERVED, head, data)])
        return [granted]

    def _is_rehearsed(self, each: Planned, step: Step) -> bool:
        """In a dry run, where the sender withholds all, an act is said once per state of its account."""
        return self._params.dry_run and self._rehearsed.get(each.account) == _state(each, step)

    def _refuse(self, account: AccountKey, doubt: Wait | Refuse, head: Head) -> None:
        self._journal.record(self._say(self._cases.get(account), account, doubt, head))

    def _say(
        self, case: Case | None, account: AccountKey, decision: Wait | Refuse, head: Head
    ) -> list[CaseEvent]:
        """Journal a wait or a refusal where the rule is another than last time."""
        reason = decision.reason
        if case is None or case.status is not Status.SUSPECTED or case.said == reason.rule:
            return []
        case.said = reason.rule
        kind = EventKind.WAITED if isinstance(decision, Wait) else EventKind.REFUSED
        data: dict[str, object] = {"rule": reason.rule, "evidence": reason.evidence, "bound": reason.bound}
        if isinstance(decision, Wait):
            data["until_block"] = decision.until_block
        return [_event(case, account, kind, head, data)]


def _state(each: Planned, step: Step) -> str:
    return f"{step.kind}:{each.judged.state}"


def _event(
    case: Case, account: AccountKey, kind: EventKind, head: Head, data: Mapping[str, object]
) -> CaseEvent:
    """Make an event and bring the case's status to where the journal's will be."""
    case.status = advance(case.status, kind)
    return CaseEvent(case.case_id, account, kind, head.number, head.timestamp_s, data)


def _doubt_left(journal: Journal) -> str | None:
    """Say what put the mirror in doubt before a restart, where no whole round was clean since."""
    found = journal.unhealed()
    return f"{found} differences before the start, and no clean round since" if found else None


def _unknown(unknown: Unknown) -> Reason:
    return Reason("unknown", f"{unknown.what}: {unknown.why}", "a known value")
