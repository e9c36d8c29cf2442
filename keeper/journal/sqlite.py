"""A journal's database in one SQLite file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

BUSY_TIMEOUT_S = 10.0
PAGES = 256
"""How many are given back at a time: a few milliseconds."""


class SqliteDb(sqlite3.Connection):
    """Implements ``db.Db``; in WAL mode ``BEGIN IMMEDIATE`` shuts out other writers, and no reader."""

    Fault: type[Exception] = sqlite3.Error
    durable = True
    """Whether any commit waits for the disk."""
    _lasting: bool | None = None
    """Whether the commit of the last transaction did."""

    def begin(self, *, lasting: bool = True) -> None:
        lasting = lasting and self.durable
        if lasting is not self._lasting:
            # In WAL mode NORMAL leaves out that wait alone: the power takes the newest commits at most. OFF
            # may damage the file, too (https://www.sqlite.org/pragma.html#pragma_synchronous).
            level = "FULL" if lasting else "NORMAL" if self.durable else "OFF"
            self.execute(f"PRAGMA synchronous = {level}")
            self._lasting = lasting
        self.execute("BEGIN IMMEDIATE")

    def begin_adding(self) -> None:
        self.begin()

    def look(self) -> None:
        self.execute("BEGIN")

    def tables(self) -> set[str]:
        return {name for (name,) in self.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def size(self) -> int:
        pages, free, size = (
            self.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def give_back(self) -> None:
        self.execute(f"PRAGMA incremental_vacuum({PAGES})").fetchall()

    def flaws(self) -> list[str]:
        return [row[0] for row in self.execute("PRAGMA integrity_check") if row[0] != "ok"]


def connect(path: Path, *, read_only: bool = False) -> SqliteDb:
    """Open a connection in autocommit mode: transactions begin and end where the code says so."""
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    db = sqlite3.connect(
        uri,
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        factory=SqliteDb,
    )
    db.row_factory = sqlite3.Row
    return db
