"""The tables, how values go in and out of them, and the one place that moves a case.

Amounts in wei and wad are decimal text: SQLite's integers end at 2^63, and its JSON functions turn what
is larger into floats. JSON is the standard library's, whose integers have no bound.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from itertools import islice
from typing import Any

from keeper.domain import CaseEvent, ChainTime, EventKind, Head
from keeper.errors import ConfigError, InvariantBroken
from keeper.journal.db import Db
from keeper.journal.migrations import VERSION
from keeper.lifecycle import Status, advance
from keeper.ports import Aftermath, Bid, BidKind, Case, Outcome, Searched, StepRecord, StepState
from keeper.units import AccountKey

MOVES: Mapping[EventKind, tuple[tuple[StepState, ...], StepState]] = {
    EventKind.SENT: ((StepState.RESERVED,), StepState.SENT),
    EventKind.ABANDONED: ((StepState.RESERVED,), StepState.ABANDONED),
    EventKind.INCLUDED: ((StepState.SENT,), StepState.INCLUDED),
    EventKind.REVERTED: ((StepState.SENT,), StepState.REVERTED),
    EventKind.DISPLACED: ((StepState.SENT,), StepState.DISPLACED),
    EventKind.UNINCLUDED: ((StepState.INCLUDED, StepState.REVERTED, StepState.DISPLACED), StepState.SENT),
}
"""From where to where each event takes the transaction of a step. ``reserve`` alone makes one."""

SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    """CREATE TABLE cases (
        case_id TEXT PRIMARY KEY, account BLOB NOT NULL, status TEXT NOT NULL, opened_block INTEGER NOT NULL
    ) STRICT""",
    "CREATE INDEX open_cases ON cases (account) WHERE status <> 'closed'",
    """CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, case_id TEXT NOT NULL REFERENCES cases, kind TEXT NOT NULL,
        block INTEGER NOT NULL, at_s INTEGER NOT NULL, data TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX events_of_case ON events (case_id, seq)",
    """CREATE TABLE steps (
        step_id TEXT PRIMARY KEY, case_id TEXT NOT NULL REFERENCES cases, account BLOB NOT NULL,
        kind TEXT NOT NULL, tranche_nonce INTEGER, attempt INTEGER NOT NULL, nonce INTEGER NOT NULL,
        state TEXT NOT NULL, reserved_block INTEGER NOT NULL, reserved_at_s INTEGER NOT NULL,
        valid_until_block INTEGER NOT NULL, notional_wad TEXT NOT NULL, expected_profit_wad TEXT NOT NULL,
        max_cost_wei TEXT NOT NULL, unsigned_tx TEXT NOT NULL, signed_tx BLOB, tx_hash TEXT,
        outcome_block INTEGER, outcome_hash TEXT, outcome_at_s INTEGER, gas_cost_wei TEXT
    ) STRICT""",
    "CREATE UNIQUE INDEX one_nonce_one_transaction ON steps (nonce) WHERE state <> 'abandoned'",
    "CREATE INDEX live_steps ON steps (nonce) WHERE state IN ('reserved', 'sent')",
    "CREATE INDEX steps_by_time ON steps (reserved_at_s)",
    "CREATE INDEX steps_by_block ON steps (reserved_block)",
    "CREATE INDEX steps_of_account ON steps (account)",
    "CREATE INDEX steps_of_case ON steps (case_id, kind, tranche_nonce)",
    "CREATE INDEX steps_by_outcome ON steps (outcome_block)",
    """CREATE TABLE heads (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, number INTEGER NOT NULL, hash TEXT NOT NULL,
        parent_hash TEXT NOT NULL, timestamp_s INTEGER NOT NULL, base_fee_wei TEXT NOT NULL,
        done_at_s REAL NOT NULL
    ) STRICT""",
    "CREATE INDEX heads_by_number ON heads (number)",
)
ADDED = (
    "CREATE TABLE IF NOT EXISTS accounts (account BLOB PRIMARY KEY) STRICT, WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS searched (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1), first INTEGER NOT NULL, last INTEGER NOT NULL,
        last_hash TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS search_scope (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1), scope TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS differences (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, account BLOB NOT NULL, block INTEGER NOT NULL,
        block_hash TEXT NOT NULL, at_s INTEGER NOT NULL, mirror TEXT NOT NULL, chain TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS healed (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1), seq INTEGER NOT NULL
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS levels (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, level TEXT NOT NULL, block INTEGER NOT NULL,
        block_hash TEXT NOT NULL, at_s INTEGER NOT NULL, why TEXT NOT NULL, signs TEXT NOT NULL
    ) STRICT""",
)
"""Tables that came later, and that an older keeper can do without."""


def create(db: Db, identity: Mapping[str, str]) -> None:
    """Lay out a new journal as the first keeper did, inside an open transaction; migrations do the rest."""
    for statement in SCHEMA:
        db.execute(statement)
    db.executemany("INSERT INTO meta VALUES (?, ?)", [("schema", "1"), *sorted(identity.items())])


def add_tables(db: Db) -> None:
    """Add what a journal of before does not have yet, inside an open transaction."""
    for statement in ADDED:
        db.execute(statement)


def check_identity(db: Db, identity: Mapping[str, str]) -> None:
    """Raise ConfigError where the journal is another deployment's or another wallet's."""
    found = {row["key"]: row["value"] for row in db.execute("SELECT key, value FROM meta")}
    expected = {"schema": str(VERSION), **identity}
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            raise ConfigError(f"its {key} is {found.get(key)}, and {expected.get(key)} is configured")


def _plain(value: Any) -> str | dict[str, Any]:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    raise TypeError(f"{type(value).__name__} does not go into the journal: {value!r}")


WRITER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plain)


def dumps(value: Mapping[str, Any]) -> str:
    """Write JSON: bytes become 0x text, a message its fields, integers stay exact, NaN is refused."""
    return WRITER.encode(value)


def told_aftermath(aftermath: Aftermath) -> dict[str, Any]:
    """Say as an event does what there is to say of how a step ended."""
    told: dict[str, Any] = {}
    if (booking := aftermath.booking) is not None:
        told |= {"moved": dict(booking.moved), "worth_wad": booking.worth_wad}
        told |= {"gas_wad": booking.gas_wad, "profit_wad": booking.profit_wad}
    if aftermath.why:
        told["why"] = aftermath.why
    if aftermath.lost_to is not None:
        told["lost_to"] = asdict(aftermath.lost_to)
    return told


def of_aftermath(aftermath: Aftermath) -> tuple[str | None, str | None]:
    """Return what a step keeps of it: its profit, and by which transaction it lost a race."""
    profit_wad = aftermath.booking.profit_wad if aftermath.booking else None
    lost_to = aftermath.lost_to.tx_hash if aftermath.lost_to else None
    return None if profit_wad is None else str(profit_wad), lost_to


AT_ONCE = 512
"""Cases that are looked up by one statement: SQLite takes some thousand values."""


def append(db: Db, event: CaseEvent) -> None:
    """Append one event and move its case by the lifecycle's table, inside an open transaction."""
    append_all(db, [event])


def append_all(db: Db, events: Sequence[CaseEvent]) -> None:
    """Append events in their order, inside an open transaction: a few statements, however many they are."""
    before = _known(db, events)
    opened = {each.case_id: each for each in reversed(events) if each.case_id not in before}
    cared = _under_care(db, opened.values())
    known = dict(before)
    for event in events:
        try:
            known[event.case_id] = event.account, _moved(event, known.get(event.case_id), cared)
        except InvariantBroken as broken:
            where = f"case {event.case_id}, account {event.account.hex()}, block {event.block}"
            raise InvariantBroken(f"{where}: {broken}") from None
    _write(
        db,
        "INSERT INTO cases VALUES (?, ?, ?, ?)",
        [(name, each.account, known[name][1], each.block) for name, each in reversed(opened.items())],
    )
    _write(
        db,
        "UPDATE cases SET status = ? WHERE case_id = ?",
        [(known[name][1], name) for name, was in before.items() if known[name] != was],
    )
    _write(
        db,
        "INSERT INTO events (case_id, kind, block, at_s, data) VALUES (?, ?, ?, ?, ?)",
        [(each.case_id, each.kind, each.block, each.at_s, dumps(each.data)) for each in events],
    )


def _write(db: Db, statement: str, values: Sequence[Sequence[object]]) -> None:
    if values:
        db.executemany(statement, values)


def _moved(
    event: CaseEvent, case: tuple[AccountKey, Status] | None, cared: dict[AccountKey, set[str]]
) -> Status:
    """Return the status after an event, and bring up to date who is under care."""
    after = advance(case[1] if case else None, event.kind)
    others = cared.setdefault(event.account, set())
    if case is None and others:
        raise InvariantBroken(f"the account is under care already, as case {min(others)}")
    if case is not None and event.account != case[0]:
        raise InvariantBroken(f"the case is that of account {case[0].hex()}")
    if after is Status.CLOSED:
        others.discard(event.case_id)
    else:
        others.add(event.case_id)
    return after


def _known(db: Db, events: Sequence[CaseEvent]) -> dict[str, tuple[AccountKey, Status]]:
    """Return account and status of those cases of some events that the journal has."""
    query = "SELECT case_id, account, status FROM cases WHERE case_id IN ({})"
    found = _looked_up(db, query, dict.fromkeys(event.case_id for event in events))
    return {row["case_id"]: (row["account"], Status(row["status"])) for row in found}


def _under_care(db: Db, events: Iterable[CaseEvent]) -> dict[AccountKey, set[str]]:
    """Return the open cases of those accounts of some events that have any."""
    query = "SELECT account, case_id FROM cases WHERE status <> 'closed' AND account IN ({})"
    cared: dict[AccountKey, set[str]] = {}
    for row in _looked_up(db, query, dict.fromkeys(event.account for event in events)):
        cared.setdefault(row["account"], set()).add(row["case_id"])
    return cared


def _looked_up(db: Db, query: str, values: Iterable[object]) -> Iterator[Any]:
    rest = iter(values)
    while some := list(islice(rest, AT_ONCE)):
        # Of few lengths, by asking for the last one again: each is a statement that a connection has to keep.
        some += some[-1:] * ((1 << (len(some) - 1).bit_length()) - len(some))
        yield from db.execute(query.format(", ".join("?" * len(some))), some)


def open_case(db: Db, account: AccountKey) -> str | None:
    """Return the id of the account's newest open case."""
    row = db.execute(
        "SELECT case_id FROM cases WHERE account = ? AND status <> 'closed' ORDER BY rowid DESC", (account,)
    ).fetchone()
    return None if row is None else str(row["case_id"])


SINCE_CALL = (
    "seq > coalesce("
    "(SELECT max(seq) FROM events WHERE events.case_id = cases.case_id AND kind = 'Called'), 0)"
)
CASES = (
    "SELECT cases.*, (SELECT at_s FROM events WHERE events.case_id = cases.case_id ORDER BY seq LIMIT 1)"  # noqa: S608
    " AS opened_at_s, since.block AS since_block, since.at_s AS since_at_s,"
    " (SELECT json_extract(data, '$.rung') FROM events WHERE events.case_id = cases.case_id"
    f" AND kind = 'Moved' AND {SINCE_CALL} ORDER BY seq DESC LIMIT 1) AS rung,"
    " EXISTS (SELECT 1 FROM events WHERE events.case_id = cases.case_id AND kind = 'Reserved'"
    f" AND json_extract(data, '$.agreed') IS NOT NULL AND {SINCE_CALL}) AS agreed"
    " FROM cases LEFT JOIN events AS since ON since.seq = ("
    "SELECT min(seq) FROM events WHERE events.case_id = cases.case_id AND kind = 'Suspected'"
    f" AND {SINCE_CALL})"
)


def to_case(row: Any) -> Case:
    """Read a row of ``CASES``."""
    since = None if row["since_block"] is None else ChainTime(row["since_block"], row["since_at_s"])
    return Case(
        row["case_id"],
        row["account"],
        Status(row["status"]),
        row["opened_block"],
        row["opened_at_s"],
        since,
        row["rung"],
        bool(row["agreed"]),
    )


def to_event(row: Any) -> CaseEvent:
    """Read a row of ``events`` joined with the account of its case."""
    return CaseEvent(
        row["case_id"],
        row["account"],
        EventKind(row["kind"]),
        row["block"],
        row["at_s"],
        json.loads(row["data"]),
    )


DROPPED = "dropped"
"""The kind of a later bid that never was signed, and never will be."""


def bids_of(db: Db, step_ids: Iterable[str]) -> dict[str, list[Bid]]:
    """Return what was to take the place of steps' transactions, and to fill gaps below, oldest first."""
    found: dict[str, list[Bid]] = {}
    query = f"SELECT * FROM sends WHERE step_id IN ({{}}) AND kind <> '{DROPPED}' ORDER BY step_id, bid"  # noqa: S608
    for row in _looked_up(db, query, step_ids):
        found.setdefault(row["step_id"], []).append(to_bid(row))
    return found


def carried_by(db: Db, nonces: Iterable[int]) -> dict[int, list[StepRecord]]:
    """Return by nonce the steps that its transaction carries beside its own, in their order."""
    found: dict[int, list[StepRecord]] = {}
    query = (
        "SELECT * FROM steps WHERE place > 0 AND state <> 'abandoned' AND nonce IN ({}) ORDER BY nonce, place"
    )
    for row in _looked_up(db, query, nonces):
        found.setdefault(row["nonce"], []).append(to_step(row))
    return found


def to_bid(row: Any) -> Bid:
    """Read a row of ``sends``."""
    return Bid(
        number=row["bid"],
        kind=BidKind(row["kind"]),
        block=row["block"],
        unsigned_tx=json.loads(row["unsigned_tx"]),
        signed_tx=row["signed_tx"],
        tx_hash=row["tx_hash"],
    )


def to_step(row: Any, bids: Sequence[Bid] = (), carries: Sequence[StepRecord] = ()) -> StepRecord:
    """Read a row of ``steps``, with what was to take its transaction's place, and what that carries."""
    return StepRecord(
        step_id=row["step_id"],
        case_id=row["case_id"],
        account=row["account"],
        kind=row["kind"],
        nonce=row["nonce"],
        state=StepState(row["state"]),
        reserved_block=row["reserved_block"],
        valid_until_block=row["valid_until_block"],
        unsigned_tx=json.loads(row["unsigned_tx"]),
        signed_tx=row["signed_tx"],
        tx_hash=row["tx_hash"],
        outcome=None if row["outcome_block"] is None else _to_outcome(row),
        bids=tuple(each for each in bids if each.kind is not BidKind.FILL),
        fills=tuple(each for each in bids if each.kind is BidKind.FILL),
        place=row["place"],
        carries=tuple(carries),
        returned_block=row["returned_block"],
    )


def _to_outcome(row: Any) -> Outcome:
    kind = EventKind(row["state"].capitalize())
    return Outcome(kind, row["outcome_block"], row["outcome_hash"], int(row["gas_cost_wei"]))


def reserved(db: Db, step_id: str) -> dict[str, Any]:
    """Return what the permit of a step was told with; nothing where its event is forgotten."""
    query = "SELECT data FROM events JOIN steps USING (case_id) WHERE step_id = ? AND events.kind = ?"
    told = (json.loads(row["data"]) for row in db.execute(query, (step_id, EventKind.RESERVED)).fetchall())
    return next((each for each in told if each["step_id"] == step_id), {})


def to_head(row: Any) -> Head:
    """Read a row of ``heads``."""
    base_fee_wei = int(row["base_fee_wei"]) if row["base_fee_wei"] else None
    return Head(row["number"], row["hash"], row["parent_hash"], row["timestamp_s"], base_fee_wei)


def to_searched(row: Any) -> Searched:
    """Read the row of ``searched``, with its scope."""
    return Searched(row["first"], row["last"], row["last_hash"], row["scope"])
