"""The trigger between two heads: what it knows of every account, and what a tick of prices changes in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keeper.columns.snapshot import Snapshot
from keeper.risk.marks import Marks
from keeper.trigger.scores import Scores, score, suspects

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Found:
    """The suspects of one tick, the most endangered first, and how they were scored [r]."""

    rows: Rows
    scores: Scores
    unknown: int
    """How many accounts hold something without a price."""


class Trigger:
    """Finds at every tick all accounts that cannot be cleared."""

    def tick(self, book: Snapshot, marks: Marks, changed: Rows | None) -> Found:
        """Return all suspects at some marks; ``changed`` are the rows written to since, None all of them."""
        del changed
        scores = score(cash=book.cash, positions=book.positions, marks=marks, classes=book.classes)
        rows = suspects(scores, level=marks.levels[book.classes])
        self._distance = (scores.equity - marks.levels[book.classes] * scores.requirement) / scores.margin
        return Found(rows, scores.of(rows), int(scores.unknown.sum()))

    def prepare(self, book: Snapshot) -> None:
        """Get ready for ticks, after a head and off their path."""

    def nearest(self, count: int) -> Rows:
        """Return the accounts nearest to breach that are not suspects, the nearest first."""
        order = np.argsort(self._distance, kind="stable")
        clear: Rows = order[self._distance[order] > 1]
        return clear[:count]
