"""Whether the mirror is what the chain says: every account in its turn, integer for integer; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from keeper.columns.shape import RowT
from keeper.domain import Unknown
from keeper.state.book import Book
from keeper.units import AccountKey


@dataclass(frozen=True, slots=True)
class Difference(Generic[RowT]):
    """An account that the chain has otherwise, although no event had said so."""

    mirror: RowT
    chain: RowT


class Audit:
    """Goes through the rows round and round, and knows since when it has found nothing.

    One difference puts the whole book in doubt, for whatever has hidden that event may have hidden others:
    ``degraded`` says so until a whole round has found no further one.
    """

    def __init__(self, first_row: int = 0, degraded: str | None = None) -> None:
        self.degraded = degraded
        """What was found last; None while the mirror is believed."""
        self.checked = 0
        self.differences = 0
        self._row = first_row
        self._clean = 0
        """Accounts checked since the last difference."""

    def sample(self, book: Book[RowT], most: int) -> tuple[AccountKey, ...]:
        """Return the accounts whose turn it is, at most so many, each once."""
        if len(book) == 0:
            return ()
        keys, first = book.keys, self._row % len(book)
        taken = keys[first : first + most].tolist()
        taken += keys[: min(first, most - len(taken))].tolist()
        self._row = first + len(taken)
        return tuple(taken)

    def compare(self, book: Book[RowT], page: bytes) -> Sequence[Difference[RowT]]:
        """Hold rows against the book, both of one block; what is dirty there says nothing."""
        found = []
        for chain in book.read(page):
            mirror = book.exact(chain.key)
            if not isinstance(mirror, Unknown):
                self.checked += 1
                self._clean += 1
                if not book.alike(mirror, chain):
                    found.append(Difference(mirror, chain))
        if found:
            self._clean = 0
            self.differences += len(found)
            self.degraded = f"{len(found)} accounts differed, the first is 0x{found[0].chain.key.hex()}"
        elif self._clean >= len(book):
            self.degraded = None
        return found
