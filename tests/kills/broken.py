"""Keepers that are broken on purpose, each in one way: what a harness must find to be believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from keeper.domain import Reason
from keeper.execute.sender import ChainSender
from keeper.journal.db import Shared
from keeper.journal.store import StoredJournal
from keeper.ports import StepRecord, StepState
from tests.kills.life import THRIFTY, Keeper


class Outbox:
    """A journal as a sender has it; what is not said here is as ever."""

    def __init__(self, journal: Any) -> None:
        self.journal = journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self.journal, name)


class SignsLate(Outbox):
    """Commits signed bytes only when they were sent."""

    def __init__(self, journal: Any) -> None:
        super().__init__(journal)
        self._signed: dict[str, tuple[bytes, str]] = {}

    def together(self, *, lasting: bool = True) -> AbstractContextManager[None]:
        # The journal itself refuses to sign where nothing waits for the disk.
        del lasting
        found: AbstractContextManager[None] = self.journal.together()
        return found

    def sign(self, step_id: str, raw: bytes, tx_hash: str, **told: Any) -> None:
        if told == {"bid": 1}:
            self._signed[step_id] = raw, tx_hash
        else:
            self.journal.sign(step_id, raw, tx_hash, **told)

    def sent(self, step_id: str, **told: Any) -> None:
        if step_id in self._signed:
            self.journal.sign(step_id, *self._signed.pop(step_id))
        self.journal.sent(step_id, **told)


class Forgets(Outbox):
    """Follows only what was sent in this life."""

    def __init__(self, journal: Any) -> None:
        super().__init__(journal)
        self._own: set[str] = set()

    def sent(self, step_id: str, **told: Any) -> None:
        self._own.add(step_id)
        self.journal.sent(step_id, **told)

    def live_steps(self) -> tuple[StepRecord, ...]:
        return tuple(step for step in self.journal.live_steps() if step.step_id in self._own)


class GivesUp(Outbox):
    """Takes it at its start that what is not journaled as sent was not sent."""

    has_looked = False

    def live_steps(self) -> tuple[StepRecord, ...]:
        for step in () if self.has_looked else self.journal.live_steps():
            if step.state is StepState.RESERVED:
                self.journal.abandon(step.step_id, Reason("test", "in doubt", "none"), block=0, at_s=0)
        self.has_looked = True
        found: tuple[StepRecord, ...] = self.journal.live_steps()
        return found


class CountsAnew(Keeper):
    """Knows no limits."""

    def journal(self, place: Path | Shared) -> StoredJournal:
        return Keeper().journal(place)


def through(outbox: Callable[[Any], Any]) -> Keeper:
    """Return a keeper whose sender has an outbox of its own."""

    class Through(Keeper):
        def sender(self, rpc: Any, journal: Any) -> ChainSender:
            return super().sender(rpc, outbox(journal))

    return Through()


BROKEN: Mapping[str, Keeper] = {
    "signs-late": through(SignsLate),
    "forgets": through(Forgets),
    "gives-up": through(GivesUp),
    "spends-freely": CountsAnew(THRIFTY.limits),
    "never-syncs": Keeper(durable=False),
}
