"""Explain one account: as plain values, and as plain words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from keeper.domain import CaseEvent, Economics, EventKind, Posture, Quote, Unknown
from keeper.errors import ChainFault, ConfigError
from keeper.journal.reader import CaseHistory, JournalReader
from keeper.lifecycle import Status, fold
from keeper.ports import BidKind, StepRecord
from keeper.replay.scene import Scene
from keeper.units import WAD, AccountKey, Block, in_figures
from keeper.why import account as stands

DONE = (EventKind.RESERVED, EventKind.SENT, EventKind.REFUSED, EventKind.WAITED)
"""What comes of a step that is due at a head."""
HELD = (EventKind.REFUSED, EventKind.WAITED)
"""What keeps it from being sent; it is journaled once, for as long as the rule is the same."""


def explain(reader: JournalReader, scene: Scene | str, text: str, block: Block | None) -> dict[str, Any]:
    """Say all that is known of an account at a block, or now.

    ``scene`` is what it is re-scored and judged from, or why there is none: then the journal alone speaks.
    Raises ConfigError where the account is unknown, or nothing at all is there to speak.
    """
    known = None if isinstance(scene, str) else scene.book
    key = stands.find(text, known, reader.accounts_with_cases())
    histories = reader.cases_of(key, block)
    said: dict[str, Any] = {"account": f"0x{key.hex()}", "cases": [_case(each) for each in histories]}
    if isinstance(scene, str):
        if not histories:
            raise ConfigError(scene)
        return {**said, "without": scene}
    said |= {"block": scene.head.number, "hash": scene.head.hash, "at_s": scene.head.timestamp_s}
    return {**said, **_now(reader, scene, key, histories)}


def _now(
    reader: JournalReader, scene: Scene, key: AccountKey, histories: list[CaseHistory]
) -> dict[str, Any]:
    """Re-score and judge an account at the head of a scene."""
    row = scene.book.exact(key)
    if isinstance(row, Unknown):
        return {"unknown": row.why}
    if scene.parts.desk.is_own(key):
        return {"own": True}
    found = stands.scored(scene, key)
    told: dict[str, Any] = {"suspect": False} if found is None else {
        "suspect": found.is_suspect, "unpriced": found.is_unknown,
        "E": None if found.is_unknown else found.equity, "M": None if found.is_unknown else found.requirement,
    }  # fmt: skip
    told |= {"rung": stands.rung(scene, key, histories), "posture": _posture(reader, scene)}
    try:
        judged, sitting = scene.judge(key)
        told |= {
            "clocks": stands.clocks(scene, sitting, row),
            "witnesses": stands.witnesses(scene, sitting, row),
            "shown": _shown(scene, key),
            "decision": _decision(scene, key, judged, histories),
        }
        if told["posture"]:
            calm, _ = replace(scene, posture=Posture()).judge(key)
            told["otherwise"] = stands.told_decision(replace(scene, posture=Posture()), calm)
        remedies = _remedies(scene, sitting, key)
    except ChainFault as fault:
        told["decision"] = {"kind": "unknown", "rule": "unknown", "evidence": str(fault), "bound": ""}
        remedies = []
    return {**told, "would_change": [*_would_change(scene, key, found, told["decision"]), *remedies]}


def _shown(scene: Scene, key: AccountKey) -> dict[str, Any] | None:
    """Return since which head the chain had shown a breach, as far as that was known; else None."""
    case = scene.past.cases.get(key)
    if case is None or case.shown is None:
        return None
    return {"block": case.shown.block, "age_s": scene.head.timestamp_s - case.shown.timestamp_s}


def _posture(reader: JournalReader, scene: Scene) -> dict[str, Any]:
    """Say how the keeper as a whole stood; nothing where it was as configured."""
    posture = scene.posture
    if posture == Posture():
        return {}
    return {
        "level": posture.level.name.lower(),
        "why": reader.level_why(scene.head.number),
        "caution": posture.caution,
        "pace": posture.pace_wad / WAD,
        "slowed": sorted(posture.slowed),
        "tripped": sorted(posture.tripped),
    }


def _decision(scene: Scene, key: AccountKey, judged: Any, histories: list[CaseHistory]) -> dict[str, Any]:
    """Say what was decided: nothing while a transaction is out. And what came of it at that head."""
    case = scene.past.cases.get(key)
    if case is not None and case.status in {Status.RESERVED, Status.IN_FLIGHT}:
        return {"kind": "in flight", "rule": "duplicate", "evidence": f"case {case.case_id} is {case.status}",
                "bound": "1 transaction an account"}  # fmt: skip
    said, events = stands.told_decision(scene, judged), histories[-1].events if histories else []
    if said["kind"] != "step":
        return said
    done = [each for each in events if each.kind in DONE and each.block == scene.head.number]
    held = [each for each in events if each.kind in HELD]
    return {**said, "done": list(map(_event, done or held[-1:]))}


def _remedies(scene: Scene, sitting: Any, key: AccountKey) -> list[dict[str, Any]]:
    """Return what brings the buffer of a margin call back, each thing by itself, to the last unit."""
    climb = scene.parts.params.climb
    call = scene.parts.desk.call(sitting, key, climb.buffer_wad)
    if call is None:
        return []
    return [
        {"what": "remedy", "buffer": climb.call.leave_health, "do": each.do.value, "of": each.of,
         "amount": str(each.amount), "decimals": each.decimals, "text": str(each)}
        for each in call.remedies
    ]  # fmt: skip


def _would_change(
    scene: Scene, key: AccountKey, found: stands.Scored | None, decision: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Say which price and which block could lead to another answer."""
    changes: list[dict[str, Any]] = []
    if decision.get("kind") == "wait":
        changes.append({"what": "block", "block": decision["until_block"]})
    if found is None or found.is_suspect:
        return changes
    return [*changes, *prices(scene, key)]


def prices(scene: Scene, key: AccountKey) -> list[dict[str, Any]]:
    """Return the prices at which an account is in breach, all others standing still, the nearest first."""
    far, sigmas = stands.far(scene, [key])
    found = []
    for place, feed in enumerate(far.feeds):
        factor, quote = float(far.factors[0, place]), scene.quotes[feed]
        if np.isfinite(factor) and isinstance(quote, Quote):
            now = quote.price_wad / WAD
            found.append({
                "what": "price", "feed": feed, "now": now, "price": now * factor, "move": factor - 1,
                "sigmas": float(sigmas[0, place]),
            })  # fmt: skip
    return sorted(found, key=lambda each: float(each["sigmas"]))


def _case(history: CaseHistory) -> dict[str, Any]:
    case = history.case
    return {
        "case_id": case.case_id,
        "status": str(fold(history.events)),
        "opened_block": case.opened_block,
        "events": [_event(event) for event in history.events],
        "steps": [_step(step) for step in history.steps],
    }


def _event(event: CaseEvent) -> dict[str, Any]:
    return {"block": event.block, "at_s": event.at_s, "kind": event.kind.value, "data": dict(event.data)}


def _step(step: StepRecord) -> dict[str, Any]:
    cost = step.outcome.gas_cost_wei if step.outcome else None
    return {
        "step_id": step.step_id, "kind": step.kind, "state": step.state.value, "nonce": step.nonce,
        "tx_hash": step.tx_hash, "reserved_block": step.reserved_block,
        "outcome_block": step.outcome.block if step.outcome else None,
        "gas_cost_wei": None if cost is None else str(cost),
    }  # fmt: skip


# --- in words ------------------------------------------------------------------------------------


def words_of(said: Mapping[str, Any]) -> Iterator[str]:
    """Tell in plain words what was explained."""
    where = f" at block {said['block']}" if "block" in said else ""
    yield f"account {said['account']}{where}"
    yield ""
    if "without" in said:
        yield f"The journal alone speaks: {said['without']}."
    elif "own" in said:
        yield "It is the keeper's own account: nothing is decided about it but what settles its options."
    elif "unknown" in said:
        yield f"Its state is not known: {said['unknown']}. What is unknown nobody acts on."
    else:
        yield from _known(said)
        yield ""
        yield from _decided(said)
        yield from map(_change, said["would_change"])
    if not said["cases"]:
        yield ""
        yield "It was never under care: the journal has no case of it."
    for case in said["cases"]:
        yield ""
        yield f"case {case['case_id']}, {case['status']}, since block {case['opened_block']}"
        yield from (f"  block {event['block']}: {_happened(event)}" for event in case["events"])


def _known(said: Mapping[str, Any]) -> Iterator[str]:
    yield "What was known"
    for clock, found in said.get("clocks", {}).items():
        yield f"  {CLOCKS.get(clock, clock)}: {_stands(found)}"
    for each in said.get("witnesses", ()):
        told = f"{in_figures(each['price'])}, {each['age_s']} s old" if "price" in each else each["unknown"]
        yield f"  {each['feed']}, {each['source']}: {told}"
    if shown := said.get("shown"):
        yield f"  The chain has shown the breach since block {shown['block']}, for {shown['age_s']} s."
    if said.get("unpriced"):
        yield "  It holds something without a price, or waits to be read: it cannot be scored."
    elif "E" in said:
        seen = "suspected" if said["suspect"] else "cleared"
        yield f"  At the trigger's prices E is {said['E']:,.2f} and M {said['M']:,.2f}: {seen}."
    yield from _stood(said["rung"], said["posture"])


def _stood(rung: Mapping[str, Any], posture: Mapping[str, Any]) -> Iterator[str]:
    """Tell where account and keeper stand on their ladders."""
    near = [] if rung["health"] is None else [f"E/M {rung['health']:.3f}"]
    near += [] if rung["sigmas"] is None else [f"a breach {max(0.0, rung['sigmas']):.1f} sigmas away"]
    yield f"  It stands on the rung {rung['rung']}{': ' if near else ''}{', '.join(near)}."
    if rung["up"]:
        yield f"    Up to {rung['up']['rung']}: {rung['up']['where']}."
    if rung["down"]:
        yield f"    Down: {rung['down']}."
    if posture:
        slower = "a preset" if posture["caution"] == 1 else f"{posture['caution']} presets"
        told = [f"confirmations {slower} slower"] if posture["caution"] else []
        told += [f"{posture['pace']:.0%} of a step"] if posture["pace"] < 1 else []
        told += [f"false alarms of {', '.join(posture['slowed'])}"] if posture["slowed"] else []
        told += [f"breaker of {', '.join(posture['tripped'])}"] if posture["tripped"] else []
        why = f" ({posture['why']})" if posture["level"] != "normal" else ""
        yield f"  The book is {posture['level']}{why}: {', '.join(told) or 'as configured'}."


def _stands(found: Any) -> str:
    if not isinstance(found, Mapping):
        return str(found)
    return ", ".join(
        f"{name} {value:,.4f}" if isinstance(value, float) else f"{name} {'none' if value is None else value}"
        for name, value in found.items()
    )


def _decided(said: Mapping[str, Any]) -> Iterator[str]:
    decision = said["decision"]
    by = f", by the policy {decision['policy']}" if decision.get("policy") else ""
    yield f"What is decided{by}"
    if "agreed" in decision:
        yield f"  The evidence agrees: {decision['agreed']}."
    yield from (f"  {line}" for line in _answer(decision, suspect=said["suspect"]))
    for event in decision.get("done", ()):
        yield f"  Then, block {event['block']}: {_happened(event)}."
    otherwise = said.get("otherwise")
    if otherwise is not None and _gist(otherwise) != _gist(decision):
        [first, *_] = _answer(otherwise, suspect=said["suspect"])
        yield f"  At the level normal it would be otherwise. {first}"


def _gist(decision: Mapping[str, Any]) -> tuple[Any, ...]:
    return decision["kind"], decision.get("rule"), decision.get("steps")


def _answer(decision: Mapping[str, Any], *, suspect: bool) -> Iterator[str]:
    kind = decision["kind"]
    if kind == "step":
        for step in decision["steps"]:
            worth = f"notional {step['notional']:,.2f}, profit {step['expected_profit']:,.2f}"
            yield f"Due: {step['act']}, {worth}{_made(step)}."
    elif kind == "wait":
        yield f"Wait until block {decision['until_block']}, by {_reason(decision)}."
    elif kind == "nothing":
        why = "no clock asks for an act" if suspect or decision["cared"] else "the trigger clears it"
        yield f"Nothing: {why}."
    elif kind == "in flight":
        yield f"Nothing more until the outcome: {decision['evidence']}."
    else:
        yield f"{kind.capitalize()}, by {_reason(decision)}."


def _made(step: Mapping[str, Any]) -> str:
    """Tell what made a step as large as it is, and what it should bring."""
    economics, bounds = step.get("economics"), step.get("bounds") or ()
    told = f"; {economics}" if isinstance(economics, str) else ""
    return told + "".join(f"; no more by {_reason(each)}" for each in bounds)


def _reason(found: Mapping[str, Any]) -> str:
    bound = f", asked for {found['bound']}" if found.get("bound") else ""
    return f"{found.get('rule')}: {found.get('evidence')}{bound}"


def _change(change: Mapping[str, Any]) -> str:
    if change["what"] == "price":
        far = f"{change['move']:+.2%}, {change['sigmas']:.1f} sigmas of a day"
        price, now = in_figures(change["price"]), in_figures(change["now"])
        return f"  Another answer at {change['feed']} {price} ({far}; now {now})."
    if change["what"] == "remedy":
        return f"  Its buffer, a health of {change['buffer']:g}, is back with: {change['text']}."
    return f"  Ask again at block {change['block']}."


def _happened(event: Mapping[str, Any]) -> str:
    """Tell one event, of whatever kind."""
    kind, data = event["kind"], event["data"]
    teller = TELLERS.get(kind)
    if teller is not None:
        return teller(data) + _left(data)
    if "rule" in data:
        until = f"; again at block {data['until_block']}" if "until_block" in data else ""
        return f"{kind.lower()} by {_reason(data)}{until}{_left(data)}"
    shown = {
        name: value
        for name, value in data.items()
        if not isinstance(value, dict | list | tuple) and value is not None
    }
    told = ", ".join(f"{name} {_short(value)}" for name, value in shown.items() if name != "step_id")
    return f"{kind.lower()}{': ' if told else ''}{told}{_left(data)}"


def _called(data: Mapping[str, Any]) -> str:
    by_s = data["by_s"]
    by = "" if by_s is None else f", by {datetime.fromtimestamp(by_s, UTC):%Y-%m-%d %H:%M} UTC"
    health = "unknown" if data["health"] is None else f"{data['health']:.4f}"
    ended = f"; the alarm ended by {_reason(data)}" if "rule" in data else ""
    return f"called: health {health}, buffer {data['buffer']:g}: {data['text']}{by}{ended}"


def _reserved(data: Mapping[str, Any]) -> str:
    told = f"reserved {data['kind']} with nonce {data['nonce']}"
    if agreed := data.get("agreed"):
        told += f", agreed by the policy {agreed['policy']}: {agreed['evidence']}"
    if economics := data.get("economics"):
        told += f"; {Economics(**economics)}"
    return told + _made({"bounds": data.get("bounds")})


def _sent(data: Mapping[str, Any]) -> str:
    return f"sent with nonce {data['nonce']}, transaction {data['tx_hash']}: {data.get('answer', 'again')}"


def _included(data: Mapping[str, Any]) -> str:
    worth_wad, profit_wad = data.get("worth_wad"), data.get("profit_wad")
    brought = f", brought {int(worth_wad) / WAD:,.2f} in quote" if worth_wad else ""
    left = f", {int(profit_wad) / WAD:,.2f} after gas" if brought and profit_wad is not None else ""
    return f"{data['kind']} included, transaction {data['tx_hash']}, gas {_gas(data)}{brought}{left}"


def _reverted(data: Mapping[str, Any]) -> str:
    why = f"; by {data['why']}" if data.get("why") else ""
    return f"{data['kind']} reverted, transaction {data['tx_hash']}, gas {_gas(data)}{why}{_lost(data)}"


def _displaced(data: Mapping[str, Any]) -> str:
    by = "its own cancel" if data.get("bid") == BidKind.CANCEL else "another transaction of the wallet"
    return f"{data['kind']} displaced by {by}, transaction {data['tx_hash']}, gas {_gas(data)}{_lost(data)}"


def _lost(data: Mapping[str, Any]) -> str:
    """Tell who was before a step that came too late."""
    if not (lost := data.get("lost_to")):
        return ""
    return f"; race lost to {lost['act']}, block {lost['block']}, transaction {lost['tx_hash']}"


def _gas(data: Mapping[str, Any]) -> str:
    gas_wad = data.get("gas_wad")
    worth = "" if gas_wad is None else f" ({int(gas_wad) / WAD:,.2f} in quote)"
    return f"{int(data['gas_cost_wei']) / WAD:.6f} of the native currency{worth}"


def _moved(data: Mapping[str, Any]) -> str:
    health = "unknown" if data["health"] is None else f"{data['health']:.4f}"
    return f"came to the rung {data['rung']}, phase {data['phase']}, health {health}"


def _observed(data: Mapping[str, Any]) -> str:
    if data.get("act") == "Dropped":
        return f"Dropped: bid {data['bid']} for step {data['step_id']} never went out, {_reason(data)}"
    if "bid" in data:
        return f"{data['act']}: bid {data['bid']} for step {data['step_id']}, {data['max_fee_wei']} wei a gas"
    if "tx_hash" not in data:
        # As an older keeper wrote down what it rested on.
        return f"agreed: {data.get('evidence', '')}"
    return f"the chain shows {data['act']}, transaction {data['tx_hash']}"


def _left(data: Mapping[str, Any]) -> str:
    """Tell what was left to others, and why."""
    left = data.get("left_to_others")
    if not left:
        return ""
    did = f"{left['act']}, block {left['block']}, transaction {left['tx_hash']}"
    return f"; left to others ({did}), held back by {_reason(left)}"


TELLERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "Called": _called,
    "Reserved": _reserved,
    "Sent": _sent,
    "Included": _included,
    "Reverted": _reverted,
    "Displaced": _displaced,
    "Moved": _moved,
    "Observed": _observed,
}
CLOCKS = {"fast": "at the fast price", "slow": "at the slow price", "execution": "at the execution price",
          "chain": "at the protocol's own price"}  # fmt: skip


def _short(value: Any) -> str:
    return f"{value:,.4f}" if isinstance(value, float) else str(value)
