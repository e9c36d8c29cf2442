"""The mirror: every account of one deployment in columns, exact, with float64 twins for the trigger.

The exact integers are the truth (``columns.ledger``), a page of rows is written into them by numpy without
looking at any account, and no account is a Python object until somebody asks for it. The twins are derived, a
leg for every position (``columns.legs``). What a row is made of the protocol says (``columns.shape``).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic

import numpy as np

from keeper.columns.column import Column
from keeper.columns.keys import NOBODY, KeyArray, Keys, Rows, key_array
from keeper.columns.ledger import Ledger, Page
from keeper.columns.legs import ENTRY, MOST_COLUMNS, Legs
from keeper.columns.pool import Pool
from keeper.columns.shape import RowT, Shape, rows_of
from keeper.columns.snapshot import Snapshot
from keeper.domain import Head, Unknown
from keeper.errors import ChainFault
from keeper.state import archive
from keeper.state.archive import Stamp
from keeper.units import AccountKey, Block

REMEMBERED_BLOCKS = 256
"""How many blocks back it is known which accounts each touched."""
EXACT = 1024
"""Accounts whose exact state is kept as objects: some are asked for at every tick."""
CHUNK = 2**16
"""Rows that are derived or written to disk at a time: what that takes in between stays small."""
NO_ROWS: Rows = np.zeros(0, np.intp)


class Book(Generic[RowT]):
    """The accounts of one deployment, in the shape of its rows.

    Facts make accounts dirty; folding the rows read anew makes them clean. A reorg makes dirty whatever the
    orphaned blocks had touched.
    """

    def __init__(self, shape: Shape[RowT]) -> None:
        self._shape = shape
        self._names = _names(shape)
        self._keys = Keys()
        self._ledger = Ledger(shape.cells, shape.runs)
        self._cash: Column[np.float64] = Column(np.float64)
        self._legs = Pool(ENTRY)
        self._dirty: dict[AccountKey, None] = {}
        self._touched: dict[Block, set[AccountKey]] = {}
        self._complete_after: Block = 0
        self._changed: list[Rows] | None = None
        """Rows that were written to since somebody asked; None where it is all of them."""
        self._exact: dict[AccountKey, RowT] = {}
        """What was read out of the columns since anything was written to them,"""
        self._frozen: Snapshot | None = None
        """and the columns as they were lent since."""

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: AccountKey) -> bool:
        return self._row(key) != NOBODY

    @property
    def keys(self) -> KeyArray:
        """Every account, in the order of the rows."""
        return self._keys.lend()

    def relist(self, shape: Shape[RowT]) -> None:
        """Give every listed instrument its column; the accounts stay as they were read.

        Fewer than before are listed only where a reorg took a listing back: then it took back, and made
        dirty, whatever held a position there. Raises ChainFault, and changes nothing, where more are listed
        than legs can name.
        """
        had, names = self._names, _names(shape)
        self._forget()
        self._shape, self._names = shape, names
        if had == names:
            return
        self._changed = None
        listed = {name: at for at, name in enumerate(names)}
        gone = [at for at, name in enumerate(had) if name not in listed]
        rows = self._legs.owners("code", np.isin(np.arange(2 * len(had)) >> 1, gone))
        self._legs.clear(rows)
        codes = [2 * listed.get(name, 0) + sign for name in had for sign in (0, 1)]
        self._legs.renumber("code", np.array(codes, np.uint16), CHUNK)
        self._legs.put(rows, *shape.twins(self._ledger, rows).runs(len(listed)))

    def remove(self, keys: Iterable[AccountKey]) -> None:
        """Forget accounts, as if they had never been read: the last rows take the places of theirs.

        For those that hold nothing any more: an event or a reorg of what is remembered brings them back, but
        a reorg beyond memory makes dirty only what is known. A mark stays until the account is read.
        """
        self._forget()
        rows = np.unique(self._keys.find(key_array(keys)))
        rows = rows[rows != NOBODY]
        holes, movers = self._keys.remove(rows)
        self._note_changed(holes)
        self._ledger.remove(rows, holes, movers)
        self._cash.own[holes] = self._cash.cells[movers]
        self._legs.clear(rows)
        self._legs.move(movers, holes)

    # --- what changed ---

    def mark_holders_dirty(self, market: int, block: Block) -> None:
        """Note that ``block`` touched whoever has a position in a market, and whoever may have one by now."""
        self.mark_dirty([*self.holders([market]), *self._dirty], block)

    def mark_dirty(self, keys: Iterable[AccountKey], block: Block) -> None:
        """Note that ``block`` touched some accounts, known or new: their rows must be read again."""
        keys = tuple(keys)
        self._doubt(keys)
        if block not in self._touched:
            self._complete_after = max(self._complete_after, block - REMEMBERED_BLOCKS)
            for old in [each for each in self._touched if each <= self._complete_after]:
                del self._touched[old]
        self._touched.setdefault(block, set()).update(keys)

    def unwind(self, orphaned: Sequence[Head]) -> None:
        """Make dirty what orphaned blocks touched; everything, where one is older than memory.

        Call it before marking what the adopted blocks touch: these have the same numbers.
        """
        for head in orphaned:
            if head.number <= self._complete_after:
                self._doubt(self.keys.tolist())
            self._doubt(self._touched.pop(head.number, ()))

    def _doubt(self, keys: Collection[AccountKey]) -> None:
        """Make accounts dirty; their cash is no number until they are read."""
        self._forget()
        self._dirty.update(dict.fromkeys(keys))
        rows = self._keys.find(key_array(keys))
        rows = rows[rows != NOBODY]
        self._cash.own[rows] = np.nan
        self._note_changed(rows)

    def _note_changed(self, rows: Rows) -> None:
        if self._changed is not None:
            self._changed.append(rows)

    def _forget(self) -> None:
        """Let go of what was handed out, before anything is written: what nobody else holds is not copied."""
        self._exact.clear()
        self._frozen = None

    def take_changed(self) -> Rows | None:
        """Return the rows that were written to since the last call, each once; None for all of them."""
        changed, self._changed = self._changed, []
        if changed is None:
            return None
        return np.unique(np.concatenate(changed)) if changed else NO_ROWS

    def dirty(self) -> tuple[AccountKey, ...]:
        """Return the accounts to read, oldest mark first."""
        return tuple(self._dirty)

    # --- what was read ---

    def fold_rows(self, page: bytes, block: Block) -> int:
        """Take over the answer of a bulk read at ``block``; return the number of rows.

        Raises ChainFault, and changes nothing, where the page is not a whole number of believable rows.
        """
        read = self._shape.decode(page)
        keys: list[AccountKey] = read.keys.tolist()
        if len(set(keys)) < len(keys):
            raise ChainFault("expected each account once in a page of rows, found one twice")
        rows = self._keys.find(read.keys)
        if not all(keys[new] in self._dirty for new in np.flatnonzero(rows == NOBODY)):
            # Found by looking, not by an event: what touched it before this block is not on record.
            self._complete_after = max(self._complete_after, block)
        self._put(rows, read)
        for key in keys:
            self._dirty.pop(key, None)
        return len(keys)

    def _put(self, rows: Rows, read: Page) -> None:
        """Write a page into its rows, the next ones where an account has none, and derive the twins."""
        self._forget()
        new = rows == NOBODY
        if new.any():
            rows[new] = self._keys.add(read.keys[new])
            self._grow(len(self._keys))
        self._ledger.put(rows, read)
        self._note_changed(rows)
        twins = self._shape.twins(self._ledger, rows)
        self._cash.own[rows] = twins.cash
        self._legs.put(rows, *twins.runs(len(self._names)))

    def _grow(self, rows: int) -> None:
        for each in (self._ledger, self._cash, self._legs):
            each.grow(rows)

    # --- what is known ---

    @property
    def known(self) -> int:
        """How many accounts were read, or are waiting to be read for the first time."""
        return len(self) + len(self.without_row(self.dirty()))

    def freeze(self) -> Snapshot:
        """Return the book as it is; later folds do not change what was handed out, and nothing is copied."""
        if self._frozen is None:
            self._frozen = self._lent()
        return self._frozen

    def _lent(self) -> Snapshot:
        n = len(self)
        first, counts, entries = self._legs.lend(n)
        return Snapshot(
            self.keys,
            self._ledger.lend(self._shape.classes, n),
            {name: self._ledger.lend(name, n) for name in self._shape.shown},
            self._cash.lend(n),
            Legs(first, counts, entries["code"], entries["size"], len(self._names)),
        )

    def holders(self, markets: Sequence[int]) -> tuple[AccountKey, ...]:
        """Return the accounts that had a position in one of some markets when they were last read."""
        if not markets:
            return ()
        return tuple(self.keys[self._shape.holders(self._ledger, markets)].tolist())

    def holding(self, columns: Sequence[int]) -> Rows:
        """Return the rows, in order, that have a position in one of some columns."""
        wanted = np.zeros(len(self._names), np.bool_)
        wanted[list(columns)] = True
        return self._legs.owners("code", np.repeat(wanted, 2))

    def exact(self, key: AccountKey) -> RowT | Unknown:
        """Return the exact state of one account; Unknown where it was never read, or changed since.

        For as long as nothing is written to the book it is the same object.
        """
        if (known := self._exact.get(key)) is not None:
            return known
        row = self._row(key)
        if row == NOBODY or key in self._dirty:
            why = "never read" if row == NOBODY else "changed, and not read since"
            return Unknown(f"account 0x{key.hex()}", why)
        if len(self._exact) >= EXACT:
            self._exact.clear()
        found = self._exact[key] = self._shape.row(self._ledger, key, row)
        return found

    def read(self, page: bytes) -> tuple[RowT, ...]:
        """Return the accounts of the answer of a bulk read, as it has them; nothing is taken over."""
        return rows_of(self._shape, page)

    def alike(self, mirror: RowT, chain: RowT) -> bool:
        """Tell whether what was read once can be what was read now, where nothing has changed in between."""
        return self._shape.alike(mirror, chain)

    def rows_of(self, keys: Sequence[AccountKey]) -> Rows:
        """Return the rows of those of some accounts that have one."""
        rows = self._keys.find(key_array(keys))
        known: Rows = rows[rows != NOBODY]
        return known

    def without_row(self, keys: Sequence[AccountKey]) -> list[AccountKey]:
        """Return those of some accounts that were never read."""
        rows = self._keys.find(key_array(keys))
        return [keys[number] for number in np.flatnonzero(rows == NOBODY).tolist()]

    def rows(self, keys: Sequence[AccountKey]) -> Rows:
        """Return the rows of some accounts; below 0 of those that were never read."""
        return self._keys.find(key_array(keys))

    def _row(self, key: AccountKey) -> int:
        return self._keys.row_of(key)

    # --- to disk and back ---

    def save(self, path: Path, stamp: Stamp) -> None:
        """Write the book, as it was read up to the stamp's block, in place of what is at ``path``.

        Whoever is killed meanwhile leaves what was there.
        """
        archive.write(
            path,
            stamp,
            shape=self._shape,
            sizes=(len(self), *self._ledger.entries()),
            pages=self._pages(),
            dirty=key_array(self._dirty),
        )

    @classmethod
    def load(
        cls, path: Path, shape: Shape[RowT], *, chain_id: int, deployment: str
    ) -> tuple[Book[RowT], Stamp]:
        """Read a book back; raise ConfigError where the file is damaged, or of another deployment.

        What its blocks touched is not on record: a reorg of the stamp's block or of an older one makes
        everything dirty.
        """
        with archive.opened(path, shape, chain_id=chain_id, deployment=deployment) as found:
            book = cls(shape)
            rows, *entries = found.sizes
            book._grow(rows)
            book._ledger.reserve(entries)
            book._legs.reserve(sum(entries))
            for page in found.pages():
                book._put(np.full(len(page), NOBODY, np.intp), page)
            if (book._keys.find(book.keys) != np.arange(len(book))).any():
                raise found.damaged("an account is in it twice")
            book._doubt(found.dirty().tolist())
        book._complete_after = found.stamp.block
        return book, found.stamp

    def _pages(self) -> Iterator[Page]:
        for first in range(0, len(self), CHUNK):
            rows = np.arange(first, min(first + CHUNK, len(self)))
            yield self._ledger.page(self.keys[rows], rows)


def _names(shape: Shape[RowT]) -> tuple[Hashable, ...]:
    """Return what the columns of a shape are called; raise ChainFault where a leg cannot name them all."""
    names = tuple(shape.columns)
    if len(names) > MOST_COLUMNS:
        raise ChainFault(f"expected at most {MOST_COLUMNS} instruments in a listing, found {len(names)}")
    return names
