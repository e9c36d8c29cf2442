"""Positions as the trigger reads them: float64, and of each row only those that it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from keeper.columns.keys import Rows
from keeper.columns.pool import Entries, Entry, ranges

Floats: TypeAlias = NDArray[np.float64]

ENTRY: Entry = {"code": (np.uint16,), "size": (np.float64,)}
"""A leg: twice its column, and 1 more where the size is below 0: what is charged hangs on the sign."""
MOST_COLUMNS = 2**15


@dataclass(frozen=True, slots=True)
class Twins:
    """What some rows [n] hold in float64, each value rounded once."""

    cash: Floats
    """[n], in quote."""
    of: Rows
    """[legs], which of the rows a leg is of, in any order."""
    columns: Rows
    """[legs], none twice in one row."""
    sizes: Floats
    """[legs], in units; those of 0 are left out."""

    def runs(self, width: int) -> tuple[NDArray[np.uint8], Entries]:
        """Return how many legs each row has, and all of them as ``ENTRY``, row by row and by column."""
        held = np.flatnonzero(self.sizes != 0)
        held = held[np.argsort(self.of[held] * width + self.columns[held], kind="stable")]
        sizes = self.sizes[held]
        counts = np.bincount(self.of[held], minlength=len(self.cash)).astype(np.uint8)
        codes = (2 * self.columns[held] + (sizes < 0)).astype(np.uint16)
        return counts, {"code": codes, "size": sizes}


@dataclass(frozen=True, slots=True)
class Legs:
    """The legs of a book, as they lie in memory: those of row r are [first[r], first[r] + counts[r])."""

    first: NDArray[np.uint32]
    """[n]"""
    counts: NDArray[np.uint8]
    """[n]"""
    codes: NDArray[np.uint16]
    """[legs], as in ``ENTRY``, in every row by column."""
    sizes: Floats
    """[legs]"""
    width: int
    """How many columns there are."""

    def __len__(self) -> int:
        return len(self.first)

    def at(self, rows: NDArray[np.integer[Any]]) -> tuple[Rows, NDArray[np.uint8]]:
        """Return where the legs of some rows are, one after another, and how many each row has."""
        counts = self.counts[rows]
        return ranges(self.first[rows].astype(np.intp), counts), counts

    def dense(self, rows: NDArray[np.integer[Any]]) -> Floats:
        """Return the positions of some rows [k, width]."""
        at, counts = self.at(rows)
        positions = np.zeros((len(counts), self.width))
        positions[np.repeat(np.arange(len(counts)), counts), self.codes[at] >> 1] = self.sizes[at]
        return positions
