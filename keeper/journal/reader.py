"""Read a journal from anywhere: another process, while the keeper writes, or after it has died."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from keeper.domain import CaseEvent, EventKind
from keeper.errors import ConfigError, InvariantBroken
from keeper.journal import migrations, opening, rows
from keeper.journal.backup import back_up, export
from keeper.journal.db import Shared
from keeper.journal.rows import MOVES
from keeper.journal.runs import Run, runs_of
from keeper.journal.sqlite import RESTORE
from keeper.journal.tape import TORN, Record, unpack
from keeper.lifecycle import fold
from keeper.ports import LIVE, Bid, Case, StepRecord, StepState
from keeper.units import AccountKey, Block, UnixS


@dataclass(frozen=True, slots=True)
class Summary:
    """What a journal holds, counted."""

    cases: Mapping[str, int]
    """Cases by status."""
    events: Mapping[str, int]
    """Events by kind."""
    steps: Mapping[str, int]
    """Steps by state."""
    reasons: Mapping[str, Mapping[str, int]]
    """For each kind of event that carries a reason (Waited, Refused, Abandoned): events by rule."""


@dataclass(frozen=True, slots=True)
class Reel:
    """What was taped with one head: up to which event, and the records."""

    seq: int
    number: Block
    at_s: UnixS
    events: int
    records: list[Record]


@dataclass(frozen=True, slots=True)
class CaseHistory:
    """A case, what happened in it, and its steps as they stand now."""

    case: Case
    events: list[CaseEvent]
    steps: list[StepRecord]


class JournalReader:
    """A read-only view of one journal."""

    def __init__(self, place: Path | Shared) -> None:
        """Open an existing journal; raise ConfigError where there is none.

        ``summary`` and ``verify`` raise it too, where the file turns out to be damaged.
        """
        self.place = place
        self._db = opening.to_read(place)
        try:
            with ExitStack() as undo:
                undo.enter_context(closing(self._db))
                migrations.expect_known(migrations.version_of(self._db))
                self.identity = dict(self._db.execute("SELECT key, value FROM meta").fetchall())
                undo.pop_all()
        except (self._db.Fault, ConfigError) as error:
            raise ConfigError(f"the journal {place} cannot be read: {error}") from error

    @property
    def path(self) -> Path:
        """The file, or beside which books are kept."""
        return self.place if isinstance(self.place, Path) else self.place.path

    @property
    def leader(self) -> str | None:
        """Who leads of several keepers; None where nobody does, or nobody else could."""
        if isinstance(self.place, Path):
            return None
        found = self._db.execute("SELECT holder FROM lease WHERE until > clock_timestamp()").fetchall()
        return str(found[0][0]) if found else None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def head_done(self, number: Block, block_hash: str | None = None) -> bool:
        """Tell whether the keeper is done with a block, or with one above it; or with exactly one, by hash.

        By hash, because after a reorg the same number is done a second time.
        """
        if block_hash is None:
            found = self._db.execute("SELECT 1 FROM heads WHERE number >= ? LIMIT 1", (number,))
        else:
            found = self._db.execute(
                "SELECT 1 FROM heads WHERE number = ? AND hash = ?", (number, block_hash)
            )
        return found.fetchone() is not None

    def summary(self) -> Summary:
        """Count cases, events, steps and reasons."""
        with self._one_moment():
            return Summary(
                cases=self._counts("SELECT status, count(*) FROM cases GROUP BY status"),
                events=self._counts("SELECT kind, count(*) FROM events GROUP BY kind"),
                steps=self._counts("SELECT state, count(*) FROM steps GROUP BY state"),
                reasons=self._reasons(),
            )

    def last_rules(self) -> dict[AccountKey, str]:
        """Return, for each account that something was decided about, the rule of the newest reason."""
        query = (
            "SELECT account, json_extract(data, '$.rule') AS rule FROM events JOIN cases USING (case_id)"
            " WHERE json_extract(data, '$.rule') IS NOT NULL ORDER BY seq"
        )
        return {bytes(account): rule for account, rule in self._db.execute(query)}

    # --- the tape ---

    def runs(self) -> list[Run]:
        """Return every run that is taped, oldest first; none of a journal from before there were tapes."""
        with self._one_moment():
            return runs_of(self._db) if int(self.identity["schema"]) > 1 else []

    def tape(self, run: int, *, since: int = 0) -> Iterator[Reel]:
        """Yield what a run has taped, in order, a few heads at a time.

        Of what comes before the row ``since`` only its beginning and listings.
        """
        query = (
            "SELECT seq, number, at_s, events, data FROM tape WHERE run = ? AND seq > ?"
            " AND (seq >= ? OR listing <> 0 OR seq = (SELECT min(seq) FROM tape WHERE run = ?))"
            " ORDER BY seq LIMIT 64"
        )
        last = 0
        while page := self._db.execute(query, (run, last, since, run)).fetchall():
            for seq, number, at_s, events, data in page:
                try:
                    records = unpack(data)
                except TORN as error:
                    torn = f"row {seq} of its tape cannot be read: {error}"
                    raise ConfigError(f"the journal {self.place} is damaged: {torn}; {RESTORE}") from error
                yield Reel(seq, number, at_s, events, records)
                last = seq

    def last_reel(self, block: Block | None) -> tuple[int, int, Block, bool] | None:
        """Return run, row and block of what was taped last, or last of blocks up to one; None without any.

        And whether it is the last row of its run.
        """
        if int(self.identity["schema"]) < 2:
            return None
        bound = "" if block is None else "WHERE number <= ?"
        query = f"SELECT run, seq, number FROM tape {bound} ORDER BY seq DESC LIMIT 1"  # noqa: S608
        found = self._db.execute(query, () if block is None else (block,)).fetchone()
        if found is None:
            return None
        last = self._db.execute("SELECT max(seq) FROM tape WHERE run = ?", (found["run"],)).fetchone()[0]
        return found["run"], found["seq"], found["number"], found["seq"] == last

    def books(self, run: Run, last: int) -> list[tuple[int, Path]]:
        """Return the books kept of a run up to a row of the tape, each with the row it was read up to."""
        query = "SELECT seq, file FROM books WHERE run = ? AND seq <= ? ORDER BY seq, block"
        found = self._db.execute(query, (run.run, last)).fetchall()
        return [(row["seq"], self.path.with_name(row["file"])) for row in found]

    def accounts_with_cases(self) -> set[AccountKey]:
        """Return every account that has a case."""
        return {bytes(account) for (account,) in self._db.execute("SELECT DISTINCT account FROM cases")}

    def cases_of(self, account: AccountKey, until: Block | None) -> list[CaseHistory]:
        """Return the cases of an account, oldest first, each with what happened in it up to a block."""
        most = 2**62 if until is None else until
        query = f"{rows.CASES} WHERE account = ? AND opened_block <= ? ORDER BY cases.rowid"
        found = [rows.to_case(row) for row in self._db.execute(query, (account, most))]
        return [self._history(case, most) for case in found]

    def _history(self, case: Case, most: Block) -> CaseHistory:
        told = "SELECT * FROM events JOIN cases USING (case_id) WHERE case_id = ? AND block <= ? ORDER BY seq"
        steps = f"{self._steps} WHERE case_id = ? ORDER BY rowid"
        found = self._db.execute(steps, (case.case_id,)).fetchall()
        bids = rows.bids_of(self._db, [row["step_id"] for row in found]) if self._has_bids else {}
        return CaseHistory(
            case,
            [rows.to_event(row) for row in self._db.execute(told, (case.case_id, most))],
            [rows.to_step(row, bids.get(row["step_id"], ())) for row in found],
        )

    def level_why(self, until: Block) -> str:
        """Say why the book came to the level at which it stood at a block; nothing where it never moved."""
        query = "SELECT why FROM levels WHERE block <= ? ORDER BY seq DESC LIMIT 1"
        found = self._db.execute(query, (until,)).fetchone()
        return "" if found is None else str(found["why"])

    def book(self, run: Run) -> Path | None:
        """Return the book that a run took up, None where it had none."""
        query = "SELECT file FROM books WHERE run = ? ORDER BY seq, block LIMIT 1"
        found = self._db.execute(query, (run.run,)).fetchone() if run.started.get("book") else None
        return None if found is None else self.path.with_name(found["file"])

    def has_book(self, run: Run) -> bool:
        """Tell whether the book that a run took up is on this machine, if it had one."""
        book = self.book(run)
        return book is None or book.exists()

    def events(self, after: int, until: int) -> list[CaseEvent]:
        """Return the events between two, in the order they were recorded."""
        query = "SELECT * FROM events JOIN cases USING (case_id) WHERE seq > ? AND seq <= ? ORDER BY seq"
        return list(map(rows.to_event, self._db.execute(query, (after, until))))

    def signed(self) -> dict[str, tuple[bytes, str]]:
        """Return by unsigned transaction the bytes that were signed of it, and their hash."""
        found = self._db.execute(
            "SELECT unsigned_tx, signed_tx, tx_hash FROM steps WHERE signed_tx IS NOT NULL"
        )
        signed = {unsigned: (bytes(raw), tx_hash) for unsigned, raw, tx_hash in found}
        for bids in self._bids().values():
            for bid in bids:
                if bid.signed_tx is not None and bid.tx_hash is not None:
                    signed[rows.dumps(bid.unsigned_tx)] = bytes(bid.signed_tx), bid.tx_hash
        return signed

    @property
    def _steps(self) -> str:
        """Select steps; a journal of before knows of no batches."""
        place = "" if int(self.identity["schema"]) >= 6 else ", 0 AS place, NULL AS returned_block"
        return f"SELECT *{place} FROM steps"  # noqa: S608

    @property
    def _has_bids(self) -> bool:
        """Whether its tables are of a keeper that bids again."""
        return "sends" in self._db.tables()

    def _bids(self) -> dict[str, list[Bid]]:
        """Return what was to take the place of steps' transactions; a journal of before has none."""
        found: dict[str, list[Bid]] = defaultdict(list)
        if self._has_bids:
            query = "SELECT * FROM sends WHERE kind <> ? ORDER BY step_id, bid"
            for row in self._db.execute(query, (rows.DROPPED,)):
                found[row["step_id"]].append(rows.to_bid(row))
        return found

    def tick_to_tx_ms(self) -> list[float]:
        """Return, in the order of sending, the time from each tick to the node's answer."""
        query = (
            "SELECT json_extract(data, '$.tick_to_tx_ms') AS ms FROM events"
            " WHERE kind = ? AND json_extract(data, '$.tick_to_tx_ms') IS NOT NULL ORDER BY seq"
        )
        return [float(row["ms"]) for row in self._db.execute(query, (EventKind.SENT,))]

    def verify(self) -> list[str]:
        """Return every violation of what a journal promises; none in a sound one."""
        with self._one_moment():
            return [
                *self._db.flaws(),
                *self._broken_cases(),
                *self._broken_steps(),
                *self._unagreed(),
                *self._repeats(),
                *self._torn_rows(),
            ]

    def as_file(self, target: Path) -> Path:
        """Return the file that it lies in; of a shared journal a copy at ``target``, without its tape."""
        if isinstance(self.place, Path):
            return self.place
        back_up(self._db, target, without=("tape",))
        return target

    def back_up(self, target: Path) -> None:
        """Copy all of it to a new SQLite file."""
        back_up(self._db, target)

    def export(self, case_id: str | None = None) -> Iterator[str]:
        """Yield all of it, or one case, as lines of JSON; raise ConfigError where there is no such case."""
        query = "SELECT 1 FROM cases WHERE case_id = ?"
        if case_id is not None and not self._db.execute(query, (case_id,)).fetchall():
            raise ConfigError(f"the journal {self.place} has no case {case_id}")
        with self._one_moment():
            yield from export(self._db, case_id)

    @contextmanager
    def _one_moment(self) -> Iterator[None]:
        """See one state of the file for several queries, whatever the keeper writes meanwhile."""
        try:
            self._db.look()
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")
        except self._db.Fault as error:
            raise ConfigError(f"the journal {self.place} is damaged: {error}") from error

    def _reasons(self) -> dict[str, dict[str, int]]:
        reasons: dict[str, dict[str, int]] = defaultdict(dict)
        for kind, rule, found in self._db.execute(
            "SELECT kind, json_extract(data, '$.rule') AS rule, count(*) FROM events"
            " WHERE json_extract(data, '$.rule') IS NOT NULL GROUP BY kind, rule ORDER BY kind, rule"
        ):
            reasons[kind][rule] = found
        return dict(reasons)

    def _counts(self, query: str) -> dict[str, int]:
        return dict(self._db.execute(query).fetchall())

    def _broken_cases(self) -> Iterator[str]:
        """Yield cases whose status is not the fold of their events."""
        for case in map(rows.to_case, self._db.execute(rows.CASES)):
            query = "SELECT * FROM events JOIN cases USING (case_id) WHERE case_id = ? ORDER BY seq"
            try:
                folded = fold(map(rows.to_event, self._db.execute(query, (case.case_id,))))
            except InvariantBroken as broken:
                yield f"case {case.case_id}: {broken}"
                continue
            if folded is not case.status:
                yield f"case {case.case_id} is {case.status}, and its events lead to {folded}"

    def _broken_steps(self) -> Iterator[str]:
        """Yield steps that their events, their bytes or their own transaction contradict."""
        told: dict[str, StepState] = {}
        hashes: dict[str, set[str]] = defaultdict(set)
        for kind, data in self._db.execute("SELECT kind, data FROM events ORDER BY seq"):
            event = json.loads(data)
            if kind == EventKind.RESERVED:
                told[event["step_id"]] = StepState.RESERVED
            elif kind in MOVES:
                told[event["step_id"]] = MOVES[EventKind(kind)][1]
                hashes[event["step_id"]] |= {event["tx_hash"]} - {None}
        bids = self._bids()
        steps = [rows.to_step(row, bids[row["step_id"]]) for row in self._db.execute(self._steps)]
        for step in steps:
            if told.pop(step.step_id, None) is not step.state:
                yield f"step {step.step_id} is {step.state}, and its events say otherwise"
            nonces = {each.unsigned_tx.get("nonce") for each in step.bids} | {step.unsigned_tx.get("nonce")}
            if nonces != {step.nonce}:
                yield f"step {step.step_id} holds nonce {step.nonce}, and its transaction another"
            if _has_ended(step) != (step.outcome is not None):
                yield f"step {step.step_id} is {step.state} with the outcome {step.outcome}"
        yield from _broken_bytes(steps, hashes)
        yield from (f"the events tell of step {step_id}, which is missing" for step_id in told)

    def _unagreed(self) -> Iterator[str]:
        """Yield steps that take of an account, and rest on no agreement."""
        for (data,) in self._db.execute("SELECT data FROM events WHERE kind = ?", (EventKind.RESERVED,)):
            told = json.loads(data)
            if told.get("closes") and told.get("agreed") is None:
                yield f"step {told['step_id']} takes of an account, and rests on no agreement"

    def _torn_rows(self) -> Iterator[str]:
        """Yield rows of the tape that nobody can read."""
        taped = "SELECT seq, data FROM tape ORDER BY seq"
        for seq, data in self._db.execute(taped) if "tape" in self._db.tables() else ():
            try:
                unpack(data)
            except TORN as error:
                yield f"row {seq} of the tape cannot be read: {error}"

    def _repeats(self) -> Iterator[str]:
        """Yield nonces used twice, and tranches that were included twice."""
        held: dict[int, list[str]] = defaultdict(list)
        closed: dict[tuple[str, int], list[str]] = defaultdict(list)
        for row in self._db.execute(f"{self._steps} ORDER BY step_id"):
            step_id, tranche = row["step_id"], row["tranche_nonce"]
            if row["state"] != StepState.ABANDONED and row["place"] == 0:
                held[row["nonce"]].append(step_id)
            if row["state"] == StepState.INCLUDED and tranche is not None:
                closed[row["account"].hex(), tranche].append(step_id)
        for nonce, steps in held.items():
            if len(steps) > 1:
                yield f"nonce {nonce} is held by several steps: {', '.join(steps)}"
        for (owner, tranche), steps in closed.items():
            if len(steps) > 1:
                yield f"tranche {tranche} of account {owner} was included several times: {', '.join(steps)}"


def _broken_bytes(steps: Sequence[StepRecord], told: Mapping[str, set[str]]) -> Iterator[str]:
    """Yield steps whose transaction's bytes contradict them, or the hashes that their events tell.

    Of a batch the first step has the bytes; its case may be forgotten before those of the others.
    """
    carriers = {each.nonce: each for each in steps if not each.place and each.state != StepState.ABANDONED}
    for step in steps:
        carrier = carriers.get(step.nonce) if step.place else step
        if carrier is None or (step.place and step.state is StepState.ABANDONED):
            continue
        if (step.state in LIVE) != (carrier.state in LIVE):
            yield f"step {step.step_id} is {step.state}, and its transaction is {carrier.state}"
        if carrier.signed_tx is None and (_has_ended(step) or step.state is StepState.SENT):
            yield f"step {step.step_id} is {step.state} without signed bytes"
        if foreign := sorted(told.get(step.step_id, set()) - {*carrier.hashes}):
            yield f"step {step.step_id} has hashes that were not signed: {', '.join(foreign)}"


def _has_ended(step: StepRecord) -> bool:
    return step.state not in (*LIVE, StepState.ABANDONED)
