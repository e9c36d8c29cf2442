"""A column of numpy cells that grows, and that is lent out without a copy."""

from __future__ import annotations

import math
import mmap
import weakref
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

Scalar = TypeVar("Scalar", bound=np.generic)

LEAST = 64
"""Cells of the smallest column that is not empty."""
MAPPED_BYTES = 2**20


class Column(Generic[Scalar]):
    """Cells [capacity, ...], zero at first. Pages of memory that were never written to take none.

    What was lent stays as it was: while anybody still looks at it, whoever writes does so in a copy.
    """

    __slots__ = ("_cells", "_loan")

    def __init__(self, dtype: DTypeLike, *width: int) -> None:
        self._cells: NDArray[Scalar] = np.zeros((0, *width), dtype)
        self._loan: weakref.ref[_Loan] | None = None

    def __len__(self) -> int:
        return len(self._cells)

    def grow(self, capacity: int) -> None:
        """Make room for at least so many cells, a quarter more than there was."""
        if capacity > len(self):
            more = max(capacity, len(self) + len(self) // 4, LEAST)
            cells = zeros((more, *self._cells.shape[1:]), self._cells.dtype)
            cells[: len(self)] = self._cells
            self.replace(cells)

    def replace(self, cells: NDArray[Scalar]) -> None:
        """Take over other cells; what was lent keeps its own."""
        self._cells, self._loan = cells, None

    @property
    def cells(self) -> NDArray[Scalar]:
        """The cells, to read."""
        return self._cells

    @property
    def own(self) -> NDArray[Scalar]:
        """The cells, to write to: nobody else sees it."""
        if self._loan is not None and self._loan() is not None:
            copy = zeros(self._cells.shape, self._cells.dtype)
            copy[:] = self._cells
            self._cells = copy
        self._loan = None
        return self._cells

    def lend(self, count: int) -> NDArray[Scalar]:
        """Return the first cells, to read; they stay as they are for as long as anybody looks at them."""
        loan = self._loan() if self._loan is not None else None
        if loan is None:
            loan = _Loan(self._cells)
            self._loan = weakref.ref(loan)
        lent: NDArray[Scalar] = np.asarray(loan)[:count]
        return lent


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return zeros; many of them in a mapping of their own.

    The system gives it page by page as it is written to, and has it back at once when it is let go: the
    allocator would keep it, and write the zeros itself.
    """
    count = math.prod(shape)
    if count * dtype.itemsize < MAPPED_BYTES:
        return np.zeros(shape, dtype)
    mapping = mmap.mmap(-1, count * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(mapping, dtype).reshape(shape)


class _Loan:
    """What every view of lent cells hangs on, through numpy's ``base``: it lives as long as one of them."""

    __slots__ = ("__array_interface__", "__weakref__", "_cells")

    def __init__(self, cells: NDArray[Any]) -> None:
        self._cells = cells
        interface = cells.__array_interface__
        address, _ = interface["data"]
        self.__array_interface__ = {**interface, "data": (address, True)}
