"""A journal's database in one SQLite file."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path

BUSY_TIMEOUT_S = 10.0
STATEMENTS = 256
"""Kept ready by a connection. A keeper has some 90, and lists of ten lengths in four of them."""
PAGES = 256
"""How many are given back at a time: a few milliseconds."""

STEPS_AT_ONCE = 100_000
"""Of SQLite's machine, between two looks at the clock."""
PRIMARY = 0xFF
"""What of an extended error code says its kind."""
RESTORE = "keep the file, and go on from the last backup (docs/journal.md)"
MENDS: Mapping[int, str] = {
    sqlite3.SQLITE_FULL: "make room on its disk, and start again",
    sqlite3.SQLITE_IOERR: "look at its disk, and start again",
    sqlite3.SQLITE_READONLY: "let the keeper write to it, and start again",
    sqlite3.SQLITE_CORRUPT: RESTORE,
    sqlite3.SQLITE_NOTADB: RESTORE,
}
"""What to do about an error, by its kind."""


class SqliteDb(sqlite3.Connection):
    """Implements ``db.Db``; in WAL mode ``BEGIN IMMEDIATE`` shuts out other writers, and no reader."""

    Fault: type[Exception] = sqlite3.Error
    durable = True
    """Whether any commit waits for the disk."""
    _lasting: bool | None = None
    """Whether the commit of the last transaction did, or that of the next one is to."""

    def begin(self, *, lasting: bool = True) -> None:
        self.expect(lasting=lasting)
        self.execute("BEGIN IMMEDIATE")

    def expect(self, *, lasting: bool) -> None:
        """Get ready for a transaction that lasts, or need not; outside of any."""
        lasting = lasting and self.durable
        if lasting is not self._lasting:
            # In WAL mode NORMAL leaves out that wait alone: the power takes the newest commits at most. OFF
            # may damage the file, too (https://www.sqlite.org/pragma.html#pragma_synchronous).
            level = "FULL" if lasting else "NORMAL" if self.durable else "OFF"
            self.execute(f"PRAGMA synchronous = {level}")
            self._lasting = lasting

    def begin_adding(self) -> None:
        self.begin()

    def look(self) -> None:
        self.execute("BEGIN")

    def version(self) -> int:
        return int(self.execute("PRAGMA data_version").fetchone()[0])

    def tables(self) -> set[str]:
        return {name for (name,) in self.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def key(self, table: str) -> str:
        [(made,)] = self.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchall()
        if "WITHOUT ROWID" not in made:
            return "rowid"
        keys = [row["name"] for row in self.execute(f"PRAGMA table_info({table})") if row["pk"]]
        return str(keys[0])

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

    def glance(self, most_s: float) -> list[str] | None:
        """Return what is broken in the file, indices left out; None where that takes longer."""
        until_s = time.monotonic() + most_s
        self.set_progress_handler(lambda: int(time.monotonic() > until_s), STEPS_AT_ONCE)
        try:
            return [row[0] for row in self.execute("PRAGMA quick_check(1)") if row[0] != "ok"]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            return None
        finally:
            self.set_progress_handler(None, 0)

    def told(self, error: BaseException) -> str:
        return told(error)


def told(error: BaseException) -> str:
    """Say what a fault was, and what to do about it."""
    code = getattr(error, "sqlite_errorcode", None)
    mend = None if code is None else MENDS.get(code & PRIMARY)
    return f"{error}; {mend}" if mend else str(error)


def connect(path: Path, *, read_only: bool = False) -> SqliteDb:
    """Open a connection in autocommit mode: transactions begin and end where the code says so."""
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    db = sqlite3.connect(
        uri,
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=STATEMENTS,
        factory=SqliteDb,
    )
    db.row_factory = sqlite3.Row
    return db
