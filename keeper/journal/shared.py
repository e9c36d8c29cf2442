"""The journal in PostgreSQL that several keepers share: one leads and writes, the others stand by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from glob import escape
from pathlib import Path
from typing import Any

import psycopg
import structlog

from keeper.domain import Step
from keeper.errors import ConfigError, Deposed, KeeperError
from keeper.journal import migrations, postgres, runs
from keeper.journal.db import Shared
from keeper.journal.guard import Claims, Limits
from keeper.journal.lease import Tenure, whoami
from keeper.journal.postgres import PostgresDb
from keeper.journal.retention import Keep
from keeper.journal.store import StoredJournal
from keeper.journal.tape import Recorder
from keeper.journal.wallet import Wallet, noted_in
from keeper.ports import Leadership, Searched, Thrown
from keeper.units import AccountKey, Block, UnixS

log = structlog.get_logger()

LEASE_S = 5.0
UNTOLD_S = 3_600
"""A book that is no older may be one that is written down only now."""
LAYING_OUT = 0x6B65_6570_6572
"""The number under which servers keep those apart that lay out tables at the same time."""


def begin_to_lay_out(db: PostgresDb, schema: str) -> None:
    """Begin a transaction in which nobody else lays out tables; make the schema, and what is its own."""
    db.execute("BEGIN")
    db.execute("SELECT pg_advisory_xact_lock(?)", (LAYING_OUT,))
    if not db.execute("SELECT 1 FROM pg_namespace WHERE nspname = ?", (schema,)).fetchall():
        db.execute(f'CREATE SCHEMA "{schema}"')
    for statement in postgres.OWN:
        db.execute(statement)


class PostgresJournal(StoredJournal):
    """A journal in one schema; it is written only while this keeper holds the lease."""

    _db: PostgresDb

    def __init__(
        self,
        place: Shared,
        *,
        identity: Mapping[str, str],
        limits: Limits | None = None,
        holder: str | None = None,
        lease_s: float = LEASE_S,
        wallet: Wallet | None = None,
    ) -> None:
        """Open or create the journal, and ask for the lease from now on; raise ConfigError otherwise.

        ``identity`` and ``wallet`` are those of ``SqliteJournal``: what shares a wallet leads together.
        """
        try:
            with ExitStack() as undo:
                db = undo.enter_context(closing(postgres.connect(place)))
                super().__init__(db, place.path, str(place), limits, wallet)
                self._schema = place.schema
                # A file that was there before has books of its own.
                self._books = f"{place.path.name}.{place.schema}.book-"
                self._open(place.schema, {key: value.lower() for key, value in identity.items()})
                self._tenure = self._wallet.tenure or Tenure(
                    place, holder=holder or whoami(), lease_s=lease_s
                )
                self._tenure.join(place.schema, db)
                self._wallet.tenure = self._tenure
                undo.pop_all()
        except (psycopg.Error, KeeperError) as error:
            raise ConfigError(f"the journal {place} cannot be used: {error}") from error
        self._found: dict[AccountKey, None] = {}
        """Accounts that were found while another led."""
        self._of_today: set[str] = set()
        """The schemas beside it whose tables are known to be those of this keeper."""
        self._begin_run: Callable[[], None] | None = None
        """Begins the run whose tape is kept, as soon as this keeper leads."""

    def _open(self, schema: str, identity: Mapping[str, str]) -> None:
        db = self._db
        begin_to_lay_out(db, schema)
        version = migrations.version_of(db)
        [(is_led,)] = db.execute("SELECT until > clock_timestamp() FROM lease").fetchall()
        # The wallet's first journal here has taken the leases of all, and its others are opened after it.
        is_own = self._wallet.tenure is not None and self._wallet.tenure.holds(schema)
        if version is not None and 1 <= version < migrations.VERSION and is_led and not is_own:
            found = f"a keeper leads that knows schema {version}"
            raise ConfigError(f"{found}: stop it, and start this one before another takes over")
        self._prepare(db, identity)
        db.execute("COMMIT")

    def leads(self) -> bool:
        """Tell whether this keeper may act; raise Deposed where it may not any more."""
        if self._tenure.lost is not None:
            raise self._tenure.lost
        if self._schema not in self._db.tokens:
            return False
        if self._begin_run is not None or self._found:
            with self._lock:
                self._take_up()
        return True

    def _take_up(self) -> None:
        """Write down what has waited until this keeper leads: first that its run begins."""
        begin, self._begin_run = self._begin_run, None
        if begin is not None:
            begin()
        if self._found:
            super().note_found(self._found, None)
            self._found.clear()

    def keep_tape(self, tape: Recorder, started: Mapping[str, Any], *, book: Path | None = None) -> None:
        """Take what a tape notes from the start on; the run begins once this keeper leads.

        Until then its beginning waits in the recorder, and the book that it takes up beside the journal.
        """
        waiting = self._path.with_name(f"{self._books}waiting")
        if book is not None and book.exists():
            runs.link(book, waiting)

        def begin() -> None:
            keep(tape, {**started, "shares_wallet": True}, book=None if book is None else waiting)
            waiting.unlink(missing_ok=True)

        keep = super().keep_tape
        self._begin_run = begin
        self.leads()

    def unkept(self) -> list[str]:
        """Return the journals of the wallet that this process leads and does not keep.

        Raises ConfigError where one of them has other tables than this keeper's: no grant could look at it.
        """
        with self._asked():
            found = self._tenure.unkept()
            for schema in found:
                with self._within(schema):
                    pass
        return found

    @contextmanager
    def _within(self, schema: str) -> Iterator[None]:
        """Ask another journal of the wallet meanwhile; raise ConfigError where its tables are others."""
        with self._db.within(schema):
            if schema not in self._of_today:
                self._expect_of_today(schema)
                self._of_today.add(schema)
            yield

    def _expect_of_today(self, schema: str) -> None:
        version = migrations.version_of(self._db)
        if version == migrations.VERSION:
            return
        mend = "start this keeper once with the configuration of that deployment, too"
        if version is not None and version > migrations.VERSION:
            mend = "start a keeper as new as that one"
        found = f"its wallet has a journal in schema {schema} of version {version}"
        bound = f"this keeper's are of version {migrations.VERSION}"
        raise ConfigError(f"the journal {self._name} cannot be used: {found}, and {bound}; {mend}")

    @property
    def _shares_wallet(self) -> bool:
        """Whether other journals may be of the wallet: another process may begin one at any time."""
        return True

    def _held_beside(
        self, step: Step | None, limits: Limits, chain_nonce: int, block: Block, at_s: UnixS
    ) -> Claims:
        found = Claims()
        for schema in self._beside_it():
            with self._within(schema):
                found += self.held(step, limits, chain_nonce, block, at_s)
        return found

    def _beside_it(self) -> list[str]:
        """Return the wallet's other journals, whose doors are held with its own."""
        tokens = self._db.written_by if self._db.in_transaction else self._db.tokens
        return [each for each in tokens if each != self._schema]

    def _next_nonce_beside(self) -> int:
        found = 0
        for schema in self._beside_it():
            with self._within(schema):
                found = max(found, self.own_next_nonce())
        return found

    def _used_beside(self, block: Block, at_s: UnixS) -> Claims:
        found = Claims()
        for schema in self._beside_it():
            with self._within(schema):
                found += self.used(self._limits, block, at_s)
        return found

    def _foreign_beside(self) -> tuple[Thrown, ...]:
        found: tuple[Thrown, ...] = ()
        for schema in self._beside_it():
            with self._within(schema):
                found += tuple(noted_in(schema, each) for each in self.own_foreign())
        return found

    @property
    def leadership(self) -> Leadership | None:
        """Who leads, as far as this keeper knows."""
        held = self._tenure.held(self._schema)
        if held is None:
            return None
        return Leadership(
            self._db.tokens.get(self._schema) == held.token, held.holder, held.token, held.left_s
        )

    def note_found(self, accounts: Iterable[AccountKey], searched: Searched | None) -> None:
        """Keep accounts that events named; a standby, until it leads."""
        if self.leads():
            super().note_found(accounts, searched)
        else:
            self._found.update(dict.fromkeys(accounts))

    def forget(self, keep: Keep) -> bool:
        """Forget a piece of what is old, where this keeper leads; and its own books that a leader forgot."""
        self._sweep()
        return self.leads() and super().forget(keep)

    def _sweep(self) -> None:
        found = list(self._path.parent.glob(f"{escape(self._books)}[0-9]*"))
        kept = {row["file"] for row in self._rows("SELECT file FROM books")} if found else set()
        for each in found:
            # One is linked just before it is written down.
            if each.name not in kept and each.stat().st_ctime < time.time() - UNTOLD_S:
                each.unlink(missing_ok=True)

    def close(self) -> None:
        """Write what is left of the tape, let another keeper lead, and close the connections."""
        try:
            if self._schema in self._db.tokens:
                self._end_tape()
        except Deposed as deposed:
            log.warning("tape.ended", why=deposed.why)
        finally:
            self._tape = None
            self._tenure.leave(self._schema)
            super().close()
