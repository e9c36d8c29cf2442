"""The journal that the keeper writes: SQLite in WAL mode, every commit on disk before it returns."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from keeper.columns.shape import Row
from keeper.domain import CaseEvent, EventKind, Head, Permit, Reason, Refuse, Step
from keeper.errors import ConfigError, InvariantBroken, KeeperError
from keeper.journal import guard, rows
from keeper.journal.guard import Limits
from keeper.lifecycle import OUTCOMES, Status
from keeper.ports import Case, Outcome, Searched, StepRecord, StepState
from keeper.units import AccountKey, Block, UnixS

HEADS_KEPT = 10_000
ACCOUNTS_AT_ONCE = 2**16

S = StepState
E = EventKind

MOVES: Mapping[EventKind, tuple[tuple[StepState, ...], StepState]] = {
    E.SENT: ((S.RESERVED,), S.SENT),
    E.ABANDONED: ((S.RESERVED,), S.ABANDONED),
    E.INCLUDED: ((S.SENT,), S.INCLUDED),
    E.REVERTED: ((S.SENT,), S.REVERTED),
    E.DISPLACED: ((S.SENT,), S.DISPLACED),
    E.UNINCLUDED: ((S.INCLUDED, S.REVERTED, S.DISPLACED), S.SENT),
}
"""From where to where each event takes the transaction of a step. ``reserve`` alone makes one."""


class SqliteJournal:
    """Implements ``ports.Journal`` and ``ports.Outbox`` on one file.

    May be called from several threads, and several processes may open the same file: writers take turns
    at ``BEGIN IMMEDIATE``, which in WAL mode is exclusive among writers and leaves readers alone.
    """

    def __init__(self, path: Path, *, identity: Mapping[str, str], limits: Limits | None = None) -> None:
        """Open or create the journal of one chain, deployment and wallet; raise ConfigError otherwise.

        ``identity`` names them (such as ``chain_id``, ``deployment``, ``wallet``); case does not matter.
        """
        self._path = path
        self._lock = threading.RLock()
        self._limits = limits or Limits()
        try:
            with ExitStack() as undo:
                self._db = undo.enter_context(closing(rows.connect(path)))
                self._prepare({key: value.lower() for key, value in identity.items()})
                undo.pop_all()
        except (sqlite3.Error, KeeperError) as error:
            raise ConfigError(f"the journal {path} cannot be used: {error.__cause__ or error}") from error

    def _prepare(self, identity: Mapping[str, str]) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
                rows.create(db, identity)
            rows.check_identity(db, identity)
            rows.add_tables(db)
            # A write, so that a file that cannot be written is found before the first act.
            db.execute("UPDATE meta SET value = value WHERE key = 'schema'")

    def close(self) -> None:
        """Close the file; what is in the write-ahead log moves into it, so that it can be copied alone."""
        with suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Commit all that is written inside at once, or nothing of it: one wait for the disk, not many."""
        with self._transaction():
            yield

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            joined = self._db.in_transaction
            if joined:
                yield self._db
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise KeeperError(f"the journal {self._path} cannot be written: {error}") from error
                raise

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise KeeperError(f"the journal {self._path} cannot be read: {error}") from error

    # --- cases ---

    def record(self, events: Sequence[CaseEvent]) -> None:
        """Append events in one transaction; see ``ports.Journal.record``."""
        with self._transaction() as db:
            for event in events:
                if event.kind in MOVES or event.kind is E.RESERVED:
                    raise InvariantBroken(
                        f"{event.kind} of case {event.case_id} belongs to a step's own move"
                    )
                rows.append(db, event)

    def status(self, case_id: str) -> Status | None:
        """Return the status of a case; None where it is not known."""
        found = self._rows("SELECT status FROM cases WHERE case_id = ?", case_id)
        return Status(found[0]["status"]) if found else None

    def open_case(self, account: AccountKey) -> str | None:
        """Return the id of the account's newest open case."""
        with self._lock:
            return rows.open_case(self._db, account)

    def open_cases(self) -> tuple[Case, ...]:
        """Return every case that is not closed, oldest first."""
        return tuple(
            map(rows.to_case, self._rows("SELECT * FROM cases WHERE status <> 'closed' ORDER BY rowid"))
        )

    def history(self, case_id: str) -> tuple[CaseEvent, ...]:
        """Return the events of a case in the order they were recorded."""
        query = "SELECT * FROM events JOIN cases USING (case_id) WHERE case_id = ? ORDER BY seq"
        return tuple(map(rows.to_event, self._rows(query, case_id)))

    # --- the one door, and what went through it ---

    def reserve(
        self, step: Step, tx: Mapping[str, Any], *, chain_nonce: int, block: Block, at_s: UnixS
    ) -> Permit | Refuse:
        """Check every limit and commit the unsigned transaction; only then grant the Permit."""
        with self._transaction() as db:
            return guard.reserve(db, self._limits, step, tx, chain_nonce=chain_nonce, block=block, at_s=at_s)

    def step(self, step_id: str) -> StepRecord:
        """Return one step; raise InvariantBroken where it is not known."""
        found = self._rows("SELECT * FROM steps WHERE step_id = ?", step_id)
        if not found:
            raise InvariantBroken(f"the journal knows no step {step_id}")
        return rows.to_step(found[0])

    def live_steps(self) -> tuple[StepRecord, ...]:
        """Return the reserved and the sent steps, lowest nonce first."""
        query = "SELECT * FROM steps WHERE state IN ('reserved', 'sent') ORDER BY nonce"
        return tuple(map(rows.to_step, self._rows(query)))

    def settled_since(self, block: Block) -> tuple[StepRecord, ...]:
        """Return the steps whose outcome is of ``block`` or later, lowest nonce first."""
        query = "SELECT * FROM steps WHERE outcome_block >= ? ORDER BY nonce"
        return tuple(map(rows.to_step, self._rows(query, block)))

    def sign(self, step_id: str, raw: bytes, tx_hash: str) -> None:
        """Commit the signed bytes, before they are first sent. The same bytes again change nothing."""
        with self._transaction() as db:
            step = self.step(step_id)
            if step.tx_hash is None and step.state is S.RESERVED:
                update = "UPDATE steps SET signed_tx = ?, tx_hash = ? WHERE step_id = ?"
                db.execute(update, (raw, tx_hash, step_id))
            elif (step.tx_hash, step.signed_tx) != (tx_hash, raw):
                raise InvariantBroken(f"step {step_id} is {step.state} as {step.tx_hash}, not as {tx_hash}")

    def sent(self, step_id: str, *, block: Block, at_s: UnixS, data: Mapping[str, Any] | None = None) -> None:
        """Note that a node was handed the bytes, whatever it answered. Again, it changes nothing."""
        with self._transaction() as db:
            step = self.step(step_id)
            if step.signed_tx is None:
                raise InvariantBroken(f"step {step_id} was sent before its signed bytes were committed")
            if step.state is not S.SENT:
                self._move(db, step, E.SENT, told=data or {}, block=block, at_s=at_s)

    def abandon(self, step_id: str, reason: Reason, *, block: Block, at_s: UnixS) -> None:
        """End a step whose bytes are certainly nowhere; its nonce is free again."""
        told = {"rule": reason.rule, "evidence": reason.evidence, "bound": reason.bound}
        with self._transaction() as db:
            self._move(db, self.step(step_id), E.ABANDONED, told=told, block=block, at_s=at_s)
            db.execute("UPDATE steps SET gas_cost_wei = '0' WHERE step_id = ?", (step_id,))

    def settle(self, step_id: str, outcome: Outcome, *, at_s: UnixS) -> None:
        """Note how a sent transaction ended."""
        if outcome.kind not in OUTCOMES:
            raise InvariantBroken(f"{outcome.kind} is not the outcome of a transaction")
        told = {"block_hash": outcome.block_hash, "gas_cost_wei": outcome.gas_cost_wei}
        with self._transaction() as db:
            self._move(db, self.step(step_id), outcome.kind, told=told, block=outcome.block, at_s=at_s)
            db.execute(
                "UPDATE steps SET outcome_block = ?, outcome_hash = ?, outcome_at_s = ?, gas_cost_wei = ?"
                " WHERE step_id = ?",
                (outcome.block, outcome.block_hash, at_s, str(outcome.gas_cost_wei), step_id),
            )

    def unsettle(self, step_id: str, *, block: Block, at_s: UnixS) -> None:
        """Put a transaction back in flight whose outcome a reorg has undone."""
        with self._transaction() as db:
            step = self.step(step_id)
            told = {"outcome_block": step.outcome.block if step.outcome else None}
            self._move(db, step, E.UNINCLUDED, told=told, block=block, at_s=at_s)
            db.execute(
                "UPDATE steps SET outcome_block = NULL, outcome_hash = NULL, outcome_at_s = NULL,"
                " gas_cost_wei = NULL WHERE step_id = ?",
                (step_id,),
            )

    def _move(
        self,
        db: sqlite3.Connection,
        step: StepRecord,
        kind: EventKind,
        *,
        told: Mapping[str, Any],
        block: Block,
        at_s: UnixS,
    ) -> None:
        """Move a step and its case by the same event."""
        sources, target = MOVES[kind]
        if step.state not in sources:
            raise InvariantBroken(f"step {step.step_id} is {step.state} and cannot become {target}")
        db.execute("UPDATE steps SET state = ? WHERE step_id = ?", (target, step.step_id))
        data = {"step_id": step.step_id, "kind": step.kind, "nonce": step.nonce, "tx_hash": step.tx_hash}
        rows.append(db, CaseEvent(step.case_id, step.account, kind, block, at_s, {**data, **told}))

    # --- heads ---

    def head_done(self, head: Head) -> None:
        """Note that everything the keeper had to do at a head is done."""
        with self._transaction() as db:
            done = db.execute(
                "INSERT INTO heads (number, hash, parent_hash, timestamp_s, base_fee_wei, done_at_s)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    head.number,
                    head.hash,
                    head.parent_hash,
                    head.timestamp_s,
                    str(head.base_fee_wei),
                    time.time(),
                ),
            )
            db.execute("DELETE FROM heads WHERE seq <= ?", ((done.lastrowid or 0) - HEADS_KEPT,))

    def last_head(self) -> Head | None:
        """Return the head that was done last; None in a new journal."""
        found = self._rows("SELECT * FROM heads ORDER BY seq DESC LIMIT 1")
        return rows.to_head(found[0]) if found else None

    # --- accounts ---

    def note_found(self, accounts: Iterable[AccountKey], searched: Searched | None) -> None:
        """Keep accounts that events named, and up to where they were looked for, in one transaction."""
        with self._transaction() as db:
            db.executemany("INSERT OR IGNORE INTO accounts VALUES (?)", ((each,) for each in accounts))
            if searched is not None:
                db.execute(
                    "INSERT OR REPLACE INTO searched VALUES (1, ?, ?, ?)",
                    (searched.first, searched.last, searched.last_hash),
                )

    def found(self) -> Iterator[list[AccountKey]]:
        """Yield every account that was ever found, in order, many at a time."""
        query = "SELECT account FROM accounts WHERE account > ? ORDER BY account LIMIT ?"
        last = b""
        while page := [row[0] for row in self._rows(query, last, ACCOUNTS_AT_ONCE)]:
            yield page
            last = page[-1]

    def searched(self) -> Searched | None:
        """Return where the search stands; None where it has not begun."""
        found = self._rows("SELECT * FROM searched")
        return rows.to_searched(found[0]) if found else None

    def note_difference(self, head: Head, mirror: Row, chain: Row) -> None:
        """Keep both values of an account that the mirror had otherwise than the chain at a head."""
        values = (chain.key, head.number, head.hash, head.timestamp_s)
        with self._transaction() as db:
            db.execute(
                "INSERT INTO differences (account, block, block_hash, at_s, mirror, chain)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (*values, rows.dumps(asdict(mirror)), rows.dumps(asdict(chain))),
            )

    def note_healed(self) -> None:
        """Note that since the last difference every account was found as the chain has it."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO healed SELECT 1, max(seq) FROM differences")

    def unhealed(self) -> int:
        """Return how many differences came after that."""
        query = "SELECT count(*) FROM differences WHERE seq > ifnull((SELECT seq FROM healed), 0)"
        return int(self._rows(query)[0][0])
