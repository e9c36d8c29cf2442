"""Ragged rows: how many legs an account has differs, and memory is taken for those that there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from keeper.columns.column import Column
from keeper.columns.keys import NOBODY, Rows

Entry: TypeAlias = Mapping[str, tuple[Any, ...]]
"""The columns of an entry by name: the dtype, and how many cells one has where it is not one."""
Entries: TypeAlias = Mapping[str, NDArray[Any]]
"""Columns of entries by name, the runs of some rows one after another."""


class Pool:
    """Each row has a run of entries, in the order in which they were given.

    A run that grows moves to the end and leaves a hole; when there is no room left and the holes are a
    quarter, they are closed.
    """

    def __init__(self, entry: Entry) -> None:
        self._first: Column[np.uint32] = Column(np.uint32)
        self._counts: Column[np.uint8] = Column(np.uint8)
        self._owners: Column[np.int32] = Column(np.int32)
        self._columns: Mapping[str, Column[Any]] = {
            name: Column(dtype, *width) for name, (dtype, *width) in entry.items()
        }
        self._end = 0
        self.live = 0
        """How many entries some row has."""

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return one column of entries, holes and all; ``run`` and ``runs`` say which are whose."""
        return self._columns[name].cells

    def grow(self, rows: int) -> None:
        """Make room for so many rows; the new ones are empty."""
        self._first.grow(rows)
        self._counts.grow(rows)

    def reserve(self, entries: int) -> None:
        """Make room for so many entries."""
        for column in (self._owners, *self._columns.values()):
            column.grow(entries)

    def put(self, rows: Rows, counts: NDArray[np.uint8], entries: Entries) -> None:
        """Replace the runs of some rows, none of them twice."""
        if not (counts.any() or self._counts.cells[rows].any()):
            return
        longer = counts > self._counts.cells[rows]
        self._make_room(int(counts[longer].sum(dtype=np.intp)))
        at, before = self.runs(rows)
        self._owners.own[at] = NOBODY
        self.live += int(counts.sum(dtype=np.intp)) - int(before.sum(dtype=np.intp))
        ends = self._end + np.cumsum(counts[longer], dtype=np.intp)
        self._first.own[rows[longer]] = ends - counts[longer]
        self._counts.own[rows] = counts
        self._end = int(ends[-1]) if ends.size else self._end
        at, _ = self.runs(rows)
        self._owners.own[at] = np.repeat(rows, counts)
        for name, column in self._columns.items():
            column.own[at] = entries[name]

    def move(self, rows: Rows, to: Rows) -> None:
        """Give the runs of some rows to others, which have none."""
        at, counts = self.runs(rows)
        self._owners.own[at] = np.repeat(to, counts)
        self._first.own[to] = self._first.cells[rows]
        self._counts.own[to] = counts
        self._counts.own[rows] = 0

    def renumber(self, name: str, numbers: NDArray[Any], chunk: int) -> None:
        """Put ``numbers[old]`` in the place of every number in a column, so many at a time."""
        column = self._columns[name].own
        for first in range(0, self._end, chunk):
            part = column[first : min(first + chunk, self._end)]
            part[:] = numbers[part]

    def lend(self, rows: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8], Entries]:
        """Return where the runs of so many rows begin, how long they are, and all entries, holes and all.

        They stay as they are for as long as anybody looks at them.
        """
        entries = {name: column.lend(self._end) for name, column in self._columns.items()}
        return self._first.lend(rows), self._counts.lend(rows), entries

    def clear(self, rows: Rows) -> None:
        """Take the entries of some rows away."""
        at, counts = self.runs(rows)
        self._owners.own[at] = NOBODY
        self._counts.own[rows] = 0
        self.live -= int(counts.sum(dtype=np.intp))

    def run(self, row: int) -> slice:
        """Return where the entries of a row are."""
        first = int(self._first.cells[row])
        return slice(first, first + int(self._counts.cells[row]))

    def runs(self, rows: Rows) -> tuple[Rows, NDArray[np.uint8]]:
        """Return where the entries of some rows are, one after another, and how many each row has."""
        counts = self._counts.cells[rows]
        return ranges(self._first.cells[rows].astype(np.intp), counts), counts

    def take(self, rows: Rows) -> tuple[Entries, NDArray[np.uint8]]:
        """Return the entries of some rows as ``put`` takes them."""
        at, counts = self.runs(rows)
        return {name: column.cells[at] for name, column in self._columns.items()}, counts

    def owners(self, name: str, wanted: NDArray[np.bool_]) -> Rows:
        """Return the rows, in order, with an entry whose number in a column is among those wanted."""
        hits = wanted.take(self._columns[name].cells[: self._end])
        found = self._owners.cells[: self._end][hits]
        having = np.zeros(len(self._counts), np.bool_)
        having[found[found != NOBODY]] = True
        return np.flatnonzero(having)

    def _make_room(self, entries: int) -> None:
        if self._end + entries > len(self._owners) and 4 * (self._end - self.live) > self._end:
            self._close_holes()
        self.reserve(self._end + entries)

    def _close_holes(self) -> None:
        kept = np.flatnonzero(self._owners.cells[: self._end] != NOBODY)
        for column in (self._owners, *self._columns.values()):
            column.own[: len(kept)] = column.cells[kept]
        self._end = len(kept)
        owners = self._owners.cells[: self._end]
        begins = np.flatnonzero(np.diff(owners, prepend=NOBODY))
        self._first.own[owners[begins]] = begins


def places(counts: NDArray[np.uint8]) -> Rows:
    """Number the entries of every run from 0: [2, 3] makes 0 1 0 1 2."""
    return ranges(np.zeros(len(counts), np.intp), counts)


def ranges(first: Rows, counts: NDArray[np.uint8]) -> Rows:
    """Count up from the first number of every run."""
    ends = np.cumsum(counts, dtype=np.intp)
    return np.arange(ends[-1] if ends.size else 0) + np.repeat(first + counts - ends, counts)
