"""The life of a case: its statuses, one table of transitions, and the fold.

A case is one account under care, from its margin call or the first suspicion until the account has its
buffer back, is closed, or was never in danger. Its status is a fold over its events, and nothing else sets
it. Rules:

- ``CALLED`` asks the owner for a deposit, and nothing of anybody else: no step is reserved from there.
- A staged liquidation is a loop over fresh state: a settled step leads back to ``SUSPECTED``, never to
  a second send prepared beforehand.
- ``RESERVED`` and ``IN_FLIGHT`` hold exactly one transaction. In flight is left on chain evidence only
  (included, reverted, displaced); there is no time-out row.
- A reorg may put an included step back into flight, even one whose case has closed since. Two
  transactions of one case can be out then; an outcome that arrives when the case has gone on moves
  nothing, and the guard grants no Permit while any transaction of the account is out.
- ``OBSERVED`` records what the chain shows of the account, whoever did it, and ``MOVED`` which rung of the
  ladder above suspicion that is (``ladder.Rung``); neither ever moves the status.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from keeper.domain import CaseEvent, EventKind
from keeper.errors import InvariantBroken

E = EventKind


class Status(StrEnum):
    """Where a case stands."""

    CALLED = "called"
    SUSPECTED = "suspected"
    RESERVED = "reserved"
    IN_FLIGHT = "in_flight"
    SETTLED = "settled"
    CLOSED = "closed"


S = Status

OUTCOMES = (E.INCLUDED, E.REVERTED, E.DISPLACED)

TABLE: dict[tuple[Status | None, EventKind], Status] = {
    (None, E.CALLED): S.CALLED,
    (None, E.SUSPECTED): S.SUSPECTED,
    (S.CALLED, E.SUSPECTED): S.SUSPECTED,
    (S.CALLED, E.CLOSED): S.CLOSED,
    (S.SUSPECTED, E.CALLED): S.CALLED,
    (S.SUSPECTED, E.SUSPECTED): S.SUSPECTED,
    (S.SUSPECTED, E.WAITED): S.SUSPECTED,
    (S.SUSPECTED, E.REFUSED): S.SUSPECTED,
    (S.SUSPECTED, E.RESERVED): S.RESERVED,
    (S.SUSPECTED, E.CLOSED): S.CLOSED,
    (S.RESERVED, E.SENT): S.IN_FLIGHT,
    (S.RESERVED, E.ABANDONED): S.SETTLED,
    (S.IN_FLIGHT, E.SENT): S.IN_FLIGHT,
    (S.SETTLED, E.SUSPECTED): S.SUSPECTED,
    (S.SETTLED, E.CALLED): S.CALLED,
    (S.SETTLED, E.CLOSED): S.CLOSED,
}
TABLE |= {(S.IN_FLIGHT, outcome): S.SETTLED for outcome in OUTCOMES}
TABLE |= {
    (status, outcome): status
    for status in (S.CALLED, S.SUSPECTED, S.RESERVED, S.SETTLED, S.CLOSED)
    for outcome in OUTCOMES
}
TABLE |= {
    (status, E.UNINCLUDED): S.IN_FLIGHT
    for status in (S.CALLED, S.SUSPECTED, S.IN_FLIGHT, S.SETTLED, S.CLOSED)
}
TABLE |= {(S.RESERVED, E.UNINCLUDED): S.RESERVED}
TABLE |= {(status, kind): status for status in Status for kind in (E.OBSERVED, E.MOVED)}


def advance(status: Status | None, kind: EventKind) -> Status:
    """Return the status after an event; raise InvariantBroken where the table has no row."""
    try:
        return TABLE[status, kind]
    except KeyError:
        raise InvariantBroken(f"a case that is {status or 'new'} cannot take the event {kind}") from None


def fold(events: Iterable[CaseEvent]) -> Status | None:
    """Return the status that a history leads to; None for an empty one."""
    status: Status | None = None
    for event in events:
        status = advance(status, event.kind)
    return status


def diagram() -> str:
    """Draw the table as a Mermaid state diagram, for ``docs/lifecycle.md``."""
    rows: dict[tuple[str, str], list[str]] = {}
    for (source, kind), target in TABLE.items():
        if kind not in {E.OBSERVED, E.MOVED} and not (source == target and kind in OUTCOMES):
            rows.setdefault((source or "[*]", target), []).append(kind)
    lines = [f"    {source} --> {target}: {', '.join(kinds)}" for (source, target), kinds in rows.items()]
    return "\n".join(["stateDiagram-v2", *lines, f"    {S.CLOSED} --> [*]"])
