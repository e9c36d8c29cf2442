"""What a run of the steward has found, for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from keeper.domain import Refuse
from keeper.risk.parameters import Estimate
from keeper.risk.prices import span
from keeper.steward.margins import Effect, Findings, Proposal, health
from keeper.units import WAD

DECIDES = {"floor": "the long run", "scan": "the joint loss", "shortfall": "the shortfall, in part stressed"}
"""By the names of `dynamic.requirement`."""
AS_IT_SHOULD_BE = frozenset({"margins.unchanged", "margins.too_soon", "margins.not_newer"})
"""Rules by which nothing is published where nothing is to be."""


def is_amiss(found: Findings) -> bool:
    """Tell whether an underlying was refused for another reason than that all is as it should be."""
    refused = [each.outcome for each in found.proposals if isinstance(each.outcome, Refuse)]
    return any(refusal.reason.rule not in AS_IT_SHOULD_BE for refusal in refused)


def as_data(found: Findings, top: int) -> dict[str, Any]:
    """Say it all as JSON has it: margins and health as fractions, amounts in quote, endless ones as null."""
    return {
        "block": found.at.number,
        "at_s": found.at.timestamp_s,
        "steward": found.stewardship.address,
        "underlyings": {each.feed: _underlying(each) for each in found.proposals},
        "accounts": {
            **_counts(found),
            "nearest": [_account(each) for each in nearer(found.effects)[:top]],
        },
    }


def lines(found: Findings, horizon_s: int) -> Iterator[str]:
    """Say what becomes of each underlying, and why; then what becomes of the accounts."""
    for each in found.proposals:
        yield from _said(each, horizon_s)
    counts = _counts(found)
    told = f"{counts['with_positions']} accounts hold positions, {counts['in_breach']} are in breach"
    yield f"{told}; {counts['nearer']} come nearer, {counts['breached_by_it']} would breach by margins alone"
    if found.left_out:
        yield f"{found.left_out} more cannot be judged, for want of a price, and are left out"


def nearer(effects: tuple[Effect, ...]) -> list[Effect]:
    """Return those whose requirement rises, the nearest to breach first."""
    return [each for each in effects if each.comes_nearer]


def _counts(found: Findings) -> dict[str, int]:
    return {
        "with_positions": len(found.effects),
        "nearer": len(nearer(found.effects)),
        "breached_by_it": sum(each.breaks for each in found.effects),
        "in_breach": sum(each.now.breaches() for each in found.effects),
        "left_out": found.left_out,
    }


def _underlying(said: Proposal) -> dict[str, Any]:
    told: dict[str, Any] = {
        "today": _today(said),
        "ramps_to": {"mmr": said.terms.mmr.to_wad / WAD, "imr": said.terms.imr.to_wad / WAD},
        "estimate": _estimate(said.found) if said.found else None,
        "estimate_at_last_change": _estimate(said.before) if said.before else None,
        "held": list(said.held),
    }
    if isinstance(said.outcome, Refuse):
        reason = said.outcome.reason
        return told | {"refused": {"rule": reason.rule, "found": reason.evidence, "bound": reason.bound}}
    change = said.outcome
    margins = {"mmr": change.mmr_wad / WAD, "imr": change.imr_wad / WAD, "ramp_s": change.duration_s}
    return told | {"change": margins}


def _estimate(found: Estimate) -> dict[str, Any]:
    return asdict(found) | {"error": _finite(found.error)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _account(effect: Effect) -> dict[str, Any]:
    return {
        "account": f"0x{effect.account.hex()}",
        "health": _finite(health(effect.now)),
        "health_then": _finite(health(effect.then)),
        "requirement": effect.now.requirement_wad / WAD,
        "requirement_then": effect.then.requirement_wad / WAD,
        "equity": effect.now.equity_wad / WAD,
    }


def _said(said: Proposal, horizon_s: int) -> Iterator[str]:
    today = _today(said)
    if isinstance(said.outcome, Refuse):
        yield f"{said.feed}: mmr {today['mmr']:.2%} and imr {today['imr']:.2%} stay: {said.outcome.reason}"
    else:
        change = said.outcome
        yield (
            f"{said.feed}: mmr {today['mmr']:.2%} → {change.mmr_wad / WAD:.2%}, "
            f"imr {today['imr']:.2%} → {change.imr_wad / WAD:.2%}, along {span(change.duration_s)}"
        )
    for name, ramp in (("mmr", said.terms.mmr), ("imr", said.terms.imr)):
        if said.at_s < ramp.end_s:
            yield f"  {name} is on its way to {ramp.to_wad / WAD:.2%}"
    if said.found:
        yield from _why(said.found, said.before, horizon_s)
    yield from (f"  held back: {each}" for each in said.held)


def _why(found: Estimate, before: Estimate | None, horizon_s: int) -> Iterator[str]:
    moved = f"from {before.volatility:.1%} at the last change to" if before else "of"
    yield f"  a volatility {moved} {found.volatility:.1%} a year"
    joint = f", {found.joint:.2%} with {found.joint_with} as it loses its own" if found.joint_with else ""
    yield (
        f"  lost in {span(horizon_s)}, expected beyond the quantile: {found.shortfall:.2%} now, "
        f"{found.stressed:.2%} at the highest volatility, {found.long_run:.2%} in the long run{joint}"
    )
    buffer = f", with a buffer of {found.buffer:.0%}" if found.buffer else ""
    cost = f", {found.liquidity:.2%} of that for closing the largest position" if found.liquidity else ""
    margins = f"mmr {found.maintenance:.2%}, imr {found.initial:.2%}{cost}"
    yield f"  decided by {DECIDES[found.binding]}{buffer}: {margins}"


def _today(said: Proposal) -> dict[str, float]:
    return {"mmr": said.terms.mmr.at(said.at_s) / WAD, "imr": said.terms.imr.at(said.at_s) / WAD}
