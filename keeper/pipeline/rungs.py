"""The rungs below suspicion: a column beside the book's rows, brought up to date at every head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from keeper.columns.keys import Rows
from keeper.columns.snapshot import Snapshot
from keeper.ladder import Bounds, Climb, Rung
from keeper.pipeline.mirror import GROUP, Mirror
from keeper.pipeline.moment import Moment
from keeper.pipeline.params import Params
from keeper.pipeline.turns import Turns
from keeper.ports import Market
from keeper.risk.marks import Marks
from keeper.risk.netting import Floats
from keeper.trigger import Trigger, score
from keeper.units import AccountKey, UnixS

MarketT = TypeVar("MarketT", bound=Market[Any, Any])
CYCLE = 11
"""Heads within which every account on a rung is read again, where accounts change with time alone.

A prime: whoever sees only every other block comes round too.
"""
SLICE = 8_192
"""Rows that are scored in one go: a few milliseconds of the loop's time."""


def moved(
    rungs: NDArray[np.uint8],
    calm_s: NDArray[np.int64],
    health: Floats,
    sigmas: Floats,
    at_s: UnixS,
    climb: Climb,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the rungs of some rows at a head, and since when what leads down has held, 0 where it does not.

    Up at once, and as far as the bounds say; down a rung at a time, after the time that it takes. Where a
    health is not known nothing moves.
    """
    known = ~np.isnan(health) & ~np.isnan(sigmas)
    up = np.where(_reaches(climb.watch, health, sigmas), Rung.WATCH, Rung.NORMAL)
    up[_reaches(climb.call, health, sigmas)] = Rung.MARGIN_CALL
    now = np.where(known, np.maximum(rungs, up), rungs).astype(np.uint8)
    since = np.zeros_like(calm_s)
    for rung in (Rung.MARGIN_CALL, Rung.WATCH):
        bounds = climb.of(rung)
        assert bounds is not None
        here = (rungs == rung) & (now == rung)
        leaves = here & known & ((health >= bounds.leave_health) | (sigmas > bounds.leave_sigmas))
        since[leaves] = np.where(calm_s[leaves] == 0, at_s, calm_s[leaves])
        due = leaves & (at_s - since >= bounds.leave_after_s)
        now[due], since[due] = rung - 1, 0
        since[here & ~known] = calm_s[here & ~known]
    return now, since


def _reaches(bounds: Bounds, health: Floats, sigmas: Floats) -> NDArray[np.bool_]:
    reaches: NDArray[np.bool_] = (health < bounds.health) & (sigmas < bounds.sigmas)
    return reaches


class Rungs(Generic[MarketT]):
    """Says of every account whether it is watched or called; decides nothing.

    Everything follows from the book, prices and time. A restart forgets since when somebody has been calm,
    and who was watched beyond the bounds that lead up; whoever was called still is.
    """

    def __init__(self, mirror: Mirror[MarketT], *, trigger: Trigger, params: Params) -> None:
        self._mirror = mirror
        self._trigger = trigger
        self._params = params
        self._climb = params.climb
        self._rungs = np.zeros(0, np.uint8)
        """[n], as many rows as the book has room for; its rows stay where they are."""
        self._calm_s = np.zeros(0, np.int64)
        self._breached = 0
        """Rows at ``MARGIN_CALL`` that are beyond it."""
        self._sigmas: Floats = np.zeros(0)
        self._of: Rows = np.zeros(0, np.intp)
        """The rows that were looked at last, in order, and how far each is from breach."""

    async def look(self, moment: Moment, day: float) -> Rows:
        """Bring the column up to date at a head; ``day`` is a standard deviation of a day's move.

        Return who is at ``MARGIN_CALL``, the nearest to breach first.
        """
        book, mirror, at_s = self._mirror.book.freeze(), self._mirror, moment.at.timestamp_s
        self._grow(len(book))
        marks = mirror.market.marks(mirror.world, moment.quotes, at_s)
        farthest = max(self._climb.watch.sigmas, self._climb.call.sigmas) * day
        near = self._trigger.within(book, marks, farthest)
        rows = np.union1d(near, np.flatnonzero(self._rungs[: len(book)] != Rung.NORMAL))
        turns = Turns()
        self._of, self._sigmas, self._breached = rows, self._trigger.away(book, marks, rows) / day, 0
        for some in _slices(len(rows)):
            self._score(book, marks, rows[some], self._sigmas[some], at_s)
            await turns.pass_on()
        called = np.flatnonzero(self._rungs[rows] == Rung.MARGIN_CALL)
        nearest: Rows = rows[called[np.argsort(self._sigmas[called], kind="stable")]]
        return nearest

    def _score(self, book: Snapshot, marks: Marks, rows: Rows, sigmas: Floats, at_s: UnixS) -> None:
        """Move some rows."""
        health = health_of(book, marks, rows)
        now, since = moved(self._rungs[rows], self._calm_s[rows], health, sigmas, at_s, self._climb)
        self._rungs[rows], self._calm_s[rows] = now, since
        self._breached += int(((now == Rung.MARGIN_CALL) & (health < 1)).sum())

    def seed(self, accounts: Iterable[AccountKey]) -> None:
        """Put back where they were those whose cases the journal holds, at the first head after a start."""
        self._grow(len(self._mirror.book))
        rows = self._mirror.book.rows_of(tuple(accounts))
        self._rungs[rows] = np.maximum(self._rungs[rows], Rung.MARGIN_CALL)

    def of(self, account: AccountKey) -> Rung:
        """Return the rung of one account, as of the last head."""
        rows = self._mirror.book.rows_of([account])
        return Rung(int(self._rungs[rows[0]])) if len(rows) and rows[0] < len(self._rungs) else Rung.NORMAL

    def below_call(self, accounts: Sequence[AccountKey]) -> list[AccountKey]:
        """Return those of some accounts that stand below ``MARGIN_CALL``; who was not read yet is none."""
        rows = self._mirror.book.rows(accounts)
        known = np.flatnonzero((rows >= 0) & (rows < len(self._rungs)))
        below = known[self._rungs[rows[known]] < Rung.MARGIN_CALL]
        return [accounts[number] for number in below.tolist()]

    def sigmas(self, account: AccountKey) -> float:
        """Return how far one account is from breach; infinity where that was not looked at."""
        for row in self._mirror.book.rows_of([account]).tolist():
            at = int(np.searchsorted(self._of, row))
            if at < len(self._of) and self._of[at] == row:
                return float(self._sigmas[at])
        return float("inf")

    async def refresh(self, moment: Moment) -> None:
        """Read again, in turn, those who are on a rung, where accounts change with time alone.

        So many at a head, and the nearest to breach of those whose turn it is.
        """
        if not self._mirror.market.drifts:
            return
        rows = np.flatnonzero(self._rungs[: len(self._mirror.book)])
        turn = rows[rows % CYCLE == moment.head.number % CYCLE]
        order = np.argsort(self._sigmas[np.searchsorted(self._of, turn)], kind="stable")
        book = self._mirror.book.freeze()
        keys = [book.key(row) for row in turn[order][: self._params.page * GROUP].tolist()]
        del book
        if keys:
            await self._mirror.read_again(keys, moment.head)

    @property
    def counts(self) -> dict[Rung, int]:
        """How many accounts stand on each rung of the column; who is in breach is counted by its case."""
        of = np.bincount(self._rungs[: len(self._mirror.book)], minlength=Rung.MARGIN_CALL + 1).tolist()
        of[Rung.MARGIN_CALL] -= self._breached
        return {Rung(number): of[number] for number in range(Rung.MARGIN_CALL + 1)}

    def _grow(self, rows: int) -> None:
        had = len(self._rungs)
        if rows > had:
            more = rows + rows // 8
            self._rungs = np.concatenate([self._rungs, np.zeros(more - had, np.uint8)])
            self._calm_s = np.concatenate([self._calm_s, np.zeros(more - had, np.int64)])


def health_of(book: Snapshot, marks: Marks, rows: Rows) -> Floats:
    """Return E over level x M of some rows: 1 is where the trigger suspects; NaN where it is not known."""
    classes = book.classes[rows]
    scores = score(cash=book.cash[rows], positions=book.legs.dense(rows), marks=marks, classes=classes)
    with np.errstate(divide="ignore", invalid="ignore"):
        health: Floats = scores.equity / (marks.levels[classes] * scores.requirement)
    health[(scores.requirement == 0) & (scores.equity >= 0)] = np.inf
    health[scores.unknown] = np.nan
    return health


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, start + SLICE) for start in range(0, count, SLICE))
