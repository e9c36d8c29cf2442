"""The watch: scores the book at the fast prices, and says who is suspect, at every head and at every tick."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import structlog

from keeper.columns.keys import Rows
from keeper.columns.snapshot import Snapshot
from keeper.domain import ChainTime, Head, Quote, Unknown
from keeper.pipeline.mirror import Mirror
from keeper.pipeline.moment import Moment
from keeper.pipeline.params import Params
from keeper.ports import Feed, Market, Spread, Ticks
from keeper.risk.marks import Marks
from keeper.risk.netting import Floats
from keeper.trigger import Found, Scores, Trigger
from keeper.units import AccountKey, FeedId, UnixS

log = structlog.get_logger()
MarketT = TypeVar("MarketT", bound=Market[Any, Any])

MOST = 512
"""Suspects that are taken out of the line at a time, the worst of the first tick first."""
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
WARN_EVERY_NS = 60 * 10**9
"""How often at most the log tells that the trigger is late."""


class Stopwatch:
    """Counts how long something takes."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._total_s = self._most_s = 0.0

    def note(self, took_ns: int) -> None:
        """Count one more time."""
        took_s = took_ns / 1e9
        self._counts[bisect_left(BOUNDS_S, took_s)] += 1
        self._total_s += took_s
        self._most_s = max(self._most_s, took_s)

    @property
    def spread(self) -> Spread:
        """What was counted so far."""
        within = np.cumsum(self._counts).tolist()
        return Spread(dict(zip(BOUNDS_S, within, strict=False)), within[-1], self._total_s, self._most_s)


class Watch(Generic[MarketT]):
    """Holds the book against the fast prices, and keeps in line whom a tick made suspect.

    Nothing is decided here, so that a tick may be scored while a head is half read: a row that changed and
    was not read counts as unknown, others are as they were. Who is newly suspect stands in line, once and for
    as long as prices make it so, until whoever judges is free; a head that is looked at empties the line.
    """

    def __init__(self, mirror: Mirror[MarketT], *, trigger: Trigger, feed: Feed, params: Params) -> None:
        self._mirror = mirror
        self._feed = feed
        self._params = params
        self._trigger = trigger
        self._unpriced: dict[FeedId, str] = {}
        self._quotes: Mapping[FeedId, Quote | Unknown] = {}
        """What was scored by last."""
        self._head: Head | None = None
        """The head that was looked at last."""
        self._suspects = np.zeros(0, np.intp)
        """Rows that were suspect at the last head or tick."""
        self._ready: Sequence[AccountKey] = ()
        self._kept = np.zeros(0, np.intp)
        """Rows of those whose acts are ready: they stand in line at every tick that finds them suspect."""
        self._first: dict[AccountKey, int] = {}
        """Those of them who were not judged since, and their rows: a tick looks at them before all others."""
        self._glanced: Moment | None = None
        """Whom a glance has found, until they are taken."""
        self._marked: tuple[object, UnixS, Mapping[FeedId, Quote | Unknown], Marks] | None = None
        """The marks that were made last: in which world, for when, and at which prices."""
        self._line = np.zeros(0, np.intp)
        """Rows, those of one tick the worst first, [k]."""
        self._line_scores = np.zeros((2, 0))
        """Equity and requirement of each when it came to stand there."""
        self._line_since_ns = 0
        self._marks = np.zeros((2, 0), np.bool_)
        self.alarmed = asyncio.Event()
        """Set while somebody is to be taken."""
        self.drifted = asyncio.Event()
        """Set from a tick that was far from what the trigger knows until ``settle``."""
        self._ticks = self._coalesced = self._handed_over = 0
        self._late, self._scored, self._answered = Stopwatch(), Stopwatch(), Stopwatch()
        self._warned_ns = -WARN_EVERY_NS
        self._late_unsaid = 0

    def look(self, head: Head, heard_ns: int) -> Moment:
        """Score the book at a head; who stood in line is among the suspects, or is none any more."""
        self.disperse()
        self._head = head
        quotes = self._feed.latest(head.timestamp_s)
        self._warn_of_unpriced(quotes)
        book, found = self._score(head, quotes)
        if found.unknown:
            log.warning("accounts.unknown", block=head.number, accounts=found.unknown, of=len(book))
        self._suspects = found.rows
        self.keep(self._ready)
        keys = book.keys[found.rows].tolist()
        suspects = dict(zip(keys, why(found.scores.equity, found.scores.requirement), strict=True))
        return Moment(head, self._at(head), quotes, suspects, heard_ns)

    @property
    def is_free(self) -> bool:
        """Whether a glance is worth it: somebody is ready, and nobody waits to be taken."""
        return len(self._first) > 0 and self._mirror.world is not None and not self.alarmed.is_set()

    def glance(self, heard_ns: int) -> bool:
        """Look for suspects of a tick among those alone whose acts are ready; tell if there are any.

        They go before all who stand in line, and need not wait until everybody is scored, which ``hear`` has
        still to do.
        """
        head = self._head
        if head is None:
            return False
        at = self._at(head)
        quotes = self._feed.latest(at.timestamp_s)
        book, marks = self._priced(head, quotes)
        found = self._trigger.glance(book, marks, np.fromiter(self._first.values(), np.intp))
        if not len(found.rows):
            return False
        keys = book.keys[found.rows].tolist()
        suspects = dict(zip(keys, why(found.scores.equity, found.scores.requirement), strict=True))
        self._glanced = Moment(head, at, quotes, suspects, heard_ns, is_tick=True)
        self._handed_over += len(keys)
        self.alarmed.set()
        return True

    def hear(self, heard_ns: int) -> None:
        """Score the book at the prices of a tick, and put in line who is suspect and was not before.

        Without a head, or where that one finds another listing, there is nothing to score yet: the head
        looks at the newest prices itself.
        """
        self._ticks += 1
        head = self._head
        if head is None or self._mirror.world is None:
            return
        began_ns = time.monotonic_ns()
        book, found = self._score(head, self._feed.latest(self._at(head).timestamp_s))
        self._scored.note(time.monotonic_ns() - began_ns)
        wanted = self._newly(found.rows, len(book))
        self._suspects = found.rows
        if len(wanted):
            self._stand_in_line(found.rows[wanted], found.scores.of(wanted), heard_ns)
        if self._trigger.is_due:
            self.drifted.set()
        self._note_lateness(time.monotonic_ns() - heard_ns)

    def _newly(self, rows: Rows, of: int) -> Rows:
        """Return the places of those rows who are to stand in line; whoever is none of them leaves it.

        Marked in arrays that are kept, and blank again afterwards: a new one of a large book costs a fault of
        the memory for every row that is looked at.
        """
        if self._marks.shape[1] < of:
            self._marks = np.zeros((2, of + of // 8), np.bool_)
        was, now = self._marks
        before = self._suspects[self._suspects < of]
        was[before] = True
        was[self._kept[self._kept < of]] = False
        now[rows] = True
        stays = now[self._line]
        self._line, self._line_scores = self._line[stays], self._line_scores[:, stays]
        was[self._line] = True
        wanted = np.flatnonzero(~was[rows])
        was[before] = was[self._line] = now[rows] = False
        return wanted

    def rehearse(self) -> Iterator[None]:
        """Score once more what was scored last, and keep nothing of it: the next tick does not run cold."""
        if self._head is not None and self._mirror.world is not None and self._quotes:
            self._marked = None
            priced = partial(self._priced, self._head, self._quotes)
            priced()
            yield
            yield from self._trigger.rehearse(priced)

    def settle(self) -> None:
        """Have the trigger get ready for ticks at the newest prices, where what it knows is far from them."""
        self.drifted.clear()
        head = self._head
        if head is not None and self._mirror.world is not None and self._trigger.is_due:
            quotes = self._feed.latest(self._at(head).timestamp_s)
            self._trigger.prepare(*self._priced(head, quotes))

    def take(self) -> Moment | None:
        """Return whom a glance has found, or else who stands first in line, with the prices scored last.

        The others go on standing there.
        """
        if (glanced := self._glanced) is not None:
            self._glanced = None
            if not len(self._line):
                self.alarmed.clear()
            return glanced
        if self._head is None or not len(self._line):
            self.disperse()
            return None
        known, at = self._mirror.book.keys, self._at(self._head)
        rows, scores = self._line[:MOST].tolist(), self._line_scores[:, :MOST]
        self._line, self._line_scores = self._line[MOST:], self._line_scores[:, MOST:]
        if not len(self._line):
            self.disperse()
        suspects = dict(zip(known[rows].tolist(), why(*scores), strict=True))
        return Moment(self._head, at, self._quotes, suspects, self._line_since_ns, is_tick=True)

    def keep(self, accounts: Sequence[AccountKey]) -> None:
        """Have accounts whose acts are ready stand in line at every tick, suspects before or not."""
        self._ready = accounts
        rows = self._mirror.book.rows(accounts)
        self._kept = rows[rows >= 0]
        self._first = {each: row for each, row in zip(accounts, rows.tolist(), strict=True) if row >= 0}

    def answered(self, moment: Moment) -> None:
        """Count how long a tick's suspects waited until they were judged, and acted on.

        A glance looks for them no more: they are on their way, or the same prices would lead to the same.
        """
        for account in moment.suspects:
            self._first.pop(account, None)
        self._answered.note(time.monotonic_ns() - moment.heard_ns)

    def ticks(self, ready: int) -> Ticks:
        """Return what came of ticks so far."""
        return Ticks(
            count=self._ticks,
            coalesced=self._coalesced,
            suspects=self._handed_over,
            late=self._late.spread,
            scored=self._scored.spread,
            answered=self._answered.spread,
            ready=ready,
        )

    def _at(self, head: Head) -> ChainTime:
        return ChainTime(head.number + 1, head.timestamp_s + self._params.block_time_s)

    def _score(self, head: Head, quotes: Mapping[FeedId, Quote | Unknown]) -> tuple[Snapshot, Found]:
        self._quotes = quotes
        book, marks = self._priced(head, quotes)
        return book, self._trigger.tick(book, marks, self._mirror.book.take_changed())

    def _priced(self, head: Head, quotes: Mapping[FeedId, Quote | Unknown]) -> tuple[Snapshot, Marks]:
        """Return the book, and the marks of its columns: those that were made last, where nothing is new."""
        world, at_s = self._mirror.world, self._at(head).timestamp_s
        known = self._marked
        if known is None or known[0] is not world or known[1] != at_s or known[2] != quotes:
            known = self._marked = world, at_s, quotes, self._mirror.market.marks(world, quotes, at_s)
        return self._mirror.book.freeze(), known[3]

    def _stand_in_line(self, rows: Rows, scores: Scores, heard_ns: int) -> None:
        if len(self._line):
            self._coalesced += 1
        else:
            self._line_since_ns = heard_ns
        self._line = np.concatenate([self._line, rows])
        self._line_scores = np.hstack([self._line_scores, [scores.equity, scores.requirement]])
        self._handed_over += len(rows)
        self.alarmed.set()

    def disperse(self) -> None:
        """Let everybody go who waits to be taken: a head looks at all suspects."""
        self._glanced = None
        self._line, self._line_scores = np.zeros(0, np.intp), np.zeros((2, 0))
        self.alarmed.clear()

    def _note_lateness(self, late_ns: int) -> None:
        """Count it, and warn now and then where it is beyond the bound."""
        self._late.note(late_ns)
        if late_ns <= self._params.late_ms * 1e6:
            return
        self._late_unsaid += 1
        now_ns = time.monotonic_ns()
        if now_ns - self._warned_ns >= WARN_EVERY_NS:
            bound_ms, times = self._params.late_ms, self._late_unsaid
            log.warning("trigger.late", late_ms=late_ns / 1e6, bound_ms=bound_ms, times=times)
            self._warned_ns, self._late_unsaid = now_ns, 0

    def _warn_of_unpriced(self, quotes: Mapping[FeedId, Quote | Unknown]) -> None:
        """Say aloud which feeds have no fast price, whenever that changes."""
        found = {
            feed: quotes.get(feed, Unknown(feed, "the feed does not serve it"))
            for feed in sorted(self._mirror.market.feeds)
        }
        unpriced = {feed: quote.why for feed, quote in found.items() if isinstance(quote, Unknown)}
        if unpriced.keys() != self._unpriced.keys():
            log.warning("feed.unknown", feeds=unpriced) if unpriced else log.info("feed.all_known")
        self._unpriced = unpriced


def why(equity: Floats, requirement: Floats) -> Iterable[str]:
    """Say of suspects why they are."""
    pairs = zip(equity.tolist(), requirement.tolist(), strict=True)
    return (f"E {has:.2f}, M {needs:.2f}" for has, needs in pairs)
