"""The mirror: what the chain says of the accounts, found by events, read at heads, and checked.

A fault of the node leaves nothing out: logs, facts and orphaned heads are kept until they were understood,
told and followed up, and what was not read stays dirty and is read at the next head.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from keeper.abi import event
from keeper.columns.shape import RowT, Shape
from keeper.desk.port import Desk
from keeper.domain import Call, Fact, Head, Log, Reason, Refuse, Unknown, Witnesses
from keeper.errors import ChainFault, ConfigError
from keeper.oracles.panel import Panel
from keeper.pipeline.params import Params
from keeper.ports import (
    BlockUpdate,
    Journal,
    Market,
    Progress,
    Range,
    Reader,
    Searched,
    Tape,
    World,
    read_through,
)
from keeper.state.archive import Stamp
from keeper.state.audit import Audit
from keeper.state.book import Book
from keeper.state.part import WHOLE
from keeper.units import AccountKey, Block, UnixS

log = structlog.get_logger()
MarketT = TypeVar("MarketT", bound=Market[Any, Any])

GROUP = 16
"""Bulk reads that are folded in before the next ones are asked for: so much a first read holds at a time."""
SETTLED = 64
"""What lies so far below the head is searched by number; what is above comes by hash, with the heads. No
less than the deepest reorg that the reader follows, or one could take back what was searched."""
UPGRADED = event("Upgraded(address indexed implementation)")
"""Of every proxy and beacon by ERC-1967."""


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


class Mirror(Generic[MarketT]):
    """The accounts of one deployment as of a head, with the listing, the prices and the wallet's means."""

    def __init__(
        self,
        *,
        reader: Reader,
        market: MarketT,
        desk: Desk[MarketT, Any],
        journal: Journal,
        params: Params,
        shelf: Shelf | None,
        panel: Panel,
        tape: Tape,
    ) -> None:
        self._reader = reader
        self._panel = panel
        self.tape = tape
        self.market = market
        self._journal = journal
        self._desk = desk
        self._params = params
        self._shelf = shelf
        self.book = Book(market.shape)
        self.world: World | None = None
        """What the head said of prices; None where the listing is newer, or nothing was read yet."""
        self.funds: Any = None
        """What the wallet has to act with, as the desk decoded it."""
        self.witnesses: Witnesses = {}
        """What other oracles said of the prices at that head."""
        self.halted: Refuse | None = None
        """Why nothing more is sent before a restart."""
        self.facts: list[Fact] = []
        """What the chain did and no case tells yet."""
        self.orphaned: list[Head] = []
        """Heads that were taken back, until what became of transactions was looked up."""
        self.read_at: Head | None = None
        """The head that the book was read at; None while that is not one and the same for all rows."""
        self.as_of_s: UnixS | None = None
        first_row = tape.chance(random.randrange(2**31))
        self.audit = Audit(first_row, _doubt_left(tape.said("doubt", journal.unhealed())))
        """Begins by chance, so that short lives check the same accounts no more often than others."""
        self._logs: deque[Log] = deque()
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
        self._saved_at: Block = 0
        self._checked_at: Block = 0

    @property
    def logs_waiting(self) -> int:
        """How many logs could not be decoded yet."""
        return len(self._logs)

    @property
    def is_due_for_disk(self) -> bool:
        """Whether the book was saved long ago."""
        at = self.read_at
        return bool(self._shelf and at and at.number >= self._saved_at + self._shelf.every_blocks)

    async def hear(self, update: BlockUpdate) -> None:
        """Mark what the new blocks touched; ask again for the logs of a block that cannot be decoded."""
        try:
            self._fold(update)
        except ChainFault:
            await self._hear_again(self._logs[0])
            raise

    async def read_again(self, accounts: Sequence[AccountKey], head: Head) -> None:
        """Read accounts at a head, whether they are dirty or not.

        Who was known before and is not any more is read once more at the next head: the head may be gone from
        the node by now, or about to be, or mixed with the next one.
        """
        known = [each for each in accounts if not isinstance(self.book.exact(each), Unknown)]
        pages = await self._pages(accounts, head)
        # An account that a page leaves out was not read: what was known of it is no answer to this.
        self.book.mark_dirty(accounts, head.number)
        self._fold_rows(pages, head)
        if lost := [each for each in known if isinstance(self.book.exact(each), Unknown)]:
            log.warning("accounts.lost", block=head.number, accounts=len(lost), of=len(accounts))
            self.book.mark_dirty(lost, head.number)

    def done(self, head: Head) -> None:
        """Journal that a head is done, and how far the chain is searched."""
        settled = self._settle(head)
        with self._journal.together():
            if self._new or settled:
                self._journal.note_found(self._new, self._searched)
            self._journal.head_done(head)
        self._new.clear()

    def _settle(self, head: Head) -> bool:
        """Note how far the chain is searched; tell whether that has changed."""
        settled = None
        while self._line and self._line[0].number <= head.number - SETTLED:
            settled = self._line.popleft()
        if settled:
            self._searched = Searched(self._first, settled.number, settled.hash, self._params.scope)
        return settled is not None

    def stand_by(self, head: Head) -> None:
        """Keep of a head what whoever takes over has to journal, and not what the leader has done already."""
        self.tape.note("stood")
        self._settle(head)
        self.leave_told()
        self.orphaned.clear()

    def leave_told(self) -> None:
        """Leave out what happened up to the head that a leader has done last: its cases tell of it."""
        done = self._journal.last_head()
        self.facts = [fact for fact in self.facts if done is None or fact.block > done.number]

    def save(self) -> None:
        """Write the book to disk, where it is to be kept and was read whole at one head."""
        if self._shelf is None or self.read_at is None:
            return
        self._saved_at = self.read_at.number
        try:
            self.book.save(self._shelf.path, self._shelf.stamp(self.read_at))
            self._journal.keep_book(self._shelf.path, self.read_at.number)
        except OSError as error:
            log.warning("book.not_saved", path=str(self._shelf.path), why=error.strerror)

    async def check(self, sampled: Sequence[bytes], head: Head) -> None:
        """Hold the rows that came with the head's reads against the mirror, now that these are folded in.

        What differs is journaled with both values and read once more. While the mirror is degraded, more are
        checked, at every head, in requests of their own: nobody is to wait for so many. A check that fails is
        made up for at the next head; it holds nothing up.
        """
        degraded = self.audit.degraded is not None
        if not (sampled or degraded):
            return
        try:
            if degraded:
                sampled = await self._pages(self.audit.sample(self.book, self._params.page * GROUP), head)
            found = [each for page in sampled for each in self._compare(page, head)]
            self._fold_rows(await self._pages(found, head), head)
        except ChainFault as fault:
            self._leave_unchecked(fault, head)
            return
        self._checked_at = head.number
        if degraded and self.audit.degraded is None:
            self._journal.note_healed()
            log.info("mirror.healed", block=head.number, accounts=len(self.book))

    @staticmethod
    def _leave_unchecked(fault: ChainFault, head: Head) -> None:
        log.warning("mirror.unchecked", block=head.number, why=str(fault))

    def _sample(self, head: Head) -> Sequence[AccountKey]:
        """Return the accounts to be checked with the head's own reads: every so many blocks some, in turn."""
        degraded = self.audit.degraded is not None
        if degraded or head.number < self._checked_at + self._params.check_blocks:
            return ()
        return self.audit.sample(self.book, self._params.check_rows)

    def _compare(self, page: bytes, head: Head) -> list[AccountKey]:
        """Journal what differs and make it dirty, so that nobody acts on it before it is read again."""
        found = self.audit.compare(self.book, page)
        with self._journal.together():
            for each in found:
                self._journal.note_difference(head, each.mirror, each.chain)
        keys = [each.chain.key for each in found]
        if keys:
            log.error("mirror.differs", block=head.number, accounts=[f"0x{key.hex()}" for key in keys])
            self.book.mark_dirty(keys, head.number)
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
        rows_calls = [self.market.rows_call(page) for page in pages]
        answers = await self._reader.call_many([*calls, *rows_calls], head.hash)
        rows = answers[len(calls) :]
        for row, page in zip(rows, pages, strict=True):
            self.market.shape.check_names(row, page)
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
        done, searched, has_cases = self._known()
        self._told = done or replace(head, hash="")
        self._checked_at = self._trusted_at = head.number
        begin = await self._take_up_book(from_block, published, searched)
        if done and has_cases:
            begin = max(from_block, min(begin, done.number + 1))
        updates_from = max(from_block, head.number - SETTLED + 1, 0)
        async for found in self._reader.search(begin, updates_from - 1):
            self._take_in(found, done)
            if progress is not None:
                progress.at(found.last - begin + 1, updates_from - begin)
        return updates_from

    def _known(self) -> tuple[Head | None, Searched | None, bool]:
        """Return what was done last, and searched, and whether a case is open: as of now, whoever leads."""
        done, searched = self._journal.last_head(), self._journal.searched()
        known = [done and astuple(done), searched and astuple(searched), bool(self._journal.open_cases())]
        done_row, searched_row, has_cases = self.tape.said("known", known)
        return (
            Head(*done_row) if done_row else None,
            Searched(*searched_row) if searched_row else None,
            has_cases,
        )

    def _take_in(self, found: Range, done: Head | None) -> None:
        """Mark what a range of settled blocks touched, and commit it with how far the search has come."""
        touched: dict[AccountKey, None] = {}
        for log_ in found.logs:
            fact = self._decode(log_)
            if fact is not None:
                touched.update(dict.fromkeys(self.concerned(fact)))
                if done and fact.block > done.number:
                    self.facts.append(replace(fact, tx_index=log_.tx_index))
        self.book.mark_dirty(touched, found.last)
        if self._searched is None or found.last > self._searched.last:
            self._searched = Searched(self._first, found.last, found.last_hash, self._params.scope)
        self._journal.note_found(touched, self._searched)

    async def _take_up_book(
        self, from_block: Block, published: Path | None, searched: Searched | None
    ) -> Block:
        """Take up what journal and disk hold of the accounts; return the first block to be searched.

        What the chain does not have any more is not built on: without the block that the book was read at
        every row is read again, without the block that was searched last the search begins anew. So it does
        where a market is kept that was not searched for.
        """
        self._first = from_block
        if searched and await self._stands(searched, from_block):
            self._first, self._searched = searched.first, searched
        elif searched:
            log.warning("search.begins_anew", first=searched.first, last=searched.last)
        begin = self._searched.last + 1 if self._searched else from_block
        loaded = self._shelf.load(self.market.shape, published) if self._shelf else None
        if loaded:
            self.book, stamp = loaded
            self._taken_up = stamp
            stands = await self._reader.hash_at(stamp.block) == stamp.block_hash
            log.info("book.loaded", accounts=len(self.book), block=stamp.block, on_this_chain=stands)
            if not stands:
                self.book.mark_dirty(self.book.keys.tolist(), stamp.block)
            elif searched is None:
                self._journal.note_found(self.book.keys.tolist(), None)
                begin = max(from_block, stamp.block + 1)
            else:
                begin = min(begin, stamp.block + 1)
        for accounts in self._journal.found():
            unread = self.book.without_row(accounts)
            self.tape.note("found", unread)
            self.book.mark_dirty(unread, from_block)
        return begin

    async def _stands(self, searched: Searched, from_block: Block) -> bool:
        """Tell whether what was searched is of this chain, and reaches back and around far enough."""
        if searched.scope and not {*self._params.scope.split()} <= {*searched.scope.split()}:
            return False
        return (
            searched.first <= from_block and await self._reader.hash_at(searched.last) == searched.last_hash
        )

    # --- what is known ---

    def _fold(self, update: BlockUpdate) -> None:
        """Mark what the new blocks touched, and what the orphaned ones had.

        Logs, facts and orphaned heads are kept until they were understood, told and followed up, however many
        heads it takes.
        """
        self.book.unwind(update.orphaned)
        self._leave_book(update.adopted)
        self.orphaned += update.orphaned
        gone = {head.hash for head in update.orphaned}
        self.facts = [fact for fact in self.facts if fact.block_hash not in gone]
        self._logs = deque(each for each in self._logs if each.block_hash not in gone)
        self._logs += update.logs
        self._line = deque(each for each in self._line if each.hash not in gone)
        self._line += update.adopted
        while self._logs:
            fact = self._decode(self._logs[0])
            self._heed_upgrade(self._logs[0])
            log_ = self._logs.popleft()
            if fact is None:
                continue
            self._mark_dirty(fact)
            self._new.update(dict.fromkeys(fact.touched))
            if not self._is_told(fact):
                self.facts.append(replace(fact, tx_index=log_.tx_index))
        self._told = None

    def _decode(self, log_: Log) -> Fact | None:
        """Say what a log means, and which of the accounts that are kept it names."""
        fact, part = self.market.decode(log_), self._params.part
        if fact is None or part == WHOLE:
            return fact
        return replace(fact, touched=part.pick(fact.touched))

    def _heed_upgrade(self, log_: Log) -> None:
        """Send nothing more where other code stands behind a contract: it was not what was trusted."""
        if log_.block_number > self._trusted_at and log_.topics and log_.topics[0] == UPGRADED.topic:
            [code] = UPGRADED.values(log_.topics, log_.data)
            found = f"{log_.address} has the code of {code} since block {log_.block_number}"
            self.halted = Refuse(Reason("code.changed", found, "the code at the start; look, and start anew"))
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
            self.book.mark_dirty(self.book.keys.tolist(), stamp.block)

    def _is_told(self, fact: Fact) -> bool:
        told = self._told
        return told is not None and (fact.block < told.number or fact.block_hash == told.hash)

    def _mark_dirty(self, fact: Fact) -> None:
        """Mark the accounts that a fact names, and whoever has a position in a market that it names."""
        self.book.mark_dirty(fact.touched, fact.block)
        for market in fact.markets:
            self.book.mark_holders_dirty(market, fact.block)

    async def read(self, head: Head) -> Sequence[bytes]:
        """Read dirty rows, prices and what the wallet has, all at this head's hash, in one batch.

        Return the rows that came with them to be checked, if it is time for that.

        Where more rows are dirty than a group holds, each group is folded in before the next one is read.
        Where the prices say that the listing is out of date, read it anew, and then the batch again. After a
        reorg read it in any case: a version says nothing across branches, and a market that is gone reverts.
        """
        self.read_at = None
        if self.orphaned:
            await self._relist(head)
        dirty = list(dict.fromkeys([*self._desk.own, *self.book.dirty()]))
        group, sample = self._params.page * GROUP, self._sample(head)
        world, funds, rows, sampled = await self._ask(dirty[:group], sample, head)
        if world.version != self.market.version:
            await self._relist(head)
            world, funds, rows, sampled = await self._ask(dirty[:group], sample, head)
            if world.version != self.market.version:
                found = f"has version {self.market.version}, its prices have {world.version}"
                raise ChainFault(f"the listing of block {head.number} {found}")
        self.world, self.funds = world, self._desk.decode(self.market, funds)
        self._fold_rows(rows, head)
        for first in range(group, len(dirty), group):
            self._fold_rows(await self._pages(dirty[first : first + group], head), head)
            log.info("book.reading", accounts=min(first + group, len(dirty)), of=len(dirty))
        self.read_at, self.as_of_s = head, head.timestamp_s
        return sampled

    def _fold_rows(self, rows: Iterable[bytes], head: Head) -> None:
        for page in rows:
            self.book.fold_rows(page, head.number)

    async def _ask(
        self, dirty: Sequence[AccountKey], sample: Sequence[AccountKey], head: Head
    ) -> tuple[World, list[bytes], list[bytes], list[bytes]]:
        """Ask for prices, means, dirty rows and a sample, once more without the sample where that fails."""
        pages, checks = self._paged(dirty), self._paged(sample)
        heard = self._panel.calls()
        calls = [self.market.prices_call(), *heard, *self._desk.calls(self.market)]
        try:
            (prices, *funds), rows = await self._call(calls, [*pages, *checks], head)
        except ChainFault as fault:
            if not checks:
                raise
            self._leave_unchecked(fault, head)
            (prices, *funds), rows = await self._call(calls, pages, head)
        self.witnesses = self._panel.decode(funds[: len(heard)], head.timestamp_s)
        world = self.market.decode_prices(prices)
        return world, funds[len(heard) :], rows[: len(pages)], rows[len(pages) :]

    def _paged(self, accounts: Sequence[AccountKey]) -> list[Sequence[AccountKey]]:
        """Cut accounts into bulk reads."""
        page = self._params.page
        return [accounts[first : first + page] for first in range(0, len(accounts), page)]

    async def _relist(self, head: Head) -> None:
        """Read the listing and its terms anew, and give the book a column for every instrument."""
        self.world = None
        self.tape.note("listing")
        listed = await read_through(self._reader, self.market.refresh(), head.hash)
        self.book.relist(listed.shape)
        self.market = listed
        self._reader.watch(self.market.addresses)
        log.info(
            "listing.read",
            block=head.number,
            version=self.market.version,
            columns=len(self.market.shape.columns),
        )

    def concerned(self, fact: Fact) -> Sequence[AccountKey]:
        """Return the accounts that a fact names, and whoever has a position in a market that it names."""
        return list(dict.fromkeys((*fact.touched, *self.book.holders(fact.markets))))


def _doubt_left(found: int) -> str | None:
    """Say what put the mirror in doubt before a restart, where no whole round was clean since."""
    return f"{found} differences before the start, and no clean round since" if found else None
