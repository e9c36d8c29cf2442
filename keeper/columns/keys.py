"""Which row an account has: open addressing in numpy, for many keys at a time, and no object for any."""

from __future__ import annotations

import os
from collections.abc import Iterable
from operator import mul
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from keeper.columns.column import Column
from keeper.units import AccountKey

Rows: TypeAlias = NDArray[np.intp]
KeyArray: TypeAlias = NDArray[np.void]
"""Keys of 32 bytes, V32: a byte string type of numpy would lose zeros at the end."""
KEY = np.dtype("V32")

NOBODY = -1
EMPTY, GRAVE = 0, -1
"""What a slot of the table holds where it holds no row plus one."""
SMALLEST = 64
HALF = 32
MASK = 2**64 - 1


class Keys:
    """The accounts of a book in the order of their rows, and the way back from account to row.

    At most half of the table's slots are taken. Accounts choose a part of their own key: the hash is drawn
    anew at every start, so that nobody can choose keys that meet in one slot.
    """

    def __init__(self) -> None:
        self._keys: Column[np.void] = Column(KEY)
        self._count = 0
        self._table = np.zeros(SMALLEST, np.int32)
        self._taken = 0
        """Slots that are not empty, graves included."""
        self._odd = np.frombuffer(os.urandom(5 * 8), np.uint64) | np.uint64(1)
        self._factors: list[int] = self._odd.tolist()

    def __len__(self) -> int:
        return self._count

    def lend(self) -> KeyArray:
        """Return all keys, in the order of the rows."""
        return self._keys.lend(self._count)

    def key(self, row: int) -> AccountKey:
        """Return the account of a row."""
        return bytes(self._keys.cells[row].tobytes())

    def find(self, keys: KeyArray) -> Rows:
        """Return the row of every key, ``NOBODY`` where it has none."""
        wanted, ours = _limbs(keys), _limbs(self._keys.cells)
        slots, found = self._slots(wanted), np.full(len(keys), NOBODY, np.intp)
        asking = np.arange(len(keys))
        while asking.size:
            rows = self._table[slots[asking]].astype(np.intp) - 1
            there = np.flatnonzero(rows >= 0)
            apart = ours.take(rows[there], axis=0) ^ wanted[asking[there]]
            same = there[(apart[:, 0] | apart[:, 1] | apart[:, 2] | apart[:, 3]) == 0]
            found[asking[same]] = rows[same]
            go_on = rows != EMPTY - 1
            go_on[same] = False
            asking = asking[go_on]
            slots[asking] = (slots[asking] + 1) & (len(self._table) - 1)
        return found

    def row_of(self, key: AccountKey) -> int:
        """Return the row of one key, as ``find`` does, in a tenth of the time."""
        slot, table, cells = self._slot(key), self._table, self._keys.cells
        while (row := int(table[slot]) - 1) != EMPTY - 1:
            if row >= 0 and cells[row].tobytes() == key:
                return row
            slot = (slot + 1) & (len(table) - 1)
        return NOBODY

    def add(self, keys: KeyArray) -> Rows:
        """Give the next rows to keys that have none, each of them once."""
        rows = np.arange(self._count, self._count + len(keys))
        self._count += len(keys)
        self._keys.grow(self._count)
        self._keys.own[rows] = keys
        if 2 * (self._taken + len(keys)) > len(self._table):
            # A third at most, so that there is room before the next time.
            self._table = np.zeros(max(SMALLEST, 1 << (3 * self._count).bit_length()), np.int32)
            self._taken = 0
            self._enter(np.arange(self._count))
        else:
            self._enter(rows)
        return rows

    def remove(self, rows: Rows) -> tuple[Rows, Rows]:
        """Forget the keys of some rows; return the holes, and the last rows that fill them from now on."""
        left = self._count - len(rows)
        holes = rows[rows < left]
        movers = np.setdiff1d(np.arange(left, self._count), rows)
        self._table[self._slots_of(rows)] = GRAVE
        self._table[self._slots_of(movers)] = holes + 1
        self._keys.own[holes] = self._keys.cells[movers]
        self._count = left
        return holes, movers

    def _enter(self, rows: Rows) -> None:
        """Write rows into the table: of those that want one slot the last gets it, the others go on."""
        self._taken += len(rows)
        slots = self._slots(_limbs(self._keys.cells[rows]))
        while rows.size:
            free = self._table[slots] == EMPTY
            self._table[slots[free]] = rows[free] + 1
            left = self._table[slots] != rows + 1
            rows, slots = rows[left], (slots[left] + 1) & (len(self._table) - 1)

    def _slots_of(self, rows: Rows) -> Rows:
        """Return the slots in which some rows stand."""
        slots = self._slots(_limbs(self._keys.cells[rows]))
        asking = np.arange(len(rows))
        while asking.size:
            asking = asking[self._table[slots[asking]] != rows[asking] + 1]
            slots[asking] = (slots[asking] + 1) & (len(self._table) - 1)
        return slots

    def _slots(self, limbs: NDArray[np.uint64]) -> Rows:
        """Return where to look for each key first: the highest bits of sums of products."""
        big = limbs.byteswap()
        mixed = big[:, 0] * self._odd[0]
        for limb in range(1, 4):
            mixed += big[:, limb] * self._odd[limb]
        mixed = (mixed ^ (mixed >> np.uint64(HALF))) * self._odd[4]
        slots: Rows = (mixed >> np.uint64(65 - len(self._table).bit_length())).astype(np.intp)
        return slots

    def _slot(self, key: AccountKey) -> int:
        """Return the same of one key."""
        limbs = (int.from_bytes(key[at : at + 8]) for at in range(0, KEY.itemsize, 8))
        mixed: int = sum(map(mul, limbs, self._factors)) & MASK
        mixed = (mixed ^ (mixed >> HALF)) * self._factors[4] & MASK
        return mixed >> (65 - len(self._table).bit_length())


def key_array(keys: Iterable[AccountKey]) -> KeyArray:
    """Lay keys side by side."""
    return np.frombuffer(b"".join(keys), KEY)


def _limbs(keys: KeyArray) -> NDArray[np.uint64]:
    """See keys as four limbs each [n, 4]."""
    return np.ascontiguousarray(keys).view(np.uint64).reshape(len(keys), 4)
