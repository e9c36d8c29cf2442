"""Open cases as the keeper has them in hand, and the events that their journal gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from keeper.desk.port import Alarm
from keeper.domain import CaseEvent, ChainTime, EventKind, Head, Reason, Refuse, Seen, Unknown, Wait
from keeper.ladder import Rung
from keeper.lifecycle import Status, advance
from keeper.ports import Case as Recorded
from keeper.units import AccountKey, FeedId


@dataclass(slots=True)
class Case:
    """An open case, and its status in the journal."""

    case_id: str
    since: ChainTime
    """The head of its first suspicion since it was called last; without one, that of its beginning."""
    status: Status | None = None
    said: tuple[str, FeedId] | None = None
    """The rule that it last waited for or was refused by, and the feed that this was about."""
    agreed: bool = False
    """Whether something was done for its alarm with an agreement."""
    touched: bool = False
    """Whether somebody may have closed something of its account."""
    first: Seen | None = None
    """Its first suspicion since it was called last, and how healthy it was then; None until it was asked."""
    rung: Rung = Rung.SUSPECTED
    """The highest that chain and clocks have shown since."""
    taken: bool = False
    """Whether a step that takes something was included."""
    shown: ChainTime | None = None
    """Since which head the protocol's own prices have shown its breach; a start begins anew."""

    def alarm(self, head: Head, *, suspected: bool) -> Alarm:
        """Return what a desk is told of it at a head: where it is only called, of an alarm that begins."""
        begins = self.status in {None, Status.CALLED}
        since = ChainTime(head.number, head.timestamp_s) if begins else self.since
        return Alarm(self.case_id, suspected, since, self.agreed, shown=self.shown)


def new_case(account: AccountKey, head: Head) -> Case:
    """Return a case that would begin now; after a reorg at the same height, another one."""
    case_id = f"0x{account.hex()}@{head.number}-{head.hash[2:10]}"
    return Case(case_id, ChainTime(head.number, head.timestamp_s))


def taken_up(found: Recorded) -> Case:
    """Return a case as the journal has it; whether somebody touched its account was not seen."""
    since = found.suspected or ChainTime(found.opened_block, found.opened_at_s)
    case = Case(found.case_id, since, found.status, agreed=found.agreed, touched=True)
    if found.rung is not None and found.status is not Status.CALLED:
        case.rung = Rung[found.rung.upper()]
        case.taken = case.rung is Rung.DELEVERAGING
    return case


def has_taken(history: Iterable[CaseEvent], step_id: str) -> bool:
    """Tell whether a step takes something of its account, as was written when it was reserved."""
    return any(
        event.data["step_id"] == step_id and event.data.get("closes", False)
        for event in history
        if event.kind is EventKind.RESERVED
    )


def made(
    case: Case, account: AccountKey, kind: EventKind, head: Head, data: Mapping[str, object]
) -> CaseEvent:
    """Make an event and bring the case's status to where the journal's will be."""
    case.status = advance(case.status, kind)
    return CaseEvent(case.case_id, account, kind, head.number, head.timestamp_s, data)


def said(case: Case | None, account: AccountKey, decision: Wait | Refuse, head: Head) -> list[CaseEvent]:
    """Return the event of a wait or a refusal, where the rule or the feed is another than last time."""
    reason = decision.reason
    if case is None or case.status is not Status.SUSPECTED or case.said == (reason.rule, reason.feed):
        return []
    case.said = reason.rule, reason.feed
    kind = EventKind.WAITED if isinstance(decision, Wait) else EventKind.REFUSED
    data = told(reason)
    if isinstance(decision, Wait):
        data["until_block"] = decision.until_block
    return [made(case, account, kind, head, data)]


def told(reason: Reason) -> dict[str, object]:
    """Return a reason as events tell it."""
    found: dict[str, object] = {"rule": reason.rule, "evidence": reason.evidence, "bound": reason.bound}
    return {**found, "feed": reason.feed} if reason.feed else found


def unknown(found: Unknown) -> Reason:
    """Return why an account that is not known is not judged."""
    return Reason("unknown", f"{found.what}: {found.why}", "a known value")
