"""What rows are made of, and what a protocol knows of them: all that a book is told of its accounts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from keeper.columns.keys import Rows
from keeper.columns.ledger import Ledger, Page
from keeper.columns.legs import Twins
from keeper.columns.pool import Entry
from keeper.units import AccountKey


class Row(Protocol):
    """The exact state of one account at one block: a frozen dataclass of the protocol's own."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> AccountKey: ...


RowT = TypeVar("RowT", bound=Row)
RowT_co = TypeVar("RowT_co", bound=Row, covariant=True)


class Shape(Protocol[RowT_co]):
    """The rows of one deployment as it lists its instruments now; pure."""

    @property
    def cells(self) -> Entry:
        """Return what every row has."""
        ...

    @property
    def runs(self) -> Mapping[str, Entry]:
        """Return what a row has several of, or none."""
        ...

    @property
    def columns(self) -> Sequence[Hashable]:
        """Return what the columns of a book are of, each by a name that it keeps.

        What may net lies side by side; what is listed later changes the order of none that was there.
        """
        ...

    @property
    def classes(self) -> str:
        """Return the cell that says by which of several marks and levels a row is scored."""
        ...

    @property
    def shown(self) -> Sequence[str]:
        """Return the other cells that whoever chooses accounts looks at."""
        ...

    def decode(self, page: bytes) -> Page:
        """Decode the answer of a bulk read; raise ChainFault where it is not one of believable rows."""
        ...

    def check_names(self, page: bytes, accounts: Sequence[AccountKey]) -> None:
        """Raise ChainFault where such an answer is not of these accounts, in this order."""
        ...

    def broken_rule(self, page: Page) -> str | None:
        """Say what no row can be, where a page that was decoded elsewhere claims it."""
        ...

    def twins(self, ledger: Ledger, rows: Rows) -> Twins:
        """Return what some rows hold, each value rounded once."""
        ...

    def holders(self, ledger: Ledger, markets: Sequence[int]) -> Rows:
        """Return the rows, in order, that have a position in one of some markets."""
        ...

    def alike(self, mirror: Any, chain: Any) -> bool:
        """Tell whether the mirror's account can be the chain's, where no event says that it has changed."""
        ...

    def row(self, ledger: Ledger, key: AccountKey, row: int) -> RowT_co:
        """Return one account."""
        ...


def rows_of(shape: Shape[RowT], page: bytes) -> tuple[RowT, ...]:
    """Read one answer of a bulk read by itself, in its order; raise ChainFault where it is none."""
    read, ledger = shape.decode(page), Ledger(shape.cells, shape.runs)
    ledger.grow(len(read))
    ledger.put(np.arange(len(read)), read)
    return tuple(shape.row(ledger, key, row) for row, key in enumerate(read.keys.tolist()))
