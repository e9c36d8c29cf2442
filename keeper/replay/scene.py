"""A scene: book, listing, world and quotes as they were when a head was done, put together from the tape.

Rows are taken from the book that was kept last before, and from every bulk read since; nothing is decided on
the way, so that a scene takes a fraction of a replay.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from keeper.confirm.policy import Policies
from keeper.desk.port import Alarm, Desk, Judgement
from keeper.domain import (
    Bundle,
    Call,
    ChainTime,
    FeedView,
    Fees,
    Head,
    OracleView,
    Posture,
    Quote,
    Record,
    Refuse,
    Seen,
    Unknown,
    Witnessed,
    Witnesses,
)
from keeper.errors import ChainFault, ConfigError
from keeper.execute.fees import FeeParams, choose_fees
from keeper.journal.reader import JournalReader, Reel
from keeper.journal.runs import Run
from keeper.journal.store import SqliteJournal
from keeper.journal.tape import ANEW, at_block, call_id, to_head, to_posture, to_quote, to_report, to_shown
from keeper.journal.tape import Record as Taped
from keeper.lifecycle import Status
from keeper.oracles.panel import Panel
from keeper.pipeline import Params
from keeper.pipeline.care import REST_MOST_S
from keeper.pipeline.case import Case, new_case, taken_up
from keeper.pipeline.watch import why
from keeper.ports import Market, Reports, read_through
from keeper.replay.play import rewound
from keeper.risk.volatility import Ewma
from keeper.state.book import Book
from keeper.trigger import Trigger
from keeper.units import AccountKey, Block, FeedId

NOBODY: AccountKey = bytes(32)


@dataclass(frozen=True, slots=True)
class Parts:
    """What one kind of protocol brings: its listing, who decides, and how many rows it reads at once."""

    market: Market[Any, Any]
    desk: Desk[Any, Any]
    params: Params
    fees: FeeParams
    chain_id: int
    deployment: str
    panel: Panel = field(default_factory=Panel)
    """Whom it asks besides the protocol's own oracle,"""
    policies: Policies = field(default_factory=Policies)
    """and what it asks for."""


Open: TypeAlias = Callable[[Run, Any, Reports], Awaitable[Parts]]
"""Finds the deployment of a run by a reader of what was answered then, and sits whoever decides to it."""


@dataclass(frozen=True, slots=True)
class Past:
    """What the journal held when a head was looked at."""

    cases: Mapping[AccountKey, Case] = field(default_factory=dict)
    """Those that were open, each with its first suspicion since it was called last."""
    closed: Mapping[AccountKey, Seen] = field(default_factory=dict)
    record: Record = field(default_factory=Record)


@dataclass(slots=True)
class Scene:
    """All that a decision rests on at one head."""

    parts: Parts
    market: Market[Any, Any]
    book: Book[Any]
    world: Any
    funds: Any
    quotes: Mapping[FeedId, Quote | Unknown]
    head: Head
    vols: Ewma
    run: Run
    posture: Posture
    witnesses: Witnesses
    past: Past

    @property
    def at(self) -> ChainTime:
        """The block in which a step could run at the earliest."""
        return ChainTime(self.head.number + 1, self.head.timestamp_s + self.parts.params.block_time_s)

    def sit(self, book: Any = None) -> Any:
        """Open the desk, as the keeper does at a head; raise ChainFault where something is not known."""
        fees = choose_fees(self.head.base_fee_wei, self.parts.fees)
        base_fee_wei = self.head.base_fee_wei
        price_wei = fees.price_wei(base_fee_wei) if isinstance(fees, Fees) else base_fee_wei or 0
        worst_wei = fees.max_fee_wei if isinstance(fees, Fees) else 0
        return self.parts.desk.sit(
            self.market,
            book or self.book,
            self.world,
            self.funds,
            quotes=self.quotes,
            gas_price_wei=price_wei,
            at=self.at,
            posture=self.posture,
            witnesses=self.witnesses,
            record=replace(self.past.record, worst_gas_wei=worst_wei),
        )

    def alarm(self, account: AccountKey, *, suspected: bool) -> Alarm:
        """Return the alarm that a desk is asked about: of the open case, or of one that would begin."""
        case = self.past.cases.get(account) or new_case(account, self.head)
        return replace(
            case.alarm(self.head, suspected=suspected), first=case.first, closed=self.past.closed.get(account)
        )

    def suspects(self) -> Mapping[AccountKey, str]:
        """Return whom the trigger suspects and why, the worst first."""
        book = self.book.freeze()
        marks = self.market.marks(self.world, self.quotes, self.at.timestamp_s)
        found = Trigger(threads=1).tick(book, marks, None)
        keys = [book.key(row) for row in found.rows.tolist()]
        return dict(zip(keys, why(found.scores.equity, found.scores.requirement), strict=True))

    def judge(self, account: AccountKey) -> tuple[Judgement[Any] | Unknown, Any]:
        """Judge an account as the keeper did, with the sitting that it found; raise ChainFault as ``sit``.

        Whoever came before it has taken of the means. One that nobody looked at finds all of them.
        """
        sitting, suspects, cases = self.sit(), self.suspects(), self.past.cases
        since = {key: case.since for key, case in cases.items() if case.status is not Status.CALLED}
        first = sitting
        for each in self.parts.desk.under_care(sitting, self.book.freeze(), suspects, since):
            status = cases[each].status if each in cases else None
            if each != account and status in {Status.RESERVED, Status.IN_FLIGHT}:
                continue
            found = self.parts.desk.judge(sitting, each, self.alarm(each, suspected=each in suspects))
            if each == account:
                return found, sitting
            if not isinstance(found, Unknown):
                sitting = found.left
        alarm = self.alarm(account, suspected=account in suspects)
        return self.parts.desk.judge(first, account, alarm), first

    def moved(self, feed: FeedId, price_wad: int) -> Scene:
        """Return the scene with one price another, at both clocks, by every witness and just now."""
        quote = Quote(feed, price_wad, self.at.timestamp_s)
        quotes = {**self.quotes, feed: quote}
        heard = {
            **self.witnesses,
            feed: tuple(_borne_out(each, quote) for each in self.witnesses.get(feed, ())),
        }
        if not isinstance(self.world, OracleView):
            follows: Any = self.market
            return replace(
                self, quotes=quotes, witnesses=heard, world=follows.fast(self.world, {feed: quote})
            )
        feeds = {**self.world.feeds, feed: _told(self.world.feeds[feed], quote)}
        return replace(self, quotes=quotes, witnesses=heard, world=replace(self.world, feeds=feeds))


def _borne_out(witness: Witnessed | Unknown, quote: Quote) -> Witnessed | Unknown:
    """Return what a witness would say, were a price another; one that is silent stays so."""
    if isinstance(witness, Unknown):
        return witness
    return replace(witness, price_wad=quote.price_wad, at_s=quote.observed_at_s)


def _told(view: FeedView, quote: Quote) -> FeedView:
    """Return both prices of a feed as a quote has it."""
    at_s = quote.observed_at_s
    return replace(
        view,
        fast_wad=quote.price_wad,
        fast_observed_at_s=at_s,
        slow_wad=quote.price_wad,
        slow_updated_at_s=at_s,
    )


# --- putting it together -------------------------------------------------------------------------


class Answers:
    """Answers what was asked then, as far as it was."""

    def __init__(self) -> None:
        self.lent: dict[str, str] = {}
        self._found: dict[tuple[str, str], str] = {}
        self._simulated: dict[str, Any] = {}

    def add(self, record: Taped) -> None:
        """Take in a record of answers."""
        if record[0] == "c":
            self._found.update(
                {(record[1], name): each for name, each in zip(record[2], record[3], strict=True)}
            )

    async def lend(self, address: str, creation: bytes) -> None:
        """Need no code: answers are there."""

    async def call(self, call: Call, at_hash: str) -> bytes:
        return (await self.call_many([call], at_hash))[0]

    async def call_many(self, calls: Sequence[Call], at_hash: str) -> list[bytes]:
        of = at_block(at_hash)
        try:
            return [bytes.fromhex(self._found[of, call_id(call)]) for call in calls]
        except KeyError as error:
            raise ChainFault(f"the tape has no answer to a call at {at_hash}") from error

    async def simulate(self, *_: object) -> bytes | Refuse:
        raise ChainFault("the tape is not asked for simulations")

    async def simulate_in_order(self, *_: object) -> list[bytes | Refuse] | None:
        raise ChainFault("the tape is not asked for simulations")

    async def rerun(self, *_: object) -> bytes | Refuse:
        raise ChainFault("the tape is not asked for simulations")


class Said:
    """Says what reporters had signed."""

    def __init__(self) -> None:
        self.newest: Mapping[FeedId, Bundle] = {}

    def bundles(self, oracles: Mapping[FeedId, FeedView], at: ChainTime) -> Mapping[FeedId, Bundle]:
        del oracles, at
        return self.newest


async def scene_at(reader: JournalReader, open_parts: Open, block: Block | None) -> Scene:
    """Put together the head that was done last, or the last one up to a block.

    Raises ConfigError where the tape has none, or begins later.
    """
    run, last = _place(reader, block)
    try:
        return await _Rebuilding(reader, run, last).scene(open_parts, nearest=True)
    except ChainFault:
        # What was listed between the start and the book may be missing: all of it is there from the start.
        return await _Rebuilding(reader, run, last).scene(open_parts, nearest=False)


def _place(reader: JournalReader, block: Block | None) -> tuple[Run, int]:
    """Return the run, and the last row of its tape that belongs to a block."""
    found = reader.last_reel(block)
    if found is None:
        where = "" if block is None else f" up to block {block}"
        raise ConfigError(
            f"the journal has nothing on tape{where}: it begins later, or [journal] tape is off"
        )
    number, seq, at, is_last = found
    run = next(each for each in reader.runs() if each.run == number)
    if is_last and run.started.get("ended") and (block is None or block > at):
        raise ConfigError(
            f"the tape of run {number} ended after block {at}: too much had come before the next head;"
            " it begins anew when the keeper is started"
        )
    return run, seq


@dataclass(slots=True)
class _Stood:
    """What the tape says that decisions of a head went by."""

    head: Head
    event: int
    posture: Posture
    quotes: Mapping[FeedId, Quote | Unknown]
    shown: Mapping[AccountKey, ChainTime]
    """Since which head the chain had shown the breach of each account; of none on a tape of before."""
    bundles: Mapping[FeedId, Bundle] | None = None


class _Rebuilding:
    """Goes through the tape of a run."""

    def __init__(self, reader: JournalReader, run: Run, last: int) -> None:
        self._reader = reader
        self._run = run
        self._last = last
        self._answers = Answers()
        self._said = Said()
        self._quotes: dict[FeedId, Quote | Unknown] = {}
        self._head: Head | None = None
        self._world: Any = None
        self._funds: Sequence[bytes] = ()
        self._heard: Sequence[bytes] = ()
        self._bundles: Mapping[FeedId, Bundle] = {}
        self._stood: _Stood | None = None

    async def scene(self, open_parts: Open, *, nearest: bool) -> Scene:
        opening = next(self._reader.tape(self._run.run))
        for record in opening.records:
            if record[0] == "discover":
                break
            self._answers.add(record)
        parts = await open_parts(self._run, self._answers, self._said)
        market, book, begin = self._book(parts, nearest=nearest)
        vols = Ewma(dict.fromkeys(market.feeds, parts.params.vol))
        for reel in self._reader.tape(self._run.run, since=begin - ANEW):
            if reel.seq > self._last:
                break
            market = await self._fold(reel, market, book, parts, vols, is_read=reel.seq > begin)
        stood = self._stood
        if stood is None or self._world is None:
            raise ConfigError(f"the tape of run {self._run.run} begins later")
        self._said.newest = stood.bundles or {}
        return Scene(
            parts=parts,
            market=market,
            book=book,
            world=self._world,
            funds=parts.desk.decode(market, self._funds),
            quotes=stood.quotes,
            head=stood.head,
            vols=vols,
            run=self._run,
            posture=stood.posture,
            witnesses=parts.panel.decode(self._heard, stood.head.timestamp_s),
            past=_past(self._reader, self._run, stood),
        )

    def _book(self, parts: Parts, *, nearest: bool) -> tuple[Market[Any, Any], Book[Any], int]:
        """Return the book to begin with, and the row of the tape up to which it was read."""
        market = parts.market
        kept = self._reader.books(self._run, self._last)
        for seq, path in reversed(kept) if nearest else kept[:1]:
            try:
                book, _ = Book.load(path, market.shape, chain_id=parts.chain_id, deployment=parts.deployment)
            except ConfigError:
                continue
            return market, book, seq
        if self._run.started.get("book"):
            raise ConfigError(
                f"no book of run {self._run.run} is beside {self._reader.path}: it is where that keeper ran"
            )
        return market, Book(market.shape), 0

    async def _fold(
        self,
        reel: Reel,
        market: Market[Any, Any],
        book: Book[Any],
        parts: Parts,
        vols: Ewma,
        *,
        is_read: bool,
    ) -> Market[Any, Any]:
        """Take in what came with a head; return the listing of then."""
        prices = call_id(market.prices_call())
        raw, at_hash = None, ""
        for record in reel.records:
            self._answers.add(record)
            self._hear(record, vols)
            if record[0] == "c" and prices in record[2]:
                raw, at_hash = record, record[1]
        if raw is not None:
            self._world = market.decode_prices(_answer(raw, prices))
            if self._world.version != market.version:
                market = await self._relisted(market, at_hash, reel)
                book.relist(market.shape)
                raw = next(
                    (
                        r
                        for r in reversed(reel.records)
                        if r[0] == "c" and call_id(market.prices_call()) in r[2]
                    ),
                    raw,
                )
                self._world = market.decode_prices(_answer(raw, call_id(market.prices_call())))
            self._heard, self._funds = (
                [_answer(raw, call_id(call)) for call in calls]
                for calls in (parts.panel.calls(), parts.desk.calls(market))
            )
        rows = market.rows_call([NOBODY]).data[:4].hex()
        for record in reel.records if is_read else ():
            if record[0] == "c":
                for name, answer in zip(record[2], record[3], strict=True):
                    if name.startswith(rows):
                        book.fold_rows(bytes.fromhex(answer), reel.number)
        return market

    async def _relisted(self, market: Market[Any, Any], at_hash: str, reel: Reel) -> Market[Any, Any]:
        whole = next((h for h in _heads(reel) if at_block(h.hash) == at_hash), None)
        if whole is None:
            raise ChainFault(f"the tape does not name the block of the listing at {at_hash}")
        reading: Any = self._answers
        listed: Market[Any, Any] = await read_through(reading, market.refresh(), whole.hash)
        return listed

    def _hear(self, record: Taped, vols: Ewma) -> None:
        """Take in prices, bundles and heads."""
        if record[0] == "q":
            for feed, row in record[1].items():
                if row is None:
                    self._quotes.pop(feed, None)
                    continue
                self._quotes[feed] = to_quote(feed, row)
        elif record[0] == "b":
            self._hear_reports(record[1])
        elif record[0] == "head":
            self._head = to_head(record[1][0])
        elif record[0] == "posture" and self._head is not None:
            for quote in self._quotes.values():
                if isinstance(quote, Quote):
                    vols.hear(quote)
            _, event, posture, *shown = record
            known = to_shown(shown[0]) if shown else {}
            self._stood = _Stood(self._head, event, to_posture(posture), dict(self._quotes), known)

    def _hear_reports(self, said: Mapping[FeedId, Sequence[Any]] | None) -> None:
        """Take in what reporters had signed; the desk that opens first after a posture judges by it."""
        if said is not None:
            self._bundles = {feed: tuple(map(to_report, each)) for feed, each in said.items()}
        if self._stood is not None and self._stood.bundles is None:
            self._stood.bundles = self._bundles


def _past(reader: JournalReader, run: Run, stood: _Stood) -> Past:
    """Ask a copy of the journal as it stood then what the keeper had asked it."""
    with tempfile.TemporaryDirectory(prefix="keeper-past-") as folder:
        run = replace(run, events=stood.event)
        with closing(rewound(reader, run, Path(folder) / "journal.sqlite")) as journal:
            return _asked(journal, stood)


def _asked(journal: SqliteJournal, stood: _Stood) -> Past:
    cases, at_s = {}, stood.head.timestamp_s
    for each in journal.open_cases():
        case = taken_up(each)
        case.first = None if case.status is Status.CALLED else journal.alarm(case.case_id)
        case.shown = stood.shown.get(each.account)
        cases[each.account] = case
    return Past(cases, journal.closed_since(at_s - REST_MOST_S), journal.record_at(at_s))


def _heads(reel: Reel) -> Iterable[Head]:
    return (to_head(record[1][0]) for record in reel.records if record[0] == "head")


def _answer(record: Taped, name: str) -> bytes:
    return bytes.fromhex(record[3][record[2].index(name)])
