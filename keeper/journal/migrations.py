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
from keeper.journal.tally import gwei

VERSION = 7

STAKES_OF_BEFORE = f"""INSERT INTO stakes (
        step_id, market, at_s, state, most_gwei, paid_gwei, notional_micro, loss_micro, risk_micro
    ) SELECT step_id, '', reserved_at_s, state, {gwei("max_cost_wei")}, {gwei("gas_cost_wei")},
        CAST(substr('0000000000000' || notional_wad, 1, length(notional_wad) + 1) AS BIGINT) + 1, 0, 0
    FROM steps"""  # noqa: S608
"""What the steps of an older journal have spent and taken over; of which markets is not in its tables."""

TERMS_OF_BEFORE = """UPDATE steps SET ends_at_wad = terms.ends_at_wad, loss_wad = terms.loss_wad,
    takes = terms.takes FROM terms WHERE terms.step_id = steps.step_id"""
"""What the steps of an older journal have in a table of its own."""

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
    3: (
        """CREATE TABLE switches (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, switch TEXT NOT NULL, subject TEXT NOT NULL,
            is_on INTEGER NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL, at_s INTEGER NOT NULL,
            until_s INTEGER, mark INTEGER NOT NULL
        ) STRICT""",
        "CREATE INDEX newest_switch ON switches (switch, subject, seq)",
        """CREATE TABLE stakes (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, step_id TEXT NOT NULL REFERENCES steps ON DELETE CASCADE,
            market TEXT NOT NULL, at_s INTEGER NOT NULL, state TEXT NOT NULL,
            most_gwei INTEGER NOT NULL DEFAULT 0, paid_gwei INTEGER, notional_micro INTEGER NOT NULL,
            risk_micro INTEGER NOT NULL DEFAULT 0, loss_micro INTEGER NOT NULL DEFAULT 0,
            held_micro INTEGER NOT NULL DEFAULT 0, is_sale INTEGER NOT NULL DEFAULT 0
        ) STRICT""",
        "CREATE INDEX stakes_of_step ON stakes (step_id)",
        """CREATE INDEX stakes_by_time ON stakes (
            market, at_s, state, paid_gwei, most_gwei, notional_micro, risk_micro, loss_micro
        )""",
        "CREATE INDEX stakes_held ON stakes (market, state, seq, held_micro)",
        """CREATE INDEX live_stakes ON stakes (
            market, at_s, state, paid_gwei, most_gwei, notional_micro, risk_micro, loss_micro, held_micro
        ) WHERE state IN ('reserved', 'sent')""",
        "CREATE INDEX sales ON stakes (market, seq) WHERE is_sale = 1",
        STAKES_OF_BEFORE,
    ),
    4: (
        """CREATE TABLE sends (
            step_id TEXT NOT NULL REFERENCES steps ON DELETE CASCADE, bid INTEGER NOT NULL,
            kind TEXT NOT NULL, nonce INTEGER NOT NULL, block INTEGER NOT NULL, unsigned_tx TEXT NOT NULL,
            signed_tx BLOB, tx_hash TEXT, PRIMARY KEY (step_id, bid)
        ) STRICT""",
    ),
    5: (
        "ALTER TABLE steps ADD COLUMN profit_wad TEXT",
        "ALTER TABLE steps ADD COLUMN lost_to TEXT",
        "ALTER TABLE stakes ADD COLUMN booked_micro INTEGER",
        "DROP INDEX stakes_by_time",
        "DROP INDEX stakes_held",
        "DROP INDEX live_stakes",
        """CREATE INDEX stakes_by_time ON stakes (
            market, at_s, state, paid_gwei, most_gwei, notional_micro, risk_micro, loss_micro, booked_micro
        )""",
        "CREATE INDEX stakes_held ON stakes (market, state, seq, held_micro, booked_micro)",
        """CREATE INDEX live_stakes ON stakes (
            market, at_s, state, paid_gwei, most_gwei, notional_micro, risk_micro, loss_micro, held_micro,
            booked_micro
        ) WHERE state IN ('reserved', 'sent')""",
    ),
    6: (
        "ALTER TABLE steps ADD COLUMN place INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE steps ADD COLUMN returned_block INTEGER",
        "DROP INDEX one_nonce_one_transaction",
        "CREATE UNIQUE INDEX one_nonce_one_transaction ON steps (nonce, place) WHERE state <> 'abandoned'",
    ),
    7: (
        # The first journals of all had no such table.
        """CREATE TABLE IF NOT EXISTS terms (
            step_id TEXT PRIMARY KEY REFERENCES steps ON DELETE CASCADE, ends_at_wad TEXT,
            loss_wad TEXT NOT NULL, takes TEXT NOT NULL
        ) STRICT""",
        "ALTER TABLE steps ADD COLUMN ends_at_wad TEXT",
        "ALTER TABLE steps ADD COLUMN loss_wad TEXT NOT NULL DEFAULT '0'",
        "ALTER TABLE steps ADD COLUMN takes TEXT NOT NULL DEFAULT '{}'",
        TERMS_OF_BEFORE,
        "DROP TABLE terms",
        # A permit writes a page of each index that has a row for it: these have none.
        "DROP INDEX steps_by_outcome",
        "CREATE INDEX steps_by_outcome ON steps (outcome_block) WHERE outcome_block IS NOT NULL",
        "DROP INDEX stakes_by_time",
        """CREATE INDEX settled_stakes ON stakes (
            market, at_s, state, paid_gwei, most_gwei, notional_micro, risk_micro, loss_micro, booked_micro
        ) WHERE state NOT IN ('reserved', 'sent')""",
        "DROP INDEX stakes_held",
        """CREATE INDEX stakes_held ON stakes (market, state, seq, held_micro, booked_micro)
            WHERE market > ''""",
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
