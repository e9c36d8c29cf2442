"""Copies of a journal, made while the keeper writes it, and its rows as lines of JSON."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from keeper.errors import ConfigError
from keeper.journal import migrations, rows, sqlite
from keeper.journal.db import Db
from keeper.journal.sqlite import SqliteDb

PAGES = 1_024
"""Copied at a time; the keeper writes in between."""
AT_ONCE = 1_000
AS_JSON = frozenset({"data", "unsigned_tx", "signs", "mirror", "chain", "takes", "started"})
"""Columns that hold JSON as text."""
TOLD = ("meta", "cases", "events", "steps", "sends", "terms", "switches", "levels", "differences", "heads")
"""What is exported, in this order; the tape and the accounts found are a keeper's own."""
OF_CASE: Mapping[str, str] = {
    **dict.fromkeys(("cases", "events", "steps"), "case_id = ?"),
    **dict.fromkeys(("sends", "terms"), "step_id IN (SELECT step_id FROM steps WHERE case_id = ?)"),
}
"""What is exported of one case, and by which condition."""


def back_up(db: Db, target: Path, *, without: Collection[str] = ()) -> None:
    """Write a journal to a new SQLite file, as of one moment; raise ConfigError where that cannot be.

    Of a shared journal the tables that are named in ``without`` are left empty.
    """
    if target.exists():
        raise ConfigError(f"{target} exists already: a backup takes the place of nothing")
    fresh = target.with_name(target.name + ".new")
    fresh.unlink(missing_ok=True)
    try:
        with closing(sqlite.connect(fresh)) as copy:
            if isinstance(db, SqliteDb):
                db.backup(copy, pages=PAGES)
            else:
                _copy_rows(db, copy, without)
            if flaws := copy.flaws():
                raise ConfigError(f"what was copied to {target} is damaged: {flaws[0]}")
            copy.execute("PRAGMA journal_mode = DELETE")
        fresh.rename(target)
    except (sqlite3.Error, OSError) as error:
        raise ConfigError(f"{target} cannot be written: {error}") from error
    finally:
        fresh.unlink(missing_ok=True)


def _copy_rows(db: Db, copy: SqliteDb, without: Collection[str]) -> None:
    """Lay out a file as a keeper does, and fill it from another store."""
    db.look()
    copy.begin()
    lay_out(copy)
    for table in tables_in_order(copy):
        if table in without:
            continue
        names = numbered(db, table, columns_of(copy, table))
        into = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608
        copy.executemany(into, pages(db, table, names))
    copy.execute("COMMIT")
    db.execute("ROLLBACK")


def lay_out(db: Db) -> None:
    """Make the tables of today's journal, all of them empty, inside an open transaction."""
    rows.create(db, {})
    migrations.bring_up(db, 1)
    rows.add_tables(db)
    db.execute("DELETE FROM meta")


def tables_in_order(db: SqliteDb) -> list[str]:
    """Return the tables of a file as they were made: rows go before those that refer to them."""
    made = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid").fetchall()
    return [name for (name,) in made if name != "sqlite_sequence"]


def export(db: Db, case_id: str | None = None) -> Iterator[str]:
    """Yield a journal, or one case of it, as lines of JSON; bytes are 0x text."""
    had = db.tables()
    for table in (each for each in (TOLD if case_id is None else OF_CASE) if each in had):
        names = columns_of(db, table)
        for row in pages(db, table, names, case_id):
            told = {name: _plain(name, value) for name, value in zip(names, row, strict=True)}
            yield json.dumps({"table": table, **told}, separators=(",", ":"))


def numbered(server: Db, table: str, names: list[str]) -> list[str]:
    """Return the columns to copy: with the numbers by which rows have their order, where they need them."""
    return ["rowid", *names] if server.key(table) == "rowid" else names


def columns_of(db: Db, table: str) -> list[str]:
    """Return the names of a table's columns."""
    found = db.execute(f"SELECT * FROM {table} LIMIT 0")  # noqa: S608
    names = [column[0] for column in found.description or ()]
    found.close()
    return [name for name in names if name != "rowid"]


def pages(db: Db, table: str, names: Sequence[str], case_id: str | None = None) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table, or those of one case, in their order, some at a time."""
    key = db.key(table)
    bound, values = ("", ()) if case_id is None else (f"{OF_CASE[table]} AND", (case_id,))
    query = (
        f"SELECT {key}, {', '.join(names)} FROM {table} WHERE {bound} {key} > ?"  # noqa: S608
        f" ORDER BY {key} LIMIT {AT_ONCE}"
    )
    last: object = b"" if key == "account" else -1
    while page := db.execute(query, (*values, last)).fetchall():
        yield from (tuple(row)[1:] for row in page)
        last = page[-1][0]


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    return json.loads(value) if name in AS_JSON and value is not None else value
