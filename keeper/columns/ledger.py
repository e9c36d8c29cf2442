"""The exact rows: narrow columns, and pools for what most accounts have little of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeper.columns.column import Column
from keeper.columns.keys import KeyArray, Rows
from keeper.columns.pool import Entries, Entry, Pool


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in columns [n], as exact as they came; of each run as many entries as its ``counts`` [n] say."""

    keys: KeyArray
    cells: Entries
    counts: Mapping[str, NDArray[np.uint8]]
    runs: Mapping[str, Entries]

    def __len__(self) -> int:
        return len(self.keys)


class Ledger:
    """What the contract says of the account in each row, to the last unit.

    Every row has the same ``cells``, and of each of the ``runs`` as many entries as it has, in the contract's
    order. Which account a row is of, others know.
    """

    def __init__(self, cells: Entry, runs: Mapping[str, Entry]) -> None:
        self._cells: Mapping[str, Column[Any]] = {
            name: Column(dtype, *width) for name, (dtype, *width) in cells.items()
        }
        self.runs: Mapping[str, Pool] = {name: Pool(entry) for name, entry in runs.items()}

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return one column of cells."""
        return self._cells[name].cells

    def lend(self, name: str, rows: int) -> NDArray[Any]:
        """Return one column of so many rows; it stays as it is for as long as anybody looks at it."""
        return self._cells[name].lend(rows)

    def grow(self, rows: int) -> None:
        """Make room for so many rows."""
        for column in self._cells.values():
            column.grow(rows)
        for pool in self.runs.values():
            pool.grow(rows)

    def entries(self) -> tuple[int, ...]:
        """Return how many entries there are of each run."""
        return tuple(pool.live for pool in self.runs.values())

    def reserve(self, entries: Iterable[int]) -> None:
        """Make room for so many of each, so that no pool moves while they are put in."""
        for pool, count in zip(self.runs.values(), entries, strict=True):
            pool.reserve(count)

    def put(self, rows: Rows, page: Page) -> None:
        """Write a page into some rows, none of them twice."""
        for name, column in self._cells.items():
            column.own[rows] = page.cells[name]
        for name, pool in self.runs.items():
            pool.put(rows, page.counts[name], page.runs[name])

    def remove(self, rows: Rows, holes: Rows, movers: Rows) -> None:
        """Take some rows away, and move others into the holes that are to be filled."""
        for pool in self.runs.values():
            pool.clear(rows)
            pool.move(movers, holes)
        for column in self._cells.values():
            column.own[holes] = column.cells[movers]

    def page(self, keys: KeyArray, rows: Rows) -> Page:
        """Return some rows as ``put`` takes them."""
        taken = {name: pool.take(rows) for name, pool in self.runs.items()}
        return Page(
            keys=keys,
            cells={name: column.cells[rows] for name, column in self._cells.items()},
            counts={name: counts for name, (_, counts) in taken.items()},
            runs={name: entries for name, (entries, _) in taken.items()},
        )
