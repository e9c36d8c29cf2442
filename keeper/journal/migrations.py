"""What brings an older journal up to today's tables, step by step; a new journal takes the same steps.

The version is in ``meta``. A migration is one transaction, and a copy of the file as it was stays beside it,
such as ``journal.sqlite.v1``: whoever goes back to an older keeper goes back to that. A journal of a newer
keeper is refused, for nobody knows what its tables promise.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from keeper.errors import ConfigError
from keeper.journal.db import Db
from keeper.journal.sqlite import SqliteDb

VERSION = 2

MIGRATIONS: Mapping[int, tuple[str, ...]] = {
    2: (
        """CREATE TABLE runs (
            run INTEGER PRIMARY KEY AUTOINCREMENT, events INTEGER NOT NULL, started TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE tape (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL REFERENCES runs,
            number INTEGER NOT NULL, at_s INTEGER NOT NULL, events INTEGER NOT NULL,
            listing INTEGER NOT NULL, data BLOB NOT NULL
        ) STRICT""",
        "CREATE INDEX tape_by_block ON tape (number)",
        "CREATE INDEX tape_by_time ON tape (at_s)",
        """CREATE TABLE books (
            seq INTEGER NOT NULL, run INTEGER NOT NULL REFERENCES runs, block INTEGER NOT NULL,
            file TEXT NOT NULL UNIQUE
        ) STRICT""",
    ),
}
"""By the version that each leads to."""


def version_of(db: Db) -> int | None:
    """Return the version of a journal's tables; None where it has none yet, or is no journal."""
    if "meta" not in db.tables():
        return None
    found = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    text = found[0] if found else ""
    return int(text) if text.isdecimal() else 0


def expect_known(version: int | None) -> None:
    """Raise ConfigError where the tables are a newer keeper's, or no keeper's."""
    if version is None:
        raise ConfigError("it is empty, or no keeper's journal")
    if not 1 <= version <= VERSION:
        raise ConfigError(f"its schema is {version}, and this keeper knows 1 to {VERSION}")


def bring_up(db: Db, version: int) -> None:
    """Take every step from a version to today's, inside an open transaction."""
    for target in range(version + 1, VERSION + 1):
        for statement in MIGRATIONS[target]:
            db.execute(statement)
    db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (str(VERSION),))


def keep_copy(db: SqliteDb, path: Path, version: int) -> Path:
    """Copy a journal as it is beside it, in place of what an attempt before may have left."""
    copy = path.with_name(f"{path.name}.v{version}")
    fresh = copy.with_name(copy.name + ".new")
    fresh.unlink(missing_ok=True)
    with closing(sqlite3.connect(fresh)) as target:
        db.backup(target)
    fresh.replace(copy)
    return copy
