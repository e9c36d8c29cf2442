"""What is told of a margin call, and what people hear of a case, in one line each."""

from __future__ import annotations

from datetime import UTC, datetime

from keeper.desk.port import MarginCall
from keeper.domain import CaseEvent, EventKind, Head
from keeper.ladder import Rung
from keeper.ports import Notice

QUIET = frozenset({"healthy", "converting"})
"""Phases in which whom no price makes suspect is under care for upkeep alone."""


DAY_S = 86_400
NO_MOVE = 1_000.0
"""Standard deviations from which on no date is told: their square in days is some thousand years."""


def told_call(call: MarginCall, buffer: float, sigmas: float, head: Head) -> dict[str, object]:
    """Return what the event of a margin call says, ``notice_of`` among its readers."""
    has_date = sigmas < NO_MOVE
    return {
        "health": call.health,
        "buffer": buffer,
        "sigmas": round(sigmas, 3) if has_date else None,
        "by_s": head.timestamp_s + int(sigmas * sigmas * DAY_S) if has_date else None,
        "remedies": [
            {"do": each.do.value, "of": each.of, "amount": each.amount, "decimals": each.decimals}
            for each in call.remedies
        ],
        "text": ", or ".join(map(str, call.remedies)),
    }


def notice_of(event: CaseEvent) -> Notice | None:
    """Return what is told of an event; None of one that is only for the journal."""
    account, data = f"0x{event.account.hex()}", event.data
    if event.kind is EventKind.CALLED:
        by_s = data["by_s"]
        by = f", by {datetime.fromtimestamp(by_s, UTC):%Y-%m-%d %H:%M} UTC" if by_s is not None else ""
        text = f"margin call: health {_health(data)}, buffer {data['buffer']:g}: {data['text']}{by}"
        return Notice(account, Rung.MARGIN_CALL.label, f"{account} {text}")
    if event.kind is EventKind.SUSPECTED and (data["score"] is not None or data["phase"] not in QUIET):
        return Notice(account, Rung.SUSPECTED.label, f"{account} suspected: health {_health(data)}")
    if event.kind is EventKind.MOVED:
        rung = Rung[data["rung"].upper()]
        what = "bad debt: its equity is gone" if rung is Rung.BACKSTOP else rung.label
        return Notice(account, rung.label, f"{account} {what}, health {_health(data)}")
    if event.kind is EventKind.CLOSED:
        return Notice(account, Rung.CLOSED.label, f"{account} closed: {data['phase']}", recovered=True)
    return None


def _health(data: object) -> str:
    health = data.get("health") if isinstance(data, dict) else None
    return "unknown" if health is None else f"{health:.4f}"
