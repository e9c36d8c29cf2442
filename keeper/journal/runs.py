"""The runs of a keeper: how a journal stood when each began, and a copy of it as it stood then.

A restart takes up what the journal holds. So each run is replayed over the journal rewound to its beginning:
whatever was cut off before, by a kill or by retention, does no harm.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from keeper.domain import EventKind
from keeper.journal import rows, sqlite, tally
from keeper.journal.db import Db
from keeper.journal.migrations import STAKES_OF_BEFORE, TERMS_OF_BEFORE
from keeper.journal.rows import MOVES
from keeper.journal.sqlite import SqliteDb
from keeper.lifecycle import OUTCOMES, fold
from keeper.ports import StepState
from keeper.units import AccountKey

OWN = frozenset(
    {
        "meta",
        "cases",
        "events",
        "steps",
        "heads",
        "accounts",
        "searched",
        "search_scope",
        "differences",
        "healed",
    }
    | {"levels", "stakes", "switches", "sends"}
    | {"runs", "tape", "books", "sqlite_sequence"}
)
"""Tables that a copy takes over by rules of their own, or not at all; others whole."""
HEAD = "number, hash, parent_hash, timestamp_s, base_fee_wei, done_at_s"


@dataclass(frozen=True, slots=True)
class Run:
    """One life of a keeper, from its start on."""

    run: int
    events: int
    """The last event of before."""
    started: Mapping[str, Any]

    @property
    def began_s(self) -> float:
        """When the head was that was done last before; infinity where there was none."""
        head = self.started.get("journal", {}).get("head")
        return inf if head is None else float(head[3])


def last_event(db: Db) -> int:
    """Return the number of the newest event; 0 without one."""
    return int(db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])


def begin(db: Db, started: Mapping[str, Any]) -> int:
    """Note that a run begins, and how the journal stands, inside an open transaction."""
    told = {**started, "journal": _standing(db)}
    values = last_event(db), rows.dumps(told)
    [(run,)] = db.execute("INSERT INTO runs (events, started) VALUES (?, ?) RETURNING run", values).fetchall()
    return int(run)


def _standing(db: Db) -> dict[str, Any]:
    """Say what events alone do not tell of how a journal stands."""

    def one(query: str) -> list[Any] | None:
        found = db.execute(query).fetchone()
        return None if found is None else list(found)

    live = db.execute("SELECT step_id, tx_hash IS NOT NULL FROM steps WHERE state IN ('reserved', 'sent')")
    bids = db.execute(
        "SELECT step_id, bid, sends.kind, sends.signed_tx IS NOT NULL FROM sends JOIN steps USING (step_id)"
        " WHERE state IN ('reserved', 'sent') ORDER BY step_id, bid"
    )
    return {
        "head": one(f"SELECT {HEAD} FROM heads ORDER BY seq DESC LIMIT 1"),  # noqa: S608
        "searched": one("SELECT first, last, last_hash FROM searched"),
        "differences": one("SELECT coalesce(max(seq), 0) FROM differences"),
        "healed": one("SELECT seq FROM healed"),
        "levels": db.execute("SELECT coalesce(max(seq), 0) FROM levels").fetchone()[0],
        "unsigned": [step_id for step_id, is_signed in live if not is_signed],
        "bids": [[step_id, bid, kind] for step_id, bid, kind, is_signed in bids if not is_signed],
    }


def runs_of(db: Db) -> list[Run]:
    """Return every run that a journal knows, oldest first."""
    found = db.execute("SELECT run, events, started FROM runs ORDER BY run")
    return [Run(run, events, json.loads(started)) for run, events, started in found]


def cut(db: Db, which: Callable[[Run], bool]) -> None:
    """Note of runs that they can no longer be replayed from their beginning."""
    for each in runs_of(db):
        if "cut" not in each.started and which(each):
            _say(db, each, cut=1)


def end(db: Db, run: int) -> None:
    """Note of a run that it went on after its tape."""
    [its] = (each for each in runs_of(db) if each.run == run)
    _say(db, its, ended=1)


def _say(db: Db, run: Run, **more: int) -> None:
    told = rows.dumps({**run.started, **more})
    db.execute("UPDATE runs SET started = ? WHERE run = ?", (told, run.run))


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the disk is another; raise OSError where neither can be."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


# --- a journal as it stood -----------------------------------------------------------------------


def rewind(source: Path, target: Path, run: Run, found: Iterable[AccountKey]) -> None:
    """Bring an empty journal to where another one stood when a run began.

    ``found`` are the accounts that were known then and not in the book that the run took up.
    """
    db = sqlite.connect(target)
    with closing(db):
        db.execute("PRAGMA synchronous = OFF")
        db.execute("ATTACH ? AS old", (f"{source.absolute().as_uri()}?mode=ro",))
        db.execute("BEGIN IMMEDIATE")
        standing = run.started["journal"]
        db.executemany("INSERT OR IGNORE INTO accounts VALUES (?)", ((each,) for each in found))
        if standing["searched"]:
            db.execute("INSERT INTO searched VALUES (1, ?, ?, ?)", standing["searched"])
        differences = standing["differences"][0]
        db.execute("INSERT INTO differences SELECT * FROM old.differences WHERE seq <= ?", (differences,))
        if standing["healed"]:
            db.execute("INSERT INTO healed VALUES (1, ?)", standing["healed"])
        if standing["head"]:
            db.execute(f"INSERT INTO heads ({HEAD}) VALUES (?, ?, ?, ?, ?, ?)", standing["head"])  # noqa: S608
        _rewind_cases(db, run.events)
        _rewind_steps(db, frozenset(standing["unsigned"]))
        # Some were signed later, or dropped.
        db.executemany(
            "UPDATE sends SET kind = ?, signed_tx = NULL, tx_hash = NULL WHERE step_id = ? AND bid = ?",
            [(kind, step_id, bid) for step_id, bid, kind in standing.get("bids", ())],
        )
        db.execute("INSERT INTO levels SELECT * FROM old.levels WHERE seq <= ?", (standing["levels"],))
        _rewind_stakes(db, run.events)
        for table in _others(db):
            db.execute(f'INSERT INTO "{table}" SELECT * FROM old."{table}"')  # noqa: S608
        db.execute("COMMIT")


def _others(db: SqliteDb) -> Iterator[str]:
    both = (
        "SELECT name FROM main.sqlite_master WHERE type = 'table'"
        " INTERSECT SELECT name FROM old.sqlite_master WHERE type = 'table'"
    )
    yield from ({name for (name,) in db.execute(both)} - OWN)


def _rewind_cases(db: SqliteDb, last: int) -> None:
    """Take over events up to one of them, and the cases that they make."""
    db.execute(
        # By their own rows: by these it is told which cases are the newest, gaps or not.
        "INSERT INTO cases (rowid, case_id, account, status, opened_block)"
        " SELECT rowid, * FROM old.cases WHERE case_id IN"
        " (SELECT case_id FROM old.events WHERE seq <= ?) ORDER BY old.cases.rowid",
        (last,),
    )
    db.execute("INSERT INTO events SELECT * FROM old.events WHERE seq <= ? ORDER BY seq", (last,))
    db.execute("DELETE FROM sqlite_sequence WHERE name = 'events'")
    db.execute("INSERT INTO sqlite_sequence VALUES ('events', ?)", (last,))
    query = "SELECT * FROM events JOIN cases USING (case_id) WHERE case_id = ? ORDER BY seq"
    for (case_id,) in db.execute("SELECT case_id FROM cases").fetchall():
        status = fold(map(rows.to_event, db.execute(query, (case_id,))))
        db.execute("UPDATE cases SET status = ? WHERE case_id = ?", (status, case_id))


def _rewind_steps(db: SqliteDb, unsigned: frozenset[str]) -> None:
    """Take over the steps that were reserved by then, each as its events leave it."""
    states: dict[str, StepState] = {}
    ends: dict[str, tuple[Any, ...]] = {}
    bids: list[tuple[str, int]] = []
    costs: dict[str, int] = {}
    for kind, block, at_s, data in db.execute("SELECT kind, block, at_s, data FROM events ORDER BY seq"):
        told = json.loads(data)
        if kind == EventKind.RESERVED:
            states[told["step_id"]] = StepState.RESERVED
            costs[told["step_id"]] = told["max_cost_wei"]
        elif kind == EventKind.OBSERVED and "bid" in told and "max_cost_wei" in told:
            bids.append((told["step_id"], told["bid"]))
            costs[told["step_id"]] = max(costs.get(told["step_id"], 0), told["max_cost_wei"])
        elif kind in MOVES:
            step_id, moved = told["step_id"], EventKind(kind)
            states[step_id] = MOVES[moved][1]
            if moved in OUTCOMES:
                ends[step_id] = (block, told["block_hash"], at_s, str(told["gas_cost_wei"]))
            elif moved is EventKind.UNINCLUDED:
                ends.pop(step_id, None)
            elif moved is EventKind.ABANDONED:
                ends[step_id] = (None, None, None, "0")
    take = f"{_taking(db, 'steps')} WHERE step_id = ?"
    for step_id, state in states.items():
        db.execute(take, (step_id,))
        end = ends.get(step_id, (None, None, None, None))
        db.execute(
            "UPDATE steps SET state = ?, outcome_block = ?, outcome_hash = ?, outcome_at_s = ?,"
            " gas_cost_wei = ? WHERE step_id = ?",
            (state, *end, step_id),
        )
    # What was bid later made a step dearer than it was then.
    db.executemany(
        "UPDATE steps SET max_cost_wei = ? WHERE step_id = ?",
        ((str(cost), step_id) for step_id, cost in costs.items()),
    )
    if _had(db, "terms"):
        db.execute(TERMS_OF_BEFORE)
    db.executemany("INSERT INTO sends SELECT * FROM old.sends WHERE step_id = ? AND bid = ?", bids)
    db.executemany(
        "UPDATE steps SET signed_tx = NULL, tx_hash = NULL WHERE step_id = ?", ((each,) for each in unsigned)
    )


def _had(db: SqliteDb, table: str) -> bool:
    """Tell whether the journal that is rewound has a table."""
    query = "SELECT 1 FROM old.sqlite_master WHERE type = 'table' AND name = ?"
    return db.execute(query, (table,)).fetchone() is not None


def _taking(db: SqliteDb, table: str) -> str:
    """Return what takes over the rows of a table; an older journal knows of fewer columns, the first ones."""
    columns = db.execute("SELECT name FROM pragma_table_info(?, 'old')", (table,))
    known = ", ".join(row["name"] for row in columns)
    return f"INSERT INTO {table} ({known}) SELECT * FROM old.{table}"  # noqa: S608


def _rewind_stakes(db: SqliteDb, last: int) -> None:
    """Take over the stakes of those steps, each as its step stands; an older journal has none yet."""
    if not _had(db, "stakes"):
        db.execute(STAKES_OF_BEFORE)
        return
    taking = _taking(db, "stakes")
    db.execute(f"{taking} WHERE step_id IN (SELECT step_id FROM steps)")  # noqa: S608
    db.execute(tally.FOLLOWS)
    # What was in flight then has been booked since.
    db.execute("UPDATE stakes SET booked_micro = NULL WHERE state IN ('reserved', 'sent')")
    db.execute(
        f"UPDATE stakes SET most_gwei = (SELECT {tally.gwei('max_cost_wei')}"  # noqa: S608
        " FROM steps WHERE steps.step_id = stakes.step_id) WHERE market = ''"
    )
    _rewind_risks(db, last)


def _rewind_risks(db: SqliteDb, last: int) -> None:
    """Have each step risk again what it did after one of the events: what was bid later made it more."""
    query = (
        "SELECT seq, json_extract(data, '$.step_id'), json_extract(data, '$.max_fee_wei') FROM old.events"
        " WHERE kind = 'Observed' AND json_extract(data, '$.act') = 'Outbid' ORDER BY seq"
    )
    fees: dict[str, int] = {}
    for seq, step_id, max_fee_wei in db.execute(query).fetchall():
        fees.setdefault(step_id, 0)
        if seq <= last:
            fees[step_id] = max_fee_wei
    carried = (
        "SELECT acts.step_id FROM steps AS own JOIN steps AS acts USING (nonce) WHERE own.step_id = ?"
        " AND (acts.step_id = own.step_id OR acts.place > 0 AND acts.state <> 'abandoned')"
    )
    for step_id, max_fee_wei in fees.items():
        for (each,) in db.execute(carried, (step_id,)).fetchall():
            if reserved := rows.reserved(db, each):
                tally.count_risk(db, each, tally.raised_risk_wad(reserved, max_fee_wei))
