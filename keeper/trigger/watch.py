"""The trigger between two heads: what it knows of every account, and what a tick of prices changes in it.

It holds for every account a surplus at some marks (``terms``) and a *reach*: how much of it hangs on prices.
No joint move of all marks by a share m can take more than m times its reach from an account, so that a tick
looks only at those that are near enough, and where a column moved farther than the *box* is wide, at those
that hold it; or at all, where that is cheaper. What it cannot clear ``scores`` judges, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from keeper.columns.column import zeros
from keeper.columns.legs import Floats
from keeper.columns.snapshot import Snapshot
from keeper.risk.marks import Marks
from keeper.trigger.engine import Engine, Numbers, engine
from keeper.trigger.scores import Rows, Scores, score, suspects
from keeper.trigger.terms import AT_REST, Held, Terms

BOX = 0.02
"""How far marks move until the accounts beyond are looked at again."""
SHARE = 8
"""One over the share of a book from which on a pass over all of it is cheaper."""
STALE_SHARE = 64
"""One over the share of a book whose changes make an index worth building again."""
COMPILED_FROM = 10_000
"""Rows from which on compiled loops are worth a second of loading them."""
SHIFTS = 1_000
"""So many ticks may move surpluses before all are computed anew: each rounds them once more."""
THREADS = 2
SPREAD = 2**15
"""Rows whose legs are to be added up that are worth a second thread,"""
SPREAD_SHIFT = 2**18
"""and rows that only shift."""
NO_ROWS: Numbers = np.zeros(0, np.int32)
NOTHING, NEVER = np.zeros(0), np.zeros(0, np.bool_)
NO_SCORES = Scores(NOTHING, NOTHING, NOTHING, NEVER, NEVER)


@dataclass(frozen=True, slots=True)
class Found:
    """The suspects of one tick, the most endangered first, and how they were scored [r]."""

    rows: Rows
    scores: Scores
    unknown: int
    """How many accounts hold something without a price, or wait to be read."""


@dataclass(slots=True)
class Index:
    """The legs of a book by column, as they were when it was built."""

    starts: NDArray[np.int64]
    rows: Numbers
    sizes: Floats
    stale: NDArray[np.bool_]
    """[n], which rows have changed since: what is said of them here counts no more. Empty where none have."""
    changed: Numbers
    """Those rows."""


class Trigger:
    """Finds at every tick all accounts that cannot be cleared: exactly those that ``scores`` finds."""

    def __init__(self, *, loops: Engine | None = None, box: float = BOX, threads: int = THREADS) -> None:
        self._loops = loops or engine(compiled=False)
        self._may_compile = loops is None
        self._box = box
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "trigger") if threads > 1 else None
        self._terms: Terms | None = None
        """The marks at which the surpluses hold."""
        self._units: Floats = np.zeros((0, 0))
        self._state: Floats = np.zeros((0, 2))
        """[n, 2], surplus and reach of every row."""
        self._near: Numbers = NO_ROWS
        """The rows within the box, in no order."""
        self._unknown = 0
        self._suspects: Rows = NO_ROWS.astype(np.intp)
        """Those of the last tick."""
        self._index: Index | None = None
        self._out: Numbers = NO_ROWS
        self._rows = self._shifts = 0

    def tick(self, book: Snapshot, marks: Marks, changed: Rows | None) -> Found:
        """Return all suspects at some marks; ``changed`` are the rows written to since, None all of them."""
        self._grow(len(book))
        if self._may_compile and len(book) >= COMPILED_FROM:
            self._loops, self._may_compile = engine(), False
        held, terms = Held.of(book), Terms.of(marks, self._loops)
        moved = self._follow(held, terms, changed)
        candidates = self._whole(held, terms) if moved is None else self._sift(held, terms, moved)
        found = self._judge(book, marks, candidates)
        self._suspects = found.rows
        return found

    def warm_up(self, book: Snapshot, accounts: int) -> None:
        """Compile the loops for a book like this one, where so many accounts are worth some seconds."""
        if not self._may_compile or accounts < COMPILED_FROM:
            return
        self._loops, self._may_compile = engine(), False
        held, few, state = Held.of(book), np.zeros(1, np.int32), np.zeros((1, 2))
        one, none = np.ones(1), np.zeros(0)
        terms = Terms.of(Marks(one, one, one), self._loops)
        for each in (terms, terms._replace(risk=np.zeros((1, 1)))):
            self._loops.sieve(held, each, NO_ROWS, 0, 0, state, 0.0, True, few)
        self._loops.measure(held, terms.units(), NO_ROWS, 0, 0, state)
        self._loops.shift(NO_ROWS, none, held.classes, state, NEVER, state, 0.0, 0, 0, few)
        self._loops.within(NO_ROWS, state, 0.0, few)
        self._loops.apart(terms, terms, terms.units(), one.copy())
        nobody = held._replace(first=held.first[:0], counts=held.counts[:0])
        self._loops.index(nobody, 1, np.zeros(2, np.int64), NO_ROWS.copy(), none.copy())

    def prepare(self, book: Snapshot) -> None:
        """Get ready for ticks, after a head and off their path: bring the index up to date."""
        index = self._index
        if index is None or len(index.changed) * STALE_SHARE > len(book):
            held, width, legs = Held.of(book), book.legs.width, int(book.legs.counts.sum(dtype=np.int64))
            index = Index(
                np.zeros(width + 1, np.int64),
                np.empty(legs, np.int32),
                np.empty(legs),
                np.zeros(0, np.bool_),
                NO_ROWS,
            )
            self._loops.index(held, width, index.starts, index.rows, index.sizes)
            self._index = index

    def nearest(self, count: int) -> Rows:
        """Return the accounts nearest to breach by their reach that are no suspects, the nearest first."""
        rows = self._near[self._is_known(self._near)]
        if len(rows) < count:
            rows = np.flatnonzero(self._is_known(slice(self._rows))).astype(np.int32)
        away = self._state[rows, 0] / self._state[rows, 1]
        if count < len(rows):
            some = away <= np.partition(away, count)[count]
            rows, away = rows[some], away[some]
        nearest: Rows = rows[np.argsort(away, kind="stable")][:count].astype(np.intp)
        return nearest

    def _is_known(self, rows: Numbers | slice) -> NDArray[np.bool_]:
        """Tell whom prices could bring to breach, and have not at the last tick."""
        surplus, reach = self._state[rows].T
        suspect = np.zeros(self._rows, np.bool_)
        suspect[self._suspects] = True
        known: NDArray[np.bool_] = (np.abs(surplus) < AT_REST) & (reach > 0) & ~suspect[rows]
        return known

    # --- what has changed ---

    def _follow(self, held: Held, terms: Terms, changed: Rows | None) -> float | None:
        """Bring surpluses up to the book and near the marks; return how far these are from them now.

        None where a pass over the whole book is due.
        """
        then, rows = self._terms, len(held.first)
        fewer, self._rows = rows < self._rows, rows
        if fewer:
            # Whoever comes there later was not unknown before.
            self._state[rows:, 0] = AT_REST
        if (
            then is None
            or changed is None
            or fewer
            or len(changed) * SHARE > rows
            or not terms.is_alike(then)
        ):
            self._terms = self._index = None
            return None
        apart = np.empty(len(terms.group))
        self._loops.apart(terms, then, self._units, apart)
        self._take_changes(held, then, changed.astype(np.int32))
        if not np.isfinite(apart).all():
            # Measured anew, too: what had no price had no reach, and would be far away at every tick.
            self._terms = None
            return None
        far = np.flatnonzero(apart > self._box)
        if len(far) and not self._move(held, terms, far):
            return None
        apart[far] = 0.0
        return float(apart.max(initial=0.0))

    def _take_changes(self, held: Held, then: Terms, rows: Numbers) -> None:
        """Compute anew what is known of rows that were written to."""
        if not len(rows):
            return
        self._unknown -= int(np.isnan(self._state[rows, 0]).sum())
        self._loops.measure(held, self._units, rows, 0, len(rows), self._state)
        self._unknown += self._pass(held, then, rows, len(rows))
        if self._index is not None:
            stale = np.zeros(len(held.first), np.bool_)
            stale[: len(self._index.stale)] = self._index.stale[: len(stale)]
            self._index.changed = np.concatenate([self._index.changed, rows[~stale[rows]]])
            stale[rows] = True
            self._index.stale = stale

    def _move(self, held: Held, terms: Terms, columns: Rows) -> bool:
        """Bring the surpluses of all who hold some columns up to the new marks, unless that is too many."""
        index, then = self._index, self._terms
        if index is None or then is None:
            return False
        runs = [slice(int(index.starts[each]), int(index.starts[each + 1])) for each in columns]
        touched = sum(run.stop - run.start for run in runs)
        linear = not terms.risk.shape[1]
        if (touched if linear else 2 * touched) > len(held.first) or self._shifts == SHIFTS:
            return False
        self._shifts += linear
        codes = np.concatenate([2 * columns, 2 * columns + 1])
        gains = (terms.net[:, codes] - then.net[:, codes]).reshape(-1, 2, len(columns)) if linear else None
        then.net[:, codes], then.alone[codes] = terms.net[:, codes], terms.alone[codes]
        then.risk[columns] = terms.risk[columns]
        for number, run in enumerate(runs):
            if gains is None:
                self._pass(held, then, index.rows[run], run.stop - run.start)
            else:
                self._shift(held, index, run, gains[:, :, number].copy())
        if len(index.changed):
            self._pass(held, then, index.changed, len(index.changed))
        return True

    def _shift(self, held: Held, index: Index, run: slice, delta: Floats) -> None:
        rows, sizes, stale = index.rows[run], index.sizes[run], index.stale

        def part(begin: int, end: int) -> int:
            return self._loops.shift(
                rows, sizes, held.classes, delta, stale, self._state, self._box, begin, end, self._out
            )

        self._add_near(self._spread(part, len(rows), SPREAD_SHIFT))

    # --- who is to be looked at ---

    def _whole(self, held: Held, terms: Terms) -> Numbers:
        """Compute every surplus anew, at new marks; return who is not above 0."""
        rows = len(held.first)
        if self._terms is None:
            self._units = terms.units()
            self._loops.measure(held, self._units, NO_ROWS, 0, rows, self._state)
        self._near, self._shifts = NO_ROWS, 0
        # Kept apart from the marks, for it is brought up column by column.
        self._terms = terms._replace(risk=terms.risk.copy(), alone=terms.alone.copy())
        self._unknown = self._pass(held, terms, NO_ROWS, rows)
        return self._within(0.0)

    def _sift(self, held: Held, terms: Terms, moved: float) -> Numbers:
        """Return who is not above 0, among those whom so small a move may have brought there."""
        rows = self._within(moved)
        if not len(rows):
            return NO_ROWS
        if len(rows) * SHARE > len(held.first):
            return self._whole(held, terms)
        found, _ = self._loops.sieve(held, terms, rows, 0, len(rows), self._state, 0.0, False, self._out)
        return self._out[:found].copy()

    def _within(self, bar: float) -> Numbers:
        if not len(self._near):
            return NO_ROWS
        found = self._loops.within(self._near, self._state, bar, self._out)
        return self._out[:found].copy()

    def _judge(self, book: Snapshot, marks: Marks, rows: Numbers) -> Found:
        """Let ``scores`` decide."""
        if not len(rows):
            return Found(NO_ROWS.astype(np.intp), NO_SCORES, self._unknown)
        scores = score(
            cash=book.cash[rows],
            positions=book.legs.dense(rows),
            marks=marks,
            classes=book.classes[rows],
        )
        worst = suspects(scores, level=marks.levels[book.classes[rows]])
        unknown = self._unknown + int(scores.unknown.sum())
        return Found(rows[worst].astype(np.intp), scores.of(worst), unknown)

    # --- how ---

    def _pass(self, held: Held, terms: Terms, rows: Numbers, count: int) -> int:
        """Compute surpluses and keep them, add who lies in the box to the near ones; count the unknown."""
        unknown = list[int]()

        def part(begin: int, end: int) -> int:
            found, without = self._loops.sieve(
                held, terms, rows, begin, end, self._state, self._box, True, self._out
            )
            unknown.append(without)
            return found

        self._add_near(self._spread(part, count, SPREAD))
        return sum(unknown)

    def _spread(self, part: Callable[[int, int], int], count: int, least: int) -> Numbers:
        """Let every thread do a part of some rows, from so many on; return what they wrote."""
        if self._pool is None or count < least:
            return self._out[: part(0, count)].copy()
        edges = [count * number // self._threads for number in range(self._threads + 1)]
        parts = list(pairwise(edges))
        others = [self._pool.submit(part, *each) for each in parts[:-1]]
        counts = [part(*parts[-1])]
        counts = [*(each.result() for each in others), *counts]
        return np.concatenate(
            [self._out[begin : begin + found] for (begin, _), found in zip(parts, counts, strict=True)]
        )

    def _add_near(self, rows: Numbers) -> None:
        """Put rows to the near ones, none of them twice."""
        if not len(self._near):
            self._near = rows
        elif len(rows):
            self._near = np.union1d(self._near, rows).astype(np.int32)

    def _grow(self, rows: int) -> None:
        """Make room for so many rows."""
        had = len(self._state)
        if rows > had:
            state = zeros((rows + rows // 8, 2), self._state.dtype)
            state[:, 0] = AT_REST
            state[:had] = self._state
            self._state, self._out = state, np.empty(len(state), np.int32)
