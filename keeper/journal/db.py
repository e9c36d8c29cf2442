"""What the journal asks of a database, so that the same SQL runs on SQLite and on PostgreSQL.

SQL is written as both take it: values stand as ``?``, a row that is there already is met by ``ON CONFLICT``,
what was inserted comes back by ``RETURNING``. Tables are declared in SQLite's words, and without a key of
integers they have a ``rowid`` on both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Shared:
    """Where a journal is that several keepers share. Its URL may hold a password, and is shown nowhere."""

    url: str = field(repr=False)
    schema: str
    path: Path
    """Beside which this keeper keeps what is no table."""

    def __str__(self) -> str:
        told = urlsplit(self.url)
        return f"{told.path.lstrip('/')} at {told.hostname}, schema {self.schema}"


class Found(Protocol):
    """What a statement gives: rows, whose values are asked for by place or by name."""

    @property
    def rowcount(self) -> int:
        """How many rows the statement wrote."""
        ...

    @property
    def description(self) -> Sequence[Any] | None:
        """The columns, each with its name first."""
        ...

    def fetchone(self) -> Any:
        """Return the next row; None where there is none."""
        ...

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        ...

    def __iter__(self) -> Iterator[Any]: ...

    def close(self) -> None:
        """Ask for no more rows."""
        ...


class Db(Protocol):
    """A connection to the database of one journal, outside of transactions unless one was begun.

    Whatever it raises is of its ``Fault``.
    """

    Fault: type[Exception]

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction was begun."""
        ...

    def execute(self, sql: str, values: Sequence[Any] = ..., /) -> Found:
        """Run one statement."""
        ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Found:
        """Run one statement for each of many rows of values."""
        ...

    def begin(self, *, lasting: bool = True) -> None:
        """Begin a transaction that is the only one to write.

        Its commit waits until all up to it is on disk; where it need not be ``lasting``, a later one will.
        """
        ...

    def begin_adding(self) -> None:
        """Begin a transaction that adds rows which whoever writes takes up: anybody may, at any time."""
        ...

    def look(self) -> None:
        """Begin a transaction that sees one state for several queries, and writes nothing."""
        ...

    def tables(self) -> set[str]:
        """Return the names of all tables."""
        ...

    def key(self, table: str) -> str:
        """Return the column by which a table's rows have their order."""
        ...

    def size(self) -> int:
        """Return how many bytes hold anything."""
        ...

    def give_back(self) -> None:
        """Give some of what holds nothing any more back to the system."""
        ...

    def flaws(self) -> list[str]:
        """Return what is broken in the files themselves."""
        ...

    def told(self, error: BaseException) -> str:
        """Say what a fault was, and what to do about it."""
        ...

    def close(self) -> None:
        """Close the connection; what was begun and not committed is undone."""
        ...
