"""The trigger between two heads: what it knows of every account, and what a tick of prices changes in it.

It holds for every account how far *away* it is at some marks: no move of all that it holds by a smaller share
brings it to breach. So a tick asks only whom its moves can have reached: those that are near enough for what
moved within a *box*, and of each column that moved farther those of its holders who are; or everybody, where
that is cheaper. What the sieve cannot clear of them ``scores`` judges, and nothing else does. A tick leaves
all that is known as it is, but for rows that changed: the marks are others only after ``prepare``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from keeper.columns.legs import Floats
from keeper.columns.snapshot import Snapshot
from keeper.risk.marks import Marks
from keeper.trigger.engine import Engine, Numbers, engine
from keeper.trigger.scores import Rows, Scores, score, suspects
from keeper.trigger.terms import PER, SHELVES, Held, Singles, Terms

BOX = 0.02
"""How far marks move together until each is looked at by itself."""
SHARE = 16
"""One over the share of a book from which on a pass over all of it is cheaper."""
STALE_SHARE = 64
"""One over the share of a book whose changes make lists worth building again."""
COMPILED_FROM = 10_000
"""Rows from which on compiled loops are worth a second of loading them."""
THREADS = 2
SPREAD = 2**15
"""Rows that are worth a second thread."""
NO_ROWS: Numbers = np.zeros(0, np.int32)
ANYBODY: Numbers = np.zeros(1, np.int32)
"""The first row, where it does not matter whose it is."""
NOTHING, NEVER = np.zeros(0), np.zeros(0, np.bool_)
NO_SCORES = Scores(NOTHING, NOTHING, NOTHING, NEVER, NEVER)


@dataclass(frozen=True, slots=True)
class Found:
    """The suspects of one tick, the most endangered first, and how they were scored [r]."""

    rows: Rows
    scores: Scores
    unknown: int
    """How many accounts hold something without a price, or wait to be read."""


@dataclass(frozen=True, slots=True)
class Known:
    """The marks at which it is known how far away accounts are, and lists of these."""

    terms: Terms
    units: Floats
    """[k, codes], of these marks."""
    starts: NDArray[np.int64]
    rows: Numbers
    """Who holds each column by shelf, and after all columns everybody; ``compiled.index`` says how."""

    def listed(self, column: int, first: int, last: int) -> Numbers:
        """Return who is on some shelves of a column, the last one among them."""
        at = column * SHELVES
        return self.rows[self.starts[at + first] : self.starts[at + last + 1]]


class Trigger:
    """Finds at every tick all accounts that cannot be cleared: exactly those that ``scores`` finds."""

    def __init__(self, *, loops: Engine | None = None, threads: int = THREADS) -> None:
        self._loops = loops or engine(compiled=False)
        self._may_compile = loops is None
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "trigger") if threads > 1 else None
        self._known: Known | None = None
        self._away: Singles = np.zeros(0, np.float32)
        """[n], how far away every row is at the known marks."""
        self._changed: Numbers = NO_ROWS
        """The rows that changed since they were listed."""
        self._unknown = 0
        """How many are at the known marks."""
        self._suspects: Rows = NO_ROWS.astype(np.intp)
        """Those of the last tick."""
        self._out: Numbers = NO_ROWS
        self._rows = 0
        self.is_due = True
        """Whether ticks like the last one are worth a ``prepare``."""

    def tick(self, book: Snapshot, marks: Marks, changed: Rows | None) -> Found:
        """Return all suspects at some marks; ``changed`` are the rows written to since, None all of them."""
        held, terms = self._take(book, marks)
        self._follow(held, terms, changed)
        candidates, unknown = self._sift(held, terms, self._reached(terms))
        found = self._judge(book, marks, candidates, unknown)
        self._suspects = found.rows
        return found

    def glance(self, book: Snapshot, marks: Marks, rows: Rows) -> Found:
        """Return the suspects of some rows alone, as ``tick`` would; what is known stays as it is."""
        return self._judge(book, marks, rows, 0)

    def rehearse(self, priced: Callable[[], tuple[Snapshot, Marks]]) -> Iterator[None]:
        """Do what a tick at some marks does, piece by piece, and keep nothing of it: the caches have it then.

        Where such a tick is a matter of some rows, and not of everybody. One at least is scored. The book is
        given back after each piece: who writes to it meanwhile need not copy it.
        """
        rows = self._candidates(*priced())
        if rows is not None:
            yield
            self._judge(*priced(), rows if len(rows) else ANYBODY, 0)
            yield

    def _candidates(self, book: Snapshot, marks: Marks) -> Numbers | None:
        """Return whom a tick at some marks would judge; None where it would look at everybody."""
        known = self._known
        if known is None or self.is_due or not 0 < len(book) == self._rows:
            return None
        held, terms = Held.of(book), Terms.of(marks, self._loops)
        if not terms.is_alike(known.terms):
            return None
        reached, self.is_due = self._reached(terms), False
        return None if reached is None else self._sift(held, terms, reached)[0]

    def warm_up(self, book: Snapshot, accounts: int) -> None:
        """Compile the loops for a book like this one, where so many accounts are worth some seconds."""
        if not self._may_compile or accounts < COMPILED_FROM:
            return
        self._loops, self._may_compile = engine(), False
        held, one = Held.of(book), np.ones(1)
        terms, away = Terms.of(Marks(one, one, one), self._loops), np.zeros(1, np.float32)
        for each in (terms, terms._replace(risk=np.zeros((1, 1)))):
            self._loops.sieve(held, each, NO_ROWS, 0, 0, one, np.zeros(1, np.int32))
        self._loops.measure(held, terms, terms.units(), NO_ROWS, 0, 0, one, away)
        self._loops.apart(terms, terms, terms.units(), one.copy())
        self._loops.index(held._replace(first=held.first[:0], counts=held.counts[:0]), 1, away)

    def prepare(self, book: Snapshot, marks: Marks) -> None:
        """Get ready for ticks from these marks on, where the last one was far from those that are known.

        Off the path of ticks: it computes anew how far away everybody is, and lists all who are near.
        """
        if not self.is_due:
            return
        held, terms = self._take(book, marks)
        # Nothing is known until all of it is.
        self._known = None
        self._away[:] = np.inf
        units = terms.units()
        self._measure(held, terms, units, NO_ROWS, self._away)
        away = self._away[: self._rows]
        self._unknown = int(np.isnan(away).sum())
        self._changed = NO_ROWS
        self._known = Known(terms, units, *self._loops.index(held, len(terms.group), away))
        self.is_due = False

    def nearest(self, count: int) -> Rows:
        """Return the accounts nearest to breach that are no suspects, the nearest first.

        Of those whom prices could bring there, and have not at the last tick.
        """
        if self._known is None:
            return NO_ROWS.astype(np.intp)
        away, suspect = self._away[: self._rows], np.zeros(self._rows, np.bool_)
        suspect[self._suspects] = True
        rows = np.flatnonzero((away <= BOX) & np.isfinite(away) & ~suspect)
        if len(rows) < count:
            rows = np.flatnonzero(np.isfinite(away) & ~suspect)
        if count < len(rows):
            rows = rows[away[rows] <= np.partition(away[rows], count)[count]]
        return rows[np.argsort(away[rows], kind="stable")][:count]

    def within(self, book: Snapshot, marks: Marks, share: float) -> Rows:
        """Return all who may be so near to breach at some marks, in order; some of them may be farther."""
        held, terms = self._take(book, marks)
        known, apart = self._known, np.full(1, np.inf)
        if known is not None and terms.is_alike(known.terms):
            apart = np.empty(len(terms.group))
            self._loops.apart(terms, known.terms, known.units, apart)
        moved = float(apart.max(initial=0.0))
        if not np.isfinite(moved):
            return np.arange(len(held.first))
        # A surplus is less by no more than what moved of its reach, and that is no more times larger.
        return np.flatnonzero(self._away[: self._rows] <= share * (1 + moved) + moved)

    def away(self, book: Snapshot, marks: Marks, rows: Rows) -> Floats:
        """Return how far each of some rows is from breach at some marks [r].

        That is how far all prices may move together until it cannot be cleared, as a share of them: endless
        where no move does it, no more than 0 where it cannot be now, NaN of whom nothing is known.
        """
        held, terms = self._take(book, marks)
        away = np.empty(self._rows, np.float32)
        if len(rows):
            self._measure(held, terms, terms.units(), rows.astype(np.int32), away)
        return away[rows].astype(np.float64)

    # --- what has changed ---

    def _take(self, book: Snapshot, marks: Marks) -> tuple[Held, Terms]:
        """Make room for a book, and bring it and some marks into shape."""
        rows, had = len(book), len(self._away)
        if rows > had:
            away = np.full(rows + rows // 8, np.inf, np.float32)
            away[:had] = self._away
            self._away, self._out = away, np.empty(len(away), np.int32)
        if rows < self._rows:
            # Rows are listed that are there no more.
            self._known = None
        self._rows = rows
        if self._may_compile and rows >= COMPILED_FROM:
            self._loops, self._may_compile = engine(), False
        return Held.of(book), Terms.of(marks, self._loops)

    def _follow(self, held: Held, terms: Terms, changed: Rows | None) -> None:
        """Find out how far away those are that changed; forget all where that is too many."""
        known = self._known
        if (
            known is None
            or changed is None
            or len(changed) * SHARE > self._rows
            or not terms.is_alike(known.terms)
        ):
            self._known = None
        elif len(changed):
            rows = changed.astype(np.int32)
            self._unknown -= int(np.isnan(self._away[rows]).sum())
            self._measure(held, known.terms, known.units, rows, self._away)
            self._unknown += int(np.isnan(self._away[rows]).sum())
            self._changed = np.union1d(self._changed, rows)

    def _measure(self, held: Held, terms: Terms, units: Floats, rows: Numbers, away: Singles) -> None:
        """Compute how far away some rows are, or all where none are listed."""
        count = len(rows) or self._rows
        surplus = np.empty(count)

        def part(begin: int, end: int) -> int:
            self._loops.sieve(held, terms, rows, begin, end, surplus, self._out)
            self._loops.measure(held, terms, units, rows, begin, end, surplus, away)
            return 0

        self._spread(part, count)

    # --- who is to be looked at ---

    def _reached(self, terms: Terms) -> Numbers | None:
        """Return whom prices can have brought to breach, some of them twice; None where it may be anybody."""
        known, self.is_due = self._known, True
        if known is None:
            return None
        apart = np.empty(len(terms.group))
        self._loops.apart(terms, known.terms, known.units, apart)
        most = float(apart.max(initial=0.0))
        if not most * PER < SHELVES:
            return None
        shelves, is_far = (apart * PER).astype(np.intp), apart > BOX
        far = np.flatnonzero(is_far).tolist() if most > BOX else []
        near = int(shelves[~is_far].max(initial=0)) if far else int(most * PER)
        parts = [known.listed(len(apart), 0, near)]
        parts += [known.listed(column, near + 1, int(shelves[column])) for column in far]
        if len(self._changed):
            parts.append(self._changed[self._away[self._changed] <= most])
        if sum(map(len, parts)) * SHARE > self._rows:
            return None
        self.is_due = len(far) > 0 or len(self._changed) * STALE_SHARE > self._rows
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _sift(self, held: Held, terms: Terms, rows: Numbers | None) -> tuple[Numbers, int]:
        """Return who of some rows, or of all, is not above 0; and how many are unknown in all."""
        if rows is not None and not len(rows):
            return NO_ROWS, self._unknown
        listed, unknown = NO_ROWS if rows is None else rows, list[int]()

        def part(begin: int, end: int) -> int:
            found, without = self._loops.sieve(held, terms, listed, begin, end, NOTHING, self._out)
            unknown.append(without)
            return found

        found = self._spread(part, len(listed) or self._rows)
        return np.unique(found), sum(unknown) if rows is None else self._unknown

    def _judge(self, book: Snapshot, marks: Marks, rows: Numbers | Rows, unknown: int) -> Found:
        """Let ``scores`` decide."""
        if not len(rows):
            return Found(NO_ROWS.astype(np.intp), NO_SCORES, unknown)
        scores = score(
            cash=book.cash[rows],
            positions=book.legs.dense(rows),
            marks=marks,
            classes=book.classes[rows],
        )
        worst = suspects(scores, level=marks.levels[book.classes[rows]])
        return Found(rows[worst].astype(np.intp), scores.of(worst), unknown + int(scores.unknown.sum()))

    def _spread(self, part: Callable[[int, int], int], count: int) -> Numbers:
        """Let every thread do a part of some rows, where they are many; return what they wrote."""
        if self._pool is None or count < SPREAD:
            return self._out[: part(0, count)].copy()
        edges = [count * number // self._threads for number in range(self._threads + 1)]
        parts = list(pairwise(edges))
        others = [self._pool.submit(part, *each) for each in parts[:-1]]
        counts = [part(*parts[-1])]
        counts = [*(each.result() for each in others), *counts]
        return np.concatenate(
            [self._out[begin : begin + found] for (begin, _), found in zip(parts, counts, strict=True)]
        )
