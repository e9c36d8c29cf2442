"""Who of several keepers may write the journals they share: a lease that is taken, renewed and lost.

The lease ends by the server's clock, and a new holder has a new token, so that nobody need be told that he
was deposed: his next transaction is refused. An advisory lock would not serve: a frozen holder keeps it.

A wallet may have a journal for each of several deployments, each in a schema with a lease of its own. Whoever
leads has all of them, taken in one transaction: so one door under a lock keeps everybody else from all.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog

from keeper.errors import Deposed
from keeper.journal.db import Shared
from keeper.journal.postgres import PostgresDb, connect, deposed_by

RENEWALS = 4
"""How often a lease is renewed in its time."""
ASK_S = 0.1
"""How often a standby asks whether the lease is free."""
OF_WALLET = ("chain_id", "genesis", "wallet", "mode")
"""What journals of one wallet have in common."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Term:
    """A lease as the server has it."""

    holder: str
    token: int
    left_s: float
    """Until it ends; negative where it has."""


def whoami() -> str:
    """Name this process among others."""
    return f"{socket.gethostname()}/{os.getpid()}"


def fellows(db: PostgresDb, schema: str) -> list[str]:
    """Return the schemas of all journals in a database that are of one journal's wallet, in order."""
    query = (
        "SELECT nspname FROM pg_namespace AS each WHERE has_schema_privilege(oid, 'USAGE') AND 3 ="
        " (SELECT count(*) FROM pg_class WHERE relnamespace = each.oid AND relkind = 'r'"
        " AND relname IN ('lease', 'door', 'meta') AND has_table_privilege(oid, 'SELECT')) ORDER BY nspname"
    )
    wallets = {name: _wallet_of(db, name) for (name,) in db.execute(query).fetchall()}
    own = wallets.get(schema, {})
    if "wallet" not in own:
        return [schema]
    return [name for name, wallet in wallets.items() if wallet == own]


def _wallet_of(db: PostgresDb, schema: str) -> dict[str, str]:
    found = db.execute(f'SELECT key, value FROM "{schema}".meta').fetchall()  # noqa: S608
    return {key: value for key, value in found if key in OF_WALLET}


class Lease:
    """The rows of one wallet's journals, over a connection of its own."""

    def __init__(self, place: Shared, holder: str, lease_s: float) -> None:
        """Take ``place`` for one of the journals."""
        self._place = place
        self._holder = holder
        self._lease_s = lease_s
        self._db: PostgresDb | None = None

    @contextmanager
    def _asked(self) -> Iterator[PostgresDb]:
        """Ask; the next question opens another connection where this one broke."""
        if self._db is None:
            self._db = connect(self._place, lock_s=self._lease_s / RENEWALS)
        try:
            yield self._db
        except psycopg.Error:
            self.close()
            raise

    def _rows(self, query: str, *values: object) -> list[Any]:
        """Return what is found; of what is locked for too long that is nothing."""
        with self._asked() as db:
            try:
                return db.execute(query, values).fetchall()
            except psycopg.errors.LockNotAvailable:
                return []

    def fellows(self) -> list[str]:
        """Return the schemas of the wallet's journals in this database, in order."""
        with self._asked() as db:
            return fellows(db, self._place.schema)

    def is_free(self) -> bool:
        """Tell whether the lease of the one journal has ended."""
        return bool(self._rows("SELECT 1 FROM lease WHERE until < clock_timestamp()"))

    def take(
        self, schemas: Collection[str], sessions: Mapping[str, int], held: Collection[str] = ()
    ) -> dict[str, int] | None:
        """Take the leases of journals that have all ended; return their new tokens, or None.

        None, too, where with those that are ``held`` they are not all of the wallet's any more. ``sessions``
        are those by which the holder writes; one of them stands for a journal that he does not.

        The session of who held a lease is ended first, where it is in a transaction: frozen there, it would
        hold the door for ever. The server's own time-out for sessions that idle in one is not relied on:
        after statements that went out together it was seen not to count.
        """
        for each in schemas:
            self._rows(
                f'SELECT pg_terminate_backend(pid) FROM pg_stat_activity JOIN "{each}".lease'  # noqa: S608
                " ON pid = session AND backend_start = begun"
                " WHERE until < clock_timestamp() AND xact_start IS NOT NULL"
            )
        some = next(iter(sessions.values()))
        with self._asked() as db:
            db.execute("BEGIN")
            try:
                # In one order, so that no two keepers wait for one another.
                tokens = {each: self._take(db, each, sessions.get(each, some)) for each in sorted(schemas)}
            except psycopg.errors.LockNotAvailable:
                tokens = {"": None}
            taken = {each: token for each, token in tokens.items() if token is not None}
            is_all = len(taken) == len(tokens) and {*schemas, *held}.issuperset(
                fellows(db, self._place.schema)
            )
            db.execute("COMMIT" if is_all else "ROLLBACK")
        return taken if is_all else None

    def _take(self, db: PostgresDb, schema: str, session: int) -> int | None:
        found = db.execute(
            f'WITH taken AS (UPDATE "{schema}".lease SET holder = ?, token = token + 1,'  # noqa: S608
            " session = pid, begun = backend_start, until = clock_timestamp() + ? * interval '1 second'"
            " FROM pg_stat_activity WHERE pid = ? AND until < clock_timestamp() RETURNING token)"
            f' UPDATE "{schema}".door SET token = taken.token FROM taken RETURNING door.token',
            (self._holder, self._lease_s, session),
        ).fetchall()
        return int(found[0][0]) if found else None

    def renew(self, tokens: Mapping[str, int]) -> bool:
        """Have leases end later, and tell whether they do; raise Deposed where one is another's by now."""
        for schema, token in tokens.items():
            query = (
                f"UPDATE \"{schema}\".lease SET until = clock_timestamp() + ? * interval '1 second'"  # noqa: S608
                " WHERE token = ? RETURNING token"
            )
            if not self._rows(query, self._lease_s, token):
                if (held := self.held(schema)) and held.token != token:
                    raise Deposed(deposed_by(held.holder, held.token, token))
                return False
        return True

    def hand(self, schema: str, token: int, session: int) -> None:
        """Note that a journal whose lease is held is written by a session of its own from now on."""
        query = (
            f'UPDATE "{schema}".lease SET session = pid, begun = backend_start FROM pg_stat_activity'  # noqa: S608
            " WHERE pid = ? AND token = ? RETURNING token"
        )
        self._rows(query, session, token)

    def release(self, tokens: Mapping[str, int]) -> None:
        """Let another have the leases at once."""
        for schema, token in tokens.items():
            query = f'UPDATE "{schema}".lease SET until = clock_timestamp() WHERE token = ? RETURNING token'  # noqa: S608
            self._rows(query, token)

    def held(self, schema: str) -> Term | None:
        """Return who holds a lease, or held it last."""
        query = f'SELECT holder, token, extract(epoch FROM until - clock_timestamp()) FROM "{schema}".lease'  # noqa: S608
        found = self._rows(query)
        return Term(str(found[0][0]), int(found[0][1]), float(found[0][2])) if found else None

    def cut(self) -> None:
        """Have whoever waits for an answer wait no longer, from another thread."""
        if (db := self._db) is not None:
            db.cut()

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        if self._db is not None:
            self._db.close()
            self._db = None


class Tenure:
    """Takes the leases of a wallet's journals once all are free, and keeps them, in threads of its own.

    Where the server does not answer for as long as a lease lasts, connections are cut, and it is over:
    whoever waits for the server is not to go on as a leader when it comes back.
    """

    def __init__(self, place: Shared, *, holder: str, lease_s: float) -> None:
        """Take ``place`` for the first journal; those that are written here join."""
        self._lease = Lease(place, holder, lease_s)
        self._lease_s = lease_s
        self._journals: dict[str, PostgresDb] = {}
        """By schema: what is written here."""
        self._tokens: dict[str, int] = {}
        """By schema: what is held, also of journals that are written by nobody here."""
        self._until_s = time.monotonic() + lease_s
        """Until then the server must have answered."""
        self._over = threading.Event()
        self._turning = threading.Lock()
        self._threads = [
            threading.Thread(target=work, name=f"lease {work.__name__}", daemon=True)
            for work in (self._keep, self._guard)
        ]
        self._held: dict[str, Term] = {}
        self.lost: Deposed | None = None
        """Why this keeper may not lead, and is to stop."""

    def join(self, schema: str, db: PostgresDb) -> None:
        """Take in a journal that is written by a connection; with the first one begin."""
        is_first = not self._journals
        with self._turning:
            self._journals = {**self._journals, schema: db}
            if schema in self._tokens:
                self._lease.hand(schema, self._tokens[schema], db.session)
                db.tokens = self._tokens
        self._turn()
        if is_first:
            for each in self._threads:
                each.start()

    def leave(self, schema: str) -> None:
        """Write a journal no more; with the last one let another keeper lead at once."""
        left = {name: db for name, db in self._journals.items() if name != schema}
        if self._journals and not left:
            self._end()
        for name in self._journals.keys() - left.keys():
            self._journals[name].tokens = {}
        self._journals = left

    def _end(self) -> None:
        self._over.set()
        for each in self._threads:
            each.join()
        try:
            if self.lost is None:
                self._lease.release(self._tokens)
        except psycopg.Error as error:
            log.warning("lease.not_released", why=str(error))
        finally:
            self._lease.close()

    def held(self, schema: str) -> Term | None:
        """Return the lease of a journal as it was seen last."""
        return self._held.get(schema)

    def holds(self, schema: str) -> bool:
        """Tell whether this keeper has the lease of a journal."""
        return schema in self._tokens

    def unkept(self) -> list[str]:
        """Return the journals of the wallet that are written by nobody here."""
        with self._turning:
            return [each for each in self._lease.fellows() if each not in self._journals]

    def _keep(self) -> None:
        while not self._over.wait(self._lease_s / RENEWALS if self._tokens else ASK_S):
            try:
                self._turn()
            except psycopg.Error as error:
                log.warning("lease.unknown", why=str(error))
            except Deposed as deposed:
                self._lose(deposed)

    def _guard(self) -> None:
        """Wait no longer for a server that does not answer than the lease lasts: it may be another's."""
        while not self._over.wait(ASK_S):
            if time.monotonic() > self._until_s:
                found = f"nothing was heard of the journal's server for {self._lease_s} s"
                self._lose(Deposed(f"{found}: it was silent, or this keeper stood still"))

    def _turn(self) -> None:
        with self._turning:
            began_s = time.monotonic()
            if self._tokens:
                if not self._lease.renew(self._tokens):
                    return
                # One may have been begun since.
                self._take([each for each in self._lease.fellows() if each not in self._tokens])
            elif self._lease.is_free():
                self._take(self._lease.fellows())
            held = {each: self._lease.held(each) for each in self._journals}
            self._held = {each: found for each, found in held.items() if found is not None}
            self._until_s = began_s + self._lease_s

    def _take(self, schemas: Collection[str]) -> None:
        """Take some leases, or none of them."""
        sessions = {each: db.session for each, db in self._journals.items()}
        taken = self._lease.take(schemas, sessions, self._tokens) if schemas else None
        if taken is None:
            return
        self._tokens = dict(sorted({**self._tokens, **taken}.items()))
        for db in self._journals.values():
            db.tokens = self._tokens
        log.info("lease.taken", tokens=taken, lease_s=self._lease_s)

    def _lose(self, deposed: Deposed) -> None:
        self._over.set()
        self.lost = deposed
        for db in self._journals.values():
            db.tokens, db.lost = {}, deposed.why
            db.cut()
        self._lease.cut()
        log.error("lease.lost", why=deposed.why)
