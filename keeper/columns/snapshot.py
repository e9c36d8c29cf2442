"""A book as whoever scores it sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeper.columns.keys import KeyArray
from keeper.columns.legs import Floats, Legs
from keeper.units import AccountKey


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A book as the trigger sees it: quote and units as float64, n rows and i instruments.

    ``cash`` [n] includes the quote legs, and is NaN in a row whose account has changed and was not read
    since: nobody acts on it. ``legs`` are its positions. ``classes`` [n] say by which marks and level a row
    is judged, and ``cells`` are what else the shape shows, by name. All are lent by the book, which copies a
    column before it writes to it while any view of it is still held: who lets go of a snapshot saves that.
    """

    keys: KeyArray
    classes: NDArray[np.unsignedinteger[Any]]
    cells: Mapping[str, NDArray[Any]]
    cash: Floats
    legs: Legs

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> AccountKey:
        """Return the account of a row."""
        return bytes(self.keys[row].tobytes())

    @property
    def positions(self) -> Floats:
        """The positions of all rows [n, i]: for books that are small."""
        return self.legs.dense(np.arange(len(self)))
