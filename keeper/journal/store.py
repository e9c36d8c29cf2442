"""The journal that the keeper writes: what is to last is on disk before its commit returns.

``StoredJournal`` holds all that is written and asked; what is a database's own is below, for SQLite, and in
``shared``, for PostgreSQL.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from keeper.columns.shape import Row
from keeper.domain import (
    Agree,
    CaseEvent,
    Economics,
    EventKind,
    Head,
    Level,
    Permit,
    Reason,
    Record,
    Refuse,
    Seen,
    Step,
)
from keeper.errors import ConfigError, InvariantBroken, KeeperError
from keeper.journal import guard, migrations, retention, rows, runs, sqlite, switches, tally
from keeper.journal.db import Db
from keeper.journal.guard import Claims, Limits, Standing, View
from keeper.journal.retention import Keep
from keeper.journal.rows import MOVES
from keeper.journal.sqlite import SqliteDb
from keeper.journal.tape import Packed, Recorder
from keeper.journal.wallet import Wallet, to_record
from keeper.lifecycle import OUTCOMES, Status
from keeper.ports import (
    BREAKERS,
    NOTHING_MORE,
    Aftermath,
    Bid,
    BidKind,
    Case,
    Leadership,
    Measure,
    Outcome,
    Searched,
    StepRecord,
    StepState,
    Switch,
    Thrown,
)
from keeper.state import archive
from keeper.units import WAD, AccountKey, Block, FeedId, UnixS, Wad, Wei

ODDS_OF = 50
"""The last steps of a kind by which it is told how likely the next one does what it should."""
ODDS_LOOKED_AT = 500
PRIOR_WON, PRIOR_OF = 9, 10
"""A kind of which nothing is known yet counts as if so many of so many had."""
HEADS_KEPT = 10_000
REVERTS_OF, REVERTS_LEAST = 20, 8
"""Own steps of the last hour by which it is told what share reverts: so many at most, and at least."""
ACCOUNTS_AT_ONCE = 2**16
PAGE_BYTES = 2**11
"""A commit writes whole each page in which it changes a row or an index: half of what SQLite takes else."""
UNRESTED_BYTES = 2**26
"""Of SQLite's log: where nobody lets the journal rest, a commit moves so much into the file."""
BOOK_BLOCKS = 7_200
"""How far apart books are kept beside a tape; what lies between is read from the tape."""

ENDINGS = ("included", "reverted", "race_lost", "displaced")
"""How a transaction ends."""
STOPS = (Switch.HALT, Switch.FOREIGN, Switch.PAUSE, *BREAKERS)

S = StepState
E = EventKind

ONE_OF_ALL = f"NOT (place > 0 AND {tally.FAILED_TOGETHER})"
"""Of the steps of a batch that reverted whole the first stands for all."""

ONE_STEP = (
    "SELECT steps.*, (EXISTS (SELECT 1 FROM sends WHERE sends.step_id = steps.step_id)"
    " OR EXISTS (SELECT 1 FROM steps AS others WHERE others.nonce = steps.nonce AND others.place > 0"
    " AND others.state <> 'abandoned')) AS has_more FROM steps WHERE step_id = ?"
)
"""A step, and whether there are bids of it or others in its transaction."""

FIRST_SIGNED = (
    "UPDATE steps SET signed_tx = ?, tx_hash = ?"
    " WHERE step_id = ? AND place = 0 AND state = 'reserved' AND tx_hash IS NULL"
)
CARRIED_SIGNED = (
    "UPDATE steps SET tx_hash = ? WHERE place > 0 AND state <> 'abandoned'"
    " AND nonce = (SELECT nonce FROM steps WHERE step_id = ?)"
)
"""What goes along in its transaction."""

STILL = (E.CALLED, E.MOVED, E.OBSERVED, E.WAITED, E.REFUSED)
"""Events that move no case but as whoever records them knows."""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a permit would look at, looked at in advance."""

    version: int
    """Of the database, as it counts what other connections write."""
    moment: tuple[int, Block, UnixS]
    """The chain's nonce, the block and its time."""
    limits: Limits
    thrown: tuple[Thrown, ...]
    """The switches of the journal that are on."""
    standing: Standing
    view: View

    def view_by(self, limits: Limits, standing: Standing) -> View | None:
        """Return what the journal says, where the limits and what bears on a grant are as they were."""
        return self.view if self.limits is limits and self.standing == standing else None


class StoredJournal:
    """Implements ``ports.Journal`` and ``ports.Outbox`` on a database.

    May be called from several threads, and several processes may write to the same database: they take turns.
    """

    def __init__(
        self, db: Db, path: Path, name: str, limits: Limits | None, wallet: Wallet | None = None
    ) -> None:
        """Take a connection; books are kept beside ``path``, and errors call the journal by ``name``.

        ``wallet`` is shared with the journals of other deployments.
        """
        self._db = db
        self._path = path
        self._books = f"{path.name}.book-"
        """How the names of kept books begin."""
        self._name = name
        self._wallet = wallet or Wallet()
        self._lock = self._wallet.lock
        self._limits = limits or Limits()
        self._reloaded = False
        self._told: Callable[[Standing], Standing] = lambda standing: standing
        self._tape: Recorder | None = None
        self._run = 0
        self._lasting = True
        """Whether the transaction that is open, or was the last, is on disk once it is committed."""
        self._foreseen: Foreseen | None = None
        """What was looked at in advance; None where a step, a switch or a head was written since."""
        self._granted: dict[str, StepRecord] = {}
        """The steps permitted in the transaction that is open, unless more was written of them."""

    def _prepare(self, db: Db, identity: Mapping[str, str]) -> None:
        """Lay out a new journal, bring an older one up, refuse another's; inside an open transaction."""
        if not db.tables():
            rows.create(db, identity)
        version = migrations.version_of(db)
        if version is None:
            raise ConfigError("it is a database, but not a keeper's journal")
        migrations.expect_known(version)
        migrations.bring_up(db, version)
        rows.check_identity(db, identity)
        rows.add_tables(db)
        # A write, so that what cannot be written is found before the first act.
        db.execute("UPDATE meta SET value = value WHERE key = 'schema'")

    def close(self) -> None:
        """Write what is left of the tape, and close the database."""
        self._end_tape()
        with self._lock:
            self._wallet.leave(self)
            self._db.close()

    def _end_tape(self) -> None:
        if self._tape is not None and (head := self.last_head()) is not None:
            with self._transaction() as db:
                self._write_tape(db, self._tape, self._tape.take_rest(), head)
            self._tape = None

    @contextmanager
    def together(self, *, lasting: bool = True) -> Iterator[None]:
        """Commit all that is written inside at once, or nothing of it: one wait for the disk, not many.

        What need not be ``lasting`` does not wait at all; see ``ports.Journal.together``.
        """
        with self._transaction(lasting=lasting, of_cases=True):
            yield

    @contextmanager
    def _transaction(
        self, *, lasting: bool = True, adds: bool = False, of_cases: bool = False
    ) -> Iterator[Db]:
        """Write in a transaction of its own, or in the one that is open, which lasts or does not.

        ``adds``: only what anybody may add, whoever leads. ``of_cases``: nothing that a permit looks at.
        """
        with self._lock:
            if not of_cases:
                self._foreseen = None
                self._granted.clear()
            joined = self._db.in_transaction
            if joined:
                yield self._db
                return
            try:
                self._db.begin_adding() if adds else self._db.begin(lasting=lasting)
                self._lasting = lasting
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, self._db.Fault):
                    told = self._db.told(error)
                    raise KeeperError(f"the journal {self._name} cannot be written: {told}") from error
                raise
            finally:
                self._granted.clear()

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._asked() as db:
            return db.execute(query, values).fetchall()

    @contextmanager
    def _asked(self) -> Iterator[Db]:
        with self._lock:
            try:
                yield self._db
            except self._db.Fault as error:
                told = self._db.told(error)
                raise KeeperError(f"the journal {self._name} cannot be read: {told}") from error

    def leads(self) -> bool:
        """Tell whether this keeper may act; raise Deposed where it may not any more. Alone it always may."""
        return True

    @property
    def leadership(self) -> Leadership | None:
        """Who leads; None where nobody else could."""
        return None

    def unkept(self) -> list[str]:
        """Return the journals of the wallet that this process leads and does not keep."""
        return []

    # --- cases ---

    def record(self, events: Sequence[CaseEvent]) -> None:
        """Append events in one transaction; see ``ports.Journal.record``."""
        with self._transaction(lasting=False, of_cases=True) as db:
            for event in events:
                if event.kind in MOVES or event.kind is E.RESERVED:
                    raise InvariantBroken(
                        f"{event.kind} of case {event.case_id} belongs to a step's own move"
                    )
            rows.append_all(db, events)

    def status(self, case_id: str) -> Status | None:
        """Return the status of a case; None where it is not known."""
        found = self._rows("SELECT status FROM cases WHERE case_id = ?", case_id)
        return Status(found[0]["status"]) if found else None

    def open_case(self, account: AccountKey) -> str | None:
        """Return the id of the account's newest open case."""
        with self._asked() as db:
            return rows.open_case(db, account)

    def open_cases(self) -> tuple[Case, ...]:
        """Return every case that is not closed, oldest first."""
        return tuple(
            map(rows.to_case, self._rows(f"{rows.CASES} WHERE status <> 'closed' ORDER BY cases.rowid"))
        )

    def alarm(self, case_id: str) -> Seen | None:
        """Return when a case was first suspected since its last call, and how healthy its account was."""
        query = (
            "SELECT at_s, data FROM events WHERE case_id = ? AND kind = 'Suspected' AND seq > (SELECT"
            " coalesce(max(seq), 0) FROM events WHERE case_id = ? AND kind = 'Called') ORDER BY seq LIMIT 1"
        )
        found = self._rows(query, case_id, case_id)
        health = json.loads(found[0]["data"]).get("health") if found else None
        return None if health is None else Seen(found[0]["at_s"], int(health * WAD))

    def closed_since(self, at_s: UnixS) -> Mapping[AccountKey, Seen]:
        """Return whom included steps should have restored since: when last, and the best health before."""
        query = (
            "SELECT account, outcome_at_s, ends_at_wad FROM steps"
            " WHERE reserved_at_s > ? AND outcome_at_s > ? AND state = 'included' AND ends_at_wad IS NOT NULL"
            " ORDER BY outcome_at_s, rowid"
        )
        closed: dict[AccountKey, Seen] = {}
        for row in self._rows(query, at_s - tally.HOUR_S, at_s):
            account, health_wad = row["account"], int(row["ends_at_wad"])
            before = closed.get(account)
            # In a fall that goes on, each step's own health would let the next one wait for a lower one.
            best_wad = health_wad if before is None else max(health_wad, before.health_wad)
            closed[account] = Seen(row["outcome_at_s"], best_wad)
        return closed

    def record_at(self, at_s: UnixS) -> Record:
        """Return what the steps so far mean for the next one."""
        query = (
            f"SELECT kind, state, outcome_at_s FROM steps WHERE outcome_block IS NOT NULL AND {ONE_OF_ALL}"  # noqa: S608
            " ORDER BY outcome_block DESC, rowid DESC LIMIT ?"
        )
        ended = defaultdict[str, list[bool]](list)
        for row in self._rows(query, ODDS_LOOKED_AT):
            if row["outcome_at_s"] > at_s - retention.LOOKS_BACK_S:
                ended[row["kind"]].append(row["state"] == S.INCLUDED)
        won = {kind: _odds_wad(each[:ODDS_OF]) for kind, each in ended.items()}
        with self._asked() as db:
            return Record(won, _odds_wad([]), tally.moved_wad(db, at_s))

    def failed_whole(self, account: AccountKey) -> bool:
        """Tell whether an account's last transaction reverted as a whole, and no race was lost by it."""
        query = (
            f"SELECT {tally.FAILED_WHOLE} FROM steps WHERE account = ? AND state IN ('included', 'reverted')"  # noqa: S608
            " ORDER BY rowid DESC LIMIT 1"
        )
        found = self._rows(query, account)
        return bool(found and found[0][0])

    def last_event(self) -> int:
        """Return the number of the newest event, 0 where there is none."""
        return int(self._rows("SELECT coalesce(max(seq), 0) FROM events")[0][0])

    def moved_since(self, event: int) -> dict[AccountKey, Case | None]:
        """Return the newest open case, if any, of each account whose case a later event has moved."""
        touched = (
            "SELECT DISTINCT account FROM events JOIN cases USING (case_id) WHERE seq > ? AND kind NOT IN"
            " (?, ?, ?, ?, ?)"
        )
        accounts = dict.fromkeys(row["account"] for row in self._rows(touched, event, *STILL))
        found: dict[AccountKey, Case | None] = {}
        query = f"{rows.CASES} WHERE account = ? AND status <> 'closed' ORDER BY cases.rowid DESC LIMIT 1"
        for account in accounts:
            newest = self._rows(query, account)
            found[account] = rows.to_case(newest[0]) if newest else None
        return found

    def history(self, case_id: str) -> tuple[CaseEvent, ...]:
        """Return the events of a case in the order they were recorded."""
        query = "SELECT * FROM events JOIN cases USING (case_id) WHERE case_id = ? ORDER BY seq"
        return tuple(map(rows.to_event, self._rows(query, case_id)))

    def alarms(self, last: int) -> tuple[CaseEvent, ...]:
        """Return what began, agreed to, tripped and ended the newest cases, and those that are open."""
        query = (
            "SELECT * FROM events JOIN cases USING (case_id)"
            " WHERE (status <> 'closed' OR cases.rowid > (SELECT max(rowid) FROM cases) - ?)"
            " AND (kind IN ('Suspected', 'Reserved', 'Closed') OR kind = 'Called' AND seq >"
            " (SELECT min(seq) FROM events AS all_of WHERE all_of.case_id = events.case_id)"
            " OR kind = 'Refused' AND json_extract(data, '$.rule') = 'oracle.breaker') ORDER BY seq"
        )
        return tuple(map(rows.to_event, self._rows(query, last)))

    def events_after(self, seq: int) -> list[CaseEvent]:
        """Return all events that were recorded after one of them."""
        query = "SELECT * FROM events JOIN cases USING (case_id) WHERE seq > ? ORDER BY seq"
        return list(map(rows.to_event, self._rows(query, seq)))

    # --- the one door, and what went through it ---

    def reserve(
        self,
        step: Step,
        tx: Mapping[str, Any],
        *,
        agreed: Agree | None = None,
        markets: Iterable[str] = (),
        balance_wei: Wei | None = None,
        chain_nonce: int,
        block: Block,
        at_s: UnixS,
        data_fee_wei: Wei = 0,
        joins: Permit | None = None,
    ) -> Permit | Refuse:
        """Check every limit and commit the unsigned transaction; only then grant the Permit."""
        moment = chain_nonce, block, at_s
        with self._transaction(of_cases=True) as db:
            known, self._foreseen = self._still_foreseen(moment), None
            standing = self._told(self._standing(db, at_s, known.thrown if known else None))
            limits = standing.limits or self._limits
            before = known.view_by(limits, standing) if known else None
            granted = guard.reserve(
                db,
                limits,
                step,
                tx,
                agreed=agreed,
                markets=markets,
                balance_wei=balance_wei,
                standing=standing,
                chain_nonce=chain_nonce,
                block=block,
                at_s=at_s,
                view=self._view(db, step, limits, standing, moment, before),
                beside=self._beside(step, limits, chain_nonce, block, at_s),
                data_fee_wei=data_fee_wei,
                joins=joins,
            )
            if isinstance(granted, Permit):
                self._note_granted(granted, step, block, joins)
            return granted

    def _note_granted(self, permit: Permit, step: Step, block: Block, joins: Permit | None) -> None:
        """Know a step as it was written just now; one of several acts is read when it is asked for."""
        if joins is not None:
            self._granted.pop(joins.step_id, None)
            return
        self._granted[permit.step_id] = StepRecord(
            step_id=permit.step_id,
            case_id=permit.case_id,
            account=step.act.account,
            kind=step.kind,
            nonce=permit.nonce,
            state=S.RESERVED,
            reserved_block=block,
            valid_until_block=step.valid_until_block,
            unsigned_tx=permit.unsigned_tx,
            signed_tx=None,
            tx_hash=None,
            outcome=None,
        )

    def _still_foreseen(self, moment: tuple[int, Block, UnixS]) -> Foreseen | None:
        """Return what was looked at in advance, if it would be seen again; here nobody looks in advance."""
        del moment
        return None

    @staticmethod
    def _view(
        db: Db,
        step: Step,
        limits: Limits,
        standing: Standing,
        moment: tuple[int, Block, UnixS],
        before: View | None = None,
    ) -> View:
        nonce, block, at_s = moment
        return guard.look(
            db, limits, step, standing=standing, chain_nonce=nonce, block=block, at_s=at_s, before=before
        )

    def _beside(
        self, step: Step | None, limits: Limits, chain_nonce: int, block: Block, at_s: UnixS
    ) -> Claims:
        """Return what other journals of the wallet hold; the tape has it where there are any."""
        found = self._held_beside(step, limits, chain_nonce, block, at_s)
        if self._tape is not None and self._shares_wallet:
            self._tape.chance(to_record(found))
        return found

    @property
    def _shares_wallet(self) -> bool:
        """Whether other journals may be of the wallet."""
        return self._wallet.is_shared

    def _held_beside(
        self, step: Step | None, limits: Limits, chain_nonce: int, block: Block, at_s: UnixS
    ) -> Claims:
        return self._wallet.beside(self, step, limits, chain_nonce, block, at_s)

    def _next_nonce_beside(self) -> int:
        return self._wallet.next_nonce_beside(self)

    def _used_beside(self, block: Block, at_s: UnixS) -> Claims:
        return self._wallet.used_beside(self, self._limits, block, at_s)

    def _foreign_beside(self) -> tuple[Thrown, ...]:
        return self._wallet.foreign_beside(self)

    def held(self, step: Step | None, limits: Limits, chain_nonce: int, block: Block, at_s: UnixS) -> Claims:
        """Return what its steps mean for a step of the same wallet in another journal, by its limits."""
        with self._asked() as db:
            return guard.held(
                db,
                step,
                limits,
                standing=Standing(switches.standing(db)),
                chain_nonce=chain_nonce,
                block=block,
                at_s=at_s,
            )

    # --- what the door goes by beside ---

    def _standing(self, db: Db, at_s: UnixS, known: tuple[Thrown, ...] | None = None) -> Standing:
        """Return what bears on a grant; ``known`` are the switches of the journal that are on."""
        by_file = switches.halted_by_file(self._limits.kill_file, at_s)
        thrown = (*(switches.standing(db) if known is None else known), *self._foreign_beside())
        return Standing((*by_file, *thrown), self._limits if self._reloaded else None)

    def go_by(self, told: Callable[[Standing], Standing]) -> None:
        """Have what bears on each grant pass through a tape."""
        self._told = told

    @property
    def name(self) -> str:
        """What errors call it: its file, or its schema."""
        return self._name

    @property
    def limits(self) -> Limits:
        """The limits that hold."""
        return self._limits

    def reload(self, limits: Limits, who: str, why: str) -> None:
        """Go by other limits from the next grant on, and write down that it is so."""
        with self._transaction(adds=True) as db:
            switches.throw(db, Thrown(Switch.LIMITS, "", who, why, self._now_s()), on=True)
        self._limits, self._reloaded = limits, True

    def throw(self, switch: Switch, subject: str, *, on: bool, who: str, why: str = "") -> None:
        """Throw a switch; whoever grants goes by it from the next grant on."""
        with self._transaction(adds=True) as db:
            mark = tally.last_stake(db) if switch is Switch.SOLD else 0
            switches.throw(db, Thrown(switch, subject, who, why, self._now_s(), mark=mark), on=on)

    def taken_over(self) -> tuple[FeedId, ...]:
        """Return every market of which a step takes or took something."""
        with self._asked() as db:
            return tuple(tally.markets(db))

    def holding(self) -> tuple[FeedId, ...]:
        """Return the markets of which something was taken over and is not sold, with nothing in flight."""
        with self._asked() as db:
            standing = Standing(switches.standing(db))
            found = ((market, standing.sold_to(market)) for market in tally.markets(db))
            return tuple(
                market
                for market, sold_to in found
                if (held := tally.inventory(db, market, sold_to)).held_wad
                and not held.rising_wad
                and not held.falling_wad
                and not tally.inventory(db, market, tally.last_stake(db)).held_wad
            )

    def note_sold(self, market: FeedId, why: str, *, at_s: UnixS) -> None:
        """Keep that all that was taken over of a market up to now has been sold, as a head shows."""
        with self._transaction() as db:
            sold = Thrown(Switch.SOLD, market, switches.RULE, why, at_s, mark=tally.last_stake(db))
            switches.throw(db, sold, on=True)

    def unsell(self, since_s: UnixS) -> None:
        """Take back what was so noted at heads from a time on; what an operator has said stays."""
        with self._transaction() as db:
            for each in switches.standing(db):
                if each.switch is Switch.SOLD and each.who == switches.RULE and each.at_s >= since_s:
                    mark = switches.sold_before(db, each.subject, since_s)
                    told = replace(each, why="the block that showed it is looked at again", mark=mark)
                    switches.throw(db, told, on=mark > 0)

    def watch(self, figures: Mapping[tuple[Switch, str], float], at_s: UnixS) -> tuple[Thrown, ...]:
        """Trip the breakers whose figure is at its bound; return what stops the wallet, whole or in part."""
        limits = self._limits
        with self._transaction() as db:
            since_s = max(at_s - tally.HOUR_S, switches.last_thrown(db, Switch.REVERTS))
            own = self.outcomes_since(since_s, REVERTS_OF)
            seen = {**figures, (Switch.DRIFT, ""): float(self.unhealed())}
            if len(own) >= REVERTS_LEAST:
                seen[Switch.REVERTS, ""] = own.count(False) / len(own)
            on = switches.standing(db)
            for each in switches.tripped(seen, limits.breakers, on, at_s, limits.breaker_rest_s):
                switches.throw(db, each, on=True)
            return self._stopping(db, at_s)

    def _stopping(self, db: Db, at_s: UnixS) -> tuple[Thrown, ...]:
        standing = self._standing(db, at_s)
        in_settings = Thrown(Switch.HALT, "", "settings", "halted = true", at_s)
        stops = (
            STOPS
            if self._limits.foreign_stops
            else tuple(each for each in STOPS if each is not Switch.FOREIGN)
        )
        stopping = tuple(each for each in standing.of(*stops) if each.holds(at_s))
        return (in_settings, *stopping) if self._limits.halted else stopping

    def thrown(self) -> tuple[Thrown, ...]:
        """Return what stops the wallet, whole or in part, as of the last head."""
        with self._asked() as db:
            return self._stopping(db, self._now_s())

    def switched(self, last: int) -> list[tuple[Thrown, bool]]:
        """Return what was thrown last, oldest first, each with whether it was thrown on."""
        with self._asked() as db:
            return switches.history(db, last)

    def measures(self) -> tuple[Measure, ...]:
        """Return how much of each limit is used, as of the last head."""
        with self._lock:
            head = self.last_head()
            block, at_s = (head.number, head.timestamp_s) if head else (0, 0)
            own = self.used(self._limits, block, at_s)
            with self._asked():
                beside = self._used_beside(block, at_s)
            return guard.measures(self._limits, own, beside)

    def used(self, limits: Limits, block: Block, at_s: UnixS) -> Claims:
        """Return what its steps use of limits, those of another journal of the wallet among them."""
        with self._asked() as db:
            return guard.used(db, limits, Standing(switches.standing(db)), block, at_s)

    def _now_s(self) -> UnixS:
        """Return the time of the last head: switches are of chain time, as all that they stop."""
        head = self.last_head()
        return head.timestamp_s if head else int(time.time())

    def step(self, step_id: str) -> StepRecord:
        """Return one step; raise InvariantBroken where it is not known."""
        with self._lock:
            if step_id in self._granted:
                return self._granted[step_id]
        found = self._rows(ONE_STEP, step_id)
        if not found:
            raise InvariantBroken(f"the journal knows no step {step_id}")
        return self._to_steps(found)[0] if found[0]["has_more"] else rows.to_step(found[0])

    def _to_steps(self, found: Sequence[Any]) -> tuple[StepRecord, ...]:
        """Read steps, with what their transactions carry: not that of a nonce which they have given up."""
        nonces = {
            row["step_id"]: row["nonce"] for row in found if row["place"] == 0 and row["state"] != S.ABANDONED
        }
        with self._asked() as db:
            bids = rows.bids_of(db, [row["step_id"] for row in found])
            carried = rows.carried_by(db, nonces.values())
        return tuple(
            rows.to_step(row, bids.get(name, ()), carried.get(nonces.get(name, -1), ()))
            for row in found
            if (name := row["step_id"])
        )

    def live_steps(self) -> tuple[StepRecord, ...]:
        """Return the reserved and the sent steps with a transaction of their own, lowest nonce first."""
        query = "SELECT * FROM steps WHERE state IN ('reserved', 'sent') AND place = 0 ORDER BY nonce"
        return self._to_steps(self._rows(query))

    def settled_since(self, block: Block) -> tuple[StepRecord, ...]:
        """Return those of them whose outcome is of ``block`` or later, lowest nonce first."""
        query = "SELECT * FROM steps WHERE outcome_block >= ? AND place = 0 ORDER BY nonce"
        return self._to_steps(self._rows(query, block))

    def sign(self, step_id: str, raw: bytes, tx_hash: str, *, bid: int = 1) -> None:
        """Commit the signed bytes, before they are first sent. The same bytes again change nothing."""
        with self._transaction(of_cases=True) as db:
            if not self._lasting:
                raise InvariantBroken(
                    f"the signed bytes of step {step_id} must be on disk before they are sent"
                )
            goes_alone = self._granted.pop(step_id, None) is not None
            if bid == 1 and db.execute(FIRST_SIGNED, (raw, tx_hash, step_id)).rowcount == 1:
                if not goes_alone:
                    db.execute(CARRIED_SIGNED, (tx_hash, step_id))
                return
            step = self.step(step_id)
            if bid > 1:
                guard.sign_bid(db, step, bid, raw, tx_hash)
            elif (step.tx_hash, step.signed_tx) != (tx_hash, raw):
                raise InvariantBroken(f"step {step_id} is {step.state} as {step.tx_hash}, not as {tx_hash}")

    def sent(self, step_id: str, *, block: Block, at_s: UnixS, data: Mapping[str, Any] | None = None) -> None:
        """Note that a node was handed the bytes, whatever it answered. Again, it changes nothing."""
        with self._transaction() as db:
            step = self.step(step_id)
            if step.signed_tx is None:
                raise InvariantBroken(f"step {step_id} was sent before its signed bytes were committed")
            if step.state is not S.SENT:
                self._move_all(db, step, E.SENT, told=data or {}, block=block, at_s=at_s)

    def rebid(
        self,
        step_id: str,
        kind: BidKind,
        tx: Mapping[str, Any],
        *,
        balance_wei: Wei | None = None,
        block: Block,
        at_s: UnixS,
        data_fee_wei: Wei = 0,
    ) -> StepRecord | Refuse:
        """Permit another transaction on the nonce of a step in flight; see ``ports.Outbox.rebid``."""
        with self._transaction() as db:
            standing, step = self._told(self._standing(db, at_s)), self.step(step_id)
            limits = standing.limits or self._limits
            refused = guard.rebid(
                db,
                limits,
                step,
                kind,
                tx,
                balance_wei=balance_wei,
                standing=standing,
                block=block,
                at_s=at_s,
                beside=self._beside(None, limits, int(tx["nonce"]), block, at_s),
                data_fee_wei=data_fee_wei,
            )
            return refused or self.step(step_id)

    def drop(self, step_id: str, number: int, reason: Reason, *, block: Block, at_s: UnixS) -> StepRecord:
        """Have a later bid never go out that nobody has signed; see ``ports.Outbox.drop``."""
        with self._transaction() as db:
            guard.drop_bid(db, self.step(step_id), number, reason, block, at_s)
            return self.step(step_id)

    def stopped(self, at_s: UnixS) -> Reason | None:
        """Say why nothing that was not out yet may go out now; None where it may."""
        with self._asked() as db:
            standing = self._told(self._standing(db, at_s))
        refused = guard.stopped(standing.limits or self._limits, standing)
        return refused.reason if refused else None

    def gaps(self, chain_nonce: int, *, block: Block, at_s: UnixS) -> tuple[int, ...]:
        """Return the nonces from the chain's up that nobody holds, below one that a step here holds."""
        with self._asked() as db:
            held = guard.held_nonces(db, chain_nonce)
            free = [nonce for nonce in range(chain_nonce, max(held, default=0)) if nonce not in held]
            if not free:
                return ()
            beside = self._beside(None, self._limits, chain_nonce, block, at_s).nonces
        return tuple(nonce for nonce in free if nonce not in beside)

    def affordable_wei(self, step_id: str) -> Wei | None:
        """Return the gas price up to which every act of a transaction pays, as they were weighed before."""
        step = self.step(step_id)
        with self._asked() as db:
            weighed = [rows.reserved(db, each.step_id) for each in (step, *step.carries)]
        paying = [each for each in weighed if "economics" in each and not each.get("loss_wad")]
        found = (Economics(**each["economics"]).affordable_wei for each in paying)
        return min((each for each in found if each is not None), default=None)

    def next_nonce(self) -> int:
        """Return one more than the highest nonce of the wallet that was ever given out; 0 where none was."""
        with self._asked():
            beside = self._next_nonce_beside()
            if self._tape is not None and self._shares_wallet:
                self._tape.chance([beside])
            return max(beside, self.own_next_nonce())

    def own_next_nonce(self) -> int:
        """Return the same of this journal alone."""
        return int(self._rows("SELECT coalesce(max(nonce), -1) + 1 FROM steps")[0][0])

    def note_foreign(self, evidence: str, *, at_s: UnixS) -> None:
        """Keep that another program uses the wallet's key: nothing new is permitted until that is cleared."""
        with self._transaction() as db:
            if not self._standing(db, at_s).of(Switch.FOREIGN):
                switches.throw(db, Thrown(Switch.FOREIGN, "", switches.RULE, evidence, at_s), on=True)

    def own_foreign(self) -> tuple[Thrown, ...]:
        """Return what it has noted of another program that uses the wallet's key."""
        with self._asked() as db:
            return tuple(each for each in switches.standing(db) if each.switch is Switch.FOREIGN)

    def abandon(self, step_id: str, reason: Reason, *, block: Block, at_s: UnixS) -> None:
        """End a step whose bytes are certainly nowhere; its nonce is free again."""
        told = {"rule": reason.rule, "evidence": reason.evidence, "bound": reason.bound}
        with self._transaction() as db:
            step = self.step(step_id)
            self._move_all(db, step, E.ABANDONED, told=told, block=block, at_s=at_s)
            for each in (step, *step.carries):
                db.execute("UPDATE steps SET gas_cost_wei = '0' WHERE step_id = ?", (each.step_id,))
                tally.follow(db, each.step_id)

    def settle(
        self,
        step_id: str,
        outcome: Outcome,
        *,
        at_s: UnixS,
        aftermath: Aftermath = NOTHING_MORE,
        carried: Sequence[Aftermath] = (),
    ) -> None:
        """Note how a sent transaction ended, and what is said of each of its acts beside."""
        with self._transaction() as db:
            step = self.step(step_id)
            steps, outcomes = (step, *step.carries), (outcome, *outcome.carried)
            if len(steps) != len(outcomes):
                found = f"{len(steps) - 1}, and {len(outcomes) - 1} ended"
                raise InvariantBroken(f"step {step_id} carries {found}")
            bid, said = step.bid_of(outcome.tx_hash), chain((aftermath, *carried), repeat(NOTHING_MORE))
            for each, ended, words in zip(steps, outcomes, said, strict=False):
                self._settle(db, each, ended, bid, words, at_s)

    def _settle(
        self, db: Db, step: StepRecord, outcome: Outcome, bid: Bid | None, aftermath: Aftermath, at_s: UnixS
    ) -> None:
        """Note how one act of a transaction ended."""
        if outcome.kind not in OUTCOMES:
            raise InvariantBroken(f"{outcome.kind} is not the outcome of a transaction")
        told: dict[str, Any] = {"block_hash": outcome.block_hash, "gas_cost_wei": outcome.gas_cost_wei}
        told |= rows.told_aftermath(aftermath)
        if outcome.tx_hash is not None:
            told["tx_hash"] = outcome.tx_hash
        if bid is not None:
            told["bid"] = bid.kind
        self._move(db, step, outcome.kind, told=told, block=outcome.block, at_s=at_s)
        db.execute(
            "UPDATE steps SET outcome_block = ?, outcome_hash = ?, outcome_at_s = ?, gas_cost_wei = ?,"
            " profit_wad = ?, lost_to = ? WHERE step_id = ?",
            (
                outcome.block, outcome.block_hash, at_s, str(outcome.gas_cost_wei),
                *rows.of_aftermath(aftermath), step.step_id,
            ),
        )  # fmt: skip
        tally.follow(db, step.step_id)
        tally.book(db, step.step_id, aftermath.booking)

    def unsettle(self, step_id: str, *, block: Block, at_s: UnixS) -> None:
        """Put a transaction back in flight whose outcome a reorg has undone."""
        with self._transaction() as db:
            step = self.step(step_id)
            told = {"outcome_block": step.outcome.block if step.outcome else None}
            self._move_all(db, step, E.UNINCLUDED, told=told, block=block, at_s=at_s)
            for each in (step, *step.carries):
                db.execute(
                    "UPDATE steps SET outcome_block = NULL, outcome_hash = NULL, outcome_at_s = NULL,"
                    " gas_cost_wei = NULL, profit_wad = NULL, lost_to = NULL, returned_block = ?"
                    " WHERE step_id = ?",
                    (block, each.step_id),
                )
                tally.follow(db, each.step_id)
                tally.book(db, each.step_id, None)

    def _move_all(
        self,
        db: Db,
        step: StepRecord,
        kind: EventKind,
        *,
        told: Mapping[str, Any],
        block: Block,
        at_s: UnixS,
    ) -> None:
        """Move a step, and those that its transaction carries, each with its case."""
        for each in (step, *step.carries):
            self._move(db, each, kind, told=told, block=block, at_s=at_s)

    def _move(
        self,
        db: Db,
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

    # --- the book as a whole ---

    def endings(self) -> Mapping[str, int]:
        """Count the steps of the last day by how they ended, and those in flight."""
        query = (
            "SELECT CASE WHEN lost_to IS NOT NULL THEN 'race_lost' ELSE state END AS ending, count(*)"
            " FROM steps WHERE outcome_block IS NOT NULL AND outcome_at_s > ? GROUP BY 1"
        )
        ended = self._rows(query, self._now_s() - tally.DAY_S)
        with self._asked() as db:
            in_flight = tally.in_flight(db)
        return {**dict.fromkeys(ENDINGS, 0), **dict(map(tuple, ended)), "in_flight": in_flight}

    def outcomes_since(self, at_s: UnixS, most: int) -> list[bool]:
        """Return of the newest own steps mined since then that take something over, whether each did.

        Races that were lost are left out: by them nothing is off with the keeper. A batch that reverted whole
        counts as one.
        """
        query = (
            "SELECT state FROM steps WHERE outcome_block IS NOT NULL AND outcome_at_s > ?"  # noqa: S608
            f" AND notional_wad <> '0' AND lost_to IS NULL AND {ONE_OF_ALL}"
            " AND state IN ('included', 'reverted') ORDER BY outcome_block DESC, nonce DESC, place DESC"
            " LIMIT ?"
        )
        return [row["state"] == S.INCLUDED for row in self._rows(query, at_s, most)]

    def note_level(self, head: Head, level: Level, why: str, signs: Mapping[str, float]) -> None:
        """Keep that the book has come to another level at a head, and by which signs."""
        values = (level.name.lower(), head.number, head.hash, head.timestamp_s, why, rows.dumps(signs))
        with self._transaction() as db:
            db.execute(
                "INSERT INTO levels (level, block, block_hash, at_s, why, signs) VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )

    def level(self) -> Level:
        """Return the level that the book came to last."""
        found = self._rows("SELECT level FROM levels ORDER BY seq DESC LIMIT 1")
        return Level[found[0]["level"].upper()] if found else Level.NORMAL

    # --- heads ---

    def head_done(self, head: Head) -> None:
        """Note that everything the keeper had to do at a head is done."""
        with self._transaction() as db:
            [(seq,)] = db.execute(
                "INSERT INTO heads (number, hash, parent_hash, timestamp_s, base_fee_wei, done_at_s)"
                " VALUES (?, ?, ?, ?, ?, ?) RETURNING seq",
                (
                    head.number,
                    head.hash,
                    head.parent_hash,
                    head.timestamp_s,
                    "" if head.base_fee_wei is None else str(head.base_fee_wei),
                    time.time(),
                ),
            ).fetchall()
            db.execute("DELETE FROM heads WHERE seq <= ?", (seq - HEADS_KEPT,))
            if self._tape is not None:
                self._write_tape(db, self._tape, self._tape.take(), head)
                if self._tape.has_ended:
                    self._tape = None

    def rest(self) -> None:
        """Do now what a later commit would have to: nothing, where the database does it by itself."""

    def rehearse(self, step: Step, *, chain_nonce: int, block: Block, at_s: UnixS) -> int | None:
        """Look for nothing at what a permit would look at: not where each look is a question to a server."""
        del step, chain_nonce, block, at_s
        return None

    # --- the tape ---

    def keep_tape(self, tape: Recorder, started: Mapping[str, Any], *, book: Path | None = None) -> None:
        """Take what a tape notes with every head from now on; a run begins.

        ``started`` says what it takes to play it; what the journal holds now is noted beside it, and the book
        that the run takes up is kept.
        """
        with self._transaction() as db:
            self._run = runs.begin(db, {**started, "book": book is not None})
        self._tape = tape
        self.go_by(tape.standing)
        if book is not None:
            try:
                self._keep_book(book, archive.stamp_of(book)[0])
            except (OSError, ConfigError):
                # The keeper begins without such a book, too; only its replay cannot.
                with self._transaction() as db:
                    runs.cut(db, lambda each: each.run == self._run)

    def _write_tape(self, db: Db, tape: Recorder, packed: Sequence[Packed], head: Head) -> None:
        events = runs.last_event(db)
        db.executemany(
            "INSERT INTO tape (run, number, at_s, events, listing, data) VALUES (?, ?, ?, ?, ?, ?)",
            (
                (self._run, head.number, head.timestamp_s, events, int(each.listing), each.data)
                for each in packed
            ),
        )
        if tape.has_ended:
            runs.end(db, self._run)

    def keep_book(self, book: Path, block: Block) -> None:
        """Keep the book that lies on disk, as it is, beside the journal: what is taped goes on from it.

        Now and then only, and only where there is a tape. Raises OSError where it cannot be kept.
        """
        query = (
            "SELECT max(block) FROM books WHERE run = ? UNION ALL SELECT min(number) FROM tape WHERE run = ?"
        )
        begun = [row[0] for row in self._rows(query, self._run, self._run) if row[0] is not None]
        if self._tape is not None and begun and block >= begun[0] + BOOK_BLOCKS:
            self._keep_book(book, block)

    def _keep_book(self, book: Path, block: Block) -> None:
        kept = self._path.with_name(f"{self._books}{self._run}-{block}")
        runs.link(book, kept)
        with self._transaction() as db:
            seq = db.execute("SELECT coalesce(max(seq), 0) FROM tape").fetchone()[0]
            db.execute(
                "INSERT INTO books (seq, run, block, file) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (file) DO UPDATE SET seq = excluded.seq",
                (seq, self._run, block, kept.name),
            )

    def forget(self, keep: Keep) -> bool:
        """Forget a piece of what is older than it is kept; tell whether there was any.

        Takes a few milliseconds: for a thread of its own, again and again.
        """
        head = self.last_head()
        if head is None:
            return False
        with self._transaction() as db:
            found = retention.forget(db, self._path.parent, keep, head.timestamp_s)
        # What does not go back to the system now is used again, or goes back the next time.
        with self._lock, suppress(self._db.Fault):
            if not self._db.in_transaction:
                self._db.give_back()
        return found

    def last_head(self) -> Head | None:
        """Return the head that was done last; None in a new journal."""
        found = self._rows("SELECT * FROM heads ORDER BY seq DESC LIMIT 1")
        return rows.to_head(found[0]) if found else None

    # --- accounts ---

    def note_found(self, accounts: Iterable[AccountKey], searched: Searched | None) -> None:
        """Keep accounts that events named, and up to where they were looked for, in one transaction."""
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO accounts (account) VALUES (?) ON CONFLICT (account) DO NOTHING",
                ((each,) for each in accounts),
            )
            if searched is not None:
                db.execute(
                    "INSERT INTO searched (only_row, first, last, last_hash) VALUES (1, ?, ?, ?)"
                    " ON CONFLICT (only_row) DO UPDATE SET first = excluded.first, last = excluded.last,"
                    " last_hash = excluded.last_hash",
                    (searched.first, searched.last, searched.last_hash),
                )
                db.execute(
                    "INSERT INTO search_scope (only_row, scope) VALUES (1, ?)"
                    " ON CONFLICT (only_row) DO UPDATE SET scope = excluded.scope",
                    (searched.scope,),
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
        scope = "coalesce((SELECT scope FROM search_scope), '') AS scope"
        found = self._rows(f"SELECT first, last, last_hash, {scope} FROM searched")  # noqa: S608
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
            db.execute(
                "INSERT INTO healed (only_row, seq) SELECT 1, max(seq) FROM differences WHERE true"
                " ON CONFLICT (only_row) DO UPDATE SET seq = excluded.seq"
            )

    def unhealed(self) -> int:
        """Return how many differences came after that."""
        query = "SELECT count(*) FROM differences WHERE seq > coalesce((SELECT seq FROM healed), 0)"
        return int(self._rows(query)[0][0])


class SqliteJournal(StoredJournal):
    """A journal in one SQLite file, in WAL mode: writers take turns, and leave readers alone."""

    _db: SqliteDb

    def __init__(
        self,
        path: Path,
        *,
        identity: Mapping[str, str],
        limits: Limits | None = None,
        durable: bool = True,
        wallet: Wallet | None = None,
    ) -> None:
        """Open or create the journal of one chain, deployment and wallet; raise ConfigError otherwise.

        ``identity`` names them (such as ``chain_id``, ``deployment``, ``wallet``); case does not matter.
        Only what nobody builds on, such as a replay, need not be ``durable``. ``wallet`` is shared with the
        journals of other deployments.
        """
        try:
            with ExitStack() as undo:
                db = undo.enter_context(closing(sqlite.connect(path)))
                super().__init__(db, path, str(path), limits, wallet)
                self._open({key: value.lower() for key, value in identity.items()}, durable=durable)
                undo.pop_all()
            self._wallet.join(self)
        except (sqlite3.Error, KeeperError) as error:
            raise ConfigError(
                f"the journal {path} cannot be used: {sqlite.told(error.__cause__ or error)}"
            ) from error

    def _open(self, identity: Mapping[str, str], *, durable: bool) -> None:
        # Before anything is in the file: later it would take a VACUUM, and for the first an end of WAL mode.
        self._db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.durable = durable
        if durable:
            # A journal of before keeps the pages it was made with.
            [(page_bytes,)] = self._db.execute("PRAGMA page_size")
            self._db.execute(f"PRAGMA wal_autocheckpoint = {UNRESTED_BYTES // page_bytes}")
        self._db.execute("PRAGMA foreign_keys = ON")
        is_older = self._keep_what_is_older()
        with self._transaction() as db:
            self._prepare(db, identity)
        if is_older:
            self._db.execute("VACUUM")

    def _keep_what_is_older(self) -> bool:
        """Copy a journal that is to be migrated; tell whether it is one."""
        version = migrations.version_of(self._db)
        if version is None or not 1 <= version < migrations.VERSION:
            return False
        migrations.keep_copy(self._db, self._path, version)
        return True

    def rest(self) -> None:
        """Move the write-ahead log into the file, over a connection of its own.

        Left to itself a commit does it, now and then, and waits for the disk twice more. The log begins anew
        afterwards: what is written over grows no file, and is on disk sooner.
        """
        if not self._db.durable:
            return
        try:
            with closing(sqlite.connect(self._path)) as db:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except self._db.Fault as error:
            told = self._db.told(error)
            raise KeeperError(f"the journal {self._name} cannot be written: {told}") from error

    def rehearse(self, step: Step, *, chain_nonce: int, block: Block, at_s: UnixS) -> int | None:
        """Look at what the permit of a step would look at, unless another thread is at work.

        Where nothing is written meanwhile by which it would look otherwise, it need not look again.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            with self._looking() as db:
                moment = chain_nonce, block, at_s
                known = self._still_foreseen(moment)
                thrown = known.thrown if known else switches.standing(db)
                standing = self._standing(db, at_s, thrown)
                limits = standing.limits or self._limits
                before = known.view_by(limits, standing) if known else None
                view = self._view(db, step, limits, standing, moment, before)
                self._foreseen = Foreseen(db.version(), moment, limits, thrown, standing, view)
                beside = self._held_beside(step, limits, chain_nonce, block, at_s)
            self._db.expect(lasting=True)
            return guard.free_nonce(view.held.nonces | beside.nonces, chain_nonce)
        finally:
            self._lock.release()

    @contextmanager
    def _looking(self) -> Iterator[SqliteDb]:
        """See one state for several queries."""
        with self._asked():
            self._db.look()
            try:
                yield self._db
            finally:
                self._db.execute("COMMIT")

    def _still_foreseen(self, moment: tuple[int, Block, UnixS]) -> Foreseen | None:
        """Return what was looked at in advance, where nobody has written since to what it depends on."""
        known = self._foreseen
        is_so = known is not None and known.moment == moment and known.version == self._db.version()
        return known if is_so else None

    def close(self) -> None:
        """Close the file; what is in the write-ahead log moves into it, so that it can be copied alone."""
        self._end_tape()
        with self._lock, suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        super().close()


def _odds_wad(won: Sequence[bool]) -> Wad:
    """Return the share of steps that did what they should, with what is presumed before any is known."""
    return (sum(won) + PRIOR_WON) * WAD // (len(won) + PRIOR_OF)
