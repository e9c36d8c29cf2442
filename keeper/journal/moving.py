"""Brings a journal from its file to a schema that several keepers share, whole or not at all."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import psycopg

from keeper.errors import ConfigError, KeeperError
from keeper.journal import postgres, runs, sqlite
from keeper.journal.backup import columns_of, lay_out, numbered, pages, tables_in_order
from keeper.journal.db import Shared
from keeper.journal.lease import fellows
from keeper.journal.lock import alone
from keeper.journal.postgres import PostgresDb
from keeper.journal.reader import JournalReader
from keeper.journal.shared import begin_to_lay_out
from keeper.journal.sqlite import SqliteDb
from keeper.journal.store import SqliteJournal


def move(source: Path, place: Shared) -> Mapping[str, int]:
    """Copy a journal, with all that is open and in flight, to a place where there is none yet.

    Returns how many rows each table has, as they were counted at both ends. The file stays as it is; one of
    an older keeper is brought up on the way. Raises ConfigError where it is in use, damaged or contradicts
    itself, where the place is taken, or where a keeper leads the wallet: it would not know of these nonces.
    """
    with alone(source), tempfile.TemporaryDirectory(prefix="keeper-import-") as folder:
        copy = Path(folder) / source.name
        _bring_up(source, copy)
        try:
            with (
                closing(sqlite.connect(copy, read_only=True)) as held,
                closing(postgres.connect(place)) as db,
            ):
                moved = _move(held, db, place)
                _take_books(held, source, place)
                db.execute("COMMIT")
        except (sqlite3.Error, psycopg.Error, OSError, KeeperError) as error:
            raise ConfigError(f"{source} cannot be imported to {place}: {error}") from error
    return moved


def _bring_up(source: Path, copy: Path) -> None:
    """Make a sound copy of a file, with today's tables; raise ConfigError where it is no sound journal."""
    with closing(JournalReader(source)) as reader:
        if broken := reader.verify():
            raise ConfigError(f"the journal {source} contradicts itself: {broken[0]}")
        reader.back_up(copy)
        identity = {key: value for key, value in reader.identity.items() if key != "schema"}
    SqliteJournal(copy, identity=identity).close()


def _move(held: SqliteDb, db: PostgresDb, place: Shared) -> Mapping[str, int]:
    """Lay out and fill a schema, in a transaction that stays open."""
    begin_to_lay_out(db, place.schema)
    if db.tables():
        raise ConfigError("a journal is there already: name another journal.schema_name, or drop that schema")
    lay_out(db)
    moved = {table: _move_rows(held, db, table) for table in tables_in_order(held)}
    for each in fellows(db, place.schema):
        # Under a lock: who would take it now waits, and looks again.
        lease = f'SELECT holder, until > clock_timestamp() FROM "{each}".lease FOR UPDATE'  # noqa: S608
        [(holder, leads)] = db.execute(lease).fetchall()
        if leads:
            raise ConfigError(f"{holder} leads the wallet by schema {each}: stop it before")
    return moved


def _move_rows(held: SqliteDb, db: PostgresDb, table: str) -> int:
    """Copy the rows of a table under their own numbers; return how many they are."""
    names = numbered(db, table, columns_of(held, table))
    into = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608
    db.executemany(into, pages(held, table, names))
    count = f"SELECT count(*) FROM {table}"  # noqa: S608
    was, now = (each.execute(count).fetchall()[0][0] for each in (held, db))
    if was != now:
        raise ConfigError(f"{was} rows of {table} were read, and {now} written")
    _go_on_counting(held, db, table, names[0])
    return int(now)


def _go_on_counting(held: SqliteDb, db: PostgresDb, table: str, column: str) -> None:
    """Have new rows numbered after all that the file ever had."""
    [(sequence,)] = db.execute("SELECT pg_get_serial_sequence(?, ?)", (table, column)).fetchall()
    if sequence is None:
        return
    given = held.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    query = f"SELECT greatest(coalesce(max({column}), 0), ?) FROM {table}"  # noqa: S608
    [(last,)] = db.execute(query, (given[0] if given else 0,)).fetchall()
    if last:
        db.execute("SELECT setval(?::regclass, ?)", (sequence, last))


def _take_books(held: SqliteDb, source: Path, place: Shared) -> None:
    """Lay the books of the tape beside the new place, as far as they are there."""
    for (file,) in held.execute("SELECT file FROM books").fetchall():
        book, target = source.with_name(file), place.path.with_name(file)
        if book.exists() and not target.exists():
            runs.link(book, target)
