"""Who of several keepers may write the journal they share: a lease that is taken, renewed and lost.

The lease ends by the server's clock, and a new holder has a new token, so that nobody need be told that he
was deposed: his next transaction is refused. An advisory lock would not serve: a frozen holder keeps it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass

import psycopg
import structlog

from keeper.errors import Deposed
from keeper.journal.db import Shared
from keeper.journal.postgres import PostgresDb, connect, deposed_by

RENEWALS = 4
"""How often a lease is renewed in its time."""
ASK_S = 0.1
"""How often a standby asks whether the lease is free."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as the server has it."""

    holder: str
    token: int
    left_s: float
    """Until it ends; negative where it has."""


def whoami() -> str:
    """Name this process among others."""
    return f"{socket.gethostname()}/{os.getpid()}"


class Lease:
    """The row, over a connection of its own."""

    def __init__(self, place: Shared, holder: str, session: int, lease_s: float) -> None:
        """Take ``session`` for the one by which the holder writes."""
        self._place = place
        self._holder = holder
        self._session = session
        self._lease_s = lease_s
        self._db: PostgresDb | None = None

    def _row(self, query: str, *values: object) -> tuple[object, ...] | None:
        if self._db is None:
            self._db = connect(self._place, lock_s=self._lease_s / RENEWALS)
        try:
            found = self._db.execute(query, values).fetchall()
        except psycopg.errors.LockNotAvailable:
            return None
        except psycopg.Error:
            self.close()
            raise
        return tuple(found[0]) if found else None

    def take(self) -> int | None:
        """Take the lease where it has ended; return its new token, or None.

        The session of who held it is ended first, where it is in a transaction: frozen there, it would hold
        the door for ever. The server's own time-out for sessions that idle in one is not relied on: after
        statements that went out together it was seen not to count.
        """
        end = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity JOIN lease ON pid = session"
            " AND backend_start = begun WHERE until < clock_timestamp() AND xact_start IS NOT NULL"
        )
        take = (
            "WITH taken AS (UPDATE lease SET holder = ?, token = token + 1,"
            " session = pid, begun = backend_start, until = clock_timestamp() + ? * interval '1 second'"
            " FROM pg_stat_activity WHERE pid = ? AND until < clock_timestamp() RETURNING token)"
            " UPDATE door SET token = taken.token FROM taken RETURNING door.token"
        )
        self._row(end)
        found = self._row(take, self._holder, self._lease_s, self._session)
        return None if found is None else int(str(found[0]))

    def renew(self, token: int) -> bool:
        """Have the lease end later, and tell whether it does; raise Deposed where it is another's by now."""
        query = (
            "UPDATE lease SET until = clock_timestamp() + ? * interval '1 second' WHERE token = ?"
            " RETURNING token"
        )
        if self._row(query, self._lease_s, token) is not None:
            return True
        if (held := self.held()) and held.token != token:
            raise Deposed(deposed_by(held.holder, held.token, token))
        return False

    def release(self, token: int) -> None:
        """Let another have the lease at once."""
        self._row("UPDATE lease SET until = clock_timestamp() WHERE token = ? RETURNING token", token)

    def held(self) -> Held | None:
        """Return who holds the lease, or held it last."""
        found = self._row("SELECT holder, token, extract(epoch FROM until - clock_timestamp()) FROM lease")
        return None if found is None else Held(str(found[0]), int(str(found[1])), float(str(found[2])))

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
    """Takes the lease as soon as it is free, and keeps it, in a thread of its own.

    Where the server does not answer for as long as a lease lasts, connections are cut, and it is over:
    whoever waits for the server is not to go on as a leader when it comes back.
    """

    def __init__(self, place: Shared, db: PostgresDb, *, holder: str, lease_s: float) -> None:
        self._lease = Lease(place, holder, db.session, lease_s)
        self._journal = db
        self._lease_s = lease_s
        self._token: int | None = None
        self._until_s = time.monotonic() + lease_s
        """Until then the server must have answered."""
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"lease {work.__name__}", daemon=True)
            for work in (self._keep, self._guard)
        ]
        self.held: Held | None = None
        """The lease as it was seen last."""
        self.lost: Deposed | None = None
        """Why this keeper may not lead, and is to stop."""

    def begin(self) -> None:
        """Take the lease if it is free, and go on in threads."""
        self._turn()
        for each in self._threads:
            each.start()

    def end(self) -> None:
        """End the threads, and let another keeper lead at once."""
        self._over.set()
        for each in self._threads:
            each.join()
        try:
            if self._token is not None and self.lost is None:
                self._lease.release(self._token)
        except psycopg.Error as error:
            log.warning("lease.not_released", why=str(error))
        finally:
            self._lease.close()

    def _keep(self) -> None:
        while not self._over.wait(ASK_S if self._token is None else self._lease_s / RENEWALS):
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
        began_s = time.monotonic()
        if self._token is not None:
            if not self._lease.renew(self._token):
                return
        elif (token := self._lease.take()) is not None:
            self._token = self._journal.token = token
            log.info("lease.taken", token=token, lease_s=self._lease_s)
        self.held = self._lease.held()
        self._until_s = began_s + self._lease_s

    def _lose(self, deposed: Deposed) -> None:
        self._over.set()
        self.lost = deposed
        self._journal.token, self._journal.lost = None, deposed.why
        self._journal.cut()
        self._lease.cut()
        log.error("lease.lost", why=deposed.why)
