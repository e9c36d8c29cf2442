"""Opens a journal wherever it is: a file, or a schema that several keepers share."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import structlog

from keeper.errors import ConfigError
from keeper.journal import migrations, sqlite
from keeper.journal.db import Db, Shared
from keeper.journal.guard import Limits
from keeper.journal.store import SqliteJournal, StoredJournal
from keeper.journal.wallet import Wallet

if TYPE_CHECKING:
    from keeper.journal.shared import PostgresJournal

LOOK_S = 10.0
"""How long a start looks for damage at most: some gigabytes."""

log = structlog.get_logger()


def to_write(
    place: Path | Shared,
    *,
    identity: Mapping[str, str],
    limits: Limits,
    lease_s: float,
    wallet: Wallet,
) -> SqliteJournal | PostgresJournal:
    """Open or create a journal for a keeper to work with; raise ConfigError where that cannot be.

    It may share the ``wallet`` with those of other deployments. A file is looked over first.
    """
    if isinstance(place, Path):
        _look_over(place)
        return SqliteJournal(place, identity=identity, limits=limits, wallet=wallet)
    _expect_psycopg()
    from keeper.journal.shared import PostgresJournal

    return PostgresJournal(place, identity=identity, limits=limits, lease_s=lease_s, wallet=wallet)


def to_switch(
    place: Path | Shared, limits: Limits, wallets: defaultdict[str, Wallet] | None = None
) -> StoredJournal:
    """Open the journal of a keeper that may be running, or lead: for its switches, and to look at its limits.

    It joins those that were opened before with the same ``wallets``, by chain and address. Raises ConfigError
    where there is none, or one of another keeper.
    """
    _expect_of_today(place)
    if isinstance(place, Path):
        db: Db = sqlite.connect(place)
        path = place
    else:
        from keeper.journal import postgres

        db, path = postgres.connect(place), place.path
    wallet = (defaultdict(Wallet) if wallets is None else wallets)[_owner(db)]
    journal = StoredJournal(db, path, str(place), limits, wallet)
    wallet.join(journal)
    return journal


def take_in(source: Path, place: Path | Shared, expected: Mapping[str, str]) -> Mapping[str, int]:
    """Copy a journal's file to a shared place that is empty; return how many rows each table has.

    Raises ConfigError where that cannot be, or where what it says of itself is otherwise than ``expected``.
    """
    if isinstance(place, Path):
        raise ConfigError("journal.url is not set: there is nothing to import into")
    with closing(to_read(source)) as db, _named(source):
        if "meta" not in db.tables():
            raise ConfigError(f"{source} is no keeper's journal")
        found = dict(map(tuple, db.execute("SELECT key, value FROM meta").fetchall()))
    for key, value in expected.items():
        if found.get(key, value.lower()) != value.lower():
            raise ConfigError(f"the {key} of {source} is {found[key]}, and {value.lower()} is configured")
    _expect_psycopg()
    from keeper.journal import moving

    return moving.move(source, place)


def _expect_of_today(place: Path | Shared) -> None:
    """Raise ConfigError where a journal has not the tables of this keeper."""
    with closing(to_read(place)) as db, _named(place):
        version = migrations.version_of(db)
    if version is None:
        raise ConfigError(f"the journal {place} is empty, or no keeper's: start the keeper once before")
    if version != migrations.VERSION:
        bound = f"this keeper's is {migrations.VERSION}: start it once before"
        raise ConfigError(f"the journal {place} is of schema {version}, {bound}")


@contextmanager
def _named(place: Path | Shared) -> Iterator[None]:
    """Raise ConfigError with the journal's name where its file turns out to be none, or damaged."""
    try:
        yield
    except sqlite3.Error as error:
        raise ConfigError(f"the journal {place} cannot be read: {sqlite.told(error)}") from error


def _owner(db: Db) -> str:
    """Return whose a journal is: chain and wallet."""
    found = db.execute("SELECT value FROM meta WHERE key IN ('chain_id', 'wallet') ORDER BY key")
    return " ".join(str(row[0]) for row in found)


def _look_over(path: Path) -> None:
    """Raise ConfigError where a file is damaged; at a large one there is no time for all of it."""
    if not path.exists():
        return
    try:
        with closing(sqlite.connect(path, read_only=True)) as db:
            flaws = db.glance(LOOK_S)
    except sqlite3.Error as error:
        raise ConfigError(f"the journal {path} cannot be used: {sqlite.told(error)}") from error
    if flaws is None:
        log.warning("journal.unchecked", path=str(path), looked_s=LOOK_S, mend="run keeper journal check")
    elif flaws:
        raise ConfigError(f"the journal {path} is damaged: {flaws[0]}; {sqlite.RESTORE}")


def to_read(place: Path | Shared) -> Db:
    """Connect to an existing journal, to read only; raise ConfigError where that cannot be."""
    if isinstance(place, Shared):
        psycopg = _expect_psycopg()
        from keeper.journal import postgres

        try:
            return postgres.connect(place, read_only=True)
        except psycopg.Error as error:
            raise ConfigError(f"the journal {place} cannot be read: {error}") from error
    if not place.exists():
        raise ConfigError(f"the journal {place} cannot be read: there is no such file")
    try:
        return sqlite.connect(place, read_only=True)
    except sqlite3.Error as error:
        raise ConfigError(f"the journal {place} cannot be read: {error}") from error


def is_there(place: Path | Shared) -> bool:
    """Tell whether anything is there yet; raise ConfigError where nobody can tell."""
    if isinstance(place, Path):
        return place.exists()
    with closing(to_read(place)) as db:
        return bool(db.tables())


def _expect_psycopg() -> ModuleType:
    try:
        import psycopg
    except ImportError:
        raise ConfigError(
            "journal.url is set, and psycopg is not installed: it comes with the extra postgres"
        ) from None
    return psycopg
